"""A choice gives the split that its parts give one by one, and says the same in its config."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from lwq_ui.core.allocation import breakpoints
from lwq_ui.core.choice import Choice
from lwq_ui.core.config import Config
from lwq_ui.core.cost import model_cost
from lwq_ui.core.errors import UserError
from lwq_ui.core.memory import UNTOUCHED
from lwq_ui.core.orderings import ORDERINGS, SCORERS, rank_layers
from lwq_ui.core.schema import (
    UNQUANTIZED,
    Evaluation,
    LayerSpec,
    Metric,
    ModelInfo,
    Scores,
    WeightSpec,
)

SEEDS = range(40)


@dataclass
class Whole:
    """A quantizer of whole bytes that counts how often it is asked."""

    name: str = "whole:group=3"
    title: str = "Whole"
    levels: tuple[float, ...] = (8, 4, 2.5)
    pairs: tuple[tuple[float, float], ...] = ((8, 4), (4, 2.5))
    asked: list[float] = field(default_factory=list)

    def packed_bytes(self, weight: WeightSpec, level: float, dtype_bytes: int) -> int:
        self.asked.append(level)
        return int(weight.numel * level) // 8 + weight.rows * dtype_bytes

    def level_title(self, level: float) -> str:
        return f"{level:g} bits"

    def pair_title(self, pair: tuple[float, float]) -> str:
        return " / ".join(f"{level:g}" for level in pair)

    def to_json(self) -> Mapping[str, Any]:
        return {"name": self.name, "group_size": 3, "options": {"group": 3}}


def made_up(seed: int) -> Choice:
    draw = random.Random(seed)
    n = draw.choice([1, 2, 7, 24])

    def layer() -> LayerSpec:
        sizes = ((draw.randint(1, 900), draw.randint(1, 900)) for _ in range(3))
        return LayerSpec(tuple(WeightSpec("w", *size) for size in sizes), draw.randint(0, 99))

    layers = tuple(layer() for _ in range(n))
    names = ("somebody/model", "main", "f" * 64, "LlamaForCausalLM", "bfloat16")
    info = ModelInfo(*names, 10, 20, draw.randint(0, 10**6), None, layers)
    scores = {
        name: Scores(name, tuple(draw.random() for _ in range(n)), "a text", 1, 1, 0.0)
        for name in SCORERS
    }
    pins = {i: draw.choice([8, 4, 2.5, UNTOUCHED]) for i in range(n) if draw.random() < 0.2}
    ordering = draw.choice([name for name, o in ORDERINGS.items() if not o.prunes])
    levels = draw.choice(Whole.pairs)
    return Choice(info, Whole(), levels, ordering, draw.randint(0, 9), scores, pins)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_split_is_the_one_that_its_parts_give(seed: int) -> None:
    choice, draw = made_up(seed), random.Random(seed)
    values = {name: scores.values for name, scores in choice.scores.items()}
    ranked = rank_layers(choice.ordering, values, choice.info.num_layers, choice.seed)
    cost = model_cost(choice.info, Whole())
    table = breakpoints(cost, choice.levels, ranked, choice.pins)
    assert (choice.cost, choice.table) == (cost, table)
    for _ in range(9):
        budget = draw.randint(table.bytes[0], table.bytes[-1] + 99)
        bought = choice.with_budget(budget)
        assert bought.split == table.split(table.position(budget))
        assert cost.total(bought.split) <= budget
        assert bought == replace(choice, budget=budget)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_config_says_what_the_choice_is(seed: int) -> None:
    choice = made_up(seed)
    choice = choice.at_position(len(choice.table.raised) // 2)
    assert choice.position == len(choice.table.raised) // 2
    config = choice.config()
    scorer = ORDERINGS[choice.ordering].scorer
    assert Config.from_json(json.loads(json.dumps(config.to_json()))) == config
    assert config.bits_per_layer == choice.split and config.levels == choice.levels
    assert config.ordering == {
        "name": choice.ordering,
        "seed": choice.seed,
        "scores": list(choice.scores[scorer].values) if scorer else None,
        "calibration": "a text" if scorer else None,
    }
    assert config.pinned == choice.pins and list(config.pinned) == sorted(choice.pins)
    assert config.bytes["total"] == choice.cost.total(choice.split) <= config.budget_bytes
    assert config.bytes["rest"] == choice.info.rest_bytes
    assert config.quantizer == choice.quantizer.to_json()
    assert config.budget_bytes == choice.budget


def test_the_config_takes_the_evaluations_of_its_split_and_quantizer() -> None:
    choice = made_up(3)
    untouched = (UNTOUCHED,) * choice.info.num_layers
    choice = choice.with_budget(choice.table.bytes[-1])

    def evaluation(split: tuple[float, ...], quantizer: str) -> Evaluation:
        return Evaluation(quantizer, split, quantizer, {"acc": Metric(0.5, None, 9)}, {}, 9, 1.0)

    names = ("whole:group=3", "whole", UNQUANTIZED)
    given = [evaluation(choice.split, name) for name in names]
    given += [evaluation(untouched, name) for name in names if untouched != choice.split]
    kept = choice.config(given).evaluations
    assert [e["task"] for e in kept] == ["whole:group=3", UNQUANTIZED]
    assert kept[0]["metrics"] == {"acc": {"value": 0.5, "stderr": None, "n": 9}}


def test_without_a_budget_it_is_the_middle_of_all_low_and_all_high() -> None:
    choice = replace(made_up(5), pins={})
    n, (high, low) = choice.info.num_layers, choice.levels
    least, most = choice.cost.total((low,) * n), choice.cost.total((high,) * n)
    assert choice.cost.span(choice.levels) == (least, most)
    assert choice.spent == (least + most) // 2
    assert choice.split == choice.with_budget((least + most) // 2).split
    assert choice.config().budget_bytes == choice.spent


def test_everything_is_computed_once() -> None:
    choice = replace(made_up(1), pins={})
    quantizer: Any = choice.quantizer
    for budget in choice.table.bytes:
        bought = choice.with_budget(budget)
        assert bought.split and bought.config() and bought.table is choice.table
        assert bought.split is bought.split
    assert len(quantizer.asked) == 3 * 3 * choice.info.num_layers


def test_what_cannot_be_is_one_sentence() -> None:
    choice = made_up(2)
    with pytest.raises(UserError, match="too small"):
        _ = choice.with_budget(choice.table.bytes[0] - 1).split
    with pytest.raises(UserError, match="Score the model first"):
        _ = replace(choice, ordering="lim", scores={}).split
    with pytest.raises(UserError, match="no ordering 'best'"):
        _ = replace(choice, ordering="best").table
    with pytest.raises(UserError, match="cannot have 3 bits"):
        _ = replace(choice, levels=(4, 3), pins={}).table
