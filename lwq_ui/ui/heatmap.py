"""The memory budget's slider and the layers' heatmap: one component, one table, no arithmetic in
the browser.

`value` (browser -> Python) is what the user chose: {"budget": bytes, "pins": {"3": 4}}.
`table` (Python -> browser) is everything computed from it: all splits of the active ordering as
breakpoints, the scores, and every text the page shows. A drag only looks positions up.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from statistics import quantiles
from typing import Any

import gradio as gr

from ..core.allocation import Breakpoints, breakpoints
from ..core.budget import MemoryUse
from ..core.comparison import Estimate, estimate, rank_correlation
from ..core.interpolation import Expected, expected
from ..core.memory import UNTOUCHED, ModelCost, average_bits, format_gib, size_digits, size_unit
from ..core.orderings import ORDERINGS, SCORERS, ScorerSpec, rank_layers
from ..core.schema import Evaluation, Metric
from ..engine.quantizers import DEFAULT, Quantizer, quantizer_named
from .wording import figure

ASSETS = Path(__file__).with_name("assets")
HTML, JS, CSS = (
    (ASSETS / f"heatmap.{kind}").read_text(encoding="utf-8") for kind in ("html", "js", "css")
)
LARGEST_BUDGET = 2**50
REFERENCE = "sensitivity"  # the scorer that measures what the others guess


# What a card holds beside the weights, as the page names it.
BESIDE = (("cache", "KV cache"), ("activations", "Activations"), ("reserve", "Driver"))


@dataclass(frozen=True)
class Card:
    """A memory of `size` bytes that the model shall fit into; `beside` is what stands in it beside
    the weights, `use` says for what."""

    title: str
    use: str
    size: int
    beside: MemoryUse


def first_value(
    cost: ModelCost, levels: tuple[float, float], pins: Mapping[int, float] | None = None
) -> dict[str, Any]:
    """What a fresh page shows: the budget in the middle of its range."""
    smallest, largest = slider_range(cost, levels)
    return {"budget": (smallest + largest) // 2, "pins": dict(pins or {})}


def slider_range(cost: ModelCost, levels: tuple[float, float]) -> tuple[int, int]:
    """Bytes of all layers low and all layers high. Pins leave it alone: the thumb stays put."""
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


def level_title(chosen: Quantizer, level: float) -> str:
    """'4 bits', '1 % outliers (3.945 bits)'; of a pin, at any level."""
    return chosen.level_title(level) if level in chosen.levels else f"{level:g} bits"


def short_title(chosen: Quantizer, level: float) -> str:
    """'4', '1 %': as the choice of levels has it."""
    both = chosen.pair_title((level, level)) if level in chosen.levels else f"{level:g}"
    return both.partition(" / ")[0]


def with_bits(chosen: Quantizer, level: float, what: str = "") -> str:
    """'4-bit layers', or what else the quantizer's levels are: '1 % outliers', '1 %'."""
    if isinstance(level, int):
        return f"{level}-bit{what}"
    return level_title(chosen, level).partition(" (")[0] if what else short_title(chosen, level)


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
    """How well the score ranks the layers as measuring each does. Of two scores that both mean
    importance, one may fall where the other rises: the sign makes them point the same way."""
    reference = SCORERS[REFERENCE]
    values, measured = scores[spec.name], scores.get(REFERENCE, ())
    if spec == reference or len(measured) != len(values):
        return ""
    correlation = rank_correlation(values, measured)
    if spec.larger_is_important != reference.larger_is_important:
        correlation = -correlation
    if math.isnan(correlation):
        return ""
    return f" · rank correlation with sensitivity {correlation:.2f}".replace("-", "−")


def unscored_row(n: int) -> dict[str, Any]:
    """Shows the split while there are no scores yet."""
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
    """0 for the least important layer, 1 for the most important one, linear in the score between
    them. A layer far outside of the others (1.5 times the middle half's spread) gets the end of the
    scale, so that it does not leave one colour for all others."""
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


def level_sums(points: Breakpoints) -> list[float]:
    """The sum of all layers' levels at each position; average bits times the number of layers."""
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


def expected_at(
    points: Breakpoints, evaluations: Sequence[Evaluation], task: str, metric: str
) -> list[Expected | None]:
    """The metric at every position, from what was measured of their splits; its error is that of
    the difference to the unquantized model, on the same items."""
    found = {e.split: e for e in evaluations if e.task == task if metric in e.metrics}
    splits = [points.split(k) for k in range(len(points.bytes))]
    base = found.get((UNTOUCHED,) * len(points.base))
    made = estimate(base, metric) if base else None
    known = {
        k: beside(found[split], metric, made) for k, split in enumerate(splits) if split in found
    }
    return expected(known, len(splits), made.value if made else None)


