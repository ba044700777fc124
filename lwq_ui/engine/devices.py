"""The devices of this machine and their free memory. Loads torch only when a function here needs
it."""

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
"""What a user may choose. 'auto' is the first of the others that this machine has."""

CONTROL = Path("/sys/fs/cgroup")  # Linux's control groups


@dataclass(frozen=True)
class Device:
    """A GPU, or a machine's own memory. `kind` is cuda, mps or cpu. `index` counts the GPUs of a
    machine. `free` and `total` are in bytes."""

    name: str
    kind: str
    index: int
    free: int
    total: int

    @property
    def reserve(self) -> int:
        """Bytes that the framework will yet take of `free`. In a machine's own memory these are
        none, since the program is in it already."""
        return RESERVE if self.kind == "cuda" else 0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def local_devices() -> list[Device]:
    """Returns all GPUs, then the machine's own memory."""
    import torch

    gpus = []
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(i)
            gpus.append(Device(torch.cuda.get_device_name(i), "cuda", i, free, total))
    if torch.backends.mps.is_available():
        total = torch.mps.recommended_max_memory()
        free = max(0, total - torch.mps.driver_allocated_memory())
        gpus.append(Device("Apple GPU", "mps", 0, free, total))
    return [*gpus, Device("This machine's memory", "cpu", 0, *machine_memory())]


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
    """Returns free and total bytes, within the limit of a container where there is one. Beyond that
    limit the system ends the program, whatever the machine has."""
    memory = psutil.virtual_memory()
    free, total = memory.available, memory.total
    for limit, used in container_limits():
        if limit < total:
            free, total = min(free, max(0, limit - used)), limit
    return free, total


def container_limits() -> Iterator[tuple[int, int]]:
    """Yields (limit, use) in bytes of each control group around this process, of cgroup v2 and v1.

    The use leaves out the cache of files, which the system takes back when memory is short.
    """
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
    """Returns the control group of this process, as parts of a path. `kind` is 'memory' in cgroup
    v1, and empty in v2."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return ()
    paths = (path for _, kinds, path in (s.split(":", 2) for s in lines) if kinds == kind)
    return Path(next(paths, "/")).parts[1:]
