"""LIM: how much a layer turns the hidden states that pass it (paper equation 1)."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import PassScorer

TINY = 1e-15  # a norm of zero has no direction: its cosine is 0


class LIM(PassScorer):
    """Layer input modification (paper equation 1): minus the cosine between what enters and what
    leaves a layer, averaged over every token of the calibration text.

    It costs one forward pass without the lm_head.
    """

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
    """Returns the cosine of each token's x and y [tokens, hidden]: [tokens]."""
    norms = [torch.linalg.vector_norm(z, dim=-1).clamp_min(TINY) for z in (x, y)]
    return (x * y).sum(-1) / norms[0] / norms[1]


SCORER = LIM
