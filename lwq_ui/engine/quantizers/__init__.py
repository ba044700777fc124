"""Quantizers: weight matrices + levels -> packed weights. A new one is one file and one entry in
QUANTIZERS. Importing this room loads no torch, so that bytes are known before torch is loaded."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from ...core.errors import UserError
from ...core.schema import UNQUANTIZED, Evaluation
from .base import Machine, Option, Quantizer, Value
from .gptq import GPTQ
from .quanto import Quanto, QuantoClip, QuantoHQQ
from .spqr import SpQR

QUANTIZERS: dict[str, Quantizer] = {
    q.family: q for q in (Quanto(), QuantoHQQ(), QuantoClip(), GPTQ(), SpQR())
}
DEFAULT_QUANTIZER = QUANTIZERS["quanto"]


@cache
def quantizer_named(name: str) -> Quantizer:
    """Returns the quantizer of a name: a family's, such as 'quanto', or one with what is chosen
    otherwise than by default, such as 'quanto:group=64'. Raises UserError naming what there is."""
    family, _, choices = name.partition(":")
    if family not in QUANTIZERS:
        raise UserError(
            f"There is no quantizer '{family}'. Choose one of: {', '.join(QUANTIZERS)}."
        )
    quantizer = QUANTIZERS[family]
    chosen: dict[str, Value] = {}
    for choice in filter(None, choices.split(",")):
        key, _, text = choice.partition("=")
        if key == "text" and quantizer.calibrated:
            quantizer = with_text(quantizer, text)
            continue
        option = quantizer.options.get(key)
        if option is None:
            keys = ", ".join(quantizer.options) or "none"
            raise UserError(f"{quantizer.title} has no option '{key}', only: {keys}.")
        try:
            value = option.parse(text)
        except ValueError:
            raise UserError(
                f"{key}={text} is not possible for {quantizer.title}: it takes {option.expected}."
            ) from None
        if chosen.setdefault(key, value) != value:
            raise UserError(f"{family} is given two values of {key}. Choose one of them.")
    return type(quantizer)(**chosen).on_text(quantizer.text)


def with_text(quantizer: Quantizer, text: str) -> Quantizer:
    """Returns the quantizer on the text of a reference. Raises UserError where it is none, and
    where the quantizer is on another text already."""
    if quantizer.text not in ("", text):
        raise UserError(f"{quantizer.family} is given two values of text. Choose one of them.")
    try:
        return quantizer.on_text(text)
    except ValueError:
        raise UserError(
            f"text={text} is not possible for {quantizer.heading}: it takes the reference to a "
            "text, as configs and results have it. Name a file with --text."
        ) from None


def quantizers_of(evaluations: Iterable[Evaluation]) -> set[Quantizer]:
    """Returns those that packed what was measured."""
    return {quantizer_named(name) for name in {e.quantizer for e in evaluations} - {UNQUANTIZED}}


__all__ = [
    "DEFAULT_QUANTIZER",
    "QUANTIZERS",
    "Machine",
    "Option",
    "Quantizer",
    "Value",
    "quantizer_named",
    "quantizers_of",
]
