"""The models in memory, shared by everybody."""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.run import Run
from .session import ModelChoice

if TYPE_CHECKING:
    from ..engine.models.loading import LoadedModel


class Shelf:
    """Models in memory. A model is shared by all users who chose it, under whatever name. It leaves
    when the last of them has chosen another one or gone."""

    def __init__(self) -> None:
        self._models: dict[ModelChoice, LoadedModel] = {}
        self._users: dict[str, ModelChoice | None] = {}
        self._arriving: Callable[[], LoadedModel | None] = lambda: None
        self._lock = threading.Lock()

    def load(self, choice: ModelChoice, run: Run) -> LoadedModel:
        """Returns the model as its files are now; loads it if nobody has it yet. Runs in the
        worker's thread."""
        from ..engine import jobs
        from ..engine.devices import resolve_device

        present = self._models.get(choice)
        if present and present.is_current(run):
            return present
        info = jobs.describe(choice.model_id, choice.dtype, run)
        key = (info.fingerprint, resolve_device(choice.device), info.dtype)
        for loaded in self.models():
            if loaded.key == key:  # one copy, under the name that this user gave it
                return replace(loaded, info=replace(loaded.info, model_id=info.model_id))
        loaded = jobs.load(choice.model_id, choice.device, choice.dtype, run)
        self._arriving = weakref.ref(loaded)
        return loaded

    def present(self, choice: ModelChoice) -> LoadedModel | None:
        """Returns a model that is in memory, else None."""
        return self._models.get(choice)

    def device(self, choice: ModelChoice) -> str:
        """Returns where a model is, or where it shall be while it is not in memory."""
        present = self._models.get(choice)
        return present.device if present else choice.device

    def models(self) -> list[LoadedModel]:
        return list(self._models.values())

    def banks(self) -> list[Path]:
        """Returns the folders of their packed layers. A model that is scored before it arrives has
        some, too."""
        models = [*self.models(), *filter(None, [self._arriving()])]
        banks = [bank for model in models for bank in list(model.banks.values())]
        return [bank.folder for bank in banks if bank.folder]

    def come(self, user: str) -> None:
        with self._lock:
            self._users.setdefault(user, None)

    def join(self, user: str, choice: ModelChoice) -> bool:
        """Makes the model the user's where it is in memory already. Returns whether it is."""
        with self._lock:
            if choice in self._models:
                self._users[user] = choice
                return True
            return False

    def assign(self, user: str, choice: ModelChoice, loaded: LoadedModel) -> None:
        """Makes the model the user's. Until then they keep the one they had. A user who has left
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
