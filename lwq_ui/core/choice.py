"""What a user asks for, and everything that follows from it: bytes, splits and the config."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from .allocation import Breakpoints, Split, breakpoints
from .config import Config
from .cost import QuantizerSpec, model_cost
from .memory import ModelCost
from .orderings import DEFAULT_ORDERING, ORDERINGS, rank_layers
from .schema import UNQUANTIZED, Evaluation, ModelInfo, Scores
from .store import LIBRARIES, versions


@dataclass(frozen=True)
class Choice:
    """A model, an ordering of its layers, levels (high, low), pins (layer -> level), a quantizer
    and a budget in bytes.

    `scores` holds at least those that the ordering needs, by scorer. `seed` only matters to an
    ordering that has one. Without a `budget` it is the middle between all layers at the low level
    and all layers at the high level. Every property is computed once.
    """

    info: ModelInfo
    quantizer: QuantizerSpec
    levels: tuple[float, float]
    ordering: str = DEFAULT_ORDERING
    seed: int = 0
    scores: Mapping[str, Scores] = field(default_factory=dict)
    pins: Mapping[int, float] = field(default_factory=dict)
    budget: int | None = None

    @cached_property
    def values(self) -> dict[str, tuple[float, ...]]:
        """One number per layer, by scorer."""
        return {name: scores.values for name, scores in self.scores.items()}

    @cached_property
    def cost(self) -> ModelCost:
        return model_cost(self.info, self.quantizer)

    @cached_property
    def ranked(self) -> list[int]:
        """All layers, the most important first. Raises UserError where the ordering is unknown or
        its scores are missing."""
        return rank_layers(self.ordering, self.values, self.info.num_layers, self.seed)

    @cached_property
    def table(self) -> Breakpoints:
        """Every split that the ordering gives. Raises UserError for impossible levels or pins."""
        return breakpoints(self.cost, self.levels, self.ranked, self.pins)

    @property
    def spent(self) -> int:
        """The budget in bytes, or what stands for it."""
        if self.budget is not None:
            return self.budget
        return sum(self.cost.span(self.levels)) // 2

    @property
    def position(self) -> int:
        """The place of the split in the table. Raises UserError where the budget is too small."""
        return self.table.position(self.spent)

    @cached_property
    def split(self) -> Split:
        """The split that the budget buys. Raises UserError where it is too small."""
        return self.table.split(self.position)

    def with_budget(self, budget: int) -> Choice:
        """Returns the same choice with another budget. The table is kept: no budget changes it."""
        other = replace(self, budget=budget)
        vars(other).update({k: v for k, v in vars(self).items() if k in BESIDE_BUDGET})
        return other

    def at_position(self, position: int) -> Choice:
        """Returns the same choice with just the budget of this place in the table."""
        return self.with_budget(self.table.bytes[position])

    def with_order(self, ordering: str, seed: int) -> Choice:
        """Returns the same choice in another order. The costs are kept."""
        other = replace(self, ordering=ordering, seed=seed)
        vars(other).update({k: v for k, v in vars(self).items() if k in BESIDE_ORDER})
        return other

    def config(self, evaluations: Iterable[Evaluation] = ()) -> Config:
        """Returns the config that repeats the split, with those `evaluations` that are of it.

        Raises UserError where the budget is too small."""
        used = self.scores.get(ORDERINGS[self.ordering].scorer or "")
        names = (self.quantizer.name, UNQUANTIZED)
        return Config(
            model_id=self.info.model_id,
            revision=self.info.revision,
            fingerprint=self.info.fingerprint,
            dtype=self.info.dtype,
            num_layers=self.info.num_layers,
            levels=self.levels,
            bits_per_layer=self.split,
            pinned=dict(sorted(self.pins.items())),
            ordering={
                "name": self.ordering,
                "seed": self.seed,
                "scores": list(used.values) if used else None,
                "calibration": used.calibration if used else None,
            },
            quantizer=self.quantizer.to_json(),
            bytes={
                "layers": self.cost.layer_bytes(self.split),
                "rest": self.cost.rest_bytes,
                "total": self.cost.total(self.split),
            },
            budget_bytes=self.spent,
            evaluations=tuple(
                {
                    "task": e.task,
                    "limit": e.limit,
                    "metrics": {name: vars(metric) for name, metric in e.metrics.items()},
                    **({"chat_template": True} if e.chat_template else {}),
                }
                for e in evaluations
                if e.split == self.split and e.quantizer in names
            ),
            versions=versions(*LIBRARIES),
            weights_from=self.info.quantized_as,
        )


BESIDE_ORDER = {"values", "cost"}  # what no order changes
BESIDE_BUDGET = {*BESIDE_ORDER, "ranked", "table"}  # what no budget changes
