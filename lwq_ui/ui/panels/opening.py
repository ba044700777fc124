"""A browser opens the page, and closes it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import gradio as gr

from ...core.built_in import BUILT_IN
from ..events import Answer
from ..loading import load_and_score
from ..situation import Situation
from ..strip import Updates
from ..templates import paragraphs_html
from .base import Panel

READY = "{} is ready. Drag the memory budget."


class Opening(Panel):
    """What happens when the page opens, and why it did not open on the usual model.

    The model's scores and results stand there already where they ship with the program. Its weights
    are loaded now, so that the first evaluation need not wait for them. Nobody who has asked for
    nothing yet waits for another one's job.
    """

    name = "opening"

    def build(self) -> None:
        self.reason = gr.HTML(self.reason_html(self.strip.opened), elem_id="reason")

    def draw_after_job(self, s: Situation) -> Updates:
        return {self.reason: self.reason_html(s)}

    def reason_html(self, s: Situation) -> str:
        """Returns the reason, while the page has the model that it opened on."""
        opening = self.server.opening
        here = opening.reason and s.session.choice.model_id == opening.model
        return paragraphs_html(opening.reason) if here else ""

    def wire(self) -> None:
        load = self.events.demo.load
        shown = self.events.on(load, self.show_known, chosen=False, after_job=True)
        self.events.job(shown.then, self.load_opened)
        self.events.demo.unload(self.events.close)

    def show_known(self, s: Situation) -> Answer | None:
        """Shows what was measured since the program started, by this browser before it was reloaded
        for one."""
        session = s.session
        if session.info is None:
            return None
        session = self.server.with_model(session, session.info, session.scores or {})
        return Answer(session=session)

    def load_opened(self, s: Situation, user: str) -> Iterator[Updates]:
        session, shelf = s.session, self.server.shelf
        ready = READY.format(BUILT_IN[self.server.opening.model].title)
        shelf.come(user)
        joined = shelf.join(user, session.choice)
        if session.info and (joined or self.server.worker.busy):
            yield self.strip.idle(user, ready)
            return
        text = self.server.shipped_text
        work = load_and_score(self.server, user, session.choice, lambda: text)
        arrived = yield from self.events.follow(user, work)
        if session.info:
            session = replace(session, streamed=arrived.streamed)
        else:
            session = arrived.session(self.server)
        yield {self.strip.session: session} | self.strip.idle(user, ready)
