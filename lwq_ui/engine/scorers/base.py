"""What every scorer is."""

from __future__ import annotations

from abc import ABC, abstractmethod

from ..layer_pass import Rider


class LayerScorer(Rider, ABC):
    """Scores a layer by what is to be seen of it while it is at hand."""

    @abstractmethod
    def value(self) -> float: ...
