"""The scores of the layers: the text that they are measured on, and where each came from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import gradio as gr

from ...core.errors import UserError
from ...core.orderings import LEVEL_SCORERS, QUICK_SCORERS
from ...core.schema import Scores
from ...engine.banks.packing_cost import why_not_packed
from ...engine.kept_texts import keep_text
from ...engine.texts import Text
from ..events import LIVE
from ..loading import chosen_text, level_scores, loaded_model
from ..modelcard import scored_html
from ..situation import OWN, PG19, SHIPPED, Situation
from ..strip import Updates, Values
from ..worker import Job
from .base import Panel


class CalibrationPanel(Panel):
    name = "calibration"

    def build(self) -> None:
        with gr.Group():
            self.text = gr.Radio(
                [SHIPPED, OWN, PG19],
                value=SHIPPED,
                label="Calibration text",
                info="of LIM, sensitivity, GPTQ and SpQR-like, once the layers are scored on it",
                elem_id="text",
            )
            self.own_text = gr.File(
                label="A .txt file",
                file_types=[".txt"],
                elem_id="own-text",
                height=140,
                visible=False,
            )
            with gr.Row(elem_classes="button-row"):
                self.score = gr.Button(
                    "Score the layers", elem_id="score", size="md", min_width=110
                )
                self.measure = gr.Button(
                    "Measure sensitivity", elem_id="measure", size="md", min_width=110
                )
            s = self.strip.opened
            scored = scored_html(s.info, s.scores) if s.session.info else ""
            self.scored = gr.HTML(scored, elem_id="scored", padding=True)
        self.inputs = {self.text, self.own_text}
        self.starters = [self.score, self.measure]

    def read(self, v: Values) -> Mapping[str, Any]:
        return {"text": v[self.text], "own_text": v[self.own_text]}

    def draw(self, s: Situation) -> Updates:
        return {self.scored: scored_html(s.info, s.scores)}

    def wire(self) -> None:
        self.text.change(
            lambda text: gr.update(visible=text == OWN), self.text, self.own_text, **LIVE
        )
        self.events.job(self.score.click, self.score_layers)
        self.events.job(self.measure.click, self.measure_sensitivity)

    def score_layers(self, s: Situation, user: str) -> Iterator[Updates]:
        session = s.session

        def work(job: Job) -> tuple[Text, str, dict[str, Scores]]:
            from ...engine import jobs

            text = chosen_text(s.controls, self.server)
            loaded = loaded_model(self.server, session, user, job)
            scores = jobs.score(loaded, QUICK_SCORERS, text, job.run)
            return text, keep_text(text, job.run.store), scores

        text, calibration, scores = yield from self.events.follow(user, work)
        by_level = self.server.known_level_scores(s.info, text)
        session = replace(session, text=text, scores=scores, level_scores=by_level)
        session = session.wanting(calibration=calibration)
        yield {self.strip.session: session} | self.strip.idle(user, f"Scored on {text.title}.")

    def measure_sensitivity(self, s: Situation, user: str) -> Iterator[Updates]:
        """Measures the chosen quantizer's low level, on the text of the model's scores."""
        session, level = s.session, (s.quantizer, s.controls.levels[1])
        quantizer, low = level
        all_low = (low,) * s.info.num_layers
        if not session.scores_at(level).keys() >= {*LEVEL_SCORERS} and (
            why := why_not_packed(s.info, quantizer, [all_low], self.server.store)
        ):
            raise UserError(why)

        def work(job: Job) -> dict[str, Scores]:
            loaded = loaded_model(self.server, session, user, job)
            text = session.text or self.server.shipped_text
            return level_scores(loaded, text, level, LEVEL_SCORERS, job.run)

        session = session.with_level_scores(level, (yield from self.events.follow(user, work)))
        title = quantizer.level_title(low)
        message = f"Sensitivity at {title} is measured: it can now be the order, too."
        yield {self.strip.session: session} | self.strip.idle(user, message)
