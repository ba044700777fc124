"""What the page knows: the models in memory, shared by everybody, and one session per browser."""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.allocation import Split
from ..core.errors import UserError
from ..core.orderings import QUICK_SCORERS
from ..core.run import Run
from ..core.schema import Evaluation, ModelInfo, Scores
from ..core.settings import Settings
from ..core.store import Store
from ..engine import records
from ..engine.checkpoints.source import DEMO, find
from ..engine.quantizers import Quantizer, quantizer_named
from ..engine.tasks import tasks
from ..engine.tasks.base import Task
from ..engine.tasks.lm_eval_tasks import Registered
from ..engine.tasks.presets import PRESETS, expand
from ..engine.texts import Text, calibration_text
from .worker import Worker

if TYPE_CHECKING:
    from ..engine.devices import Device
    from ..engine.models.loading import LoadedModel


@dataclass(frozen=True)
class Choice:
    """Which model, where: what the user typed."""

    model_id: str = DEMO
    device: str = "auto"
    dtype: str = "auto"


Level = tuple[Quantizer, float]  # a quantizer and a level of it


@dataclass(frozen=True)
class OtherModel:
    """A second model to draw beside the session's: what the store has of it."""

    info: ModelInfo
    scores: Mapping[str, Scores]
    evaluations: tuple[Evaluation, ...]


@dataclass(frozen=True)
class Session:
    """One browser's view. `evaluations` are those that were known when the model was chosen, and
    this session's own: other people's results do not appear in between. `early` ones rest on a part
    of the items, from a sweep that runs or was stopped. `sensitivity` is measured per level, not
    per model as `scores` are."""

    choice: Choice
    info: ModelInfo | None = None
    text: Text | None = None
    scores: Mapping[str, Scores] | None = None
    sensitivity: Mapping[Level, Scores] = field(default_factory=dict)
    evaluations: tuple[Evaluation, ...] = ()
    early: tuple[Evaluation, ...] = ()
    measured: Split | None = None  # the split that was evaluated last
    streamed: bool = False  # its layers are read from the disk as they are needed

    def with_evaluations(
        self, new: Iterable[Evaluation], early: Iterable[Evaluation] = ()
    ) -> Session:
        finished = {identity(e): e for e in (*self.evaluations, *new)}
        rest = {identity(e): e for e in (*self.early, *early) if identity(e) not in finished}
        return replace(self, evaluations=tuple(finished.values()), early=tuple(rest.values()))

    def scores_at(self, level: Level) -> dict[str, Scores]:
        """The model's scores and, where it was measured, this level's sensitivity."""
        known = dict(self.scores or {})
        if level in self.sensitivity:
            known["sensitivity"] = self.sensitivity[level]
        return known


def identity(e: Evaluation) -> tuple[Any, ...]:
    """A measurement made again replaces the one before."""
    return e.task, e.split, e.quantizer, e.limit


class Shelf:
    """Models in memory. A model is shared by all sessions that chose it, under whatever name, and
    leaves when the last of them has chosen another one or gone."""

    def __init__(self) -> None:
        self._models: dict[Choice, LoadedModel] = {}
        self._users: dict[str, Choice | None] = {}
        self._arriving: Callable[[], LoadedModel | None] = lambda: None
        self._lock = threading.Lock()

    def load(self, choice: Choice, run: Run) -> LoadedModel:
        """The model as its files are now, loaded if nobody has it yet. Runs in the worker
        thread."""
        from ..engine import jobs
        from ..engine.devices import resolve_device

        known = self._models.get(choice)
        if known and known.is_current(run):
            return known
        info = jobs.describe(choice.model_id, choice.dtype, run)
        key = (info.fingerprint, resolve_device(choice.device), info.dtype)
        for loaded in self.models():
            if loaded.key == key:  # one copy, under the name that this user gave it
                return replace(loaded, info=replace(loaded.info, model_id=info.model_id))
        loaded = jobs.load(choice.model_id, choice.device, choice.dtype, run)
        self._arriving = weakref.ref(loaded)
        return loaded

    def device(self, choice: Choice) -> str:
        """Where a model is; where it shall be, as long as it is not in memory."""
        known = self._models.get(choice)
        return known.device if known else choice.device

    def models(self) -> list[LoadedModel]:
        return list(self._models.values())

    def banks(self) -> list[Path]:
        """The folders of their packed layers, and of a model that is scored before it arrives."""
        models = [*self.models(), *filter(None, [self._arriving()])]
        return [bank.folder for m in models for bank in list(m.banks.values())]

    def come(self, user: str) -> None:
        with self._lock:
            self._users.setdefault(user, None)

    def join(self, user: str, choice: Choice) -> bool:
        """Makes the model the user's where it is in memory already."""
        with self._lock:
            if choice in self._models:
                self._users[user] = choice
                return True
            return False

    def assign(self, user: str, choice: Choice, loaded: LoadedModel) -> None:
        """The user's model from now on; until then they keep the one they had. A user who has left
        meanwhile gets none, since they would never give it back."""
        with self._lock:
            if user in self._users:
                self._models[choice] = loaded
                self._users[user] = choice
        self._sweep()

    def leave(self, user: str) -> None:
        with self._lock:
            self._users.pop(user, None)
        self._sweep()

    def _sweep(self) -> None:
        with self._lock:
            unused = set(self._models) - set(self._users.values())
            for choice in unused:
                del self._models[choice]
        if unused:
            free_memory()


