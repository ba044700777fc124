"""Whether two splits differ by more than noise: a paired comparison on the same items.

A metric of n items has an error. The difference of two splits on the same items has a much smaller
one: the same items are hard for both.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from .schema import Evaluation

PASSAGES = {  # metric of the perplexity task -> the items that it is computed from
    "perplexity": "negative_log_likelihood",
    "kl_divergence": "kl_divergence",
    "top1_agreement": "top1_agreement",
}


@dataclass(frozen=True)
class Estimate:
    """A metric, and what each item contributes to its error.

    `influence` [n] is linearized and sums to 0 (the delta method).
    """

    value: float
    influence: np.ndarray

    @property
    def n(self) -> int:
        return len(self.influence)

    @property
    def stderr(self) -> float:
        """0 where all items agree, NaN for a single item."""
        if self.n < 2:
            return math.nan
        return math.sqrt(float(self.influence @ self.influence) * self.n / (self.n - 1))

    def minus(self, other: Estimate) -> Estimate:
        """Returns the paired difference. Both need the same items in the same order; raises
        ValueError where their numbers differ."""
        if self.n != other.n:
            raise ValueError(f"{self.n} items cannot be paired with {other.n}")
        return Estimate(self.value - other.value, self.influence - other.influence)

    def times(self, factor: float) -> Estimate:
        return Estimate(self.value * factor, self.influence * factor)


def mean_of(estimates: Sequence[Estimate]) -> Estimate:
    """Returns the mean of several splits' metrics on the same items, such as of random orders."""
    return Estimate(
        float(np.mean([e.value for e in estimates])),
        np.mean([e.influence for e in estimates], axis=0),
    )


def estimate(evaluation: Evaluation, metric: str) -> Estimate | None:
    """Computes a metric again from its items. Returns None where no formula gives the reported
    value: the metric is no mean, no ratio of sums, and no exponential of these."""
    reported = evaluation.metrics[metric].value
    for candidate in candidates(evaluation, metric):
        if math.isclose(candidate.value, reported, rel_tol=1e-6, abs_tol=1e-9):
            return candidate
    return None


def candidates(e: Evaluation, metric: str) -> Iterable[Estimate]:
    """Yields what the metric is by each formula that its items allow."""
    if "tokens" in e.items and metric in PASSAGES:
        ratio = ratio_of(e.items[PASSAGES[metric]], e.items["tokens"])
        yield exponential(ratio) if metric == "perplexity" else ratio
    if metric not in e.items:
        return
    # lm-eval's word and byte perplexities have weights
    ratio = ratio_of(e.items[metric], e.items.get(f"{metric}_weight"))
    yield ratio
    loss = Estimate(-ratio.value, -ratio.influence)  # the values are log-likelihoods
    yield exponential(loss)
    yield Estimate(loss.value / math.log(2), loss.influence / math.log(2))  # bits per byte


def ratio_of(sums: Sequence[float], weights: Sequence[float] | None = None) -> Estimate:
    """Returns sum(sums) / sum(weights), or the mean where there are no weights. The items are the
    units that vary."""
    s = np.asarray(sums, np.float64)
    w = np.asarray(weights, np.float64) if weights else np.ones(len(s))
    value = float(s.sum() / w.sum())
    return Estimate(value, (s - value * w) / w.sum())


def exponential(estimate: Estimate) -> Estimate:
    value = math.exp(min(estimate.value, 700.0))  # exp(710) overflows
    return Estimate(value, value * estimate.influence)


def noise_limit(comparisons: int) -> float:
    """Returns how many standard errors a difference must exceed to be called larger than noise.
    With 95 % probability, all `comparisons` looked at together are right (Bonferroni)."""
    return NormalDist().inv_cdf(1 - 0.025 / max(1, comparisons))


def larger_than_noise(difference: Estimate, comparisons: int) -> bool:
    # NaN compares as false: a single item shows nothing.
    return abs(difference.value) > noise_limit(comparisons) * difference.stderr


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Returns Spearman's coefficient: 1 where both rank the layers alike, -1 where one is the
    reverse, NaN where all values of one are equal."""
    x, y = (ranks(v) - (len(v) - 1) / 2 for v in (a, b))
    scale = math.sqrt(float((x * x).sum() * (y * y).sum()))
    return float((x * y).sum()) / scale if scale else math.nan


def ranks(values: Sequence[float]) -> np.ndarray:
    """Returns ranks from 0 for the smallest value. Ties share the mean of their ranks."""
    v = np.asarray(values, np.float64)
    _, inverse, counts = np.unique(v, return_inverse=True, return_counts=True)
    below = np.cumsum(counts) - counts
    return (below + (counts - 1) / 2)[inverse]
