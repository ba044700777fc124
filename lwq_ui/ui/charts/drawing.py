"""A chart's parts and places, each computed once. Traces, guides and texts are made from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from ...core.memory import UNTOUCHED, average_bits
from ...core.metrics import MetricSpec, metric_spec
from ...core.schema import Evaluation
from .axes import Axis, Scale, make_axes
from .data import ChartData
from .lines import DrawnLine, drawn_lines
from .singles import Singles, sorted_singles

GUIDE_LEVELS = (UNTOUCHED, 8, 4)  # the dotted lines of the paper's figures


@dataclass(frozen=True)
class Drawing:
    data: ChartData

    @cached_property
    def metric(self) -> str:
        return self.data.metric

    @cached_property
    def spec(self) -> MetricSpec:
        return metric_spec(self.metric)

    @cached_property
    def lines(self) -> Sequence[DrawnLine]:
        return drawn_lines(self.data)

    @cached_property
    def visible(self) -> Sequence[DrawnLine]:
        """The lines that are not hidden at first."""
        beside, own = self.data.beside, self.data.own
        if beside is None:
            return self.lines
        return [d for d in self.lines if d.theirs or d.quantizer in own or d.quantizer in beside]

    @cached_property
    def primary(self) -> DrawnLine | None:
        """The line whose band shows at once: the chosen ordering's, or the first one."""
        first = next(iter(self.visible), None)
        return next((d for d in self.visible if self.data.ordering in d.line.orderings), first)

    @cached_property
    def singles(self) -> Singles:
        return sorted_singles(self.data, self.lines)

    @cached_property
    def others(self) -> Sequence[Evaluation]:
        """The rest of the single splits, as far as they have a place on what is drawn: beyond it
        lies a break, or the edge."""
        if not (rest := self.singles.rest):
            return []
        bits, size = self.axes["bits"], self.axes["size"]
        return [
            e
            for e in rest
            if bits.low <= average_bits(e.split) <= bits.high
            and size.low <= self.data.model.size(e.quantizer, e.split) / size.unit <= size.high
            and self.scale.has(value := self.value(e))
            and self.scale.low <= self.scale.at(value) <= self.scale.high
        ]

    @cached_property
    def last(self) -> Sequence[Evaluation]:
        """The split that was measured last, by the chosen quantizer or by none."""
        data = self.data
        return [e for e in data.evaluations if e.split == data.current and e.quantizer in data.own]

    @cached_property
    def axes(self) -> Mapping[str, Axis]:
        return make_axes(self.data, self.lines, self.singles)

    @cached_property
    def guides(self) -> Mapping[float, float]:
        """Level -> the value with all layers at that level, as far as it was measured."""
        values = {
            e.split[0]: self.value(e)
            for e in self.data.evaluations
            if e.quantizer in self.data.own and len(set(e.split)) == 1
        }
        return {level: values[level] for level in GUIDE_LEVELS if level in values}

    @cached_property
    def scale(self) -> Scale:
        spans = [
            (p.metric.value, reach or 0.0)
            for d in self.lines
            for p, reach in zip(d.points, d.reach, strict=True)
        ]
        spans += [(self.value(e), 0.0) for e in self.singles.shown]
        spans += [(value, 0.0) for value in self.guides.values()]
        return Scale(spans, self.spec.larger_is_better, self.data.lost_from)

    @cached_property
    def most(self) -> int:
        """The most items that anything rests on. What rests on fewer is hollow."""
        counts = [e.metrics[self.metric].n for e in self.data.evaluations]
        counts += [p.metric.n for d in self.lines for p in d.points]
        return max(counts, default=0)

    def value(self, e: Evaluation) -> float:
        return e.metrics[self.metric].value
