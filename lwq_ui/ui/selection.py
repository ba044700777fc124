"""What the page's controls ask for: a split of the session's model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..core.allocation import Breakpoints, Split
from ..core.errors import UserError
from ..core.orderings import ORDERINGS, rank_layers
from ..core.schema import Config, ModelInfo, Scores
from ..engine.configs import breakpoints_of, build_config
from ..engine.quantizers import model_cost
from .heatmap import first_value, table
from .state import Session

SEEDS_TRIED = 20


@dataclass(frozen=True)
class Selection:
    """`budget` None stands for the middle of the slider's range."""

    levels: tuple[int, int] = (4, 2)
    ordering: str = "lim"
    seed: int = 0
    quantizer: str = "quanto"
    budget: int | None = None
    pins: Mapping[int, int] = field(default_factory=dict)

    def table(self, session: Session) -> str:
        info, scores = ready(session)
        values = {name: s.values for name, s in scores.items()}
        cost = model_cost(info, self.quantizer)
        return table(cost, values, self.levels, self.ordering, self.seed, self.pins)

    def value(self, session: Session) -> dict[str, Any]:
        """What the slider component holds."""
        if self.budget is not None:
            return {"budget": self.budget, "pins": dict(self.pins)}
        info, _ = ready(session)
        return first_value(model_cost(info, self.quantizer), self.levels, self.pins)

    def split(self, session: Session) -> Split:
        """Raises UserError where the budget is too small."""
        points = self._breakpoints(session)
        return points.split(points.position(self.value(session)["budget"]))

    def config(self, session: Session) -> Config:
        info, scores = ready(session)
        return build_config(
            info,
            scores,
            self.ordering,
            self.seed,
            self.levels,
            self.pins,
            self.quantizer,
            self.value(session)["budget"],
            session.evaluations,
        )

    def _breakpoints(self, session: Session) -> Breakpoints:
        info, scores = ready(session)
        return breakpoints_of(
            info, scores, self.ordering, self.seed, self.levels, self.pins, self.quantizer
        )


def from_config(session: Session, config: Config) -> tuple[Session, Selection, str]:
    """The selection that gives exactly the config's bits, and the session with the config's scores.
    Where its order and budget do not give its bits (someone edited them), every layer is pinned.
    Raises UserError for a config that the session's model or the quantizer cannot have."""
    info, scores = ready(session)
    if config.num_layers != info.num_layers:
        raise misfit("num_layers", f"{config.num_layers}; the model has {info.num_layers} layers")
    costs = model_cost(info, config.quantizer["name"]).layers
    for i, level in enumerate(config.bits_per_layer):
        if level not in costs[i].packed:
            possible = ", ".join(map(str, sorted(costs[i].packed)))
            raise misfit("bits_per_layer", f"{level} for layer {i}; this page has {possible}")
    scorer = ORDERINGS[config.ordering["name"]].scorer
    values = config.ordering.get("scores")
    if scorer and values and tuple(values) != scores[scorer].values:
        calibration = f"{config.ordering.get('calibration') or 'weights'} (from the config)"
        scores[scorer] = Scores(scorer, tuple(values), calibration, 0, 0, 0.0)
        session = replace(session, scores=scores)
    selection = Selection(
        levels=config.levels,
        ordering=config.ordering["name"],
        seed=config.ordering.get("seed", 0),
        quantizer=config.quantizer["name"],
        budget=config.budget_bytes,
        pins=dict(config.pinned),
    )
    try:
        exact = selection.split(session) == config.bits_per_layer
    except UserError:
        exact = False
    if exact:
        return session, selection, "The config is loaded."
    total = model_cost(info, selection.quantizer).total(config.bits_per_layer)
    pinned = replace(selection, budget=total, pins=dict(enumerate(config.bits_per_layer)))
    return session, pinned, "The config is loaded. Its bits follow no order: all layers are pinned."


def order_of(split: Split, scores: Mapping[str, Scores], seed: int) -> str | None:
    """The ordering that gives this split, which knows only its bits: two splits of the same average
    would look the same. None where no ordering does, as with pins."""
    levels = sorted(set(split))
    if len(levels) != 2:
        return None
    high = {layer for layer, level in enumerate(split) if level == levels[1]}
    values = {name: s.values for name, s in scores.items()}
    for ordering in ORDERINGS.values():
        if ordering.scorer and ordering.scorer not in values:
            continue
        for s in (seed, *range(SEEDS_TRIED)) if ordering.name == "random" else (0,):
            if set(rank_layers(ordering.name, values, len(split), s)[: len(high)]) == high:
                return f"{ordering.title} {s}" if ordering.name == "random" else ordering.title
    return None


def misfit(field: str, what: str) -> UserError:
    return UserError(f"Config field '{field}' is {what}.")


def ready(session: Session | None) -> tuple[ModelInfo, dict[str, Scores]]:
    if session is None or session.info is None:
        raise UserError("The model is still being loaded.")
    return session.info, dict(session.scores or {})
