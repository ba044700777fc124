"""The tensors of a checkpoint, under the names that transformers knows, whatever its files are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ...core.errors import UserError, first_line
from ..checkpoints.gguf_source import GgufContent
from ..checkpoints.headers import Entry, Headers
from .gguf_tensors import Recipe, dequantized, headers_of
from .placement import Values, stored_values

ReadBytes = Callable[[str, int, int], bytes]
"""`read(file, start, end)` returns bytes of a file, on this disk or on the Hub."""


class TensorFiles(ABC):
    """Where tensors are read from. `headers` list them by the names that transformers knows."""

    headers: Headers

    @abstractmethod
    def opened(self, names: Collection[str]) -> AbstractContextManager[Mapping[str, Any]]:
        """Yields these tensors as transformers' loader takes them: `tensor[...]` reads one. Raises
        UserError where a file cannot be opened."""

    @abstractmethod
    def parts(self, names: Iterable[str]) -> list[Entry]:
        """Returns the tensors of the files that these are made of."""

    @abstractmethod
    def values(self, read: ReadBytes) -> Values:
        """Returns access to some values of a tensor, from bytes that `read` gives."""


class SafetensorsFiles(TensorFiles):
    """The files in `folder`. Their tensors have transformers' names already."""

    def __init__(self, headers: Headers, folder: Path, model_id: str):
        self.headers = headers
        self._folder = folder
        self._model_id = model_id

    @contextmanager
    def opened(self, names: Collection[str]) -> Iterator[Mapping[str, Any]]:
        entries = self.headers.tensors
        with ExitStack() as stack:
            files = {}
            for file in sorted({entries[name].file for name in names}):
                try:
                    opened = safe_open(self._folder / file, framework="pt")
                except (OSError, SafetensorError) as e:  # gone or replaced since it was checked
                    raise no_longer_read(file, self._model_id, e) from e
                files[file] = stack.enter_context(opened)
            yield {name: files[entries[name].file].get_slice(name) for name in names}

    def parts(self, names: Iterable[str]) -> list[Entry]:
        return [self.headers.tensors[name] for name in names]

    def values(self, read: ReadBytes) -> Values:
        return stored_values(self.headers, read)


class GgufFiles(TensorFiles):
    """The files in `folder`, mapped into memory. A tensor is de-quantized when it is read."""

    def __init__(
        self, made: Mapping[str, Recipe], content: GgufContent, folder: Path, model_id: str
    ):
        self.headers = headers_of(made, content)
        self._recipes = made
        self._stored = content.headers.tensors
        self._folder = folder
        self._model_id = model_id

    @contextmanager
    def opened(self, names: Collection[str]) -> Iterator[Mapping[str, Any]]:
        files = {}
        for file in sorted({part.file for part in self.parts(names)}):
            try:
                files[file] = np.memmap(self._folder / file, mode="r", dtype=np.uint8)
            except (OSError, ValueError) as e:  # gone, or empty, since it was checked
                raise no_longer_read(file, self._model_id, e) from e
        yield {name: Unread(self._recipes[name], self._stored, files) for name in names}

    def parts(self, names: Iterable[str]) -> list[Entry]:
        return [self._stored[source] for name in names for source in self._recipes[name].sources]

    def values(self, read: ReadBytes) -> Values:
        """Returns access to the values of tensors that are as they are in the file. Embeddings and
        heads are, which are all that a config ties."""

        def some(name: str, start: int, end: int) -> Tensor:
            tensor = self._stored[self._recipes[name].sources[0]]
            block, size = GGML_QUANT_SIZES[GGMLQuantizationType[tensor.dtype]]
            first, last = start // block, -(-end // block)
            content = read(tensor.file, tensor.start + first * size, tensor.start + last * size)
            values = dequantized(content, tensor.dtype, (-1,))
            return values[start - first * block : end - first * block]

        return some


@dataclass(frozen=True)
class Unread:
    """A tensor that transformers' loader reads by `tensor[...]`."""

    recipe: Recipe
    stored: Mapping[str, Entry]
    files: Mapping[str, np.ndarray]

    def __getitem__(self, _: Any) -> Tensor:
        entries = [self.stored[name] for name in self.recipe.sources]
        return self.recipe.make(
            [dequantized(self.files[e.file][e.start : e.end], e.dtype, e.shape) for e in entries]
        )


def no_longer_read(file: str, model_id: str, error: Exception) -> UserError:
    return UserError(
        f"The file {file} of '{model_id}' can no longer be read ({first_line(error)}). Load the "
        "model again."
    )
