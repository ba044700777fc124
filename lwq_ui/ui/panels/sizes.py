"""What every split of the slider takes."""

from __future__ import annotations

import gradio as gr

from ..components.base import read_asset
from ..situation import Situation
from ..strip import Updates
from ..tables import sizes_table
from .base import Panel


class SizesPanel(Panel):
    name = "sizes"

    def build(self) -> None:
        title = "What every split takes (the paper's table 4)"
        with gr.Accordion(title, open=False, elem_id="every-size"):
            self.sizes = gr.HTML(
                elem_id="sizes", elem_classes="figures", js_on_load=read_asset("sizes.js")
            )

    def draw(self, s: Situation) -> Updates:
        choice = s.choice
        table = sizes_table(choice.cost, choice.levels, choice.table, s.controls.quantizer)
        return {self.sizes: table}
