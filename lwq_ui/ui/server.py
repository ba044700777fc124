"""What all browsers share: the store, the worker, the models in memory and the tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from ..core.built_in import ON_DEMO, Opening
from ..core.errors import UserError
from ..core.orderings import QUICK_SCORERS, SCORERS
from ..core.run import Run
from ..core.schema import Evaluation, ModelInfo, Scores
from ..core.settings import Settings
from ..core.store import Store
from ..engine import records
from ..engine.checkpoints.finding import find
from ..engine.quantizers import quantizer_named
from ..engine.tasks import own_tasks, tasks
from ..engine.tasks.base import Task
from ..engine.tasks.lm_eval_tasks import Registered
from ..engine.tasks.presets import PRESETS, expand
from ..engine.texts import Text, calibration_text
from .session import Level, ModelChoice, OtherModel, Session
from .shelf import Shelf, free_memory
from .worker import Worker

if TYPE_CHECKING:
    from ..engine.devices import Device


class Server:
    """Everything behind the page that is not one browser's. `opening` is the model that the page
    opens on."""

    def __init__(self, settings: Settings, opening: Opening = ON_DEMO):
        self.settings = settings
        self.opening = opening
        self.store = Store(settings.cache, settings.shipped, settings.bank_limit)
        self.worker = Worker(settings, self.store, free_memory)
        self.shelf = Shelf()
        self.devices: list[Device] = []  # this machine's, once a job has looked
        self.tasks: dict[str, Task] = tasks(settings)
        self.own_tasks = own_tasks(settings)
        self.other_tasks = {name: Registered(name) for name in expand(PRESETS)}
        self.shipped_text = calibration_text(None, settings)

    def opening_session(self) -> Session:
        """Returns the model that the page opens on, with its scores where they ship.

        What was measured is read when a browser opens the page: it is hundreds of files, and may be
        more by then.
        """
        session = Session(ModelChoice(self.opening.model), text=self.shipped_text)
        source = find(self.opening.model, Run(self.settings, self.store))
        info = records.known_info(source, session.choice.dtype, self.store)
        if info is None:
            return session
        scores = records.known_scores(info, self.shipped_text, self.store)
        if not scores.keys() >= set(QUICK_SCORERS):
            return session
        level_scores = self.known_level_scores(info, session.text)
        return replace(session, info=info, scores=scores, level_scores=level_scores)

    def with_model(
        self, session: Session, info: ModelInfo, scores: Mapping[str, Scores]
    ) -> Session:
        """Returns the session with another model, and what the store has of it."""
        return replace(
            session,
            info=info,
            scores=scores,
            early=(),
            measured=None,
            truth=None,
            looked=None,
            forecast=None,
            level_scores=self.known_level_scores(info, session.text),
            evaluations=tuple(self.known_evaluations(info)),
        )

    def known_evaluations(self, info: ModelInfo) -> list[Evaluation]:
        return records.known_evaluations(info, {**self.other_tasks, **self.tasks}, self.store)

    def known_level_scores(
        self, info: ModelInfo, text: Text | None
    ) -> dict[Level, dict[str, Scores]]:
        """Returns the scores of every level that was measured on the text that the session
        calibrates on, by level and scorer."""
        by_level: dict[Level, dict[str, Scores]] = {}
        if text is None:
            return by_level
        for parts, scores in self.store.find("scores", info.fingerprint, Scores.from_json):
            spec, name, level = SCORERS.get(scores.scorer), scores.quantizer, scores.level
            if spec is None or not spec.measures_level or name is None or level is None:
                continue
            try:
                quantizer = quantizer_named(name)
            except UserError:  # of another version of this program
                continue
            key = records.scores_key(info, spec.name, text, None, quantizer, level)
            if replace(key, parts=parts).digest == key.digest:
                by_level.setdefault((quantizer, level), {})[spec.name] = scores
        return by_level

    def other_models(self, info: ModelInfo) -> list[ModelInfo]:
        """Returns every other model that was measured, whatever session measured it."""
        measured = self.store.fingerprints("evaluations") - {info.fingerprint}
        return [
            other
            for fingerprint in sorted(measured)
            for other in records.known_infos(fingerprint, self.store)
        ]

    def other_model(self, info: ModelInfo, chat: bool) -> OtherModel:
        text = replace(self.shipped_text, chat=chat)
        scores = records.known_scores(info, text, self.store)
        return OtherModel(info, scores, tuple(self.known_evaluations(info)))
