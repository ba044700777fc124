"""Exact bytes of layers at a level. The formulas are those of optimum-quanto 0.2.7's storage."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

GIB = 2**30
BINARY = (("GiB", GIB), ("MiB", 2**20), ("KiB", 2**10))
UNITS = {
    **{"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12},
    **{"kib": 2**10, "mib": 2**20, "gib": GIB, "tib": 2**40},
}
DTYPE_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}
OWN_DTYPE = "auto"  # stands for the checkpoint's own
DTYPES = (OWN_DTYPE, *DTYPE_BYTES)  # what a user may choose
UNTOUCHED = 16  # the level of a layer whose weights keep the model's own dtype
PRUNED = 0  # the level of a layer that is left out


def group_size(columns: int, largest: int = 128) -> int:
    """Returns how many weights share one scale, along the input axis of a matrix.

    That is 128, or the first of 96, 64 and 32 that divides `columns`. It is the whole row where
    none divides, or where the row has at most 128 inputs.
    """
    if columns > largest:
        for size in range(largest, 0, -32):
            if columns % size == 0:
                return size
    return columns


def affine_bytes(
    rows: int, columns: int, bits: int, dtype_bytes: int, largest_group: int = 128
) -> int:
    """Returns the bytes of a [rows, columns] matrix at 2 or 4 bits.

    These are the packed values, and a scale and a shift in the weight's dtype for every group.
    Values of `8 // bits` groups share a byte, so the number of groups is rounded up.
    """
    size = group_size(columns, largest_group)
    if rows == 1 and size == columns:  # taken for a column: a scale and a shift for each value
        return columns * (1 + 2 * dtype_bytes)
    groups = rows * columns // size
    per_byte = 8 // bits
    return -(-groups // per_byte) * size + 2 * groups * dtype_bytes


def symmetric_bytes(rows: int, columns: int, dtype_bytes: int) -> int:
    """Returns the bytes of a [rows, columns] matrix at 8 bits, with one scale per output channel
    and no shift."""
    return rows * columns + rows * dtype_bytes


@dataclass(frozen=True)
class LayerCost:
    """What one layer costs. `weights` counts the weights that a quantizer packs; `packed` maps each
    level to their bytes. `other_bytes` (norms, biases) stay as they are. A pruned layer costs
    nothing."""

    weights: int
    packed: Mapping[float, int]
    other_bytes: int

    def bytes(self, level: float) -> int:
        return 0 if level == PRUNED else self.packed[level] + self.other_bytes


@dataclass(frozen=True)
class ModelCost:
    """What a model costs under one quantizer. `rest_bytes` are embeddings, final norm and lm_head;
    a tensor that two modules share counts once."""

    layers: tuple[LayerCost, ...]
    rest_bytes: int

    def layer_bytes(self, split: Sequence[float]) -> int:
        # LayerCost.bytes written out: a chart asks for a thousand splits.
        pairs = zip(self.layers, split, strict=True)
        return sum([c.packed[level] + c.other_bytes for c, level in pairs if level != PRUNED])

    def total(self, split: Sequence[float]) -> int:
        return self.layer_bytes(split) + self.rest_bytes

    def span(self, levels: tuple[float, float]) -> tuple[int, int]:
        """Returns the bytes with all layers at the low level and at the high level."""
        high, low = ((level,) * len(self.layers) for level in levels)
        return self.total(low), self.total(high)

    def bits_per_weight(self, split: Sequence[float]) -> float:
        """Returns the stored bits per quantizable weight, scales and shifts included."""
        stored = sum(
            c.packed[level] for c, level in zip(self.layers, split, strict=True) if level != PRUNED
        )
        weights = sum(c.weights for c in self.layers)
        return 8 * stored / weights if weights else 0.0


def average_bits(split: Sequence[float]) -> float:
    """Returns the mean level over layers, as the paper counts it: 4.0 where every layer has 4."""
    return sum(split) / len(split)


def parse_size(text: str) -> int:
    """Returns the bytes of a size such as '3.2GiB'. Raises ValueError where it is none."""
    match = re.fullmatch(r"([\d.]+)\s*([a-z]*)", text.strip().lower())
    try:
        return int(float(match[1]) * UNITS[match[2]])  # type: ignore[index]
    except (TypeError, KeyError, ValueError, OverflowError):
        raise ValueError(f"'{text}' is not a size such as 3.2GiB") from None


def size_unit(size: float) -> tuple[str, int]:
    """Returns the unit that `size` bytes are shown in, and how many bytes the unit has. A size that
    would round to 1024 of one unit is shown as 1 of the next."""
    for name, unit in BINARY:
        if round(size / unit * 1024, 1) >= 1024:
            return name, unit
    return "bytes", 1


def size_digits(size: float) -> int:
    """Returns the decimal places that `size` is shown with: two or three for GiB, one for MiB and
    KiB."""
    name, unit = size_unit(size)
    if name == "GiB":
        return 2 if size / unit >= 10 else 3
    return 0 if name == "bytes" else 1


def format_gib(size: float) -> str:
    """Returns bytes as people read them: '3.270 GiB', and '9.6 MiB' below 1 GiB."""
    name, unit = size_unit(size)
    return f"{size / unit:,.{size_digits(size)}f} {name}"


def apart(a: int, b: int) -> tuple[str, str]:
    """Returns two sizes as text, with their bytes where they would look the same."""
    one, other = format_gib(a), format_gib(b)
    if one != other or a == b:
        return one, other
    return f"{one} ({a} bytes)", f"{other} ({b} bytes)"
