from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise
from statistics import stdev

import pytest

from lwq_ui.core.allocation import breakpoints
from lwq_ui.core.curves import (
    Expected,
    Kept,
    alike,
    all_splits,
    curve,
    curves,
    expected,
    kept,
    levels_between,
    measured_lines,
)
from lwq_ui.core.errors import UserError
from lwq_ui.core.memory import LayerCost, ModelCost, average_bits
from lwq_ui.core.orderings import ORDERINGS, RANDOM_SEEDS, rank_layers
from lwq_ui.core.schema import Evaluation, Metric

N = 12
RNG = random.Random(3)
SCORES = {name: [RNG.random() for _ in range(N)] for name in ("lim", "zd", "sensitivity")}


def evaluation(split, value: float, n: int = 60, quantizer: str = "quanto") -> Evaluation:
    metrics = {"acc": Metric(value, 0.02, n)}
    return Evaluation("pairs", tuple(split), quantizer, metrics, {}, None, 1.0)


# ---- the splits


@pytest.mark.parametrize("name", [name for name, o in ORDERINGS.items() if not o.prunes])
@pytest.mark.parametrize("levels", [(4, 2), (8, 4), (8, 2)])
def test_two_levels_are_the_sliders_splits_from_the_top(name, levels):
    made = curve(name, SCORES, N, levels)
    layer = LayerCost(100, {16: 200, 8: 100, 4: 50, 2: 25}, 1)
    points = breakpoints(ModelCost((layer,) * N, 0), levels, rank_layers(name, SCORES, N))
    assert made.splits == tuple(points.split(k) for k in range(N, -1, -1))
    assert not made.constant


def test_every_nth_step_and_the_last():
    whole = curve("lim", SCORES, N, (4, 2))
    assert curve("lim", SCORES, N, (4, 2), every=5).splits == tuple(
        whole.splits[k] for k in (0, 5, 10, 12)
    )
    assert curve("lim", SCORES, N, (4, 2), every=99).splits == (whole.splits[0], whole.splits[-1])


@pytest.mark.parametrize("n", [12, 13, 14])
def test_three_levels_keep_their_average(n):
    """Paper, figure 5: x layers at 8 bits, 2 x at 2, the rest at 4."""
    made = curve("last", {}, n, (8, 4, 2))
    assert made.constant and len(made.splits) == n // 3 + 1
    for x, split in enumerate(made.splits):
        assert (split.count(8), split.count(2)) == (x, 2 * x)
        assert average_bits(split) == 4
    most, least = made.splits[1].index(8), [i for i, b in enumerate(made.splits[1]) if b == 2]
    assert (most, least) == (n - 1, [0, 1])


@pytest.mark.parametrize(("levels", "fewest"), [((4, 2), 6), ((8, 4), 6), ((8, 2), 3)])
def test_pruning_goes_as_far_down_as_two_levels_would(levels, fewest):
    high, low = levels
    made = curve("prune-from-top", {}, N, levels)
    assert made.splits[0] == (high,) * N
    # Gromov et al.: the last layer stays, those before it go, counting down
    assert made.splits[1] == (*[high] * (N - 2), 0, high)
    assert made.splits[-1] == (*[high] * (fewest - 1), *[0] * (N - fewest), high)
    assert average_bits(made.splits[-1]) == low
    by_lim = curve("prune-by-lim", SCORES, N, levels).splits
    assert [s.count(0) for s in by_lim] == list(range(N - fewest + 1))


def test_one_curve_per_ordering_and_one_per_seed():
    every = curves(["lim", "random", "last"], SCORES, N, (4, 2))
    assert [c.title for c in every] == ["LIM", "Random 0", "Random 1", "Random 2", "Last layers"]
    assert [c.seed for c in every] == [0, *RANDOM_SEEDS, 0]
    splits = all_splits(every)
    assert len(splits) == len(set(splits)) <= 5 * (N - 1) + 2
    assert {s for c in every for s in c.splits} == set(splits)
    with pytest.raises(UserError):
        curves(["lim"], {}, N, (4, 2))
    with pytest.raises(UserError, match="no ordering 'best'"):
        curves(["best"], SCORES, N, (4, 2))


def test_all_layers_alike():
    assert levels_between((8, 4, 2), 8, 2) == [8, 4, 2]
    assert levels_between((8, 4, 3, 2), 4, 2) == [4, 3, 2]
    assert levels_between((3.945, 3.8, 3.657), 4, 2) == []  # it has not that pair
    line = alike([2, 8, 4, 8], 3)
    assert line.splits == ((8, 8, 8), (4, 4, 4), (2, 2, 2)) and line.title == "All layers alike"
    assert not line.constant


