"""The bank: every layer of one model, packed once per level, ready to be picked from.

Packing is lazy, and packed layers are kept in memory and on disk; after that a new split is a
matter of looking up (paper section 3.3.1: quantize the model twice and select layers).
"""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..core.errors import Stopped, UserError
from ..core.memory import PRUNED, UNTOUCHED
from ..core.store import write_atomically
from .models import LayerWeight, layer_weights, nbytes
from .quantizers import Quantizer
from .sources import Progress
from .walk import find_layers

if TYPE_CHECKING:
    from .models import LoadedModel

log = logging.getLogger(__name__)


class Bank:
    """Packed layers of one model under one quantizer. The model's own weights are only read."""

    def __init__(self, loaded: LoadedModel, quantizer: Quantizer, folder: Path | None = None):
        self.loaded = loaded
        self.quantizer = quantizer
        self.folder = folder
        self._weights = [layer_weights(layer) for layer in loaded.walk.layers]
        self._packed: dict[tuple[int, int], dict[str, Any]] = {}

    def packed(self, layer: int, level: int) -> dict[str, Any]:
        """Weight name -> packed weight, from memory, from disk, or packed now."""
        if (layer, level) not in self._packed:
            if level not in self.quantizer.levels:
                levels = ", ".join(map(str, self.quantizer.levels))
                raise UserError(f"{self.quantizer.title} has no {level} bits, only {levels}.")
            self._packed[layer, level] = self._read(layer, level) or self._pack(layer, level)
        return self._packed[layer, level]

    def fill(self, splits: Sequence[Sequence[int]], progress: Progress, stop: Event) -> None:
        """Packs every layer at every level that the splits ask for."""
        wanted = sorted(
            {(i, level) for split in splits for i, level in enumerate(split)}
            - self._packed.keys()
            - {(i, level) for i in range(len(self._weights)) for level in (UNTOUCHED, PRUNED)}
        )
        for done, (layer, level) in enumerate(wanted):
            if stop.is_set():
                raise Stopped
            progress("Quantizing layers", done / len(wanted))
            self.packed(layer, level)

    def dense(self, layer: int, level: int) -> dict[str, Tensor] | None:
        """Weight name -> de-quantized weight in the parameter's shape; None for the layer's own."""
        if level == UNTOUCHED:
            return None
        packed = self.packed(layer, level)
        return {
            w.name: w.restored(self.quantizer.dense(packed[w.name])) for w in self._weights[layer]
        }

    def packed_bytes(self, layer: int, level: int) -> int:
        """Bytes that the packed tensors really take."""
        return sum(
            nbytes(t)
            for packed in self.packed(layer, level).values()
            for t in self.quantizer.tensors(packed).values()
        )

    def compose(self, split: Sequence[int]) -> PreTrainedModel:
        """A model of its own at this split. Everything but the quantized weights is shared with the
        unquantized model, which stays as it is. Pruned layers stay in their list, since some
        architectures choose masks by a layer's index, and pass their input on; the model then
        generates without a cache of keys, which asks its first layer for its length."""
        model = self.loaded.model
        shared: dict[int, Any] = {id(t): t for t in (*model.parameters(), *model.buffers())}
        composed = copy.deepcopy(model, memo=shared)
        for i, (layer, level) in enumerate(zip(find_layers(composed), split, strict=True)):
            if level == UNTOUCHED:
                continue
            if level == PRUNED:
                self.loaded.walk.skip(layer)
                continue
            packed = self.packed(i, level)
            for weight in self._weights[i]:
                place(layer, weight, packed[weight.name], level, self.quantizer)
        if PRUNED in split:
            composed.config.get_text_config(decoder=True).use_cache = False
            composed.generation_config.use_cache = False
        return composed

    def save(self, split: Sequence[int], folder: Path) -> None:
        """The composed model as optimum-quanto saves one: safetensors, config and
        quanto_qmap.json, with the tokenizer."""
        from optimum.quanto import quantization_map

        if PRUNED in split:
            raise UserError(
                "optimum-quanto cannot store a model with pruned layers. Export the config as JSON "
                "instead."
            )
        outside = [
            w.name
            for layer, weights, level in zip(
                self.loaded.walk.layers, self._weights, split, strict=True
            )
            for w in weights
            if level != UNTOUCHED and not isinstance(module_of(layer, w), nn.Linear)
        ]
        if outside:
            raise UserError(
                f"optimum-quanto cannot store {outside[0]} of {self.loaded.info.architecture}: it "
                "is not an nn.Linear. Export the config as JSON instead."
            )
        composed = self.compose(split)
        composed.save_pretrained(folder)
        self.loaded.tokenizer.save_pretrained(folder)
        qmap = json.dumps(quantization_map(composed), indent=1)
        (folder / "quanto_qmap.json").write_text(qmap, encoding="utf-8")

    def _pack(self, layer: int, level: int) -> dict[str, Any]:
        with torch.no_grad():
            packed = {w.name: self.quantizer.pack(w.matrix(), level) for w in self._weights[layer]}
        if path := self._path(layer, level):
            tensors = {
                f"{name}|{part}": tensor.contiguous().cpu()
                for name, weight in packed.items()
                for part, tensor in self.quantizer.tensors(weight).items()
            }
            write_atomically(path, safetensors.torch.save(tensors))
        return packed

    def _read(self, layer: int, level: int) -> dict[str, Any] | None:
        path = self._path(layer, level)
        if path is None or not path.exists():
            return None
        try:
            tensors = safetensors.torch.load_file(path, device=self.loaded.device)
            parts: dict[str, dict[str, Tensor]] = {w.name: {} for w in self._weights[layer]}
            for name, tensor in tensors.items():
                weight, part = name.split("|")
                # Cloned: torch's int8 kernel for CPUs crashes on memory that is not aligned, and a
                # mapped file's tensors are not.
                parts[weight][part] = tensor.clone()
            for w in self._weights[layer]:
                stored = sum(nbytes(tensor) for tensor in parts[w.name].values())
                size = self.quantizer.packed_bytes(w.spec, level, self.loaded.info.dtype_bytes)
                if stored != size:
                    raise ValueError(f"{w.name} has {stored} bytes, not {size}")
            return {
                w.name: self.quantizer.restore(parts[w.name], w.spec, level)
                for w in self._weights[layer]
            }
        except Exception as e:
            log.warning("Damaged bank file %s (%s): set aside, packed again.", path, e)
            path.replace(path.with_suffix(".damaged"))
            return None

    def _path(self, layer: int, level: int) -> Path | None:
        return self.folder / f"layer-{layer:03}-{level}bit.safetensors" if self.folder else None


def module_of(layer: nn.Module, weight: LayerWeight) -> nn.Module:
    return layer.get_submodule(weight.name.rpartition(".")[0])


def place(
    layer: nn.Module, weight: LayerWeight, packed: Any, level: int, quantizer: Quantizer
) -> None:
    """Puts a packed weight into a layer: as a quantized module where it sits in an nn.Linear, else
    de-quantized (transformers keeps GPT-2's weights and fused experts outside of nn.Linear)."""
    module = module_of(layer, weight)
    path, _, name = weight.name.rpartition(".")
    if isinstance(module, nn.Linear):
        above, _, own = path.rpartition(".")
        setattr(layer.get_submodule(above), own, quantizer.module(module, packed, level))
    else:
        dense = weight.restored(quantizer.dense(packed))
        setattr(module, name, nn.Parameter(dense, requires_grad=False))
