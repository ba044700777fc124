"""Exports: a config, or a model at a split -> files that other programs read. A new export is one
file and one entry here. Importing this room loads no torch."""

from __future__ import annotations

from ...core.errors import UserError
from ..quantizers import Quantizer
from .base import ConfigExport, ModelExport
from .gptq_checkpoint import GPTQCheckpoint
from .json_config import JsonConfig
from .quanto_checkpoint import QuantoCheckpoint

CONFIG_EXPORTS: dict[str, ConfigExport] = {e.name: e for e in (JsonConfig(),)}
MODEL_EXPORTS: dict[str, ModelExport] = {e.name: e for e in (QuantoCheckpoint(), GPTQCheckpoint())}


def model_export(quantizer: Quantizer) -> ModelExport:
    """Returns the export that holds what this quantizer packs. Raises UserError where there is
    none."""
    for export in MODEL_EXPORTS.values():
        if isinstance(quantizer, export.quantizer):
            return export
    raise UserError(
        f"No program reads a folder of {quantizer.heading}. Export the config as JSON instead."
    )


__all__ = ["CONFIG_EXPORTS", "MODEL_EXPORTS", "ConfigExport", "ModelExport", "model_export"]
