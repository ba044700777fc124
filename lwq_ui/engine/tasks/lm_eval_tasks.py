"""Tasks of lm-evaluation-harness: files in assets/tasks, and the tasks of its registry."""

from __future__ import annotations

import copy
import hashlib
import json
from abc import abstractmethod
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ...core.errors import UserError
from ..texts import read
from .base import Measured, Task

if TYPE_CHECKING:
    from ..sweeps.sweep import Sweep


class LmEvalTask(Task):
    """A task whose prompts, metrics and standard errors are lm-eval's own."""

    @abstractmethod
    def load(self) -> dict[str, Any]:
        """Returns lm-eval's {"tasks", "groups"} with their data. Raises UserError."""

    def with_chat_template(self) -> LmEvalTask:
        other = copy.copy(self)
        other.chat_template = True
        return other

    def measure(self, sweep: Sweep, limit: int | None) -> list[Measured]:
        from .lm_eval_runner import run_task

        return run_task(self.name, self.title, self.load, sweep, limit, self.chat_template)

    def forecast(self, sweep: Sweep, limit: int | None) -> float | None:
        from .lm_eval_runner import forecast_task

        return forecast_task(self.name, self.title, self.load, sweep, limit, self.chat_template)


class Harness(LmEvalTask):
    """A task that a YAML file defines, with its data beside the file.

    Raises UserError where the file does not define a task.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            self.config = yaml.safe_load(read(path, most=-1))
        except yaml.YAMLError as e:
            mark = getattr(e, "problem_mark", None)
            line = f", line {mark.line + 1}" if mark else ""
            problem = getattr(e, "problem", None) or "it is not YAML"
            raise UserError(f"The task file '{path.name}' cannot be read{line}: {problem}.") from e
        self.name = self._entry("task")
        self.title = self._entry("metadata", "title")
        self.data_file = path.parent / self._entry("dataset_kwargs", "data_files", "test")
        if not self.data_file.is_file():
            raise UserError(
                f"The task file '{path.name}' names the data file '{self.data_file.name}', and "
                "there is none beside it."
            )

    def _entry(self, *keys: str) -> str:
        value = self.config
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        if not isinstance(value, str):
            raise UserError(f"The task file '{self.path.name}' has no text at '{': '.join(keys)}'.")
        return value

    def rows(self) -> list[dict[str, Any]]:
        """Returns the data, an object per line. Raises UserError for a line that is no object."""
        rows = []
        for number, line in enumerate(read(self.data_file, most=-1).split("\n"), 1):
            if line.strip():
                try:
                    rows.append(json.loads(line))
                except (ValueError, RecursionError):
                    rows.append(None)
                if not isinstance(rows[-1], dict):
                    file = self.data_file.name
                    raise UserError(f"Line {number} of '{file}' is not a JSON object.")
        if not rows:
            raise UserError(f"'{self.data_file.name}' has no items.")
        return rows

    @cached_property
    def size(self) -> int:  # type: ignore[override]
        with self.data_file.open(encoding="utf-8", errors="replace") as file:
            return sum(1 for line in file if line.strip())

    @cached_property
    def data(self) -> str:
        content = self.path.read_bytes() + self.data_file.read_bytes()
        return hashlib.sha256(content).hexdigest()

    def load(self) -> dict[str, Any]:
        from .lm_eval_loading import load_rows

        return load_rows(self.config, self.rows(), self.name)


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
