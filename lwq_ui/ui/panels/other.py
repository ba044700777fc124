"""Another model, whose results are drawn beside those of the page's model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gradio as gr

from ...core.schema import ModelInfo
from ..events import Answer
from ..session import OtherModel
from ..situation import Situation
from ..strip import Updates, Values
from .base import Panel


class OtherModelPanel(Panel):
    name = "other"

    def build(self) -> None:
        self.other = gr.Dropdown(
            [("None", "")],
            value="",
            label="Draw another model's results beside these",
            info="models that were measured before appear here",
            elem_id="other",
        )
        self.beside = gr.State(None)  # its results, from the store once
        self.inputs = {self.other, self.beside}

    def read(self, v: Values) -> Mapping[str, Any]:
        return {"beside": v[self.beside], "beside_key": v[self.other] or ""}

    def set_controls(self, s: Situation) -> Updates:
        shown: Updates = {}
        if s.controls.beside is not s.said.beside:
            shown[self.beside] = s.controls.beside
        if s.controls.beside_key != s.said.beside_key:
            shown[self.other] = gr.update(value=s.controls.beside_key)
        return shown

    def draw_after_job(self, s: Situation) -> Updates:
        if s.session.info is None:
            return {}
        choices = [
            (f"{m.model_id} ({m.dtype})", model_key(m))
            for m in self.server.other_models(s.session.info)
        ]
        visible: Any = True if choices else "hidden"
        return {self.other: gr.update(choices=[("None", ""), *choices], visible=visible)}

    def wire(self) -> None:
        self.events.on(self.other.input, self.draw_other)

    def draw_other(self, s: Situation) -> Answer:
        return Answer(s.changed(beside=self.stored(s, s.controls.beside_key)).controls)

    def stored(self, s: Situation, key: str) -> OtherModel | None:
        if s.session.info is None:
            return None
        models = self.server.other_models(s.session.info)
        chosen = [m for m in models if model_key(m) == key]
        return self.server.other_model(chosen[0], s.session.chat) if chosen else None


def model_key(info: ModelInfo) -> str:
    return f"{info.fingerprint} {info.dtype}"
