"""A trial of prefix trees: whether a model computes on a tree what it computes on single rows.

A tree is one row that holds several sequences with a common beginning. It is explained in
engine/batches/prefix_trees.py. Layers are compared one by one on the same input, so rounding does
not add up.
"""

from __future__ import annotations

import torch

from ..batches.prefix_trees import Rows, tree
from ..batches.request import Request
from .steps import LayerSteps

COMMON = 12  # tokens that the three sequences of the trial have in common


@torch.no_grad()
def leak(steps: LayerSteps) -> float:
    """Returns how much of a tree's first branch the other branches see. It must be nothing.

    It is the change that other tokens in that branch make to the others, relative to what a layer
    changes. Of the tokens the median counts, of the layers the largest.
    """
    sequences = small_tree(steps)
    paths = tree(sequences).paths
    own = sorted(set(paths[0]) - set(paths[1]) - set(paths[2]))
    others = sorted({*paths[1], *paths[2]} - set(paths[0]))
    ids, *arguments = rows_of(sequences, [0, 1, 2]).tensors(str(steps.device))
    hidden, calls = steps.head(ids, *arguments)
    ids[0, own] = ids[0, own].flip(0)
    changed, changed_calls = steps.head(ids, *arguments)
    leaks = []
    for i in range(len(steps)):
        beside = hidden.clone()
        beside[:, own] = changed[:, own]
        after, changed = steps.step(i, hidden, calls), steps.step(i, beside, changed_calls)
        change = (after - hidden).float().norm(dim=-1)
        leaks.append(((after - changed).float().norm(dim=-1) / change)[0, others].median())
        hidden = after
    return torch.stack(leaks).max().item()


@torch.no_grad()
def tree_error(steps: LayerSteps) -> float:
    """Returns the largest error of a layer on the later branches of a tree, relative to what the
    layer changes. It is a median over tokens: in a mixture, rounding may send a single token to
    another expert."""
    sequences = small_tree(steps)
    device = str(steps.device)
    paths = tree(sequences).paths
    hidden, calls = steps.head(*rows_of(sequences, [0, 1, 2]).tensors(device))
    alone = [steps.head(*rows_of(sequences, [k]).tensors(device)) for k in range(3)]
    errors = [
        (hidden[:, path] - own).norm() / own.norm()
        for path, (own, _) in zip(paths, alone, strict=True)
    ]
    for i in range(len(steps)):
        after = steps.step(i, hidden, calls)
        for path, (_, own) in zip(paths[1:], alone[1:], strict=True):
            expected = steps.step(i, hidden[:, path], own)
            change = (expected - hidden[:, path]).float().norm(dim=-1)
            error = (after[:, path] - expected).float().norm(dim=-1)
            errors.append((error / change)[0, COMMON:].median())
        hidden = after
    return torch.stack(errors).max().item()


def small_tree(steps: LayerSteps) -> list[list[int]]:
    """Returns three sequences with COMMON first tokens, in lexicographic order."""
    vocabulary = steps.model.get_input_embeddings().num_embeddings
    ids = (torch.arange(1, 45) * 7919 % vocabulary).sort().values.tolist()
    common, rest = ids[:COMMON], ids[COMMON:]
    return [common + rest[:12], common + rest[12:22], common + rest[12:16] + rest[22:]]


def rows_of(sequences: list[list[int]], places: list[int]) -> Rows:
    return Rows([Request(sequence, ()) for sequence in sequences], [places])
