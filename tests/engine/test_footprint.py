"""What a config says the cache and the computing take, against real models that really run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import tiny
import torch
from families import FAMILIES, random_model
from transformers import AutoConfig, DynamicCache, PreTrainedModel

from lwq_ui.core.budget import activation_bytes, kv_cache_bytes
from lwq_ui.core.memory import GIB
from lwq_ui.core.schema import LayerSpec, ModelInfo
from lwq_ui.engine.models.footprint import Footprint, Live, footprint, held

EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 32}
LATENT = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 24,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
}
NO_KERNEL_ON_CPUS = ("deepseek_v3",)  # for keys and values of different sizes; GPUs have one
MORE: dict[str, dict[str, Any]] = {
    "deepseek_v3": {
        **{**tiny.BASE, **LATENT, **EXPERTS},
        **{"n_routed_experts": 4, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 2},
    },
    "gemma3n_text": tiny.CONFIGS["gemma3n_text"],
    "qwen2": tiny.CONFIGS["qwen2"],
    "gpt_bigcode": tiny.CONFIGS["gpt2"],
    "cohere2": {**tiny.BASE, "sliding_window": 8, "layer_types": None},
    "gpt_oss": {
        **{**tiny.BASE, "num_local_experts": 4, "num_experts_per_tok": 2},
        **{"head_dim": 16, "sliding_window": 8},
    },
}
NAMES = [*FAMILIES, *MORE]
PROMPT, WRITTEN = 90, 4


def config_of(name: str) -> Any:
    if name in MORE:
        return AutoConfig.for_model(name, **MORE[name])
    config = dict(FAMILIES[name].config)
    return AutoConfig.for_model(config.pop("model_type"), **config)


def model_of(name: str, dtype: torch.dtype = torch.bfloat16) -> PreTrainedModel:
    return random_model(config_of(name), dtype)


def info_of(found: Footprint, config: Any, dtype: str = "bfloat16") -> ModelInfo:
    """Only what budgets need, and no weights that would be de-quantized."""
    layers = tuple(LayerSpec((), 0, cached, window) for cached, window in found.kept)
    return ModelInfo(
        *("m", None, "f" * 64, "M", dtype, 1, 1, 1, None, layers),
        vocabulary=config.vocab_size,
        token_bytes=found.token_bytes,
        pair_bytes=found.pair_bytes,
    )


@pytest.fixture(scope="module", params=NAMES)
def case(request: pytest.FixtureRequest) -> Iterator[tuple[PreTrainedModel, ModelInfo]]:
    config = config_of(request.param)
    found = footprint(config, torch.bfloat16)
    assert found is not None
    yield model_of(request.param), info_of(found, config)


def prompt(tokens: int, batch: int = 1) -> torch.Tensor:
    ids = tiny.documents(*[tokens] * batch)
    return torch.tensor(ids)


def sizes(cache: DynamicCache) -> list[int]:
    """Bytes of every layer's tensors, nothing at the end where the last layers have none."""
    found = [sum(t.nbytes for t in held(layer)) for layer in cache.layers]
    while not found[-1]:
        found.pop()
    return found


def storages(cache: DynamicCache) -> int:
    return sum(t.untyped_storage().nbytes() for layer in cache.layers for t in held(layer))


@torch.no_grad()
def test_cache_layer_by_layer(case: tuple[PreTrainedModel, ModelInfo]) -> None:
    """After a prompt the tensors of a layer with a window hold one token less than the window; in
    memory are all tokens of the prompt, and after one more token the window's."""
    model, info = case
    cache = DynamicCache(config=model.config)
    model(input_ids=prompt(PROMPT, 2), past_key_values=cache, use_cache=True)
    expected = [
        2 * 2 * layer.cached * min(PROMPT, (layer.window or PROMPT + 1) - 1)
        for layer in info.layers
    ]
    while not expected[-1]:
        expected.pop()
    assert sizes(cache) == expected
    held_on_to = activation_bytes(info, PROMPT, 2) - activation_bytes(
        ModelInfo.from_json({**info.to_json(), "layers": []}), PROMPT, 2
    )
    assert storages(cache) == kv_cache_bytes(info, PROMPT, 2, 2) + held_on_to
    model(input_ids=prompt(1, 2), past_key_values=cache, use_cache=True)
    assert storages(cache) == kv_cache_bytes(info, PROMPT + 1, 2, 2)


@torch.no_grad()
def peak(model: PreTrainedModel, tokens: int, batch: int) -> int:
    """The most bytes alive at once in `generate`: every tensor that an operation makes counts."""
    with Live() as live:
        ids = prompt(tokens, batch)
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=WRITTEN,
            min_new_tokens=WRITTEN,
            do_sample=False,
        )
    return live.peak


