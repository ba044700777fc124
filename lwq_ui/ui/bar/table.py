"""The table that the budget bar looks its texts up in: one entry per position of the slider."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from ...core.allocation import Breakpoints, breakpoints
from ...core.interpolation import Expected
from ...core.memory import ModelCost, average_bits, format_gib, size_digits, size_unit
from ...core.orderings import ORDERINGS, SCORERS, rank_layers
from ...engine.quantizers import DEFAULT, Quantizer, quantizer_named
from ..wording import level_title, short_title, with_bits
from .card import Card, card_parts, spare_texts
from .expected import expected_texts
from .scores import scorer_row, unscored_row


def first_value(
    cost: ModelCost, levels: tuple[float, float], pins: Mapping[int, float] | None = None
) -> dict[str, Any]:
    """Returns what a fresh page shows: the budget in the middle of its range."""
    smallest, largest = slider_range(cost, levels)
    return {"budget": (smallest + largest) // 2, "pins": dict(pins or {})}


def slider_range(cost: ModelCost, levels: tuple[float, float]) -> tuple[int, int]:
    """Returns the bytes with all layers low, and with all layers high. Pins do not change it, so
    that the thumb stays put."""
    high, low = levels
    n = len(cost.layers)
    return cost.total((low,) * n), cost.total((high,) * n)


def table(
    cost: ModelCost,
    scores: Mapping[str, Sequence[float]],
    levels: tuple[float, float],
    ordering: str,
    seed: int = 0,
    pins: Mapping[int, float] | None = None,
    expected: Sequence[Expected | None] | None = None,
    expected_title: str = "",
    card: Card | None = None,
    quantizer: str = DEFAULT,
) -> str:
    """All that the browser shows for one model, pair of levels, ordering and set of pins, as JSON.
    `expected` is the quality at every position, of the metric `expected_title`; None where nothing
    was measured that could tell. `card` is drawn below the slider; the `quantizer` names the
    levels.

    A string, because Gradio clones dict props several times per event. Raises UserError where the
    ordering's scores are missing or a pin is impossible.
    """
    pins = dict(pins or {})
    high, low = levels
    n = len(cost.layers)
    chosen = quantizer_named(quantizer)
    ranked = rank_layers(ordering, scores, n, seed)
    points = breakpoints(cost, levels, ranked, pins)
    shown = {high, low, *points.base}
    smallest, largest = slider_range(cost, levels)
    range_low, range_high = min(smallest, points.bytes[0]), max(largest, points.bytes[-1])
    unit, unit_bytes = size_unit(range_high)  # of the typed budget, at all positions
    active = ORDERINGS[ordering]
    rows = [
        scorer_row(spec, scores, decides=spec.name == active.scorer)
        for spec in SCORERS.values()
        if len(scores.get(spec.name, ())) == n
    ]
    minimum = f"{format_gib(points.bytes[0])} ({points.bytes[0]:,} bytes)"
    which = "with the pinned layers, the smallest split" if pins else "the smallest split"
    data = {
        "high": high,
        "low": low,
        "names": {str(level): level_title(chosen, level) for level in shown},
        "marks": {str(level): short_title(chosen, level).split()[0] for level in shown},
        "pins": {str(layer): level for layer, level in pins.items()},
        "min": range_low,
        "max": range_high,
        "unit": {"name": unit, "bytes": unit_bytes, "digits": size_digits(range_high)},
        "ticks": ticks(cost, levels, ranked),
        "base": points.base,
        "raised": points.raised,
        "bytes": points.bytes,
        "levels": level_sums(points),
        "texts": [
            position_texts(cost, levels, points, k)
            | expected_texts(expected[k] if expected is not None else None)
            | spare_texts(card, points.bytes[k])
            for k in range(len(points.bytes))
        ],
        "expected_title": expected_title if expected is not None else "",
        "card": card_parts(card, points.bytes) if card else None,
        "rows": rows or [unscored_row(n)],
        "split_by": f"Split by {active.title}" if active.scorer else f"Split: {active.title}",
        "too_small": f"Too small: {which} takes {minimum}.",
        "too_few_bits": f"Too small: {which} has {average_bits(points.base):.4g} bits on average.",
        "high_name": with_bits(chosen, high, " layer"),
        "low_name": with_bits(chosen, low, " layer"),
        "high_title": with_bits(chosen, high, " layers"),
        "low_title": with_bits(chosen, low, " layers"),
        "saving_title": f"Saving vs all {with_bits(chosen, high)}",
        "of": f"of {n} layers",
        "other": pinned_elsewhere(levels, pins, chosen) or f"of {n} layers",
    }
    return json.dumps(data, separators=(",", ":"), allow_nan=False)


def level_sums(points: Breakpoints) -> list[float]:
    """Returns the sum of all layers' levels at each position: average bits times the layers."""
    steps = (points.high - points.base[layer] for layer in points.raised)
    return list(accumulate(steps, initial=sum(points.base)))


def position_texts(
    cost: ModelCost, levels: tuple[float, float], points: Breakpoints, position: int
) -> dict[str, str]:
    high, low = levels
    split = points.split(position)
    size = points.bytes[position]
    all_high = cost.total((high,) * len(split))
    saved = all_high - size
    sign = "−" if saved < 0 else ""  # pins above the high level
    digits = 2 if all(isinstance(level, int) for level in levels) else 3
    return {
        "size": format_gib(size),
        "bytes": f"{size:,} bytes",
        "average": f"{average_bits(split):.{digits}f}",
        "per_weight": f"{cost.bits_per_weight(split):.2f}",
        "high": str(split.count(high)),
        "low": str(split.count(low)),
        "saving": f"{sign}{100 * abs(saved) / all_high:.1f}%",
        "saved": f"{sign}{format_gib(abs(saved))}",
    }


def pinned_elsewhere(
    levels: tuple[float, float], pins: Mapping[int, float], chosen: Quantizer
) -> str:
    """Returns 'and 1 pinned at 8 bits': pins that are neither high nor low, which loaded configs
    have."""
    counts = Counter(level for level in pins.values() if level not in levels)
    return ", ".join(
        f"and {counts[level]} pinned at {level_title(chosen, level)}" for level in sorted(counts)
    )


def ticks(
    cost: ModelCost, levels: tuple[float, float], ordering: Sequence[int]
) -> list[dict[str, Any]]:
    """Returns five points of the slider, as average bits and bytes. Pins do not move them."""
    points = breakpoints(cost, levels, ordering)
    n = len(cost.layers)
    positions = sorted({n * quarter // 4 for quarter in range(5)})
    return [
        {
            "at": points.bytes[k],
            "bits": f"{average_bits(points.split(k)):.3g} bits",
            "size": format_gib(points.bytes[k]),
        }
        for k in positions
    ]
