"""What this machine has to hold a model, and what of a model it holds. Loads torch only when the
devices are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from ..core.budget import RESERVE, Workload, memory_use
from ..core.memory import UNTOUCHED, apart, format_gib
from ..core.schema import ModelInfo
from .quantizers import Quantizer, model_cost

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


@dataclass(frozen=True)
class Fit:
    """What one device holds: `needed` is the bytes of weights, cache, activations and reserve with
    all layers at a level, `fits` whether the device has that many free."""

    device: Device
    needed: Mapping[float, int]

    @property
    def fits(self) -> dict[float, bool]:
        return {level: size <= self.device.free for level, size in self.needed.items()}

    def to_json(self) -> dict[str, Any]:
        levels = {
            str(level): {"needed": size, "fits": self.fits[level]}
            for level, size in self.needed.items()
        }
        return {**self.device.to_json(), "levels": levels}

    def sentence(self) -> str:
        """'NVIDIA L4 (21.50 GiB of 22.04 GiB free) holds it untouched and at 8, 4 and 2 bits.'"""
        d, held = self.device, [level for level, fits in self.fits.items() if fits]
        where = f"{d.name} ({format_gib(d.free)} of {format_gib(d.total)} free)"
        if not held:
            free, least = apart(d.free, min(self.needed.values()))
            where = f"{d.name} ({free} of {format_gib(d.total)} free)"
            return f"{where} does not hold it: that takes {least} at least."
        packed = [str(level) for level in held if level != UNTOUCHED]
        bits = " and ".join(filter(None, (", ".join(packed[:-1]), *packed[-1:])))
        said = (["untouched"] if UNTOUCHED in held else []) + ([f"at {bits} bits"] if bits else [])
        return f"{where} holds it {' and '.join(said)}."


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


def what_fits(
    info: ModelInfo, quantizer: Quantizer, devices: Sequence[Device], usage: Workload
) -> list[Fit]:
    """For each device, what the model takes with all layers at one level, untouched first. Raises
    UserError where it is not known what it keeps of a token."""
    cost = model_cost(info, quantizer)
    levels = sorted(cost.layers[0].packed, reverse=True)
    weights = {level: cost.total((level,) * info.num_layers) for level in levels}
    return [
        Fit(d, {level: memory_use(info, usage, w, d.reserve).total for level, w in weights.items()})
        for d in devices
    ]
