from __future__ import annotations

from itertools import pairwise

import pytest

from lwq_ui.core.interpolation import Expected, Kept, expected, kept
from lwq_ui.core.schema import Metric

STEPS = [(4.0 - k / 4, 0.08 - 0.02 * k, 0.01) for k in range(9)]  # crosses at 3.0


def test_kept_is_a_range_as_wide_as_the_error():
    assert kept(STEPS) == Kept(pytest.approx(3.125), pytest.approx(2.75))  # the neighbours at least
    wide = [(x, margin, 0.03) for x, margin, _ in STEPS]
    assert kept(wide) == Kept(pytest.approx(3.375), pytest.approx(2.625))


def test_kept_is_where_it_is_first_lost():
    dip = [(x, -0.01 if x == 3.75 else margin, 0.0) for x, margin, _ in STEPS]
    assert kept(dip) == Kept(4.0, 3.75)


def test_kept_everywhere_and_perhaps():
    assert kept([(x, 0.05, 0.01) for x, *_ in STEPS]) == Kept(None, None)
    open_end = kept([(x, 0.05, 0.06 if x < 2.5 else 0.01) for x, *_ in STEPS])
    assert open_end is not None and open_end.low is None and 2.25 <= open_end.high <= 2.5


def test_kept_says_nothing_of_too_little():
    assert kept(STEPS[:5]) is None
    assert kept([(x, 0.0, 0.0) for x, *_ in STEPS]) is None  # a share of nothing
    assert kept([(x, 0.01, 0.02) for x, *_ in STEPS]) is None
    assert kept([(x, float("nan"), 0.0) for x, *_ in STEPS]) is None


def test_expected_between_neighbours():
    measured = {0: Metric(10.0, 1.0, 60), 2: Metric(20.0, 3.0, 60), 3: Metric(21.0, None, 60)}
    results = expected(measured, 12)
    assert results[0] == Expected(10.0, 1.0, True)
    assert results[1] == Expected(15.0, 2.0, False)
    assert results[3] == Expected(21.0, None, True)
    assert results[4:] == [None] * 8
    assert expected({0: Metric(1.0, 0.1, 9), 1: Metric(2.0, None, 9)}, 2) == [
        Expected(1.0, 0.1, True),
        Expected(2.0, None, True),
    ]


@pytest.mark.parametrize(("gap", "said"), [(1, True), (6, True), (7, False)])
def test_expected_does_not_bridge_more_than_a_quarter(gap, said):
    measured = {0: Metric(10.0, 1.0, 60), gap: Metric(20.0, 1.0, 60)}
    results = expected(measured, 25)
    assert all((e is not None) == said for e in results[1:gap])
    if said:
        values = [e.value for e in results[: gap + 1]]
        assert all(b - a == pytest.approx(10 / gap) for a, b in pairwise(values))
