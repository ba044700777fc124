"""Which levels of a model fit on a device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..core.budget import Workload, memory_use
from ..core.cost import model_cost
from ..core.memory import UNTOUCHED, apart, format_gib
from ..core.schema import ModelInfo
from .devices import Device
from .quantizers import Quantizer


@dataclass(frozen=True)
class Fit:
    """What one device holds of a model.

    `needed` are bytes by level, with all layers at that level: weights, cache, activations and
    reserve. `fits` says for each level whether the device has that many free.
    """

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
        """Returns a sentence such as 'NVIDIA L4 (21.50 GiB of 22.04 GiB free) holds it untouched
        and at 8, 4 and 2 bits.'"""
        d, held = self.device, [level for level, fits in self.fits.items() if fits]
        if not held:
            free, least = apart(d.free, min(self.needed.values()))
            return (
                f"{d.name} ({free} of {format_gib(d.total)} free) does not hold it: that takes "
                f"{least} at least."
            )
        packed = [str(level) for level in held if level != UNTOUCHED]
        bits = " and ".join(filter(None, (", ".join(packed[:-1]), *packed[-1:])))
        ways = (["untouched"] if UNTOUCHED in held else []) + ([f"at {bits} bits"] if bits else [])
        memory = f"{format_gib(d.free)} of {format_gib(d.total)} free"
        return f"{d.name} ({memory}) holds it {' and '.join(ways)}."


def what_fits(
    info: ModelInfo, quantizer: Quantizer, devices: Sequence[Device], usage: Workload
) -> list[Fit]:
    """Returns for each device what the model takes with all layers at one level, untouched first.

    Raises UserError where nobody knows what the model keeps of a token.
    """
    cost = model_cost(info, quantizer)
    levels = sorted(cost.layers[0].packed, reverse=True)
    weights = {level: cost.total((level,) * info.num_layers) for level in levels}
    return [
        Fit(d, {level: memory_use(info, usage, w, d.reserve).total for level, w in weights.items()})
        for d in devices
    ]
