"""GPTQ's own format, version 1 ("gptq"), as GPTQModel 7.6 stores it.

Integers of 2, 3, 4 or 8 bits are one little-endian stream of bits in int32 words. Each group of
inputs has a scale and a zero-point. Zero-points are stored less one.

    qweight [columns * bits / 32, rows]    values of one output under each other
    qzeros  [groups, rows * bits / 32]
    scales  [groups, rows] float16
    g_idx   [columns] int32                the group of each input

A weight is scale * (value - zero-point). Words, rows and columns are rounded up.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# GPTQModel subtracts these ones from whole words, so that a field borrows from the next one. Adding
# them gives that back. At 3 bits fields lie across words, and it subtracts from each field.
ONES = {2: 0x55555555, 4: 0x11111111, 8: 0x01010101}


@dataclass(frozen=True)
class GPTQWeight:
    """A matrix [rows, columns] as it is stored."""

    qweight: Tensor
    qzeros: Tensor
    scales: Tensor
    g_idx: Tensor
    like: Tensor  # without numbers, of the weight's first dtype
    bits: int
    group: int

    def dense(self) -> Tensor:
        """Returns the matrix [rows, columns] in the weight's first dtype."""
        rows, columns = self.scales.shape[1], self.g_idx.shape[0]
        if self.bits == 3:
            zeros = (unpack(self.qzeros, 3)[:, :rows] + 1) & 7
        else:
            zeros = unpack(self.qzeros + ONES[self.bits], self.bits)[:, :rows]
        zero, scale = zeros.t().float(), self.scales.t().float()
        values = unpack(self.qweight.t(), self.bits)
        dense = torch.empty(rows, columns, dtype=self.like.dtype, device=values.device)
        whole = columns // self.group * self.group
        for start, end, width in ((0, whole, self.group), (whole, columns, columns - whole)):
            if start < end:
                first, last = start // self.group, -(-end // self.group)
                part = values[:, start:end].unflatten(1, (-1, width)).float()
                part = part.sub_(zero[:, first:last, None]).mul_(scale[:, first:last, None])
                dense[:, start:end] = part.flatten(1)
        return dense


def unpack(words: Tensor, bits: int) -> Tensor:
    """Returns the integers in words: int32 [n, words] -> uint8 [n, 32 * words / bits]. The count is
    rounded down."""
    stream = words.contiguous().view(torch.uint8)
    if bits == 8:
        return stream
    if bits == 3:
        three = stream[:, : stream.shape[1] // 3 * 3].unflatten(1, (-1, 3)).int()
        word = three[..., 0] | three[..., 1] << 8 | three[..., 2] << 16
        shifts = torch.arange(0, 24, 3, dtype=torch.int32, device=words.device)
        return ((word[..., None] >> shifts) & 7).to(torch.uint8).flatten(1)
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8, device=words.device)
    return ((stream[..., None] >> shifts) & (2**bits - 1)).flatten(1)
