"""Sensitivity: the divergence that a layer causes when it alone has a lower level."""

from __future__ import annotations

from collections.abc import Sequence

from ...core.memory import UNTOUCHED
from ...core.run import Run
from ..banks.bank import Bank
from ..sweeps.sweep import Request, Sweep


def sensitivity(
    bank: Bank,
    level: float,
    sequences: Sequence[Sequence[int]],
    run: Run,
) -> list[float]:
    """What a layer's bits are worth, measured: the mean over tokens of KL(unquantized || quantized)
    when that layer alone is at the low level and all others are untouched, in nats. All layers in
    one walk. The yardstick that LIM and ZD, which cost one forward pass or none, are held against.
    """
    n = len(bank.loaded.walk)
    splits = [tuple(level if j == i else UNTOUCHED for j in range(n)) for i in range(n)]
    bank.fill(splits, run)
    requests = [Request(s[:-1], s[1:]) for s in sequences]
    sweep = Sweep(bank, splits, run)
    scored = sweep.score(requests, "Measuring sensitivity", divergence=True)
    tokens = sum(len(r.targets) for r in requests)
    return (scored.divergence.sum(0) / tokens).tolist()