def beside(e: Evaluation, metric: str, base: Estimate | None) -> Metric:
    """A figure with its error beside `base`; without one where the items cannot be paired."""
    own = estimate(e, metric) if base else None
    paired = own is not None and base is not None and own.n == base.n > 1
    error = own.minus(base).stderr if paired and own and base else None
    return replace(e.metrics[metric], stderr=error)


def expected_texts(expected: Expected | None) -> dict[str, str]:
    if expected is None:
        return {"expected": "–", "expected_how": "not measured here"}
    how = "measured" if expected.measured else "interpolated"
    if expected.base is not None and expected.stderr is not None:
        apart = expected.value - expected.base
        sign = "−" if apart < 0 else "+"
        how += f": {sign}{figure(abs(apart), 2)} ± {figure(expected.stderr, 2)} to unquantized"
    return {"expected": figure(expected.value, 4), "expected_how": how}


def card_parts(card: Card, weights: Sequence[int]) -> dict[str, Any]:
    """The card's parts in the order they are drawn in, and what each position leaves free of it,
    which is negative where it does not fit. Nothing of a part that takes nothing is shown."""
    beside = [(name, title, getattr(card.beside, name)) for name, title in BESIDE]
    return {
        "title": card.title,
        "use": card.use,
        "size": card.size,
        "beside": [
            {"name": name, "title": title, "bytes": size, "text": format_gib(size)}
            for name, title, size in beside
            if size
        ],
        "spare": [spare(card, size) for size in weights],
    }


def spare(card: Card, weights: int) -> int:
    return card.size - card.beside.total - weights


def spare_texts(card: Card | None, weights: int) -> dict[str, str]:
    if card is None:
        return {}
    left = spare(card, weights)
    size = format_gib(abs(left))
    return {
        "weights": format_gib(weights),
        "spare_title": "Too much" if left < 0 else "Free",
        "spare": size,
        "fits": f"Over by {size}" if left < 0 else f"{size} free",
    }


def pinned_elsewhere(
    levels: tuple[float, float], pins: Mapping[int, float], chosen: Quantizer
) -> str:
    """'and 1 pinned at 8 bits': pins that are neither high nor low, as loaded configs have."""
    counts = Counter(level for level in pins.values() if level not in levels)
    return ", ".join(
        f"and {counts[level]} pinned at {level_title(chosen, level)}" for level in sorted(counts)
    )


def ticks(
    cost: ModelCost, levels: tuple[float, float], ordering: Sequence[int]
) -> list[dict[str, Any]]:
    """Five points of the slider, as average bits and bytes. Pins do not move them."""
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


def as_level(value: Any) -> float:
    """'4' -> 4, 3.945 -> 3.945: whole levels are ints. Raises ValueError."""
    level = float(value)
    return int(level) if level.is_integer() else level


class BudgetBar(gr.HTML):
    """Slider, typed budget, one heatmap bar per scorer, and totals.

    Events: `.change` (a budget or pins were committed) and `.pin` (the pins changed: answer with
    `gr.update(table=table(...))`, without a value, because the user may be dragging). Listen with
    `api_visibility="private"`: Gradio writes every run of a public event, with all its data, to the
    browser's storage, and the page gets slower with each.
    """

    # `table` comes in `options`: as a parameter, Gradio would read it back as an attribute, and
    # resolve that to an event, because the JavaScript quotes the word.
    def __init__(self, value: Any = None, **options: Any) -> None:
        super().__init__(
            value=value,
            html_template=HTML,
            js_on_load=JS,
            head=f"<style>{CSS}</style>",
            apply_default_css=False,
            **options,
        )

    def preprocess(self, payload: Any) -> Any:
        """{"budget": int, "pins": {layer: level}}, checked as far as possible without the model;
        None as long as there is no model to choose for."""
        if payload is None:
            return None
        try:
            budget = int(payload["budget"])
            pins = {int(k): as_level(v) for k, v in payload.get("pins", {}).items()}
        except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
            raise gr.Error("The page sent a budget that cannot be read. Reload it.") from error
        return {"budget": max(0, min(budget, LARGEST_BUDGET)), "pins": pins}

    def postprocess(self, value: Any) -> Any:
        if value is None:
            return None
        # An int key in a result breaks Gradio's client.
        pins = {str(layer): level for layer, level in value.get("pins", {}).items()}
        return {"budget": value["budget"], "pins": pins}

    def api_info(self) -> dict[str, Any]:
        return {"type": "object", "description": '{"budget": bytes, "pins": {"layer": level}}'}
