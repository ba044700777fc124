"""What every task is: a way to measure all splits of a sweep in one walk."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...core.schema import Metric

if TYPE_CHECKING:
    from ..sweeps.sweep import Sweep


@dataclass(frozen=True)
class Measured:
    """One task on one split: its metrics, and what they were computed from, a number per item."""

    metrics: Mapping[str, Metric]
    items: Mapping[str, list[float]]


class Task(ABC):
    """A way to measure all splits of a sweep in one walk.

    `size` is the number of items, None where it is not known before the data is there.
    """

    name: str
    title: str
    size: int | None

    @property
    @abstractmethod
    def data(self) -> str:
        """What identifies the task's data and definition in the cache's keys."""

    @abstractmethod
    def measure(self, sweep: Sweep, limit: int | None) -> list[Measured]:
        """Returns the results of the sweep's splits, in their order, on at most `limit` items.

        Raises UserError where the task cannot be measured, and Stopped.
        """

    @abstractmethod
    def forecast(self, sweep: Sweep, limit: int | None) -> float | None:
        """Returns the seconds that `measure` would take, None where nobody can know before."""

    def limited(self, limit: int | None) -> int | None:
        """Returns the limit as results carry it: None where it is known to cover every item."""
        return None if limit is None or (self.size and limit >= self.size) else limit

    def first_items(self, limit: int | None) -> int | None:
        """Returns how many items to show early results of.

        Returns None where going on from a part would cost more than doing all at once.
        """
        if self.size is None:
            return None
        most = min(limit or self.size, self.size)
        return most // 4 if most >= 16 else None
