"""The unit of work of a sweep. It needs no torch, so that tasks can be listed without it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Request:
    """A sequence to run and the tokens to score: the last len(targets) positions of `tokens`
    predict `targets`."""

    tokens: Sequence[int]
    targets: Sequence[int]
