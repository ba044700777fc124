"""One row of cells per scorer: the darker a cell, the more important its layer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import quantiles
from typing import Any

from ...core.comparison import rank_correlation
from ...core.orderings import ORDERINGS, REFERENCE_SCORER, SCORERS, ScorerSpec


def score_rows(
    scores: Mapping[str, Sequence[float]], num_layers: int, deciding: str | None
) -> list[dict[str, Any]]:
    """Returns the rows of all scorers that scored every layer. `deciding` is the scorer that the
    splits follow."""
    rows = [
        scorer_row(spec, scores, decides=spec.name == deciding)
        for spec in SCORERS.values()
        if len(scores.get(spec.name, ())) == num_layers
    ]
    return rows or [unscored_row(num_layers)]


def scorer_row(
    spec: ScorerSpec, scores: Mapping[str, Sequence[float]], decides: bool
) -> dict[str, Any]:
    values = scores[spec.name]
    order = ORDERINGS[spec.name].rank(values, len(values), 0)
    rank = {layer: k for k, layer in enumerate(order, 1)}
    return {
        "name": spec.name,
        "title": spec.title,
        "meaning": spec.meaning + agreement(spec, scores),
        "decides": decides,
        "shade": shades(values, spec.larger_is_important),
        "order": order,
        "about": [
            f"{spec.title} {format_score(value)}, rank {rank[i]} of {len(values)}"
            for i, value in enumerate(values)
        ],
    }


def agreement(spec: ScorerSpec, scores: Mapping[str, Sequence[float]]) -> str:
    """Returns how well the score ranks the layers as the reference scorer does, in words.

    Of two scores that both mean importance, one may fall where the other rises. The sign makes them
    point the same way.
    """
    reference = SCORERS[REFERENCE_SCORER]
    values, measured = scores[spec.name], scores.get(REFERENCE_SCORER, ())
    if spec == reference or len(measured) != len(values):
        return ""
    correlation = rank_correlation(values, measured)
    if spec.larger_is_important != reference.larger_is_important:
        correlation = -correlation
    if math.isnan(correlation):
        return ""
    title = reference.title.lower()
    return f" · rank correlation with {title} {correlation:.2f}".replace("-", "−")


def unscored_row(n: int) -> dict[str, Any]:
    """Returns a row that shows the split while there are no scores yet."""
    return {
        "name": "none",
        "title": "Layers",
        "meaning": "not scored yet",
        "decides": False,
        "shade": [0] * n,
        "order": list(range(n)),
        "about": ["not scored"] * n,
    }


def shades(values: Sequence[float], larger_is_important: bool) -> list[float]:
    """Returns 0 for the least important layer, 1 for the most important one, linear between them.

    A layer far outside of the others (1.5 times the middle half's spread) gets the end of the
    scale, so that it does not leave one colour for all others.
    """
    least, most = min(values), max(values)
    if len(values) > 3:
        first, _, third = quantiles(values, n=4, method="inclusive")
        reach = 1.5 * (third - first)
        if reach > 0:
            least, most = max(least, first - reach), min(most, third + reach)
    if not larger_is_important:
        least, most = most, least
    if most == least:
        return [0.5] * len(values)
    return [round(min(1.0, max(0.0, (v - least) / (most - least))), 3) for v in values]


def format_score(value: float) -> str:
    return f"{value:#.4g}".replace("-", "−")
