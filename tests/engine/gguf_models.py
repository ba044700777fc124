"""Tiny models written as GGUF files, with the names, turns and entries of llama.cpp's converter."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import tiny
from gguf import GGMLQuantizationType, quants
from gguf.constants import GGML_QUANT_SIZES
from torch import Tensor
from transformers import PreTrainedModel

# By model type: the file's architecture, and entries beside those that all have.
ARCHITECTURES = {
    "llama": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma2": "gemma2",
    "gemma3_text": "gemma3",
    "phi3": "phi3",
    "gpt2": "gpt2",
    "qwen3_moe": "qwen3moe",
}
K_QUANTS = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS", "IQ3_S", "IQ2_S")
WIDE = {"hidden_size": 256, "intermediate_size": 256}  # rows that blocks of 256 divide


def build(name: str, dtype: str = "float32", **changes: Any) -> PreTrainedModel:
    if name == "qwen3_moe":
        changes = {
            **tiny.BASE,
            "head_dim": 16,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "norm_topk_prob": True,
            **changes,
        }
    if name == "qwen2":  # those that were published have no window
        changes = {"use_sliding_window": False, **changes}
    return tiny.build(name, dtype, **changes)


def entries(model: PreTrainedModel, architecture: str) -> dict[str, Any]:
    """What the header says of the model, without the architecture's name."""
    config = model.config
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", heads)
    head = getattr(config, "head_dim", None) or config.hidden_size // heads
    said = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "attention.head_count": heads,
        "vocab_size": config.vocab_size,
    }
    if architecture == "gpt2":
        return {
            **said,
            "feed_forward_length": 4 * config.hidden_size,
            "attention.layer_norm_epsilon": config.layer_norm_epsilon,
        }
    rope = config.rope_parameters
    said |= {
        "feed_forward_length": config.intermediate_size,
        "attention.head_count_kv": kv_heads,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "rope.freq_base": float(rope.get("full_attention", rope)["rope_theta"]),
        "rope.dimension_count": head,
        "attention.key_length": head,
        "attention.value_length": head,
    }
    if architecture.startswith("gemma"):
        said["attention.sliding_window"] = config.sliding_window
    if architecture == "gemma2":
        said["attn_logit_softcapping"] = config.attn_logit_softcapping
        said["final_logit_softcapping"] = config.final_logit_softcapping
    if architecture == "qwen3moe":
        said["expert_count"] = config.num_experts
        said["expert_used_count"] = config.num_experts_per_tok
        said["expert_feed_forward_length"] = config.moe_intermediate_size
    return said


def tensors(model: PreTrainedModel, architecture: str) -> dict[str, np.ndarray]:
    """The model's tensors as llama.cpp has them."""
    config = model.config
    number = {name: key for key, name in gguf.MODEL_ARCH_NAMES.items()}[architecture]
    table = gguf.get_tensor_name_map(number, config.num_hidden_layers)
    written: dict[str, np.ndarray] = {}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        stem, dot, last = name.rpartition(".")
        if last not in ("weight", "bias"):
            stem, dot, last = name, ".", "weight"
        value = turned(name, tensor.float(), architecture, config)
        if name.endswith("experts.gate_up_proj"):
            layer = name.split(".")[2]
            gate, up = value.chunk(2, dim=1)
            written[f"blk.{layer}.ffn_gate_exps.weight"] = array(gate)
            written[f"blk.{layer}.ffn_up_exps.weight"] = array(up)
            continue
        stored = table.get_name(stem)
        assert stored is not None, name
        written[stored + dot + last] = array(value)
    return written


def turned(name: str, tensor: Tensor, architecture: str, config: Any) -> Tensor:
    if architecture == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
        heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
        halves = tensor.reshape(heads, 2, -1, tensor.shape[1])
        return halves.swapaxes(1, 2).reshape(tensor.shape)
    if architecture in ("gemma2", "gemma3") and name.endswith("norm.weight"):
        return tensor + 1
    if architecture == "gpt2" and ".h." in name and name.endswith(".weight") and tensor.ndim == 2:
        return tensor.T
    return tensor


