"""What a click on a button would measure, and how much of it is known already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..core.allocation import Split
from ..core.curves import alike, all_splits, curves, levels_between
from ..core.errors import UserError
from ..core.memory import UNTOUCHED
from ..core.orderings import ALIKE, LEVEL_SCORERS, ORDERINGS, SCORERS
from ..core.store import Store
from ..engine.banks.packing_cost import why_not_packed
from ..engine.quantizers import QUANTIZERS, Quantizer
from .comparison.contenders import (
    alike_contenders,
    nothing_between,
    order_contenders,
    quantizer_contenders,
    why_left_out,
)
from .situation import BY_QUANTIZER, Situation
from .wording import plain_title


@dataclass(frozen=True)
class Plan:
    """The splits to measure, by quantizer, and a sentence for what is left out."""

    splits: Mapping[Quantizer, Sequence[Split]]
    left_out: tuple[str, ...] = ()


def sweep_plan(s: Situation) -> Plan:
    """Returns what to sweep with the chosen quantizer and the others asked for, as far as the
    orders are known yet. Raises UserError where there is nothing to sweep."""
    c, levels = s.controls, s.sweep_levels
    scores = s.session.scores_at(s.sweep_level)
    values = {name: scored.values for name, scored in scores.items()}
    if not c.orderings:
        raise UserError("Choose at least one order to sweep.")
    if why := why_left_out(c.quantizer, levels):
        raise UserError(f"{why} Choose other levels.")
    ranked = [o for o in c.orderings if o != ALIKE]
    rankable = [o for o in ranked if ORDERINGS[o].scorer in (None, *values)]
    lines = curves(rankable, values, s.info.num_layers, levels, c.stride)
    plans, left_out, uniform = {}, [], False
    also = (QUANTIZERS[family].on_text(c.calibration) for family in c.also)
    for q in dict.fromkeys([c.quantizer, *also]):
        if why := why_left_out(q, levels):
            left_out.append(why)
            continue
        between = [levels[0], levels[-1]]
        if ALIKE in c.orderings and len(levels) == 2:
            between = levels_between(q.levels, *levels)
            uniform |= len(between) > 2
        # Every other level of a calibrated quantizer would be one more calibration.
        others = levels if q.calibrated else q.levels
        line = alike([UNTOUCHED, *others, *between], s.info.num_layers)
        plans[q] = all_splits([line, *lines])
    if ALIKE in c.orderings and not uniform:
        why = nothing_between(s)
        if not ranked:
            raise UserError(why)
        left_out.append(why)
    return Plan(plans, tuple(left_out))


def comparison_plan(s: Situation) -> Plan:
    """Returns what to measure for “Does it matter?”. Raises UserError as the contenders do."""
    plans: dict[Quantizer, list[Split]] = {}
    left_out: list[str] = []
    if s.controls.compared == ALIKE:
        contenders = [c for pair in alike_contenders(s) for c in pair]
    elif s.controls.compared == BY_QUANTIZER:
        contenders, left_out = quantizer_contenders(s)
    else:
        contenders = order_contenders(s)
    for c in contenders:
        plans.setdefault(c.quantizer, []).append(c.split)
    return Plan(plans, tuple(left_out))


def lacking(
    s: Situation, quantizer: Quantizer, splits: Sequence[Split], tasks: Sequence[str]
) -> list[Split]:
    """Returns the splits that are not measured yet on all of these tasks."""
    measured = s.measured(quantizer)
    return [split for split in splits if any((task, split) not in measured for task in tasks)]


def feasible(s: Situation, plan: Plan, tasks: Sequence[str], store: Store) -> Plan:
    """Returns the plan without the quantizers that cannot pack here what is still to measure.
    Raises UserError where the chosen one, which comes first, is among them."""
    plans, left_out = {}, [*plan.left_out]
    for q, splits in plan.splits.items():
        why = why_not_packed(s.info, q, lacking(s, q, splits, tasks), store)
        if not why:
            plans[q] = splits
        elif q == next(iter(plan.splits)):
            raise UserError(why)
        else:
            left_out.append(f"{plain_title(q)} is left out. {why}")
    return Plan(plans, tuple(left_out))


def lacking_level_scorers(s: Situation) -> list[str]:
    """Returns the scorers of a level that the chosen orders need and nobody measured yet."""
    scorers = {ORDERINGS[name].scorer for name in s.controls.orderings if name != ALIKE}
    measured = s.session.scores_at(s.sweep_level)
    return [name for name in LEVEL_SCORERS if name in scorers and name not in measured]


def count_text(s: Situation, store: Store) -> str:
    """Returns how much there is to sweep, in words, before anything is computed. Raises UserError
    where there is nothing."""
    tasks = s.chosen_tasks()
    plan = feasible(s, sweep_plan(s), tasks, store)
    untouched = (UNTOUCHED,) * s.info.num_layers
    count, done = 0, 0
    for k, (q, splits) in enumerate(plan.splits.items()):
        measured = s.measured(q)
        new = [split for split in splits if k == 0 or split != untouched]
        count += len(new)
        done += sum((task, split) in measured for task in tasks for split in new)
    by = f" by {len(plan.splits)} quantizers" * (len(plan.splits) > 1)
    sentences = [f"{count} splits{by} on {len(tasks)} task{'s' * (len(tasks) > 1)}."]
    total = count * len(tasks)
    if done:
        share = done if done < total else "All"
        sentences.append(f"{share} of these {total} figures are known already.")
    if scorers := lacking_level_scorers(s):
        names = " and ".join(SCORERS[name].title for name in scorers)
        title = s.quantizer.level_title(s.sweep_level[1])
        sentences.append(f"{names} at {title} is measured first.")
    return " ".join([*sentences, *plan.left_out])
