"""The most memory that the whole program used while something ran.

That counts the program itself and all models that it holds. Nobody can tell how much of it one
model took.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread

import torch

STATUS = Path("/proc/self/status")
SECONDS = 0.05  # between two looks


@dataclass
class Peak:
    """`bytes` stays None where the memory cannot be measured."""

    bytes: int | None = None


@contextmanager
def peak_memory(device: str) -> Iterator[Peak]:
    """Yields the most memory in use at any time during the block. It is known when the block ends.

    On GPUs that is the tensors' memory, of all GPUs together. On a CPU it is the program's, without
    mapped files, such as a bank's and often the model's. The system takes the memory of these back
    when others need it. A peak on a CPU that lasts less than 50 ms may be missed.
    """
    peak = Peak()
    if device == "cuda":
        torch.cuda.init()
        gpus = range(torch.cuda.device_count())
        for gpu in gpus:
            torch.cuda.reset_peak_memory_stats(gpu)
        try:
            yield peak
        finally:
            peak.bytes = sum(torch.cuda.max_memory_allocated(gpu) for gpu in gpus)
    elif device == "cpu" and STATUS.exists():
        done = Event()

        def watch() -> None:
            while True:
                peak.bytes = max(peak.bytes or 0, own_bytes())
                if done.wait(SECONDS):
                    peak.bytes = max(peak.bytes, own_bytes())
                    return

        thread = Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield peak
        finally:
            done.set()
            thread.join()
    else:
        yield peak


def own_bytes() -> int:
    """Returns the bytes of this process that belong to no file. Linux counts them in KiB."""
    line = next(row for row in STATUS.read_text().splitlines() if row.startswith("RssAnon:"))
    return int(line.split()[1]) * 1024
