"""Quantizers that look at what passes through the model: what they share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Generator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.run import Run
from ...core.settings import Settings
from ..texts import MAX_DOCUMENTS, MAX_TOKENS, Text, shipped_calibration, tokenize
from .base import Option, Quantizer

if TYPE_CHECKING:
    from ..models.loading import LoadedModel

PackedLayers = Generator[tuple[int, float, dict[str, Any]], None, None]
"""Yields (layer, level, weight name -> packed weight)."""

TEXT_OPTIONS: Mapping[str, Option] = {
    "documents": Option("Documents", "{} documents", MAX_DOCUMENTS, most=MAX_DOCUMENTS),
    "tokens": Option("Tokens of each", "{} tokens of each", MAX_TOKENS, most=4096),
}


@cache
def shipped_text() -> Text:
    return shipped_calibration(Settings.from_environment())


class Calibrated(Quantizer):
    """Packs layers by looking at what passes through the model, in a pass of its own.

    It calibrates on the shipped text: the first `documents` of it, cut at `tokens` each."""

    calibrated = True

    @abstractmethod
    def calibrate(
        self,
        loaded: LoadedModel,
        wanted: Sequence[tuple[int, float]],
        run: Run,
        folder: Path | None,
    ) -> PackedLayers:
        """Yields each of these (layer, level) as soon as it is packed, and others that are packed
        on the way. Whoever takes one keeps it before asking for the next, and closes the generator
        where no more are taken:

            with closing(quantizer.calibrate(loaded, [(0, 4), (1, 4)], run, None)) as layers:
                for layer, level, packed in layers:
                    keep(layer, level, packed)

        `folder` is where it may keep what it needs to go on after a stop; None for nowhere. Raises
        Stopped, and UserError where this model cannot be calibrated. Only called where nothing is
        `missing`."""

    @property
    def text(self) -> Text:
        whole = shipped_text()
        return Text(whole.name, whole.documents[: self.chosen["documents"]])

    @property
    def details(self) -> Mapping[str, Any]:
        text = self.text
        return {
            "text": text.digest,
            "documents": len(text.documents),
            "tokens": self.chosen["tokens"],
        }

    def sequences(self, loaded: LoadedModel) -> list[list[int]]:
        return tokenize(loaded, self.text, self.chosen["tokens"])
