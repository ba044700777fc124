"""The measured splits that lie on no line, sorted by how the chart shows them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ...core.allocation import Split
from ...core.orderings import ORDERINGS
from ...core.schema import Evaluation
from .data import ChartData
from .lines import DrawnLine
from .styles import MARKS, NO_ORDER, Look, look_of, mark_of


@dataclass(frozen=True)
class Singles:
    """Splits on no line. `uniform` have one level, `mixed` ones belong to the chart's levels, and
    the `rest`, of other levels or quantizers, is hidden at first. `orderings` holds the first
    ordering that gives a split, `steps` its place where layers are counted."""

    uniform: Sequence[Evaluation]
    mixed: Sequence[Evaluation]
    rest: Sequence[Evaluation]
    orderings: Mapping[Split, str]
    steps: Mapping[Split, int]

    @property
    def shown(self) -> list[Evaluation]:
        return [*self.uniform, *self.mixed]


@dataclass(frozen=True)
class Group:
    """Single splits that are one trace and one button of the legend."""

    uid: str
    name: str
    look: Look
    evaluations: Sequence[Evaluation]


def sorted_singles(data: ChartData, lines: Sequence[DrawnLine]) -> Singles:
    curves, own = data.model.curves, data.own
    on_lines = {
        (e.split, e.quantizer, e.limit)
        for d in lines
        if not d.theirs
        for point in d.points
        for e in point.evaluations
    }
    singles = [e for e in data.evaluations if (e.split, e.quantizer, e.limit) not in on_lines]
    steps: dict[Split, int] = {}
    if data.raised:  # the one axis has a place for these only
        steps = {split: k for c in curves if c.constant for k, split in enumerate(c.splits)}
        singles = [e for e in singles if e.split in steps and e.quantizer in own]
    chosen_first = sorted(curves, key=lambda c: c.ordering != data.ordering)
    orderings = {split: c.ordering for c in reversed(chosen_first) for split in c.splits}
    uniform: list[Evaluation] = []
    mixed: list[Evaluation] = []
    rest: list[Evaluation] = []
    for e in singles:
        on_curve = e.split in orderings and data.levels.issuperset(e.split)
        if len(set(e.split)) == 1:
            # A ruin of another pair's levels would take the room of what is of use.
            ruin = e.split[0] not in data.levels and data.is_lost(e)
            if e.quantizer in own:
                (rest if ruin else uniform).append(e)
        elif e.quantizer in own and (e.split == data.current or not curves or on_curve):
            mixed.append(e)
        else:
            rest.append(e)
    return Singles(uniform, mixed, rest, orderings, steps)


def groups_of(singles: Singles) -> Iterator[Group]:
    """Yields the uniform splits by level, then the mixed ones by ordering."""
    for name, look in MARKS.items():
        if group := [e for e in singles.uniform if mark_of(e.split) == name]:
            yield Group(name.replace(" ", "-"), name, look, group)
    ordering_of = singles.orderings.get
    for name, ordering in ORDERINGS.items():
        if group := [e for e in singles.mixed if ordering_of(e.split) == name]:
            title = f"{ordering.title}, single splits"
            yield Group(f"single-{name}", title, look_of(name), group)
    if group := [e for e in singles.mixed if e.split not in singles.orderings]:
        yield Group("no-order", NO_ORDER, MARKS[NO_ORDER], group)
