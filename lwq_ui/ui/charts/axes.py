"""Where things stand: the horizontal axes, which have places for every split, and the vertical one.

Perplexity and divergence explode towards 2 bits, and 16 bits lie far from 4 to 2. So the vertical
axis may be logarithmic, and a horizontal one may have a break.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ...core.allocation import Split
from ...core.curves import Curve
from ...core.memory import UNTOUCHED, average_bits, size_unit
from ..wording import figure
from .data import ChartData
from .lines import DrawnLine
from .singles import Singles
from .styles import GRID

HEIGHT, TOP, BOTTOM = 380, 30, 52  # pixels: the whole, above the axes, below them
RUINS = 0.3  # of the height, at most, for values beyond use
TICKS = 18  # pixels between two ticks of a logarithmic axis, at least
LOG_FROM = 20.0  # where the largest value is so many times the smallest, the axis is logarithmic
Place = tuple[Split, int, int]  # a split, the model's bytes with it, its step on its curve


class Axis:
    """A horizontal axis, in `unit` bytes where its values are sizes. `far` are uniform splits,
    value -> tick. Those beyond everything else would squeeze the rest into a corner, and stand
    after a break."""

    def __init__(
        self, title: str, values: Iterable[float], far: Mapping[float, str], unit: int = 1
    ) -> None:
        near = sorted(values) or sorted(far)
        self.title, self.unit = title, unit
        self.far = {v: far[v] for v in sorted(far) if v > near[-1]} if near else {}
        near = sorted([*near, *(far.keys() - self.far.keys())]) or [0.0, 1.0]
        self.low, self.high = near[0], near[-1]
        self.step = nice_step(self.high - self.low or abs(self.high) or 1.0)
        if self.far:
            self.low = math.floor(self.low / self.step + 1e-9) * self.step
            self.high = math.ceil(self.high / self.step - 1e-9) * self.step
        self.gap = max(self.step / 2, (self.high - self.low) / 9)

    def place(self, value: float) -> float:
        if value in self.far:
            return self.high + self.gap * (1.5 + list(self.far).index(value))
        return value

    @property
    def end(self) -> float:
        return self.place(max(self.far)) if self.far else self.high

    def layout(self) -> dict[str, Any]:
        """Returns Plotly's xaxis."""
        end = self.end
        pad = max(end - self.low, self.step) / 24
        axis: dict[str, Any] = {
            "title": {"text": self.title, "font": {"size": 13}},
            "range": [self.low - pad, end + pad],
            "tickangle": 0,
            "zeroline": False,
            "gridcolor": GRID,
        }
        if self.far:
            count = round((self.high - self.low) / self.step)
            ticks = [self.low + self.step * i for i in range(count + 1)]
            axis["tickvals"] = [*ticks, self.high + self.gap * 0.75, *map(self.place, self.far)]
            axis["ticktext"] = [*(f"{v:.6g}" for v in ticks), "…", *self.far.values()]
        return axis


def nice_step(span: float) -> float:
    """Returns 1, 2 or 5 times a power of ten: four to ten of them make the span."""
    power = 10.0 ** math.floor(math.log10(span / 4))
    return next(f * power for f in (5, 2, 1) if f * power <= span / 4 * (1 + 1e-9))


def make_axes(data: ChartData, lines: Sequence[DrawnLine], singles: Singles) -> dict[str, Axis]:
    """Returns "bits" and "size", or "raised" alone where the average bits are the same all along
    (paper, appendix A.2)."""
    if data.raised:
        return {"raised": raised_axis(data.model.curves)}
    size = data.model.size
    uniform = [e for e in singles.uniform if lines or set(e.split) == {UNTOUCHED}]
    far = {e.split for e in uniform}
    near = [(d.size(p), p.split) for d in lines for p in d.points]
    near += [(size(e.quantizer, e.split), e.split) for e in singles.shown if e.split not in far]
    near += [(size(data.quantizer, split), split) for split in data.ends]
    beyond = {size(e.quantizer, e.split) for e in uniform}
    sizes = [total for total, _ in near]
    name, unit = size_unit(max(sizes or beyond or [0]))
    digits = 3 if len({f"{total / unit:.3g}" for total in beyond}) == len(beyond) else 4
    return {
        "bits": Axis(
            "Average bits per layer",
            [average_bits(split) for _, split in near],
            {average_bits(split): f"{split[0]:g}" for split in far},
        ),
        "size": Axis(
            f"Size of the model, {name}",
            [total / unit for total in sizes],
            {total / unit: f"{total / unit:.{digits}g}" for total in beyond},
            unit,
        ),
    }


def raised_axis(curves: Sequence[Curve]) -> Axis:
    *_, least = (c for c in curves if c.constant)
    levels = sorted(set(least.splits[-1]))
    title = f"Layers raised to {levels[-1]} bits (twice as many are lowered to {levels[0]})"
    return Axis(title, [float(k) for k in range(len(least.splits))], {})


