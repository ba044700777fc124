"""Which levels give weights back that were rounded before: the rule beside what is packed."""

from __future__ import annotations

import itertools
from pathlib import Path

import gguf_models
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from gguf.quants import dequantize, quantize
from torch import Tensor

from lwq_ui.core.lossless import given_back
from lwq_ui.core.origin import GRIDS, Grid
from lwq_ui.core.run import Run
from lwq_ui.engine.checkpoints.finding import find
from lwq_ui.engine.checkpoints.gguf_header import layers_grid
from lwq_ui.engine.checkpoints.headers import Entry
from lwq_ui.engine.checkpoints.source import Source
from lwq_ui.engine.models import loading
from lwq_ui.engine.models.description import describe
from lwq_ui.engine.models.layers import layer_weights
from lwq_ui.engine.quantizers import Quantizer, quantizer_named

ROWS, COLUMNS, BLOCK = 32, 256, 32
TYPES = ("F32", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K")
QUANTIZERS = (
    *("quanto", "quanto:group=64", "quanto:group=32"),
    *("quanto-hqq", "quanto-hqq:group=32", "quanto-clip", "quanto-clip:group=32"),
)
LEVELS = [(name, level) for name in QUANTIZERS for level in (8, 4, 2)]


def rounded_as(kind: str) -> Tensor:
    """Weights as a file of this type has them."""
    rng = np.random.default_rng(5)
    weights = (0.05 * rng.standard_normal((ROWS, COLUMNS))).astype(np.float32)
    number = GGMLQuantizationType[kind]
    if kind == "Q4_K":  # gguf does not round to it
        stored = rng.integers(0, 256, (ROWS, 144), dtype=np.uint8)
        stored[:, :4] = np.array([1e-4, 5e-4], np.float16).view(np.uint8)  # scale and minimum
        of_blocks = rng.integers(1, 3, (ROWS, 12)) << 6 | rng.integers(17, 64, (ROWS, 12))
        stored[:, 4:16] = of_blocks  # in units of these, none of them small
        return torch.from_numpy(dequantize(stored, number))
    return torch.from_numpy(dequantize(quantize(weights, number), number))


def error_in_steps(weights: Tensor, restored: Tensor) -> float:
    """The largest error, in 15ths of the span of its block."""
    blocks, others = (w.float().unflatten(1, (-1, BLOCK)) for w in (weights, restored))
    step = (blocks.amax(-1) - blocks.amin(-1)) / 15
    return float(((blocks - others).abs().amax(-1) / step).max())


def packed_and_restored(quantizer: Quantizer, weights: Tensor, level: float) -> Tensor:
    restored: Tensor = quantizer.dense(quantizer.pack(weights, level))  # type: ignore[attr-defined]
    return restored


@pytest.mark.parametrize(("name", "level"), LEVELS)
def test_a_level_gives_back_what_the_rule_says_and_nothing_else(name: str, level: float) -> None:
    quantizer = quantizer_named(name)
    for kind in TYPES:
        weights = rounded_as(kind)
        exact = kind in GRIDS and quantizer.grid(COLUMNS, level) == GRIDS[kind]
        error = error_in_steps(weights, packed_and_restored(quantizer, weights, level))
        assert error < 1e-5 if exact else error > 0.05, (kind, error)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", [name for name in QUANTIZERS if "group=32" in name])
def test_in_16_bits_scales_round_and_every_weight_keeps_its_code(
    name: str, dtype: torch.dtype
) -> None:
    """So errors are no larger than a seventh of a step; without the grid they reach half of one."""
    quantizer, weights = quantizer_named(name), rounded_as("Q4_1")
    restored = packed_and_restored(quantizer, weights.to(dtype), 4)
    assert error_in_steps(weights, restored) < (0.15 if dtype == torch.bfloat16 else 0.02)
    low = weights.unflatten(1, (-1, BLOCK)).amin(-1, keepdim=True)
    step = (weights.unflatten(1, (-1, BLOCK)).amax(-1, keepdim=True) - low) / 15
    codes = [((w.unflatten(1, (-1, BLOCK)) - low) / step).round() for w in (weights, restored)]
    assert torch.equal(*codes)
    other = packed_and_restored(quantizer, rounded_as("Q4_0").to(dtype), 4)
    assert error_in_steps(rounded_as("Q4_0"), other) > 0.4


@pytest.mark.parametrize(("kind", "bits"), [*itertools.product(TYPES, (4, 5))])
def test_the_types_whose_blocks_are_grids(kind: str, bits: int) -> None:
    """Rounded to 2**bits values from each block's smallest weight to its largest."""
    weights = rounded_as(kind)
    blocks = weights.unflatten(1, (-1, BLOCK))
    low, high = blocks.amin(-1, keepdim=True), blocks.amax(-1, keepdim=True)
    step = (high - low) / (2**bits - 1)
    error = error_in_steps(weights, (((blocks - low) / step).round() * step + low).flatten(1))
    assert error < 1e-5 if GRIDS.get(kind) == Grid(bits, BLOCK) else error > 0.1, error


def test_blocks_that_leave_an_end_unused_do_not_come_back() -> None:
    """As an importance matrix makes them: the rule is not for these."""
    stored = quantize(0.05 * np.ones((ROWS, COLUMNS), np.float32), GGMLQuantizationType.Q4_1)
    blocks = stored.reshape(-1, 20)
    blocks[:, :4] = np.array([0.01, -0.08], np.float16).view(np.uint8)  # step and minimum
    blocks[:, 4:] = np.random.default_rng(6).integers(0, 13, blocks[:, 4:].shape, dtype=np.uint8)
    weights = torch.from_numpy(dequantize(stored, GGMLQuantizationType.Q4_1))
    restored = packed_and_restored(quantizer_named("quanto:group=32"), weights, 4)
    assert error_in_steps(weights, restored) > 0.1


def entry(kind: str, *shape: int) -> Entry:
    return Entry("m.gguf", kind, shape, 0, 1)


def test_the_grid_of_a_file_is_that_of_all_matrices_of_its_layers() -> None:
    tensors = {
        "token_embd.weight": entry("Q8_0", 100, 64),
        "blk.0.attn_norm.weight": entry("F32", 64),
        "blk.0.attn_q.weight": entry("Q4_1", 64, 64),
        "blk.1.attn_q.weight": entry("Q4_1", 64, 64),
    }
    assert layers_grid({"general.file_type": 3}, tensors) == "Q4_1"
    assert layers_grid({"quantize.imatrix.file": "wiki.dat"}, tensors) is None
    assert layers_grid({}, {**tensors, "blk.1.attn_v.weight": entry("Q8_0", 64, 64)}) is None
    assert layers_grid({}, {"blk.0.attn_q.weight": entry("Q4_0", 64, 64)}) is None
    assert layers_grid({}, {}) is None


class OfFile(Source):
    def quantized_as(self) -> str | None:
        return "Q4_1"

    def grid(self) -> str | None:
        return "Q4_1"


def test_a_model_keeps_what_its_source_says_of_its_weights(copy: Path) -> None:
    info = describe(OfFile(str(copy), copy))
    assert (info.quantized_as, info.grid) == ("Q4_1", "Q4_1")
    info = describe(Source(str(copy), copy))
    assert (info.quantized_as, info.grid) == (None, None)


@pytest.mark.parametrize(("kind", "exact"), [("Q4_1", True), ("Q4_0", False), ("Q5_1", False)])
def test_a_model_from_a_file(kind: str, exact: bool, tmp_path: Path, run: Run) -> None:
    """All weights of all its layers, as they are packed and computed with."""
    path = gguf_models.write(gguf_models.build("llama"), tmp_path / "m.gguf", kind)
    loaded = loading.load(find(str(path), run), "cpu", "float32", run)
    quantizer = quantizer_named("quanto:group=32")
    assert loaded.info.quantized_as == kind
    assert given_back(loaded.info, quantizer) == ({4} if exact else set())
    for layer in loaded.walk.layers:
        for w in layer_weights(layer):
            matrix = w.matrix()
            error = error_in_steps(matrix, packed_and_restored(quantizer, matrix, 4))
            assert error < 1e-5 if exact else error > 0.1
