"""Forecasts what packing costs: bytes on the disk, and about how many seconds. Imports no torch, so
that the page can show it before torch is loaded."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from ...core.allocation import Split, to_pack
from ...core.schema import ModelInfo
from ...core.store import Store
from ..quantizers import Machine, Quantizer
from .files import bank_folder, packed_path


@dataclass(frozen=True)
class PackingCost:
    """`missing` of `layers` are not packed yet. `bytes` and `seconds` are what packing those takes.
    A layer at two levels counts twice."""

    layers: int
    missing: int
    bytes: int
    seconds: float


def packing_cost(
    info: ModelInfo,
    quantizer: Quantizer,
    splits: Iterable[Split],
    store: Store,
    device: str = "cpu",
) -> PackingCost:
    """Returns the cost of packing every layer at every level that the splits ask for, less what is
    on the disk already."""
    wanted = to_pack(splits)
    folder = bank_folder(info, quantizer, store)
    missing = [
        (i, level) for i, level in wanted if not os.path.exists(packed_path(folder, i, level))
    ]
    size = sum(
        quantizer.packed_bytes(w, level, info.dtype_bytes)
        for i, level in missing
        for w in info.layers[i].weights
    )
    seconds = quantizer.seconds(info, missing, speed(device)) if missing else 0.0
    return PackingCost(len(wanted), len(missing), size, seconds)


def why_not_packed(
    info: ModelInfo, quantizer: Quantizer, splits: Iterable[Split], store: Store
) -> str:
    """Returns why the quantizer cannot work here, or nothing where it need not: all that the splits
    ask for is packed."""
    why = quantizer.missing() or quantizer.missing_text(store)
    return why if why and packing_cost(info, quantizer, splits, store).missing else ""


@cache
def speed(device: str = "cpu") -> Machine:
    """Returns how fast the device computes. It is measured once, in some milliseconds.

    A GPU is only measured after torch has been imported. Until then the CPU stands in for it."""
    if device == "cuda" and "torch" in sys.modules:
        return _measured(*_gpu())
    a = np.ones((768, 768), np.float32)
    flat = np.ones(8 * 2**20, np.float32)
    out = np.empty_like(flat)
    return _measured(
        lambda: a @ a, 2 * 768**3, lambda: np.add(flat, flat, out=out), 2 * flat.nbytes
    )


def _gpu() -> tuple[Callable[[], Any], float, Callable[[], Any], float]:
    import torch

    a = torch.ones(4096, 4096, device="cuda", dtype=torch.float16)
    flat = torch.ones(64 * 2**20, device="cuda")

    def waiting(work: Callable[[], Any]) -> Callable[[], Any]:
        def run() -> None:
            work()
            torch.cuda.synchronize()

        return run

    return waiting(lambda: a @ a), 2 * 4096.0**3, waiting(lambda: flat + flat), 8.0 * flat.numel()


def _measured(
    multiply: Callable[[], Any], operations: float, add: Callable[[], Any], moved: float
) -> Machine:
    return Machine(operations / _seconds(multiply), moved / _seconds(add))


def _seconds(work: Callable[[], Any]) -> float:
    """Returns the seconds of the fastest of four runs. The first one wakes threads."""
    runs = []
    for _ in range(4):
        began = time.perf_counter()
        work()
        runs.append(time.perf_counter() - began)
    return min(runs)
