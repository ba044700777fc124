"""What all components of the page share."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import gradio as gr

ASSETS = Path(__file__).parents[1] / "assets"


def read_asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


class AssetComponent(gr.HTML):
    """A component that is drawn by the files `asset`.html, .js and .css in assets.

    Listen to its events with `api_visibility="private"`: Gradio writes every run of a public event,
    with all its data, to the browser's storage, and the page gets slower with each.
    """

    asset: ClassVar[str]

    # What the JavaScript reads beside the value comes in `options`: a named parameter Gradio would
    # read back as an attribute, and resolve that to an event, because the JavaScript quotes the
    # word.
    def __init__(self, value: Any = None, **options: Any) -> None:
        options.setdefault("js_on_load", read_asset(f"{self.asset}.js"))
        super().__init__(
            value=value,
            html_template=read_asset(f"{self.asset}.html"),
            head=f"<style>{read_asset(f'{self.asset}.css')}</style>",
            apply_default_css=False,
            **options,
        )
