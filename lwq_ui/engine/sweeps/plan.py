"""Plans what a sweep has to compute: batches under splits, in shards, and the cost of each.

Nothing is computed here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ...core.allocation import Split
from ...core.schema import ModelInfo
from ..batches.prefix_trees import Rows
from ..batches.request import Request
from ..models.walk import LayerWalk
from .journal import Scored
from .limits import Limits
from .route import count_steps, most_states, route

ATTENTION = 3.0  # time of an operation of attention, relative to one of a matrix product


@dataclass
class Part:
    """Batches, and the splits that they lack.

    `places` are these splits' places in the plan. `splits` are walked, first the one that they are
    compared with. `layers` is their route through the layers. It has `steps` steps, and at most
    `states` hidden states of one batch at once.
    """

    places: tuple[int, ...]
    splits: list[Split]
    batches: list[Rows]

    def __post_init__(self) -> None:
        self.layers = route(self.splits)
        self.steps = count_steps(self.layers)
        self.states = most_states(self.layers)


@dataclass(frozen=True)
class Costs:
    """Costs in operations and bytes.

    `weights` is the mean number of a layer's weights. `width` is that of a hidden state.
    """

    weights: float
    width: int
    vocabulary: int
    dtype_bytes: int

    @classmethod
    def of_model(cls, info: ModelInfo, walk: LayerWalk) -> Costs:
        weights = sum(w.numel for layer in info.layers for w in layer.weights) / len(info.layers)
        vocabulary = walk.model.get_input_embeddings().num_embeddings
        return cls(weights, walk.width, vocabulary, info.dtype_bytes)

    def row(self, length: int) -> float:
        """Returns the operations of one layer on a row of so many tokens."""
        return length * (2 * self.weights + ATTENTION * 4 * self.width * length)

    def step(self, batch: Rows) -> float:
        """Returns the operations of one layer on a batch."""
        return len(batch.rows) * self.row(batch.length)

    def read(self, batch: Rows) -> float:
        """Returns the operations of a batch's logits under one split."""
        return len(batch.at) * 2.0 * self.vocabulary * self.width

    def batch(self, batch: Rows, part: Part) -> float:
        """Returns the operations of a batch under all splits of a part."""
        return part.steps * self.step(batch) + len(part.splits) * self.read(batch)

    def part(self, part: Part) -> float:
        """Returns the operations of all batches of a part."""
        return sum(self.batch(b, part) for b in part.batches)

    def state_bytes(self, batch: Rows, part: Part) -> int:
        """Returns the most bytes that a batch's hidden states and its mask take at once."""
        states = batch.tokens * self.width * part.states
        mask = batch.tokens * batch.length if batch.branches else 0
        return self.dtype_bytes * (states + mask)


@dataclass(frozen=True)
class Plan:
    """What one call of a sweep has to compute.

    `requests` and `splits` are free of repetitions. `rows` says which of the requests each request
    of the call is. `scored` [requests, splits] has what the journal keeps, `parts` have the rest.
    `reference` is the split that others are compared with, or None.
    """

    requests: list[Request]
    digests: list[bytes]
    rows: list[int]
    splits: list[Split]
    reference: Split | None
    scored: Scored
    costs: Costs
    limits: Limits
    parts: list[Part]

    @property
    def cost(self) -> float:
        """The operations of all parts."""
        return sum(map(self.costs.part, self.parts))

    def part(self, places: tuple[int, ...], batches: list[Rows]) -> Part:
        """Returns these batches under the splits at these places."""
        return part_of(self.splits, self.reference, places, batches)

    def halves(self, part: Part) -> list[Part]:
        """Returns both halves of its batches, or else of its splits.

        Returns nothing for one batch under one split.
        """
        batches, places = part.batches, part.places
        if len(batches) > 1:
            half = len(batches) // 2
            return [replace(part, batches=b) for b in (batches[:half], batches[half:])]
        if len(places) > 1:
            half = len(places) // 2
            return [self.part(p, batches) for p in (places[:half], places[half:])]
        return []


def part_of(
    splits: Sequence[Split],
    reference: Split | None,
    places: tuple[int, ...],
    batches: list[Rows],
) -> Part:
    """Returns batches under the splits at these places. `reference`, if any, is walked first."""
    walked = [splits[c] for c in places]
    if reference is not None:
        walked = [reference, *(s for s in walked if s != reference)]
    return Part(places, walked, batches)


def missing_parts(
    requests: Sequence[Request],
    splits: Sequence[Split],
    reference: Split | None,
    kept: np.ndarray,
    batches: Iterable[Sequence[Sequence[int]]],
) -> list[Part]:
    """Returns what is not `kept` [requests, splits]. `batches` are rows of requests.

    The batches follow from all requests, and what is kept is left out of them here. So a sweep that
    goes on makes the batches that it would have made without interruption.
    """
    missing = [tuple(np.flatnonzero(~row).tolist()) for row in kept]
    parts: dict[tuple[int, ...], Part] = {}
    for batch in batches:
        for places in sorted({missing[i] for row in batch for i in row} - {()}):
            rows = [[i for i in row if missing[i] == places] for row in batch]
            if places not in parts:
                parts[places] = part_of(splits, reference, places, [])
            parts[places].batches.append(Rows(requests, [row for row in rows if row]))
    return list(parts.values())


def next_shard(part: Part, waiting: deque[Rows], costs: Costs, limits: Limits) -> Part:
    """Takes batches from those that wait, as many as the limits allow, and at least one."""
    batches: list[Rows] = []
    size, work = 0, 0.0
    while waiting:
        size += costs.state_bytes(waiting[0], part)
        if batches and (size > limits.state_bytes or work > limits.operations):
            break
        batches.append(waiting.popleft())
        work += costs.batch(batches[-1], part)
    return replace(part, batches=batches)


def shards(part: Part, costs: Costs, limits: Limits) -> Iterator[Part]:
    """Yields the shards of a part."""
    waiting = deque(part.batches)
    while waiting:
        yield next_shard(part, waiting, costs, limits)
