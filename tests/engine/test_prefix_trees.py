"""Prefix-tree rows: what they hold, who sees whom, and who joins."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from lwq_ui.engine.batches.prefix_trees import Rows, batch_rows, pack, tree, visible
from lwq_ui.engine.batches.request import Request


def test_a_tree() -> None:
    made = tree([(1, 2), (1, 2, 3), (1, 2, 4, 5), (1, 6), (1, 6)])
    assert made.tokens == [1, 2, 3, 4, 5, 6]
    assert made.depth == [0, 1, 2, 2, 3, 1]
    assert made.end == [6, 5, 3, 5, 5, 6]
    assert made.paths == [[0, 1], [0, 1, 2], [0, 1, 3, 4], [0, 5], [0, 5]]
    assert made.branches and not tree([(1, 2), (1, 2, 3)]).branches


@pytest.mark.parametrize("seed", range(20))
def test_every_token_sees_its_own_sequence_only(seed: int) -> None:
    rng = random.Random(seed)
    sequences = sorted(
        tuple(rng.randrange(3) for _ in range(rng.randrange(1, 9))) for _ in range(12)
    )
    made = tree(sequences)
    sees = visible(torch.tensor([made.end]))[0]
    for sequence, path in zip(sequences, made.paths, strict=True):
        assert [made.tokens[j] for j in path] == list(sequence)
        assert [made.depth[j] for j in path] == list(range(len(path)))
        for k, j in enumerate(path):
            assert sees[j].nonzero()[:, 0].tolist() == path[: k + 1]
    assert len(made.tokens) == len({s[:k] for s in sequences for k in range(1, len(s) + 1)})


def linear(length: int) -> float:
    return length


def rows_of(sequences: list[tuple[int, ...]], **limits: int) -> list[list[tuple[int, ...]]]:
    packed = pack(sequences, linear, **{"longest": 100, "deepest": 100, **limits})
    return [[sequences[i] for i in row.members] for row in packed]


def test_a_sequence_joins_the_row_that_it_shares_a_beginning_with() -> None:
    a, b, c, d = (1, 2, 3), (1, 2, 4), (5, 6), (5, 6, 7)
    assert rows_of([d, b, c, a]) == [[a, b], [c, d]]
    assert rows_of([a, b], longest=3) == [[a], [b]]
    assert rows_of([a, b, c, d], deepest=3) == [[a], [b], [c, d]]  # beginnings need no branch
    assert rows_of([a, b, c, d], deepest=0) == [[a], [b], [c, d]]
    assert rows_of([a, a, (1, 2)], deepest=0) == [[(1, 2), a, a]]
    row = pack([a, b], linear, 100, 100)[0]
    assert (row.length, row.depth) == (4, 3)


def test_a_sequence_joins_only_where_that_costs_less() -> None:
    a, b = (1, 2, 3, 4), (1, 5, 6, 7)
    for square, together in ((0.01, True), (0.05, True), (0.1, False)):
        packed = pack([a, b], lambda n, square=square: n + square * n * n, 100, 100)
        assert (len(packed) == 1) == together


def test_batches_do_not_depend_on_the_order_of_requests() -> None:
    rng = random.Random(0)
    requests = [
        Request(tuple(rng.randrange(4) for _ in range(rng.randrange(3, 12))), (1,))
        for _ in range(60)
    ]
    requests = list(dict.fromkeys(requests))

    def made(requests: list[Request]) -> list[list[list[tuple[int, ...]]]]:
        batches = batch_rows(requests, linear, 40, 30, 10)
        assert sorted(i for b in batches for row in b for i in row) == list(range(len(requests)))
        return [[[tuple(requests[i].tokens) for i in row] for row in b] for b in batches]

    first = made(requests)
    rng.shuffle(requests)
    assert made(requests) == first
    assert any(len(row) > 1 for b in first for row in b)


def test_rows_know_where_every_target_is_predicted() -> None:
    requests = [
        Request([1, 2, 3], [9]),
        Request([1, 2, 3], [8]),
        Request([1, 2, 4, 5], [4, 5, 6]),
        Request([7, 7], [7, 1]),
        Request([1, 2, 3], []),
    ]
    rows = Rows(requests, [[0, 1, 4, 2], [3]])
    assert rows.index == [0, 1, 4, 2, 3]
    assert rows.ids.tolist() == [[1, 2, 3, 4, 5], [7, 7, 7, 7, 7]]
    assert rows.tokens == 10 and rows.branches
    assert rows.at.tolist() == [1, 2, 3, 4, 5, 6]
    assert (np.diff(rows.source) >= 0).all()
    found = {
        (rows.index[o], int(rows.at[s]), int(t))
        for o, s, t in zip(rows.owner, rows.source, rows.targets, strict=True)
    }
    assert found == {(0, 2, 9), (1, 2, 8), (2, 1, 4), (2, 3, 5), (2, 4, 6), (3, 5, 7), (3, 6, 1)}
    for u in range(len(rows.at)):
        assert (rows.source[rows.first[u] : rows.first[u + 1]] == u).all()
    _, sees, depth = rows.tensors("cpu")
    assert sees is not None and depth is not None
    assert depth.tolist() == [[0, 1, 2, 2, 3], [0, 1, 0, 0, 0]]
    assert sees.any(-1).all()  # padding sees itself
    assert sees[0, 3].tolist() == [True, True, False, True, False]
    assert Rows(requests, [[0], [3]]).tensors("cpu")[1:] == (None, None)
    assert Rows([Request([1], [])], [[0]]).at.size == 0
