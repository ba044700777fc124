"""Tasks measure a split. Each figure carries its number of items and a standard error. Each task
keeps its items, so that two splits can be compared on the same ones.

The tasks that ship are `perplexity` (with KL divergence and top-1 agreement) and the lm-eval task
files in assets/tasks. To add one, write a YAML file there. A task that is not lm-eval's is a `Task`
class in a file here and an entry in `tasks`. Other names are looked up in lm-eval's registry.

Nothing here imports torch, and lm-eval only where a name must be looked up. So the page shows
cached results without them.
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
    """Returns name -> task of all that ship. Warns of task files that cannot be read."""
    shipped: list[Task] = [Passages(held_out_passages(settings))]
    for path in task_files(settings):
        try:
            shipped.append(Harness(path))
        except UserError as e:
            warn_once(str(e))
    return {task.name: task for task in shipped}


@functools.cache
def warn_once(sentence: str) -> None:
    log.warning("%s", sentence)


def task_files(settings: Settings) -> list[Path]:
    return sorted((settings.assets / "tasks").glob("*.yaml"))


def task_named(name: str, settings: Settings) -> Task:
    """Returns a shipped task, or one of lm-eval's.

    Raises UserError for a name that is neither, and for a task file of this name that cannot be
    read.
    """
    shipped = tasks(settings)
    if name in shipped:
        return shipped[name]
    for path in task_files(settings):
        if path.stem == name:
            return Harness(path)
    if name not in expand(PRESETS):
        check_registered(name, shipped)
    return Registered(name)
