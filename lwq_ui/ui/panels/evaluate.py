"""Quantizes the split of the slider, and evaluates it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import gradio as gr

from ...core.errors import UserError
from ...core.memory import UNTOUCHED
from ...core.schema import split_name
from ...engine.quantizers import quantizers_of
from ..measuring import Measuring
from ..modelcard import truth_html
from ..plans import Plan
from ..situation import Situation
from ..strip import Updates
from ..templates import paragraphs_html
from .base import Panel


class EvaluatePanel(Panel):
    name = "evaluate"

    def build(self) -> None:
        self.lost = gr.HTML(elem_id="lost-split", elem_classes="lost")
        self.evaluate = gr.Button(
            "Quantize and evaluate", variant="primary", elem_id="evaluate", size="md"
        )
        self.truth = gr.HTML(elem_id="truth")
        self.starters = [self.evaluate]

    def draw(self, s: Situation) -> Updates:
        truth = truth_html(*s.session.truth) if s.session.truth else ""
        return {self.lost: lost_html(s), self.truth: truth}

    def wire(self) -> None:
        self.events.job(self.evaluate.click, self.measure)

    def measure(self, s: Situation, user: str) -> Iterator[Updates]:
        """Measures the split, and all layers alike at its levels to compare with."""
        split = s.split
        compared = [(level,) * len(split) for level in (UNTOUCHED, *s.controls.levels)]
        plan = Plan({s.controls.quantizer: [split, *compared]})
        truth = s.session.truth if split == s.session.measured else None
        s = replace(s, session=replace(s.session, measured=split, truth=truth))
        measuring = Measuring(self.events, s, user, lambda s: plan, split_name(split), split)
        yield from measuring.run(three_levels=False)  # their chart has no place for the split


def lost_html(s: Situation) -> str:
    """Returns whether the slider's split is of no use, as far as it was measured."""
    try:
        table, position = s.choice.table, s.position
    except UserError:  # the budget is too small, which the bar says
        return ""
    splits = [table.split(k) for k in range(len(table.bytes))]
    others = quantizers_of(s.session.evaluations)
    sentence = s.usability.of_split(s.controls.quantizer, splits, position, others)
    return paragraphs_html(sentence) if sentence else ""
