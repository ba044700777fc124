"""Checkpoints in PyTorch's own format, pytorch_model.bin."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoints.headers import Entry, Headers
from .placement import TORCH_DTYPES, Values

TAGS = {dtype: tag for tag, dtype in TORCH_DTYPES.items()}


def pickled(paths: Iterable[Path], folder: Path) -> tuple[Headers, Values]:
    """Returns what these files hold, in the form of headers, and access to the values. The files
    are mapped, not read. No code in them is run."""
    tensors: dict[str, Tensor] = {}
    entries, sizes = {}, {}
    for path in paths:
        file = path.relative_to(folder).as_posix()
        sizes[file] = path.stat().st_size
        mappable = zipfile.is_zipfile(path)  # files of torch before 1.6 are not
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mappable)
        for name, tensor in content.items():
            if isinstance(tensor, Tensor):
                tensors[name] = tensor
                tag = TAGS.get(tensor.dtype, "U8")
                shape = tuple(tensor.shape)
                entries[name] = Entry(file, tag, shape, 0, tensor.numel() * tensor.element_size())
    return Headers(entries, sizes), lambda name, start, end: tensors[name].reshape(-1)[start:end]
