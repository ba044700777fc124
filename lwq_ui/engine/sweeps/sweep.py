"""Many splits, one walk: each layer is de-quantized once per level, and splits that agree on
layers 0..i share the hidden state after layer i.

The work is cut into shards (some batches under some splits), each walked from the first layer to
the logits and then kept on disk. A batch's numbers depend on nothing but the batch: neither on the
splits and batches that are walked with it nor on what was done before it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...core.allocation import Split
from ...core.errors import UserError
from ...core.memory import PRUNED, UNTOUCHED
from ...core.run import Run
from ...core.schema import split_name
from ...failures import out_of_memory
from ..banks.bank import Bank
from ..batches.padded import batch_tokens
from ..batches.prefix_trees import Request, Rows, batch_rows
from ..devices import free_bytes, release_memory
from ..finite import not_numbers
from ..models.steps import Calls
from .journal import Journal, Scored, digest
from .route import Step, count_steps, most_states, route

MOST_ROOM = (
    16 * 2**30
)  # of a computer's free memory that is counted on, where others need some, too
SHARE_OF_ROOM = 0.25  # for hidden states; the rest is for what a layer computes on the way
LOGITS = {"cpu": 2**21}  # numbers of one block of logits, in float32: what a CPU's cache holds
MOST_LOGITS = 2**25
OPERATIONS = {"cpu": 3e12}  # of a shard: about a minute is lost when a sweep is killed
MOST_OPERATIONS = 5e15
# Tokens of a shard, however large the model is: beside computing them, de-quantizing a layer or
# reading it from the disk takes little.
TOKENS = {"cpu": 2**12}
MOST_TOKENS = 2**18
ATTENTION = 3.0  # time of an operation of attention, relative to one of a matrix product
# A logit of minus infinity (a token that the model never writes) has this log-probability, so that
# two of them differ by 0 and not by NaN. Where a figure is beyond the second number, one is in it.
IMPOSSIBLE, MOST_NATS = -1e30, 1e9


@dataclass
class Part:
    """Batches and the splits that they lack: their places in the sweep, the splits that are walked
    (the one they are compared with comes first), and the way through the layers."""

    places: tuple[int, ...]
    splits: list[Split]
    batches: list[Rows]

    def __post_init__(self) -> None:
        self.layers = route(self.splits)
        self.steps = count_steps(self.layers)


class Sweep:
    """Scores requests under every split at once. `journal` is the folder that keeps what is scored,
    shard by shard, of this model and quantizer on this device; without one nothing is kept."""

    def __init__(
        self,
        bank: Bank,
        splits: Sequence[Split],
        run: Run,
        journal: Path | None = None,
    ):
        self.bank = bank
        self.walk = bank.loaded.walk
        self.device = bank.loaded.device
        self.splits = [tuple(split) for split in splits]
        self.run = run
        self.journal = Journal(journal)
        self.width = self.walk.width
        self.vocabulary = self.walk.model.get_input_embeddings().num_embeddings
        layers = bank.loaded.info.layers
        self.weights = sum(w.numel for layer in layers for w in layer.weights) / len(layers)

    @torch.no_grad()
    def score(self, requests: Sequence[Request], title: str, divergence: bool = False) -> Scored:
        """`divergence` asks for divergence from and agreement with the unquantized model, too."""
        digests = [digest(r) for r in requests]
        first = {d: i for i, d in reversed(list(enumerate(digests)))}
        self.requests = [requests[i] for i in first.values()]
        self.digests = list(first)
        self.columns = list(dict.fromkeys(self.splits))
        self.title = title
        self.reference = (UNTOUCHED,) * len(self.walk) if divergence else None
        self.scored, known = self.journal.read(self.digests, self.columns, divergence)
        self.done = self.share = 0.0
        self.block = max(1, LOGITS.get(self.device, MOST_LOGITS) // self.vocabulary)
        self.operations = max(
            OPERATIONS.get(self.device, MOST_OPERATIONS),
            TOKENS.get(self.device, MOST_TOKENS) * 2 * self.weights * len(self.walk),
        )
        self.room = free_memory(self.device) * SHARE_OF_ROOM
        self._compute(self._missing(known))
        places = {d: i for i, d in enumerate(self.digests)}
        rows = [places[d] for d in digests]
        return self.scored.take(rows, [self.columns.index(split) for split in self.splits])

    def _missing(self, known: np.ndarray) -> list[Part]:
        """The batches follow from all requests, and what is known is left out of them afterwards.
        So a sweep that goes on makes the batches that it would have made without interruption."""
        if known.all():
            return []
        info = self.bank.loaded.info
        most = batch_tokens(info, self.device)
        deepest = self.walk.window if self.walk.shares_prefixes else 0
        longest = min(most, info.max_tokens or most)
        missing = [tuple(np.flatnonzero(~row).tolist()) for row in known]
        parts: dict[tuple[int, ...], Part] = {}
        kinds = self.walk.kinds([len(r.tokens) for r in self.requests])
        for batch in batch_rows(self.requests, self._row_cost, most, longest, deepest, kinds):
            for splits in sorted({missing[i] for row in batch for i in row} - {()}):
                rows = [[i for i in row if missing[i] == splits] for row in batch]
                if splits not in parts:
                    parts[splits] = self._part(splits, [])
                left = Rows(self.requests, [row for row in rows if row])
                parts[splits].batches.append(left)
        return list(parts.values())

    def _part(self, places: tuple[int, ...], batches: list[Rows]) -> Part:
        splits = [self.columns[c] for c in places]
        if self.reference is not None:
            splits = [self.reference, *(s for s in splits if s != self.reference)]
        return Part(places, splits, batches)

    def _row_cost(self, length: int) -> float:
        """Operations of one layer on a row of so many tokens."""
        return length * (2 * self.weights + ATTENTION * 4 * self.width * length)

    def _step_cost(self, batch: Rows) -> float:
        return len(batch.rows) * self._row_cost(batch.length)

    def _read_cost(self, batch: Rows) -> float:
        """Operations of the logits of a batch under one split."""
        return len(batch.at) * 2.0 * self.vocabulary * self.width

    def _cost(self, part: Part) -> float:
        return sum(
            part.steps * self._step_cost(b) + len(part.splits) * self._read_cost(b)
            for b in part.batches
        )

    def _compute(self, parts: list[Part]) -> None:
        self.total = max(1.0, sum(map(self._cost, parts)))
        for part in parts:
            for shard in self._shards(part):
                self._finish(shard)
        if parts:
            self._report(
                f"{counted(len(self.columns))}, layer {len(self.walk)} of {len(self.walk)}"
            )

    def _shards(self, part: Part) -> Iterator[Part]:
        """Pieces whose hidden states have room and whose work is bounded, at least a batch each."""
        dtype_bytes = self.bank.loaded.info.dtype_bytes
        token_bytes = self.width * dtype_bytes * most_states(part.layers)
        left = deque(part.batches)
        while left:
            shard = replace(part, batches=[])
            size = 0
            while left:
                batch = left[0]
                mask = batch.length * dtype_bytes if batch.branches else 0
                size += batch.tokens * (token_bytes + mask)
                if shard.batches and (size > self.room or self._cost(shard) > self.operations):
                    break
                shard.batches.append(left.popleft())
            yield shard

    def _finish(self, shard: Part) -> None:
        """Walks a shard and keeps what it scored. Where memory runs out, halves it."""
        before = self.done
        short = False
        try:
            self._keep(shard, self._walk(shard))
        except Exception as e:
            short = out_of_memory(e)
            if not short:
                raise
        if not short:
            return
        release_memory()  # not while the error is handled: it keeps its frames and their tensors
        self.done = before
        self.room /= 2
        self.block = max(1, self.block // 2)
        batches, places = shard.batches, shard.places
        if len(batches) > 1:
            half = len(batches) // 2
            pieces = [replace(shard, batches=b) for b in (batches[:half], batches[half:])]
        elif len(places) > 1:
            half = len(places) // 2
            pieces = [self._part(p, batches) for p in (places[:half], places[half:])]
        else:
            raise UserError(
                f"There is too little memory to run {batches[0].tokens} tokens through a layer of "
                f"this model on {self.device}. Close other programs, or choose another device, a "
                "smaller dtype or a smaller model."
            )
        for piece in pieces:
            self._finish(piece)

    def _keep(self, shard: Part, found: list[np.ndarray]) -> None:
        """`found` has for each batch an array [splits walked, 4, targets]."""
        walked = [shard.splits.index(self.columns[c]) for c in shard.places]
        index = [i for batch in shard.batches for i in batch.index]
        sums = [per_request(b, f[walked]) for b, f in zip(shard.batches, found, strict=True)]
        logprob, correct, divergence, agreement = np.concatenate(sums, axis=1)
        targets = np.array([len(self.requests[i].targets) for i in index])
        scored = Scored(logprob, correct == targets[:, None], divergence, agreement)
        self.scored.put(index, shard.places, scored)
        splits = [self.columns[c] for c in shard.places]
        digests = [self.digests[i] for i in index]
        self.journal.write(digests, splits, scored, self.reference is not None)

    def _walk(self, shard: Part) -> list[np.ndarray]:
        """Per batch: an array [splits walked, 4, targets]: log-probability, whether the target is
        the most likely token, divergence, agreement."""
        states: list[dict[Split, Tensor]] = [{} for _ in shard.batches]
        calls: list[Calls] = []
        found = []
        try:
            for batch, state in zip(shard.batches, states, strict=True):
                self.run.check()
                state[()], arguments = self.walk.head(*batch.tensors(self.device))
                calls.append(arguments)
            for i, steps in enumerate(shard.layers):
                what = f"{counted(len(shard.places))}, layer {i + 1} of {len(self.walk)}"
                for level, moves in steps.items():
                    with self._weights(i, level) as weights:
                        for batch, state, told in zip(shard.batches, states, calls, strict=True):
                            self._report(what)
                            for move in moves:
                                self.run.check()
                                self._step(i, state, move, told, weights)
                            if level != PRUNED:
                                self.done += len(moves) * self._step_cost(batch)
            for batch, state in zip(shard.batches, states, strict=True):
                found.append(self._read(batch, state, shard.splits, what))
                state.clear()
            arrays = [f.cpu().numpy() for f in found]
            for batch, array in zip(shard.batches, arrays, strict=True):
                self._check_numbers(batch, shard.splits, array)
            return arrays
        finally:  # an exception keeps its frames, and so what they refer to
            for state in states:
                state.clear()
            for arguments in calls:
                arguments.clear()

    @contextmanager
    def _weights(self, i: int, level: float) -> Iterator[dict[str, Tensor] | None]:
        """What stands in for the weights of layer i; None where it takes its own, or none."""
        if level == UNTOUCHED:
            with self.walk.source.at_hand(i):
                yield None
        else:
            yield None if level == PRUNED else self.bank.dense(i, level, self.run)

    def _step(
        self, i: int, state: dict[Split, Tensor], move: Step, calls: Calls, weights: Any
    ) -> None:
        take = state.pop if move.last else state.__getitem__
        if move.end[i] == PRUNED:
            state[move.end] = take(move.start)
        else:
            state[move.end] = self.walk.step(i, take(move.start), calls, weights)

    def _read(
        self, batch: Rows, state: dict[Split, Tensor], splits: Sequence[Split], what: str
    ) -> Tensor:
        """Logits, a block of positions at a time -> [splits, 4, targets]. Nothing waits for the
        device."""
        at = torch.from_numpy(batch.at).to(self.device)
        source = torch.from_numpy(batch.source).to(self.device)
        targets = torch.from_numpy(batch.targets).to(self.device)
        found = torch.zeros(len(splits), 4, len(targets), device=self.device)
        for start in range(0, len(at), self.block):
            stop = min(start + self.block, len(at))
            inside = slice(*batch.first[[start, stop]].tolist())
            reference: tuple[Tensor, ...] = ()
            for c, split in enumerate(splits):
                self._report(what)
                self.run.check()
                logits = self.walk.tail(state[split].flatten(0, 1)[at[start:stop]]).float()
                logp = logits.log_softmax(-1).clamp_min_(IMPOSSIBLE)
                best = logits.argmax(-1)
                rows = source[inside] - start
                found[c, 0, inside] = logp[rows, targets[inside]]
                found[c, 1, inside] = (best[rows] == targets[inside]).float()
                if self.reference is not None:
                    reference = reference or (logp, logp.exp(), best)
                    ref_logp, ref_p, ref_best = reference
                    kl = torch.linalg.vecdot(ref_p, ref_logp - logp)
                    found[c, 2, inside] = kl.clamp_min_(0)[rows]  # below 0 it is rounding
                    found[c, 3, inside] = (best == ref_best)[rows].float()
            self.done += self._read_cost(batch) * len(splits) * (stop - start) / len(at)
        return found

    def _check_numbers(self, batch: Rows, splits: Sequence[Split], array: np.ndarray) -> None:
        """`array` [splits, 4, targets] is what was read. Raises UserError where any of it is no
        number, naming the first layer that gives such values."""
        right = (np.abs(array) < MOST_NATS).all(axis=(1, 2))  # false for NaN, too
        if right.all():
            return
        split = splits[int(np.argmin(right))]
        dtype = self.bank.loaded.info.dtype
        real = torch.from_numpy(batch.real).to(self.device)
        hidden, calls = self.walk.head(*batch.tensors(self.device))
        for i, level in enumerate(split):
            if level == PRUNED:
                continue
            with self._weights(i, level) as weights:
                hidden = self.walk.step(i, hidden, calls, weights)
            if not torch.isfinite(hidden[real]).all():
                how = "" if level == UNTOUCHED else f" at {level:g} bits"
                raise not_numbers(f"Layer {i}{how}", dtype)
        if np.isfinite(array).all():
            raise UserError(
                f"At {split_name(split)} the model gives a token of the text no probability at "
                "all, so no log-probability can be computed. Choose another text or another model."
            )
        raise not_numbers("The head of the model", dtype)

    def _report(self, what: str) -> None:
        self.share = max(self.share, min(1.0, self.done / self.total))
        self.run.progress(f"{self.title}: {what}", self.share)


def per_request(batch: Rows, found: np.ndarray) -> np.ndarray:
    """[splits, 4, targets] -> sums in float64 [4, requests of the batch, splits]."""
    sums = np.zeros((4, len(batch.index), len(found)))
    for c, k in np.ndindex(len(found), 4):
        sums[k, :, c] = np.bincount(batch.owner, found[c, k], len(batch.index))
    return sums


def free_memory(device: str) -> int:
    return min(free_bytes(device)[0], MOST_ROOM if device == "cpu" else 2**63)


def counted(splits: int) -> str:
    return f"{splits} split" + "s" * (splits != 1)
