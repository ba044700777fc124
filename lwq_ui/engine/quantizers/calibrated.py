"""What quantizers share that look at what passes through the model."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Generator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.run import Run
from ...core.settings import ASSETS
from ..texts import MAX_DOCUMENTS, MAX_TOKENS, Text, read_calibration, tokenize
from .base import Option, Quantizer

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

    It calibrates on the first `documents` of the text that comes with the program, cut at `tokens`
    each. So TEXT_OPTIONS are among its options."""

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
        on the way. Its consumer keeps each before it asks for the next, and closes the generator
        in the end:

            with closing(quantizer.calibrate(loaded, [(0, 4), (1, 4)], run, None)) as layers:
                for layer, level, packed in layers:
                    keep(layer, level, packed)

        In `folder` it may keep what it needs to go on after a stop; None means nowhere. It is only
        called where nothing is `missing`. Raises Stopped, and UserError where this model cannot be
        calibrated."""

    @cached_property
    def text(self) -> Text:
        whole = read_calibration(ASSETS)
        return Text(whole.name, whole.documents[: self.chosen["documents"]])

    @property
    def details(self) -> Mapping[str, Any]:
        return {
            "text": self.text.digest,
            "documents": len(self.text.documents),
            "tokens": self.chosen["tokens"],
        }

    def sequences(self, loaded: LoadedModel) -> list[list[int]]:
        """Returns the text's token ids, a list for each document."""
        return tokenize(loaded, self.text, self.chosen["tokens"])
