"""Tasks: what a split is measured on. Every figure carries its number of items and a standard
error; every task keeps its items, so that two splits can be compared on the same ones.

The tasks that ship are `perplexity` (with KL divergence and top-1 agreement) and every lm-eval task
file in assets/tasks. A new one is one YAML file there, or a Task class and an entry in `tasks`.
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ..core.errors import UserError
from ..core.schema import Metric
from ..settings import Settings
from .texts import MAX_TOKENS, Text, held_out_passages, tokenize

if TYPE_CHECKING:
    from .sweep import Sweep


@dataclass(frozen=True)
class Measured:
    """One task on one split: its metrics, and what they were computed from, a number per item."""

    metrics: Mapping[str, Metric]
    items: Mapping[str, list[float]]


class Task(ABC):
    """`measure` scores all of a sweep's splits in one walk, in their order; `limit` bounds the
    items. `data` identifies the task's data and definition in the cache's keys."""

    name: str
    title: str
    size: int

    @property
    @abstractmethod
    def data(self) -> str: ...

    def limited(self, limit: int | None) -> int | None:
        """The limit as results carry it: None where it covers every item."""
        return None if limit is None or limit >= self.size else limit

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

        loaded = sweep.bank.loaded
        text = Text(self.text.name, self.text.documents[:limit])
        sequences = tokenize(loaded.tokenizer, text, loaded.max_tokens(MAX_TOKENS))
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
            perplexity = math.exp(min(nats.value, 700.0))
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
    metrics and standard errors are lm-eval's own."""

    def __init__(self, path: Path):
        self.path = path

    @cached_property
    def config(self) -> dict[str, Any]:
        return yaml.safe_load(self.path.read_text(encoding="utf-8"))

    @cached_property
    def data_file(self) -> Path:
        return self.path.parent / self.config["dataset_kwargs"]["data_files"]["test"]

    @property
    def name(self) -> str:  # type: ignore[override]
        return self.config["task"]

    @property
    def title(self) -> str:  # type: ignore[override]
        return self.config["metadata"]["title"]

    @cached_property
    def size(self) -> int:  # type: ignore[override]
        with self.data_file.open(encoding="utf-8") as file:
            return sum(1 for line in file if line.strip())

    @cached_property
    def data(self) -> str:
        content = self.path.read_bytes() + self.data_file.read_bytes()
        return hashlib.sha256(content).hexdigest()

    def measure(self, sweep: Sweep, limit: int | None) -> list[Measured]:
        from .harness import run_task

        return run_task(self, sweep, limit)


def tasks(settings: Settings) -> dict[str, Task]:
    """Every task that ships, by name."""
    found: list[Task] = [Passages(held_out_passages(settings))]
    found += [Harness(path) for path in sorted((settings.assets / "tasks").glob("*.yaml"))]
    return {task.name: task for task in found}


def task_named(name: str, settings: Settings) -> Task:
    every = tasks(settings)
    if name not in every:
        raise UserError(f"There is no task '{name}'. Choose one of: {', '.join(every)}.")
    return every[name]
