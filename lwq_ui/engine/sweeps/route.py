"""The route of many splits through the layers: the steps of a walk, in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...core.allocation import Split
from ...core.memory import PRUNED


@dataclass(frozen=True)
class Step:
    """One layer's step, from a shared prefix of splits to one that is a level longer.

    After the `last` step from a prefix, its hidden state is not needed again.
    """

    start: Split
    end: Split
    last: bool


def route(splits: Sequence[Split]) -> list[dict[float, list[Step]]]:
    """Returns level -> steps for each layer, in the order in which a walk takes them."""
    layers = []
    for i in range(len(splits[0])):
        prefixes = sorted({split[: i + 1] for split in splits}, key=lambda p: (p[i], p))
        last = {p[:i]: p for p in prefixes}
        steps: dict[float, list[Step]] = {}
        for p in prefixes:
            steps.setdefault(p[i], []).append(Step(p[:i], p, last[p[:i]] == p))
        layers.append(steps)
    return layers


def most_states(layers: list[dict[float, list[Step]]]) -> int:
    """Returns how many hidden states of one batch exist at once, at most."""
    now = most = 1
    for steps in layers:
        for step in (step for level in steps.values() for step in level):
            now += 1
            most = max(most, now)
            now -= step.last
    return most


def count_steps(layers: list[dict[float, list[Step]]]) -> int:
    """Returns the number of steps that compute a layer; a pruned layer computes nothing."""
    return sum(len(s) for steps in layers for level, s in steps.items() if level != PRUNED)
