"""safetensors files that carry a checksum of all their bytes.

A damaged file of packed layers or hidden states still loads, and gives other numbers. So the bytes
are hashed when a process first reads such a file. benchmarks/cache.py measures what that costs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
from torch import Tensor

METADATA = "lwq"  # one entry: safetensors writes several in any order
SEAL = "sha256"  # of the whole file, with zeros in place of this value
PLACE = "file"  # its folder and name: one such file in another's place gives wrong numbers, too
ZEROS = "0" * 64
LONGEST = 100_000_000  # bytes of a header: safetensors itself reads no longer one


def sealed(
    path: Path, tensors: dict[str, Tensor], metadata: Mapping[str, str] | None = None
) -> bytes:
    """Returns the content of a safetensors file that `check_seal` accepts at this path."""
    whole = json.dumps({**(metadata or {}), PLACE: place_of(path), SEAL: ZEROS})
    content = bytearray(safetensors.torch.save(tensors, {METADATA: whole}))
    place = content.index(ZEROS.encode())  # the header stands first
    content[place : place + len(ZEROS)] = hashlib.sha256(content).hexdigest().encode()
    return bytes(content)


def check_seal(path: Path) -> dict[str, str]:
    """Returns the file's metadata. Raises ValueError where any byte differs from what was written
    there, and OSError where the file cannot be read."""
    with path.open("rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if length > LONGEST:
            raise ValueError("its header is damaged")
        header = file.read(length)
        try:
            metadata = dict(json.loads(json.loads(header)["__metadata__"][METADATA]))
            seal = metadata.pop(SEAL)
            whole = hashlib.sha256(start + header.replace(seal.encode(), ZEROS.encode(), 1))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
            raise ValueError("its header is damaged") from e
        while block := file.read(2**22):
            whole.update(block)
    if whole.hexdigest() != seal:
        raise ValueError("its checksum does not match its content")
    if metadata.pop(PLACE, None) != place_of(path):
        raise ValueError("it was written for another place")
    return metadata


def place_of(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"
