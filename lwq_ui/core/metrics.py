"""What the measured figures are called, and which way is better."""

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
    """Of lm-eval's other metrics more is better; a filter in brackets is part of the name:
    'exact_match (strict-match)'."""
    plain, _, kind = name.partition(" ")
    known = METRICS.get(plain, MetricSpec(plain, True))
    return MetricSpec(f"{known.title} {kind}".strip(), known.larger_is_better)
