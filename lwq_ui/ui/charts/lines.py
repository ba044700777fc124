"""Which lines a chart has, and how each is named and looks."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ...core.lines import Line, Point, measured_lines
from ..wording import quantizer_title, ranked_quantizers
from .data import ChartData, ModelResults
from .estimates import Estimates
from .styles import Look, dashes_of, look_of


@dataclass(frozen=True)
class DrawnLine:
    """A line as the chart names it. `theirs` says that it is the second model's. `reach` is how far
    its band reaches at each point, None where that is not known."""

    line: Line
    model: ModelResults
    estimates: Estimates
    theirs: bool
    title: str
    look: Look
    dash: str
    reach: tuple[float | None, ...]

    @property
    def ordering(self) -> str:
        return self.line.orderings[0]

    @property
    def points(self) -> Sequence[Point]:
        return self.line.points

    @property
    def quantizer(self) -> str:
        return self.line.quantizer

    @property
    def seeded(self) -> bool:
        return self.line.curves[0].seeded

    @property
    def uid(self) -> str:
        """It survives updates, so that a line that the user has hidden stays hidden."""
        return "-".join(["theirs"] * self.theirs + [self.quantizer, self.ordering])

    def size(self, point: Point) -> int:
        """Returns the bytes of the whole model at the point."""
        return self.model.size(self.quantizer, point.split)


def drawn_lines(data: ChartData) -> list[DrawnLine]:
    """Returns the lines, the model's own before the other's and the chosen quantizer's first.

    The chosen quantizer is named only where lines of others show at once beside it. The number of
    items is named only where it differs.
    """
    measured: list[tuple[Line, ModelResults, Estimates]] = []
    for model in data.models:
        evaluations = model.of_metric(data.chosen)
        estimates = Estimates(evaluations, data.metric)
        lines = measured_lines(evaluations, data.metric, model.curves)
        measured += [(line, model, estimates) for line in lines]
    names = {line.quantizer for line, *_ in measured}
    ranked = [data.quantizer, *ranked_quantizers(names - {data.quantizer})]
    measured.sort(key=lambda one: (one[1] is data.other, ranked.index(one[0].quantizer)))
    dashes, named = dashes_of(ranked), named_quantizers(data, names)
    several = len({e.limit for e in data.evaluations}) > 1
    drawn = []
    for line, model, estimates in measured:
        if line.curves[0].constant != data.raised:  # no place on this chart's axes
            continue
        parts = [
            model.title if data.other else "",
            line.title,
            quantizer_title(line.quantizer) if line.quantizer in named else "",
            f"{line.limit or 'all'} items" if several else "",
        ]
        drawn.append(
            DrawnLine(
                line=line,
                model=model,
                estimates=estimates,
                theirs=model is data.other,
                title=", ".join(filter(None, parts)),
                look=look_of(line.orderings[0]),
                dash=dashes[line.quantizer],
                reach=estimates.reach(line),
            )
        )
    return drawn


def named_quantizers(data: ChartData, names: Collection[str]) -> set[str]:
    """Returns those that the titles of their lines name."""
    others = set(names) - {data.quantizer}
    shown = others if data.beside is None else others.intersection(data.beside)
    return others | {data.quantizer} if shown else others
