"""Tasks: what a split is measured on. Every figure carries its number of items and a standard
error; every task keeps its items, so that two splits can be compared on the same ones.

The tasks that ship are `perplexity` (with KL divergence and top-1 agreement) and every lm-eval task
file in assets/tasks. A new one is one YAML file there, or a Task class and an entry in `tasks`.
Every other name is looked up in lm-eval's registry. Nothing here imports torch, and lm-eval only
where a name must be looked up: the page shows cached results without them.
"""

from __future__ import annotations

import functools
import logging
from pathlib import Path

from ...core.errors import UserError
from ...core.settings import Settings
from ..texts import held_out_passages
from .base import Task
from .lm_eval_registry import check_registered
from .lm_eval_tasks import Harness, Registered
from .perplexity import Passages
from .presets import PRESETS, expand

log = logging.getLogger(__name__)
logging.getLogger("lm_eval").setLevel(logging.ERROR)


def tasks(settings: Settings) -> dict[str, Task]:
    """Every task that ships, by name. A task file that cannot be read is named in the log."""
    every: list[Task] = [Passages(held_out_passages(settings))]
    for path in task_files(settings):
        try:
            every.append(Harness(path))
        except UserError as e:
            warn_once(str(e))
    return {task.name: task for task in every}


@functools.cache
def warn_once(sentence: str) -> None:
    log.warning("%s", sentence)


def task_files(settings: Settings) -> list[Path]:
    return sorted((settings.assets / "tasks").glob("*.yaml"))


def task_named(name: str, settings: Settings) -> Task:
    """A shipped task, or one of lm-eval's. Raises UserError for a name that is neither, and for a
    task file of this name that cannot be read."""
    every = tasks(settings)
    if name in every:
        return every[name]
    for path in task_files(settings):
        if path.stem == name:
            return Harness(path)
    if name not in expand(PRESETS):
        check_registered(name, every)
    return Registered(name)