# ---- what was measured of them


def measured_at(steps, curve, **options):
    return [evaluation(curve.splits[k], 0.8 - 0.01 * k, **options) for k in steps]


@pytest.mark.parametrize(
    ("steps", "strides"),
    [
        (range(N + 1), [1]),
        (range(0, N + 1, 2), [2]),
        (range(0, N + 1, 4), [4]),
        ([0, 4, 5, 8, 12], [4]),  # a sweep, and one split more
        ([0, 1, 2, 3, 4, 5], [1]),  # a stretch: what follows is not known
        ([0, 4, 12], []),
        ([0, 6, 12], []),
        ([0, 1, 12], []),
        ([0, 1, 11, 12], []),
        ([0, 3, 5, 8, 12], []),
    ],
)
def test_a_line_goes_through_neighbours_or_a_sweep(steps, strides):
    every = curves(["lim"], SCORES, N, (4, 2))
    lines = measured_lines(measured_at(steps, every[0]), "acc", every)
    assert [line.stride for line in lines] == strides
    for line in lines:
        assert [p.step for p in line.points] == [*steps]
        assert line.complete == (steps[-1] == N) and len(line.stretches) == 1
        assert line.from_all_high and line.orderings == ("lim",) and line.quantizer == "quanto"
        assert all(p.spread is None for p in line.points)


def test_a_gap_parts_a_line():
    every = curves(["lim"], SCORES, N, (4, 2))
    steps = [0, 1, 2, 3, 6, 7, 8, 9, 10, 11, 12]
    (line,) = measured_lines(measured_at(steps, every[0]), "acc", every)
    assert [[p.step for p in s] for s in line.stretches] == [steps[:4], steps[4:]]
    assert not line.complete


def test_coincidences_are_no_line():
    """Two orders of which only the other was swept, and no longer is one."""
    every = curves(["lim", "zd"], {**SCORES, "zd": [-v for v in SCORES["lim"][::-1]]}, N, (4, 2))
    (lim,) = [c for c in every if c.ordering == "lim"]
    swapped = list(SCORES["lim"])
    ranked = rank_layers("lim", SCORES, N)
    for a, b in zip(ranked[2:10:2], ranked[3:10:2], strict=True):
        swapped[a], swapped[b] = swapped[b], swapped[a]
    (new,) = curves(["lim"], {"lim": swapped}, N, (4, 2))
    shared = [k for k, split in enumerate(new.splits) if split in lim.splits]
    assert 3 < len(shared) < N  # but never three neighbours in a row below the top
    found = measured_at(range(N + 1), lim)
    assert all(line.points[0].step == 0 for line in measured_lines(found, "acc", [new]))
    assert measured_lines([e for e in found if e.split in new.splits[4:9]], "acc", [new]) == []


def test_an_incomplete_line_has_a_split_of_its_own():
    lim, zd = curves(["lim", "zd"], {"lim": SCORES["lim"], "zd": near(SCORES["lim"])}, N, (4, 2))
    shared = [k for k, split in enumerate(zd.splits) if split in lim.splits]
    assert shared == [*range(8), *range(9, N + 1)]
    found = measured_at(range(8), zd)  # nobody knows of which of the two
    assert measured_lines(found, "acc", [lim, zd]) == []
    (line,) = measured_lines(measured_at(range(9), zd), "acc", [lim, zd])
    assert line.orderings == ("zd",)


def near(lim):
    """ZD values, of which less is more important, that rank as LIM but for one pair."""
    ranked = rank_layers("lim", {"lim": lim}, N)
    ranked[3], ranked[4] = ranked[4], ranked[3]
    return [float(ranked.index(i)) for i in range(N)]


def test_other_limits_are_other_lines():
    every = curves(["lim"], SCORES, N, (4, 2))
    found = [replace(e, limit=k % 2) for k, e in enumerate(measured_at(range(N + 1), every[0]))]
    (line,) = measured_lines(found, "acc", every)
    assert (line.limit, [p.step for p in line.points]) == (0, [*range(0, N + 1, 2)])


def test_random_orders_share_their_steps():
    """A mean over two orders here and three there would jump."""
    every = curves(["random"], SCORES, N, (4, 2))
    found = measured_at(range(N + 1), every[0]) + measured_at(range(0, N + 1, 2), every[1])
    (line,) = measured_lines(found, "acc", every)
    assert [p.step for p in line.points] == [*range(0, N + 1, 2)] and len(line.curves) == 2


