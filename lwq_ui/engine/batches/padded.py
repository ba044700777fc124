"""Groups sequences of different lengths into padded batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.schema import ModelInfo

MOST_PADDING = 0.25  # of the longest row of a batch


@dataclass(frozen=True)
class Batch:
    """Rows that are computed together.

    `rows` are token ids, longest first. `index` says which sequence each row was.
    """

    rows: tuple[Sequence[int], ...]
    index: tuple[int, ...]

    def tensors(self, device: str) -> tuple[Tensor, Tensor]:
        """Returns ids [batch, tokens], padded right, and a mask of this shape, true on real tokens.

        Attention is causal, so real tokens give the padding no weight. But zero times NaN is NaN.
        So the padding repeats a token of the text, where another one might overflow.
        """
        longest = len(self.rows[0])
        ids = torch.zeros(len(self.rows), longest, dtype=torch.long)
        real = torch.zeros(len(self.rows), longest, dtype=torch.bool)
        for r, row in enumerate(self.rows):
            ids[r] = row[-1]
            ids[r, : len(row)] = torch.tensor(row)
            real[r, : len(row)] = True
        return ids.to(device), real.to(device)


def batches(
    sequences: Sequence[Sequence[int]], most_tokens: int, kinds: Sequence[bytes] | None = None
) -> list[Batch]:
    """Returns batches, longest first, with little padding.

    Each has at most `most_tokens`, or one sequence. Its rows are of one of the `kinds` (see
    LayerWalk.kinds).
    """
    groups = group([len(s) for s in sequences], most_tokens, kinds)
    return [Batch(tuple(sequences[i] for i in g), tuple(g)) for g in groups]


def group(
    lengths: Sequence[int], most_tokens: int, kinds: Sequence[bytes] | None = None
) -> list[list[int]]:
    """Returns which rows of these lengths and kinds make a batch together, longest first."""
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    groups: list[list[int]] = []
    for i in order:
        if groups:
            first = groups[-1][0]
            longest = lengths[first]
            full = (len(groups[-1]) + 1) * longest > most_tokens
            alike = kinds is None or kinds[i] == kinds[first]
            if alike and not full and lengths[i] >= (1 - MOST_PADDING) * longest:
                groups[-1].append(i)
                continue
        groups.append([i])
    return groups


def batch_tokens(info: ModelInfo, device: str) -> int:
    """Returns the number of tokens that one layer computes at a time.

    They are enough to keep the device busy, and few enough that a job can stop within two seconds:
    it stops between two layers. On a CPU, what lies between two operations stays in its cache.
    """
    weights = max(sum(w.numel for w in layer.weights) for layer in info.layers)
    most, operations = (1024, 2e10) if device == "cpu" else (8192, 2e12)
    return int(min(most, max(512, operations / (2 * weights))))
