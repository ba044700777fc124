"""Sensitivity: the divergence that a layer causes when it alone has a lower level."""

from __future__ import annotations

from collections.abc import Sequence

from ...core.memory import UNTOUCHED
from ...core.run import Run
from ..banks.bank import Bank
from ..batches.request import Request
from ..sweeps.sweep import Sweep
from .base import LevelScorer


class Sensitivity(LevelScorer):
    """Measures what a layer's bits are worth: the mean over tokens of KL(unquantized || quantized),
    in nats, when that layer alone is at the low level.

    One walk measures all layers. LIM and ZD, which cost one forward pass or none, are compared with
    this score.
    """

    def scores(
        self, bank: Bank, level: float, sequences: Sequence[Sequence[int]], run: Run
    ) -> list[float]:
        n = len(bank.loaded.walk)
        splits = [tuple(level if j == i else UNTOUCHED for j in range(n)) for i in range(n)]
        bank.fill(splits, run)
        requests = [Request(s[:-1], s[1:]) for s in sequences]
        scored = Sweep(bank, splits, run).score(requests, "Measuring sensitivity", divergence=True)
        tokens = sum(len(r.targets) for r in requests)
        return (scored.divergence.sum(0) / tokens).tolist()


SCORER = Sensitivity
