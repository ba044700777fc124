"""What the model must fit into: a memory, and how the model is used in it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..core.budget import CARDS, RESERVE, Workload, memory_use, weights_budget
from ..core.errors import UserError
from ..core.memory import GIB, format_gib
from ..core.schema import ModelInfo
from .bar.card import Card
from .components.heatmap import LARGEST_BUDGET
from .status import error_html
from .templates import lines_html

if TYPE_CHECKING:
    from ..engine.devices import Device

NO_CARD, OWN_SIZE = "", "own"
CONTEXTS = tuple(2**k for k in range(11, 18))
LARGEST_USE = 2**30  # tokens, or sequences; more would be a slip of the finger
DEFAULT = Workload()


@dataclass(frozen=True)
class Target:
    """A memory of `size` bytes, of which the driver has `reserve`, and how the model is used in
    it."""

    title: str
    size: int
    reserve: int
    usage: Workload

    def weights_budget(self, info: ModelInfo, smallest: int) -> int:
        """Returns the bytes left for weights. Raises UserError where they are less than `smallest`,
        and where they are not known."""
        return weights_budget(self.size, info, self.usage, smallest, self.reserve)

    def card(self, info: ModelInfo) -> Card | None:
        """Returns what the page draws; None where it is unknown what the model keeps of a token."""
        try:
            beside = memory_use(info, self.usage, 0, self.reserve)
        except UserError:
            return None
        use = f"{self.usage.context:,} tokens of context, batch {self.usage.batch:,}"
        return Card(self.title, use, self.size, beside)


@dataclass(frozen=True)
class MemoryControls:
    """What the panel's fields say, as it was typed: a choice of the list of cards, the memory of
    another card in GiB, and how the model is used."""

    into: str = NO_CARD
    own_size: Any = 8
    context: Any = DEFAULT.context
    batch: Any = DEFAULT.batch
    cache_dtype: str = DEFAULT.cache_dtype

    def target(self, devices: Sequence[Device]) -> Target | None:
        """Returns what the model must fit into; None without a card. Raises UserError where what is
        typed is no number, and where a memory of this machine is gone."""
        if self.into == NO_CARD:
            return None
        usage = read_usage(self.context, self.batch, self.cache_dtype)
        return target(self.into, self.own_size, usage, devices)


def card_choices(devices: Sequence[Device]) -> list[tuple[str, str]]:
    """Returns (label, value) of all that a model can be fitted into, this machine's own memories
    first."""
    own = [(title, key) for key, (title, _, _) in own_memories(devices).items()]
    presets = [(title, title) for title, _ in CARDS]
    return [
        ("No card: I set the weights myself", NO_CARD),
        *own,
        *presets,
        ("A card of another size", OWN_SIZE),
    ]


def own_memories(devices: Sequence[Device]) -> dict[str, tuple[str, int, int]]:
    """Returns title, bytes and reserve of each memory of this machine, by its key.

    Each has two entries: all of it, and what was free when `devices` were looked at, which every
    load of a model does.
    """
    memories = {}
    for d in devices:
        number = f" {d.index + 1}" if sum(d.kind == other.kind for other in devices) > 1 else ""
        for what, size in (("", d.total), (", free at the last load", d.free)):
            title = f"{d.name}{number}{what}: {format_gib(size)}"
            memories[f"{d.kind} {d.index}{what}"] = title, size, d.reserve
    return memories


def context_choices(info: ModelInfo | None) -> list[tuple[str, int]]:
    """Returns (label, tokens): powers of two below the model's limit, and the limit."""
    limit = info.max_tokens if info else None
    steps = [(f"{n:,}", n) for n in CONTEXTS if limit is None or n < limit]
    return [*steps, *([(f"{limit:,} (its limit)", limit)] if limit else [])]


def kept_context(typed: Any, before: ModelInfo | None, info: ModelInfo | None) -> int:
    """Returns the context for another model: what was typed, as far as the model takes it.

    The limit of the model `before` counts as nothing typed: it was not chosen for its size.
    """
    try:
        tokens = read_tokens(typed)
    except UserError:
        tokens = DEFAULT.context
    if before and tokens == before.max_tokens:
        tokens = DEFAULT.context
    return min(tokens, info.max_tokens or tokens) if info else tokens


def target(into: str, own_size: Any, usage: Workload, devices: Sequence[Device] = ()) -> Target:
    """Returns a card of the list. Raises UserError where its size is no size, and where a memory of
    this machine is gone."""
    if into == OWN_SIZE:
        if not 0 < (own_size or 0) <= LARGEST_BUDGET / GIB:
            raise UserError("Give the memory of the card in GiB, such as 8 or 24.")
        return Target(f"Card of {own_size:g} GiB", int(own_size * GIB), RESERVE, usage)
    if into in (own := own_memories(devices)):
        return Target(*own[into], usage)
    if into not in (cards := dict(CARDS)):
        raise UserError("That memory is not known any more. Choose again what it must fit into.")
    return Target(into, cards[into], RESERVE, usage)


def read_usage(context: Any, batch: Any, cache: str) -> Workload:
    """Raises UserError where what is typed is no number."""
    tokens, texts = read_tokens(context), int(batch or 0)
    if max(tokens, texts) > LARGEST_USE:
        raise UserError("So large a context or batch fits nowhere: choose a smaller one.")
    return Workload(tokens, texts, cache)


def read_tokens(typed: Any) -> int:
    """Reads 8192, '8192', '8,192' or '8k'. Raises UserError for anything else."""
    text = str(typed).strip().lower().replace(",", "").removesuffix(" (its limit)")
    try:
        tokens = float(text[:-1]) * 1024 if text.endswith("k") else float(text)
    except ValueError:
        tokens = math.nan
    if not math.isfinite(tokens):
        raise UserError("The context is a number of tokens, such as 8192 or 8k.")
    return int(tokens)


def left_html(wanted: Target, info: ModelInfo, smallest: int, largest: int) -> str:
    """Returns what is left for the weights, in a sentence or two. The slider has from `smallest` to
    `largest` bytes."""
    try:
        left = wanted.weights_budget(info, smallest)
    except UserError as e:
        return error_html(str(e))
    more = ", more than the largest split takes" if left > largest else ""
    sentences = f"{format_gib(left)} are left for the weights{more}."
    if info.max_tokens and wanted.usage.context > info.max_tokens:
        sentences += (
            f" {info.model_id} was made for {info.max_tokens:,} tokens of context, not for "
            f"{wanted.usage.context:,}."
        )
    return lines_html(sentences)
