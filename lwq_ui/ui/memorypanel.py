"""What the model must fit into: a card, a context and a batch. What they leave is the slider's
budget; without a card the panel is one closed list."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gradio as gr

from ..core.budget import CARDS, OWN_DTYPE, RESERVE, Workload, memory_use, weights_budget
from ..core.errors import UserError
from ..core.memory import GIB, format_gib
from ..core.schema import ModelInfo
from .bar.card import Card
from .components.heatmap import LARGEST_BUDGET
from .status import error_html
from .templates import lines_html

if TYPE_CHECKING:
    from ..engine.devices import Device
    from .layout import Parts
    from .state import Page

NO_CARD, OWN_SIZE = "", "own"
CONTEXTS = tuple(2**k for k in range(11, 18))
LARGEST_USE = 2**30  # tokens, or sequences; more would be a slip of the finger
CACHES = (
    ("The model's own", OWN_DTYPE),
    ("32 bits (float32)", "float32"),
    ("16 bits (float16, bfloat16)", "float16"),
    ("8 bits (float8)", "float8"),
)
DEFAULT = Workload()


@dataclass(frozen=True)
class Target:
    """`size` bytes of memory, of which `reserve` is the driver's, and how the model is used in
    it."""

    title: str
    size: int
    reserve: int
    usage: Workload

    def weights_budget(self, info: ModelInfo, smallest: int) -> int:
        """Bytes left for weights. Raises UserError where that is less than `smallest`, and where it
        is not known."""
        return weights_budget(self.size, info, self.usage, smallest, self.reserve)

    def card(self, info: ModelInfo) -> Card | None:
        """What the page draws; None where it is not known what the model keeps of a token."""
        try:
            beside = memory_use(info, self.usage, 0, self.reserve)
        except UserError:
            return None
        use = f"{self.usage.context:,} tokens of context, batch {self.usage.batch:,}"
        return Card(self.title, use, self.size, beside)


def build_memory(made: dict[str, Any], info: ModelInfo | None) -> None:
    with gr.Group():
        made["into"] = gr.Dropdown(
            card_choices(()),
            value=NO_CARD,
            label="What must it fit into?",
            elem_id="into",
        )
        with gr.Column(visible=False, elem_id="use") as made["use"]:
            made["own_size"] = gr.Number(
                8, label="Memory of the card in GiB", elem_id="own-size", visible=False
            )
            with gr.Row():
                made["context"] = gr.Dropdown(
                    context_choices(info),
                    value=kept_context(DEFAULT.context, None, info),
                    label="Context in tokens",
                    allow_custom_value=True,
                    elem_id="context",
                    min_width=120,
                )
                made["batch"] = gr.Number(
                    DEFAULT.batch,
                    label="Texts at once (batch)",
                    precision=0,
                    elem_id="batch",
                    min_width=120,
                )
            made["cache"] = gr.Dropdown(
                list(CACHES),
                value=DEFAULT.cache_dtype,
                label="Number format of the KV cache",
                elem_id="cache",
            )
            made["left"] = gr.HTML(elem_id="left", padding=True)
        made["fitted"] = gr.State(None)  # what the controls said when the slider was set last


def card_choices(devices: Sequence[Device]) -> list[tuple[str, str]]:
    """(label, value) of all that a model can be fitted into, this machine's own memories first."""
    here = [(title, key) for key, (title, _, _) in own_memories(devices).items()]
    presets = [(title, title) for title, _ in CARDS]
    return [
        ("No card: I set the weights myself", NO_CARD),
        *here,
        *presets,
        ("A card of another size", OWN_SIZE),
    ]


def own_memories(devices: Sequence[Device]) -> dict[str, tuple[str, int, int]]:
    """Title, bytes and reserve of each memory of this machine: all of it, and what was free when
    `devices` were looked at, which every load of a model does."""
    found = {}
    for d in devices:
        number = f" {d.index + 1}" if sum(d.kind == other.kind for other in devices) > 1 else ""
        for what, size in (("", d.total), (", free at the last load", d.free)):
            title = f"{d.name}{number}{what}: {format_gib(size)}"
            found[f"{d.kind} {d.index}{what}"] = title, size, d.reserve
    return found


