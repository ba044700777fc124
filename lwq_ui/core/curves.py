"""Curves: the splits of an ordering, from all layers at the high level down (paper section 5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .allocation import Split
from .memory import PRUNED
from .orderings import ALIKE, ORDERINGS, Values, ordering_named, ordering_title, rank_layers

THREE_LEVELS = (8, 4, 2)  # appendix A.2


@dataclass(frozen=True)
class Curve:
    """Every split of one ordering, or of ALIKE, from all layers at the high level down.

    Only `quantizer` has the levels of these splits. Where it is empty, all quantizers have them.
    """

    ordering: str
    seed: int
    splits: tuple[Split, ...]
    quantizer: str = ""

    @property
    def title(self) -> str:
        return ordering_title(self.ordering, self.seed)

    @property
    def seeded(self) -> bool:
        """Whether another seed gives another curve. That of ALIKE has no seeds."""
        return self.ordering != ALIKE and ORDERINGS[self.ordering].seeded

    @property
    def constant(self) -> bool:
        """Whether all splits have the same average bits, as those of three levels have. False for a
        single split, such as of pruning where one layer is too much."""
        return len(self.splits) > 1 and len({round(sum(split), 6) for split in self.splits}) == 1


def curve(
    ordering: str,
    scores: Mapping[str, Values],
    num_layers: int,
    levels: Sequence[float],
    seed: int = 0,
    stride: int = 1,
) -> Curve:
    """Returns every `stride`-th split of an ordering, and the last one.

    - Two levels (high, low): step k has the k least important layers at the low level.
    - Three levels (appendix A.2): step k has the k most important layers at the first level, and
      the 2k least important at the last. With 8, 4 and 2 bits the average stays 4.
    - An ordering that prunes leaves k layers out. It ends where two levels would have the same
      average bits.

    Raises UserError where the ordering is unknown or its scores are missing.
    """
    ranked = rank_layers(ordering, scores, num_layers, seed)
    if ORDERINGS[ordering].prunes:
        high, low = levels[-2:]
        most = int(num_layers * (high - low) / high)
        steps = [with_levels(ranked, high, {PRUNED: k}) for k in range(most + 1)]
    elif len(levels) == 3:
        top, middle, low = levels
        steps = [
            with_levels(ranked, middle, {low: 2 * k}, top, k) for k in range(num_layers // 3 + 1)
        ]
    else:
        high, low = levels
        steps = [with_levels(ranked, high, {low: k}) for k in range(num_layers + 1)]
    chosen = sorted({*range(0, len(steps), stride), len(steps) - 1})
    return Curve(ordering, seed, tuple(steps[k] for k in chosen))


def with_levels(
    ranked: Sequence[int], level: float, least: Mapping[float, int], top: float = 0, most: int = 0
) -> Split:
    """Returns a split whose layers are at `level`, with two exceptions: the last of `ranked` are at
    the levels of `least` (level -> how many), the first `most` at `top`."""
    split = [level] * len(ranked)
    for low, count in least.items():
        for layer in ranked[len(ranked) - count :]:
            split[layer] = low
    for layer in ranked[:most]:
        split[layer] = top
    return tuple(split)


def curves(
    orderings: Sequence[str],
    scores: Mapping[str, Values],
    num_layers: int,
    levels: Sequence[float],
    stride: int = 1,
) -> list[Curve]:
    """Returns one curve per ordering, and one per seed of a seeded one. Raises as `curve` does."""
    return [
        curve(name, scores, num_layers, levels, seed, stride)
        for name in orderings
        for seed in ordering_named(name).seeds
    ]


def levels_between(levels: Sequence[float], high: float, low: float) -> list[float]:
    """Returns a quantizer's levels from the high one down to the low one, both included. Returns
    none where the quantizer lacks one of these two."""
    between = sorted((level for level in levels if low <= level <= high), reverse=True)
    return between if {high, low} <= set(between) else []


def alike(levels: Sequence[float], num_layers: int, quantizer: str = "") -> Curve:
    """Returns the splits of one level in every layer, from the highest of `levels` down. A mix of
    the two outermost levels has to beat them (paper, table 3)."""
    ranked = sorted(set(levels), reverse=True)
    return Curve(ALIKE, 0, tuple((level,) * num_layers for level in ranked), quantizer)


def all_splits(curves: Sequence[Curve]) -> list[Split]:
    """Returns the splits of all curves, each once: orderings share both ends."""
    return list(dict.fromkeys(split for curve in curves for split in curve.splits))
