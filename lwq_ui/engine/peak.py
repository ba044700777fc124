"""The most memory that the whole program used while something ran: every model that it holds and
the program itself. How much of that one model took cannot be told apart."""

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
    bytes: int | None = None


@contextmanager
def peak_memory(device: str) -> Iterator[Peak]:
    """`bytes` is filled in when the block ends, with all that was in use, what was there before
    included. On GPUs: of tensors, all GPUs together. On a CPU: of the whole program, without files
    that are mapped (a bank's, and often the model's), whose memory the system takes back when it
    is wanted elsewhere; what lasts less than 50 ms may be missed. None where it cannot be known."""
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
    """Memory of this process that is no file's. Linux counts it in KiB."""
    line = next(row for row in STATUS.read_text().splitlines() if row.startswith("RssAnon:"))
    return int(line.split()[1]) * 1024
