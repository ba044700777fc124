"""Quantizers: a weight matrix + a level -> a packed weight. A new one is one file and one entry in
QUANTIZERS. Importing this room loads no torch, so bytes are known before torch is."""

from __future__ import annotations

from ...core.errors import UserError
from ...core.memory import UNTOUCHED, LayerCost, ModelCost
from ...core.schema import ModelInfo
from .base import Quantizer
from .quanto import Quanto

QUANTIZERS: dict[str, Quantizer] = {
    q.name: q
    for q in (
        Quanto("quanto", "Quanto, Max (the paper's)", "MaxOptimizer"),
        Quanto("quanto-hqq", "Quanto, HQQ", "HqqOptimizer"),
    )
}


def quantizer_named(name: str) -> Quantizer:
    if name not in QUANTIZERS:
        raise UserError(f"There is no quantizer '{name}'. Choose one of: {', '.join(QUANTIZERS)}.")
    return QUANTIZERS[name]


def model_cost(info: ModelInfo, quantizer: str) -> ModelCost:
    """Exact bytes of every layer at every level that the quantizer has, and untouched."""
    chosen = quantizer_named(quantizer)
    layers = []
    for layer in info.layers:
        packed = {
            level: sum(chosen.packed_bytes(w, level, info.dtype_bytes) for w in layer.weights)
            for level in chosen.levels
        }
        weights = sum(w.numel for w in layer.weights)
        packed[UNTOUCHED] = weights * info.dtype_bytes
        layers.append(LayerCost(weights, packed, layer.other_bytes))
    return ModelCost(tuple(layers), info.rest_bytes)


__all__ = ["QUANTIZERS", "Quantizer", "model_cost", "quantizer_named"]
