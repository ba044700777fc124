"""The bank: every layer of one model, packed once per level, ready to be picked from.

Packing is lazy, and packed layers are kept in files. After that a new split only has to be looked
up (paper section 3.3.1: quantize the model twice and select layers).

On a CPU a packed layer is a view of its mapped file, and the system can take that memory back. On a
GPU a packed layer is kept there, or is read whenever it is needed if the model itself is streamed.
"""

from __future__ import annotations

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

from ...core.allocation import Split, to_pack
from ...core.diskspace import DiskSpace, mark_used, set_aside
from ...core.errors import UserError
from ...core.memory import PRUNED, UNTOUCHED
from ...core.run import Run
from ...core.store import write_atomically
from ...failures import out_of_memory
from ..finite import not_numbers
from ..layer_pass import Rider
from ..models.layers import layer_weights, nbytes
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
        """Returns weight name -> packed weight, from memory, from disk, or packed now.

        Raises Stopped, and UserError where the layer cannot be packed or the disk is full."""
        if path := self._path(layer, level):
            mark_used(path)
        if packed := self._packed.get((layer, level)):
            return packed
        if level not in self.quantizer.levels:
            raise self.quantizer.no_level(f"{level:g}")
        packed = self._read(layer, level) or self._pack(layer, level, run)
        if self._keeps:
            self._packed[layer, level] = packed
        return packed

    def has(self, layer: int, level: float) -> bool:
        """Returns whether the layer is packed at this level already."""
        path = self._path(layer, level)
        return (layer, level) in self._packed or bool(path and os.path.exists(path))

    def fill(self, splits: Sequence[Split], run: Run) -> None:
        """Packs every layer at every level that the splits ask for. What is packed before a stop
        stays. Raises Stopped, and UserError as `packed` does."""
        wanted = to_pack(splits)
        missing = [w for w in wanted if not self.has(*w)]
        if self.quantizer.calibrated and missing:
            for _ in self._calibrate(missing, run):
                pass
        wanted = [w for w in wanted if w not in self._packed] if self._keeps else missing
        for done, (layer, level) in enumerate(wanted):
            run.check()
            run.progress("Quantizing layers", done / len(wanted))
            self.packed(layer, level, run)

    def dense(self, layer: int, level: float, run: Run) -> dict[str, Tensor]:
        """Returns weight name -> de-quantized weight, in the parameter's shape."""
        packed = self.packed(layer, level, run)
        return {
            w.name: w.restored(self.quantizer.dense(packed[w.name])) for w in self._weights[layer]
        }

    def packed_bytes(self, layer: int, level: float, run: Run) -> int:
        """Returns the bytes that the packed tensors of a layer really take."""
        return sum(
            nbytes(t)
            for packed in self.packed(layer, level, run).values()
            for t in self.quantizer.tensors(packed).values()
        )

    def measured_bytes(self, split: Split, run: Run) -> int:
        """Returns the bytes that a model at this split really takes. They are those of the packed
        tensors, and of every other parameter once.

        Packs what is missing. Has one layer at hand at a time."""
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

    def _pack(self, layer: int, level: float, run: Run) -> dict[str, Any]:
        quantizer = self.quantizer
        if isinstance(quantizer, PerMatrix):
            self._make_room([(layer, level)])
            with torch.no_grad(), self.loaded.walk.source.at_hand(layer):
                packed = {w.name: quantizer.pack(w.matrix(), level) for w in self._weights[layer]}
            return self._keep(layer, level, packed)
        # The bank was never filled, or somebody has deleted the layer since.
        layers = self._calibrate([(layer, level)], run)
        return {(i, at): packed for i, at, packed in layers if i == layer}[layer, level]

    def _calibrate(
        self, wanted: Sequence[tuple[int, float]], run: Run
    ) -> Iterator[tuple[int, float, dict[str, Any]]]:
        """Yields these (layer, level), calibrated and kept, and others packed on the way."""
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
        """Makes room on the disk for the largest of these (layer, level), before it is packed.
        Raises UserError where the disk stays too full."""
        if self.folder and self.space and layers:
            needed = max(sum(self._sizes(layer, level).values()) for layer, level in layers)
            self.space.make_room(needed, self.folder)

    def _keep(self, layer: int, level: float, packed: dict[str, Any]) -> dict[str, Any]:
        """Takes in a packed layer, weight name -> packed weight, and returns it as it is kept.

        Raises UserError where it cannot be written, where scales are not numbers, and where the
        model's files have changed since."""
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
        """Returns a packed layer from its file; None where it is absent or damaged."""
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
                set_aside(path)
            return None

    def _sizes(self, layer: int, level: float) -> dict[str, int]:
        """Returns weight name -> bytes of its packed tensors, by the quantizer's formula."""
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
    """Gives freed memory back to the system. Packing frees many tensors of many sizes, and glibc
    keeps them for itself: more than the layers of a model in the end."""
    if sys.platform == "linux":
        with suppress(AttributeError):  # other C libraries have no such function
            ctypes.CDLL(None).malloc_trim(0)
