from __future__ import annotations

import math

import numpy as np
import pytest

from lwq_ui.core.comparison import (
    Estimate,
    estimate,
    larger_than_noise,
    mean_of,
    noise_limit,
    rank_correlation,
)
from lwq_ui.core.schema import Evaluation, Metric

RNG = np.random.default_rng(5)
PASSAGES = 40
TOKENS = RNG.integers(80, 512, PASSAGES).astype(float)
HARD = RNG.normal(3.0, 0.5, PASSAGES)  # nats per token: what makes a passage hard is shared


def passages(worse: float) -> Evaluation:
    nats = (HARD + worse + RNG.normal(0, 0.02, PASSAGES)) * TOKENS
    divergence = RNG.gamma(2.0, 0.1 + worse, PASSAGES) * TOKENS
    agreed = np.round(TOKENS * RNG.uniform(0.6, 0.9, PASSAGES))
    reported = {
        "perplexity": math.exp(nats.sum() / TOKENS.sum()),
        "kl_divergence": divergence.sum() / TOKENS.sum(),
        "top1_agreement": agreed.sum() / TOKENS.sum(),
    }
    items = {
        "tokens": TOKENS.tolist(),
        "negative_log_likelihood": nats.tolist(),
        "kl_divergence": divergence.tolist(),
        "top1_agreement": agreed.tolist(),
    }
    metrics = {name: Metric(value, None, PASSAGES) for name, value in reported.items()}
    return Evaluation("perplexity", (4, 2), "quanto", metrics, items, None, 1.0)


def harness(metric: str, value: float, **items: list[float]) -> Evaluation:
    n = len(next(iter(items.values())))
    return Evaluation("task", (4, 2), "quanto", {metric: Metric(value, None, n)}, items, None, 1.0)


def jackknife(of) -> float:
    """The standard error of of(kept items), leaving out one item at a time."""
    values = [of(np.arange(PASSAGES) != k) for k in range(PASSAGES)]
    spread = np.square(np.array(values) - np.mean(values)).sum()
    return math.sqrt(spread * (PASSAGES - 1) / PASSAGES)


def metric_of(e: Evaluation, metric: str, kept: np.ndarray) -> float:
    column = {"perplexity": "negative_log_likelihood"}.get(metric, metric)
    ratio = np.array(e.items[column])[kept].sum() / TOKENS[kept].sum()
    return math.exp(ratio) if metric == "perplexity" else float(ratio)


@pytest.mark.parametrize("metric", ["perplexity", "kl_divergence", "top1_agreement"])
def test_errors_are_those_of_a_jackknife(metric):
    a, b = passages(0.05), passages(0.0)
    one, other = estimate(a, metric), estimate(b, metric)
    assert one.value == pytest.approx(a.metrics[metric].value)
    assert one.n == PASSAGES
    assert one.influence.sum() == pytest.approx(0, abs=1e-9)
    assert one.stderr == pytest.approx(jackknife(lambda k: metric_of(a, metric, k)), rel=0.05)
    difference = one.minus(other)
    assert difference.value == pytest.approx(one.value - other.value)
    paired = jackknife(lambda k: metric_of(a, metric, k) - metric_of(b, metric, k))
    assert difference.stderr == pytest.approx(paired, rel=0.05)


def test_the_error_of_a_difference_is_paired():
    one, other = (estimate(passages(worse), "perplexity") for worse in (0.05, 0.0))
    difference = one.minus(other)
    assert difference.stderr < 0.3 * math.hypot(one.stderr, other.stderr)
    assert larger_than_noise(difference, 10)
    assert abs(difference.value) < one.stderr  # unpaired, nobody would have seen it


def test_accuracy_is_a_mean_with_the_usual_error():
    right = [1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 1.0]
    made = estimate(harness("acc", 0.625, acc=right), "acc")
    assert made.value == 0.625
    assert made.stderr == pytest.approx(np.std(right, ddof=1) / math.sqrt(len(right)))
    other = estimate(harness("acc", 0.5, acc=[0.0, 0.0, *right[2:]]), "acc")
    differences = np.array([1.0, 0, 0, 0, 0, 0, 0, 0])
    paired = np.std(differences, ddof=1) / math.sqrt(8)
    assert made.minus(other).stderr == pytest.approx(paired)


def test_metrics_of_lm_eval_are_made_again():
    loglikelihood, words = [-30.0, -55.0, -41.0], [10.0, 21.0, 15.0]
    per_word = math.exp(126.0 / 46.0)
    e = harness(
        "word_perplexity", per_word, word_perplexity=loglikelihood, word_perplexity_weight=words
    )
    assert estimate(e, "word_perplexity").value == pytest.approx(per_word)
    bits = 126.0 / 46.0 / math.log(2)
    e = harness("bits_per_byte", bits, bits_per_byte=loglikelihood, bits_per_byte_weight=words)
    assert estimate(e, "bits_per_byte").value == pytest.approx(bits)
    e = harness("perplexity", math.exp(42.0), perplexity=loglikelihood)
    assert estimate(e, "perplexity").value == pytest.approx(math.exp(42.0))


def test_a_metric_that_cannot_be_made_again_is_none():
    right = [1.0, 0.0, 1.0, 1.0]
    assert estimate(harness("mcc", 0.33, mcc=right), "mcc") is None
    assert estimate(harness("f1", 0.6, other=right), "f1") is None


def test_other_items_cannot_be_paired():
    a, b = Estimate(1.0, np.zeros(4)), Estimate(1.0, np.zeros(5))
    with pytest.raises(ValueError, match="4 items cannot be paired with 5"):
        a.minus(b)


def test_the_mean_of_several_splits_keeps_what_they_share():
    several = [estimate(passages(0.0), "perplexity") for _ in range(3)]
    mean = mean_of(several)
    assert mean.value == pytest.approx(np.mean([e.value for e in several]))
    assert mean.stderr == pytest.approx(several[0].stderr, rel=0.1)  # not a third of the variance


def test_a_single_item_shows_nothing():
    one = Estimate(2.0, np.zeros(1))
    assert math.isnan(one.stderr) and not larger_than_noise(one, 1)
    alike = Estimate(0.0, np.zeros(9))
    assert alike.stderr == 0 and not larger_than_noise(alike, 1)


def test_the_limit_grows_with_the_number_of_comparisons():
    stats = pytest.importorskip("scipy.stats")
    for m in (1, 2, 9, 100):
        assert noise_limit(m) == pytest.approx(stats.norm.ppf(1 - 0.05 / 2 / m))
    assert noise_limit(0) == noise_limit(1) == pytest.approx(1.96, abs=0.001)


@pytest.mark.parametrize("choices", [1000, 6])  # 6: with many ties
def test_rank_correlation_is_spearmans(choices):
    stats = pytest.importorskip("scipy.stats")
    for _ in range(20):
        a, b = RNG.integers(0, choices, (2, 24)).astype(float)
        assert rank_correlation(a, b) == pytest.approx(stats.spearmanr(a, b).statistic)


def test_rank_correlation_of_the_same_and_the_reverse():
    a = [0.3, 0.1, 0.9, 0.5]
    assert rank_correlation(a, [math.exp(v) for v in a]) == pytest.approx(1)
    assert rank_correlation(a, [-v for v in a]) == pytest.approx(-1)
    assert math.isnan(rank_correlation(a, [1.0] * 4))
