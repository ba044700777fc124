"""From scores to orderings: the layers of a model from most to least important."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from .errors import UserError

Values = Sequence[float]


@dataclass(frozen=True)
class ScorerSpec:
    """How a scorer is shown and read. `engine/scorers.py` computes it, under the same name.
    `version` is part of the cache's keys: raise it when the numbers change."""

    name: str
    title: str
    meaning: str
    larger_is_important: bool
    needs_text: bool
    version: int = 1


SCORERS: dict[str, ScorerSpec] = {
    s.name: s
    for s in (
        ScorerSpec("lim", "LIM", "how much the layer changes what passes through it", True, True),
        ScorerSpec("zd", "ZD", "share of weights far above the layer's mean", False, False),
    )
}


@dataclass(frozen=True)
class Ordering:
    """`rank(values, num_layers, seed)` -> layers, most important first. `values` are the scores of
    `scorer`, or empty where the ordering needs none."""

    name: str
    title: str
    scorer: str | None
    rank: Callable[[Values, int, int], list[int]]


def by_importance(larger_is_important: bool) -> Callable[[Values, int, int], list[int]]:
    sign = -1.0 if larger_is_important else 1.0

    def rank(values: Values, num_layers: int, seed: int) -> list[int]:
        return sorted(range(num_layers), key=lambda i: (sign * values[i], i))

    return rank


def shuffled(values: Values, num_layers: int, seed: int) -> list[int]:
    layers = list(range(num_layers))
    random.Random(seed).shuffle(layers)
    return layers


def reverse_title(spec: ScorerSpec) -> str:
    # The paper gives both directions for ZD (abstract against section 3.1): neither is "wrong".
    return "Reverse LIM" if spec.name == "lim" else f"{spec.title}, other way"


ORDERINGS: dict[str, Ordering] = {
    o.name: o
    for o in (
        *(
            Ordering(s.name, s.title, s.name, by_importance(s.larger_is_important))
            for s in SCORERS.values()
        ),
        *(
            Ordering(
                f"reverse-{s.name}",
                reverse_title(s),
                s.name,
                by_importance(not s.larger_is_important),
            )
            for s in SCORERS.values()
        ),
        Ordering("random", "Random", None, shuffled),
        Ordering("first", "First layers", None, lambda values, n, seed: list(range(n))),
        Ordering("last", "Last layers", None, lambda values, n, seed: list(reversed(range(n)))),
    )
}


def rank_layers(
    name: str, scores: Mapping[str, Values], num_layers: int, seed: int = 0
) -> list[int]:
    """The layers from most to least important; equal scores keep the lower layer first.

    Raises UserError where the ordering is unknown or its scores are missing.
    """
    ordering = ORDERINGS.get(name)
    if ordering is None:
        raise UserError(f"There is no ordering '{name}'. Choose one of: {', '.join(ORDERINGS)}.")
    values = scores.get(ordering.scorer, ()) if ordering.scorer else ()
    if ordering.scorer and len(values) != num_layers:
        raise UserError(
            f"The ordering '{name}' needs {SCORERS[ordering.scorer].title} scores of all "
            f"{num_layers} layers. Score the model first."
        )
    return ordering.rank(values, num_layers, seed)
