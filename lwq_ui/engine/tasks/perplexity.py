"""Perplexity, and divergence from the unquantized model, on held-out passages."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ...core.allocation import Split
from ...core.errors import UserError
from ...core.schema import Metric, split_name
from ..batches.request import Request
from ..texts import Text, tokenize
from .base import Measured, Task

if TYPE_CHECKING:
    from ..sweeps.sweep import Sweep


LARGEST_EXPONENT = 600.0  # e to this, and its standard error, are still numbers


class Passages(Task):
    """Measures perplexity, and how far a split is from the unquantized model.

    The distance is the KL divergence in nats per token, and the share of tokens whose most likely
    prediction is the same. Items are passages.
    """

    name = "perplexity"
    title = "Perplexity and divergence"
    prompted = False  # as lm-eval leaves running text alone, whatever the prompts are

    def __init__(self, text: Text):
        self.text = text
        self.size = len(text.documents)

    @property
    def data(self) -> str:
        return self.text.digest

    def measure(self, sweep: Sweep, limit: int | None) -> list[Measured]:
        requests = self._requests(sweep, limit)
        scored = sweep.score(requests, self.title, divergence=True)
        tokens = [float(len(request.targets)) for request in requests]
        measured = []
        for c, split in enumerate(sweep.splits):
            items = {
                "tokens": tokens,
                "negative_log_likelihood": (-scored.logprob[:, c]).tolist(),
                "kl_divergence": scored.divergence[:, c].tolist(),
                "top1_agreement": scored.agreement[:, c].tolist(),
            }
            measured.append(Measured(metrics_of(items, split), items))
        return measured

    def forecast(self, sweep: Sweep, limit: int | None) -> float:
        return sweep.forecast(self._requests(sweep, limit), self.title, divergence=True)

    def _requests(self, sweep: Sweep, limit: int | None) -> list[Request]:
        text = Text(self.text.name, self.text.documents[:limit])
        return [Request(s[:-1], s[1:]) for s in tokenize(sweep.bank.loaded, text)]


def metrics_of(items: Mapping[str, Sequence[float]], split: Split) -> dict[str, Metric]:
    """Returns the metrics of one split. Raises UserError where the perplexity is no number."""
    tokens = items["tokens"]
    nats = per_token(items["negative_log_likelihood"], tokens)
    if nats.value > LARGEST_EXPONENT:
        raise UserError(
            f"At {split_name(split)} a token costs {nats.value:.0f} nats: the perplexity is too "
            "large to be a number. This split does not predict text."
        )
    perplexity = math.exp(nats.value)
    error = None if nats.stderr is None else perplexity * nats.stderr
    return {
        "perplexity": Metric(perplexity, error, nats.n),
        "kl_divergence": per_token(items["kl_divergence"], tokens),
        "top1_agreement": per_token(items["top1_agreement"], tokens),
    }


def per_token(sums: Sequence[float], tokens: Sequence[float]) -> Metric:
    """Returns the mean over all tokens, with the standard error of a ratio of sums over passages.

    Tokens of one passage are not independent of each other.
    """
    n = len(sums)
    total = sum(tokens)
    mean = sum(sums) / total
    if n < 2:
        return Metric(mean, None, n)
    squares = sum((s - mean * t) ** 2 for s, t in zip(sums, tokens, strict=True))
    return Metric(mean, math.sqrt(squares * n / (n - 1)) / total, n)
