"""What measured points say of the splits between them: straight lines between neighbours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from .schema import Metric

KEPT = 0.9  # of the all-high score: the paper's grey line
FEWEST_SAID = 6  # points of a line of which a sentence says where it loses something


@dataclass(frozen=True)
class Kept:
    """Where a curve first loses more than a share: between `high` and `low` (average bits or
    bytes). `low` is None where the measured points may not lose it at all. Both are None where they
    do not lose it by more than the error."""

    high: float | None
    low: float | None


def kept(points: Sequence[tuple[float, float, float]]) -> Kept | None:
    """Takes the (x, margin, error) of neighbouring points, from all-high down. `margin` is how far
    the value is on the good side of the bound, `error` its standard error.

    The range reaches from where margin - error first falls below 0 to where margin + error does. It
    holds the two points between which the curve itself crosses the bound.

    Returns None for fewer than six points, or where the first is not above its error.
    """
    if len(points) < FEWEST_SAID or not points[0][1] > points[0][2]:
        return None
    high = first_below([(x, margin - error) for x, margin, error in points])
    low = first_below([(x, margin + error) for x, margin, error in points])
    for (x0, *_), (x1, margin, _) in pairwise(points):
        if margin < 0:
            high = max(x0, high if high is not None else x0)
            low = min(x1, low) if low is not None else None
            break
    return Kept(high, low)


def first_below(points: Sequence[tuple[float, float]]) -> float | None:
    """Returns the x at which a line through the points first falls below 0, None where it stays
    above."""
    for (x0, y0), (x1, y1) in pairwise(points):
        if y1 < 0:
            return x0 + (x1 - x0) * y0 / (y0 - y1)
    return None


@dataclass(frozen=True)
class Expected:
    """A metric at a position of the slider: measured there, or interpolated between neighbours.
    `base` is the unquantized model's, where the error is that of the difference to it."""

    value: float
    stderr: float | None
    measured: bool
    base: float | None = None


def expected(
    measured: Mapping[int, Metric], count: int, base: float | None = None
) -> list[Expected | None]:
    """Returns a metric for each of `count` neighbouring splits. `measured` maps positions to
    metrics.

    Between two measured positions lies a straight line. So does its error, since neighbours share
    their items. Beyond the outermost positions the result is None. It is None, too, where more than
    a quarter of the splits lies between: a line from all-low to all-high says nothing.
    """
    result: list[Expected | None] = [None] * count
    positions = sorted(measured)
    for position in positions:
        metric = measured[position]
        result[position] = Expected(metric.value, metric.stderr, True, base)
    for left, right in pairwise(positions):
        a, b = measured[left], measured[right]
        if right - left > max(2, count // 4):
            continue
        for k in range(left + 1, right):
            t = (k - left) / (right - left)
            error = None
            if a.stderr is not None and b.stderr is not None:
                error = a.stderr * (1 - t) + b.stderr * t
            result[k] = Expected(a.value * (1 - t) + b.value * t, error, False, base)
    return result
