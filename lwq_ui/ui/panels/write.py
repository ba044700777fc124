"""Lets both models go on from a prompt."""

from __future__ import annotations

from collections.abc import Iterator

import gradio as gr

from ...core.errors import UserError
from ...core.schema import split_name
from ...engine.banks.packing_cost import why_not_packed
from ..loading import loaded_model
from ..modelcard import TOO_LARGE
from ..situation import Situation
from ..strip import Updates
from ..worker import Job
from .base import Panel

PROMPT = "The old house stood at the end of the lane, and"
GO_ON, ANSWER = "Both models go on from here", "Both models answer this, in the chat template"


class WritePanel(Panel):
    name = "write"

    def build(self) -> None:
        self.prompt = gr.Textbox(PROMPT, label=GO_ON, lines=2, elem_id="prompt")
        with gr.Row(equal_height=True):
            self.seed = gr.Number(1, label="Seed", precision=0, elem_id="write-seed", min_width=90)
            self.length = gr.Slider(
                10, 400, value=80, step=10, label="Tokens", elem_id="length", scale=2, min_width=160
            )
        self.write = gr.Button("Write with both", variant="primary", elem_id="write", size="md")
        with gr.Row(equal_height=True):
            self.original, self.quantized = (
                gr.Textbox(
                    label=label,
                    lines=8,
                    max_lines=20,
                    elem_id=name,
                    interactive=False,
                    min_width=260,
                )
                for name, label in (("original", "Unquantized"), ("quantized", "Quantized"))
            )
        self.starters = [self.write]

    def draw(self, s: Situation) -> Updates:
        return {self.prompt: gr.update(label=ANSWER if s.session.chat else GO_ON)}

    def wire(self) -> None:
        extra = {self.prompt, self.seed, self.length}
        self.events.job(self.write.click, self.write_with_both, extra)

    def write_with_both(self, s: Situation, user: str) -> Iterator[Updates]:
        quantizer, split, prompt = s.quantizer, s.split, s.values[self.prompt]
        if why := why_not_packed(s.info, quantizer, [split], self.server.store):
            raise UserError(why)
        seed, length = int(s.values[self.seed] or 0), int(s.values[self.length])
        room, chat = length, s.session.chat
        begun = "" if chat else prompt

        def work(job: Job) -> tuple[str, str]:
            nonlocal room
            from ...engine import jobs
            from ...engine.generation import fit_prompt

            loaded = loaded_model(self.server, s.session, user, job)
            room = fit_prompt(loaded, prompt, length, chat)[1]
            texts = jobs.generate(loaded, split, quantizer, prompt, seed, length, job.run, chat)
            for original, quantized in texts:
                whole = TOO_LARGE if loaded.streamed else begun + original
                job.partial = whole, begun + quantized
            return job.partial or (begun, begun)

        def written(texts: tuple[str, str]) -> Updates:
            return {self.original: texts[0], self.quantized: texts[1]}

        label = f"Quantized: {split_name(split)}"
        yield {self.original: "", self.quantized: gr.update(value="", label=label)}
        texts = yield from self.events.follow(user, work, written)
        less = f" {room} tokens, for with the prompt this model has no room for more."
        yield written(texts) | self.strip.idle(user, "Written." + less * (room < length))
