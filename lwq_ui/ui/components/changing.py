"""Lists whose choices change. A browser may still send a choice that the server has taken back,
and Gradio's own components would refuse the whole event for it. Handlers check such a value."""

from __future__ import annotations

from typing import Any

import gradio as gr

from .heatmap import as_level


class ChangingRadio(gr.Radio):
    is_template = True  # the page draws it as a radio

    def preprocess(self, payload: Any) -> Any:
        return payload


class ChangingDropdown(gr.Dropdown):
    is_template = True  # the page draws it as a dropdown

    def preprocess(self, payload: Any) -> Any:
        return payload


def read_levels(value: str) -> tuple[float, float]:
    """Reads the value of a choice of levels: '4,2' -> (4, 2). Raises ValueError."""
    high, low = value.split(",")
    return as_level(high), as_level(low)
