"""A linear module that computes with any quantizer's packed weight."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn


class PackedLinear(nn.Module):
    """[..., columns] -> [..., rows]. `dense` de-quantizes the weight at every call. So it takes its
    packed `tensors` between calls, and a matrix of its first dtype while it computes."""

    def __init__(
        self,
        dense: Callable[[], Tensor],
        tensors: Mapping[str, Tensor],
        bias: nn.Parameter | None,
    ):
        super().__init__()
        self.dense = dense
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)
        self.bias = bias

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.dense(), self.bias)
