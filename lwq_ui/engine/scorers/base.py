"""The two kinds of scorers: one looks at each layer in a pass, one measures a level of a bank."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from ...core.run import Run
from ..banks.bank import Bank
from ..layer_pass import Rider


class PassScorer(Rider, ABC):
    """Scores a layer by what it sees of it while the layer is at hand.

    All scorers of this kind share one pass over the layers. `Rider` says what they can look at: ZD
    takes the weights in `enter`, LIM the hidden states in `states`.
    """

    @abstractmethod
    def value(self) -> float:
        """Returns the score of the layer just seen, and starts the next layer afresh."""


class LevelScorer(ABC):
    """Scores all layers by what a low level does to them. Its spec has `measures_level`."""

    @abstractmethod
    def scores(
        self, bank: Bank, level: float, sequences: Sequence[Sequence[int]], run: Run
    ) -> list[float]:
        """Returns a score per layer, of `level` in bits as the bank's quantizer packs it.

        `sequences` are token ids, one list per document.
        """
