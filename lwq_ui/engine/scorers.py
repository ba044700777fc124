"""Scorers: one number per layer. A new one is a class here (or a file beside this one), an entry
in COMPUTE, and its spec in core/orderings.py."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from threading import Event

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from ..core.errors import Stopped
from .batches import batch_tokens, batches
from .models import LoadedModel, layer_weights
from .sources import Progress

CHUNK = 2**18  # weights at a time: float32 copies of them stay in the processor's cache
GPU_CHUNK = 2**26


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
            for i in range(len(walk)):
                if stop.is_set():
                    raise Stopped
                progress("Scoring with LIM", (b + i / len(walk)) / len(work))
                after = walk.step(i, hidden, calls)
                sums[i] += cosine_sum(hidden[real], after[real]).cpu()
                hidden = after
            tokens += int(real.sum())
        return [-s / tokens for s in sums.tolist()]


def cosine_sum(x: Tensor, y: Tensor) -> Tensor:
    """Sum over rows of cos(x, y), in float32, summed in float64."""
    return cosine_similarity(x.float(), y.float(), dim=-1).double().sum()


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
    size = CHUNK if matrices[0].device.type == "cpu" else GPU_CHUNK
    chunks = [c for m in matrices for c in m.reshape(-1).split(size)]
    total = sum(c.numel() for c in chunks)
    mean, square = (sum(sums) / total for sums in zip(*map(moments, chunks), strict=True))
    variance = square - mean * mean
    if variance < mean * mean:  # few digits are left of the difference: about the mean, in float64
        mean = sum(c.sum(dtype=torch.float64).item() for c in chunks) / total
        variance = sum((c.double() - mean).square().sum().item() for c in chunks) / total
    threshold = mean + variance**0.5
    return sum(count_above(c, threshold) for c in chunks) / total


def moments(chunk: Tensor) -> tuple[float, float]:
    """Sum of the values and of their squares, in float32."""
    x = chunk.float()
    if x.device.type != "cpu":
        return x.sum(dtype=torch.float64).item(), x.dot(x).item()
    values = x.numpy()  # its dot is faster than torch's
    return x.sum().item(), float(np.dot(values, values))


def count_above(chunk: Tensor, threshold: float) -> int:
    """How many values exceed `threshold`, exactly: torch would round it to the chunk's dtype, and
    up as often as down. On CPUs NumPy compares several times faster than torch."""
    limit = torch.tensor(threshold, dtype=chunk.dtype)
    if limit.item() > threshold:
        limit = torch.nextafter(limit, limit.new_tensor(-torch.inf))
    if chunk.device.type == "cpu" and chunk.dtype == torch.float32:
        return int(np.count_nonzero(chunk.numpy() > limit.numpy()))
    if chunk.device.type == "cpu" and chunk.element_size() == 2 and not limit.signbit():
        # Positive floats are ordered as the integers with the same bits; negative ones have
        # negative integers.
        bits = chunk.view(torch.int16).numpy() > limit.view(torch.int16).numpy()
        return int(np.count_nonzero(bits))
    return int((chunk > limit.to(chunk.device)).sum())


SCORERS: dict[str, Scorer] = {"lim": LIM(), "zd": ZD()}
