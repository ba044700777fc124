"""What the page knows for one browser."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..core.allocation import Split
from ..core.schema import Evaluation, ModelInfo, Scores
from ..engine.checkpoints.source import DEMO
from ..engine.quantizers import Quantizer
from ..engine.texts import Text

Level = tuple[Quantizer, float]  # a quantizer and a level of it


@dataclass(frozen=True)
class ModelChoice:
    """Which model, where: what the user typed."""

    model_id: str = DEMO
    device: str = "auto"
    dtype: str = "auto"


@dataclass(frozen=True)
class OtherModel:
    """A second model to draw beside the session's: what the store has of it."""

    info: ModelInfo
    scores: Mapping[str, Scores]
    evaluations: tuple[Evaluation, ...]


@dataclass(frozen=True)
class Session:
    """One browser's model, its scores and its results.

    `evaluations` are those that were stored when the model was chosen, and this session's own.
    Other people's results do not appear in between. `early` ones rest on a part of the items, from
    a sweep that runs or was stopped. `sensitivity` is measured per level, `scores` per model.
    `measured` is the split that was evaluated last. A model that is `streamed` is read from the
    disk layer by layer.
    """

    choice: ModelChoice
    info: ModelInfo | None = None
    text: Text | None = None
    scores: Mapping[str, Scores] | None = None
    sensitivity: Mapping[Level, Scores] = field(default_factory=dict)
    evaluations: tuple[Evaluation, ...] = ()
    early: tuple[Evaluation, ...] = ()
    measured: Split | None = None
    streamed: bool = False

    def with_evaluations(
        self, new: Iterable[Evaluation], early: Iterable[Evaluation] = ()
    ) -> Session:
        """Returns the session with more results. A whole one replaces an early one."""
        finished = {identity(e): e for e in (*self.evaluations, *new)}
        rest = {identity(e): e for e in (*self.early, *early) if identity(e) not in finished}
        return replace(self, evaluations=tuple(finished.values()), early=tuple(rest.values()))

    def scores_at(self, level: Level) -> dict[str, Scores]:
        """Returns the model's scores and those that were measured at this level."""
        scores = dict(self.scores or {})
        if level in self.sensitivity:
            measured = self.sensitivity[level]
            scores[measured.scorer] = measured
        return scores

    def with_sensitivity(self, level: Level, scores: Scores) -> Session:
        return replace(self, sensitivity={**self.sensitivity, level: scores})


def identity(e: Evaluation) -> tuple[Any, ...]:
    """A measurement made again replaces the one before."""
    return e.task, e.split, e.quantizer, e.limit