def context_choices(info: ModelInfo | None) -> list[tuple[str, int]]:
    """Steps up to what the model takes, and that."""
    limit = info.max_tokens if info else None
    steps = [(f"{n:,}", n) for n in CONTEXTS if limit is None or n < limit]
    return [*steps, *([(f"{limit:,} (its limit)", limit)] if limit else [])]


def kept_context(typed: Any, before: ModelInfo | None, info: ModelInfo | None) -> int:
    """The context for another model: what was chosen, as far as the model takes it. All that the
    one before took was not a wish of its own."""
    try:
        tokens = read_tokens(typed)
    except UserError:
        tokens = DEFAULT.context
    if before and tokens == before.max_tokens:
        tokens = DEFAULT.context
    return min(tokens, info.max_tokens or tokens) if info else tokens


def target(
    into: str, own_size: Any, usage: Workload, devices: Sequence[Device] = ()
) -> Target | None:
    """What the panel's controls say; None without a card. Raises UserError where the card's size is
    none, and for a memory of this machine that is gone."""
    if into == NO_CARD:
        return None
    if into == OWN_SIZE:
        if not 0 < (own_size or 0) <= LARGEST_BUDGET / GIB:
            raise UserError("Give the memory of the card in GiB, such as 8 or 24.")
        return Target(f"Card of {own_size:g} GiB", int(own_size * GIB), RESERVE, usage)
    if into in (here := own_memories(devices)):
        return Target(*here[into], usage)
    if into not in (cards := dict(CARDS)):
        raise UserError("That memory is not known any more. Choose again what it must fit into.")
    return Target(into, cards[into], RESERVE, usage)


def read_usage(context: Any, batch: Any, cache: str) -> Workload:
    """Raises UserError for what is typed and is no number."""
    tokens, texts = read_tokens(context), int(batch or 0)
    if max(tokens, texts) > LARGEST_USE:
        raise UserError("So large a context or batch fits nowhere: choose a smaller one.")
    return Workload(tokens, texts, cache)


def read_tokens(typed: Any) -> int:
    """8192, '8192', '8,192' or '8k'."""
    text = str(typed).strip().lower().replace(",", "").removesuffix(" (its limit)")
    try:
        tokens = float(text[:-1]) * 1024 if text.endswith("k") else float(text)
    except ValueError:
        tokens = math.nan
    if not math.isfinite(tokens):
        raise UserError("The context is a number of tokens, such as 8192 or 8k.")
    return int(tokens)


class MemoryPanel:
    """What the page's handlers read from the panel and write to it."""

    parts: Parts
    page: Page

    def target(self, v: Mapping[Any, Any]) -> Target | None:
        """Raises UserError for what is typed and is no number."""
        p = self.parts
        if v[p.into] == NO_CARD:
            return None
        usage = read_usage(v[p.context], v[p.batch], v[p.cache])
        return target(v[p.into], v[p.own_size], usage, self.page.devices)

    def controls_of_memory(self, v: Mapping[Any, Any]) -> list[Any]:
        p = self.parts
        return [v[p.into], v[p.own_size], v[p.context], v[p.batch], v[p.cache]]

    def cards(self) -> dict[Any, Any]:
        """The choices of cards, with this machine's as far as they are known."""
        return {self.parts.into: gr.update(choices=card_choices(self.page.devices))}

    def asked(self, v: Mapping[Any, Any]) -> dict[Any, Any]:
        """The fields that the choice of a card needs."""
        p, into = self.parts, v[self.parts.into]
        return {
            p.use: gr.update(visible=into != NO_CARD),
            p.own_size: gr.update(visible=into == OWN_SIZE),
        }


def left_html(wanted: Target, info: ModelInfo, smallest: int, largest: int) -> str:
    """What is left for the weights, of which the slider has `smallest` to `largest` bytes, in one
    sentence or two."""
    try:
        left = wanted.weights_budget(info, smallest)
    except UserError as e:
        return error_html(str(e))
    more = ", more than the largest split takes" if left > largest else ""
    told = f"{format_gib(left)} are left for the weights{more}."
    if info.max_tokens and wanted.usage.context > info.max_tokens:
        told += (
            f" {info.model_id} was made for {info.max_tokens:,} tokens of context, not for "
            f"{wanted.usage.context:,}."
        )
    return lines_html(told)
