from __future__ import annotations

import random

import pytest

from lwq_ui.core.allocation import breakpoints
from lwq_ui.core.curves import alike, all_splits, curve, curves, levels_between
from lwq_ui.core.errors import UserError
from lwq_ui.core.memory import LayerCost, ModelCost, average_bits
from lwq_ui.core.orderings import ORDERINGS, RANDOM_SEEDS, SCORERS, rank_layers

N = 12
RNG = random.Random(3)
SCORES = {name: [RNG.random() for _ in range(N)] for name in SCORERS}


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
    assert curve("lim", SCORES, N, (4, 2), stride=5).splits == tuple(
        whole.splits[k] for k in (0, 5, 10, 12)
    )
    assert curve("lim", SCORES, N, (4, 2), stride=99).splits == (whole.splits[0], whole.splits[-1])


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
