"""What a model costs in bytes under one quantizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from .memory import UNTOUCHED, LayerCost, ModelCost
from .origin import Grid
from .schema import ModelInfo, WeightSpec


class QuantizerSpec(Protocol):
    """What core needs to know of a quantizer; engine/quantizers has those that pack."""

    @property
    def name(self) -> str:
        """The name that results are stored under, with every option that is not the default."""

    @property
    def title(self) -> str:
        """The name that people read."""

    @property
    def levels(self) -> tuple[float, ...]:
        """The numbers of bits that it packs weights in."""

    @property
    def pairs(self) -> tuple[tuple[float, float], ...]:
        """The (high, low) levels that are offered, the usual pair first."""

    def packed_bytes(self, weight: WeightSpec, level: float, dtype_bytes: int) -> int:
        """Returns the bytes of one matrix at one level."""

    def grid(self, columns: int, level: float) -> Grid | None:
        """Returns the values that it rounds a row of so many columns to; None where they are no
        grid."""

    def level_title(self, level: float) -> str:
        """Returns '4 bits', or what else the level is called."""

    def pair_title(self, pair: tuple[float, float]) -> str:
        """Returns '4 / 2', or what else the pair is called."""

    def to_json(self) -> Mapping[str, Any]:
        """Returns what a config says of it."""


def model_cost(info: ModelInfo, quantizer: QuantizerSpec) -> ModelCost:
    """Returns the exact bytes of every layer, untouched and at every level of the quantizer."""
    layers = []
    for layer in info.layers:
        packed: dict[float, int] = {
            level: sum(quantizer.packed_bytes(w, level, info.dtype_bytes) for w in layer.weights)
            for level in quantizer.levels
        }
        weights = sum(w.numel for w in layer.weights)
        packed[UNTOUCHED] = weights * info.dtype_bytes
        layers.append(LayerCost(weights, packed, layer.other_bytes))
    return ModelCost(tuple(layers), info.rest_bytes)
