"""How far down a line keeps 90 % of what it begins with (the paper's grey line), in sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ...core.interpolation import KEPT, Kept, kept
from ...core.lines import Point
from ...core.memory import average_bits, format_gib, size_digits, size_unit
from ...core.orderings import ALIKE
from ..wording import figure, lower_first
from .drawing import Drawing
from .lines import DrawnLine

NO_SHARE = {"kl_divergence"}  # close to 0 with all layers high: a share of that says nothing


@dataclass(frozen=True)
class Margin:
    """How far a point is on the good side of 90 % of the first one's value, and the standard error
    of that."""

    point: Point
    margin: float
    error: float


Margins = Sequence[Margin]


def margins_of(drawing: Drawing, d: DrawnLine) -> Margins:
    """Returns the margins from all layers high to the first gap. Where less is better, keeping 90 %
    means at most 1 / 0.9 of the first value.

    There are none unless the line begins with all layers high and was measured on all items. ALIKE
    has none either: it has no splits in between.
    """
    line = d.line
    if drawing.metric in NO_SHARE or line.curves[0].constant or not line.from_all_high:
        return []
    points = line.stretches[0]
    if d.ordering == ALIKE or any(p.metric.n != drawing.most for p in points):
        return []
    larger, estimates = drawing.spec.larger_is_better, d.estimates
    factor = KEPT if larger else 1 / KEPT
    first, base = points[0].metric, estimates.of_point(points[0])
    bound = base.times(factor) if base else None
    result = []
    for p in points:
        margin = (p.metric.value - first.value * factor) * (1 if larger else -1)
        error = estimates.error(estimates.of_point(p), bound) if bound else None
        if error is None:  # as if they had no items in common
            error = math.hypot(p.metric.stderr or 0.0, factor * (first.stderr or 0.0))
        result.append(Margin(p, margin, error))
    return result


def kept_of(d: DrawnLine, line_margins: Margins, sizes: bool) -> Kept | None:
    """Returns where the line loses its 90 %, in average bits or in bytes."""
    return kept(
        [
            (float(d.size(m.point)) if sizes else average_bits(m.point.split), m.margin, m.error)
            for m in line_margins
        ]
    )


def kept_sentences(drawing: Drawing, margins: Sequence[tuple[DrawnLine, Margins]]) -> list[str]:
    """Returns one sentence for each line that allows one, the best first. Beside a second
    model they are in bytes, since the bits of two models do not compare."""
    sizes = drawing.data.other is not None
    ranked = []
    for d, line_margins in margins:
        end = kept_of(d, line_margins, sizes)
        # What follows a gap is not known.
        if end and (end.high is not None or d.line.complete):
            ranked.append((end.high or 0.0, end.low or 0.0, kept_sentence(drawing, d, end, sizes)))
    return [sentence for *_, sentence in sorted(ranked)]


def kept_sentence(drawing: Drawing, d: DrawnLine, end: Kept, sizes: bool) -> str:
    first, *_, last = d.line.stretches[0]
    high, value = f"{first.split[0]:g}-bit", first.metric.value
    shown, larger = figure(value, 3), drawing.spec.larger_is_better
    if larger:
        said = f"90 % of the {high} score ({figure(KEPT * value, 3)} of {shown}) is kept"
    else:
        metric = lower_first(drawing.spec.title)
        said = f"{metric} is at most {percent_worse()} worse than the {high} one ({shown})"
    if end.high is not None:
        return f"{d.title}: {said} down to {reach_text(end, sizes)}"
    lowest = format_gib(d.size(last)) if sizes else f"{average_bits(last.split):g} bits"
    if larger and not d.estimates.differ(first, last):  # chance keeps 90 % of chance
        said = f"the {high} score ({shown}) falls by no more than noise"
    return f"{d.title}: {said} everywhere down to {lowest}"


def percent_worse() -> str:
    """Returns '11 %', by which a perplexity may be larger."""
    return f"{100 * (1 / KEPT - 1):.0f} %"


def reach_text(end: Kept, sizes: bool) -> str:
    """Returns 'about 3.2–3.4 bits'. It rounds outwards: nobody knows it closer."""
    high = end.high or 0.0
    name, unit, digits = "bits", 1, 1
    if sizes:
        name, unit = size_unit(high)
        digits = size_digits(high)
    step = 10.0**-digits
    top = math.ceil(high / unit / step - 1e-9) * step
    if end.low is None:
        return f"about {top:.{digits}f} {name} or lower"
    bottom = math.floor(end.low / unit / step + 1e-9) * step
    if f"{bottom:.{digits}f}" == f"{top:.{digits}f}":
        return f"about {top:.{digits}f} {name}"
    return f"about {bottom:.{digits}f}–{top:.{digits}f} {name}"
