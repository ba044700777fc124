"""A model larger than the memory: its layers are read from the checkpoint when they are needed."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from ..finite import check_finite
from .layers import LayerSource, find_layers, layer_weights
from .placement import Placement
from .skeleton import load_tensors
from .tensor_files import TensorFiles


class WeightReader:
    """Reads tensors of files in `folder` into a model, onto `device`."""

    def __init__(self, placement: Placement, files: TensorFiles, folder: Path, device: str):
        self.placement = placement
        self.files = files
        self.model = placement.model
        self.model_id = placement.model_id
        self.folder = folder
        self.device = device

    def open(self, names: Collection[str]) -> None:
        """Puts these tensors, which stay, and what the model computes for itself onto the device.
        Raises UserError for values that are not numbers."""
        report = self.fill(names)
        self.model.tie_weights(missing_keys=report.missing_keys, recompute_mapping=False)
        for module in self.model.modules():
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = buffer.to(self.device)
        for name, parameter in self.model.named_parameters():
            if not parameter.is_meta:
                check_finite(self.model_id, name, parameter)

    def fill(self, names: Collection[str]) -> Any:
        """Reads these tensors onto the device, and returns the report of transformers' loader.

        On a CPU they are views of the mapped file where neither their number format nor their shape
        has to change, and nothing is de-quantized. Raises UserError where a file cannot be opened.
        """
        with self.files.opened(names) as tensors:
            return load_tensors(self.model, tensors, self.placement.conversion, self.device)

    def read_ahead(self, names: Iterable[str]) -> None:
        """Asks the operating system to have these tensors' bytes ready, and returns at once."""
        if not hasattr(os, "posix_fadvise"):
            return
        for file, start, end in self._ranges(names):
            handle = os.open(self.folder / file, os.O_RDONLY)
            try:
                os.posix_fadvise(handle, start, end - start, os.POSIX_FADV_WILLNEED)
            finally:
                os.close(handle)

    def _ranges(self, names: Iterable[str]) -> list[tuple[str, int, int]]:
        """Returns (file, start, end) of the bytes that hold these tensors, neighbours joined."""
        entries = self.files.parts(names)
        ranges: list[tuple[str, int, int]] = []
        for entry in sorted(entries, key=lambda t: (t.file, t.start)):
            start = entry.start
            if ranges and (ranges[-1][0], ranges[-1][2]) == (entry.file, start):
                start = ranges.pop()[1]
            ranges.append((entry.file, start, entry.end))
        return ranges


class StreamedLayers(LayerSource):
    """Each layer is read when it is needed, and let go afterwards. The operating system reads the
    next one meanwhile."""

    streamed = True

    def __init__(self, reader: WeightReader):
        self.reader = reader
        self.modules = find_layers(reader.model)
        self.weights = [layer_weights(layer) for layer in self.modules]
        self._empty = [[w.parameter for w in weights] for weights in self.weights]
        placement = reader.placement
        self._names = [placement.names_of({id(p) for p in empty}) for empty in self._empty]
        self._users = [0] * len(self.modules)
        self._checked: set[int] = set()
        streamed = set().union(*self._names)
        reader.open([name for name in placement.names if name not in streamed])

    @contextmanager
    def _at_hand(self, i: int) -> Iterator[nn.Module]:
        self._users[i] += 1
        try:
            if self._users[i] == 1:
                self.reader.fill(self._names[i])
                if i not in self._checked:
                    for w in self.weights[i]:
                        check_finite(self.reader.model_id, f"layer {i}, {w.name}", w.parameter)
                    self._checked.add(i)
                if i + 1 < len(self.modules):
                    self.reader.read_ahead(self._names[i + 1])
            yield self.modules[i]
        finally:
            self._users[i] -= 1
            if not self._users[i]:
                self._let_go(i)

    @contextmanager
    def standing_in(self) -> Iterator[None]:
        """While it lasts every layer can be called. The first layer of each shape lends the others
        its weights: enough to see how the model's parts work together."""
        first: dict[Any, int] = {}
        try:
            for i, weights in enumerate(self.weights):
                like = first.setdefault(tuple((w.name, w.parameter.shape) for w in weights), i)
                if like == i:
                    self.reader.fill(self._names[i])
                else:
                    for own, other in zip(weights, self.weights[like], strict=True):
                        own.replace(other.parameter)
            yield
        finally:
            for i in range(len(self.modules)):
                self._let_go(i)

    def _let_go(self, i: int) -> None:
        for weight, empty in zip(self.weights[i], self._empty[i], strict=True):
            weight.replace(empty)
