"""A model and measurements that look like real ones: perplexity explodes and accuracy falls towards
2 bits, sooner where an ordering lowers important layers."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from lwq_ui.core.allocation import Split
from lwq_ui.core.curves import Curve, all_splits, curves
from lwq_ui.core.memory import LayerCost, ModelCost, affine_bytes, symmetric_bytes
from lwq_ui.core.orderings import ORDERINGS, rank_layers
from lwq_ui.core.schema import Evaluation, Metric

N = 24
TITLES = {"perplexity": "Perplexity and divergence", "minimal_pairs": "Grammar pairs"}
DAMAGE = {16: 0.0, 8: 0.02, 4: 0.25, 2: 3.2, 0: 4.0}  # of a layer of mean importance
TWO_LEVELS = [name for name, o in ORDERINGS.items() if not o.prunes]


def model_cost(n: int = N, width: int = 1024) -> ModelCost:
    shapes = [(width, width)] * 4 + [(3 * width, width)] * 2 + [(width, 3 * width)]
    weights = sum(rows * columns for rows, columns in shapes)
    packed = {16: 2 * weights, 8: sum(symmetric_bytes(*s, 2) for s in shapes)}
    packed |= {bits: sum(affine_bytes(*s, bits, 2) for s in shapes) for bits in (4, 2)}
    return ModelCost((LayerCost(weights, packed, 4 * width),) * n, 2 * 8192 * width)


def scores(n: int = N) -> dict[str, list[float]]:
    """LIM agrees with the sensitivity well, ZD a little; of ZD less is more important."""
    rng = random.Random(n)
    true = [math.exp(-i / 3) + 0.6 * math.exp((i - n + 1) / 2) + 0.2 for i in range(n)]
    return {
        "lim": [-0.9 + 0.3 * t + 0.08 * rng.random() for t in true],
        "zd": [0.15 - 0.01 * t + 0.012 * rng.random() for t in true],
        "sensitivity": [0.02 * t for t in true],
    }


def all_curves(
    levels: Sequence[int] = (4, 2), orderings: Sequence[str] | None = None, n: int = N
) -> list[Curve]:
    return curves(list(ORDERINGS) if orderings is None else orderings, scores(n), n, levels)


def evaluate(split: Split, items: int = 60, quantizer: str = "quanto") -> list[Evaluation]:
    true = scores(len(split))["sensitivity"]
    noise = random.Random(str(split))
    harm = sum(DAMAGE[level] * t for level, t in zip(split, true, strict=True)) / sum(true)
    harm += 0.03 * noise.gauss(0, 1) * (harm > 0.1)
    perplexity, error = 38 * math.exp(max(0, harm)), 1.2 * math.exp(max(0, harm))
    accuracy = 0.5 + 0.38 * math.exp(-((max(0, harm) / 1.6) ** 2))
    unquantized = set(split) == {16}
    divergence = 0.0 if unquantized else 0.35 * max(0.01, harm) ** 1.5
    quantizer = "none" if unquantized else quantizer
    found = [
        (
            "perplexity",
            {
                "perplexity": Metric(perplexity, error, items),
                "kl_divergence": Metric(divergence, 0.05 * divergence, items),
                "top1_agreement": Metric(math.exp(-divergence), 0.01 * (harm > 0), items),
            },
        ),
        ("minimal_pairs", {"acc": Metric(accuracy, math.sqrt(0.2 / items), items)}),
    ]
    return [Evaluation(task, split, quantizer, m, {}, items, 1.0) for task, m in found]


def evaluations(splits: Sequence[Split], items: int = 60) -> list[Evaluation]:
    return [e for split in splits for e in evaluate(split, items)]


def sweep(every: Sequence[Curve], n: int = N) -> list[Evaluation]:
    """All of the curves' splits, and those that are always measured to compare with."""
    uniform = [(level,) * n for level in (16, 8, 4, 2)]
    return evaluations(list(dict.fromkeys([*uniform, *all_splits(every)])))


def lim_split(low: int, n: int = N) -> Split:
    ranked = rank_layers("lim", scores(n), n)
    return tuple(2 if layer in ranked[n - low :] else 4 for layer in range(n))
