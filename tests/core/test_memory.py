"""Bytes, by exact integers. tests/engine compares the same formulas with packed tensors."""

from __future__ import annotations

import pytest

from lwq_ui.core.memory import (
    GIB,
    PRUNED,
    LayerCost,
    ModelCost,
    affine_bytes,
    average_bits,
    format_gib,
    group_size,
    symmetric_bytes,
)


@pytest.mark.parametrize(
    ("columns", "size"),
    [
        (4096, 128),
        (11008, 128),
        (256, 128),
        (192, 96),
        (288, 96),
        (576, 96),
        (320, 64),
        (448, 64),
        (160, 32),
        (352, 32),
        (129, 129),  # nothing divides: one group per output channel
        (200, 200),
        (1000, 1000),
        (128, 128),  # at most 128 inputs: one group per output channel
        (127, 127),
        (96, 96),
        (1, 1),
    ],
)
def test_group_size(columns: int, size: int) -> None:
    assert group_size(columns) == size


@pytest.mark.parametrize(
    ("columns", "largest", "size"),
    [
        (4096, 64, 64),
        (4096, 32, 32),
        (352, 64, 32),  # 64 does not divide
        (96, 64, 32),  # a whole row of more than the largest is no group
        (64, 64, 64),  # at most the largest: one group per output channel
        (64, 32, 32),
        (32, 32, 32),
        (50, 32, 50),  # nothing divides
        (200, 64, 200),
    ],
)
def test_smaller_groups(columns: int, largest: int, size: int) -> None:
    assert group_size(columns, largest) == size


@pytest.mark.parametrize(("bits", "values"), [(4, 8_388_608), (2, 4_194_304)])
@pytest.mark.parametrize(("largest", "scales"), [(128, 524_288), (64, 1_048_576), (32, 2_097_152)])
def test_smaller_groups_cost_more(bits: int, values: int, largest: int, scales: int) -> None:
    assert affine_bytes(4096, 4096, bits, 2, largest) == values + scales


@pytest.mark.parametrize(
    ("rows", "columns", "bits", "dtype_bytes", "expected"),
    [
        (4096, 4096, 4, 2, 8_388_608 + 524_288),
        (4096, 4096, 2, 2, 4_194_304 + 524_288),
        (4096, 4096, 4, 4, 8_388_608 + 1_048_576),
        (64, 192, 4, 2, 6_144 + 512),  # groups of 96
        (64, 320, 4, 2, 10_240 + 1_280),  # groups of 64
        (64, 160, 2, 2, 2_560 + 1_280),  # groups of 32
        (8, 1000, 4, 2, 4_000 + 32),  # one group per row
        # An odd number of groups leaves part of the last byte row empty.
        (3, 96, 4, 2, 2 * 96 + 12),
        (3, 96, 2, 2, 1 * 96 + 12),
        (5, 200, 4, 2, 3 * 200 + 20),
        (5, 200, 2, 2, 2 * 200 + 20),
        (5, 200, 2, 4, 2 * 200 + 40),
        (3, 160, 4, 2, 8 * 32 + 60),  # 15 groups of 32
        (3, 160, 2, 2, 4 * 32 + 60),
        (1, 128, 2, 2, 128 * (1 + 4)),
    ],
)
def test_affine_bytes(rows: int, columns: int, bits: int, dtype_bytes: int, expected: int) -> None:
    assert affine_bytes(rows, columns, bits, dtype_bytes) == expected


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("dtype_bytes", [2, 4])
@pytest.mark.parametrize("rows", [8, 256, 1024])
@pytest.mark.parametrize("columns", [64, 96, 128, 160, 192, 320, 1000, 1024, 11008])
def test_ordinary_shapes_follow_the_formula_of_the_design(
    rows: int, columns: int, dtype_bytes: int, bits: int
) -> None:
    numel, group = rows * columns, group_size(columns)
    formula = numel * bits / 8 + 2 * (numel / group) * dtype_bytes
    assert affine_bytes(rows, columns, bits, dtype_bytes) == formula


@pytest.mark.parametrize(("bits", "per_weight"), [(4, 4.25), (2, 2.25)])
def test_bits_per_weight_at_group_128_in_bfloat16(bits: int, per_weight: float) -> None:
    rows, columns = 4096, 11008
    size = affine_bytes(rows, columns, bits, 2)
    assert 8 * size / (rows * columns) == per_weight
    layer = LayerCost(rows * columns, {bits: size}, other_bytes=12_345)
    cost = ModelCost((layer,) * 3, rest_bytes=999)
    assert cost.bits_per_weight((bits,) * 3) == per_weight  # neither norms nor embeddings count


@pytest.mark.parametrize(
    ("rows", "columns", "dtype_bytes", "expected"),
    [(4096, 4096, 2, 16_777_216 + 8_192), (3, 96, 2, 294), (3, 96, 4, 300), (5, 1, 2, 15)],
)
def test_symmetric_bytes(rows: int, columns: int, dtype_bytes: int, expected: int) -> None:
    assert symmetric_bytes(rows, columns, dtype_bytes) == expected


def test_a_model_is_its_layers_and_the_rest() -> None:
    cost = ModelCost(
        (LayerCost(100, {2: 25, 4: 50}, 7), LayerCost(300, {2: 75, 4: 150}, 11)), rest_bytes=1000
    )
    assert cost.layer_bytes((4, 2)) == 50 + 7 + 75 + 11
    assert cost.total((4, 2)) == 1143
    assert cost.total((2, 4)) == 1193
    assert cost.bits_per_weight((2, 4)) == 8 * 175 / 400
    with pytest.raises(ValueError):
        cost.total((4, 2, 2))
    with pytest.raises(ValueError):
        cost.total((4,))


def test_a_pruned_layer_costs_nothing() -> None:
    cost = ModelCost(
        (LayerCost(100, {2: 25, 4: 50}, 7), LayerCost(300, {2: 75, 4: 150}, 11)), rest_bytes=1000
    )
    assert cost.layers[0].bytes(PRUNED) == 0
    assert cost.total((PRUNED, 4)) == 1161
    assert cost.total((PRUNED, PRUNED)) == 1000
    # Spread over the weights of the whole model, as the average over layers is.
    assert cost.bits_per_weight((PRUNED, 4)) == 8 * 150 / 400
    assert average_bits((PRUNED, 4)) == 2.0


def test_a_model_without_quantizable_weights_has_no_bits_per_weight() -> None:
    assert ModelCost((LayerCost(0, {4: 0}, 5),), 10).bits_per_weight((4,)) == 0.0


def test_average_bits_counts_layers_not_weights() -> None:
    assert average_bits((4,) * 80) == 4.0
    assert average_bits((4,) * 5 + (2,) * 3) == 3.25


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        (0, "0 bytes"),
        (1000, "1,000 bytes"),
        (2048, "2.0 KiB"),
        (2**20, "1.0 MiB"),
        (10_095_104, "9.6 MiB"),
        (GIB // 64, "16.0 MiB"),
        (1000 * 2**20, "1,000.0 MiB"),
        (GIB - 1, "1.000 GiB"),  # what would round to 1,024.0 MiB
        (GIB, "1.000 GiB"),
        (int(3.27 * GIB), "3.270 GiB"),
        (80 * GIB, "80.00 GiB"),
    ],
)
def test_format_gib(size: int, shown: str) -> None:
    assert format_gib(size) == shown
