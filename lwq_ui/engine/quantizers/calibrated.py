"""Quantizers that look at what passes through the model: what they share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from ...core.run import Run
from ...core.settings import Settings
from ..texts import MAX_DOCUMENTS, MAX_TOKENS, Text, shipped_calibration, tokenize
from .base import Option, Quantizer

if TYPE_CHECKING:
    from ..banks.bank import Bank
    from ..models.loading import LoadedModel

TEXT_OPTIONS: Mapping[str, Option] = {
    "documents": Option("Documents", "{} documents", MAX_DOCUMENTS, most=MAX_DOCUMENTS),
    "tokens": Option("Tokens of each", "{} tokens of each", MAX_TOKENS, most=4096),
}


@cache
def shipped_text() -> Text:
    return shipped_calibration(Settings.from_environment())


class Calibrated(Quantizer):
    """Calibrates on the shipped text: the first `documents` of it, cut at `tokens` each."""

    calibrated = True

    @abstractmethod
    def calibrate(self, bank: Bank, wanted: Sequence[tuple[int, float]], run: Run) -> None: ...

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
