"""Lets the original and three splits go on from a prompt, so that what is lost can be read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from ...core.allocation import Split
from ...core.errors import Stopped, UserError
from ...core.lossless import LOSSLESS
from ...core.memory import UNTOUCHED
from ...core.schema import split_name
from ...core.writing import SPLITS_READ, Prompt, Written, first_difference, splits_to_read
from ...engine import records
from ...engine.banks.packing_cost import why_not_packed
from ..loading import loaded_model
from ..modelcard import TOO_LARGE
from ..situation import Situation
from ..strip import Updates
from ..templates import render
from ..worker import Job
from .base import Panel

USUAL = Prompt()
GO_ON, ANSWER = "All models go on from here", "All models answer this, in the chat template"
NOT_YET = "Not written yet."


@dataclass(frozen=True)
class Texts:
    """What stands side by side: the original's text, then each split's. None: not written yet."""

    prompt: Prompt
    splits: Sequence[Split]
    written: Mapping[Split, Written]
    growing: Split | None = None

    def with_text(self, split: Split, written: Written) -> Texts:
        return replace(self, written={**self.written, split: written}, growing=split)


class WritePanel(Panel):
    name = "write"

    def build(self) -> None:
        self.prompt = gr.Textbox(USUAL.text, label=GO_ON, lines=2, elem_id="prompt")
        with gr.Row(equal_height=True):
            self.seed = gr.Number(
                USUAL.seed, label="Seed", precision=0, elem_id="write-seed", min_width=90
            )
            self.length = gr.Slider(
                *(10, 400),
                value=USUAL.tokens,
                step=10,
                label="Tokens",
                elem_id="length",
                scale=2,
                min_width=160,
            )
        self.write = gr.Button(
            f"Write with the original and {SPLITS_READ} splits",
            variant="primary",
            elem_id="write",
            size="md",
        )
        self.texts = gr.HTML(elem_id="texts")
        self.inputs = {self.prompt, self.seed, self.length}
        self.starters = [self.write]

    def draw(self, s: Situation) -> Updates:
        try:
            html = texts_html(s, self.texts_of(s))
        except UserError:  # the budget is too small, which the bar says
            html = ""
        label = ANSWER if s.session.chat else GO_ON
        return {self.prompt: gr.update(label=label), self.texts: html}

    def texts_of(self, s: Situation) -> Texts:
        """Returns what was written of the slider's split and of those beside it. Raises UserError
        where the budget is too small."""
        controls, info, prompt = s.controls, s.info, self.prompt_of(s)
        split = s.split
        splits = [
            (UNTOUCHED,) * len(split),
            *splits_to_read(controls.quantizer, controls.levels, split, s.usability),
        ]
        texts = Texts(prompt, splits, {})
        for one in splits:
            key = records.text_key(info, one, controls.quantizer, prompt)
            stored = self.server.store.read(key, Written.from_json)
            if written := stored or s.session.texts.get(key.digest):
                texts = texts.with_text(one, written)
        return replace(texts, growing=None)

    def prompt_of(self, s: Situation) -> Prompt:
        seed, length = s.values[self.seed], s.values[self.length]
        return Prompt(s.values[self.prompt], int(seed or 0), int(length), s.session.chat)

    def wire(self) -> None:
        changed = [self.prompt.blur, self.seed.input, self.length.release]
        self.events.on(changed, draws=["write"], chosen=False)
        self.events.job(self.write.click, self.write_all)

    def write_all(self, s: Situation, user: str) -> Iterator[Updates]:
        quantizer, texts = s.quantizer, self.texts_of(s)
        if why := why_not_packed(s.info, quantizer, texts.splits[1:], self.server.store):
            raise UserError(why)
        seen = texts  # what was written when the job ended, however it did

        def work(job: Job) -> None:
            nonlocal seen
            from ...engine import jobs

            loaded = loaded_model(self.server, s.session, user, job)
            for split in texts.splits:
                if loaded.streamed and set(split) == {UNTOUCHED}:
                    continue
                for written in jobs.generate(loaded, split, quantizer, texts.prompt, job.run):
                    job.partial = seen = seen.with_text(split, written)

        def shown(partial: Texts) -> Updates:
            return {self.texts: texts_html(s, partial)}

        try:
            yield from self.events.follow(user, work, shown)
        except (Stopped, UserError):
            yield {self.strip.session: with_texts(s, seen)}
            raise
        room = min((w.room for w in seen.written.values()), default=texts.prompt.tokens)
        less = f" {room} tokens, for with the prompt this model has no room for more."
        message = "Written." + less * (room < texts.prompt.tokens)
        yield {self.strip.session: with_texts(s, seen)} | self.strip.idle(user, message)


def with_texts(s: Situation, texts: Texts) -> Any:
    """Returns the session with what was written: a cache that cannot be written has none of it."""
    keys = {
        records.text_key(s.info, split, s.controls.quantizer, texts.prompt).digest: written
        for split, written in texts.written.items()
    }
    return replace(s.session, texts={**s.session.texts, **keys})


def texts_html(s: Situation, texts: Texts) -> str:
    """Returns the texts side by side, each tinted from where it leaves the original's."""
    original = texts.written.get(texts.splits[0])
    shown = [text_shown(s, texts, split, original) for split in texts.splits]
    tinted = any(text["rest"] for text in shown)
    return render("texts.html", texts=shown, tinted=tinted, origin=s.info.origin.sentence)


def back_text(s: Situation, split: Split) -> str:
    """Returns 'Lossless by construction.' of a split that only gives the file's weights back."""
    back = s.given_back.is_whole(s.controls.quantizer.name, split)
    return f"{LOSSLESS.capitalize()}." if back else ""


def text_shown(
    s: Situation, texts: Texts, split: Split, original: Written | None
) -> dict[str, str]:
    """Returns a text's title, what is to be said of its split, and its text in two parts."""
    untouched, written = set(split) == {UNTOUCHED}, texts.written.get(split)
    title = "Original" if untouched else split_name(split).capitalize()
    title += ", the slider's" * (split == s.split)
    verdict = s.usability.lost(s.controls.quantizer.name, split)
    shown = {
        "name": f"text-{texts.splits.index(split)}",
        "title": title,
        "remark": f"Lost: {verdict.reason}." if verdict else back_text(s, split),
        "same": NOT_YET,
        "rest": "",
    }
    if written is None:
        return shown | {"same": TOO_LARGE} if untouched and s.session.streamed else shown
    text, begun = written.text, "" if texts.prompt.chat else texts.prompt.text
    at = len(text)
    if original and not untouched:
        at = first_difference(original.text, text, finished=split != texts.growing)
    return shown | {"same": begun + text[:at], "rest": text[at:]}
