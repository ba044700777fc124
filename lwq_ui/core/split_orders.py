"""Which orderings give a split: a split knows only its levels, and two of the same average look the
same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from .allocation import Split
from .memory import PRUNED
from .orderings import ORDERINGS, ordering_title, rank_layers

SEEDS_TRIED = 20


def orders_of(
    splits: Iterable[Split], values: Mapping[str, Sequence[float]], seed: int
) -> dict[Split, str | None]:
    """Returns the titles of all orderings that give each split: 'LIM = ZD = Random 0'.

    Of seeded orderings, the seeds of the sweeps and the chosen `seed` count. Another one of the
    first 20 is named where nothing else gives the split. A split has None where no ordering gives
    it, as with pins, and where all do. `values` are the scores by scorer, one per layer.
    """
    distinct = list(dict.fromkeys(splits))
    n = len(distinct[0]) if distinct else 0
    usual, rare = FirstLayers(n), FirstLayers(n)
    for o in ORDERINGS.values():
        if o.ranks_as or (o.scorer and o.scorer not in values):
            continue
        for s in dict.fromkeys((seed, *range(SEEDS_TRIED))) if o.seeded else (0,):
            orderings = usual if s in (seed, *o.seeds) else rare
            orderings.add(ordering_title(o.name, s), o.prunes, rank_layers(o.name, values, n, s))
    return {
        split: " = ".join(usual.titles_of(split) or rare.titles_of(split)[:1]) or None
        for split in distinct
    }


class FirstLayers:
    """Orderings by the layers that they put first.

    A split follows an ordering where, for each of its levels, the layers at that level or above are
    the ordering's first. Sets of layers are bits of an int.
    """

    def __init__(self, num_layers: int) -> None:
        self.num_layers = num_layers
        self.titles: dict[tuple[bool, int], list[str]] = {}

    def add(self, title: str, prunes: bool, ranked: Sequence[int]) -> None:
        first = 0
        for layer in ranked:
            first |= 1 << layer
            self.titles.setdefault((prunes, first), []).append(title)

    def titles_of(self, split: Split) -> list[str]:
        prunes, levels = PRUNED in split, sorted(set(split))
        if len(levels) == 1:
            return []
        by_level = []
        for level in levels[1:]:
            first = sum(1 << layer for layer, present in enumerate(split) if present >= level)
            by_level.append(self.titles.get((prunes, first), []))
        return [t for t in by_level[0] if all(t in others for others in by_level[1:])]