def placed(axes: Mapping[str, Axis], places: Sequence[Place]) -> dict[str, list[float]]:
    """Returns the x of every place on every axis."""
    values = {
        "bits": lambda axis: [average_bits(split) for split, _, _ in places],
        "size": lambda axis: [size / axis.unit for _, size, _ in places],
        "raised": lambda axis: [float(step) for *_, step in places],
    }
    return {name: [axis.place(v) for v in values[name](axis)] for name, axis in axes.items()}


class Scale:
    """The vertical axis, from (value, reach) pairs. A logarithmic one has no place for values
    of 0.

    Where values reach `lost_from`, from which on they are beyond use, it is logarithmic. What lies
    beyond is compressed into RUINS of the height, so that the rest stays readable.
    """

    def __init__(
        self,
        spans: Sequence[tuple[float, float]],
        larger_is_better: bool,
        lost_from: float | None = None,
    ) -> None:
        finite = [(v, r) for v, r in spans if math.isfinite(v)]
        positive = [v for v, _ in finite if v > 0]
        spread = max(positive) / min(positive) if positive else 1.0
        self.lost_from = lost_from if max(positive, default=0) >= (lost_from or math.inf) else None
        self.log = not larger_is_better and (spread > LOG_FROM or self.lost_from is not None)
        self.slope = 1.0
        shown = [(v, r) for v, r in finite if v > 0 or not self.log]
        self.left_out = len(finite) - len(shown)
        lows, highs = [v - r for v, r in shown] or [0.0], [v + r for v, r in shown] or [1.0]
        if self.log:
            lows = [max(low, 0.7 * min(positive)) for low in lows]
        if self.lost_from is not None:
            useful = math.log10(self.lost_from / min(lows))
            ruined = math.log10(max(highs) / self.lost_from)
            self.slope = min(1.0, RUINS / (1 - RUINS) * useful / max(ruined, 1e-9))
        low, high = self.at(min(lows)), self.at(max(highs))
        pad = (high - low) / 16 or abs(high) / 16 or 1.0
        self.low, self.high = low - pad, high + pad

    def at(self, value: float) -> float:
        """Returns the value as a layout counts it: the exponent on a logarithmic axis, which
        grows more slowly beyond use."""
        if not self.log:
            return value
        exponent = math.log10(value)
        if self.lost_from is None or value <= self.lost_from:
            return exponent
        knee = math.log10(self.lost_from)
        return knee + (exponent - knee) * self.slope

    def place(self, value: float) -> float:
        """Returns the value that Plotly is given, so that it stands `at` its place."""
        return 10 ** self.at(value) if self.log else value

    def has(self, value: float) -> bool:
        return math.isfinite(value) and (value > 0 or not self.log)

    def clamped(self, value: float) -> float:
        """Returns a value that has a place on the axis, if need be its lowest one."""
        return max(value, 10**self.low) if self.log else value

    def pixels(self, value: float) -> float:
        """Returns the height of a value above the axis."""
        return (self.at(value) - self.low) / (self.high - self.low) * (HEIGHT - TOP - BOTTOM)

    def layout(self) -> dict[str, Any]:
        """Returns the part of Plotly's yaxis that the values decide."""
        if not self.log:
            return {"range": [self.low, self.high]}
        ticks = self.ticks()
        return {
            "type": "log",
            "range": [self.low, self.high],
            "tickvals": list(map(self.place, ticks)),
            "ticktext": list(map(tick_text, ticks)),
        }

    def ticks(self) -> list[float]:
        """Returns round values, as many as have room: powers of ten first, then 5 and 2 times
        these."""
        least, most = 10**self.low, self.value_at(self.high)
        powers = range(math.floor(math.log10(least)), math.ceil(math.log10(most)) + 1)
        ticks: list[float] = []
        for factor in (1, 5, 2):
            for power in powers:
                tick = factor * 10.0**power
                height = self.pixels(tick)
                near = (abs(self.pixels(t) - height) < TICKS for t in ticks)
                if least <= tick <= most and not any(near):
                    ticks.append(tick)
        return sorted(ticks)

    def value_at(self, exponent: float) -> float:
        """Returns the value that stands at an exponent of the layout."""
        knee = math.inf if self.lost_from is None else math.log10(self.lost_from)
        if exponent > knee:
            exponent = min(300.0, knee + (exponent - knee) / self.slope)
        return float(10**exponent)


def tick_text(tick: float) -> str:
    """Returns '50', '10k', '1M': a thousand times as much is the next letter."""
    for unit, letter in ((1e6, "M"), (1e3, "k")):
        if unit <= tick < 1e9:
            return f"{tick / unit:g}{letter}"
    return figure(tick, 3)
