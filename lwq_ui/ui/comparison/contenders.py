"""What is compared: the splits that every ordering, or every quantizer, makes of one budget, and
mixes beside one level in every layer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ...core.allocation import Split, breakpoints
from ...core.cost import model_cost
from ...core.curves import levels_between
from ...core.errors import UserError
from ...core.memory import average_bits, format_gib
from ...core.orderings import ORDERINGS, ordering_title
from ...engine.quantizers import DEFAULT_QUANTIZER, QUANTIZERS, Quantizer
from ..situation import Situation
from ..wording import plain_title


@dataclass(frozen=True)
class Contender:
    """What one ordering or quantizer makes of the budget. It is `seeded` where the order is one of
    those that nothing ranks."""

    title: str
    split: Split
    bytes: int
    seeded: bool = False
    quantizer: Quantizer = DEFAULT_QUANTIZER

    @property
    def size_text(self) -> str:
        return f"{average_bits(self.split):.2f} bits on average, {format_gib(self.bytes)}"


def order_contenders(s: Situation) -> list[Contender]:
    """Returns the chosen ordering first, then every other one that could spend the same budget on
    the same pins. Raises UserError where the budget is too small."""
    choice = s.choice.with_budget(s.budget)
    others = [
        (o.name, seed)
        for o in ORDERINGS.values()
        if (o.scorer is None or o.scorer in s.scores) and not (o.prunes or o.ranks_as)
        for seed in o.seeds
    ]
    own_seed = choice.seed if ORDERINGS[choice.ordering].seeded else 0
    contenders = []
    for name, seed in dict.fromkeys([(choice.ordering, own_seed), *others]):
        split = choice.with_order(name, seed).split
        title, size = ordering_title(name, seed), choice.cost.total(split)
        seeded = ORDERINGS[name].seeded
        contenders.append(Contender(title, split, size, seeded, s.controls.quantizer))
    return contenders


def quantizer_contenders(s: Situation) -> tuple[list[Contender], list[str]]:
    """Returns what the chosen ordering makes with every quantizer of the same bytes: those that its
    split takes with the chosen one, which comes first. A sentence follows for each quantizer that
    cannot take part. Scores measured at a level are those of the chosen quantizer.

    Raises UserError where the budget is too small.
    """
    choice, chosen = s.choice, s.controls.quantizer
    split = s.split
    size = choice.cost.total(split)
    contenders = [Contender(plain_title(chosen), split, size, quantizer=chosen)]
    left_out = []
    for q in (q.on_text(s.controls.calibration) for q in QUANTIZERS.values()):
        if q == chosen:
            continue
        if why := why_left_out(q, choice.levels):
            left_out.append(why)
            continue
        try:
            table = breakpoints(model_cost(s.info, q), choice.levels, choice.ranked, choice.pins)
            position = table.position(size)
        except UserError as e:
            left_out.append(f"{plain_title(q)} is left out. {e}")
            continue
        size_at, split_at = table.bytes[position], table.split(position)
        contenders.append(Contender(plain_title(q), split_at, size_at, quantizer=q))
    return contenders, left_out


def why_left_out(quantizer: Quantizer, levels: Iterable[float]) -> str:
    """Returns why a quantizer cannot take part at these levels; empty where it can."""
    without = set(levels) - set(quantizer.levels)
    bits = " and ".join(f"{level:g}" for level in sorted(without, reverse=True))
    return f"{plain_title(quantizer)} is left out: it has no {bits} bits." if without else ""


def alike_contenders(s: Situation) -> list[tuple[Contender, Contender]]:
    """Returns two contenders for each level between the high and the low one (paper, table 3).

    The first has all layers at it. The second is the largest mix of high and low by the chosen
    ordering that has no more average bits and takes no more bytes. Pins are left aside. Raises
    UserError where there is no level in between.
    """
    choice, chosen = s.choice, s.controls.quantizer
    inner = levels_between(chosen.levels, *choice.levels)[1:-1]
    if not inner:
        raise UserError(nothing_between(s))
    table = breakpoints(choice.cost, choice.levels, choice.ranked)
    title = ordering_title(choice.ordering, choice.seed)
    pairs = []
    for level in inner:
        fixed = (level,) * s.info.num_layers
        size = choice.cost.total(fixed)
        position = min(table.position(size), table.position_for_average_bits(level))
        pairs.append(
            (
                Contender(chosen.level_title(level), fixed, size, quantizer=chosen),
                Contender(title, table.split(position), table.bytes[position], quantizer=chosen),
            )
        )
    return pairs


def nothing_between(s: Situation) -> str:
    """Returns why there is no level to compare mixes with, and which levels would have one."""
    chosen, (high, low) = s.controls.quantizer, s.controls.levels
    sentence = (
        f"{plain_title(chosen)} has no level between {high:g} and {low:g} bits, which all "
        "layers could have."
    )
    others = [p for p in chosen.pairs if len(levels_between(chosen.levels, *p)) > 2]
    if others:
        sentence += f" Choose {chosen.pair_title(others[0])} as the high and the low level."
    return sentence
