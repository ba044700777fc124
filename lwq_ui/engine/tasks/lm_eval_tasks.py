"""Tasks of lm-evaluation-harness: those of YAML files, and the tasks of its registry."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.errors import UserError
from .base import Measured, Task
from .task_files import (
    Definition,
    check_one_task,
    count_rows,
    data_files,
    digest_of,
    measured_split,
    read_definition,
    rows_of,
    text_at,
)

if TYPE_CHECKING:
    from ..sweeps.sweep import Sweep


class LmEvalTask(Task):
    """A task whose prompts, metrics and standard errors are lm-eval's own."""

    @abstractmethod
    def load(self) -> dict[str, Any]:
        """Returns lm-eval's {"tasks", "groups"} with their data. Raises UserError."""

    def measure(self, sweep: Sweep, limit: int | None) -> list[Measured]:
        from .lm_eval_runner import run_task

        return run_task(self.name, self.title, self.load, sweep, limit, self.chat_template)

    def forecast(self, sweep: Sweep, limit: int | None) -> float | None:
        from .lm_eval_runner import forecast_task

        return forecast_task(self.name, self.title, self.load, sweep, limit, self.chat_template)


class Harness(LmEvalTask):
    """A task that a YAML file defines, with its data beside the file.

    Its title is `metadata: title`, or else its name. Raises UserError where the file does not
    define a task.
    """

    def __init__(self, path: Path, definition: Definition | None = None):
        self.definition = definition or read_definition(path)
        config = self.definition.config
        check_one_task(path, config)
        self.name = text_at(path, config, "task")
        metadata = config.get("metadata")
        title = metadata.get("title") if isinstance(metadata, dict) else None
        self.title = title if isinstance(title, str) and title.strip() else self.name
        self.data_files = data_files(path, config)

    @cached_property
    def size(self) -> int:  # type: ignore[override]
        return count_rows(self.data_files[measured_split(self.definition.config)])

    @cached_property
    def data(self) -> str:
        return self.digest()

    def digest(self) -> str:
        """Returns what `data` is of the files as they are now."""
        return digest_of(
            self.definition.files, [file for some in self.data_files.values() for file in some]
        )

    def rows(self) -> dict[str, list[dict[str, Any]]]:
        """Returns the rows of every split."""
        return {
            split: [row for file in files for row in rows_of(file)]
            for split, files in self.data_files.items()
        }

    def load(self) -> dict[str, Any]:
        from .lm_eval_loading import load_rows

        loaded = load_rows(dict(self.definition.config), self.rows(), self.name)
        if self.digest() != self.data:  # results would be stored as those of the files before
            raise UserError(
                f"The files of the task '{self.name}' have changed since they were read: start the "
                "program again."
            )
        return loaded


class Registered(LmEvalTask):
    """A task or a group of tasks (such as mmlu) that comes with lm-eval, by its name there.

    Its definition gives the number of examples in the prompt (`num_fewshot`): 5 for gsm8k, 0 by
    default. Its data comes from the Hugging Face Hub.

    A group has lm-eval's aggregate as its result, and the items of its tasks one after the other.
    `limit` bounds the items of each of its tasks, as in lm-eval.
    """

    size = None

    def __init__(self, name: str):
        self.name = self.title = name

    @property
    def data(self) -> str:
        """A digest of the name, which takes neither network nor lm-eval.

        With lm-eval's version, which the cache's keys carry, it fixes prompt, examples, metrics and
        data set. It does not fix the data set's revision, since most definitions name none.
        """
        return hashlib.sha256(f"lm-eval {self.name}".encode()).hexdigest()

    def load(self) -> dict[str, Any]:
        from .lm_eval_loading import load_registered

        return load_registered(self.name)
