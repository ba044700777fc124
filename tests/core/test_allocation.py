"""Budgets. The allocator under test is compared with a slow one that is obvious."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from lwq_ui.core.allocation import Breakpoints, Split, breakpoints, layers_at_high_level
from lwq_ui.core.errors import UserError
from lwq_ui.core.memory import LayerCost, ModelCost, average_bits

GB = 10**9


@dataclass(frozen=True)
class Case:
    cost: ModelCost
    levels: tuple[int, int]
    ordering: list[int]
    pins: dict[int, int]

    @property
    def table(self) -> Breakpoints:
        return breakpoints(self.cost, self.levels, self.ordering, self.pins)


def random_case(seed: int) -> Case:
    draw = random.Random(seed)
    count = draw.choice([1, 2, 3, 24, 49, 80])

    def layer() -> LayerCost:
        sizes = sorted(draw.randint(1, 10**9) for _ in range(4))
        return LayerCost(draw.randint(1, 10**9), dict(zip((2, 4, 8, 16), sizes, strict=True)), 0)

    same = layer()
    layers = tuple(same if draw.random() < 0.3 else layer() for _ in range(count))
    pinned = draw.sample(range(count), draw.randint(0, count) if draw.random() < 0.5 else 0)
    return Case(
        cost=ModelCost(layers, rest_bytes=draw.randint(0, 10**9)),
        levels=draw.choice(((4, 2), (8, 4), (8, 2))),
        ordering=draw.sample(range(count), count),
        pins={i: draw.choice([2, 4, 8, 16]) for i in pinned},
    )


def slow(case: Case, budget: int) -> Split | None:
    """Everything low, then one layer after the other as long as the whole model still fits."""
    high, low = case.levels
    split = [case.pins.get(i, low) for i in range(len(case.cost.layers))]
    if case.cost.total(split) > budget:
        return None
    for layer in case.ordering:
        if layer in case.pins:
            continue
        tried = [*split]
        tried[layer] = high
        if case.cost.total(tried) > budget:
            break
        split = tried
    return tuple(split)


def budgets(table: Breakpoints, seed: int) -> Iterator[int]:
    for size in table.bytes:
        yield from (size - 1, size, size + 1)
    draw = random.Random(seed)
    for _ in range(20):
        yield draw.randint(table.bytes[0], table.bytes[-1] + 1)
    yield from (0, 10**15)


@pytest.mark.parametrize("seed", range(60))
def test_same_splits_as_a_slow_obvious_allocator(seed: int) -> None:
    case = random_case(seed)
    table = case.table
    for budget in budgets(table, seed):
        expected = slow(case, budget)
        if expected is None:
            with pytest.raises(UserError):
                table.position(budget)
            continue
        position = table.position(budget)
        assert table.split(position) == expected
        assert table.bytes[position] == case.cost.total(expected) <= budget


@pytest.mark.parametrize("seed", range(60))
def test_splits_are_monotone_and_nested_and_keep_the_pins(seed: int) -> None:
    case = random_case(seed)
    table = case.table
    high, low = case.levels
    free = [i for i in case.ordering if i not in case.pins]
    assert list(table.raised) == free
    assert len(table.bytes) == len(free) + 1
    previous = None
    for position, size in enumerate(table.bytes):
        split = table.split(position)
        assert size == case.cost.total(split)
        assert all(split[i] == level for i, level in case.pins.items())
        assert {i for i in free if split[i] == high} == set(free[:position])
        assert all(split[i] == low for i in free[position:])
        if previous is not None:
            assert all(b >= a for a, b in zip(previous, split, strict=True))
        previous = split
    chosen = [table.position(b) for b in sorted(budgets(table, seed)) if b >= table.bytes[0]]
    assert chosen == sorted(chosen)


def equal_layers(count: int, low: int, high: int, rest: int = 0) -> ModelCost:
    return ModelCost((LayerCost(1, {4: low, 8: high}, 0),) * count, rest)


def test_the_papers_70b_example() -> None:
    """80 GB for 80 layers that take 42 GB at 4 bits and 84 GB at 8: 72 layers, 79.8 GB."""
    assert layers_at_high_level(80, 42, 84, 80) == 72
    assert layers_at_high_level(80 * GB, 42 * GB, 84 * GB, 80) == 72
    table = breakpoints(equal_layers(80, 42 * GB // 80, 84 * GB // 80), (8, 4), range(80))
    assert table.bytes[0] == 42 * GB
    assert table.bytes[-1] == 84 * GB
    position = table.position(80 * GB)
    assert position == 72
    assert table.bytes[position] == 79_800_000_000
    assert table.split(position) == (8,) * 72 + (4,) * 8


@pytest.mark.parametrize("count", [1, 2, 24, 32, 49, 80, 98, 126])
def test_equal_layers_give_the_papers_number(count: int) -> None:
    draw = random.Random(count)
    for _ in range(20):
        low = draw.randint(1, 10**9)
        cost = equal_layers(count, low, low + draw.randint(1, 10**9), draw.randint(0, 10**10))
        table = breakpoints(cost, (8, 4), draw.sample(range(count), count))
        for budget in budgets(table, count):
            expected = layers_at_high_level(budget, table.bytes[0], table.bytes[-1], count)
            if budget >= table.bytes[0]:
                assert table.position(budget) == expected
            else:
                assert expected == 0


def test_the_papers_number_is_clamped() -> None:
    assert layers_at_high_level(10, 42, 84, 80) == 0
    assert layers_at_high_level(42, 42, 84, 80) == 0
    assert layers_at_high_level(84, 42, 84, 80) == 80
    assert layers_at_high_level(1000, 42, 84, 80) == 80


def test_the_budget_stops_at_the_first_layer_that_does_not_fit() -> None:
    """A later, cheaper layer is not taken instead: a larger budget would take it away again."""
    cost = ModelCost(
        tuple(LayerCost(1, {2: 0, 4: extra}, 0) for extra in (5, 100, 1)), rest_bytes=10
    )
    table = breakpoints(cost, (4, 2), [0, 1, 2])
    assert table.bytes == (10, 15, 115, 116)
    assert table.split(table.position(114)) == (4, 2, 2)


def test_a_layer_that_costs_the_same_at_both_levels_is_raised() -> None:
    cost = ModelCost(tuple(LayerCost(1, {2: 5, 4: 5 + e}, 0) for e in (0, 3, 0)), 0)
    table = breakpoints(cost, (4, 2), [0, 1, 2])
    assert table.split(table.position(15)) == (4, 2, 2)
    assert table.split(table.position(18)) == (4, 4, 4)


@pytest.mark.parametrize("seed", range(40))
def test_typed_average_bits(seed: int) -> None:
    case = random_case(seed)
    table = case.table
    averages = [average_bits(table.split(k)) for k in range(len(table.bytes))]
    draw = random.Random(seed)
    typed = [*averages, *(a + 0.001 for a in averages), 16.0, math.inf]
    typed += [draw.uniform(averages[0], averages[-1]) for _ in range(20)]
    for bits in typed:
        fits = [k for k, average in enumerate(averages) if average <= bits + 1e-9]
        assert table.position_for_average_bits(bits) == fits[-1]
    for bits in (averages[0] - 0.001, 0.0, -1.0, math.nan):
        with pytest.raises(UserError, match="too small"):
            table.position_for_average_bits(bits)


def test_average_bits_of_the_paper() -> None:
    layers = tuple(LayerCost(1, {2: 1, 4: 2}, 0) for _ in range(24))
    table = breakpoints(ModelCost(layers, 0), (4, 2), range(24))
    assert table.position_for_average_bits(3.25) == 15
    assert table.position_for_average_bits(3.2499) == 14
    assert table.position_for_average_bits(2) == 0
    with pytest.raises(UserError, match="the smallest split has 2"):
        table.position_for_average_bits(1.99)


@pytest.mark.parametrize("seed", range(20))
def test_typed_low_layers(seed: int) -> None:
    case = random_case(seed)
    table = case.table
    free = [i for i in case.ordering if i not in case.pins]
    for count in range(len(free) + 1):
        split = table.split(table.position_for_low_layers(count))
        assert [i for i in free if split[i] == case.levels[1]] == free[len(free) - count :]
    for count in (-1, len(free) + 1):
        with pytest.raises(UserError, match=f"{len(free)} layers are free"):
            table.position_for_low_layers(count)


def test_too_small_a_budget_says_what_the_minimum_is() -> None:
    table = breakpoints(equal_layers(80, 42 * GB // 80, 84 * GB // 80), (8, 4), range(80))
    same = r"of 39\.12 GiB \(41999999999 bytes\) .* takes 39\.12 GiB \(42000000000 bytes\)"
    with pytest.raises(UserError, match=same):
        table.position(42 * GB - 1)
    with pytest.raises(
        UserError, match=r"of 37\.25 GiB is .* takes 39\.12 GiB \(42000000000 bytes\)\."
    ):
        table.position(40 * GB)
    with pytest.raises(UserError, match=r"of 3\.9999996 bits is .* split has 4\."):
        table.position_for_average_bits(3.9999996)
    assert table.position(42 * GB) == 0
    pinned = breakpoints(
        equal_layers(80, 42 * GB // 80, 84 * GB // 80), (8, 4), range(80), {0: 8, 79: 8}
    )
    with pytest.raises(UserError, match=r"40\.09 GiB"):
        pinned.position(42 * GB)


@pytest.mark.parametrize(
    ("pins", "message"),
    [
        ({3: 4}, "layers 0 to 2"),
        ({-1: 4}, "layers 0 to 2"),
        ({0: 3}, "only to 4, 8"),
        ({1: 0}, "only to 4, 8"),
    ],
)
def test_bad_pins(pins: dict[int, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        breakpoints(equal_layers(3, 1, 2), (8, 4), range(3), pins)


@pytest.mark.parametrize("levels", [(4, 8), (4, 4), (4, 0), (4, -2)])
def test_levels_must_be_high_and_low(levels: tuple[int, int]) -> None:
    with pytest.raises(UserError, match="not a high and a low one"):
        breakpoints(equal_layers(3, 1, 2), levels, range(3))


@pytest.mark.parametrize(("levels", "missing"), [((8, 3), 3), ((16, 4), 16), ((5, 4), 5)])
def test_levels_that_the_quantizer_does_not_have(levels: tuple[int, int], missing: int) -> None:
    with pytest.raises(UserError, match=f"cannot have {missing} bits, only 4, 8"):
        breakpoints(equal_layers(3, 1, 2), levels, range(3))


def test_everything_pinned_leaves_one_split() -> None:
    table = breakpoints(equal_layers(3, 10, 20), (8, 4), [2, 0, 1], {0: 8, 1: 4, 2: 8})
    assert table.bytes == (50,)
    assert table.split(table.position(50)) == (8, 4, 8)
    with pytest.raises(UserError):
        table.position(49)
