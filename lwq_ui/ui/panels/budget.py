"""The memory budget: the slider, and the layers that it gives the high level."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gradio as gr

from ...core.allocation import Split
from ...core.lossless import LOSSLESS
from ..bar.expected import Expectation, expected_at
from ..bar.table import bar_table
from ..components.heatmap import BudgetBar
from ..situation import Situation
from ..strip import Updates, Values
from ..wording import metric_title
from .base import Panel


class BudgetPanel(Panel):
    name = "budget"

    def build(self) -> None:
        s = self.strip.opened if self.strip.opened.session.info else None
        self.bar = BudgetBar(
            bar_value(s) if s else None,
            table=table_of(s) if s else None,
            elem_id="bar",
            container=True,
            padding=True,
            visible=True if s else "hidden",
        )
        self.inputs = {self.bar}

    def read(self, v: Values) -> Mapping[str, Any]:
        bar = v[self.bar]
        return {"budget": bar["budget"], "pins": bar["pins"]} if bar else {}

    def draw(self, s: Situation) -> Updates:
        """The budget is the browser's, where the page does not set it: the user may be dragging."""
        moved = (s.controls.budget, s.controls.pins) != (s.said.budget, s.said.pins)
        value: dict[str, Any] = {"value": bar_value(s)} if moved or s.said.budget is None else {}
        return {self.bar: gr.update(table=table_of(s), visible=True, **value)}

    def wire(self) -> None:
        # They are events because heatmap.js names them.
        of_split = ["evaluate", "compare", "write"]
        self.events.on(self.bar.pin, draws=["budget", "memory", "sizes", *of_split])
        self.events.on(self.bar.move, draws=of_split, chosen=False)
        self.events.on(self.bar.settle, lambda s: None, draws=[])


def bar_value(s: Situation) -> dict[str, Any]:
    return {"budget": s.budget, "pins": dict(s.controls.pins)}


def table_of(s: Situation) -> str:
    """Returns the bar's table, with what to expect of the metric on the chart at each position."""
    expectation = None
    if chosen := s.metric_among(s.own_results):
        task, metric = chosen.split("/", 1)
        table = s.choice.table
        expected = expected_at(table, s.own_results, task, metric)
        marks = [mark_of(s, table.split(k)) for k in range(len(table.bytes))]
        expectation = Expectation(metric_title(task, metric, s.titles), expected, marks)
    return bar_table(s.choice, expectation, s.target.card(s.info) if s.target else None)


def mark_of(s: Situation, split: Split) -> str:
    """Returns what stands before the figure to expect of a split."""
    name = s.controls.quantizer.name
    if s.given_back.is_whole(name, split):
        return LOSSLESS
    return "lost" if s.usability.lost(name, split) else ""
