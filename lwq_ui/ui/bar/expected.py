"""The quality to expect at every position of the slider."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ...core import interpolation
from ...core.allocation import Breakpoints
from ...core.comparison import Estimate, estimate
from ...core.interpolation import Expected
from ...core.memory import UNTOUCHED
from ...core.schema import Evaluation, Metric
from ..wording import figure


@dataclass(frozen=True)
class Expectation:
    """The metric's title, its value at every position, and what marks the split there, such as
    'lost'; empty where nothing does. A value is None where it is not known."""

    title: str
    values: Sequence[Expected | None]
    marks: Sequence[str]

    def texts(self, position: int) -> dict[str, str]:
        texts = expected_texts(self.values[position])
        if mark := self.marks[position]:
            texts["expected_how"] = f"{mark}; {texts['expected_how']}"
        return texts


def expected_at(
    points: Breakpoints, evaluations: Sequence[Evaluation], task: str, metric: str
) -> list[Expected | None]:
    """Returns the metric at every position, from what was measured of their splits.

    Its error is that of the difference to the unquantized model, on the same items.
    """
    measured = {e.split: e for e in evaluations if e.task == task if metric in e.metrics}
    unquantized = measured.get((UNTOUCHED,) * len(points.base))
    base = estimate(unquantized, metric) if unquantized else None
    splits = [points.split(k) for k in range(len(points.bytes))]
    figures = {
        k: beside(measured[split], metric, base)
        for k, split in enumerate(splits)
        if split in measured
    }
    return interpolation.expected(figures, len(splits), base.value if base else None)


def beside(e: Evaluation, metric: str, base: Estimate | None) -> Metric:
    """Returns a figure with its error beside `base`; without one where items cannot be paired."""
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
