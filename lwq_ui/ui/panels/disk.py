"""What packed layers take on the disk."""

from __future__ import annotations

import gradio as gr

from ..events import Answer
from ..modelcard import disk_html
from ..situation import Situation
from ..strip import Updates
from .base import Panel


class DiskPanel(Panel):
    name = "disk"

    def build(self) -> None:
        with gr.Row(elem_id="disk-row"):
            self.disk = gr.HTML(elem_id="disk")
            self.clear = gr.Button("Clear unused", size="sm", elem_id="clear-disk", min_width=60)

    def draw_after_job(self, s: Situation) -> Updates:
        return {self.disk: disk_html(self.server.store.banks, self.server.shelf.banks())}

    def wire(self) -> None:
        self.events.on(
            self.clear.click, self.clear_unused, ["quantizer", "sweep"], outputs=[self.disk]
        )

    def clear_unused(self, s: Situation) -> Answer:
        self.server.store.banks.clear(self.server.shelf.banks())
        return Answer(updates=self.draw_after_job(s))
