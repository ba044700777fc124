"""The switch for the model's chat template: of calibration text, of prompts, and of writing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import gradio as gr

from ...core.orderings import QUICK_SCORERS
from ...core.schema import Scores
from ...engine.chat import has_template
from ...engine.kept_texts import keep_text
from ..loading import loaded_model
from ..situation import Situation
from ..strip import Updates, Values
from ..worker import Job
from .base import Panel


class ChatPanel(Panel):
    """Shown for a model in memory that has a chat template.

    The session's text says whether the template is used, so that scores and results are always of
    one setting. The switch asks for a job that scores on turns, or on plain text again. A job that
    fails leaves the session as it was, and the switch goes back.
    """

    name = "chat"

    def build(self) -> None:
        self.switch = gr.Checkbox(
            False,
            label="Chat template",
            info="calibration text and prompts as a user's turns, in the model's own format",
            elem_id="chat-template",
            visible="hidden",
        )
        self.inputs = {self.switch}
        self.starters = [self.switch]

    def read(self, v: Values) -> Mapping[str, Any]:
        return {"chat": v[self.switch]}

    def draw_after_job(self, s: Situation) -> Updates:
        loaded = self.server.shelf.present(s.session.choice)
        visible: Any = True if loaded and has_template(loaded) else "hidden"
        value: dict[str, Any] = {}
        if s.said.chat != s.session.chat:
            value["value"] = s.session.chat
        return {self.switch: gr.update(visible=visible, **value)}

    def wire(self) -> None:
        self.events.job(self.switch.input, self.turn)

    def turn(self, s: Situation, user: str) -> Iterator[Updates]:
        """Scores the session's text in the other form, from the cache where that was done before.

        Another model's results are not drawn any more: they are of the form before.
        """
        session, chat = s.session, s.controls.chat
        text = replace(session.text or self.server.shipped_text, chat=chat)

        def work(job: Job) -> tuple[str, dict[str, Scores]]:
            from ...engine import jobs

            loaded = loaded_model(self.server, session, user, job)
            scores = jobs.score(loaded, QUICK_SCORERS, text, job.run)
            return keep_text(text, job.run.store), scores

        calibration, scores = yield from self.events.follow(user, work)
        levels = self.server.known_level_scores(s.info, text)
        session = replace(session, text=text, scores=scores, level_scores=levels, forecast=None)
        session = session.wanting(beside=None, beside_key="", calibration=calibration)
        yield {self.strip.session: session} | self.strip.idle(user, f"Scored on {text.title}.")
