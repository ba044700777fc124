"""The tasks that come with lm-eval, by name. The first look-up imports lm-eval."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ...core.errors import UserError
from .presets import PRESETS

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager


@functools.cache
def registry() -> TaskManager:
    """Returns lm-eval's tasks and groups by name. Reading their 14,000 files takes seconds."""
    from lm_eval.tasks import TaskManager

    return TaskManager()


def check_registered(name: str, shipped: Iterable[str]) -> None:
    """Raises UserError for a name that lm-eval does not have or cannot measure as one task."""
    index = registry().task_index
    if name not in index:
        close = difflib.get_close_matches(name, [*shipped, *PRESETS, *index], n=3)
        hint = f" (close to it: {', '.join(close)})" if close else ""
        raise UserError(
            f"There is no task '{name}'{hint}. Choose one of: {', '.join(shipped)}; or any task of "
            "lm-eval by its name."
        )
    entry = index[name]
    config = entry.cfg or {}
    if entry.tags and not config:
        members = sorted(entry.tags)
    elif "group" in config and not config.get("aggregate_metric_list"):
        members = [t if isinstance(t, str) else str(t.get("task")) for t in config["task"]]
    else:
        return
    shown = ", ".join(members[:8]) + (", ..." if len(members) > 8 else "")
    raise UserError(f"'{name}' is several tasks without a common result. Choose from: {shown}.")
