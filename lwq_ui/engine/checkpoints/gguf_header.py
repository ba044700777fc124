"""What a GGUF file holds, from its header alone. No weights are read.

The package gguf reads headers, too, but only of a whole file on this disk, and in seconds where the
vocabulary is large. It does not say where a header ends, which a part of a file on the Hub needs.
The format is described in ggml's docs/gguf.md. Imports no torch.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from ...core.errors import UserError
from ...core.origin import GRIDS
from .headers import Entry, Read

MAGIC = b"GGUF"
VERSIONS = (2, 3)
# Value types by number: how struct reads them, and their bytes.
FIXED = {
    **{0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?"},
    **{10: "<Q", 11: "<q", 12: "<d"},
}
TEXT, ARRAY = 8, 9
MOST = 2**20  # of entries and of tensors: the largest models have thousands
MOST_DIMENSIONS = 4
ALIGNMENT = "general.alignment"
IMPORTANCE = "quantize.imatrix."  # how entries on one begin
LAYER = "blk."  # how names of a layer's tensors begin
CHUNK = 2**18  # bytes that are read at a time


@dataclass(frozen=True)
class GgufHeader:
    """The entries and tensors of one file, and the bytes that the header takes.

    An entry that is a list stands for its length. A tensor's `dtype` is ggml's name of its type
    (F16, Q4_1, Q6_K, ...). Its shape has the rows first, as torch has it.
    """

    entries: Mapping[str, Any]
    tensors: Mapping[str, Entry]
    bytes: int


class Cursor:
    """Reads a file from its beginning on. Raises ValueError where it ends too early."""

    def __init__(self, read: Read, size: int):
        self._read = read
        self._size = size
        self._content = b""
        self._start = 0  # of the content in the file
        self.position = 0

    def take(self, count: int) -> bytes:
        self.skip(count)
        begin = self.position - count - self._start
        if begin < 0 or begin + count > len(self._content):
            self._start, begin = self.position - count, 0
            end = min(self._size, self._start + max(count, CHUNK))
            self._content = self._read(self._start, end)
        content = self._content[begin : begin + count]
        if len(content) != count:
            raise ValueError("the file ends within its header")
        return content

    def skip(self, count: int) -> None:
        if not 0 <= count <= self._size - self.position:
            raise ValueError("the file ends within its header")
        self.position += count

    def number(self, kind: str) -> Any:
        return struct.unpack(kind, self.take(struct.calcsize(kind)))[0]

    def text(self) -> str:
        return self.take(self.number("<Q")).decode("utf-8", "replace")

    def value(self, kind: int, depth: int = 0) -> Any:
        """Returns an entry's value, and of a list its length. Raises ValueError for no value."""
        if kind in FIXED:
            return self.number(FIXED[kind])
        if kind == TEXT:
            return self.text()
        if kind != ARRAY or depth > 2:
            raise ValueError(f"there is no type {kind} of values")
        inner, count = self.number("<I"), self.number("<Q")
        if inner in FIXED:
            self.skip(count * struct.calcsize(FIXED[inner]))
        elif count > self._size:
            raise ValueError("a list is longer than the file")
        elif inner == TEXT:
            for _ in range(count):
                self.skip(self.number("<Q"))
        else:
            for _ in range(count):
                self.value(inner, depth + 1)
        return count


def gguf_header(file: str, size: int, read: Read, model_id: str) -> GgufHeader:
    """Returns the header of a file of `size` bytes. Raises UserError where the file is none of this
    format, cut short or damaged, and where a type of its tensors is not known."""
    cursor = Cursor(read, size)
    try:
        if cursor.take(4) != MAGIC:
            raise UserError(f"The file {file} of '{model_id}' is no GGUF file.")
        check_version(cursor.number("<I"), file, model_id)
        tensor_count, entry_count = cursor.number("<Q"), cursor.number("<Q")
        if max(tensor_count, entry_count) > MOST:
            raise ValueError("it counts too many entries")
        entries = {}
        for _ in range(entry_count):
            name = cursor.text()
            entries[name] = cursor.value(cursor.number("<I"))
        described = [described_tensor(cursor) for _ in range(tensor_count)]
        alignment = entries.get(ALIGNMENT, 32)
        if not (type(alignment) is int and alignment > 0):
            raise ValueError("the alignment is no number of bytes")
        begin = math.ceil(cursor.position / alignment) * alignment
        tensors = placed_tensors(described, file, begin, model_id)
        reached = cursor.position
        for tensor in sorted(tensors.values(), key=lambda t: t.start):
            if tensor.start < reached or tensor.end > size:
                raise ValueError("tensors overlap or lie beyond the end")
            reached = tensor.end
    except (ValueError, struct.error, OverflowError, MemoryError) as e:
        raise UserError(
            f"The file {file} of '{model_id}' is cut short or damaged. Download or copy it again."
        ) from e
    return GgufHeader(entries, tensors, cursor.position)


