"""Batches of rows, in which sequences that begin alike share a row.

Such are one context and its continuations, the same examples before each question, or minimal
pairs. They lie in one row as a prefix tree, and what they share is computed once.

A tree is written in depth-first order. A token sees its ancestors and itself, and its position is
its depth. So it computes what it would compute in a row of its own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from .padded import group
from .request import Request


@dataclass(frozen=True)
class Tree:
    """Sequences in one row.

    Token `j` of the row stands at depth `depth[j]`, and the tokens below it end before `end[j]`.
    Token `i` sees it where j <= i < end[j]. `paths` has the places of each sequence's tokens.
    """

    tokens: list[int]
    depth: list[int]
    end: list[int]
    paths: list[list[int]]

    @property
    def branches(self) -> bool:
        return self.depth[-1] < len(self.tokens) - 1


@dataclass
class Row:
    """`members` are the sequences of a row, in lexicographic order. `depth` is the length of the
    longest."""

    members: list[int]
    length: int
    depth: int


def tree(sequences: Sequence[Sequence[int]]) -> Tree:
    """Returns the tree of sequences that come in lexicographic order.

    In this order, sequences that share a beginning are neighbours.
    """
    row = Tree([], [], [], [])
    path: list[int] = []
    previous: Sequence[int] = ()
    for sequence in sequences:
        shared = common(previous, sequence)
        for j in path[shared:]:
            row.end[j] = len(row.tokens)
        new = range(len(row.tokens), len(row.tokens) + len(sequence) - shared)
        path = [*path[:shared], *new]
        row.tokens.extend(sequence[shared:])
        row.depth.extend(range(shared, len(sequence)))
        row.end.extend([0] * len(new))
        row.paths.append(path)
        previous = sequence
    for j in path:
        row.end[j] = len(row.tokens)
    return row


def common(a: Sequence[int], b: Sequence[int]) -> int:
    """Returns the number of tokens that both begin with."""
    shortest = min(len(a), len(b))
    return next((k for k in range(shortest) if a[k] != b[k]), shortest)


def visible(end: Tensor) -> Tensor:
    """Returns [batch, tokens, tokens]: which tokens each one sees. `end` [batch, tokens] is that
    of Tree."""
    place = torch.arange(end.shape[1], device=end.device)
    return (place <= place[:, None]) & (place[:, None] < end[:, None])


def pack(
    sequences: Sequence[tuple[int, ...]],
    cost: Callable[[int], float],
    longest: int,
    deepest: int,
) -> list[Row]:
    """Returns rows of few tokens. `cost` gives the cost of a row of some length.

    A sequence joins a row where that costs less than a row of its own. The row then has at most
    `longest` tokens. A sequence of `deepest` tokens or more shares a row only with its own
    beginnings, which need no branch.
    """
    rows: list[Row] = []
    row = Row([], 0, 0)
    previous: tuple[int, ...] = ()
    for i in sorted(range(len(sequences)), key=lambda i: sequences[i]):
        sequence = sequences[i]
        shared = common(previous, sequence)
        grown = row.length + len(sequence) - shared
        depth = max(row.depth, len(sequence))
        extends = 0 < shared == row.length
        branches = shared > 0 and depth < deepest and grown <= longest
        if extends or (branches and cost(grown) - cost(row.length) < cost(len(sequence))):
            row.members.append(i)
            row.length, row.depth = grown, depth
        else:
            row = Row([i], len(sequence), len(sequence))
            rows.append(row)
        previous = sequence
    return rows


class Rows:
    """A padded batch of trees.

    `index` says which requests it scores. `rows` has those of each row, in lexicographic order.

    Positions that predict targets are counted over the flattened batch. `at` lists each of them
    once, in order. Target k of all is predicted at `at[source[k]]` and belongs to the request
    `index[owner[k]]`. `source` goes up.
    """

    def __init__(self, requests: Sequence[Request], rows: Sequence[Sequence[int]]):
        self.rows = rows
        self.index = [i for row in rows for i in row]
        trees = [tree([requests[i].tokens for i in row]) for row in rows]
        self.length = max(len(t.tokens) for t in trees)
        self.branches = any(t.branches for t in trees)
        self.ids = np.zeros((len(rows), self.length), np.int32)
        self.depth = np.zeros_like(self.ids)
        self.end = np.tile(np.arange(1, self.length + 1, dtype=np.int32), (len(rows), 1))
        lengths = np.array([len(t.tokens) for t in trees])
        self.real = np.arange(self.length) < lengths[:, None]  # [rows, tokens], false on padding
        predictions: list[tuple[int, int, int]] = []  # position, target, owner
        owner = 0
        for r, t in enumerate(trees):
            self.ids[r] = t.tokens[-1]  # the padding; see Batch.tensors
            self.ids[r, : len(t.tokens)] = t.tokens
            self.depth[r, : len(t.tokens)] = t.depth
            self.end[r, : len(t.tokens)] = t.end
            for i, path in zip(rows[r], t.paths, strict=True):
                targets = requests[i].targets
                predictions += (
                    (r * self.length + j, target, owner)
                    for j, target in zip(path[len(path) - len(targets) :], targets, strict=True)
                )
                owner += 1
        predictions.sort()
        columns = np.array(predictions, np.int64).reshape(-1, 3).T
        positions, self.targets, self.owner = columns
        self.at, self.source = np.unique(positions, return_inverse=True)

    @property
    def tokens(self) -> int:
        """The number of tokens that are computed, with the padding."""
        return self.ids.size

    @cached_property
    def first(self) -> np.ndarray:
        """The first target that each of `at` predicts; one more entry ends the last."""
        return np.searchsorted(self.source, np.arange(len(self.at) + 1))

    def tensors(self, device: str) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Returns what `LayerWalk.head` takes: ids, attention mask and positions.

        Rows that do not branch need no mask and no positions. They are causal as they are, and
        never see the padding at their right.
        """
        ids = torch.from_numpy(self.ids).to(device, torch.long)
        if not self.branches:
            return ids, None, None
        end = torch.from_numpy(self.end).to(device, torch.long)
        return ids, visible(end), torch.from_numpy(self.depth).to(device, torch.long)


def batch_rows(
    requests: Sequence[Request],
    cost: Callable[[int], float],
    most_tokens: int,
    longest: int,
    deepest: int,
    kinds: Sequence[bytes] | None = None,
) -> list[list[list[int]]]:
    """Returns batches, each a list of rows, each a list of requests' places.

    They follow from the requests alone, not from their order or from what is scored already.
    Sequences of different `kinds` (see LayerWalk.kinds) share neither row nor batch. Of a row,
    `cost`, `longest` and `deepest` are those of `pack`.
    """
    alike: dict[bytes, list[int]] = defaultdict(list)
    for i in range(len(requests)):
        alike[kinds[i] if kinds else b""].append(i)
    batches = []
    for _, members in sorted(alike.items()):
        rows = pack([tuple(requests[i].tokens) for i in members], cost, longest, deepest)
        for branches in (False, True):
            shaped = [row for row in rows if (row.length > row.depth) == branches]
            for g in group([row.length for row in shaped], most_tokens):
                batches.append([[members[m] for m in shaped[j].members] for j in g])
    return batches
