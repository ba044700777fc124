"""The bank: every layer of one model, packed once per level, ready to be picked from.

Packing is lazy, and packed layers are kept in files; after that a new split is a matter of looking
up (paper section 3.3.1: quantize the model twice and select layers). On a CPU a packed layer is a
view of its mapped file, so a bank takes no memory that the system could not have back; on a GPU it
is kept there, or read whenever it is needed where the model itself is streamed.
"""

from __future__ import annotations

import copy
import ctypes
import logging
import os
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ...core.allocation import Split, to_pack
from ...core.cost import model_cost
from ...core.diskspace import DiskSpace, mark_used
from ...core.errors import UserError
from ...core.memory import PRUNED, UNTOUCHED, format_gib
from ...core.run import Run
from ...core.store import write_atomically
from ...failures import out_of_memory
from ..devices import free_bytes
from ..finite import not_numbers
from ..layer_pass import Rider
from ..models.layers import LayerWeight, find_layers, layer_weights, nbytes
from ..quantizers import Quantizer
from ..quantizers.base import PerMatrix
from ..quantizers.calibrated import Calibrated
from ..sealed import check_seal, sealed
from .files import packed_path

if TYPE_CHECKING:
    from ..models.loading import LoadedModel

log = logging.getLogger(__name__)


class Bank:
    """Packed layers of one model under one quantizer. The model's own weights are only read.
    `folder` holds the files; without one nothing is kept on disk. `space` bounds what this and all
    other banks may take there."""

    def __init__(
        self,
        loaded: LoadedModel,
        quantizer: Quantizer,
        folder: Path | None = None,
        space: DiskSpace | None = None,
    ):
        self.loaded = loaded
        self.quantizer = quantizer
        self.folder = folder
        self.space = space
        mapped = folder is not None and loaded.device == "cpu"
        self._keeps = mapped or not loaded.streamed  # whose layers need not fit together either
        self._weights = [layer_weights(layer) for layer in loaded.walk.layers]
        self._packed: dict[tuple[int, float], dict[str, Any]] = {}
        self._checked: set[Path] = set()  # files whose checksum was right when first read

    def packed(self, layer: int, level: float, run: Run) -> dict[str, Any]:
        """Weight name -> packed weight, from memory, from disk, or packed now. Raises UserError
        where the disk is full."""
        if path := self._path(layer, level):
            mark_used(path)
        if known := self._packed.get((layer, level)):
            return known
        if level not in self.quantizer.levels:
            raise self.quantizer.no_level(f"{level:g}")
        packed = self._read(layer, level) or self._pack(layer, level, run)
        if self._keeps:
            self._packed[layer, level] = packed
        return packed

    def has(self, layer: int, level: float) -> bool:
        path = self._path(layer, level)
        return (layer, level) in self._packed or bool(path and os.path.exists(path))

    def fill(self, splits: Sequence[Split], run: Run) -> None:
        """Packs every layer at every level that the splits ask for."""
        wanted = to_pack(splits)
        lacking = [w for w in wanted if not self.has(*w)]
        if self.quantizer.calibrated and lacking:
            for _ in self._calibrate(lacking, run):
                pass
        wanted = [w for w in wanted if w not in self._packed] if self._keeps else lacking
        for done, (layer, level) in enumerate(wanted):
            run.check()
            run.progress("Quantizing layers", done / len(wanted))
            self.packed(layer, level, run)

    def dense(self, layer: int, level: float, run: Run) -> dict[str, Tensor]:
        """Weight name -> de-quantized weight in the parameter's shape."""
        packed = self.packed(layer, level, run)
        return {
            w.name: w.restored(self.quantizer.dense(packed[w.name])) for w in self._weights[layer]
        }

    def packed_bytes(self, layer: int, level: float, run: Run) -> int:
        """Bytes that the packed tensors really take."""
        return sum(
            nbytes(t)
            for packed in self.packed(layer, level, run).values()
            for t in self.quantizer.tensors(packed).values()
        )

    def measured_bytes(self, split: Split, run: Run) -> int:
        """Bytes that a model at this split really takes: the packed tensors, and every other
        parameter once. Packs what is missing, and has one layer at hand at a time."""
        layers = self.loaded.walk.layers
        inside = {id(p) for p in layers.parameters()}
        total = sum(nbytes(p) for p in self.loaded.model.parameters() if id(p) not in inside)
        for i, level in enumerate(split):
            if level == UNTOUCHED:
                with self.loaded.walk.source.at_hand(i) as layer:
                    total += sum(nbytes(p) for p in layer.parameters())
            elif level != PRUNED:
                own = {id(w.parameter) for w in self._weights[i]}
                total += self.packed_bytes(i, level, run)
                total += sum(nbytes(p) for p in layers[i].parameters() if id(p) not in own)
        return total

    def compose(self, split: Split, run: Run, to_write: bool = False) -> PreTrainedModel:
        """A model of its own at this split; one that is only written to disk may leave its packed
        weights in mapped files. Everything but the quantized weights is shared with the
        unquantized model, which stays as it is. Pruned layers stay in their list, since some
        architectures choose masks by a layer's index, and pass their input on; the model then
        generates without a cache of keys, which asks its first layer for its length."""
        if self.loaded.streamed:
            self._check_room(split, to_write)
        model = self.loaded.model
        self.loaded.walk.positions.forget()
        shared: dict[int, Any] = {id(t): t for t in (*model.parameters(), *model.buffers())}
        composed = copy.deepcopy(model, memo=shared)
        for i, (layer, level) in enumerate(zip(find_layers(composed), split, strict=True)):
            if level == UNTOUCHED:
                continue
            if level == PRUNED:
                self.loaded.walk.skip(layer)
                continue
            packed = self.packed(i, level, run)
            for weight in self._weights[i]:
                place(layer, weight, packed[weight.name], level, self.quantizer, to_write)
        if PRUNED in split:
            composed.config.get_text_config(decoder=True).use_cache = False
            composed.generation_config.use_cache = False
        return composed

    def _check_room(self, split: Split, to_write: bool) -> None:
        """Whether the composed model of a streamed one fits: its layers must all be quantized, and
        weights outside of nn.Linear are de-quantized in it."""
        if UNTOUCHED in split:
            raise UserError(
                "Layers at 16 bits of this model do not fit into memory together. Choose a split "
                "whose layers all have fewer bits, or a device with more memory."
            )
        if to_write and self.loaded.device == "cpu":
            return
        info = self.loaded.info
        size = model_cost(info, self.quantizer).total(split)
        for weights, level in zip(self._weights, split, strict=True):
            if level != PRUNED:
                size += sum(
                    w.spec.numel * info.dtype_bytes
                    for w in weights
                    if not isinstance(w.module, nn.Linear)
                )
        free = sum(free_bytes(self.loaded.device))
        if size > free:
            raise UserError(
                f"The quantized model takes {format_gib(size)} as a whole, and {format_gib(free)} "
                f"are free on {self.loaded.device}. Choose fewer bits or a device with more memory."
            )

    def _pack(self, layer: int, level: float, run: Run) -> dict[str, Any]:
        quantizer = self.quantizer
        if isinstance(quantizer, PerMatrix):
            self._make_room([(layer, level)])
            with torch.no_grad(), self.loaded.walk.source.at_hand(layer):
                packed = {w.name: quantizer.pack(w.matrix(), level) for w in self._weights[layer]}
            return self._keep(layer, level, packed)
        # It was never filled, or somebody has deleted the layer since.
        layers = self._calibrate([(layer, level)], run)
        return {(i, at): packed for i, at, packed in layers if i == layer}[layer, level]

    def _calibrate(
        self, wanted: Sequence[tuple[int, float]], run: Run
    ) -> Iterator[tuple[int, float, dict[str, Any]]]:
        """Yields these (layer, level), calibrated and kept, with others packed on the way."""
        quantizer = self.quantizer
        if not isinstance(quantizer, Calibrated):
            raise TypeError(f"{quantizer.title} is neither PerMatrix nor Calibrated")
        if message := quantizer.missing():
            raise UserError(message)
        missing = set(wanted)
        self._make_room(missing)
        with closing(quantizer.calibrate(self.loaded, wanted, run, self.folder)) as layers:
            for layer, level, packed in layers:
                yield layer, level, self._keep(layer, level, packed)
                del packed  # not held while the next one is packed
                missing.discard((layer, level))
                self._make_room(missing)

    def _make_room(self, layers: Collection[tuple[int, float]]) -> None:
        """Makes room on the disk for any one of these (layer, level), before work goes into packing
        it. Raises UserError."""
        if self.folder and self.space and layers:
            needed = max(sum(self._sizes(layer, level).values()) for layer, level in layers)
            self.space.make_room(needed, self.folder)

    def _keep(self, layer: int, level: float, packed: dict[str, Any]) -> dict[str, Any]:
        """Takes in a packed layer: weight name -> packed weight. Raises UserError where it cannot
        be written, for scales that are not numbers, and where the weights have changed since."""
        self.loaded.walk.source.check_unchanged()
        tensors = {
            f"{name}|{part}": tensor.contiguous()
            for name, weight in packed.items()
            for part, tensor in self.quantizer.tensors(weight).items()
        }
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                what = f"{self.quantizer.title} at {level:g} bits of layer {layer}"
                raise not_numbers(f"{what} ({name.partition('|')[0]})", self.loaded.info.dtype)
        if path := self._path(layer, level):
            tensors = {name: tensor.cpu() for name, tensor in tensors.items()}
            try:
                content = sealed(path, tensors)
                write_atomically(path, content)
            except OSError as e:
                raise UserError(
                    f"A packed layer cannot be written to '{self.folder}': {e.strerror or e}. Make "
                    "room there, or set LWQ_CACHE_DIR to another folder."
                ) from e
            self._checked.add(path)
            if self.folder and self.space:
                self.space.evict(self.folder, len(content))
            if self.loaded.device == "cpu":
                del tensors, content
                packed = self._read(layer, level) or packed
                trim()
        if self._keeps or path is None:
            self._packed[layer, level] = packed
        return packed

    def _read(self, layer: int, level: float) -> dict[str, Any] | None:
        path = self._path(layer, level)
        if path is None or not os.path.exists(path):
            return None
        try:
            if path not in self._checked:
                check_seal(path)
                self._checked.add(path)
            tensors = safetensors.torch.load_file(path)  # views of the mapped file
            devices = {w.parameter.device for w in self._weights[layer]} - {torch.device("meta")}
            device = next(iter(devices), self.loaded.device)  # of several GPUs, the layer's
            parts: dict[str, dict[str, Tensor]] = {w.name: {} for w in self._weights[layer]}
            for name, tensor in tensors.items():
                weight, part = name.split("|")
                parts[weight][part] = tensor.to(device)
            for name, size in self._sizes(layer, level).items():
                stored = sum(nbytes(tensor) for tensor in parts[name].values())
                if stored != size:
                    raise ValueError(f"{name} has {stored} bytes, not {size}")
            return {
                w.name: self.quantizer.restore(parts[w.name], w.spec, level)
                for w in self._weights[layer]
            }
        except FileNotFoundError:  # deleted by another process
            return None
        except Exception as e:
            if out_of_memory(e):
                raise
            log.warning("Damaged bank file %s (%s): set aside, packed again.", path, e)
            with suppress(OSError):
                path.replace(path.with_suffix(".damaged"))
            return None

    def _sizes(self, layer: int, level: float) -> dict[str, int]:
        """Weight name -> bytes of its packed tensors, by the quantizer's formula."""
        width = self.loaded.info.dtype_bytes
        return {
            w.name: self.quantizer.packed_bytes(w.spec, level, width) for w in self._weights[layer]
        }

    def _path(self, layer: int, level: float) -> Path | None:
        return packed_path(self.folder, layer, level) if self.folder else None


