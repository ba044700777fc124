"""Forecasts how long a sweep takes, from the time of a sample of its work."""

from __future__ import annotations

import copy
import functools
import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...core.memory import PRUNED, UNTOUCHED
from ...core.run import Run
from ..banks.bank import Bank
from ..batches.prefix_trees import Rows
from ..models.steps import Calls
from .plan import Part, Plan, shards
from .shard_walk import Meter, ShardWalk

ESTIMATING = "estimating the time"


@torch.no_grad()
def forecast_seconds(bank: Bank, plan: Plan, run: Run, title: str) -> float:
    """Returns the seconds that a plan takes, 0 where nothing is left to compute.

    One batch is timed in one layer, at each of the layer's levels. Layers that a calibrated
    quantizer has yet to pack are not counted.
    """
    if not plan.parts:
        return 0.0
    sample = Sample(bank, plan, run, title)
    ready, step = sample.layer_seconds()
    slowest = max(ready.values())
    read = sample.read_seconds()
    seconds = 0.0
    for part in plan.parts:
        once = sum(ready.get(level, slowest) for levels in part.layers for level in levels)
        seconds += once * len(list(shards(part, plan.costs, plan.limits)))
        for batch in part.batches:
            seconds += batch.tokens * sample.head
            seconds += len(batch.at) * len(part.splits) * read
            seconds += plan.costs.step(batch) * part.steps * step
    return seconds


class Sample:
    """Times the middle batch of the costliest part, in the middle layer.

    `head` is the time of what comes before the layers, in seconds per token.
    """

    def __init__(self, bank: Bank, plan: Plan, run: Run, title: str):
        self.bank = bank
        self.plan = plan
        self.walk = bank.loaded.walk
        self.device = bank.loaded.device
        self.part = max(plan.parts, key=plan.costs.part)
        self.batch = self.part.batches[len(self.part.batches) // 2]
        self.layer = len(self.walk) // 2
        self.meter = Meter(run, title, math.inf)
        inputs = self.batch.tensors(self.device)
        self.head = self._seconds(lambda: self.walk.head(*inputs)) / self.batch.tokens
        self.hidden: Tensor
        self.calls: Calls
        self.hidden, self.calls = self.walk.head(*inputs)

    def _shard_walk(self, part: Part) -> ShardWalk:
        plan = self.plan
        compares = plan.reference is not None
        return ShardWalk(self.bank, plan.costs, part, compares, plan.limits.logits, self.meter)

    def layer_seconds(self) -> tuple[dict[float, float], float]:
        """Returns level -> seconds until the layer's weights are at hand, and the mean seconds of
        an operation."""
        shard_walk = self._shard_walk(self.part)
        levels = sorted(set(self.part.layers[self.layer]))
        levels = [level for level in levels if self._at_once(level)] or [UNTOUCHED]
        ready: dict[float, float] = {}
        steps = []
        for level in levels:
            self.meter.run.check()
            self.meter.report(ESTIMATING)
            ready[level] = self._seconds(functools.partial(self._make_ready, shard_walk, level))
            with shard_walk.weights(self.layer, level) as weights:
                step = functools.partial(
                    self.walk.step, self.layer, self.hidden, self.calls, weights
                )
                steps.append(self._seconds(step) / self.plan.costs.step(self.batch))
        return ready, sum(steps) / len(steps)

    def _at_once(self, level: float) -> bool:
        """Returns whether the layer needs no calibrating, which is forecast on its own."""
        if level in (PRUNED, UNTOUCHED):
            return level == UNTOUCHED
        return not self.bank.quantizer.calibrated or self.bank.has(self.layer, level)

    def _make_ready(self, shard_walk: ShardWalk, level: float) -> None:
        with shard_walk.weights(self.layer, level):
            pass

    def read_seconds(self) -> float:
        """Returns the seconds of one position under one split, from one block of positions.

        With a reference, its own work is part of it.
        """
        part = replace(self.part, splits=self.part.splits[:2])
        shard_walk = self._shard_walk(part)
        batch = first_positions(self.batch, shard_walk.block)
        states = dict.fromkeys(part.splits, self.hidden)
        seconds = self._seconds(lambda: shard_walk.read(batch, states))
        return seconds / max(1, len(batch.at) * len(part.splits))

    def _seconds(self, work: Callable[[], Any]) -> float:
        """Returns the median of a few runs, or the time of one where it takes long.

        A run before them prepares kernels.
        """
        runs: list[float] = []
        while len(runs) < 2 or (len(runs) < 6 and sum(runs) < 0.1):
            began = time.perf_counter()
            work()
            if self.device != "cpu":
                torch.accelerator.synchronize()
            runs.append(time.perf_counter() - began)
        return float(np.median(runs[1:]))


def first_positions(batch: Rows, count: int) -> Rows:
    """Returns the batch with the targets of its first positions only."""
    some = copy.copy(batch)
    some.at = batch.at[:count]
    inside = slice(batch.first[len(some.at)])
    some.source, some.targets = batch.source[inside], batch.targets[inside]
    return some
