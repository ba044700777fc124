"""A folder of lm-eval's task files: the tasks that they define, and what is wrong with the rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ...core.errors import UserError
from .base import Task
from .lm_eval_tasks import Harness
from .task_files import Definition, read_definition, wrong


@dataclass(frozen=True)
class TaskFolder:
    """`tasks` by their names. `errors` has a sentence for each file that defines none, by the
    file's name without its suffix."""

    tasks: Mapping[str, Task]
    errors: Mapping[str, str]


def read_folder(folder: Path, taken: Mapping[str, Task]) -> TaskFolder:
    """Returns the tasks of the YAML files in a folder. No name of `taken` may come again."""
    definitions: dict[Path, Definition] = {}
    tasks: dict[str, Task] = {}
    errors: dict[str, str] = {}
    paths = sorted(folder.glob("*.yaml"))
    for path in paths:
        try:
            definitions[path] = read_definition(path)
        except UserError as e:
            errors[path.stem] = str(e)
    included = {file for d in definitions.values() for file in d.files[1:]}
    for path, definition in definitions.items():
        if path.resolve() in included and "task" not in definition.config:
            continue  # what several tasks have in common
        try:
            task = Harness(path, definition)
            if task.name in taken or task.name in tasks:
                cause = f"defines '{task.name}', which another file or the program defines, too"
                raise wrong(path, cause, "give it another name at 'task'")
        except UserError as e:
            errors[path.stem] = str(e)
            continue
        if task.title in {other.title for other in (*taken.values(), *tasks.values())}:
            task.title = f"{task.title} ({task.name})"
        tasks[task.name] = task
    if not paths:
        sentence = f"The folder '{folder}' has no .yaml files: name the one in which tasks lie."
        errors[folder.name] = sentence
    return TaskFolder(tasks, errors)
