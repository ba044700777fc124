"""Models that are composed of a bank's packed layers: at any split, without packing anew."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from ...core.allocation import Split
from ...core.cost import model_cost
from ...core.errors import UserError
from ...core.memory import PRUNED, UNTOUCHED, format_gib
from ...core.run import Run
from ..devices import free_bytes
from ..models.layers import LayerWeight, find_layers, layer_weights
from ..quantizers import Quantizer
from .bank import Bank


def compose(bank: Bank, split: Split, run: Run, to_write: bool = False) -> PreTrainedModel:
    """Returns a model at this split. It shares everything but the quantized weights with the
    unquantized model, which stays as it is. Packs what is missing.

    A pruned layer stays in the list of layers, since some architectures choose masks by a layer's
    index; it passes its input on. Such a model generates without a cache of keys, which asks the
    first layer for its length.

    `to_write` says that the model is only written to disk: its packed weights may then lie in
    mapped files. Raises UserError where a streamed model does not fit into memory, even composed.
    """
    loaded = bank.loaded
    if loaded.streamed:
        check_room(bank, split, to_write)
    loaded.walk.positions.forget()
    shared: dict[int, Any] = {
        id(t): t for t in (*loaded.model.parameters(), *loaded.model.buffers())
    }
    composed = copy.deepcopy(loaded.model, memo=shared)
    layers = zip(find_layers(composed), loaded.walk.layers, split, strict=True)
    for i, (layer, original, level) in enumerate(layers):
        if level == PRUNED:
            loaded.walk.skip(layer)
        elif level != UNTOUCHED:
            packed = bank.packed(i, level, run)
            for weight in layer_weights(original):
                replace_weight(layer, weight, packed[weight.name], level, bank.quantizer, to_write)
    if PRUNED in split:
        composed.config.get_text_config(decoder=True).use_cache = False
        composed.generation_config.use_cache = False
    return composed


def check_room(bank: Bank, split: Split, to_write: bool) -> None:
    """Raises UserError where the composed model of a streamed one does not fit. All of its layers
    must be quantized, and weights outside of nn.Linear are de-quantized in it."""
    loaded, info = bank.loaded, bank.loaded.info
    if UNTOUCHED in split:
        raise UserError(
            "Layers at 16 bits of this model do not fit into memory together. Choose a split "
            "whose layers all have fewer bits, or a device with more memory."
        )
    if to_write and loaded.device == "cpu":
        return
    size = model_cost(info, bank.quantizer).total(split)
    for layer, level in zip(loaded.walk.layers, split, strict=True):
        if level != PRUNED:
            size += sum(
                w.spec.numel * info.dtype_bytes
                for w in layer_weights(layer)
                if not isinstance(w.module, nn.Linear)
            )
    free = sum(free_bytes(loaded.device))
    if size > free:
        raise UserError(
            f"The quantized model takes {format_gib(size)} as a whole, and {format_gib(free)} "
            f"are free on {loaded.device}. Choose fewer bits or a device with more memory."
        )


def replace_weight(
    layer: nn.Module,
    weight: LayerWeight,
    packed: Any,
    level: float,
    quantizer: Quantizer,
    to_write: bool,
) -> None:
    """Replaces a weight of a layer by its packed form. An nn.Linear becomes a quantized module.

    A weight elsewhere becomes a de-quantized parameter. (transformers keeps GPT-2's weights and
    fused experts outside of nn.Linear.)"""
    path, _, name = weight.name.rpartition(".")
    module = layer.get_submodule(path)
    if isinstance(module, nn.Linear):
        above, _, last = path.rpartition(".")
        if not to_write:
            packed = with_own_memory(packed, weight, level, quantizer)
        quantized = quantizer.module(module, packed, level, to_write)
        setattr(layer.get_submodule(above), last, quantized)
    else:
        dense = weight.restored(quantizer.dense(packed))
        setattr(module, name, nn.Parameter(dense, requires_grad=False))


def with_own_memory(packed: Any, weight: LayerWeight, level: float, quantizer: Quantizer) -> Any:
    """Returns a copy of a packed weight on a CPU. torch's int8 kernel crashes on memory that is not
    aligned, as in a mapped file. (De-quantizing takes any memory.)"""
    tensors = quantizer.tensors(packed)
    if any(t.device.type != "cpu" for t in tensors.values()):
        return packed
    return quantizer.restore({part: t.clone() for part, t in tensors.items()}, weight.spec, level)
