"""Many splits, one walk: each layer is de-quantized once per level, and splits that agree on
layers 0..i share the hidden state after layer i."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from threading import Event

import numpy as np
import torch
from torch import Tensor

from ..core.allocation import Split
from ..core.errors import Stopped
from ..core.memory import UNTOUCHED
from .bank import Bank
from .batches import Batch, batch_tokens, batches
from .sources import Progress
from .walk import Calls

HIDDEN_BYTES = 2**30  # hidden states of all splits that are kept at a time
LOGITS = 2**24  # numbers of one block of logits, in float32


@dataclass(frozen=True)
class Request:
    """A sequence to run and the tokens to score: the last len(targets) positions of `tokens`
    predict `targets`."""

    tokens: Sequence[int]
    targets: Sequence[int]


@dataclass(frozen=True)
class Scored:
    """What requests score under each split; every array is [requests, splits]. Log-probabilities
    and divergences are sums over a request's targets, in nats."""

    logprob: np.ndarray
    greedy: np.ndarray  # whether every target is the most likely token
    divergence: np.ndarray  # KL(unquantized || split)
    agreement: np.ndarray  # targets where the most likely token is the unquantized model's


class Sweep:
    """Scores requests under every split at once."""

    def __init__(self, bank: Bank, splits: Sequence[Split], progress: Progress, stop: Event):
        self.bank = bank
        self.walk = bank.loaded.walk
        self.splits = list(splits)
        self.progress = progress
        self.stop = stop

    @torch.no_grad()
    def score(self, requests: Sequence[Request], title: str, divergence: bool = False) -> Scored:
        """`divergence` asks for divergence from and agreement with the unquantized model, too."""
        untouched = (UNTOUCHED,) * len(self.walk)
        asked = len(self.splits)
        if divergence and untouched not in self.splits:
            every = Sweep(self.bank, [*self.splits, untouched], self.progress, self.stop)
            scored = every.score(requests, title, divergence)
            columns = (getattr(scored, f.name)[:, :asked] for f in fields(scored))
            return Scored(*columns)
        self.reference = self.splits.index(untouched) if divergence else None
        shape = (len(requests), asked)
        scored = Scored(np.zeros(shape), np.ones(shape, bool), np.zeros(shape), np.zeros(shape))
        work = batches([r.tokens for r in requests], batch_tokens(self.bank.loaded))
        shards = self._shards(work)
        for s, shard in enumerate(shards):
            finals = self._walk(shard, title, s, len(shards))
            for batch, hidden in zip(shard, finals, strict=True):
                self._read(batch, hidden, requests, scored)
        return scored

    def _shards(self, work: list[Batch]) -> list[list[Batch]]:
        width = self.walk.model.config.get_text_config(decoder=True).hidden_size
        token_bytes = width * self.bank.loaded.info.dtype_bytes * len(self.splits)
        most = HIDDEN_BYTES // token_bytes
        shards: list[list[Batch]] = []
        tokens = 0
        for batch in work:
            size = len(batch.rows) * len(batch.rows[0])
            if not shards or tokens + size > most:
                shards.append([])
                tokens = 0
            shards[-1].append(batch)
            tokens += size
        return shards

    def _walk(self, shard: list[Batch], title: str, s: int, of: int) -> list[dict[Split, Tensor]]:
        """Per batch: split -> hidden state after the last layer."""
        calls: list[Calls] = []
        states: list[dict[Split, Tensor]] = []
        for batch in shard:
            hidden, arguments = self.walk.head(batch.tensors(self.bank.loaded.device)[0])
            calls.append(arguments)
            states.append({(): hidden})
        n = len(self.walk)
        for i in range(n):
            prefixes = sorted({split[: i + 1] for split in self.splits})
            after: list[dict[Split, Tensor]] = [{} for _ in shard]
            levels = sorted({p[i] for p in prefixes})
            for k, level in enumerate(levels):
                weights = self.bank.dense(i, level)
                for b in range(len(shard)):
                    in_layer = (k + b / len(shard)) / len(levels)
                    self.progress(title, (s + (i + in_layer) / n) / of)
                    for prefix in (p for p in prefixes if p[i] == level):
                        if self.stop.is_set():
                            raise Stopped
                        after[b][prefix] = self.walk.step(
                            i, states[b][prefix[:i]], calls[b], weights
                        )
            states = after
        return states

    def _read(
        self,
        batch: Batch,
        hidden: dict[Split, Tensor],
        requests: Sequence[Request],
        scored: Scored,
    ) -> None:
        """Logits of the positions that predict targets, a block at a time, into `scored`."""
        device = self.bank.loaded.device
        places = [
            (r, len(requests[j].tokens) - len(requests[j].targets) + k, target, j)
            for r, j in enumerate(batch.index)
            for k, target in enumerate(requests[j].targets)
        ]
        vocabulary = self.walk.model.get_input_embeddings().num_embeddings
        block = max(1, LOGITS // vocabulary)
        splits = list(range(len(self.splits)))
        if self.reference is not None:
            splits.insert(0, splits.pop(self.reference))
        for start in range(0, len(places), block):
            if self.stop.is_set():
                raise Stopped
            rows, positions, targets, owners = map(
                list, zip(*places[start : start + block], strict=True)
            )
            wanted = torch.tensor(targets, device=device)
            reference: Tensor | None = None
            for c in splits:
                logits = self.walk.tail(hidden[self.splits[c]][rows, positions]).float()
                logp = logits.log_softmax(-1)
                best = logp.argmax(-1)
                of_target = logp.gather(1, wanted[:, None])[:, 0].cpu().double().numpy()
                np.add.at(scored.logprob[:, c], owners, of_target)
                np.logical_and.at(scored.greedy[:, c], owners, (best == wanted).cpu().numpy())
                if self.reference is None:
                    continue
                if reference is None:
                    reference, reference_best = logp, best
                kl = (reference.exp() * (reference - logp)).sum(-1).cpu().double().numpy()
                np.add.at(scored.divergence[:, c], owners, kl)
                same = (best == reference_best).cpu().double().numpy()
                np.add.at(scored.agreement[:, c], owners, same)
