"""Scores many splits in one walk.

Each layer is de-quantized once per level. Splits that agree on layers 0..i share the hidden state
after layer i.

The work is cut into shards: some batches under some splits. Each shard is walked from the first
layer to the logits and then kept on disk. A batch's numbers depend on nothing but the batch:
neither on the splits and batches that are walked with it nor on what was done before it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...core.allocation import Split
from ...core.errors import UserError
from ...core.memory import UNTOUCHED
from ...core.run import Run
from ...failures import out_of_memory
from ..banks.bank import Bank
from ..batches.prefix_trees import Rows, batch_rows
from ..batches.request import Request
from ..devices import release_memory
from .forecast import forecast_seconds
from .journal import Journal, Scored, digest
from .limits import Limits
from .plan import Costs, Part, Plan, missing_parts, next_shard
from .shard_walk import Meter, ShardWalk, split_count


class Sweep:
    """Scores requests under every split at once.

    `journal` is the folder that keeps what is scored, shard by shard, of this model and quantizer
    on this device. Without one nothing is kept. `limits` bound the pieces of the work. By default
    they follow from the device and its free memory.

    Calls share nothing but the bank and the journal. But a walk replaces the layers' `forward` for
    a moment, so a model takes one call at a time.
    """

    def __init__(
        self,
        bank: Bank,
        splits: Sequence[Split],
        run: Run,
        journal: Path | None = None,
        limits: Limits | None = None,
    ):
        self.bank = bank
        self.splits = [tuple(split) for split in splits]
        self.run = run
        self.journal = Journal(journal)
        self.limits = limits

    def score(self, requests: Sequence[Request], title: str, divergence: bool = False) -> Scored:
        """Returns what the requests score under each split, in the order of both.

        `divergence` adds divergence from and agreement with the unquantized model. Raises
        UserError where a score is no number or memory does not suffice, and Stopped.
        """
        plan = self.plan(requests, divergence)
        Scoring(self.bank, plan, self.journal, self.run, title).compute()
        return plan.scored.take(plan.rows, [plan.splits.index(split) for split in self.splits])

    def forecast(self, requests: Sequence[Request], title: str, divergence: bool = False) -> float:
        """Returns the seconds that `score` takes, from the time of a sample of its work."""
        return forecast_seconds(self.bank, self.plan(requests, divergence), self.run, title)

    def plan(self, requests: Sequence[Request], divergence: bool = False) -> Plan:
        """Returns what `score` computes: the requests and splits that the journal lacks."""
        loaded = self.bank.loaded
        walk, info = loaded.walk, loaded.info
        limits = self.limits or Limits.usual(info, loaded.device)
        costs = Costs.of_model(info, walk)
        digests = [digest(r) for r in requests]
        first = {d: i for i, d in reversed(list(enumerate(digests)))}
        unique = [requests[i] for i in first.values()]
        splits = list(dict.fromkeys(self.splits))
        reference = (UNTOUCHED,) * len(walk) if divergence else None
        scored, kept = self.journal.read(list(first), splits, divergence)
        parts: list[Part] = []
        if not kept.all():
            most = limits.batch_tokens
            longest = min(most, info.max_tokens or most)
            deepest = walk.window if walk.shares_prefixes else 0
            kinds = walk.kinds([len(r.tokens) for r in unique])
            batches = batch_rows(unique, costs.row, most, longest, deepest, kinds)
            parts = missing_parts(unique, splits, reference, kept, batches)
        places = {d: i for i, d in enumerate(first)}
        rows = [places[d] for d in digests]
        return Plan(unique, list(first), rows, splits, reference, scored, costs, limits, parts)


class Scoring:
    """Carries out one plan. It completes `plan.scored`, and keeps each shard in the journal."""

    def __init__(self, bank: Bank, plan: Plan, journal: Journal, run: Run, title: str):
        self.bank = bank
        self.plan = plan
        self.journal = journal
        self.limits = plan.limits
        self.meter = Meter(run, title, max(1.0, plan.cost))

    def compute(self) -> None:
        """Computes all parts. Raises UserError and Stopped, as `Sweep.score` does."""
        plan = self.plan
        for part in plan.parts:
            waiting = deque(part.batches)
            while waiting:
                self._finish(next_shard(part, waiting, plan.costs, self.limits))
        if plan.parts:
            n = len(self.bank.loaded.walk)
            self.meter.report(f"{split_count(len(plan.splits))}, layer {n} of {n}")

    def _finish(self, shard: Part) -> None:
        """Walks a shard and keeps what it scores. Halves the shard where memory runs out.

        Raises UserError where one batch under one split is too much.
        """
        plan, before = self.plan, self.meter.done
        short = False
        try:
            compares, logits = plan.reference is not None, self.limits.logits
            walk = ShardWalk(self.bank, plan.costs, shard, compares, logits, self.meter)
            self._keep(shard, walk.score())
        except Exception as e:
            short = out_of_memory(e)
            if not short:
                raise
        if not short:
            return
        release_memory()  # not while the error is handled: it keeps its frames and their tensors
        self.meter.done = before
        self.limits = self.limits.halved()
        pieces = plan.halves(shard)
        if not pieces:
            raise UserError(
                f"There is too little memory to run {shard.batches[0].tokens} tokens through a "
                f"layer of this model on {self.bank.loaded.device}. Close other programs, or "
                "choose another device, a smaller dtype or a smaller model."
            )
        for piece in pieces:
            self._finish(piece)

    def _keep(self, shard: Part, arrays: list[np.ndarray]) -> None:
        """Keeps the scores of a shard: an array [splits walked, 4, targets] for each batch."""
        plan = self.plan
        splits = [plan.splits[c] for c in shard.places]
        walked = [shard.splits.index(split) for split in splits]
        index = [i for batch in shard.batches for i in batch.index]
        sums = [sum_by_request(b, a[walked]) for b, a in zip(shard.batches, arrays, strict=True)]
        logprob, correct, divergence, agreement = np.concatenate(sums, axis=1)
        targets = np.array([len(plan.requests[i].targets) for i in index])
        scored = Scored(logprob, correct == targets[:, None], divergence, agreement)
        plan.scored.put(index, shard.places, scored)
        digests = [plan.digests[i] for i in index]
        self.journal.write(digests, splits, scored, plan.reference is not None)


def sum_by_request(batch: Rows, array: np.ndarray) -> np.ndarray:
    """Returns the sums of [splits, 4, targets] over each request's targets, in float64:
    [4, requests of the batch, splits]."""
    sums = np.zeros((4, len(batch.index), len(array)))
    for c, k in np.ndindex(len(array), 4):
        sums[k, :, c] = np.bincount(batch.owner, array[c, k], len(batch.index))
    return sums
