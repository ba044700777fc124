"""How large the pieces of a sweep may be. They change its time, and no result."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ...core.schema import ModelInfo
from ..batches.padded import batch_tokens
from ..devices import free_bytes

MOST_ROOM = 16 * 2**30  # bytes of a computer's free memory: other programs need some, too
SHARE_OF_ROOM = 0.25  # for hidden states; the rest is for what a layer computes on the way
LOGITS = {"cpu": 2**21}  # what a CPU's cache holds
MOST_LOGITS = 2**25
OPERATIONS = {"cpu": 3e12}  # of a shard: about a minute is lost when a sweep is killed
MOST_OPERATIONS = 5e15
# Tokens of a shard, however large the model is: beside computing them, de-quantizing a layer or
# reading it from the disk takes little.
TOKENS = {"cpu": 2**12}
MOST_TOKENS = 2**18


@dataclass(frozen=True)
class Limits:
    """The limits of batches, shards and blocks.

    `batch_tokens` is the most tokens of a batch. `state_bytes` is the room for the hidden states of
    a shard, and `operations` its most work. `logits` is the size of a block of logits, in numbers
    of float32.
    """

    batch_tokens: int
    state_bytes: float
    operations: float
    logits: int

    @classmethod
    def usual(cls, info: ModelInfo, device: str) -> Limits:
        """Returns the limits for a model on a device, with the memory that is free now."""
        free = free_bytes(device)[0]
        weights = sum(w.numel for layer in info.layers for w in layer.weights)
        return cls(
            batch_tokens=batch_tokens(info, device),
            state_bytes=SHARE_OF_ROOM * (min(free, MOST_ROOM) if device == "cpu" else free),
            operations=max(
                OPERATIONS.get(device, MOST_OPERATIONS),
                TOKENS.get(device, MOST_TOKENS) * 2 * weights,
            ),
            logits=LOGITS.get(device, MOST_LOGITS),
        )

    def halved(self) -> Limits:
        """Returns the limits that need half of the memory."""
        return replace(self, state_bytes=self.state_bytes / 2, logits=self.logits // 2)
