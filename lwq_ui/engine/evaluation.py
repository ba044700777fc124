"""Tasks: what a split is measured on. Every figure carries its number of items and a standard
error; every task keeps its items, so that two splits can be compared on the same ones.

The tasks that ship are `perplexity` (with KL divergence and top-1 agreement) and every lm-eval task
file in assets/tasks. A new one is one YAML file there, or a Task class and an entry in `tasks`.
Every other name is looked up in lm-eval's registry. Nothing here imports torch, and lm-eval only
where a name must be looked up: the page shows cached results without them.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import json
import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ..core.errors import UserError
from ..core.schema import Metric, split_name
from ..core.settings import Settings
from .texts import Text, held_out_passages, read, tokenize

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager

    from .sweep import Sweep

log = logging.getLogger(__name__)
logging.getLogger("lm_eval").setLevel(logging.ERROR)

LARGEST_EXPONENT = 600.0  # e to this, and its standard error, are still numbers

# The tasks of the paper's tables, and two corpora: all of them lm-eval's.
PRESETS: dict[str, tuple[str, tuple[str, ...]]] = {
    "paper-classification": (
        "The paper's classification tasks",
        ("winogrande", "arc_easy", "piqa", "hellaswag", "mmlu"),
    ),
    "paper-generation": ("The paper's generation tasks", ("gsm8k", "nq_open")),
    "perplexity-corpora": ("Perplexity on WikiText-2 and C4", ("wikitext", "c4")),
}


@dataclass(frozen=True)
class Measured:
    """One task on one split: its metrics, and what they were computed from, a number per item."""

    metrics: Mapping[str, Metric]
    items: Mapping[str, list[float]]


class Task(ABC):
    """`measure` scores all of a sweep's splits in one walk, in their order; `limit` bounds the
    items. `data` identifies the task's data and definition in the cache's keys. `size` is None
    where it is not known before the data is there."""

    name: str
    title: str
    size: int | None

    @property
    @abstractmethod
    def data(self) -> str: ...

    def limited(self, limit: int | None) -> int | None:
        """The limit as results carry it: None where it is known to cover every item."""
        return None if limit is None or (self.size and limit >= self.size) else limit

    def first_items(self, limit: int | None) -> int | None:
        """A part of the items to show early results of; None where going on from a part would cost
        more than doing all at once."""
        if self.size is None:
            return None
        most = min(limit or self.size, self.size)
        return most // 4 if most >= 16 else None

    @abstractmethod
    def measure(self, sweep: Sweep, limit: int | None) -> list[Measured]: ...


class Passages(Task):
    """Perplexity, KL divergence from the unquantized model in nats per token, and the share of
    tokens whose most likely prediction is the unquantized model's. Items are passages."""

    name = "perplexity"
    title = "Perplexity and divergence"

    def __init__(self, text: Text):
        self.text = text
        self.size = len(text.documents)

    @property
    def data(self) -> str:
        return self.text.digest

    def measure(self, sweep: Sweep, limit: int | None) -> list[Measured]:
        from .sweep import Request

        text = Text(self.text.name, self.text.documents[:limit])
        sequences = tokenize(sweep.bank.loaded, text)
        requests = [Request(s[:-1], s[1:]) for s in sequences]
        scored = sweep.score(requests, self.title, divergence=True)
        tokens = [float(len(s) - 1) for s in sequences]
        measured = []
        for c in range(len(sweep.splits)):
            items = {
                "tokens": tokens,
                "negative_log_likelihood": (-scored.logprob[:, c]).tolist(),
                "kl_divergence": scored.divergence[:, c].tolist(),
                "top1_agreement": scored.agreement[:, c].tolist(),
            }
            nats = per_token(items["negative_log_likelihood"], tokens)
            if nats.value > LARGEST_EXPONENT:
                raise UserError(
                    f"At {split_name(sweep.splits[c])} a token costs {nats.value:.0f} nats: the "
                    "perplexity is too large to be a number. This split does not predict text."
                )
            perplexity = math.exp(nats.value)
            error = None if nats.stderr is None else perplexity * nats.stderr
            metrics = {
                "perplexity": Metric(perplexity, error, nats.n),
                "kl_divergence": per_token(items["kl_divergence"], tokens),
                "top1_agreement": per_token(items["top1_agreement"], tokens),
            }
            measured.append(Measured(metrics, items))
        return measured


