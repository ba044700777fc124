"""A card that the model shall fit into, and what each split leaves free of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...core.budget import MemoryUse
from ...core.memory import format_gib

# What a card holds beside the weights, as the page names it.
BESIDE = (("cache", "KV cache"), ("activations", "Activations"), ("reserve", "Driver"))


@dataclass(frozen=True)
class Card:
    """A memory of `size` bytes that the model shall fit into. `beside` is what it holds beside the
    weights, and `use` says what for."""

    title: str
    use: str
    size: int
    beside: MemoryUse


def card_parts(card: Card, weights: Sequence[int]) -> dict[str, Any]:
    """Returns the card's parts as they are drawn from left to right, without those of no bytes.

    `spare` is what each position leaves free of the card; it is negative where it does not fit.
    """
    beside = [(name, title, getattr(card.beside, name)) for name, title in BESIDE]
    return {
        "title": card.title,
        "use": card.use,
        "size": card.size,
        "beside": [
            {"name": name, "title": title, "bytes": size, "text": format_gib(size)}
            for name, title, size in beside
            if size
        ],
        "spare": [spare(card, size) for size in weights],
    }


def spare(card: Card, weights: int) -> int:
    return card.size - card.beside.total - weights


def spare_texts(card: Card | None, weights: int) -> dict[str, str]:
    if card is None:
        return {}
    left = spare(card, weights)
    size = format_gib(abs(left))
    return {
        "weights": format_gib(weights),
        "spare_title": "Too much" if left < 0 else "Free",
        "spare": size,
        "fits": f"Over by {size}" if left < 0 else f"{size} free",
    }
