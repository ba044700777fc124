"""Gradio's Blocks, with a sentence where Gradio has a traceback."""

from __future__ import annotations

from typing import Any

import gradio as gr

UNREADABLE = "The page sent a value that cannot be read. Reload it."


class Blocks(gr.Blocks):
    """Gradio's Blocks, but a value that a component cannot take is one sentence, not a traceback
    in the log and an empty error in the browser."""

    async def preprocess_data(self, *args: Any, **options: Any) -> Any:
        try:
            return await super().preprocess_data(*args, **options)
        except Exception as e:
            raise gr.Error(UNREADABLE, print_exception=False) from e
