"""Takes one shard through the layers, and reads its logits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from ...core.allocation import Split
from ...core.errors import UserError
from ...core.memory import PRUNED, UNTOUCHED
from ...core.run import Run
from ...core.schema import split_name
from ..banks.bank import Bank
from ..batches.prefix_trees import Rows
from ..finite import not_numbers
from ..models.steps import Calls
from .plan import Costs, Part
from .route import Step

# A logit of minus infinity (a token that the model never writes) has this log-probability, so that
# two of them differ by 0 and not by NaN.
IMPOSSIBLE = -1e30
MOST_NATS = 1e9  # a figure beyond it has an impossible token in it


class Meter:
    """Reports how much of a sweep's work is `done`, of `total` operations.

    The share never falls, though work that ran out of memory is done again.
    """

    def __init__(self, run: Run, title: str, total: float):
        self.run = run
        self.title = title
        self.total = total
        self.done = 0.0
        self.share = 0.0
        self.doing = ""

    def report(self, doing: str | None = None) -> None:
        """Reports what is being done; without an argument, what was reported last."""
        self.doing = doing or self.doing
        self.share = max(self.share, min(1.0, self.done / self.total))
        self.run.progress(f"{self.title}: {self.doing}", self.share)


class ShardWalk:
    """Scores the batches of a shard under its splits.

    Where it `compares`, divergence is measured from the first split. `block` is the number of
    positions whose logits are computed at a time. `logits` is their size, in numbers.
    """

    def __init__(
        self, bank: Bank, costs: Costs, shard: Part, compares: bool, logits: int, meter: Meter
    ):
        self.bank = bank
        self.walk = bank.loaded.walk
        self.device = bank.loaded.device
        self.costs = costs
        self.shard = shard
        self.compares = compares
        self.block = max(1, logits // costs.vocabulary)
        self.meter = meter
        self.run = meter.run

    @torch.no_grad()
    def score(self) -> list[np.ndarray]:
        """Returns an array [splits walked, 4, targets] for each batch.

        The four are log-probability in nats, whether the target is the most likely token,
        divergence in nats, and agreement. Raises UserError where any of it is no number, and
        Stopped.
        """
        shard = self.shard
        states: list[dict[Split, Tensor]] = [{} for _ in shard.batches]
        calls: list[Calls] = []
        results = []
        try:
            for batch, state in zip(shard.batches, states, strict=True):
                self.run.check()
                state[()], arguments = self.walk.head(*batch.tensors(self.device))
                calls.append(arguments)
            self._take_layers(states, calls)
            for batch, state in zip(shard.batches, states, strict=True):
                results.append(self.read(batch, state))
                state.clear()
            arrays = [result.cpu().numpy() for result in results]
            for batch, array in zip(shard.batches, arrays, strict=True):
                self._check_numbers(batch, array)
            return arrays
        finally:  # an exception keeps its frames, and so what they refer to
            for state in states:
                state.clear()
            for arguments in calls:
                arguments.clear()

    def _take_layers(self, states: Sequence[dict[Split, Tensor]], calls: Sequence[Calls]) -> None:
        """Takes all batches through all layers. `states` has, for each batch, prefix of splits ->
        hidden states."""
        shard, n = self.shard, len(self.walk)
        for i, levels in enumerate(shard.layers):
            doing = f"{split_count(len(shard.places))}, layer {i + 1} of {n}"
            for level, steps in levels.items():
                with self.weights(i, level) as weights:
                    for batch, state, arguments in zip(shard.batches, states, calls, strict=True):
                        self.meter.report(doing)
                        for step in steps:
                            self.run.check()
                            self._take_step(i, step, state, arguments, weights)
                        if level != PRUNED:
                            self.meter.done += len(steps) * self.costs.step(batch)

    def _take_step(
        self,
        i: int,
        step: Step,
        state: dict[Split, Tensor],
        arguments: Calls,
        weights: Mapping[str, Tensor] | None,
    ) -> None:
        take = state.pop if step.last else state.__getitem__
        if step.end[i] == PRUNED:
            state[step.end] = take(step.start)
        else:
            state[step.end] = self.walk.step(i, take(step.start), arguments, weights)

    @contextmanager
    def weights(self, i: int, level: float) -> Iterator[dict[str, Tensor] | None]:
        """Yields what stands in for layer i's weights, None where it takes its own or is pruned."""
        if level == UNTOUCHED:
            with self.walk.source.at_hand(i):
                yield None
        else:
            yield None if level == PRUNED else self.bank.dense(i, level, self.run)

    @torch.no_grad()
    def read(self, batch: Rows, states: Mapping[Split, Tensor]) -> Tensor:
        """Returns [splits, 4, targets] on the device, from the logits of the last hidden `states`.

        It takes a block of positions at a time, and does not wait for the device.
        """
        splits = self.shard.splits
        at, source, targets = (
            torch.from_numpy(places).to(self.device)
            for places in (batch.at, batch.source, batch.targets)
        )
        result = torch.zeros(len(splits), 4, len(targets), device=self.device)
        for start in range(0, len(at), self.block):
            stop = min(start + self.block, len(at))
            inside = slice(*batch.first[[start, stop]].tolist())
            rows = source[inside] - start
            reference: tuple[Tensor, ...] = ()
            for c, split in enumerate(splits):
                self.meter.report()
                self.run.check()
                logits = self.walk.tail(states[split].flatten(0, 1)[at[start:stop]]).float()
                logp = logits.log_softmax(-1).clamp_min_(IMPOSSIBLE)
                best = logits.argmax(-1)
                result[c, 0, inside] = logp[rows, targets[inside]]
                result[c, 1, inside] = (best[rows] == targets[inside]).float()
                if self.compares:
                    reference = reference or (logp, logp.exp(), best)
                    ref_logp, ref_p, ref_best = reference
                    kl = torch.linalg.vecdot(ref_p, ref_logp - logp)
                    result[c, 2, inside] = kl.clamp_min_(0)[rows]  # below 0 it is rounding
                    result[c, 3, inside] = (best == ref_best)[rows].float()
            self.meter.done += self.costs.read(batch) * len(splits) * (stop - start) / len(at)
        return result

    def _check_numbers(self, batch: Rows, array: np.ndarray) -> None:
        """Raises UserError where any of `array` [splits, 4, targets] is no number.

        The error names the first layer that gives such values.
        """
        right = (np.abs(array) < MOST_NATS).all(axis=(1, 2))  # false for NaN, too
        if right.all():
            return
        split = self.shard.splits[int(np.argmin(right))]
        dtype = self.bank.loaded.info.dtype
        real = torch.from_numpy(batch.real).to(self.device)
        hidden, arguments = self.walk.head(*batch.tensors(self.device))
        for i, level in enumerate(split):
            if level == PRUNED:
                continue
            with self.weights(i, level) as weights:
                hidden = self.walk.step(i, hidden, arguments, weights)
            if not torch.isfinite(hidden[real]).all():
                at_level = "" if level == UNTOUCHED else f" at {level:g} bits"
                raise not_numbers(f"Layer {i}{at_level}", dtype)
        if np.isfinite(array).all():
            raise UserError(
                f"At {split_name(split)} the model gives a token of the text no probability at "
                "all, so no log-probability can be computed. Choose another text or another model."
            )
        raise not_numbers("The head of the model", dtype)


def split_count(splits: int) -> str:
    """Returns '1 split' or '2 splits'."""
    return f"{splits} split" + "s" * (splits != 1)