def check_version(version: int, file: str, model_id: str) -> None:
    if version in VERSIONS:
        return
    if int.from_bytes(version.to_bytes(4, "big"), "little") in VERSIONS:
        raise UserError(
            f"The file {file} of '{model_id}' is written for big-endian machines. Choose a "
            "little-endian one."
        )
    raise UserError(
        f"The file {file} of '{model_id}' has GGUF's version {version}, which is not known here. "
        "Choose a newer file of the model."
    )


def described_tensor(cursor: Cursor) -> tuple[str, int, tuple[int, ...], int]:
    """Returns a tensor's name, type number, shape with the rows first, and offset. Raises
    ValueError."""
    name, dimensions = cursor.text(), cursor.number("<I")
    if dimensions > MOST_DIMENSIONS:
        raise ValueError("a tensor has too many dimensions")
    shape = tuple(cursor.number("<Q") for _ in range(dimensions))[::-1]
    kind, offset = cursor.number("<I"), cursor.number("<Q")
    if not all(0 < n < 2**40 for n in shape):
        raise ValueError("a tensor has an impossible shape")
    return name, kind, shape, offset


def placed_tensors(
    described: list[tuple[str, int, tuple[int, ...], int]], file: str, begin: int, model_id: str
) -> dict[str, Entry]:
    """Returns the tensors of a file whose data `begin` at a byte. Raises ValueError where two have
    one name or a row does not fill its blocks, and UserError for an unknown type."""
    tensors: dict[str, Entry] = {}
    for name, number, shape, offset in described:
        if number not in ggml_types():
            raise UserError(
                f"The tensor {name} in {file} of '{model_id}' is of ggml's type {number}, which is "
                "not known here. Choose another file of the model, such as Q8_0 or Q4_K_M."
            )
        kind, block, block_bytes = ggml_types()[number]
        columns = shape[-1] if shape else 1
        if columns % block or name in tensors:
            raise ValueError("a tensor is there twice, or its rows do not fill their blocks")
        length = math.prod(shape) // block * block_bytes
        tensors[name] = Entry(file, kind, shape, begin + offset, begin + offset + length)
    return tensors


@cache
def ggml_types() -> dict[int, tuple[str, int, int]]:
    """Returns name, values of a block and bytes of a block, by the type's number."""
    from gguf.constants import GGML_QUANT_SIZES

    return {int(kind): (kind.name, *sizes) for kind, sizes in GGML_QUANT_SIZES.items()}


def main_type(header: Mapping[str, Any], tensors: Mapping[str, Entry]) -> str | None:
    """Returns what the weights were quantized as, such as 'Q4_1' or 'Q4_K_M'; None where most of
    them have 16 bits or more. `header` are the entries of the first file."""
    sizes: dict[str, int] = {}
    for tensor in tensors.values():
        if len(tensor.shape) > 1:
            sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.parameters
    most = max(sizes, key=lambda kind: sizes[kind], default="F32")
    if most in ("F64", "F32", "F16", "BF16"):
        return None
    from gguf import LlamaFileType

    number = header.get("general.file_type")
    names = {int(kind): kind.name.removeprefix("MOSTLY_") for kind in LlamaFileType}
    name = names.get(number, "") if isinstance(number, int) else ""
    return name if name.startswith(most) else most


def layers_grid(header: Mapping[str, Any], tensors: Mapping[str, Entry]) -> str | None:
    """Returns the type of all matrices of the layers where it is one of GRIDS. An importance matrix
    moves the ends of its blocks, so that they are none."""
    if any(name.startswith(IMPORTANCE) for name in header):
        return None
    kinds = {t.dtype for name, t in tensors.items() if name.startswith(LAYER) and len(t.shape) > 1}
    kind = kinds.pop() if len(kinds) == 1 else None
    return kind if kind in GRIDS else None
