"""Optimizers for optimum-quanto. They find the scale and shift of every group at 2 and 4 bits."""

from __future__ import annotations

from typing import Any

import torch
from optimum.quanto import HqqOptimizer, MaxOptimizer
from torch import Tensor

CHUNK = 2**20  # weights at a time: little memory, and still few operations for many weights
REFITS = 3
# Shares of the way from a group's mean to its minimum and maximum. Every combination is tried. With
# 16 values it pays to cut off less than with 4, and more is lost between two tries.
KEPT = {
    2: (1.0, 0.87, 0.74, 0.6, 0.45),
    4: (1.0, 0.95, 0.9, 0.84, 0.77, 0.7),
}


class ClipOptimizer(MaxOptimizer):
    """Finds the scale and shift of least squared error, sum over the group of (w - restored w)^2.

    It tries ranges narrower than the group's own on either side. The weights are rounded to each
    range's values, and least squares gives the scale and shift that fit these rounded weights best.
    The best try is rounded and fitted again a few times. MaxOptimizer's result is kept where its
    error is smaller, computed as optimum-quanto computes in the weights' own dtype.

    All weights count alike. On the demo model at 2 bits every weighting by size that was tried
    (|w|^0.5, |w|, w^2, mixtures of 1 and w^2) had a higher perplexity.
    """

    def optimize(self, base: Tensor, qtype: Any, axis: int | None) -> tuple[Tensor, Tensor]:
        """Returns scale and shift: [groups, size] along axis 0 -> [groups, 1] each."""
        if axis != 0:  # None is optimum-quanto's word for a single row
            scale, shift = self.optimize(base.T, qtype, 0)
            return scale.T, shift.T
        scales, shifts = [], []
        for part in base.split(max(1, CHUNK // base.shape[1])):
            searched = search(part.float(), qtype.bits)
            plain = super().optimize(part, qtype, 0)
            scale, shift = better(part, searched, plain, qtype.bits, power=2)
            scales.append(scale)
            shifts.append(shift)
        return torch.cat(scales), torch.cat(shifts)


class GroupwiseHqqOptimizer(HqqOptimizer):
    """Keeps MaxOptimizer's shift for groups whose own error grew.

    HqqOptimizer takes a new shift for all groups where the mean error |w - restored w| of the whole
    matrix falls."""

    def optimize(self, base: Tensor, qtype: Any, axis: int | None) -> tuple[Tensor, Tensor]:
        """Returns scale and shift: [groups, size] along axis 0 -> [groups, 1] each."""
        if axis != 0:
            scale, shift = self.optimize(base.T, qtype, 0)
            return scale.T, shift.T
        plain = MaxOptimizer().optimize(base, qtype, 0)
        return better(base, super().optimize(base, qtype, 0), plain, qtype.bits, power=1)


def search(weights: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Returns scale and shift of the least squared error that the search meets: float32 [groups,
    size] -> [groups, 1] each.

    Let x be n weights of mean 0, and q their codes. Least squares gives the scale
    sum(qx) / (sum(q^2) - sum(q)^2 / n), and takes sum(qx)^2 / (sum(q^2) - sum(q)^2 / n) off the
    error. Codes are the better, the more they take off."""
    mean = weights.mean(1, True)
    x = weights - mean
    low, high = x.amin(1, True), x.amax(1, True)
    top = 2**bits - 1
    scale, start = (high - low) / top, low
    most = torch.zeros_like(low)
    q = torch.empty_like(x)
    ranges = [(a, b) for a in KEPT[bits] for b in KEPT[bits]]
    for kept in [*ranges, *[None] * REFITS]:
        first, step = start, scale
        if kept:
            first, step = low * kept[0], (high * kept[1] - low * kept[0]) / top
        torch.sub(x, first, out=q).div_(step).round_().clamp_(0, top)
        middle = q.mean(1, True)
        qx = torch.linalg.vecdot(q, x).unsqueeze(1)
        spread = torch.linalg.vecdot(q, q).unsqueeze(1) - middle * middle * x.shape[1]
        gain = qx * qx / spread
        more = gain > most  # false where a group has one code only
        most = torch.where(more, gain, most)
        scale = torch.where(more, qx / spread, scale)
        start = torch.where(more, -middle * (qx / spread), start)
    return scale, -(start + mean)


def better(
    base: Tensor,
    searched: tuple[Tensor, Tensor],
    plain: tuple[Tensor, Tensor],
    bits: int,
    power: int,
) -> tuple[Tensor, Tensor]:
    """Returns `searched`, but `plain` for the groups where that has the smaller error, in base's
    dtype."""
    scale, shift = (part.to(base.dtype) for part in searched)
    less = errors(base, *plain, bits, power) < errors(base, scale, shift, bits, power)
    return torch.where(less, plain[0], scale), torch.where(less, plain[1], shift)


def errors(base: Tensor, scale: Tensor, shift: Tensor, bits: int, power: int) -> Tensor:
    """Returns the sum over each group of |w - restored w|^power, [groups, 1]. The arithmetic is
    optimum-quanto's own (quantize_affine, QBitsDequantizer). Where that overflows the sum is
    infinite."""
    codes = ((base + shift) / scale).round_().clamp_(0, 2**bits - 1).to(torch.uint8)
    error = (scale * codes - shift).float() - base
    return error.abs_().pow_(power).sum(1, True).nan_to_num_(torch.inf)
