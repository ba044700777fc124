"""Perplexity, and divergence from the unquantized model, on held-out passages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...core.errors import UserError
from ...core.schema import Metric, split_name
from ..texts import Text, tokenize
from .base import Measured, Task

if TYPE_CHECKING:
    from ..sweeps.sweep import Sweep


LARGEST_EXPONENT = 600.0  # e to this, and its standard error, are still numbers


class Passages(Task):
    """Perplexity, KL divergence from the unquantized model in nats per token, and the share of
    tokens whose most likely prediction is the unquantized model's. Items are passages."""

    name = "perplexity"
    title = "Perplexity and divergence"

    def __init__(self, text: Text):
        self.text = text
        self.size = len(text.documents)

    @property
    def data(self) -> str:
        return self.text.digest

    def measure(self, sweep: Sweep, limit: int | None) -> list[Measured]:
        from ..sweeps.sweep import Request

        text = Text(self.text.name, self.text.documents[:limit])
        sequences = tokenize(sweep.bank.loaded, text)
        requests = [Request(s[:-1], s[1:]) for s in sequences]
        scored = sweep.score(requests, self.title, divergence=True)
        tokens = [float(len(s) - 1) for s in sequences]
        measured = []
        for c in range(len(sweep.splits)):
            items = {
                "tokens": tokens,
                "negative_log_likelihood": (-scored.logprob[:, c]).tolist(),
                "kl_divergence": scored.divergence[:, c].tolist(),
                "top1_agreement": scored.agreement[:, c].tolist(),
            }
            nats = per_token(items["negative_log_likelihood"], tokens)
            if nats.value > LARGEST_EXPONENT:
                raise UserError(
                    f"At {split_name(sweep.splits[c])} a token costs {nats.value:.0f} nats: the "
                    "perplexity is too large to be a number. This split does not predict text."
                )
            perplexity = math.exp(nats.value)
            error = None if nats.stderr is None else perplexity * nats.stderr
            metrics = {
                "perplexity": Metric(perplexity, error, nats.n),
                "kl_divergence": per_token(items["kl_divergence"], tokens),
                "top1_agreement": per_token(items["top1_agreement"], tokens),
            }
            measured.append(Measured(metrics, items))
        return measured


def per_token(sums: Sequence[float], tokens: Sequence[float]) -> Metric:
    """Mean over all tokens, with the standard error of a ratio of sums over passages (tokens of
    one passage are not independent of each other)."""
    n = len(sums)
    total = sum(tokens)
    mean = sum(sums) / total
    if n < 2:
        return Metric(mean, None, n)
    squares = sum((s - mean * t) ** 2 for s, t in zip(sums, tokens, strict=True))
    return Metric(mean, math.sqrt(squares * n / (n - 1)) / total, n)
