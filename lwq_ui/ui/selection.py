"""What the page's controls ask for: a split of the session's model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..core.allocation import Breakpoints, Split
from ..core.choice import Choice
from ..core.config import Config
from ..core.cost import model_cost
from ..core.curves import Curve, alike, curves, levels_between
from ..core.errors import UserError
from ..core.memory import PRUNED, UNTOUCHED
from ..core.orderings import ALIKE, ORDERINGS, SCORERS, ordering_title, rank_layers
from ..core.schema import Evaluation, ModelInfo, Scores, split_name
from ..engine.configs import quantizer_of
from ..engine.quantizers import DEFAULT_QUANTIZER, Quantizer
from .bar.expected import Expectation, expected_at
from .bar.table import bar_table
from .components.heatmap import LARGEST_BUDGET
from .session import Session
from .tables import sizes_table
from .target import Target, left_html
from .wording import metric_title

QUICK = 60  # items of each task in a quick evaluation
SEEDS_TRIED = 20
LARGEST_SEED = 2**53  # a browser's numbers are exact up to here


@dataclass(frozen=True)
class Selection:
    """`budget` None stands for what the target leaves for weights, and without one for the middle
    of the slider's range."""

    levels: tuple[float, float] = (4, 2)
    ordering: str = "lim"
    seed: int = 0
    quantizer: Quantizer = DEFAULT_QUANTIZER
    budget: int | None = None
    pins: Mapping[int, float] = field(default_factory=dict)
    target: Target | None = None

    def scores(self, session: Session) -> dict[str, Scores]:
        """Those of the model, and the sensitivity of this quantizer's low level where known."""
        ready(session)
        return session.scores_at((self.quantizer, self.levels[1]))

    def values(self, session: Session) -> dict[str, tuple[float, ...]]:
        return {name: s.values for name, s in self.scores(session).items()}

    def table(
        self,
        session: Session,
        chosen: str | None = None,
        titles: Mapping[str, str] | None = None,
        measured: Sequence[Evaluation] = (),
    ) -> str:
        """`measured` on the `chosen` "task/metric" says what to expect at each position."""
        choice = self._choice(session)
        expectation = None
        if chosen:
            task, metric = chosen.split("/", 1)
            expected = expected_at(choice.table, measured, task, metric)
            expectation = Expectation(metric_title(task, metric, titles or {}), expected)
        return bar_table(
            choice, expectation, self.target.card(choice.info) if self.target else None
        )

    def sizes(self, session: Session) -> str:
        """What each of the slider's splits takes, as a table."""
        choice = self._choice(session)
        return sizes_table(choice.cost, self.levels, choice.table, self.quantizer)

    def value(self, session: Session) -> dict[str, Any]:
        """What the slider component holds."""
        if self.budget is not None:
            return {"budget": self.budget, "pins": dict(self.pins)}
        choice = self._choice(session)
        first = {"budget": choice.spent, "pins": dict(self.pins)}
        if self.target is None or self.target.card(choice.info) is None:
            return first
        sizes = choice.table.bytes
        try:
            budget = self.target.weights_budget(choice.info, sizes[0])
        except UserError:
            budget = sizes[0]  # drawn, so that one sees what it lacks
        return {**first, "budget": min(budget, max(choice.cost.span(self.levels)[1], sizes[-1]))}

    def following(self, session: Session, before: Selection) -> Selection:
        """With the slider where it stood `before`, of another quantizer: as many layers up. Where
        the levels are others, too, or a card sets the budget, it starts anew."""
        try:
            old, new = before._breakpoints(session), self._breakpoints(session)
            position = old.position(before.value(session)["budget"])
        except UserError:  # that order is not known of both, or the budget was too small
            return replace(self, budget=None)
        if before.levels != self.levels:
            return replace(self, budget=None, pins={})
        if old.bytes == new.bytes:
            return self
        budget = None if self.target else new.bytes[min(position, len(new.bytes) - 1)]
        return replace(self, budget=budget)

    def left(self, session: Session) -> str:
        """What the target leaves for the weights, in words."""
        info, _ = ready(session)
        if self.target is None:
            return ""
        sizes = self._breakpoints(session).bytes
        return left_html(self.target, info, sizes[0], sizes[-1])

    def split(self, session: Session) -> Split:
        """Raises UserError where the budget is too small."""
        points = self._breakpoints(session)
        return points.split(points.position(self.value(session)["budget"]))

    def config(self, session: Session) -> Config:
        choice = self._choice(session).with_budget(self.value(session)["budget"])
        return choice.config(session.evaluations)

    def drawable(
        self,
        session: Session,
        levels: Sequence[float],
        asked: Iterable[str],
        quantizers: Iterable[Quantizer] = (),
    ) -> list[Curve]:
        """The curve of every ordering whose scores are known: what a chart may draw. Block
        influence, which ranks as LIM, only where it is asked for; so too all layers alike, at the
        levels that each of the `quantizers` has between these two. Three levels keep the average,
        so what prunes has no place beside them."""
        info, _ = ready(session)
        values = self.values(session)
        known = [
            o.name
            for o in ORDERINGS.values()
            if (o.scorer is None or o.scorer in values)
            and (o.name != "block-influence" or o.name in asked)
            and not (o.prunes and len(levels) == 3)
        ]
        lines = curves(known, values, info.num_layers, levels)
        if ALIKE in asked and len(levels) == 2:
            for q in sorted({self.quantizer, *quantizers}, key=lambda q: q.name):
                if between := levels_between(q.levels, *levels):
                    lines.append(alike(between, info.num_layers, q.name))
        return lines

    def _choice(self, session: Session) -> Choice:
        """Returns what is asked for, without its budget."""
        info, _ = ready(session)
        scores = self.scores(session)
        return Choice(
            info, self.quantizer, self.levels, self.ordering, self.seed, scores, self.pins
        )

    def _breakpoints(self, session: Session) -> Breakpoints:
        return self._choice(session).table


