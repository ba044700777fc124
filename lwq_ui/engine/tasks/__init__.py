"""Tasks measure a split. Each figure carries its number of items and a standard error. Each task
keeps its items, so that two splits can be compared on the same ones.

The tasks that ship are `perplexity` (with KL divergence and top-1 agreement) and the lm-eval task
files in assets/tasks. To add one, write a YAML file there. A task that is not lm-eval's is a `Task`
class in a file here and an entry in `shipped_tasks`. Beside them stand the user's own task files,
in the folder of the settings. Other names are looked up in lm-eval's registry.

Nothing here imports torch, and lm-eval only where a name must be looked up. So the page shows
cached results without them.
"""

from __future__ import annotations

import functools
import logging

from ...core.errors import UserError
from ...core.settings import Settings
from ..texts import held_out_passages
from .base import Task
from .folders import TaskFolder, read_folder
from .lm_eval_registry import check_registered
from .lm_eval_tasks import Registered
from .perplexity import Passages
from .presets import PRESETS, expand

log = logging.getLogger(__name__)
logging.getLogger("lm_eval").setLevel(logging.ERROR)


def tasks(settings: Settings) -> dict[str, Task]:
    """Returns name -> task of all that ship, then of the user's own.

    Warns of task files that cannot be read.
    """
    folders = (shipped_tasks(settings), own_tasks(settings))
    for sentence in (sentence for folder in folders for sentence in folder.errors.values()):
        warn_once(sentence)
    return {name: task for folder in folders for name, task in folder.tasks.items()}


def shipped_tasks(settings: Settings) -> TaskFolder:
    passages = Passages(held_out_passages(settings))
    folder = read_folder(settings.assets / "tasks", {passages.name: passages})
    return TaskFolder({passages.name: passages, **folder.tasks}, folder.errors)


@functools.cache
def own_tasks(settings: Settings) -> TaskFolder:
    """Returns the tasks of the user's folder, as they were when it was first read.

    Task and data belong together: what a page measures now must be what it measured before.
    """
    if settings.tasks is None:
        return TaskFolder({}, {})
    folder = read_folder(settings.tasks, shipped_tasks(settings).tasks)
    for task in folder.tasks.values():
        task.data  # noqa: B018  (its digest is that of now, also for a copy that is made later)
    return folder


@functools.cache
def warn_once(sentence: str) -> None:
    log.warning("%s", sentence)


def task_named(name: str, settings: Settings) -> Task:
    """Returns a shipped task, one of the user's, or one of lm-eval's.

    Raises UserError for a name that is none of them, and for a task file of this name that cannot
    be read.
    """
    offered = tasks(settings)
    if name in offered:
        return offered[name]
    for folder in (shipped_tasks(settings), own_tasks(settings)):
        if name in folder.errors:
            raise UserError(folder.errors[name])
    if name not in expand(PRESETS):
        check_registered(name, offered)
    return Registered(name)
