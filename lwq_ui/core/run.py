"""The surroundings of a job: its files, its progress, and how it is stopped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from threading import Event

from .errors import Stopped
from .settings import Settings
from .store import Store

Progress = Callable[[str, float | None], None]
"""Takes what is being done, and the share of it that is done: from 0 to 1, or None where that is
not known."""


def silent(what: str, share: float | None) -> None:
    """Reports progress to nobody."""


@dataclass(frozen=True)
class Run:
    """One job under way: where its files lie, who hears of its progress, and how it is stopped.

    Every job takes one beside its own arguments.
    """

    settings: Settings
    store: Store
    progress: Progress = silent
    stop: Event = field(default_factory=Event)

    def check(self) -> None:
        """Raises Stopped once the user has asked for that. Jobs call it once per layer or batch."""
        if self.stop.is_set():
            raise Stopped

    def part(self, start: float, end: float) -> Run:
        """Returns the same run, whose progress from 0 to 1 counts as that from `start` to `end`.
        While a part does not know how far it is, the share reached so far stays."""
        reached = start

        def progress(what: str, share: float | None) -> None:
            nonlocal reached
            if share is not None:
                reached = start + (end - start) * share
            self.progress(what, reached)

        return replace(self, progress=progress)
