"""Turns an ordering, pins and a budget into a split. All of it is pure and instant: the page's
slider only looks splits up."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .errors import UserError
from .memory import PRUNED, UNTOUCHED, ModelCost, apart, average_bits, format_gib

# One level per layer, in bits. Some quantizers have fractions; whole levels are ints.
Split = tuple[float, ...]


def whole(level: float) -> float:
    """Returns 4 for 4.0: results are stored under what a level looks like as JSON."""
    return int(level) if level == int(level) else level


def to_pack(splits: Iterable[Split]) -> list[tuple[int, float]]:
    """Returns every (layer, level) of the splits that a quantizer packs, in order."""
    pairs = {(i, level) for split in splits for i, level in enumerate(split)}
    return sorted((i, level) for i, level in pairs if level not in (PRUNED, UNTOUCHED))


def layers_at_high_level(available: float, all_low: float, all_high: float, layers: int) -> int:
    """Returns the paper's N_higher (section 3.2), clamped to 0..layers:

        floor((M_available - M_lower) / (M_higher - M_lower) * N_layers)

    The program itself uses `Breakpoints`, which have the exact bytes of each layer. Tests compare
    the two where all layers are equal.
    """
    # Multiplied before it is divided: in floating point, 1 / 49 * 49 is less than 1.
    count = math.floor((available - all_low) * layers / (all_high - all_low))
    return max(0, min(layers, count))


@dataclass(frozen=True)
class Breakpoints:
    """Every split that an ordering can give, from the smallest to the largest.

    Position k has the first k layers of `raised` at the high level, and takes `bytes[k]` in all.
    The budget is spent in order and stops at the first layer that does not fit. So positions are
    nested: a larger budget never takes a layer's bits away.
    """

    high: float
    base: Split
    raised: tuple[int, ...]
    bytes: tuple[int, ...]

    def split(self, position: int) -> Split:
        up = set(self.raised[:position])
        return tuple(self.high if i in up else level for i, level in enumerate(self.base))

    def position(self, budget: int) -> int:
        """Returns the largest position within `budget` bytes. Raises UserError where none is."""
        position = bisect_right(self.bytes, budget) - 1
        if position < 0:
            least = self.bytes[0]
            raise UserError(
                f"A budget of {apart(budget, least)[0]} is too small: the smallest split takes "
                f"{format_gib(least)} ({least} bytes)."
            )
        return position

    def position_for_average_bits(self, bits: float) -> int:
        """Returns the largest position with at most this many average bits. Raises UserError where
        none has."""
        total = len(self.base)
        floor = average_bits(self.base)
        if not bits >= floor - 1e-9:  # NaN too
            given, least = f"{bits:.4g}", f"{floor:.4g}"
            if given == least:
                given, least = f"{bits:.12g}", f"{floor:.12g}"
            raise UserError(
                f"An average of {given} bits is too small: the smallest split has {least}."
            )
        spare = bits * total - sum(self.base) + 1e-9
        for position, layer in enumerate(self.raised):
            spare -= self.high - self.base[layer]
            if spare < 0:
                return position
        return len(self.raised)

    def position_for_low_layers(self, low_layers: int) -> int:
        """Returns the position with exactly `low_layers` unpinned layers at the low level. Raises
        UserError where that is not possible."""
        if not 0 <= low_layers <= len(self.raised):
            raise UserError(
                f"{low_layers} low layers are not possible: "
                f"{len(self.raised)} layers are free to choose."
            )
        return len(self.raised) - low_layers


def breakpoints(
    cost: ModelCost,
    levels: tuple[float, float],
    ordering: Sequence[int],
    pins: Mapping[int, float] | None = None,
) -> Breakpoints:
    """Returns all splits of one ordering. `levels` is (high, low). `ordering` lists every layer,
    the most important first. `pins` fixes the levels of some layers; the rest share the budget.

    Raises UserError where the levels or pins do not fit the model or the quantizer.
    """
    pins = dict(pins or {})
    high, low = levels
    if not 0 < low < high:
        raise UserError(f"The levels {high:g}/{low:g} are not a high and a low one.")
    for layer, level in pins.items():
        if not 0 <= layer < len(cost.layers):
            raise UserError(
                f"There is no layer {layer} to pin: the model has layers 0 to "
                f"{len(cost.layers) - 1}."
            )
        if level not in cost.layers[layer].packed:
            possible = ", ".join(f"{b:g}" for b in sorted(cost.layers[layer].packed))
            raise UserError(
                f"Layer {layer} cannot be pinned to {level:g} bits, only to {possible}."
            )
    for layer, layer_cost in enumerate(cost.layers):
        lacking = {high, low} - set(layer_cost.packed)
        if lacking and layer not in pins:
            possible = ", ".join(f"{b:g}" for b in sorted(layer_cost.packed))
            raise UserError(f"Layer {layer} cannot have {min(lacking):g} bits, only {possible}.")
    base = tuple(pins.get(i, low) for i in range(len(cost.layers)))
    raised = tuple(i for i in ordering if i not in pins)
    sizes = [cost.total(base)]
    for i in raised:
        sizes.append(sizes[-1] + cost.layers[i].bytes(high) - cost.layers[i].bytes(low))
    return Breakpoints(high=high, base=base, raised=raised, bytes=tuple(sizes))
