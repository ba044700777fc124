"""What a checkpoint holds, from the headers of its safetensors files alone. No weights are read.

huggingface_hub (2.4) reads headers, too, but only up to 25 MB. It does not check that tensors fill
their file without a hole. Where a server ignores the range, it downloads the whole file. It cannot
be stopped, and reports no progress.

Imports no torch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ...core.errors import UserError, reason
from ...core.run import Run
from ...core.typed import typed
from .hub import fetch_range, hub_errors
from .weight_files import INDEX, LONGEST, on_disk, safetensors_files

FIRST = 128 * 1024  # bytes: nearly every header is shorter
CONNECTIONS = 8

# Bits per value. Source: safetensors' `Dtype::bitsize`.
BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("BF16", "F16", "I16", "U16"), 16),
    **dict.fromkeys(("BOOL", "I8", "U8"), 8),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}

FLOATS = ("BF16", "F16", "F32", "F64")


@dataclass(frozen=True)
class Entry:
    """One tensor of a checkpoint.

    `dtype` is safetensors' tag (BF16, F16, F32, ...). `start` and `end` count bytes from the
    beginning of the file.
    """

    file: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def parameters(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.end - self.start


@dataclass(frozen=True)
class Headers:
    """The tensors of a checkpoint by name, and the bytes of each of its files by name."""

    tensors: Mapping[str, Entry]
    sizes: Mapping[str, int]

    @property
    def parameters(self) -> int:
        return sum(t.parameters for t in self.tensors.values())

    @property
    def bytes(self) -> int:
        """Bytes of the tensors, without the headers of their files."""
        return sum(t.bytes for t in self.tensors.values())

    @property
    def types(self) -> dict[str, tuple[int, int]]:
        """How many tensors are of each type, and their bytes; the type with most bytes first."""
        counts: dict[str, tuple[int, int]] = {}
        for tensor in self.tensors.values():
            count, size = counts.get(tensor.dtype, (0, 0))
            counts[tensor.dtype] = count + 1, size + tensor.bytes
        return dict(sorted(counts.items(), key=lambda item: -item[1][1]))

    def to_json(self) -> dict[str, Any]:
        tensors = {n: [t.file, t.dtype, t.shape, t.start, t.end] for n, t in self.tensors.items()}
        return {"tensors": tensors, "sizes": dict(self.sizes)}

    @staticmethod
    def from_json(value: Any) -> Headers:
        """Raises ValueError for what no Headers of today have written."""
        stored = typed(Stored, value)
        tensors = {name: Entry(*fields) for name, fields in stored.tensors.items()}
        return Headers(tensors, stored.sizes)


@dataclass(frozen=True)
class Stored:
    """Headers as they are in the cache. Each tensor is the list of an Entry's fields."""

    tensors: Mapping[str, tuple[str, str, tuple[int, ...], int, int]]
    sizes: Mapping[str, int]


Read = Callable[[int, int], bytes]
"""`read(start, end)` returns those bytes of a file, fewer where it ends before."""


def local_headers(folder: Path, model_id: str) -> Headers:
    """Returns the headers of the safetensors files that transformers would load from this folder.

    Raises UserError where a file is missing, cut short or damaged, or where index and files
    disagree.
    """
    names, weight_map = safetensors_files(folder, on_disk(folder), model_id)
    sizes = {name: (folder / name).stat().st_size for name in names}
    tensors = {
        name: file_header(name, sizes[name], partial(read_part, folder, name), model_id)
        for name in names
    }
    return joined(tensors, sizes, weight_map, model_id)


def read_part(folder: Path, file: str, start: int, end: int) -> bytes:
    """Returns bytes of a file. Raises UserError where it cannot be read."""
    path = folder / file
    try:
        with path.open("rb") as stream:
            stream.seek(start)
            return stream.read(end - start)
    except OSError as e:
        raise UserError(f"The file {path} cannot be read: {reason(e)}.") from e


