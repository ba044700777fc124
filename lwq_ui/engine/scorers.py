"""Scorers: one number per layer. A new one is a class here (or a file beside this one), an entry
in COMPUTE, and its spec in core/orderings.py."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from threading import Event

import numpy as np
import torch
from torch import Tensor

from ..core.errors import Stopped
from .batches import batch_tokens, batches
from .models import LoadedModel, layer_weights
from .sources import Progress

TINY = 1e-8  # norms of zero have no direction: their cosine is 0


class Scorer(ABC):
    """Scores every layer of a model. `sequences` (token ids, one list per document) are empty for
    a scorer whose spec needs no text."""

    @abstractmethod
    def score(
        self,
        loaded: LoadedModel,
        sequences: Sequence[Sequence[int]],
        progress: Progress,
        stop: Event,
    ) -> list[float]: ...


class LIM(Scorer):
    """Layer input modification (paper equation 1): minus the cosine between what enters and what
    leaves a layer, averaged over every token of the calibration text. One forward pass, and that
    without the lm_head."""

    def score(
        self,
        loaded: LoadedModel,
        sequences: Sequence[Sequence[int]],
        progress: Progress,
        stop: Event,
    ) -> list[float]:
        walk = loaded.walk
        sums = torch.zeros(len(walk), dtype=torch.float64)
        tokens = 0
        work = batches(sequences, batch_tokens(loaded))
        for b, batch in enumerate(work):
            ids, real = batch.tensors(loaded.device)
            hidden, calls = walk.head(ids)
            x, x_norms = token_rows(hidden, real)
            for i in range(len(walk)):
                if stop.is_set():
                    raise Stopped
                progress("Scoring with LIM", (b + i / len(walk)) / len(work))
                hidden = walk.step(i, hidden, calls)
                y, y_norms = token_rows(hidden, real)
                cosines = (x * y).sum(-1) / (x_norms * y_norms).clamp_min(TINY)
                sums[i] += cosines.cpu().double().sum()
                x, x_norms = y, y_norms
            tokens += int(real.sum())
        return [-s / tokens for s in sums.tolist()]


def token_rows(hidden: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """The hidden states of real tokens, one a row, and their norms, in float32."""
    rows = (hidden.flatten(0, 1) if real.all() else hidden[real]).float()
    return rows, torch.linalg.vector_norm(rows, dim=-1)


class ZD(Scorer):
    """z-score distribution (paper section 3.1): the share of a layer's weights w, all its linear
    weights taken together, with (w - mean) / std > 1. Reads the weights, computes no forward."""

    def score(
        self,
        loaded: LoadedModel,
        sequences: Sequence[Sequence[int]],
        progress: Progress,
        stop: Event,
    ) -> list[float]:
        scores = []
        for i, layer in enumerate(loaded.walk.layers):
            if stop.is_set():
                raise Stopped
            progress("Scoring with ZD", i / len(loaded.walk))
            scores.append(share_above_one_std([w.matrix() for w in layer_weights(layer)]))
        return scores


def share_above_one_std(matrices: Sequence[Tensor]) -> float:
    """Share of values more than one (population) standard deviation above the mean."""
    values = OnCPU() if matrices[0].device.type == "cpu" else OnGPU()
    chunks = [c for m in matrices for c in m.reshape(-1).split(values.chunk)]
    total = sum(c.numel() for c in chunks)
    mean, square = (sum(sums) / total for sums in zip(*map(values.moments, chunks), strict=True))
    variance = square - mean * mean
    if variance < mean * mean:  # few digits are left of the difference: about the mean, in float64
        mean = sum(c.cpu().double().sum().item() for c in chunks) / total
        variance = sum((c.cpu().double() - mean).square().sum().item() for c in chunks) / total
    limit = rounded_down(mean + variance**0.5, chunks[0].dtype)
    return sum(values.count_above(c, limit) for c in chunks) / total


def rounded_down(value: float, dtype: torch.dtype) -> Tensor:
    """The largest number of `dtype` that does not exceed `value`. A comparison with `value` itself
    would round it first, up as often as down."""
    limit = torch.tensor(value, dtype=dtype)
    return limit if limit.item() <= value else limit.nextafter(limit.new_tensor(-torch.inf))


class OnGPU:
    chunk = 2**26

    def moments(self, chunk: Tensor) -> tuple[float, float]:
        """Sum of the values and of their squares, in float32 (mps has no float64)."""
        x = chunk.float()
        return x.sum().item(), x.dot(x).item()

    def count_above(self, chunk: Tensor, limit: Tensor) -> int:
        return int((chunk > limit.to(chunk.device)).sum())


class OnCPU(OnGPU):
    """The same, with what NumPy does several times faster than torch, in buffers that stay in the
    processor's cache."""

    chunk = 2**18

    def __init__(self) -> None:
        self.pairs = np.empty(self.chunk // 2, np.int32)
        self.above = np.empty(self.chunk, np.bool_)

    def moments(self, chunk: Tensor) -> tuple[float, float]:
        total = square = 0.0
        for x in self.as_float32(chunk):
            total += torch.from_numpy(x).sum().item()
            square += float(np.dot(x, x))
        return total, square

    def as_float32(self, chunk: Tensor) -> Iterator[np.ndarray]:
        """The values, in any order. A bfloat16 is the upper half of a float32, so each 32 bits of
        two neighbours hold one value above and one below."""
        if chunk.dtype != torch.bfloat16 or chunk.numel() % 2 or chunk.storage_offset() % 2:
            yield chunk.float().numpy()
            return
        both = chunk.view(torch.int32).numpy()
        one = self.pairs[: len(both)]
        yield np.bitwise_and(both, np.int32(-(2**16)), out=one).view(np.float32)
        yield np.left_shift(both, np.int32(16), out=one).view(np.float32)

    def count_above(self, chunk: Tensor, limit: Tensor) -> int:
        if chunk.element_size() == 2 and not limit.signbit():
            # Positive floats are ordered as the integers with the same bits, and the integers of
            # negative ones are negative.
            chunk, limit = chunk.view(torch.int16), limit.view(torch.int16)
        elif chunk.dtype != torch.float32:
            return super().count_above(chunk, limit)
        above = self.above[: len(chunk)]
        return int(np.count_nonzero(np.greater(chunk.numpy(), limit.numpy(), out=above)))


SCORERS: dict[str, Scorer] = {"lim": LIM(), "zd": ZD()}
