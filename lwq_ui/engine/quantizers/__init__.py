"""Quantizers: weight matrices + levels -> packed weights. A new one is one file and one entry in
QUANTIZERS. Importing this room loads no torch, so bytes are known before torch is."""

from __future__ import annotations

from functools import cache

from ...core.errors import UserError
from .base import Machine, Option, Quantizer
from .gptq import GPTQ
from .quanto import Quanto, QuantoClip, QuantoHQQ
from .spqr import SpQR

QUANTIZERS: dict[str, Quantizer] = {
    q.family: q for q in (Quanto(), QuantoHQQ(), QuantoClip(), GPTQ(), SpQR())
}
DEFAULT_QUANTIZER = QUANTIZERS["quanto"]


@cache
def quantizer_named(name: str) -> Quantizer:
    """'quanto', or with what is chosen otherwise than by default: 'quanto:group=64'. Raises
    UserError naming what there is."""
    family, _, told = name.partition(":")
    if family not in QUANTIZERS:
        raise UserError(
            f"There is no quantizer '{family}'. Choose one of: {', '.join(QUANTIZERS)}."
        )
    known = QUANTIZERS[family]
    chosen: dict[str, int] = {}
    for part in filter(None, told.split(",")):
        key, _, value = part.partition("=")
        option = known.options.get(key)
        if option is None:
            there = ", ".join(known.options) or "none"
            raise UserError(f"{known.title} has no option '{key}', only: {there}.")
        if not (value.isdecimal() and len(value) < 10 and option.check(int(value))):
            fits = ", ".join(map(str, option.choices)) or f"a number from 1 to {option.most}"
            raise UserError(f"{key}={value} is not possible for {known.title}: it takes {fits}.")
        if chosen.setdefault(key, int(value)) != int(value):
            raise UserError(f"{family} is given two values of {key}. Choose one of them.")
    return type(known)(**chosen)


__all__ = [
    "DEFAULT_QUANTIZER",
    "QUANTIZERS",
    "Machine",
    "Option",
    "Quantizer",
    "quantizer_named",
]
