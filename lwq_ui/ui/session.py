"""What the page knows for one browser."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ..core.allocation import Split
from ..core.built_in import DEMO
from ..core.schema import Evaluation, ModelInfo, Scores
from ..core.writing import Written
from ..engine.quantizers import Quantizer
from ..engine.texts import Text

if TYPE_CHECKING:
    from ..engine.jobs import Looked, Truth

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


@dataclass(frozen=True, eq=False)
class Wanted:
    """Controls that a job sets, by their names in Controls. The page is drawn by them once."""

    controls: Mapping[str, Any]


@dataclass(frozen=True)
class Forecast:
    """How long a sweep takes, in words, and what it was said of: it holds for nothing else."""

    subject: Any
    text: str


@dataclass(frozen=True)
class Session:
    """One browser's model, its scores and its results.

    `evaluations` are those that were stored when the model was chosen, and this session's own.
    Other people's results do not appear in between. `early` ones rest on a part of the items, from
    a sweep that runs or was stopped. `scores` are those of the model, by scorer, and `level_scores`
    those of a level, by level and scorer.
    `measured` is the split that was evaluated last, `truth` what its weights really took, with the
    peak of memory. `texts` are what models wrote, also unfinished, by the digests of their keys. A
    model that is `streamed` is read from the disk layer by layer. `looked` is a model on the card
    that is not loaded.
    """

    choice: ModelChoice
    info: ModelInfo | None = None
    text: Text | None = None
    scores: Mapping[str, Scores] | None = None
    level_scores: Mapping[Level, Mapping[str, Scores]] = field(default_factory=dict)
    evaluations: tuple[Evaluation, ...] = ()
    early: tuple[Evaluation, ...] = ()
    measured: Split | None = None
    truth: tuple[Truth, int | None] | None = None
    texts: Mapping[str, Written] = field(default_factory=dict)
    streamed: bool = False
    looked: Looked | None = None
    forecast: Forecast | None = None
    wanted: Wanted | None = None

    @property
    def chat(self) -> bool:
        """Whether everything is in the model's chat template: scores, results and writing."""
        return self.text is not None and self.text.chat

    def with_evaluations(
        self, new: Iterable[Evaluation], early: Iterable[Evaluation] = ()
    ) -> Session:
        """Returns the session with more results. A whole one replaces an early one."""
        finished = {identity(e): e for e in (*self.evaluations, *new)}
        rest = {identity(e): e for e in (*self.early, *early) if identity(e) not in finished}
        return replace(self, evaluations=tuple(finished.values()), early=tuple(rest.values()))

    def scores_at(self, level: Level) -> dict[str, Scores]:
        """Returns the model's scores and those that were measured at this level, by scorer."""
        return {**(self.scores or {}), **self.level_scores.get(level, {})}

    def with_level_scores(self, level: Level, scores: Mapping[str, Scores]) -> Session:
        merged = {**self.level_scores.get(level, {}), **scores}
        return replace(self, level_scores={**self.level_scores, level: merged})

    def wanting(self, **controls: Any) -> Session:
        """Returns the session that sets controls when the page is drawn next."""
        return replace(self, wanted=Wanted(controls))


def identity(e: Evaluation) -> tuple[Any, ...]:
    """A measurement made again replaces the one before."""
    return e.task, e.split, e.quantizer, e.limit, e.chat_template
