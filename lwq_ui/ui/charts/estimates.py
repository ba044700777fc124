"""Errors of differences: two splits are measured on the same items, and compare better than each
is known."""

from __future__ import annotations

from collections.abc import Sequence

from ...core.comparison import Estimate, estimate, mean_of
from ...core.lines import Line, Point
from ...core.memory import UNTOUCHED
from ...core.schema import Evaluation


class Estimates:
    """The estimates of one metric, each made once from an evaluation's items."""

    def __init__(self, evaluations: Sequence[Evaluation], metric: str) -> None:
        self.metric = metric
        self.made: dict[int, Estimate | None] = {}  # by the evaluation's id: it has no hash
        self.untouched = {e.limit: e for e in evaluations if set(e.split) == {UNTOUCHED}}

    def of_evaluation(self, e: Evaluation) -> Estimate | None:
        if id(e) not in self.made:
            self.made[id(e)] = estimate(e, self.metric)
        return self.made[id(e)]

    def of_point(self, point: Point) -> Estimate | None:
        """Returns the mean over the point's orders, None where the items do not tell it."""
        if len(point.evaluations) == 1:
            return self.of_evaluation(point.evaluations[0])
        estimates = [made for e in point.evaluations if (made := self.of_evaluation(e))]
        if len(estimates) < len(point.evaluations) or len({made.n for made in estimates}) > 1:
            return None
        return mean_of(estimates)

    def reach(self, line: Line) -> tuple[float | None, ...]:
        """Returns how far the line's band reaches at each point, None where that is not known.

        It is the standard error of the difference to the unquantized model or, without one, to all
        layers high. For seeded orders it is the deviation between them, as in the paper.
        """
        if len(line.curves) > 1 and line.curves[0].seeded:
            return tuple(p.spread or 0.0 for p in line.points)
        unquantized, first = self.untouched.get(line.limit), line.points[0]
        if unquantized:
            base = self.of_evaluation(unquantized)
        else:
            base = self.of_point(first) if line.from_all_high else None
        if base is None:
            return (None,) * len(line.points)
        return tuple(self.error(self.of_point(p), base) for p in line.points)

    def differ(self, a: Point, b: Point) -> bool:
        """Returns whether they differ by more than two standard errors, or by an unknown error."""
        one, other = self.of_point(a), self.of_point(b)
        if one is None or other is None or (error := self.error(one, other)) is None:
            return True
        return abs(one.value - other.value) > 2 * error

    @staticmethod
    def error(value: Estimate | None, base: Estimate) -> float | None:
        """Returns the standard error of their difference, None where they cannot be paired or rest
        on one item."""
        if value is None or value.n != base.n or base.n < 2:
            return None
        return value.minus(base).stderr
