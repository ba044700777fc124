"""The figures and tables of the paper, as settings of the sweep and the chart."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import gradio as gr

from ...core.curves import THREE_LEVELS
from ...core.orderings import ALIKE
from ...engine.quantizers import DEFAULT_QUANTIZER, QUANTIZERS
from ..events import Answer
from ..situation import Controls, Situation
from .base import Panel
from .other import model_key

NO_OTHER_MODEL = (
    "No other model is measured yet. Load one, sweep it, and load this one again: then both can be "
    "drawn."
)


@dataclass(frozen=True)
class View:
    """A figure or table of the paper, as settings of the sweep and the chart.

    It is seen with a `quantizer` at its usual levels, or at the `pair` of levels, with every
    quantizer that has them (`also`). A chosen quantizer that lacks the levels gives way to the
    default.
    """

    title: str
    orderings: tuple[str, ...]
    three_levels: bool = False
    axis: str = "bits"
    other_model: bool = False
    quantizer: str = ""
    pair: tuple[float, float] | None = None
    also: bool = False
    task: str = ""

    def controls(self, controls: Controls) -> Controls:
        """Returns the controls with the view's settings."""
        controls = self.with_quantizer(controls)
        also = [
            family
            for family, q in QUANTIZERS.items()
            if self.also
            and {*controls.levels} <= {*q.levels}
            and q.on_text(controls.calibration) != controls.quantizer
        ]
        return replace(
            controls,
            orderings=self.orderings,
            also=tuple(also),
            three_levels=self.three_levels,
            axis=self.axis,
            tasks=(self.task,) if self.task else controls.tasks,
        )

    def with_quantizer(self, controls: Controls) -> Controls:
        """Returns the controls with the view's quantizer and levels, where they have others."""
        own = quantizer = controls.quantizer
        if self.quantizer not in ("", own.family):
            quantizer = QUANTIZERS[self.quantizer]
        levels = THREE_LEVELS if self.three_levels else ()
        if (self.pair and self.pair not in quantizer.pairs) or not {*levels} <= {*quantizer.levels}:
            quantizer = own if own.family == DEFAULT_QUANTIZER.family else DEFAULT_QUANTIZER
        kept = controls.levels if quantizer == own and not self.quantizer else quantizer.pairs[0]
        pair = self.pair or kept
        if (quantizer, pair) == (own, controls.levels):
            return controls
        return replace(
            controls, quantizer=quantizer, quantizer_error="", levels=pair, budget=None, pins={}
        )


VIEWS = {
    "figure2": View("Figure 2: orderings", ("lim", "zd", "reverse-zd", "reverse-lim", "random")),
    "figure3": View("Figure 3: larger model, fewer bits", ("lim",), axis="size", other_model=True),
    "figure4": View(
        "Figure 4: prune or quantize", ("lim", "prune-by-lim", "prune-from-top"), axis="size"
    ),
    "figure5": View("Figure 5: three levels", ("lim",), three_levels=True),
    "table2": View("Table 2: quantizers", ("lim",), pair=(4, 2), also=True),
    "table3": View("Table 3: outlier shares", ("lim", ALIKE), quantizer="spqr", task="perplexity"),
}


class PaperPanel(Panel):
    """One button for each figure and table. It sets the sweep and the chart, and measures
    nothing."""

    name = "paper"

    def build(self) -> None:
        gr.HTML(
            "Measures the splits of an order, from all layers high to all layers low: one line per "
            "order. As in the paper:",
            elem_id="about-sweep",
        )
        with gr.Row(elem_id="views"):
            self.views = {
                name: gr.Button(view.title, size="sm", elem_id=name, min_width=150)
                for name, view in VIEWS.items()
            }

    def wire(self) -> None:
        for name, button in self.views.items():
            self.events.on(button.click, partial(self.show, VIEWS[name]))

    def show(self, view: View, s: Situation) -> Answer:
        others = self.server.other_models(s.info) if view.other_model else []
        controls = view.controls(s.controls)
        if view.task:
            values = [value for _, value in s.metric_choices(s.results_so_far)]
            metric = next((value for value in values if value.split("/")[0] == view.task), None)
            controls = replace(controls, metric=metric or controls.metric)
        if not others:
            controls = replace(controls, beside=None, beside_key="")
        elif not controls.beside_key:
            key = model_key(others[0])
            beside = self.server.other_model(others[0], s.session.chat)
            controls = replace(controls, beside=beside, beside_key=key)
        lacking = view.other_model and not others
        return Answer(controls, warning=NO_OTHER_MODEL if lacking else "")
