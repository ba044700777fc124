"""NaN and infinity: never a result, never stored. Imports no torch."""

from __future__ import annotations

from ..core.errors import UserError

WIDER = {"float16": "bfloat16 or float32", "bfloat16": "float32"}


def not_numbers(what: str, dtype: str) -> UserError:
    """What a user reads where `what`, such as "Layer 3", gives NaN or infinity in this dtype."""
    if wider := WIDER.get(dtype):
        way_out = f"Choose {wider} as the number format"
    else:
        way_out = "The checkpoint's own weights are too large or damaged: choose another copy"
    return UserError(
        f"{what} gives values that are not numbers (NaN or infinity) in {dtype}. {way_out}."
    )
