"""What a card has left for weights, by exact integers; tests/engine compares with real models."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lwq_ui.core.budget import (
    CARDS,
    RESERVE,
    MemoryUse,
    Workload,
    activation_bytes,
    kv_cache_bytes,
    memory_use,
    weights_budget,
)
from lwq_ui.core.errors import UserError
from lwq_ui.core.memory import GIB
from lwq_ui.core.schema import LayerSpec, ModelInfo, WeightSpec

MATRIX = WeightSpec("up", 14_336, 4096)
INFO = ModelInfo(
    model_id="m",
    revision=None,
    fingerprint="f" * 64,
    architecture="LlamaForCausalLM",
    dtype="bfloat16",
    num_parameters=8_000_000_000,
    total_bytes=16_000_000_000,
    rest_bytes=2_000_000_000,
    max_tokens=131_072,
    layers=(LayerSpec((MATRIX,), 0, 2 * 8 * 128),) * 32,
    vocabulary=128_256,
    token_bytes=119_304,
    pair_bytes=0.0,
)


def windowed(*windows: int | None) -> ModelInfo:
    return replace(INFO, layers=tuple(LayerSpec((MATRIX,), 0, 2048, w) for w in windows))


def test_llama_3_1_8b_takes_one_gib_for_8192_tokens() -> None:
    assert kv_cache_bytes(INFO, 8192, 1, 2) == GIB
    assert kv_cache_bytes(INFO, 131_072, 1, 2) == 16 * GIB
    assert kv_cache_bytes(INFO, 8192, 3, 1) == 3 * GIB // 2


def test_a_window_keeps_no_more_than_its_tokens() -> None:
    assert kv_cache_bytes(windowed(*[4096] * 32), 8192, 1, 2) == GIB // 2
    assert kv_cache_bytes(windowed(*[4096] * 32), 4000, 1, 2) == kv_cache_bytes(INFO, 4000, 1, 2)
    assert kv_cache_bytes(windowed(*[4096, None] * 16), 8192, 1, 2) == 3 * GIB // 4


def test_activations_are_the_documented_sum() -> None:
    largest = MATRIX.numel * 3
    assert activation_bytes(INFO, 8192, 2) == 2 * 8192 * 119_304 + largest
    assert activation_bytes(INFO, 1, 2) == 2 * 32 * 128_256 + largest
    pairs = replace(INFO, pair_bytes=1.5)
    more = activation_bytes(pairs, 1001, 3) - activation_bytes(INFO, 1001, 3)
    assert more == 3 * int(1001 * 1001 * 1.5)
    held = activation_bytes(windowed(4096, None), 8192, 1) - activation_bytes(INFO, 8192, 1)
    assert held == (8192 - 4096) * 2048 * 2


@pytest.mark.parametrize("dtype", ["auto", "float32", "bfloat16", "float16", "float8"])
def test_the_parts_fill_the_card(dtype: str) -> None:
    use = Workload(8192, 1, dtype)
    left = weights_budget(24 * GIB, INFO, use)
    found = memory_use(INFO, use, left)
    assert found.total == 24 * GIB
    assert found.reserve == RESERVE and found.weights == left
    assert found.cache == {"float32": 2 * GIB, "float8": GIB // 2}.get(dtype, GIB)
    assert weights_budget(24 * GIB, INFO, use, reserve=0) == left + RESERVE
    assert MemoryUse(1, 2, 3, 4).total == 10


def test_more_context_or_batch_leaves_less() -> None:
    left = [
        weights_budget(80 * GIB, INFO, Workload(c, b)) for c, b in ((1, 1), (8192, 1), (8192, 4))
    ]
    assert left == sorted(left, reverse=True) and len(set(left)) == 3


def test_a_card_that_is_too_small_says_what_takes_the_room() -> None:
    use = Workload(8192, 1)
    exact = memory_use(INFO, use, 3 * GIB).total
    assert weights_budget(exact, INFO, use, smallest=3 * GIB) == 3 * GIB
    with pytest.raises(UserError, match=r"1\.000 GiB.*fewer tokens.*larger card") as e:
        weights_budget(exact - 1, INFO, use, smallest=3 * GIB)
    assert f"3.000 GiB ({3 * GIB - 1} bytes) are left" in str(e.value)
    assert f"takes 3.000 GiB ({3 * GIB} bytes)" in str(e.value)
    with pytest.raises(UserError, match="nothing is left"):
        weights_budget(GIB, INFO, use)


@pytest.mark.parametrize("context, batch, dtype", [(0, 1, "auto"), (1, 0, "auto"), (1, 1, "int4")])
def test_a_use_that_makes_no_sense_is_refused(context: int, batch: int, dtype: str) -> None:
    with pytest.raises(UserError):
        Workload(context, batch, dtype)


def test_what_is_not_known_is_said() -> None:
    strange = replace(INFO, layers=(LayerSpec((MATRIX,), 0),) * 2)
    with pytest.raises(UserError, match="not known"):
        weights_budget(24 * GIB, strange, Workload())
    with pytest.raises(UserError, match="not known"):
        activation_bytes(replace(INFO, token_bytes=None), 1, 1)


def test_every_card_has_the_size_of_its_name() -> None:
    for name, size in CARDS:
        assert name.endswith(f": {size // GIB} GiB") and size % GIB == 0
    assert [size for _, size in CARDS] == sorted({size for _, size in CARDS})
