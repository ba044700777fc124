"""Where packed layers lie on the disk. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from ...core.schema import ModelInfo
from ...core.store import Key, Store, versions
from ..quantizers import Quantizer

BANK_FORMAT = 2  # of files of packed layers: these carry checksums


def bank_folder(info: ModelInfo, quantizer: Quantizer, store: Store) -> Path:
    """Returns the folder of a bank. Its name depends on all that packed layers depend on."""
    calibrating = ("transformers",) if quantizer.calibrated else ()  # the model is run for it
    parts = {
        "format": BANK_FORMAT,
        "quantizer": quantizer.to_json(),
        "dtype": info.dtype,
        "versions": versions("torch", "optimum-quanto", *calibrating),
    }
    return store.root / Key("banks", info.fingerprint, parts).path.with_suffix("")


def packed_path(folder: Path, layer: int, level: float) -> Path:
    """Returns the file in which a bank keeps a layer that is packed at a level."""
    return folder / f"layer-{layer:03}-{level:g}bit.safetensors"