def free_memory() -> None:
    """Gives what is no longer used back to the device; without torch there is nothing to give."""
    if "torch" in sys.modules:
        from ..engine.devices import release_memory

        release_memory()


class Page:
    """Everything behind the page that is not per browser."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self.store = Store(settings.cache, settings.shipped, settings.bank_limit)
        self.worker = Worker(settings, self.store, free_memory)
        self.shelf = Shelf()
        self.devices: list[Device] = []  # this machine's, once a job has looked
        self.tasks: dict[str, Task] = tasks(settings)
        self.other_tasks = {name: Registered(name) for name in expand(PRESETS)}
        self.shipped_text = calibration_text(None, settings)

    def opening_session(self) -> Session:
        """The demo model, with its scores where they ship with the program. What was measured is
        read when a browser opens the page: it is hundreds of files, and may be more by then."""
        session = Session(Choice(), text=self.shipped_text)
        source = find(DEMO, Run(self.settings, self.store))
        info = records.known_info(source, session.choice.dtype, self.store)
        if info is None:
            return session
        scores = records.known_scores(info, self.shipped_text, self.store)
        if not scores.keys() >= set(QUICK_SCORERS):
            return session
        sensitivity = self.known_sensitivity(info, session.text)
        return replace(session, info=info, scores=scores, sensitivity=sensitivity)

    def with_model(
        self, session: Session, info: ModelInfo, scores: Mapping[str, Scores]
    ) -> Session:
        session = replace(session, info=info, scores=scores, early=(), measured=None)
        return replace(
            session,
            sensitivity=self.known_sensitivity(info, session.text),
            evaluations=tuple(self.known_evaluations(info)),
        )

    def known_evaluations(self, info: ModelInfo) -> list[Evaluation]:
        return records.known_evaluations(info, {**self.other_tasks, **self.tasks}, self.store)

    def known_sensitivity(self, info: ModelInfo, text: Text | None) -> dict[Level, Scores]:
        """Of the text that the session calibrates on, at every level that was measured."""
        known: dict[Level, Scores] = {}
        if text is None:
            return known
        for parts, scores in self.store.find("scores", info.fingerprint, Scores.from_json):
            name, level = scores.quantizer, scores.level
            if scores.scorer != "sensitivity" or name is None or level is None:
                continue
            try:
                quantizer = quantizer_named(name)
            except UserError:  # of another version of this program
                continue
            key = records.scores_key(info, "sensitivity", text, None, quantizer, level)
            if replace(key, parts=parts).digest == key.digest:
                known[quantizer, level] = scores
        return known

    def other_models(self, info: ModelInfo) -> list[ModelInfo]:
        """Every other model that was measured, whatever session measured it."""
        measured = self.store.fingerprints("evaluations") - {info.fingerprint}
        return [
            other
            for fingerprint in sorted(measured)
            for other in records.known_infos(fingerprint, self.store)
        ]

    def other_model(self, info: ModelInfo) -> OtherModel:
        scores = records.known_scores(info, self.shipped_text, self.store)
        return OtherModel(info, scores, tuple(self.known_evaluations(info)))
