"""Signs that a checkpoint is quantized already, which leaves nothing to do here."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ...core.errors import UserError
from .headers import BITS, FLOATS
from .weight_files import read_json

QUANTIZED_FILES = (
    "hf_quant_config.json",  # ModelOpt
    "quantize_config.json",  # AutoGPTQ and GPTQModel
    "quant_config.json",  # AWQ
    "quantization_config.json",  # AutoRound
    "quanto_qmap.json",  # optimum-quanto
)
"""Files that only a quantized checkpoint has."""

PACKED_TYPES = [tag for tag in BITS if tag[0] == "F" and tag not in FLOATS]  # of 8 bits and fewer
PACKED_NAME = re.compile(
    r"(^|[._])(qweight|qzeros|g_idx|q_scale|q_weight|q_groups|q_perm|q_invperm|SCB|W_q|Qidxs|trellis"
    r"|absmax|quant_map|quant_state|nested_absmax|weight_packed|weight_shape|blocks$|codebooks"
    r"|(weight|input|output|proj|[qkv]|block|global)_scales?(_inv|_\d)?|scales"
    r"|weight_(zero_point|bias_correction)|zero_points?|_scale|_shift)(\.|$)"
)
"""Tensors that quantizers store beside or in place of a weight."""


def quantized_already(model_id: str) -> UserError:
    return UserError(
        f"'{model_id}' is quantized already. Choose the original model it was made from."
    )


def refuse_quantized(folder: Path, model_id: str) -> None:
    """Raises UserError where config.json cannot be read, or where it or a file beside it says that
    the weights are quantized."""
    config = read_json(folder / "config.json", model_id)
    if says_quantized(config) or any((folder / name).exists() for name in QUANTIZED_FILES):
        raise quantized_already(model_id)


def says_quantized(config: dict[str, Any]) -> bool:
    """Whether a config, or the config of a part of the model in it, has an entry of this kind."""
    kinds = ("quantization_config", "compression_config", "quantization")  # the last is MLX's
    return any(config.get(kind) for kind in kinds) or any(
        says_quantized(part) for part in config.values() if isinstance(part, dict)
    )
