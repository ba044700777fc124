"""Requests -> batches of rows. Sequences that begin alike (one context and its continuations, the
same examples before every question, minimal pairs) lie in one row as a prefix tree, and what they
share is computed once.

A tree is written in depth-first order. A token sees its ancestors and itself, and its position is
its depth, so that it computes what it would compute in a row of its own.
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
    """Token `j` of the row stands at depth `depth[j]`, and the tokens below it end before `end[j]`:
    token `i` sees it where j <= i < end[j]. `paths` has each sequence's tokens in the row."""

    tokens: list[int]
    depth: list[int]
    end: list[int]
    paths: list[list[int]]

    @property
    def branches(self) -> bool:
        return self.depth[-1] < len(self.tokens) - 1


@dataclass
class Row:
    """Which sequences a row has, in lexicographic order; its length, and that of its longest
    sequence."""

    members: list[int]
    length: int
    depth: int


def tree(sequences: Sequence[Sequence[int]]) -> Tree:
    """`sequences` in lexicographic order, so that those that share a beginning are neighbours."""
    made = Tree([], [], [], [])
    path: list[int] = []
    previous: Sequence[int] = ()
    for sequence in sequences:
        shared = common(previous, sequence)
        for j in path[shared:]:
            made.end[j] = len(made.tokens)
        new = range(len(made.tokens), len(made.tokens) + len(sequence) - shared)
        path = [*path[:shared], *new]
        made.tokens.extend(sequence[shared:])
        made.depth.extend(range(shared, len(sequence)))
        made.end.extend([0] * len(new))
        made.paths.append(path)
        previous = sequence
    for j in path:
        made.end[j] = len(made.tokens)
    return made


def common(a: Sequence[int], b: Sequence[int]) -> int:
    """The number of tokens that both begin with."""
    shortest = min(len(a), len(b))
    return next((k for k in range(shortest) if a[k] != b[k]), shortest)


def visible(end: Tensor) -> Tensor:
    """end [batch, tokens] as in Tree -> [batch, tokens, tokens], which tokens each one sees."""
    place = torch.arange(end.shape[1], device=end.device)
    return (place <= place[:, None]) & (place[:, None] < end[:, None])


def pack(
    sequences: Sequence[tuple[int, ...]],
    cost: Callable[[int], float],
    longest: int,
    deepest: int,
) -> list[Row]:
    """`cost` of a row follows from its length. A sequence joins a row only where that costs less
    than a row of its own, and the row stays at most `longest`. A sequence of `deepest` tokens or
    more shares a row only with its own beginnings, which need no branch."""
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
    """A padded batch. `index` says which requests it scores: `rows` has those of each row, in
    lexicographic order.

    Positions that predict targets are counted over the flattened batch, and `at` lists each of them
    once, in order. Target k of all is predicted at `at[source[k]]` and belongs to the request
    `index[owner[k]]`; `source` goes up.
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
        found: list[tuple[int, int, int]] = []  # position, target, owner
        owner = 0
        for r, t in enumerate(trees):
            self.ids[r] = t.tokens[-1]  # the padding; see Batch.tensors
            self.ids[r, : len(t.tokens)] = t.tokens
            self.depth[r, : len(t.tokens)] = t.depth
            self.end[r, : len(t.tokens)] = t.end
            for i, path in zip(rows[r], t.paths, strict=True):
                targets = requests[i].targets
                found += (
                    (r * self.length + j, target, owner)
                    for j, target in zip(path[len(path) - len(targets) :], targets, strict=True)
                )
                owner += 1
        found.sort()
        positions, self.targets, self.owner = np.array(found, np.int64).reshape(-1, 3).T
        self.at, self.source = np.unique(positions, return_inverse=True)

    @property
    def tokens(self) -> int:
        """Padding included."""
        return self.ids.size

    @cached_property
    def first(self) -> np.ndarray:
        """first[u] is the first target that at[u] predicts; one more entry ends the last."""
        return np.searchsorted(self.source, np.arange(len(self.at) + 1))

    def tensors(self, device: str) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """What `LayerWalk.head` takes: ids, and for rows that branch what each token sees and its
        position. The other rows are causal as they are, and padding at the right is never seen."""
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
    """The requests of every row of every batch. It depends on the requests alone, not on their
    order or on what else is known of them. Sequences of different `kinds` (see LayerWalk.kinds)
    share neither row nor batch."""
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
