"""The config: downloaded, and loaded again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import gradio as gr
from gradio.processing_utils import save_bytes_to_cache

from ...core.errors import UserError
from ...engine.configs import check_fingerprint
from ...engine.exports import CONFIG_EXPORTS
from ..events import Answer
from ..loading import load_and_score
from ..restoring import read_usable_config, restore_config
from ..session import ModelChoice
from ..situation import Situation
from ..strip import Updates
from .base import Panel

RESTORED = (
    *("quantizer", "quantizer_error", "calibration"),
    *("levels", "ordering", "seed", "budget", "pins"),
)


class ConfigPanel(Panel):
    name = "config"

    def build(self) -> None:
        gr.Markdown(
            "The config holds the model, the bits of every layer, pins, order, budget and what was "
            "measured. `python -m lwq_ui quantize config.json --out DIR` writes the quantized "
            "model.",
            elem_id="about-config",
        )
        with gr.Row():
            self.export = gr.Button(
                "Download config (JSON)", variant="primary", elem_id="export", size="md"
            )
            self.config = gr.UploadButton(
                "Load a config", file_types=[".json"], elem_id="import", size="md"
            )
        self.file = gr.DownloadButton("The config", elem_id="file", visible="hidden")
        self.starters = [self.config]

    def wire(self) -> None:
        # A DownloadButton downloads what it held when it was clicked: fill a hidden one first.
        exported = self.events.on(
            self.export.click, self.write, [], failing={self.file: None}, outputs=[self.file]
        )
        exported.success(
            None,
            self.file,
            js="file => file && setTimeout(() => document.querySelector('#file').click(), 50)",
        )
        self.events.job(self.config.upload, self.load, {self.config})

    def write(self, s: Situation) -> Answer:
        s.quantizer  # noqa: B018  (raises where it is impossible)
        config = s.config()
        average = sum(config.bits_per_layer) / config.num_layers
        name = f"lwq-{Path(config.model_id).name}-{average:.2f}bit.json"
        content = CONFIG_EXPORTS["json"].text(config).encode()
        # Into the folder that Gradio serves from: a file beside it would be copied there, and stay.
        path = save_bytes_to_cache(content, name, self.file.GRADIO_CACHE)
        return Answer(updates={self.file: path})

    def load(self, s: Situation, user: str) -> Iterator[Updates]:
        """Brings model, pins, order and budget back."""
        if (path := s.values[self.config]) is None:
            raise UserError("Choose a config (JSON) to load.")
        config = read_usable_config(path)
        session, info, wanted = s.session, s.session.info, {}
        if info is None or (info.fingerprint, info.dtype) != (config.fingerprint, config.dtype):
            choice = ModelChoice(config.model_id, "auto", config.dtype)
            text = self.server.shipped_text
            work = load_and_score(self.server, user, choice, lambda: text, config)
            arrived = yield from self.events.follow(user, work)
            session, wanted = arrived.session(self.server), arrived.controls(s)
        s = replace(s, session=replace(session, truth=None, looked=None))
        check_fingerprint(config, s.info)
        session, controls, message = restore_config(s, config)
        wanted |= {name: getattr(controls, name) for name in RESTORED}
        if lacking := controls.quantizer.missing_text(self.server.store):
            message = f"{message} {lacking}"
        session = session.wanting(**wanted, model=session.choice)
        yield {self.strip.session: session} | self.strip.idle(user, message)
