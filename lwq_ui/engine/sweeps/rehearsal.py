"""How long a sweep would take, timed on a sample of its work."""

from __future__ import annotations

import copy
import functools
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...core.allocation import Split
from ...core.memory import PRUNED, UNTOUCHED
from ..batches.prefix_trees import Rows
from .sweep import Part, Sweep


class Rehearsed(Exception):
    """How long a sweep would take; None where that cannot be known."""

    def __init__(self, seconds: float | None):
        super().__init__(seconds)
        self.seconds = seconds


class Rehearsal(Sweep):
    """Instead of scoring, times a sample of the work and raises Rehearsed."""

    def _compute(self, parts: list[Part]) -> None:
        if not parts:
            raise Rehearsed(0.0)
        part = max(parts, key=self._cost)
        batch = part.batches[len(part.batches) // 2]
        i = len(self.walk) // 2
        self.total = 1.0
        head = self._seconds(lambda: self.walk.head(*batch.tensors(self.device))) / batch.tokens
        hidden, calls = self.walk.head(*batch.tensors(self.device))
        step = 0.0
        ready: dict[float, float] = {}
        levels = [b for b in sorted(set(part.layers[i])) if self._at_once(i, b)] or [UNTOUCHED]
        for level in levels:
            self.run.check()
            self.run.progress(f"{self.title}: estimating the time", None)
            ready[level] = self._seconds(functools.partial(self._make_ready, i, level))
            with self._weights(i, level) as weights:
                layer = functools.partial(self.walk.step, i, hidden, calls, weights)
                step += self._seconds(layer) / self._step_cost(batch) / len(levels)
        read = self._read_seconds(batch, hidden, part.splits[:2])
        seconds, slowest = 0.0, max(ready.values())
        for part in parts:
            layers = sum(ready.get(level, slowest) for steps in part.layers for level in steps)
            seconds += layers * len(list(self._shards(part)))
            for b in part.batches:
                seconds += b.tokens * head + len(b.at) * len(part.splits) * read
                seconds += self._step_cost(b) * part.steps * step
        raise Rehearsed(seconds)

    def _at_once(self, i: int, level: float) -> bool:
        """Whether the layer can be had without calibrating, which is forecast on its own."""
        if level in (PRUNED, UNTOUCHED):
            return level == UNTOUCHED
        return not self.bank.quantizer.calibrated or self.bank.has(i, level)

    def _make_ready(self, i: int, level: float) -> None:
        with self._weights(i, level):
            pass

    def _read_seconds(self, batch: Rows, hidden: Tensor, splits: list[Split]) -> float:
        """One position under one split, from one block of them. With a reference, its own work is
        part of it."""
        sample = copy.copy(batch)
        sample.at = batch.at[: self.block]
        inside = slice(batch.first[len(sample.at)])
        sample.source, sample.targets = batch.source[inside], batch.targets[inside]
        states = dict.fromkeys(splits, hidden)
        seconds = self._seconds(lambda: self._read(sample, states, splits, "estimating the time"))
        return seconds / max(1, len(sample.at) * len(splits))

    def _seconds(self, work: Callable[[], Any]) -> float:
        """The median of a few runs (one, where it takes long); a first one prepares kernels."""
        runs: list[float] = []
        while len(runs) < 2 or (len(runs) < 6 and sum(runs) < 0.1):
            began = time.perf_counter()
            work()
            if self.device != "cpu":
                torch.accelerator.synchronize()
            runs.append(time.perf_counter() - began)
        return float(np.median(runs[1:]))