def test_random_orders_are_one_line_with_a_spread():
    every = curves(["random"], SCORES, N, (4, 2))
    values = {s: 0.5 + 0.001 * k for k, s in enumerate(all_splits(every))}
    found = [evaluation(split, value) for split, value in values.items()]
    (line,) = measured_lines(found, "acc", every)
    assert len(line.points) == N + 1 and len(line.curves) == 3
    assert len(line.points[0].evaluations) == 1 and line.points[0].spread is None
    for p in line.points[1:-1]:
        measured = [values[s] for s in dict.fromkeys(c.splits[p.step] for c in every)]
        assert p.metric.value == pytest.approx(sum(measured) / len(measured))
        if len(measured) > 1:
            assert p.spread == pytest.approx(stdev(measured))
        assert p.split == every[0].splits[p.step]


def test_orderings_that_rank_alike_are_one_line():
    every = curves(["lim", "zd", "block-influence"], SCORES, N, (4, 2))
    found = [evaluation(split, 0.5) for split in all_splits(every)]
    lines = measured_lines(found, "acc", every)
    assert [line.orderings for line in lines] == [("lim", "block-influence"), ("zd",)]
    assert lines[0].title == "LIM = Block influence"


def test_an_ordering_that_only_shares_points_is_no_line():
    values = [float(i) for i in range(N)]  # LIM lowers layer 0 first, as Last layers does
    every = curves(["last", "lim", "first"], {"lim": [*values[:3], 9, *values[4:]]}, N, (4, 2))
    found = [evaluation(split, 0.5) for split in every[1].splits]
    assert len(set(every[0].splits) & set(every[1].splits)) >= 3
    assert [line.orderings for line in measured_lines(found, "acc", every)] == [("lim",)]


def test_quantizers_are_lines_of_their_own_and_share_the_unquantized_model():
    every = curves(["lim"], SCORES, N, (16, 4))
    found = [evaluation(every[0].splits[0], 0.9, quantizer="none")]
    for quantizer in ("quanto", "quanto-hqq"):
        found += [evaluation(s, 0.5, quantizer=quantizer) for s in every[0].splits[1:8]]
    lines = measured_lines(found, "acc", every)
    assert [line.quantizer for line in lines] == ["quanto", "quanto-hqq"]
    assert [len(line.points) for line in lines] == [8, 8]


def test_alike_is_a_line_where_there_is_a_level_in_between():
    three = alike([4, 3, 2], N, "gptq")  # the other has no 3 bits, and nothing in between
    every = [*curves(["lim"], SCORES, N, (4, 2)), three, alike([4, 2], N, "quanto")]
    uniform = [evaluation((b,) * N, 0.1 * b) for b in (4, 2)]
    other = [evaluation((b,) * N, 0.1 * b, quantizer="gptq") for b in (4, 3, 2)]
    (line,) = measured_lines([*uniform, *other], "acc", every)
    assert (line.quantizer, line.title) == ("gptq", "All layers alike")
    assert [p.split[0] for p in line.points] == [4, 3, 2] and line.from_all_high


def test_a_running_sweeps_line_has_points_of_fewer_items():
    (c,) = every = curves(["lim"], SCORES, N, (4, 2))
    found = [evaluation(s, 0.5, n=15 if k % 2 else 60) for k, s in enumerate(c.splits[:5])]
    (line,) = measured_lines(found, "acc", every)
    assert [p.metric.n for p in line.points] == [60, 15, 60, 15, 60]


# ---- the grey line


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


# ---- the quality to expect


def test_expected_between_neighbours():
    known = {0: Metric(10.0, 1.0, 60), 2: Metric(20.0, 3.0, 60), 3: Metric(21.0, None, 60)}
    found = expected(known, 12)
    assert found[0] == Expected(10.0, 1.0, True)
    assert found[1] == Expected(15.0, 2.0, False)
    assert found[3] == Expected(21.0, None, True)
    assert found[4:] == [None] * 8
    assert expected({0: Metric(1.0, 0.1, 9), 1: Metric(2.0, None, 9)}, 2) == [
        Expected(1.0, 0.1, True),
        Expected(2.0, None, True),
    ]


@pytest.mark.parametrize(("gap", "said"), [(1, True), (6, True), (7, False)])
def test_expected_does_not_bridge_more_than_a_quarter(gap, said):
    known = {0: Metric(10.0, 1.0, 60), gap: Metric(20.0, 1.0, 60)}
    found = expected(known, 25)
    assert all((e is not None) == said for e in found[1:gap])
    if said:
        values = [e.value for e in found[: gap + 1]]
        assert all(b - a == pytest.approx(10 / gap) for a, b in pairwise(values))
