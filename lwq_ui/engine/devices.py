"""What this machine has to hold a model, and what of a model it holds. Loads torch only when the
devices are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from ..core.budget import RESERVE

CONTROL = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Device:
    """`kind` is cuda, mps or cpu; sizes are in bytes. `index` counts the GPUs of a machine."""

    name: str
    kind: str
    index: int
    free: int
    total: int

    @property
    def reserve(self) -> int:
        """What the framework will yet take of `free`. In a machine's own memory that is nothing
        beside the program, which is there already."""
        return RESERVE if self.kind == "cuda" else 0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def local_devices() -> list[Device]:
    """Every GPU, then the machine's own memory."""
    import torch

    found = []
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(i)
            found.append(Device(torch.cuda.get_device_name(i), "cuda", i, free, total))
    if torch.backends.mps.is_available():
        total = torch.mps.recommended_max_memory()
        free = max(0, total - torch.mps.driver_allocated_memory())
        found.append(Device("Apple GPU", "mps", 0, free, total))
    return [*found, Device("This machine's memory", "cpu", 0, *machine_memory())]


def machine_memory() -> tuple[int, int]:
    """Free and total bytes, within the limit of a container where there is one: beyond it the
    system ends the program, whatever the machine has."""
    memory = psutil.virtual_memory()
    free, total = memory.available, memory.total
    for limit, used in container_limits():
        if limit < total:
            free, total = min(free, max(0, limit - used)), limit
    return free, total


def container_limits() -> Iterator[tuple[int, int]]:
    """(limit, use) in bytes of every control group around this process. What of its use is a cache
    of files can be had back. Linux's cgroup v2 and v1."""
    for root, most, now, cached in (
        (CONTROL, "memory.max", "memory.current", "file "),
        (CONTROL / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_cache "),
    ):
        inside = root
        for part in ("", *own_group(root.name if root != CONTROL else "")):
            inside /= part
            try:
                stat = (inside / "memory.stat").read_text().splitlines()
                cache = next(int(s.split()[1]) for s in stat if s.startswith(cached))
                yield int((inside / most).read_text()), int((inside / now).read_text()) - cache
            except (OSError, ValueError, StopIteration):  # "max", or not there
                continue


def own_group(kind: str) -> Sequence[str]:
    """The control group of this process, as parts of a path."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return ()
    paths = (path for _, kinds, path in (s.split(":", 2) for s in lines) if kinds == kind)
    return Path(next(paths, "/")).parts[1:]
