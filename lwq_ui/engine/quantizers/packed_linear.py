"""A linear module that computes with any quantizer's packed weight."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn


class PackedLinear(nn.Module):
    """[..., columns] -> [..., rows]. `dense` de-quantizes the weight at every call.

    Between calls the module takes the memory of the packed `tensors`. While it computes, it takes
    that of a matrix of the first dtype, too."""

    def __init__(
        self,
        dense: Callable[[], Tensor],
        tensors: Mapping[str, Tensor],
        bias: nn.Parameter | None,
    ):
        super().__init__()
        self.dense = dense
        for name, tensor in tensors.items():
            self.register_buffer(f"packed_{name}", tensor)  # a module may have a `half` or `bias`
        self.bias = bias

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.dense(), self.bias)
