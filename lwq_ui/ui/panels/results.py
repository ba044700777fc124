"""The results: the chart of what was measured, and the table below it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gradio as gr

from ...core.errors import UserError
from ...core.schema import UNQUANTIZED
from ...core.split_orders import orders_of
from ...engine.quantizers import quantizer_named
from ..charted import chart_data
from ..charts import results_figure
from ..components.curvechart import CurveChart, as_json
from ..events import Answer
from ..restoring import restore_split
from ..situation import Situation
from ..strip import Updates, Values
from ..tables import NOTHING_YET, results_table
from ..templates import paragraphs_html
from .base import Panel


class ResultsPanel(Panel):
    name = "results"

    def build(self) -> None:
        self.metric = gr.Dropdown(
            [], label="Measure on the chart", elem_id="metric", visible="hidden"
        )
        self.axis = gr.State("bits")
        self.chart = CurveChart(elem_id="chart", visible="hidden", container=True, padding=True)
        self.kept = gr.HTML(elem_id="kept")
        self.results = gr.HTML(elem_id="results", elem_classes="figures")
        self.inputs = {self.metric, self.axis}

    def read(self, v: Values) -> Mapping[str, Any]:
        return {"metric": v[self.metric], "axis": v[self.axis]}

    def set_controls(self, s: Situation) -> Updates:
        return {self.axis: s.controls.axis} if s.controls.axis != s.said.axis else {}

    def draw(self, s: Situation) -> Updates:
        results, chosen = s.results_so_far, s.metric_among(s.results_so_far)
        if chosen is None:
            return {
                self.metric: gr.update(choices=[], value=None, visible="hidden"),
                self.chart: gr.update(figure="", visible="hidden"),
                self.kept: "",
                self.results: NOTHING_YET,
            }
        orders = orders_of((e.split for e in results), s.choice.values, s.controls.seed)
        figure = results_figure(chart_data(s, chosen, orders))
        kept = figure.pop("sentences")
        # A value that holds is left alone: a job may have put another one there meanwhile.
        value = {} if chosen == s.said.metric else {"value": chosen}
        current, quantizer = s.session.measured, s.controls.quantizer.name
        return {
            self.metric: gr.update(choices=s.metric_choices(results), visible=True, **value),
            self.chart: gr.update(figure=as_json(figure), visible=True),
            self.kept: paragraphs_html(*kept),
            self.results: results_table(
                *(results, s.titles, current, orders, quantizer),
                origin=s.origin_of(results),
                given_back=s.given_back,
            ),
        }

    def wire(self) -> None:
        # `select` is an event because curvechart.js names it.
        self.events.on(self.chart.select, self.load_split, extra={self.chart})
        self.events.on(self.metric.input)

    def load_split(self, s: Situation) -> Answer:
        """Loads the split of a point that was clicked, and the quantizer that packed it."""
        clicked = s.values[self.chart]
        if clicked is None:
            raise UserError("Click a point of the chart to load its split.")
        if clicked["quantizer"] != UNQUANTIZED:
            quantizer = quantizer_named(clicked["quantizer"])
            calibration = quantizer.text if quantizer.calibrated else s.controls.calibration
            s = s.changed(quantizer=quantizer, quantizer_error="", calibration=calibration)
        controls, message = restore_split(s, tuple(clicked["split"]))
        return Answer(controls, message=message)
