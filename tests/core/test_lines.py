from __future__ import annotations

import random
from dataclasses import replace
from statistics import stdev

import pytest

from lwq_ui.core.curves import alike, all_splits, curves
from lwq_ui.core.lines import measured_lines
from lwq_ui.core.orderings import SCORERS, rank_layers
from lwq_ui.core.schema import Evaluation, Metric

N = 12
RNG = random.Random(3)
SCORES = {name: [RNG.random() for _ in range(N)] for name in SCORERS}


def evaluation(split, value: float, n: int = 60, quantizer: str = "quanto") -> Evaluation:
    metrics = {"acc": Metric(value, 0.02, n)}
    return Evaluation("pairs", tuple(split), quantizer, metrics, {}, None, 1.0)


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
