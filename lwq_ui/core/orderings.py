"""Scores become orderings: the layers of a model from most to least important."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from .errors import UserError

Values = Sequence[float]
Rank = Callable[[Values, int, int], list[int]]

ALIKE = "alike"  # no ordering: every layer has the same level, whatever its score
ALIKE_TITLE = "All layers alike"
RANDOM_SEEDS = (0, 1, 2)  # the paper's three random orders


@dataclass(frozen=True)
class ScorerSpec:
    """How a scorer is shown and read. A file in `engine/scorers/` of the same name computes it.

    `meaning` is the line beside its scores. `ranking` explains the ordering that it gives, in one
    sentence. `reverse` and `reverse_ranking` are the title and the sentence of the opposite
    ordering, where there is one.

    A scorer that `measures_level` looks at one low level of one quantizer. It costs many forward
    passes, and is computed only when it is asked for.

    `max_tokens` limits the text that it takes by default; None takes all of it. `version` is part
    of the cache's keys: raise it when the numbers change.
    """

    name: str
    title: str
    meaning: str
    ranking: str
    larger_is_important: bool
    needs_text: bool
    measures_level: bool = False
    max_tokens: int | None = None
    reverse: str | None = None
    reverse_ranking: str = ""
    version: int = 1


SCORERS: dict[str, ScorerSpec] = {
    s.name: s
    for s in (
        ScorerSpec(
            "lim",
            "LIM",
            "how much the layer changes what passes through it",
            "The less a layer changes the direction of the hidden state, the less it matters.",
            larger_is_important=True,
            needs_text=True,
            reverse="Reverse LIM",
            reverse_ranking="The opposite of LIM, to compare with.",
        ),
        ScorerSpec(
            "zd",
            "ZD",
            "share of weights far above the layer's mean",
            "The fewer weights lie more than one standard deviation above the layer's mean, the "
            "more the layer matters.",
            larger_is_important=False,
            needs_text=False,
            # The paper gives both directions (abstract against section 3.1): neither is "wrong".
            reverse="ZD, other way",
            reverse_ranking="The paper's other reading of ZD: the more such weights, the more the "
            "layer matters.",
        ),
        ScorerSpec(
            "sensitivity",
            "Sensitivity",
            "measured: divergence when this layer alone drops to the low level",
            "The more the predictions diverge when a layer alone drops to the low level, the more "
            "it matters.",
            larger_is_important=True,
            needs_text=True,
            measures_level=True,
            max_tokens=8192,
        ),
    )
}
QUICK_SCORERS = [s.name for s in SCORERS.values() if not s.measures_level]
LEVEL_SCORERS = [s.name for s in SCORERS.values() if s.measures_level]
REFERENCE_SCORER = "sensitivity"  # measures what the others guess
DEFAULT_ORDERING = "lim"


@dataclass(frozen=True)
class Ordering:
    """`rank(values, num_layers, seed)` returns the layers, most important first. `values` are the
    scores of `scorer`; they are empty where the ordering needs none.

    `meaning` explains the ordering in one sentence. An ordering that is `seeded` gives another
    order for each seed; all others ignore the seed. `ranks_as` names the ordering that always gives
    the same order. An ordering that `prunes` has no low level: it leaves the least important layers
    out, and exists to compare with.
    """

    name: str
    title: str
    scorer: str | None
    rank: Rank
    meaning: str
    prunes: bool = False
    seeded: bool = False
    ranks_as: str | None = None

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds that a sweep measures."""
        return RANDOM_SEEDS if self.seeded else (0,)


def by_importance(larger_is_important: bool) -> Rank:
    sign = -1.0 if larger_is_important else 1.0

    def rank(values: Values, num_layers: int, seed: int) -> list[int]:
        return sorted(range(num_layers), key=lambda i: (sign * values[i], i))

    return rank


def shuffled(values: Values, num_layers: int, seed: int) -> list[int]:
    layers = list(range(num_layers))
    random.Random(seed).shuffle(layers)
    return layers


def from_the_top(values: Values, num_layers: int, seed: int) -> list[int]:
    """Gromov et al. 2024: the layers before the last one go first, counting down."""
    return [num_layers - 1, *range(num_layers - 1)]


ORDERINGS: dict[str, Ordering] = {
    o.name: o
    for o in (
        *(
            Ordering(s.name, s.title, s.name, by_importance(s.larger_is_important), s.ranking)
            for s in SCORERS.values()
        ),
        *(
            Ordering(
                f"reverse-{s.name}",
                s.reverse,
                s.name,
                by_importance(not s.larger_is_important),
                s.reverse_ranking,
            )
            for s in SCORERS.values()
            if s.reverse
        ),
        Ordering(
            "random",
            "Random",
            None,
            shuffled,
            "The layers are shuffled; every seed gives an order of its own.",
            seeded=True,
        ),
        Ordering(
            "first",
            "First layers",
            None,
            lambda values, n, seed: list(range(n)),
            "The nearer a layer is to the input, the more it matters.",
        ),
        Ordering(
            "last",
            "Last layers",
            None,
            lambda values, n, seed: list(reversed(range(n))),
            "The nearer a layer is to the output, the more it matters.",
        ),
        Ordering(
            "block-influence",
            "Block influence (ranks as LIM)",
            "lim",
            by_importance(True),
            "ShortGPT's score is 1 - cos where LIM is -cos: it gives the same order as LIM.",
            ranks_as="lim",
        ),
        Ordering(
            "prune-from-top",
            "Prune from the top",
            None,
            from_the_top,
            "The layers before the last one are left out, counting down (Gromov et al. 2024).",
            prunes=True,
        ),
        Ordering(
            "prune-by-lim",
            "Prune by LIM",
            "lim",
            by_importance(True),
            "The layers that LIM finds least important are left out, not given fewer bits.",
            prunes=True,
        ),
    )
}


def ordering_named(name: str) -> Ordering:
    """Raises UserError where there is none of this name."""
    if name not in ORDERINGS:
        raise UserError(f"There is no ordering '{name}'. Choose one of: {', '.join(ORDERINGS)}.")
    return ORDERINGS[name]


def ordering_title(name: str, seed: int) -> str:
    """Returns 'LIM', and 'Random 2', since every seed gives an order of its own."""
    if name == ALIKE:
        return ALIKE_TITLE
    ordering = ORDERINGS[name]
    return f"{ordering.title} {seed}" if ordering.seeded else ordering.title


def rank_layers(
    name: str, scores: Mapping[str, Values], num_layers: int, seed: int = 0
) -> list[int]:
    """Returns the layers from most to least important; equal scores keep the lower layer first.

    Raises UserError where the ordering is unknown or its scores are missing.
    """
    ordering = ordering_named(name)
    values = scores.get(ordering.scorer, ()) if ordering.scorer else ()
    if ordering.scorer and len(values) != num_layers:
        raise UserError(
            f"The ordering '{name}' needs {SCORERS[ordering.scorer].title} scores of all "
            f"{num_layers} layers. Score the model first."
        )
    return ordering.rank(values, num_layers, seed)
