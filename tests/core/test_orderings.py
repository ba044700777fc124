from __future__ import annotations

import random

import pytest

from lwq_ui.core.errors import UserError
from lwq_ui.core.orderings import (
    ALIKE,
    ORDERINGS,
    QUICK_SCORERS,
    RANDOM_SEEDS,
    REFERENCE_SCORER,
    SCORERS,
    Ordering,
    ordering_title,
    rank_layers,
)

VALUES = [0.5, -2.0, 3.0, 0.5, 1.0]
SCORES = dict.fromkeys(SCORERS, VALUES)
LARGEST_FIRST = [2, 4, 0, 3, 1]
SMALLEST_FIRST = [1, 0, 3, 4, 2]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("lim", LARGEST_FIRST),
        ("reverse-lim", SMALLEST_FIRST),
        ("zd", SMALLEST_FIRST),  # heavy tails lower the share: see design.md section 5
        ("reverse-zd", LARGEST_FIRST),
        ("first", [0, 1, 2, 3, 4]),
        ("last", [4, 3, 2, 1, 0]),
        ("sensitivity", LARGEST_FIRST),
        ("block-influence", LARGEST_FIRST),
        ("prune-by-lim", LARGEST_FIRST),
        ("prune-from-top", [4, 0, 1, 2, 3]),  # the last layer stays, 3 goes first
    ],
)
def test_directions(name: str, expected: list[int]) -> None:
    assert rank_layers(name, SCORES, 5) == expected


@pytest.mark.parametrize("name", [n for n, o in ORDERINGS.items() if o.scorer])
def test_ties_keep_the_lower_layer_first(name: str) -> None:
    assert rank_layers(name, {ORDERINGS[name].scorer or "": [0.0, -0.0, 0.0, 0.0]}, 4) == [
        0,
        1,
        2,
        3,
    ]
    # Ties are not broken by values that are merely close.
    a, b = 0.1 + 0.2, 0.3
    ranked = rank_layers(name, {ORDERINGS[name].scorer or "": [b, a, b, a]}, 4)
    assert ranked in ([0, 2, 1, 3], [1, 3, 0, 2])


@pytest.mark.parametrize("count", [1, 2, 24, 80])
@pytest.mark.parametrize("name", list(ORDERINGS))
def test_every_ordering_lists_every_layer_once(name: str, count: int) -> None:
    draw = random.Random(count)
    scores = {s: [draw.choice([0.1, 0.2, 0.3]) for _ in range(count)] for s in SCORERS}
    assert sorted(rank_layers(name, scores, count, seed=3)) == list(range(count))


def test_random_is_the_same_for_a_seed_everywhere() -> None:
    """Configs name the seed, so the order is part of the format."""
    assert rank_layers("random", {}, 8, seed=0) == [4, 1, 5, 2, 0, 3, 7, 6]
    assert rank_layers("random", {}, 8, seed=1) == [3, 6, 1, 5, 7, 0, 4, 2]
    assert len({tuple(rank_layers("random", {}, 24, seed=s)) for s in range(10)}) == 10


def test_random_leaves_the_global_generator_alone() -> None:
    random.seed(1)
    state = random.getstate()
    first = rank_layers("random", {}, 24, seed=5)
    assert random.getstate() == state
    random.seed(2)
    assert rank_layers("random", {}, 24, seed=5) == first


def test_other_orderings_do_not_depend_on_the_seed() -> None:
    assert [o.name for o in ORDERINGS.values() if o.seeded] == ["random"]
    assert ORDERINGS["random"].seeds == RANDOM_SEEDS
    for name in set(ORDERINGS) - {"random"}:
        assert rank_layers(name, SCORES, 5, seed=0) == rank_layers(name, SCORES, 5, seed=1)
        assert ORDERINGS[name].seeds == (0,)


def test_an_ordering_ranks_as_the_one_it_names() -> None:
    named = {name: o.ranks_as for name, o in ORDERINGS.items() if o.ranks_as}
    assert named == {"block-influence": "lim"}
    for name, other in named.items():
        assert rank_layers(name, SCORES, 5) == rank_layers(other, SCORES, 5)


@pytest.mark.parametrize("ordering", ORDERINGS.values(), ids=lambda o: o.name)
def test_every_ordering_is_explained_by_one_sentence_of_its_own(ordering: Ordering) -> None:
    assert ordering.meaning[0].isupper() and ordering.meaning.endswith(".")
    assert [o for o in ORDERINGS.values() if o.meaning == ordering.meaning] == [ordering]


def test_an_unknown_ordering_names_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"no ordering 'best'.*lim.*random.*last"):
        rank_layers("best", SCORES, 5)


@pytest.mark.parametrize(
    ("name", "scorer"),
    [("lim", "LIM"), ("reverse-lim", "LIM"), ("zd", "ZD"), ("reverse-zd", "ZD")],
)
def test_missing_scores(name: str, scorer: str) -> None:
    others = {s: VALUES for s in SCORERS if s != scorer.lower()}
    for scores in (others, {scorer.lower(): VALUES[:4]}, {scorer.lower(): [*VALUES, 1.0]}):
        with pytest.raises(UserError, match=f"needs {scorer} scores of all 5 layers"):
            rank_layers(name, scores, 5)


def test_every_scorer_is_an_ordering_and_the_quick_ones_have_a_reverse() -> None:
    for scorer, spec in SCORERS.items():
        assert ORDERINGS[scorer].scorer == scorer
        reverse = ORDERINGS.get(f"reverse-{scorer}")
        assert (reverse is not None) == bool(spec.reverse)
        assert reverse is None or (reverse.scorer, reverse.title) == (scorer, spec.reverse)
    assert {"lim", "zd"} <= set(QUICK_SCORERS) and "sensitivity" not in QUICK_SCORERS
    assert SCORERS[REFERENCE_SCORER].measures_level
    assert "reverse-sensitivity" not in ORDERINGS
    assert len({o.title for o in ORDERINGS.values()}) == len(ORDERINGS)


def test_only_the_pruning_orderings_prune() -> None:
    assert [n for n, o in ORDERINGS.items() if o.prunes] == ["prune-from-top", "prune-by-lim"]


def test_all_layers_alike_is_no_ordering() -> None:
    assert ALIKE not in ORDERINGS and ordering_title(ALIKE, 0) == "All layers alike"
    with pytest.raises(UserError, match="no ordering 'alike'"):
        rank_layers(ALIKE, SCORES, 5)