def array(tensor: Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.numpy())


def packed(values: np.ndarray, kind: str) -> np.ndarray:
    """A matrix in blocks. The package cannot make all types; of those the blocks are made up."""
    number = GGMLQuantizationType[kind]
    if kind not in K_QUANTS:
        return quants.quantize(values, number)
    block, size = GGML_QUANT_SIZES[number]
    rng = np.random.default_rng(values.size)
    blocks = rng.integers(0, 256, (*values.shape[:-1], values.shape[-1] // block, size), np.uint8)
    scale = np.frombuffer(np.float16(4e-4).tobytes(), np.uint8)
    for start in {"Q2_K": (80, 82), "Q3_K": (108,), "Q6_K": (208,)}.get(kind, (0,)):
        blocks[..., start : start + 2] = scale
    if kind in ("Q4_K", "Q5_K"):
        blocks[..., 2:4] = scale
    return blocks.reshape(*values.shape[:-1], -1)


def add_tokenizer(writer: gguf.GGUFWriter, rule: str) -> None:
    """That of the demo model."""
    stored = json.loads((tiny.DEMO / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    tokens = sorted(stored["vocab"], key=stored["vocab"].get)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(rule)
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token == "<|endoftext|>" else 1 for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in stored["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_pad_token_id(0)


def write(
    model: PreTrainedModel,
    path: Path,
    kind: str = "F32",
    *,
    changes: Mapping[str, Any] | None = None,
    more: Mapping[str, np.ndarray] | None = None,
    shards: int = 0,
    architecture: str | None = None,
    tokenizer_rule: str = "gpt-2",
) -> Path:
    """Writes a model. Its matrices are of one type, its vectors in F32.

    `changes` are further entries, without the architecture's name; None takes one out. `more` are
    further tensors. With `shards` it is a set of at least so many files, and the first one's path
    is returned.
    """
    own = architecture or ARCHITECTURES[model.config.model_type]
    said = {**entries(model, own), **(changes or {})}
    written = {**tensors(model, own), **(more or {})}
    save(path, own, said, written, kind, shards, tokenizer_rule)
    return path if path.exists() else sorted(path.parent.glob(f"{path.stem}-*"))[0]


def save(
    path: Path,
    architecture: str,
    said: Mapping[str, Any],
    written: Mapping[str, np.ndarray],
    kind: str,
    shards: int = 0,
    tokenizer_rule: str = "gpt-2",
) -> None:
    """Writes entries and tensors. Blocks are made of matrices whose rows they divide."""
    writer = gguf.GGUFWriter(path, architecture, split_max_tensors=10 if shards else 0)
    add_tokenizer(writer, tokenizer_rule)
    writer.add_file_type(getattr(gguf.LlamaFileType, f"MOSTLY_{kind}", 0))
    for name, value in said.items():
        key = f"{architecture}.{name}"
        if isinstance(value, list):
            writer.add_array(key, value)
        elif value is not None:
            kinds = {int: gguf.GGUFValueType.UINT32, float: gguf.GGUFValueType.FLOAT32}
            value_type = kinds.get(type(value), gguf.GGUFValueType.STRING)
            writer.add_key_value(key, value, value_type)
    block = GGML_QUANT_SIZES[GGMLQuantizationType[kind]][0]
    for name, values in written.items():
        if kind == "F32" or values.ndim == 1 or values.shape[-1] % block:
            writer.add_tensor(name, values)
        elif kind == "F16":
            writer.add_tensor(name, values.astype(np.float16))
        else:
            writer.add_tensor(name, packed(values, kind), raw_dtype=GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


# transformers' second reader: by model type the file's architecture, sizes, entries and names.
HYBRIDS: dict[str, tuple[str, dict[str, Any], dict[str, Any], dict[str, str]]] = {
    "lfm2": (
        "lfm2",
        {
            **tiny.BASE,
            "block_auto_adjust_ff_dim": False,
            "layer_types": ["conv", "full_attention", "conv", "full_attention"],
        },
        {"shortconv.l_cache": 3, "attention.head_count_kv": [0, 2, 0, 2]},
        {
            "model.embed_tokens.": "token_embd.",
            "model.embedding_norm.": "token_embd_norm.",
            "model.layers.": "blk.",
            ".operator_norm.": ".attn_norm.",
            ".self_attn.q_proj.": ".attn_q.",
            ".self_attn.k_proj.": ".attn_k.",
            ".self_attn.v_proj.": ".attn_v.",
            ".self_attn.out_proj.": ".attn_output.",
            ".self_attn.q_layernorm.": ".attn_q_norm.",
            ".self_attn.k_layernorm.": ".attn_k_norm.",
            ".feed_forward.w1.": ".ffn_gate.",
            ".feed_forward.w3.": ".ffn_up.",
            ".feed_forward.w2.": ".ffn_down.",
            ".conv.conv.": ".shortconv.conv.",
            ".conv.in_proj.": ".shortconv.in_proj.",
            ".conv.out_proj.": ".shortconv.out_proj.",
        },
    ),
    "qwen3_5_text": (
        "qwen35",
        {
            **tiny.BASE,
            "head_dim": 24,
            "full_attention_interval": 2,
            "layer_types": ["linear_attention", "full_attention"] * 2,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
        },
        {
            "attention.head_count_kv": 2,
            "ssm.time_step_rank": 4,
            "ssm.conv_kernel": 4,
            "ssm.state_size": 8,
            "ssm.group_count": 2,
            "ssm.inner_size": 32,
            "full_attention_interval": 2,
            "rope.dimension_count": 6,
            "rope.dimension_sections": [1, 1, 1, 0],
            "attention.key_length": 24,
        },
        {
            "model.embed_tokens.": "token_embd.",
            "model.norm.": "output_norm.",
            "model.layers.": "blk.",
            ".input_layernorm.": ".attn_norm.",
            ".post_attention_layernorm.": ".post_attention_norm.",
            ".self_attn.q_proj.": ".attn_q.",
            ".self_attn.k_proj.": ".attn_k.",
            ".self_attn.v_proj.": ".attn_v.",
            ".self_attn.o_proj.": ".attn_output.",
            ".self_attn.q_norm.": ".attn_q_norm.",
            ".self_attn.k_norm.": ".attn_k_norm.",
            ".mlp.gate_proj.": ".ffn_gate.",
            ".mlp.up_proj.": ".ffn_up.",
            ".mlp.down_proj.": ".ffn_down.",
            ".linear_attn.in_proj_qkv.": ".attn_qkv.",
            ".linear_attn.in_proj_z.": ".attn_gate.",
            ".linear_attn.in_proj_a.": ".ssm_alpha.",
            ".linear_attn.in_proj_b.": ".ssm_beta.",
            ".linear_attn.conv1d.": ".ssm_conv1d.",
            ".linear_attn.norm.": ".ssm_norm.",
            ".linear_attn.out_proj.": ".ssm_out.",
            ".linear_attn.A_log": ".ssm_a",
            ".linear_attn.dt_bias": ".ssm_dt.bias",
        },
    ),
}


def write_hybrid(name: str, path: Path, kind: str) -> Path:
    """Writes made-up values in the shapes of a model that only transformers' second reader knows.

    Nothing is turned around: what the values mean is for the two readers to agree on.
    """
    architecture, sizes, said, names = HYBRIDS[name]
    model = tiny.build(name, **sizes)
    rng = np.random.default_rng(0)
    written = {}
    for own, tensor in model.state_dict().items():
        stored = own
        for part, theirs in names.items():
            stored = stored.replace(part, theirs)
        if own != "lm_head.weight":
            values = rng.standard_normal(tuple(tensor.squeeze().shape)).astype(np.float32) / 10
            written[stored] = -np.abs(values) - 0.1 if stored.endswith("ssm_a") else values
    config = model.config
    common = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.layer_norm_rms_epsilon": 1e-6,
        "rope.freq_base": 10000.0,
    }
    save(path, architecture, {**common, **said}, written, kind)
    return path
