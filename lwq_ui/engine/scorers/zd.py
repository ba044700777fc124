"""ZD: the share of a layer's weights that lie far above their mean (paper section 3.1)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ..models.layers import layer_weights
from .base import PassScorer

FEW_DIGITS = 1e-30  # squares below have lost digits in float32, whose smallest number is 1e-38
UPPER, SIXTEEN = np.int32(-(2**16)), np.int32(16)


class ZD(PassScorer):
    """z-score distribution (paper section 3.1): the share of weights w with (w - mean) / std > 1.

    All linear weights of a layer are taken together.

    It reads the weights and computes no forward pass.
    """

    def enter(self, i: int, layer: nn.Module) -> None:
        self.share = share_above_one_std([w.matrix() for w in layer_weights(layer)])

    def value(self) -> float:
        return self.share


def share_above_one_std(matrices: Sequence[Tensor]) -> float:
    """Returns the share of values that lie more than one (population) standard deviation above the
    mean of all."""
    flat = [m.reshape(-1) for m in matrices]
    total = sum(f.numel() for f in flat)
    on_cpu = flat[0].device.type == "cpu"
    cpu = CPU()
    moments = cpu.moments if on_cpu else gpu_moments
    count = cpu.count_above if on_cpu else gpu_count_above
    mean, square = (sum(sums) / total for sums in zip(*map(moments, flat), strict=True))
    variance = square - mean * mean
    if not (max(mean * mean, FEW_DIGITS) <= variance < math.inf):
        # Few digits are left of the difference, or float32 is too narrow: float64 is exact enough.
        mean = sum(f.cpu().double().sum().item() for f in flat) / total
        variance = sum((f.cpu().double() - mean).square().sum().item() for f in flat) / total
    limit = rounded_down(mean + variance**0.5, flat[0].dtype)
    return sum(count(f, limit) for f in flat) / total


def rounded_down(value: float, dtype: torch.dtype) -> Tensor:
    """Returns the largest number of `dtype` that does not exceed `value`.

    A comparison with `value` itself would round it first, up as often as down.
    """
    limit = torch.tensor(value, dtype=dtype)
    return limit if limit.item() <= value else limit.nextafter(limit.new_tensor(-torch.inf))


def gpu_moments(flat: Tensor) -> tuple[float, float]:
    """Returns the sums of the values and of their squares, in float32 (mps has no float64)."""
    x = flat.float()
    return x.sum().item(), x.dot(x).item()


def gpu_count_above(flat: Tensor, limit: Tensor) -> int:
    return int((flat > limit.to(flat.device)).sum())


class CPU:
    """Computes the same with NumPy, which is several times faster than torch on a CPU.

    It takes a chunk at a time, so that intermediate values stay in the processor's cache.
    """

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
        """Yields the values of each chunk, in any order.

        A bfloat16 is the upper half of a float32. So the 32 bits of two neighbours hold one value
        in their upper half and one in their lower half.
        """
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


SCORER = ZD
