"""What the controls must say for a split, a config, or the place of another quantizer's slider."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ..core.allocation import Split
from ..core.config import Config
from ..core.cost import model_cost
from ..core.errors import UserError
from ..core.memory import PRUNED, UNTOUCHED
from ..core.orderings import DEFAULT_ORDERING, ORDERINGS, SCORERS, ordering_title
from ..core.schema import Scores, split_name
from ..core.split_orders import SEEDS_TRIED
from ..engine.configs import quantizer_of, read_config
from .components.heatmap import LARGEST_BUDGET
from .session import Session
from .situation import Controls, Situation

LARGEST_SEED = 2**53  # a browser's numbers are exact up to here


def at_same_place(s: Situation, before: Situation) -> Controls:
    """Returns the controls with the slider where it stood `before`, of another quantizer: as many
    layers up. Where the levels are others, too, or a card sets the budget, it starts anew."""
    controls = s.controls
    try:
        old, new = before.choice.table, s.choice.table
        position = old.position(before.budget)
    except UserError:  # that order is not known of both, or the budget was too small
        return replace(controls, budget=None)
    if before.controls.levels != controls.levels:
        return replace(controls, budget=None, pins={})
    if old.bytes == new.bytes:
        return controls
    budget = None if s.target else new.bytes[min(position, len(new.bytes) - 1)]
    return replace(controls, budget=budget)


def restore_split(s: Situation, split: Split) -> tuple[Controls, str]:
    """Returns the controls that give exactly this split, and what to say about it: by the present
    ordering and pins where they can, by another ordering where that can, else with all layers
    pinned. Raises UserError for a split that the slider cannot have."""
    check_split(s, split)
    controls, levels = s.controls, set(split)
    pairs = (controls.levels, *controls.quantizer.pairs)
    pair = next((pair for pair in pairs if levels <= set(pair)), pairs[0])
    total = model_cost(s.info, controls.quantizer).total(split)
    start = replace(controls, levels=pair, budget=total, pins={})
    candidates = candidate_orders(start) if levels <= set(pair) else []
    if all(split[i] == level for i, level in controls.pins.items()):
        candidates = [replace(start, pins=controls.pins), *candidates]
    for candidate in candidates:
        if gives(s, candidate, split):
            title = ordering_title(candidate.ordering, candidate.seed)
            return candidate, f"Loaded: {split_name(split)}, {title}."
    pinned = all_pinned(s, start, split)
    return pinned, f"Loaded: {split_name(split)}. It follows no order: all layers are pinned."


def check_split(s: Situation, split: Split) -> None:
    """Raises UserError for a split that the slider cannot have."""
    n, quantizer = s.info.num_layers, s.controls.quantizer
    if len(split) != n:
        raise UserError(
            f"This split has {len(split)} layers, the model has {n}. Click a point of its chart."
        )
    if PRUNED in split:
        raise UserError(
            "A split with pruned layers cannot be loaded: the slider leaves no layer out. "
            "Choose another point."
        )
    if UNTOUCHED in split:
        raise UserError(
            "The unquantized model cannot be loaded: the slider's layers have 8 bits at most. "
            "Choose another point."
        )
    if lacking := set(split) - set(quantizer.levels):
        raise UserError(
            f"This split cannot be loaded: {quantizer.title} has no {max(lacking):g} bits. Choose "
            "the quantizer that it was measured with first."
        )


def candidate_orders(start: Controls) -> Iterator[Controls]:
    """Yields the controls with every ordering that the slider can follow, the present one first."""
    orders = {(start.ordering, start.seed): None}
    orders |= {(o.name, 0): None for o in ORDERINGS.values() if not (o.seeded or o.prunes)}
    for seed in range(SEEDS_TRIED):
        orders |= {(o.name, seed): None for o in ORDERINGS.values() if o.seeded}
    for ordering, seed in orders:
        yield replace(start, ordering=ordering, seed=seed)


def gives(s: Situation, controls: Controls, split: Split) -> bool:
    """Whether these controls give exactly this split."""
    choice = replace(s, controls=controls).choice
    if choice.ordering != controls.ordering:  # its scores are not measured
        return False
    scorer = ORDERINGS[controls.ordering].scorer
    if scorer and scorer not in choice.scores:
        return False
    total = choice.cost.total(split)
    return total >= choice.table.bytes[0] and choice.with_budget(total).split == split


def all_pinned(s: Situation, controls: Controls, split: Split) -> Controls:
    """Returns controls that pin every layer, with an ordering whose scores are known."""
    scores = s.session.scores_at((controls.quantizer, controls.levels[1]))
    scorer = ORDERINGS[controls.ordering].scorer
    ordering = controls.ordering if scorer is None or scorer in scores else DEFAULT_ORDERING
    total = model_cost(s.info, controls.quantizer).total(split)
    return replace(controls, ordering=ordering, budget=total, pins=dict(enumerate(split)))


def restore_config(s: Situation, config: Config) -> tuple[Session, Controls, str]:
    """Returns the session with the config's scores, and the controls that give exactly its bits.

    Where its order and budget do not give its bits (someone edited them), every layer is pinned.
    Raises UserError for a config that the session's model or the quantizer cannot have.
    """
    n, quantizer = s.info.num_layers, quantizer_of(config)
    if config.num_layers != n:
        raise misfit("num_layers", f"{config.num_layers}; the model has {n} layers")
    costs = model_cost(s.info, quantizer).layers
    for i, level in enumerate(config.bits_per_layer):
        if level not in costs[i].packed:
            possible = ", ".join(f"{b:g}" for b in sorted(costs[i].packed))
            raise misfit("bits_per_layer", f"{level:g} for layer {i}; this page has {possible}")
    if abs(seed := config.ordering.get("seed", 0)) > LARGEST_SEED:
        raise misfit("ordering", f"of the seed {seed}; choose one of at most {LARGEST_SEED}")
    s = replace(s, session=with_config_scores(s.session, config))
    controls = replace(
        s.controls,
        levels=config.levels,
        ordering=config.ordering["name"],
        seed=seed,
        quantizer=quantizer,
        quantizer_error="",
        calibration=quantizer.text if quantizer.calibrated else s.controls.calibration,
        budget=min(config.budget_bytes, LARGEST_BUDGET),
        pins=dict(config.pinned),
    )
    given = replace(s, controls=controls)
    try:
        exact = given.controls == controls and given.split == config.bits_per_layer
    except UserError:
        exact = False
    if exact:
        return s.session, controls, "The config is loaded."
    pinned = all_pinned(s, controls, config.bits_per_layer)
    message = "The config is loaded. Its bits follow no order: all layers are pinned."
    return s.session, pinned, message


def with_config_scores(session: Session, config: Config) -> Session:
    """Returns the session with the scores that the config was made of, where it has others."""
    scorer = ORDERINGS[config.ordering["name"]].scorer
    values = config.ordering.get("scores")
    if scorer is None or not values:
        return session
    quantizer = quantizer_of(config)
    low = (quantizer, config.levels[1])
    present = session.scores_at(low).get(scorer)
    if present and present.values == tuple(values):
        return session
    calibration = f"{config.ordering.get('calibration') or 'weights'} (from the config)"
    given = Scores(scorer, tuple(values), calibration, 0, 0, 0.0)
    if SCORERS[scorer].measures_level:
        given = replace(given, quantizer=quantizer.name, level=low[1])
        return session.with_level_scores(low, {scorer: given})
    return replace(session, scores={**(session.scores or {}), scorer: given})


def read_usable_config(path: str) -> Config:
    """Reads a config file. Raises UserError for one that this page cannot show."""
    config = read_config(path)
    quantizer = quantizer_of(config)
    ordering = ORDERINGS.get(config.ordering["name"])
    if ordering is None or ordering.prunes:
        raise UserError(f"Config field 'ordering' names '{config.ordering['name']}', unknown here.")
    if config.levels not in quantizer.pairs:
        pairs = " or ".join(quantizer.pair_title(pair) for pair in quantizer.pairs)
        raise UserError(
            f"Config field 'levels' is {list(config.levels)}; {quantizer.title} has {pairs}."
        )
    return config


def misfit(field: str, what: str) -> UserError:
    return UserError(f"Config field '{field}' is {what}.")
