"""NaN and infinity: never a result, never stored."""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.errors import UserError

WIDER = {"float16": "bfloat16 or float32", "bfloat16": "float32"}


def not_numbers(what: str, dtype: str) -> UserError:
    """Returns what a user reads where `what`, such as "Layer 3", gives NaN or infinity in this
    dtype."""
    if wider := WIDER.get(dtype):
        way_out = f"Choose {wider} as the number format"
    else:
        way_out = "The checkpoint's own weights are too large or damaged: choose another copy"
    return UserError(
        f"{what} gives values that are not numbers (NaN or infinity) in {dtype}. {way_out}."
    )


def check_finite(model_id: str, name: str, tensor: Tensor) -> None:
    """Raises UserError where a model's tensor holds NaN or infinity. The sum answers in one quick
    pass for most tensors. It may overflow where every value is finite."""
    if torch.isfinite(tensor.sum(dtype=torch.float32)) or torch.isfinite(tensor).all():
        return
    raise UserError(
        f"The weights of '{model_id}' hold values that are not numbers (NaN or infinity), in "
        f"{name} first. Download it again or load it in another dtype."
    )