def from_config(session: Session, config: Config) -> tuple[Session, Selection, str]:
    """The selection that gives exactly the config's bits, and the session with the config's scores.
    Where its order and budget do not give its bits (someone edited them), every layer is pinned.
    Raises UserError for a config that the session's model or the quantizer cannot have."""
    info, scores = ready(session)
    if config.num_layers != info.num_layers:
        raise misfit("num_layers", f"{config.num_layers}; the model has {info.num_layers} layers")
    quantizer = quantizer_of(config)
    costs = model_cost(info, quantizer).layers
    for i, level in enumerate(config.bits_per_layer):
        if level not in costs[i].packed:
            possible = ", ".join(f"{b:g}" for b in sorted(costs[i].packed))
            raise misfit("bits_per_layer", f"{level:g} for layer {i}; this page has {possible}")
    if abs(seed := config.ordering.get("seed", 0)) > LARGEST_SEED:
        raise misfit("ordering", f"of the seed {seed}; choose one of at most {LARGEST_SEED}")
    scorer = ORDERINGS[config.ordering["name"]].scorer
    values = config.ordering.get("scores")
    low = (quantizer, config.levels[1])
    known = session.scores_at(low).get(scorer or "")
    if scorer and values and (known is None or tuple(values) != known.values):
        calibration = f"{config.ordering.get('calibration') or 'weights'} (from the config)"
        given = Scores(scorer, tuple(values), calibration, 0, 0, 0.0)
        if SCORERS[scorer].measures_level:
            given = replace(given, quantizer=quantizer.name, level=low[1])
            session = replace(session, sensitivity={**session.sensitivity, low: given})
        else:
            session = replace(session, scores={**scores, scorer: given})
    selection = Selection(
        levels=config.levels,
        ordering=config.ordering["name"],
        seed=seed,
        quantizer=quantizer,
        budget=min(config.budget_bytes, LARGEST_BUDGET),
        pins=dict(config.pinned),
    )
    try:
        exact = selection.split(session) == config.bits_per_layer
    except UserError:
        exact = False
    if exact:
        return session, selection, "The config is loaded."
    total = model_cost(info, selection.quantizer).total(config.bits_per_layer)
    pins = dict(enumerate(config.bits_per_layer))
    pinned = replace(with_known_order(session, selection), budget=total, pins=pins)
    return session, pinned, "The config is loaded. Its bits follow no order: all layers are pinned."


