"""Lists whose choices change. A browser may still send a choice that the server has taken back,
and Gradio's own components would refuse the whole event for it. Handlers check such a value."""

from __future__ import annotations

from typing import Any

import gradio as gr


class ChangingRadio(gr.Radio):
    is_template = True  # the page draws it as a radio

    def preprocess(self, payload: Any) -> Any:
        return payload


class ChangingDropdown(gr.Dropdown):
    is_template = True  # the page draws it as a dropdown

    def preprocess(self, payload: Any) -> Any:
        return payload
