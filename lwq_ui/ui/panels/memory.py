"""The panel “What must it fit into?”: a card, a context and a batch.

What they leave is the slider's budget. Without a card the panel is one closed list.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gradio as gr

from ...core.errors import UserError
from ...core.memory import OWN_DTYPE
from ..events import Answer
from ..situation import Situation
from ..status import error_html
from ..strip import Updates, Values
from ..target import (
    DEFAULT,
    NO_CARD,
    OWN_SIZE,
    MemoryControls,
    card_choices,
    context_choices,
    kept_context,
    left_html,
)
from .base import Panel

CACHES = (
    ("The model's own", OWN_DTYPE),
    ("32 bits (float32)", "float32"),
    ("16 bits (float16, bfloat16)", "float16"),
    ("8 bits (float8)", "float8"),
)


class MemoryPanel(Panel):
    name = "memory"

    def build(self) -> None:
        info = self.strip.opened.session.info
        with gr.Group():
            self.into = gr.Dropdown(
                card_choices(()), value=NO_CARD, label="What must it fit into?", elem_id="into"
            )
            with gr.Column(visible=False, elem_id="use") as self.use:
                self.own_size = gr.Number(
                    8, label="Memory of the card in GiB", elem_id="own-size", visible=False
                )
                with gr.Row():
                    self.context = gr.Dropdown(
                        context_choices(info),
                        value=kept_context(DEFAULT.context, None, info),
                        label="Context in tokens",
                        allow_custom_value=True,
                        elem_id="context",
                        min_width=120,
                    )
                    self.batch = gr.Number(
                        DEFAULT.batch,
                        label="Texts at once (batch)",
                        precision=0,
                        elem_id="batch",
                        min_width=120,
                    )
                self.cache = gr.Dropdown(
                    list(CACHES),
                    value=DEFAULT.cache_dtype,
                    label="Number format of the KV cache",
                    elem_id="cache",
                )
                self.left = gr.HTML(elem_id="left", padding=True)
            self.fitted = gr.State(None)  # what the controls said when the slider was set last
        self.inputs = {self.into, self.own_size, self.context, self.batch, self.cache}

    def read(self, v: Values) -> Mapping[str, Any]:
        typed = (self.into, self.own_size, self.context, self.batch, self.cache)
        return {"memory": MemoryControls(*(v[component] for component in typed))}

    def set_controls(self, s: Situation) -> Updates:
        memory = s.controls.memory
        if memory == s.said.memory:
            return {}
        choices = context_choices(s.session.info)
        return {
            self.context: gr.update(choices=choices, value=memory.context),
            self.fitted: memory,
        }

    def draw(self, s: Situation) -> Updates:
        """Returns what the card leaves for the weights, or why that cannot be said."""
        try:
            target = s.controls.memory.target(s.devices)
        except UserError as e:
            return {self.left: error_html(str(e))}
        sizes = s.choice.table.bytes
        return {self.left: left_html(target, s.info, sizes[0], sizes[-1]) if target else ""}

    def draw_after_job(self, s: Situation) -> Updates:
        """A job that loads a model looks at the devices again."""
        shown: Updates = {self.into: gr.update(choices=card_choices(self.server.devices))}
        if s.session.info:
            shown[self.context] = gr.update(choices=context_choices(s.session.info))
        return shown

    def wire(self) -> None:
        fields = (self.into, self.own_size, self.context, self.batch, self.cache)
        self.events.on(
            [field.input for field in fields],
            self.fit,
            ["memory", "budget", "sizes"],
            extra={self.fitted},
        )

    def fit(self, s: Situation) -> Answer | None:
        """Another card or use: the slider goes to the split that fits. A list that is left as it
        was makes an event, too, and must not take back what was dragged meanwhile."""
        memory, into = s.controls.memory, s.controls.memory.into
        if memory == s.values[self.fitted]:
            return None
        shown = {
            self.fitted: memory,
            self.use: gr.update(visible=into != NO_CARD),
            self.own_size: gr.update(visible=into == OWN_SIZE),
            self.into: gr.update(choices=card_choices(self.server.devices)),
        }
        info = s.session.info
        fits = info is not None and s.target is not None and s.target.card(info) is not None
        return Answer(s.changed(budget=None).controls if fits else None, updates=shown)
