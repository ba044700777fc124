"""Tiny random models of many architectures, and the obvious ways of computing with them."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from lwq_ui.core.run import Progress, Run, silent
from lwq_ui.core.settings import ROOT, Settings
from lwq_ui.core.store import Store
from lwq_ui.engine.checkpoints.source import Source
from lwq_ui.engine.models import loading
from lwq_ui.engine.models.loading import LoadedModel
from lwq_ui.engine.quantizers import QUANTIZERS
from lwq_ui.engine.sweeps.limits import Limits

QUANTO = QUANTIZERS["quanto"]
NOWHERE = Path(os.devnull) / "cache"
DEMO = ROOT / "assets" / "demo_model"
VOCABULARY = 4096  # of the demo model's tokenizer
BASE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
GEMMA = {**BASE, "head_dim": 16, "sliding_window": 8, "query_pre_attn_scalar": 16}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": BASE,
    "qwen2": {**BASE, "use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2},
    "qwen3": {**BASE, "head_dim": 16},
    "gemma2": GEMMA,
    "gemma3_text": GEMMA,
    "gpt_neox": BASE,
    "gpt2": {
        "vocab_size": VOCABULARY,
        "n_embd": 64,
        "n_layer": 4,
        "n_head": 4,
        "n_positions": 128,
        "bos_token_id": 0,
        "eos_token_id": 0,
    },
    "opt": {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "ffn_dim": 96,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "max_position_embeddings": 128,
        "word_embed_proj_dim": 64,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 0,
    },
    "mixtral": {**BASE, "num_local_experts": 4, "num_experts_per_tok": 2},
    "phi3": BASE,
    "gemma3n_text": {
        **GEMMA,
        "intermediate_size": [96] * 4,
        "num_kv_shared_layers": 2,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "hidden_size_per_layer_input": 16,
        "vocab_size_per_layer_input": VOCABULARY,
        "laurel_rank": 8,
        "activation_sparsity_pattern": [0.0] * 4,
        "altup_num_inputs": 2,
    },
}
LAYERS = {
    "llama": "model.layers",
    "qwen2": "model.layers",
    "qwen3": "model.layers",
    "gemma2": "model.layers",
    "gemma3_text": "model.layers",
    "gpt_neox": "gpt_neox.layers",
    "gpt2": "transformer.h",
    "opt": "model.decoder.layers",
    "mixtral": "model.layers",
    "phi3": "model.layers",
}


def run(
    store: Store | None = None,
    progress: Progress = silent,
    stop: Event | None = None,
    settings: Settings | None = None,
) -> Run:
    """What a job is given. Without `store` and `settings` nothing can be kept."""
    cache = store.root if store else settings.cache if settings else NOWHERE
    return Run(settings or Settings(cache), store or Store(cache), progress, stop or Event())


def build(name: str, dtype: str = "float32", **changes: Any) -> PreTrainedModel:
    """Weights large enough that attention and rounding matter."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(name, **{**CONFIGS.get(name, {}), **changes})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    for parameter in model.parameters():
        if parameter.ndim >= 2:
            nn.init.normal_(parameter, std=0.08)
        parameter.requires_grad_(False)
        parameter.data = parameter.data.to(getattr(torch, dtype))  # buffers stay, as when loaded
    return model


def save(model: PreTrainedModel, folder: Path) -> Path:
    """With the demo model's tokenizer."""
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(DEMO / name, folder / name)
    return folder


def load(folder: Path, dtype: str = "auto") -> LoadedModel:
    return loading.load(Source(str(folder), folder), "cpu", dtype, run())


def stream(folder: Path, dtype: str = "auto") -> LoadedModel:
    """The same with its layers read from the checkpoint one by one."""
    return loading.load(Source(str(folder), folder), "cpu", dtype, run(), streamed=True)


def state_hash(model: PreTrainedModel) -> str:
    whole = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        whole.update(name.encode())
        whole.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return whole.hexdigest()


def documents(*lengths: int, seed: int = 0) -> list[list[int]]:
    """Random tokens, none of them the padding."""
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randint(5, VOCABULARY, (length,), generator=generator).tolist() for length in lengths
    ]


def limits(loaded: LoadedModel, **changes: Any) -> Limits:
    """The usual limits of a sweep, with changes."""
    return replace(Limits.usual(loaded.info, loaded.device), **changes)


@torch.no_grad()
def logits(model: PreTrainedModel, tokens: Sequence[int]) -> Tensor:
    """One sequence through the plain forward pass: [tokens, vocabulary]."""
    ids = torch.tensor([list(tokens)])
    return model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[0]


@torch.no_grad()
def layer_states(model: PreTrainedModel, layers: Any, tokens: Sequence[int]) -> list[Any]:
    """What enters and what leaves every layer in a plain forward pass, seen by hooks."""
    entered: dict[int, Tensor] = {}
    left: dict[int, Tensor] = {}
    hooks = []
    for i, layer in enumerate(layers):

        def before(module: Any, args: Any, kwargs: Any, i: int = i) -> None:
            entered[i] = (args[0] if args else kwargs["hidden_states"])[0].clone()

        def after(module: Any, args: Any, out: Any, i: int = i) -> None:
            left[i] = (out[0] if isinstance(out, tuple) else out)[0].clone()

        hooks.append(layer.register_forward_pre_hook(before, with_kwargs=True))
        hooks.append(layer.register_forward_hook(after))
    try:
        model(input_ids=torch.tensor([list(tokens)]), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return [(entered[i], left[i]) for i in range(len(layers))]
