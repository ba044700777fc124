"""“Does it matter?”: orders, quantizers or mixes of one budget, and their noise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import gradio as gr

from ...core.errors import UserError
from ...core.lossless import GivenBack
from ...core.orderings import ALIKE, ALIKE_TITLE
from ...engine.banks.packing_cost import why_not_packed
from ..comparison.contenders import (
    Contender,
    alike_contenders,
    order_contenders,
    quantizer_contenders,
)
from ..comparison.html import alike_html, comparison_html
from ..measuring import Measuring
from ..plans import comparison_plan
from ..situation import BY_ORDER, BY_QUANTIZER, Situation
from ..strip import Updates, Values
from ..tables import NOTHING_YET
from ..templates import paragraphs_html
from .base import Panel

MEASURE = {
    BY_ORDER: "Measure every order at this budget",
    BY_QUANTIZER: "Measure every quantizer at this budget",
    ALIKE: "Measure all layers alike, and mixes of the same size",
}
WHAT = {BY_ORDER: "every order here", BY_QUANTIZER: "every quantizer here"}


class ComparePanel(Panel):
    name = "compare"

    def build(self) -> None:
        self.versus = gr.Radio(
            [("Orders", BY_ORDER), ("Quantizers", BY_QUANTIZER), (ALIKE_TITLE, ALIKE)],
            value=BY_ORDER,
            label="Compare",
            elem_id="versus",
        )
        self.compare = gr.Button(MEASURE[BY_ORDER], variant="primary", elem_id="compare", size="md")
        self.comparison = gr.HTML(elem_id="comparison", elem_classes="figures")
        self.inputs = {self.versus}
        self.starters = [self.compare]

    def read(self, v: Values) -> Mapping[str, Any]:
        return {"compared": v[self.versus]}

    def set_controls(self, s: Situation) -> Updates:
        return {self.compare: MEASURE[s.controls.compared]}

    def draw(self, s: Situation) -> Updates:
        try:
            return {self.comparison: self.html(s)}
        except UserError as e:
            return {self.comparison: paragraphs_html(str(e))}

    def html(self, s: Situation) -> str:
        """Raises UserError where there is nothing to compare."""
        chosen, compared = s.metric_among(s.results), s.controls.compared
        if compared == ALIKE:
            pairs = alike_contenders(s)
            if chosen is None:
                return NOTHING_YET
            packed = [c for pair in pairs for c in pair]
            origin = " ".join(filter(None, [s.info.origin.sentence, back_text(s, packed)]))
            return alike_html(pairs, s.results, chosen, s.titles, s.controls.levels, origin)
        left_out: list[str] = []
        if compared == BY_QUANTIZER:
            contenders, left_out = quantizer_contenders(s)
            measured = {(e.split, e.quantizer) for e in s.results}
            for c in contenders[1:]:
                if (c.split, c.quantizer.name) in measured:
                    continue
                if why := why_not_packed(s.info, c.quantizer, [c.split], self.server.store):
                    left_out.append(f"{c.title} is left out. {why}")
                    contenders.remove(c)
        else:
            contenders = order_contenders(s)
        if chosen is None:
            return NOTHING_YET
        notes = list(filter(None, [*left_out, back_text(s, contenders)]))
        origin = s.info.origin.sentence
        return comparison_html(contenders, s.results, chosen, s.titles, notes, origin)

    def wire(self) -> None:
        self.events.on(self.versus.input, draws=["compare"])
        self.events.job(self.compare.click, self.measure)

    def measure(self, s: Situation, user: str) -> Iterator[Updates]:
        plan = comparison_plan(s)
        name = WHAT.get(s.controls.compared, "all layers alike and mixes")
        yield from Measuring(self.events, s, user, lambda s: plan, name).run(three_levels=False)


def back_text(s: Situation, contenders: Sequence[Contender]) -> str:
    """Returns which levels of the contenders only give the file's weights back."""
    back = GivenBack.by(s.info, dict.fromkeys(c.quantizer for c in contenders))
    return back.sentence((c.quantizer.name, c.split) for c in contenders)
