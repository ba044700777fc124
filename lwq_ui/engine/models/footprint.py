"""What a model needs beside its weights: the KV cache of each layer, and the memory of computing.

Nothing of an architecture is written down here. The model's own code runs on torch's "meta" device,
where tensors have shapes and no content. Its cache holds afterwards what a real model's cache
holds: keys and values of grouped or single heads, compressed ones, or none where a layer uses
another's. The bytes that were alive at once on the way are what computing takes.
"""

from __future__ import annotations

import logging
import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM, DynamicCache

log = logging.getLogger(__name__)

FEW = 16  # tokens that are so few that pairs of them take nothing
GROUPED = {
    getattr(where, name)
    for where, name in ((nn.functional, "grouped_mm"), (torch, "_grouped_mm"))
    if hasattr(where, name)
}  # matrices [tokens, in] and [experts, in, out] -> [tokens, out]
MANY = 8192  # tokens of a long prompt, where a model has no limit of its own


@dataclass(frozen=True)
class Footprint:
    """What a model needs for one sequence, beside its weights.

    `kept` has (cached, window) of each layer, as LayerSpec has them. Computing takes `token_bytes`
    for each token. It takes `pair_bytes` for each pair of tokens: masks, and the scores of
    attention that has no fused kernel.
    """

    kept: tuple[tuple[int, int | None], ...]
    token_bytes: int
    pair_bytes: float


class Live(TorchDispatchMode):
    """Counts the bytes of all tensors that operations made and that are still referenced."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.peak = 0
        self._sizes: dict[int, int] = {}  # of storages, by address

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        given = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if is_tensor(t)}
        out = func(*args, **kwargs)
        for tensor in filter(is_tensor, tree_leaves(out)):
            storage = tensor.untyped_storage()
            key = storage._cdata
            if key not in self._sizes and key not in given:
                self._sizes[key] = storage.nbytes()
                self.bytes += storage.nbytes()
                self.peak = max(self.peak, self.bytes)
                weakref.finalize(storage, self._gone, key)
        return out

    def _gone(self, key: int) -> None:
        self.bytes -= self._sizes.pop(key)


class AsOnGpu(TorchFunctionMode):
    """Makes the meta device compute as GPUs do.

    Attention keeps no scores, and a mask of yes and no becomes one of numbers. On the meta device
    torch would write all scores down. It does so on every device where one key is for many queries
    and `enable_gqa` does not say so (Falcon). The meta device multiplies grouped experts in
    bfloat16 only, other devices in all number formats. Whether a tensor without content holds true
    (are all tokens of this prompt real ones?) is answered with yes.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.__bool__:
            return True
        if func in GROUPED:
            rows, experts = args[:2]
            return rows.new_empty(len(rows), experts.shape[-1])
        if func is not nn.functional.scaled_dot_product_attention:
            return func(*args, **kwargs)
        query, key, value = args[:3]
        if query.shape[1] != key.shape[1] and not kwargs.get("enable_gqa"):
            return func(*args, **kwargs)
        mask = kwargs.get("attn_mask")
        as_numbers = mask.to(query.dtype) if mask is not None else None  # noqa: F841  (is alive)
        return query.new_empty(*query.shape[:-1], value.shape[-1])


def footprint(config: Any, dtype: torch.dtype) -> Footprint | None:
    """Returns what a model of this config needs in this dtype.

    Returns None where the architecture does not run without content, or keeps other things than
    keys and values.

    The bytes per token grow with a prompt's length like the largest of several straight lines: the
    feed-forward part's, attention's. So they lie nowhere above the line from a short prompt to the
    longest one.
    """
    text = config.get_text_config(decoder=True)
    most = max(2 * FEW, getattr(text, "max_position_embeddings", None) or MANY)
    try:
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
        for module in model.modules():
            kind = getattr(module, "rope_type", None)
            if kind is not None:  # others look into the positions, which have no content here
                plain = dict.fromkeys(kind, "default") if isinstance(kind, dict) else "default"
                module.rope_type = plain
        base = getattr(model, model.base_model_prefix, model)  # without the head
        cache, few = read_prompt(base, config, FEW)
        layers = cache.layers[: text.num_hidden_layers]
        if any(hasattr(layer, "recurrent_states") for layer in layers) or not any(
            map(held, layers)
        ):
            log.info("The states that %s keeps are no keys and values", config.model_type)
            return None
        _, whole = read_prompt(base, config, most)
    except Exception as e:  # the model's own code may do anything
        log.info("What %s keeps and needs is not known: %r", config.model_type, e)
        return None
    kept = [
        (
            sum(tensor.numel() // tensor.shape[-2] for tensor in held(layer)),
            getattr(layer, "sliding_window", None),
        )
        for layer in layers
    ]
    kept += [(0, None)] * (text.num_hidden_layers - len(kept))
    slope = max(0.0, (whole / most - few / FEW) / (most - FEW))
    return Footprint(tuple(kept), -(-few // FEW), slope)


@torch.no_grad()
def read_prompt(base: Any, config: Any, tokens: int) -> tuple[DynamicCache, int]:
    """Returns the cache after a prompt of so many tokens, and the bytes of computing. These are the
    most that were alive at once, without the cache's own."""
    cache = DynamicCache(config=config)
    ids = torch.zeros(1, tokens, dtype=torch.long, device="meta")
    with Live() as live, AsOnGpu():
        base(input_ids=ids, past_key_values=cache, use_cache=True)
    stored = sum(t.untyped_storage().nbytes() for layer in cache.layers for t in held(layer))
    return cache, live.peak - stored


def held(layer: Any) -> list[Tensor]:
    """Returns what one layer of a cache keeps: tensors [..., tokens, numbers]. The list is empty
    where a layer uses the keys and values of another."""
    names = ("keys", "values", "indexer_keys")
    return [t for name in names if (t := getattr(layer, name, None)) is not None]


def is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)
