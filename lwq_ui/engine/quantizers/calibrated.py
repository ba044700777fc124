"""What quantizers share that look at what passes through the model."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Generator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ...core.errors import UserError
from ...core.run import Run
from ...core.settings import ASSETS
from ...core.store import Store
from ..kept_texts import SHIPPED, kept_text, split_reference
from ..texts import MAX_DOCUMENTS, MAX_TOKENS, Text, read_calibration, tokenize
from .base import Option, Quantizer, Value

if TYPE_CHECKING:
    from ..models.loading import LoadedModel

PackedLayers = Generator[tuple[int, float, dict[str, Any]], None, None]
"""Yields (layer, level, weight name -> packed weight)."""

TEXT_OPTIONS: Mapping[str, Option] = {
    "documents": Option("Documents", "{} documents", MAX_DOCUMENTS, most=MAX_DOCUMENTS),
    "tokens": Option("Tokens of each", "{} tokens of each", MAX_TOKENS, most=4096),
}


class Calibrated(Quantizer):
    """Packs layers by looking at what passes through the model, in a pass of its own.

    It calibrates on the first `documents` of a text, cut at `tokens` each. So TEXT_OPTIONS are
    among its options. The text is the one that comes with the program, or a kept one (see
    kept_texts.py). Its reference is then a part of the name: 'gptq:text=my.txt~3~0f1e…'.
    """

    calibrated = True

    def __init__(self, text: str = SHIPPED, **chosen: Value):
        super().__init__(**chosen)
        self.text = text
        self.text_title = "the shipped text"
        self.documents: int = self.chosen["documents"]
        if text != SHIPPED:
            self.text_title, count, self._digest = split_reference(text)
            self.documents = min(self.documents, count)
            self.name += f"{',' if ':' in self.name else ':'}text={text}"
            self.title += f", calibrated on {self.text_title}"

    @abstractmethod
    def calibrate(
        self,
        loaded: LoadedModel,
        wanted: Sequence[tuple[int, float]],
        run: Run,
        folder: Path | None,
    ) -> PackedLayers:
        """Yields each of these (layer, level) as soon as it is packed, and others that are packed
        on the way. Its consumer keeps each before it asks for the next, and closes the generator
        in the end:

            with closing(quantizer.calibrate(loaded, [(0, 4), (1, 4)], run, None)) as layers:
                for layer, level, packed in layers:
                    keep(layer, level, packed)

        In `folder` it may keep what it needs to go on after a stop; None means nowhere. It is only
        called where nothing is `missing`. Raises Stopped, and UserError where this model cannot be
        calibrated."""

    def on_text(self, text: str) -> Self:
        return type(self)(text, **self.chosen)

    @cached_property
    def _shipped(self) -> Text:
        whole = read_calibration(ASSETS)
        return Text(whole.name, whole.documents[: self.documents])

    @property
    def details(self) -> Mapping[str, Any]:
        if self.text != SHIPPED:
            whole = {"text": self._digest, "documents": self.documents}
        else:
            whole = {"text": self._shipped.digest, "documents": len(self._shipped.documents)}
        return {**whole, "tokens": self.chosen["tokens"]}

    def missing_text(self, store: Store) -> str:
        if self.text == SHIPPED or kept_text(self.text, store):
            return ""
        return (
            f"The text '{self.text_title}', which {self.heading} calibrates on, is not in this "
            "cache: name its file with --text, or score the layers on it on the page."
        )

    def sequences(self, loaded: LoadedModel, store: Store) -> list[list[int]]:
        """Returns the text's token ids, a list for each document. Raises UserError where the cache
        lacks the text."""
        if self.text == SHIPPED:
            text: Text | None = self._shipped
        else:
            text = kept_text(self.text, store)
        if text is None:
            raise UserError(self.missing_text(store))
        first = Text(text.name, text.documents[: self.documents], chat=text.chat)
        return tokenize(loaded, first, self.chosen["tokens"])
