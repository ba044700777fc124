"""Scorers: one number per layer. A new one is a class here (or a file beside this one), an entry
in LAYER_SCORERS, and its spec in core/orderings.py. Those are computed in one pass over the layers,
all at once; sensitivity, which measures, takes a sweep."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..core.memory import UNTOUCHED
from ..core.run import Run
from .bank import Bank
from .models import LoadedModel
from .survey import Rider, survey
from .sweep import Request, Sweep

UPPER, SIXTEEN = np.int32(-(2**16)), np.int32(16)
TINY = 1e-15  # norms of zero have no direction: their cosine is 0
FEW_DIGITS = 1e-30  # squares below have lost digits in float32, whose smallest number is 1e-38


class LayerScorer(Rider, ABC):
    """Scores a layer by what is to be seen of it while it is at hand."""

    @abstractmethod
    def value(self) -> float: ...


class LIM(LayerScorer):
    """Layer input modification (paper equation 1): minus the cosine between what enters and what
    leaves a layer, averaged over every token of the calibration text. One forward pass, and that
    without the lm_head."""

    needs_states = True

    def __init__(self) -> None:
        self.sums: list[Tensor] = []
        self.tokens = 0

    def states(self, entered: Tensor, left: Tensor) -> None:
        total = cosines(entered.float(), left.float()).sum()
        if not torch.isfinite(total):  # their squares are beyond float32
            total = cosines(entered.cpu().double(), left.cpu().double()).sum()
        self.sums.append(total.cpu())
        self.tokens += len(entered)

    def value(self) -> float:
        mean = sum(total.double().item() for total in self.sums) / self.tokens
        self.sums, self.tokens = [], 0
        return -mean


def cosines(x: Tensor, y: Tensor) -> Tensor:
    """x and y [tokens, hidden] -> [tokens]."""
    norms = [torch.linalg.vector_norm(z, dim=-1).clamp_min(TINY) for z in (x, y)]
    return (x * y).sum(-1) / norms[0] / norms[1]


class ZD(LayerScorer):
    """z-score distribution (paper section 3.1): the share of a layer's weights w, all its linear
    weights taken together, with (w - mean) / std > 1. Reads the weights, computes no forward."""

    def weights(self, i: int, matrices: Sequence[Tensor]) -> None:
        self.share = share_above_one_std(matrices)

    def value(self) -> float:
        return self.share


def share_above_one_std(matrices: Sequence[Tensor]) -> float:
    """Share of values more than one (population) standard deviation above the mean."""
    flat = [m.reshape(-1) for m in matrices]
    total = sum(f.numel() for f in flat)
    on_cpu = flat[0].device.type == "cpu"
    cpu = CPU()
    moments = cpu.moments if on_cpu else gpu_moments
    count = cpu.count_above if on_cpu else gpu_count_above
    mean, square = (sum(sums) / total for sums in zip(*map(moments, flat), strict=True))
    variance = square - mean * mean
    if not (max(mean * mean, FEW_DIGITS) <= variance < math.inf):
        # Few digits are left of the difference, or float32 is too narrow: in float64.
        mean = sum(f.cpu().double().sum().item() for f in flat) / total
        variance = sum((f.cpu().double() - mean).square().sum().item() for f in flat) / total
    limit = rounded_down(mean + variance**0.5, flat[0].dtype)
    return sum(count(f, limit) for f in flat) / total


def rounded_down(value: float, dtype: torch.dtype) -> Tensor:
    """The largest number of `dtype` that does not exceed `value`. A comparison with `value` itself
    would round it first, up as often as down."""
    limit = torch.tensor(value, dtype=dtype)
    return limit if limit.item() <= value else limit.nextafter(limit.new_tensor(-torch.inf))


def gpu_moments(flat: Tensor) -> tuple[float, float]:
    """Sum of the values and of their squares, in float32 (mps has no float64)."""
    x = flat.float()
    return x.sum().item(), x.dot(x).item()


def gpu_count_above(flat: Tensor, limit: Tensor) -> int:
    return int((flat > limit.to(flat.device)).sum())


class CPU:
    """The same with NumPy, where it is several times faster than torch, a chunk at a time, so that
    what lies between stays in the processor's cache."""

    chunk = 2**17

    def __init__(self) -> None:
        self.values = torch.empty(self.chunk)
        self.above = np.empty(self.chunk, np.bool_)

    def moments(self, flat: Tensor) -> tuple[float, float]:
        total = square = 0.0
        for x in self.as_float32(flat):
            total += x.sum().item()
            values = x.numpy()
            square += float(np.dot(values, values))  # faster than torch's
        return total, square

    def as_float32(self, flat: Tensor) -> Iterator[Tensor]:
        """The values of each chunk, in any order. A bfloat16 is the upper half of a float32, so
        each 32 bits of two neighbours hold one value above and one below."""
        if flat.dtype != torch.bfloat16 or flat.numel() % 2 or flat.storage_offset() % 2:
            yield from (part.float() for part in flat.split(self.chunk))
            return
        pairs = flat.view(torch.int32).numpy()
        bits = self.values.view(torch.int32).numpy()
        for start in range(0, len(pairs), self.chunk // 2):
            part = pairs[start : start + self.chunk // 2]
            n = len(part)
            np.bitwise_and(part, UPPER, out=bits[:n])
            np.left_shift(part, SIXTEEN, out=bits[n : 2 * n])
            yield self.values[: 2 * n]

    def count_above(self, flat: Tensor, limit: Tensor) -> int:
        if flat.element_size() == 2 and limit.item() >= 0:
            # Positive floats are ordered as the integers with the same bits, and the integers of
            # negative ones are negative.
            flat, limit = flat.view(torch.int16), limit.abs().view(torch.int16)
        elif flat.dtype != torch.float32:
            return gpu_count_above(flat, limit)
        values, least = flat.numpy(), limit.numpy()
        count = 0
        for start in range(0, len(values), self.chunk):
            part = values[start : start + self.chunk]
            above = np.greater(part, least, out=self.above[: len(part)])
            count += int(np.count_nonzero(above))
        return count


def sensitivity(
    bank: Bank,
    level: float,
    sequences: Sequence[Sequence[int]],
    run: Run,
) -> list[float]:
    """What a layer's bits are worth, measured: the mean over tokens of KL(unquantized || quantized)
    when that layer alone is at the low level and all others are untouched, in nats. All layers in
    one walk. The yardstick that LIM and ZD, which cost one forward pass or none, are held against.
    """
    n = len(bank.loaded.walk)
    splits = [tuple(level if j == i else UNTOUCHED for j in range(n)) for i in range(n)]
    bank.fill(splits, run)
    requests = [Request(s[:-1], s[1:]) for s in sequences]
    sweep = Sweep(bank, splits, run)
    scored = sweep.score(requests, "Measuring sensitivity", divergence=True)
    tokens = sum(len(r.targets) for r in requests)
    return (scored.divergence.sum(0) / tokens).tolist()


LAYER_SCORERS: dict[str, type[LayerScorer]] = {"lim": LIM, "zd": ZD}


def layer_scores(
    loaded: LoadedModel,
    names: Sequence[str],
    sequences: Sequence[Sequence[int]],
    run: Run,
    also: Sequence[Rider] = (),
    path: Path | None = None,
) -> dict[str, tuple[list[float], float]]:
    """Name -> a score per layer and the seconds they took, of all scorers in one pass, on which
    others may ride `also`. `sequences` are token ids, one list per document, for those that need
    text; `path` is where a pass that ends early is kept."""
    riders = [LAYER_SCORERS[name]() for name in names]
    done = survey(loaded, [*riders, *also], sequences, run, path)
    return {
        name: ([v for v in done.values[r] if v is not None], done.seconds[r])
        for r, name in enumerate(names)
    }
