"""What every job is given beside its own arguments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from threading import Event

from .errors import Stopped
from .settings import Settings
from .store import Store

Progress = Callable[[str, float | None], None]
"""Called with what is being done and the share of it that is done, None where that is unknown."""


def silent(what: str, share: float | None) -> None:
    """Reports progress to nobody."""


@dataclass(frozen=True)
class Run:
    """One job under way: where its files lie, who hears of its progress, and how it is stopped."""

    settings: Settings
    store: Store
    progress: Progress = silent
    stop: Event = field(default_factory=Event)

    def check(self) -> None:
        """Raises Stopped once the user has asked for that. Called once per layer or batch."""
        if self.stop.is_set():
            raise Stopped

    def part(self, start: float, end: float) -> Run:
        """The same run, whose progress from 0 to 1 counts as that from `start` to `end`. Where the
        part does not know how far it is, the share that was reached stays."""
        reached = start

        def progress(what: str, share: float | None) -> None:
            nonlocal reached
            if share is not None:
                reached = start + (end - start) * share
            self.progress(what, reached)

        return replace(self, progress=progress)