@pytest.mark.parametrize("batch", [1, 3])
def test_cache_and_activations_against_live_tensors(
    case: tuple[PreTrainedModel, ModelInfo], batch: int
) -> None:
    model, info = case
    if model.config.model_type in NO_KERNEL_ON_CPUS:
        pytest.skip("torch keeps the scores here")
    context = PROMPT + WRITTEN
    estimated = kv_cache_bytes(info, context, batch, 2) + activation_bytes(info, context, batch)
    measured = peak(model, PROMPT, batch)
    assert measured <= estimated <= 1.3 * measured


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("tokens", [60, 300, 1000])
def test_a_larger_model_and_longer_prompts(dtype: str, tokens: int) -> None:
    changes = {"hidden_size": 256, "intermediate_size": 704, "max_position_embeddings": 1024}
    torch.manual_seed(0)
    settings = {**tiny.BASE, **changes, "sliding_window": 128}
    model = random_model(AutoConfig.for_model("mistral", **settings), getattr(torch, dtype))
    found = footprint(model.config, getattr(torch, dtype))
    assert found is not None
    info = info_of(found, model.config, dtype)
    context = tokens + WRITTEN
    estimated = activation_bytes(info, context, 1)
    estimated += kv_cache_bytes(info, context, 1, info.dtype_bytes)
    measured = peak(model, tokens, 1)
    assert measured <= estimated <= 1.3 * measured


@pytest.mark.parametrize("level", [8, 4, 2])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_matrix_takes_no_more_than_counted_when_it_is_dequantized(level: int, dtype: str) -> None:
    quanto = tiny.QUANTO
    matrix = torch.randn(256, 512).to(getattr(torch, dtype))
    packed = quanto.pack(matrix, level)
    with torch.no_grad(), Live() as live:
        quanto.dense(packed)
    assert matrix.nbytes <= live.peak <= matrix.nbytes + matrix.numel()


KNOWN = {
    "llama": {"max_position_embeddings": 131_072},  # Llama 3.1 8B
    "mistral": {"max_position_embeddings": 32_768, "sliding_window": 4096},  # 7B v0.1
    "gemma2": {"max_position_embeddings": 8192, "sliding_window": 4096},  # 9B
}
SHAPE = {
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
}
GEMMA_SHAPE = {
    "hidden_size": 3584,
    "num_hidden_layers": 42,
    "num_attention_heads": 16,
    "head_dim": 256,
}


def known(name: str) -> ModelInfo:
    changes = GEMMA_SHAPE if name == "gemma2" else {}
    config = AutoConfig.for_model(name, **{**SHAPE, **changes, **KNOWN[name]})
    found = footprint(config, torch.bfloat16)
    assert found is not None
    return info_of(found, config)


def test_models_that_people_know() -> None:
    assert kv_cache_bytes(known("llama"), 8192, 1, 2) == GIB
    assert kv_cache_bytes(known("mistral"), 8192, 1, 2) == GIB // 2
    gemma = known("gemma2")
    assert [layer.window for layer in gemma.layers] == [4096, None] * 21
    per_token = 2 * 8 * 256 * 2
    assert kv_cache_bytes(gemma, 8192, 1, 2) == 21 * (4096 + 8192) * per_token
    assert known("llama").pair_bytes == 0


def test_scores_count_where_no_kernel_keeps_them_from_memory() -> None:
    config = config_of("llama-2")
    fused = footprint(config, torch.bfloat16)
    config._attn_implementation = "eager"
    plain = footprint(config, torch.bfloat16)
    assert fused is not None and plain is not None
    assert fused.pair_bytes == 0
    assert plain.pair_bytes > 4 * 4  # heads, and at least float32's bytes


@pytest.mark.parametrize(
    ("name", "kind"), [("phi3", "longrope"), ("llama", "dynamic"), ("llama", "yarn")]
)
def test_tables_that_grow_with_the_prompt(name: str, kind: str) -> None:
    rope: dict[str, Any] = {"rope_type": kind, "rope_theta": 10_000.0, "factor": 2.0}
    if kind != "dynamic":
        rope["original_max_position_embeddings"] = 64
    if kind == "longrope":
        rope |= {"short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
    plain = footprint(AutoConfig.for_model(name, **tiny.BASE), torch.bfloat16)
    grown = footprint(AutoConfig.for_model(name, **tiny.BASE, rope_parameters=rope), torch.bfloat16)
    assert grown is not None and plain is not None
    assert grown.kept == plain.kept and grown.token_bytes == pytest.approx(
        plain.token_bytes, rel=0.05
    )


MIXTURES = {
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "granitemoe": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": {**EXPERTS, "num_experts": 8},
    "olmoe": {**EXPERTS, "num_experts": 8},
}


@pytest.mark.parametrize("name", MIXTURES)
def test_mixtures_of_experts_are_known_in_every_dtype(name: str) -> None:
    config = AutoConfig.for_model(name, **{**tiny.BASE, **MIXTURES[name]})
    brain, half, single = (
        footprint(config, dtype) for dtype in (torch.bfloat16, torch.float16, torch.float32)
    )
    assert brain is not None and half == brain and single is not None
    assert single.kept == brain.kept and single.pair_bytes == 2 * brain.pair_bytes
    assert 1.9 * brain.token_bytes < single.token_bytes <= 2 * brain.token_bytes


@pytest.mark.parametrize("name", ["mamba", "rwkv"])
def test_states_that_are_no_keys_and_values_are_not_guessed(name: str) -> None:
    sizes = {"vocab_size": 512, "hidden_size": 64, "num_hidden_layers": 2}
    assert footprint(AutoConfig.for_model(name, **sizes), torch.bfloat16) is None