class Packing(Rider):
    """Packs every layer at these levels on the way of a pass that others need."""

    def __init__(self, bank: Bank, levels: Sequence[float], run: Run):
        self.bank = bank
        self.levels = levels
        self.run = run

    def enter(self, i: int, layer: nn.Module) -> None:
        for level in self.levels:
            self.bank.packed(i, level, self.run)


def trim() -> None:
    """Packing frees many tensors of many sizes, which glibc keeps for itself: more than the layers
    of a model in the end."""
    if sys.platform == "linux":
        with suppress(AttributeError):  # other C libraries have no such function
            ctypes.CDLL(None).malloc_trim(0)


def module_of(layer: nn.Module, weight: LayerWeight) -> nn.Module:
    return layer.get_submodule(weight.name.rpartition(".")[0])


def with_own_memory(packed: Any, weight: LayerWeight, level: float, quantizer: Quantizer) -> Any:
    """On a CPU a copy: torch's int8 kernel crashes on memory that is not aligned, and a mapped
    file's tensors are not. (De-quantizing takes any memory.)"""
    tensors = quantizer.tensors(packed)
    if any(t.device.type != "cpu" for t in tensors.values()):
        return packed
    return quantizer.restore({part: t.clone() for part, t in tensors.items()}, weight.spec, level)


def place(
    layer: nn.Module,
    weight: LayerWeight,
    packed: Any,
    level: float,
    quantizer: Quantizer,
    to_write: bool,
) -> None:
    """Puts a packed weight into a layer: as a quantized module where it sits in an nn.Linear, else
    de-quantized (transformers keeps GPT-2's weights and fused experts outside of nn.Linear)."""
    module = module_of(layer, weight)
    path, _, name = weight.name.rpartition(".")
    if isinstance(module, nn.Linear):
        above, _, own = path.rpartition(".")
        if not to_write:
            packed = with_own_memory(packed, weight, level, quantizer)
        quantized = quantizer.module(module, packed, level, to_write)
        setattr(layer.get_submodule(above), own, quantized)
    else:
        dense = weight.restored(quantizer.dense(packed))
        setattr(module, name, nn.Parameter(dense, requires_grad=False))
