"""Events answer in any order: what a later one has drawn must not be drawn over by an earlier."""

from __future__ import annotations

import threading
from itertools import count


class Turns:
    """The order in which a user's events began, and the newest that has drawn each panel."""

    def __init__(self) -> None:
        self._numbers = count()
        self._drawn: dict[str, dict[str, int]] = {}  # user -> panel -> the event's turn
        self._lock = threading.Lock()

    def begin(self) -> int:
        """Returns the turn of an event that begins now."""
        return next(self._numbers)

    def is_newest(self, user: str, panel: str, turn: int) -> bool:
        """Whether no event that began later has drawn the panel. This one has drawn it then."""
        with self._lock:
            drawn = self._drawn.setdefault(user, {})
            if drawn.get(panel, -1) > turn:
                return False
            drawn[panel] = turn
            return True

    def forget(self, user: str) -> None:
        with self._lock:
            self._drawn.pop(user, None)
