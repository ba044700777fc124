"""The interface of tasks, and what they return."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...core.schema import Metric

if TYPE_CHECKING:
    from ..sweeps.sweep import Sweep


@dataclass(frozen=True)
class Measured:
    """The metrics of one task on one split, and the numbers per item that they come from."""

    metrics: Mapping[str, Metric]
    items: Mapping[str, list[float]]


class Task(ABC):
    """A way to measure all splits of a sweep in one walk.

    `size` is the number of items, None where only the data tells. A task that is `prompted` asks
    something. With `chat_template`, it does so in the chat template of the model.
    """

    name: str
    title: str
    size: int | None
    prompted: bool = True
    chat_template: bool = False

    def with_chat_template(self) -> Task:
        """Returns the task with its prompts in the model's chat template. A task without prompts
        stays as it is."""
        other = copy.copy(self)
        other.chat_template = self.prompted
        return other

    @property
    @abstractmethod
    def data(self) -> str:
        """A digest of the task's data and definition, for the cache's keys."""

    @abstractmethod
    def measure(self, sweep: Sweep, limit: int | None) -> list[Measured]:
        """Returns the results of the sweep's splits, in their order, on at most `limit` items.

        Raises UserError where the task cannot be measured, and Stopped.
        """

    @abstractmethod
    def forecast(self, sweep: Sweep, limit: int | None) -> float | None:
        """Returns the seconds that `measure` takes, None where they cannot be forecast."""

    def limited(self, limit: int | None) -> int | None:
        """Returns the limit as results carry it: None where it covers all items."""
        return None if limit is None or (self.size and limit >= self.size) else limit

    def first_items(self, limit: int | None) -> int | None:
        """Returns the number of items whose results are shown early.

        Returns None where two stages cost more than one.
        """
        if self.size is None:
            return None
        most = min(limit or self.size, self.size)
        return most // 4 if most >= 16 else None
