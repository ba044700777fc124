"""Titles of the measured figures, and which direction is better."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MetricSpec:
    title: str
    larger_is_better: bool


METRICS = {
    "perplexity": MetricSpec("Perplexity", False),
    "kl_divergence": MetricSpec("KL divergence", False),
    "top1_agreement": MetricSpec("Top-1 agreement", True),
    "acc": MetricSpec("Accuracy", True),
    "acc_norm": MetricSpec("Normalized accuracy", True),
    "exact_match": MetricSpec("Exact match", True),
    "f1": MetricSpec("F1", True),
    "mcc": MetricSpec("Matthews correlation", True),
    "word_perplexity": MetricSpec("Perplexity per word", False),
    "byte_perplexity": MetricSpec("Perplexity per byte", False),
    "bits_per_byte": MetricSpec("Bits per byte", False),
}


def metric_spec(name: str) -> MetricSpec:
    """Returns the spec of any metric. A name may end with one of lm-eval's filters, as in
    'exact_match (strict-match)'. An unknown metric counts as better where it is larger."""
    plain, _, answers = name.partition(" ")
    spec = METRICS.get(plain, MetricSpec(plain, True))
    return MetricSpec(f"{spec.title} {answers}".strip(), spec.larger_is_better)