def from_split(session: Session, selection: Selection, split: Split) -> tuple[Selection, str]:
    """The selection that gives exactly this split, and what to say about it: by the present
    ordering and pins where they can, by another ordering where that can, else with all layers
    pinned. Raises UserError for a split that the slider cannot have."""
    info, _ = ready(session)
    n = info.num_layers
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
    levels = set(split)
    chosen = selection.quantizer
    if lacking := levels - set(chosen.levels):
        raise UserError(
            f"This split cannot be loaded: {chosen.title} has no {max(lacking):g} bits. Choose the "
            "quantizer that it was measured with first."
        )
    offered = chosen.pairs
    present = selection.levels if selection.levels in offered else offered[0]
    pair = next((pair for pair in (present, *offered) if levels <= set(pair)), present)
    total = model_cost(info, selection.quantizer).total(split)
    start = replace(selection, levels=pair, budget=total, pins={})
    holds = all(split[i] == level for i, level in selection.pins.items())
    tries = [replace(start, pins=selection.pins)] if holds else []
    if levels <= set(pair):  # no order alone gives more levels than two
        tries += [
            replace(start, ordering=ordering, seed=seed)
            for ordering, seed in {
                (selection.ordering, selection.seed): None,
                **{(o, 0): None for o in ORDERINGS if o != "random" and not ORDERINGS[o].prunes},
                **{("random", seed): None for seed in range(SEEDS_TRIED)},
            }
        ]
    for tried in tries:
        scorer = ORDERINGS[tried.ordering].scorer
        if scorer and scorer not in tried.scores(session):
            continue
        points = tried._breakpoints(session)
        if total >= points.bytes[0] and points.split(points.position(total)) == split:
            title = ordering_title(tried.ordering, tried.seed)
            return tried, f"Loaded: {split_name(split)}, {title}."
    pinned = replace(with_known_order(session, start), pins=dict(enumerate(split)))
    return pinned, f"Loaded: {split_name(split)}. It follows no order: all layers are pinned."


def with_known_order(session: Session, selection: Selection) -> Selection:
    """With LIM, which every model has, where the order's scores are not known."""
    scorer = ORDERINGS[selection.ordering].scorer
    known = scorer is None or scorer in selection.scores(session)
    return selection if known else replace(selection, ordering="lim")


def orders_of(
    splits: Iterable[Split], values: Mapping[str, Sequence[float]], seed: int
) -> dict[Split, str | None]:
    """All orderings that give each split, 'LIM = ZD = Random 0': a split knows only its bits, and
    two of the same average would look the same. Of random ones those of the sweeps and the chosen
    seed; another where nothing else gives the split. None where no ordering does, as with pins, or
    where all do."""
    every = list(dict.fromkeys(splits))
    n = len(every[0]) if every else 0
    usual, rare = Leading(n), Leading(n)
    for o in ORDERINGS.values():
        if o.name == "block-influence" or (o.scorer and o.scorer not in values):
            continue  # the first ranks as LIM, whatever the scores
        for s in dict.fromkeys((seed, *range(SEEDS_TRIED))) if o.name == "random" else (0,):
            known = usual if s in (seed, *o.seeds) else rare
            known.add(ordering_title(o.name, s), o.prunes, rank_layers(o.name, values, n, s))
    return {split: " = ".join(usual.of(split) or rare.of(split)[:1]) or None for split in every}


class Leading:
    """The orderings by the layers that they put first: a split follows an ordering where, for each
    of its levels, the layers at that level or above are the ordering's first."""

    def __init__(self, num_layers: int) -> None:
        self.num_layers = num_layers
        self.titles: dict[tuple[bool, int], list[str]] = {}

    def add(self, title: str, prunes: bool, ranked: Sequence[int]) -> None:
        first = 0
        for layer in ranked:
            first |= 1 << layer
            self.titles.setdefault((prunes, first), []).append(title)

    def of(self, split: Split) -> list[str]:
        prunes, levels = PRUNED in split, sorted(set(split))
        if len(levels) == 1:
            return []
        each = []
        for level in levels[1:]:
            first = sum(1 << layer for layer, its in enumerate(split) if its >= level)
            each.append(self.titles.get((prunes, first), []))
        return [title for title in each[0] if all(title in others for others in each[1:])]


def misfit(field: str, what: str) -> UserError:
    return UserError(f"Config field '{field}' is {what}.")


def ready(session: Session | None) -> tuple[ModelInfo, dict[str, Scores]]:
    if session is None or session.info is None:
        raise UserError("The model is still being loaded.")
    return session.info, dict(session.scores or {})
