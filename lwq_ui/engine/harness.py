"""lm-evaluation-harness on top of the sweep.

`SweepLM` is lm-eval's own HFLM with one method replaced: where HFLM would run the model on a batch
of token requests, all splits are scored in one walk. Tokenization, context cuts, prompts, metrics
and standard errors stay lm-eval's.
"""

from __future__ import annotations

import functools
import json
import logging
import os
from typing import Any

import datasets
import lm_eval.api.metrics
import lm_eval.api.task
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from tqdm import tqdm

from ..core.schema import Metric
from .evaluation import Harness, Measured
from .sweep import Request, Sweep

os.environ.setdefault("DISABLE_MULTIPROC", "1")  # the bootstrap is short: no processes for it
logging.getLogger("lm_eval").setLevel(logging.ERROR)
lm_eval.api.task.tqdm = functools.partial(tqdm, disable=True)  # it has no switch of its own

BOOTSTRAP = 1000  # resamples, for metrics whose standard error has no formula
UNBATCHED = 1 << 30  # HFLM then hands over all requests at once


class SweepLM(HFLM):
    """Answers for `splits[current]`. All splits' answers come from one walk, at the first call."""

    def __init__(self, sweep: Sweep, title: str):
        loaded = sweep.bank.loaded
        super().__init__(
            pretrained=loaded.model,
            tokenizer=loaded.tokenizer,
            batch_size=UNBATCHED,
            softmax_dtype="float32",
        )
        self.sweep = sweep
        self.title = title
        self.current = 0
        self._answers: dict[tuple[Any, ...], list[list[tuple[float, bool]]]] = {}

    def loglikelihood(self, requests: Any, disable_tqdm: bool = True) -> Any:
        return super().loglikelihood(requests, disable_tqdm=True)

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = True) -> Any:
        return super().loglikelihood_rolling(requests, disable_tqdm=True)

    def _loglikelihood_tokens(
        self, requests: Any, disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        key = tuple((tuple(context), tuple(target)) for _, context, target in requests)
        if key not in self._answers:
            scored = self.sweep.score(
                [
                    Request((context + target)[-(self.max_length + 1) :][:-1], target)
                    for _, context, target in requests
                ],
                self.title,
            )
            self._answers[key] = [
                list(zip(logprobs.tolist(), greedy.tolist(), strict=True))
                for logprobs, greedy in zip(scored.logprob.T, scored.greedy.T, strict=True)
            ]
        return self._answers[key][self.current]


def load_task(task: Harness) -> dict[str, Any]:
    """The task with its rows in memory: no dataset cache is written, no network is asked."""
    rows = [json.loads(line) for line in task.data_file.read_text(encoding="utf-8").splitlines()]
    config = {
        **task.config,
        "dataset_path": None,
        "dataset_kwargs": None,
        "custom_dataset": lambda **kwargs: {"test": datasets.Dataset.from_list(rows)},
    }
    return TaskManager(include_defaults=False).load([config])


def run_task(task: Harness, sweep: Sweep, limit: int | None) -> list[Measured]:
    lm = SweepLM(sweep, task.title)
    measured = []
    for lm.current in range(len(sweep.splits)):
        report = evaluate(
            lm, load_task(task), limit=limit, bootstrap_iters=BOOTSTRAP, log_samples=True
        )
        measured.append(read_report(report, task.name))
    return measured


def read_report(report: dict[str, Any], name: str) -> Measured:
    """lm-eval's report of one task -> metrics and items."""
    results, samples = report["results"][name], report["samples"][name]
    metrics: dict[str, Metric] = {}
    items: dict[str, list[float]] = {}
    for key, value in results.items():
        metric, _, kind = key.partition(",")
        if not kind or metric.endswith("_stderr"):
            continue
        error = results.get(f"{metric}_stderr,{kind}")
        error = float(error) if isinstance(error, int | float) else None
        metrics[metric] = Metric(float(value), error, len(samples))
        items[metric] = [float(sample[metric]) for sample in samples]
    return Measured(metrics, items)