def per_token(sums: Sequence[float], tokens: Sequence[float]) -> Metric:
    """Mean over all tokens, with the standard error of a ratio of sums over passages (tokens of
    one passage are not independent of each other)."""
    n = len(sums)
    total = sum(tokens)
    mean = sum(sums) / total
    if n < 2:
        return Metric(mean, None, n)
    squares = sum((s - mean * t) ** 2 for s, t in zip(sums, tokens, strict=True))
    return Metric(mean, math.sqrt(squares * n / (n - 1)) / total, n)


class Harness(Task):
    """A task of lm-evaluation-harness, defined by a YAML file whose data lies beside it. Prompts,
    metrics and standard errors are lm-eval's own. Raises UserError for a file that is none."""

    def __init__(self, path: Path):
        self.path = path
        try:
            self.config = yaml.safe_load(read(path, most=-1))
        except yaml.YAMLError as e:
            mark = getattr(e, "problem_mark", None)
            where = f", line {mark.line + 1}" if mark else ""
            problem = getattr(e, "problem", None) or "it is not YAML"
            raise UserError(f"The task file '{path.name}' cannot be read{where}: {problem}.") from e
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
        """The data, an object per line. Raises UserError naming the line that is none."""
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

    def measure(self, sweep: Sweep, limit: int | None) -> list[Measured]:
        from .harness import run_task

        return run_task(self, sweep, limit)


class Registered(Task):
    """A task or a group of tasks (such as mmlu) that comes with lm-eval, by its name there, with
    the number of examples in the prompt (`num_fewshot`) that its definition says: 5 for gsm8k, none
    where it says nothing. Its data comes from the Hugging Face Hub.

    A group is measured as one: lm-eval's aggregate, and the items of all its tasks one after the
    other. `limit` bounds the items of each of them, as in lm-eval."""

    size = None

    def __init__(self, name: str):
        self.name = self.title = name

    @property
    def data(self) -> str:
        """Known without network and without lm-eval: its version, which the cache's keys carry, and
        the name fix the definition (prompt, examples, metrics, data set). What they do not fix is
        the data set's revision: most definitions name none."""
        return hashlib.sha256(f"lm-eval {self.name}".encode()).hexdigest()

    def measure(self, sweep: Sweep, limit: int | None) -> list[Measured]:
        from .harness import run_task

        return run_task(self, sweep, limit)


@functools.cache
def registry() -> TaskManager:
    """lm-eval's tasks and groups by name. Reading their 14,000 files takes seconds."""
    from lm_eval.tasks import TaskManager

    return TaskManager()


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


def expand(names: Iterable[str]) -> list[str]:
    """Presets replaced by their tasks, in order, each task once."""
    return list(dict.fromkeys(t for n in names for t in (PRESETS[n][1] if n in PRESETS else (n,))))


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


def check_registered(name: str, shipped: Iterable[str]) -> None:
    known = registry().task_index
    if name not in known:
        close = difflib.get_close_matches(name, [*shipped, *PRESETS, *known], n=3)
        hint = f" (close to it: {', '.join(close)})" if close else ""
        raise UserError(
            f"There is no task '{name}'{hint}. Choose one of: {', '.join(shipped)}; or any task of "
            "lm-eval by its name."
        )
    entry = known[name]
    config = entry.cfg or {}
    if entry.tags and not config:
        members = sorted(entry.tags)
    elif "group" in config and not config.get("aggregate_metric_list"):
        members = [t if isinstance(t, str) else str(t.get("task")) for t in config["task"]]
    else:
        return
    shown = ", ".join(members[:8]) + (", ..." if len(members) > 8 else "")
    raise UserError(f"'{name}' is several tasks without a common result. Choose from: {shown}.")