def hub_headers(
    model_id: str,
    revision: str,
    sizes: Mapping[str, int],
    folder: Path,
    run: Run,
) -> Headers:
    """Returns the headers of files that lie on the Hub. Only their beginnings are fetched.

    `sizes` are bytes by file name. The index, where there is one, is in `folder`. Raises Stopped,
    and UserError as `local_headers` does or where the Hub refuses.
    """
    names, weight_map = safetensors_files(folder, sizes.__contains__, model_id)
    tensors: dict[str, dict[str, Entry]] = {}
    pool = ThreadPoolExecutor(CONNECTIONS)

    def fetch(name: str) -> None:
        if not run.stop.is_set():
            read = remote_reader(model_id, revision, name, sizes[name])
            tensors[name] = file_header(name, sizes[name], read, model_id)

    try:
        with hub_errors(model_id):
            futures = [pool.submit(fetch, name) for name in names]
            for count, done in enumerate(as_completed(futures), 1):
                done.result()
                run.check()
                run.progress(f"Reading the headers of {model_id}", count / len(names))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return joined({name: tensors[name] for name in names}, sizes, weight_map, model_id)


def remote_reader(model_id: str, revision: str, name: str, size: int) -> Read:
    """Returns access to a file on the Hub. It asks once for as much as most headers take, and again
    only where that was not enough."""
    first = fetch_range(model_id, revision, name, 0, min(size, FIRST)) if size else b""

    def read(start: int, end: int) -> bytes:
        if end <= len(first):
            return first[start:end]
        return first[start:] + fetch_range(model_id, revision, name, len(first), end)

    return read


def file_header(file: str, size: int, read: Read, model_id: str) -> dict[str, Entry]:
    """Returns the tensors of one file of `size` bytes, by name. Raises UserError where the header
    is not one, or does not describe the whole file."""
    length = int.from_bytes(read(0, 8), "little")
    try:
        if size < 8 or length > min(size - 8, LONGEST):
            raise ValueError("the header is longer than the file")
        header = json.loads(read(8, 8 + length))
        header.pop("__metadata__", None)
        tensors = {name: entry(file, 8 + length, t) for name, t in header.items()}
        reached = 8 + length
        for tensor in sorted(tensors.values(), key=lambda t: (t.start, t.end)):
            if tensor.start != reached or tensor.end < reached:
                raise ValueError("tensors overlap or leave a hole")
            reached = tensor.end
        if reached != size:
            raise ValueError("the file is not as long as its header says")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        raise UserError(
            f"The file {file} of '{model_id}' is cut short or damaged. Download or copy it again."
        ) from e
    for name, tensor in tensors.items():
        if tensor.dtype not in BITS:
            raise UserError(
                f"The tensor {name} in {file} of '{model_id}' is of the type '{tensor.dtype}', "
                "which is not known here. Choose a copy of the model in bfloat16 or float16."
            )
        if tensor.parameters * BITS[tensor.dtype] != tensor.bytes * 8:
            raise UserError(
                f"The file {file} of '{model_id}' is damaged: {tensor.bytes} bytes of {name} do "
                f"not hold {tensor.parameters} values of {tensor.dtype}. Download it again."
            )
    return tensors


def entry(file: str, offset: int, tensor: dict[str, Any]) -> Entry:
    """Returns one tensor of a header. Its offsets count from the header's end, at `offset`. Raises
    what wrong types raise, and ValueError for impossible numbers."""
    start, end = tensor["data_offsets"]
    shape = tuple(tensor["shape"])
    if not all(type(n) is int and n >= 0 for n in (start, end, *shape)):
        raise ValueError("sizes are counted in whole numbers")
    return Entry(file, str(tensor["dtype"]), shape, offset + start, offset + end)


def joined(
    by_file: Mapping[str, Mapping[str, Entry]],
    sizes: Mapping[str, int],
    weight_map: Mapping[str, str],
    model_id: str,
) -> Headers:
    """Returns the tensors of all files together. Raises UserError where two files hold the same
    tensor, or where the index looks for a tensor in the wrong file."""
    all_tensors: dict[str, Entry] = {}
    for file, tensors in by_file.items():
        for name, tensor in tensors.items():
            if name in all_tensors:
                raise UserError(
                    f"'{model_id}' is damaged: {name} is both in {all_tensors[name].file} and in "
                    f"{file}. Download it again."
                )
            all_tensors[name] = tensor
    for name, file in weight_map.items():
        if file in by_file and name not in by_file[file]:
            raise UserError(
                f"The file {INDEX} of '{model_id}' belongs to other weights: it looks for {name} "
                f"in {file}, where it is not. Download them again."
            )
    return Headers(all_tensors, {file: sizes[file] for file in by_file})
