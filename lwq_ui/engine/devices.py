"""What this machine has to hold a model, and what of a model it holds. Loads torch only when the
devices are asked for."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from ..core.budget import RESERVE
from ..core.errors import UserError

DEVICES = ("auto", "cuda", "mps", "cpu")
"""What a user may choose; 'auto' is the first of the others that is there."""

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


def resolve_device(device: str) -> str:
    """Returns the kind of a device, for 'auto' a GPU where there is one. Raises UserError where
    this machine has no such device."""
    import torch

    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    present = [kind for kind in DEVICES if available.get(kind)]
    if device == "auto":
        return present[0]
    if device not in present:
        raise UserError(
            f"There is no device '{device}' on this machine. Choose {' or '.join(present)}."
        )
    return device


def free_bytes(device: str) -> list[int]:
    """Returns the free memory of every GPU, or that of the machine for any other device."""
    import torch

    if device != "cuda":
        return [machine_memory()[0]]
    torch.cuda.empty_cache()
    return [torch.cuda.mem_get_info(i)[0] for i in range(torch.cuda.device_count())]


def release_memory() -> None:
    """Gives freed memory back to the device, so that the next job finds it."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


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
