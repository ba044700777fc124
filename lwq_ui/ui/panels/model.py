"""The model: its field, its device and number format, and its card."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import gradio as gr

from ...core.built_in import DEMO
from ...core.memory import DTYPES
from ...engine.checkpoints.gguf_source import SeveralModels
from ...engine.devices import DEVICES
from ..components.modelfield import ModelField, choices_offered
from ..loading import chosen_text, load_and_score
from ..modelcard import loaded_card, looked_card
from ..session import ModelChoice
from ..situation import Situation
from ..strip import Updates, Values
from ..worker import Job
from .base import Panel

if TYPE_CHECKING:
    from ...engine.jobs import Looked


class ModelPanel(Panel):
    name = "model"

    def build(self) -> None:
        with gr.Group():
            opened = self.strip.opened
            self.model = ModelField(opened.controls.model.model_id, elem_id="model", padding=True)
            with gr.Row():
                self.device = gr.Dropdown(
                    list(DEVICES), value="auto", label="Device", elem_id="device", min_width=100
                )
                self.dtype = gr.Dropdown(
                    list(DTYPES),
                    value="auto",
                    label="Number format",
                    elem_id="dtype",
                    min_width=100,
                )
            with gr.Row(elem_classes="button-row"):
                self.load = gr.Button("Load", elem_id="load", size="md", min_width=90)
                self.look = gr.Button("Look first", elem_id="look", size="md", min_width=90)
            with gr.Row(elem_classes="button-row"):
                self.small = gr.Button(
                    "Small and fast: the demo model",
                    elem_id="small",
                    size="sm",
                    visible=visible(opened.session.choice.model_id != DEMO),
                )
            info = opened.session.info
            card = loaded_card(info) if info else ""
            self.card = gr.HTML(card, elem_id="card", padding=True)
        self.inputs = {self.model, self.device, self.dtype}
        self.starters = [self.load, self.look, self.small]

    def read(self, v: Values) -> Mapping[str, Any]:
        return {"model": ModelChoice(v[self.model].strip(), v[self.device], v[self.dtype])}

    def set_controls(self, s: Situation) -> Updates:
        model = s.controls.model
        if model == s.said.model:
            return {}
        return {self.model: model.model_id, self.device: model.device, self.dtype: model.dtype}

    def draw_after_job(self, s: Situation) -> Updates:
        session = s.session
        shown: Updates = {self.small: gr.update(visible=visible(session.choice.model_id != DEMO))}
        if session.looked:
            return shown | {self.card: looked_card(session.looked, session.info)}
        if session.info:
            shown[self.card] = loaded_card(session.info, session.streamed)
        return shown

    def wire(self) -> None:
        self.events.job([self.load.click, self.model.submit], self.load_model)
        self.events.job(self.small.click, self.load_small)
        self.events.job(self.look.click, self.look_at)

    def load_model(self, s: Situation, user: str) -> Iterator[Updates]:
        """Loads and scores. Where either fails, the session keeps the model it had."""
        choice = s.controls.model
        work = load_and_score(
            self.server, user, choice, lambda: chosen_text(s.controls, self.server)
        )
        arrived = yield from self.follow(user, choice.model_id, work)
        wanted = arrived.controls(s)
        if choice != s.said.model:
            wanted["model"] = choice
        session = arrived.session(self.server).wanting(**wanted)
        message = f"{arrived.info.model_id} is loaded and scored."
        yield {self.strip.session: session} | self.strip.idle(user, message)

    def load_small(self, s: Situation, user: str) -> Iterator[Updates]:
        """Loads the demo model, whatever the field says."""
        choice = replace(s.controls.model, model_id=DEMO)
        yield from self.load_model(s.changed(model=choice), user)

    def look_at(self, s: Situation, user: str) -> Iterator[Updates]:
        """Says what a model is. Nothing is loaded; the session keeps the model it has."""

        def work(job: Job) -> Looked:
            from ...engine import jobs

            return jobs.look(s.controls.model.model_id, s.values[self.dtype], job.run)

        looked = yield from self.follow(user, s.controls.model.model_id, work)
        message = f"{looked.info.model_id} is described on its card. Nothing was loaded."
        shown = {
            self.strip.session: replace(s.session, looked=looked),
            self.card: looked_card(looked, s.session.info),
        }
        yield shown | self.strip.idle(user, message)

    def follow(
        self, user: str, name: str, work: Callable[[Job], Any]
    ) -> Generator[Updates, None, Any]:
        """Follows a job on the model of this name. Where it may mean several, the field offers
        them."""
        try:
            return (yield from self.events.follow(user, work))
        except SeveralModels as e:
            yield {self.model: gr.update(offers=choices_offered(name, e))}
            raise


def visible(shown: bool) -> bool | Literal["hidden"]:
    """Returns what Gradio calls it: a hidden component stays in the page."""
    return shown or "hidden"
