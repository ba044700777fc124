"""Says on standard error what is beyond use, by what was measured of a model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..core.allocation import Split
from ..core.run import Run
from ..core.schema import Evaluation, ModelInfo
from ..core.usability import Usability
from ..engine import records
from ..engine.quantizers import Quantizer, quantizers_of
from ..engine.tasks import tasks
from .terminal import print_note


class Ruins:
    """What the store has of a model, and what is measured meanwhile. Each sentence is said once."""

    def __init__(self, info: ModelInfo, run: Run):
        own = tasks(run.settings)
        self.info = info
        self.evaluations = records.known_evaluations(info, own, run.store)
        self.titles = {name: task.title for name, task in own.items()}
        self._said: set[str] = set()

    def print_levels(
        self, quantizer: Quantizer, levels: Sequence[float], measured: Iterable[Evaluation] = ()
    ) -> None:
        """Says which of the levels is lost in all layers."""
        self.evaluations += measured
        n = self.info.num_layers
        self._print(self._usability.of_levels(quantizer, levels, n, self._quantizers))

    def print_split(
        self,
        quantizer: Quantizer,
        splits: Sequence[Split],
        position: int = 0,
        measured: Iterable[Evaluation] = (),
    ) -> None:
        """Says whether the split at `position` of nested ones is lost."""
        self.evaluations += measured
        self._print(self._usability.of_split(quantizer, splits, position, self._quantizers))

    @property
    def _usability(self) -> Usability:
        return Usability(self.evaluations, self.titles)

    @property
    def _quantizers(self) -> set[Quantizer]:
        return quantizers_of(self.evaluations)

    def _print(self, sentence: str) -> None:
        if sentence and sentence not in self._said:
            self._said.add(sentence)
            print_note(sentence)
