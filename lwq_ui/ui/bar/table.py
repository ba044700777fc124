"""The table that the budget bar looks its texts up in: one entry per position of the choice."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from ...core.allocation import Breakpoints, breakpoints
from ...core.choice import Choice
from ...core.cost import QuantizerSpec
from ...core.lossless import origin_of
from ...core.memory import ModelCost, average_bits, format_gib, size_digits, size_unit
from ...core.orderings import ORDERINGS
from ..wording import level_title, short_title, with_bits
from .card import Card, card_parts, spare_texts
from .expected import Expectation, expected_texts
from .scores import score_rows


def bar_table(
    choice: Choice, expectation: Expectation | None = None, card: Card | None = None
) -> str:
    """Returns all that the browser shows of the choice's splits, as JSON.

    `expectation` is None where nothing was measured that could tell. `card` is drawn below the
    choice. The table is a string, because Gradio clones dict props several times per event. Raises
    UserError where the ordering's scores are missing or a pin is impossible.
    """
    points = choice.table
    n = len(choice.cost.layers)
    data = {
        "high": choice.levels[0],
        "low": choice.levels[1],
        "pins": {str(layer): level for layer, level in choice.pins.items()},
        "base": points.base,
        "raised": points.raised,
        "bytes": points.bytes,
        "levels": level_sums(points),
        "texts": [
            position_texts(choice.cost, choice.levels, points, k)
            | (expectation.texts(k) if expectation else expected_texts(None))
            | spare_texts(card, points.bytes[k])
            for k in range(len(points.bytes))
        ],
        "ticks": ticks(choice.cost, choice.levels, choice.ranked),
        "rows": score_rows(choice.values, n, ORDERINGS[choice.ordering].scorer),
        "expected_title": expectation.title if expectation else "",
        "card": card_parts(card, points.bytes) if card else None,
        **range_of(choice),
        **texts_of(choice),
    }
    return json.dumps(data, separators=(",", ":"), allow_nan=False)


def range_of(choice: Choice) -> dict[str, Any]:
    """Returns the slider's ends in bytes, which pins can move outwards, and the unit of the typed
    budget, which is the same at all positions."""
    smallest, largest = choice.cost.span(choice.levels)
    sizes = choice.table.bytes
    most = max(largest, sizes[-1])
    unit, unit_bytes = size_unit(most)
    return {
        "min": min(smallest, sizes[0]),
        "max": most,
        "unit": {"name": unit, "bytes": unit_bytes, "digits": size_digits(most)},
    }


def texts_of(choice: Choice) -> dict[str, Any]:
    """Returns the texts that are the same at all positions. `names` and `marks` are those of the
    levels, in full and as short as a cell is."""
    (high, low), quantizer, points = choice.levels, choice.quantizer, choice.table
    levels = {high, low, *points.base}
    ordering = ORDERINGS[choice.ordering]
    of_layers = f"of {len(points.base)} layers"
    which = "with the pinned layers, the smallest split" if choice.pins else "the smallest split"
    size = f"{format_gib(points.bytes[0])} ({points.bytes[0]:,} bytes)"
    bits = f"{average_bits(points.base):.4g} bits"
    return {
        "names": {str(level): level_title(quantizer, level) for level in levels},
        "marks": {str(level): short_title(quantizer, level).split()[0] for level in levels},
        "split_by": f"Split{' by' if ordering.scorer else ':'} {ordering.title}",
        "too_small": f"Too small: {which} takes {size}.",
        "too_few_bits": f"Too small: {which} has {bits} on average.",
        "high_name": with_bits(quantizer, high, " layer"),
        "low_name": with_bits(quantizer, low, " layer"),
        "high_title": with_bits(quantizer, high, " layers"),
        "low_title": with_bits(quantizer, low, " layers"),
        "saving_title": f"Saving vs all {with_bits(quantizer, high)}",
        "of": of_layers,
        "other": pinned_elsewhere(choice.levels, choice.pins, quantizer) or of_layers,
        "origin": origin_of(choice.info, [quantizer], [(quantizer.name, levels)]),
    }


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
    levels: tuple[float, float], pins: Mapping[int, float], quantizer: QuantizerSpec
) -> str:
    """Returns 'and 1 pinned at 8 bits': pins that are neither high nor low, which loaded configs
    have."""
    counts = Counter(level for level in pins.values() if level not in levels)
    return ", ".join(
        f"and {counts[level]} pinned at {level_title(quantizer, level)}" for level in sorted(counts)
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
