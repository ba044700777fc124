"""The panel “What must it fit into?”: a card, a context and a batch.

What they leave is the slider's budget. Without a card the panel is one closed list.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import gradio as gr

from ..core.memory import OWN_DTYPE
from ..core.schema import ModelInfo
from .target import (
    DEFAULT,
    NO_CARD,
    OWN_SIZE,
    Target,
    card_choices,
    context_choices,
    kept_context,
    read_usage,
    target,
)

if TYPE_CHECKING:
    from .layout import Parts
    from .server import Server

CACHES = (
    ("The model's own", OWN_DTYPE),
    ("32 bits (float32)", "float32"),
    ("16 bits (float16, bfloat16)", "float16"),
    ("8 bits (float8)", "float8"),
)


def build_memory(made: dict[str, Any], info: ModelInfo | None) -> None:
    with gr.Group():
        made["into"] = gr.Dropdown(
            card_choices(()),
            value=NO_CARD,
            label="What must it fit into?",
            elem_id="into",
        )
        with gr.Column(visible=False, elem_id="use") as made["use"]:
            made["own_size"] = gr.Number(
                8, label="Memory of the card in GiB", elem_id="own-size", visible=False
            )
            with gr.Row():
                made["context"] = gr.Dropdown(
                    context_choices(info),
                    value=kept_context(DEFAULT.context, None, info),
                    label="Context in tokens",
                    allow_custom_value=True,
                    elem_id="context",
                    min_width=120,
                )
                made["batch"] = gr.Number(
                    DEFAULT.batch,
                    label="Texts at once (batch)",
                    precision=0,
                    elem_id="batch",
                    min_width=120,
                )
            made["cache"] = gr.Dropdown(
                list(CACHES),
                value=DEFAULT.cache_dtype,
                label="Number format of the KV cache",
                elem_id="cache",
            )
            made["left"] = gr.HTML(elem_id="left", padding=True)
        made["fitted"] = gr.State(None)  # what the controls said when the slider was set last


class MemoryPanel:
    """What the page's handlers read from the panel and write to it."""

    parts: Parts
    server: Server

    def target(self, v: Mapping[Any, Any]) -> Target | None:
        """Raises UserError where what is typed is no number."""
        p = self.parts
        if v[p.into] == NO_CARD:
            return None
        usage = read_usage(v[p.context], v[p.batch], v[p.cache])
        return target(v[p.into], v[p.own_size], usage, self.server.devices)

    def controls_of_memory(self, v: Mapping[Any, Any]) -> list[Any]:
        p = self.parts
        return [v[p.into], v[p.own_size], v[p.context], v[p.batch], v[p.cache]]

    def cards(self) -> dict[Any, Any]:
        """Returns the choices of cards, with this machine's as far as they are known."""
        return {self.parts.into: gr.update(choices=card_choices(self.server.devices))}

    def asked(self, v: Mapping[Any, Any]) -> dict[Any, Any]:
        """Returns which fields the choice of a card needs."""
        p, into = self.parts, v[self.parts.into]
        return {
            p.use: gr.update(visible=into != NO_CARD),
            p.own_size: gr.update(visible=into == OWN_SIZE),
        }
