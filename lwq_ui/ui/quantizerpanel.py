"""Which quantizer, and what of it: the controls that make its name, the levels that it has, and
what packing with it costs before anything starts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import gradio as gr

from ..core.duration import duration
from ..core.errors import UserError
from ..core.memory import format_gib
from ..core.schema import ModelInfo
from ..core.store import Store
from ..engine.banks.packing_cost import packing_cost
from ..engine.quantizers import (
    DEFAULT_QUANTIZER,
    QUANTIZERS,
    Option,
    Quantizer,
    Value,
    quantizer_named,
)
from .components.changing import ChangingRadio
from .components.heatmap import as_level
from .status import error_html
from .templates import lines_html

if TYPE_CHECKING:
    from .layout import Parts
    from .selection import Selection
    from .server import Server
    from .session import Session

QUICK = 2  # seconds to pack; below nobody needs to know how long


def build_quantizer(made: dict[str, Any], note: str) -> None:
    chosen = DEFAULT_QUANTIZER
    made["quantizer"] = gr.Dropdown(
        [(q.heading, family) for family, q in QUANTIZERS.items()],
        value=chosen.family,
        label="Quantizer",
        elem_id="quantizer",
    )
    made["options"] = {}
    with gr.Row(elem_id="options"):
        for key, option in all_options().items():
            shown: dict[str, Any] = {
                "label": option.title,
                "visible": key in chosen.options,
                "elem_id": f"option-{key}",
                "min_width": 80,
            }
            shown |= {"value": option.default, **values_of(option)}
            if option.choices:  # another quantizer's, for a moment, while its own are on their way
                made["options"][key] = gr.Dropdown(allow_custom_value=True, **shown)
            else:
                made["options"][key] = gr.Number(**shown)
    made["drawn"] = gr.State(chosen.name)  # the name that the levels and the bar are of
    made["levels"] = ChangingRadio(
        pair_choices(chosen),
        value=pair_value(chosen.pairs[0]),
        label=levels_label(chosen),
        elem_id="levels",
    )
    made["packing"] = gr.HTML(note, elem_id="packing", padding=True)


def all_options() -> dict[str, Option]:
    """Returns the options of all families; the first family's where several have one."""
    options: dict[str, Option] = {}
    for quantizer in QUANTIZERS.values():
        options = {**quantizer.options, **options}
    return options


def values_of(option: Option) -> dict[str, Any]:
    """Returns what an option's field must be told of the values that it can have."""
    if option.choices:
        return {"choices": list(option.choices)}
    if option.is_whole:
        return {"precision": 0, "step": 1}
    return {"precision": None, "step": (option.most - option.least) / 100}


def pair_choices(chosen: Quantizer) -> list[tuple[str, str]]:
    return [(chosen.pair_title(pair), pair_value(pair)) for pair in chosen.pairs]


def levels_label(chosen: Quantizer) -> str:
    whole = all(isinstance(level, int) for level in chosen.levels)
    return f"{'Bits at the' if whole else 'The'} high and the low level"


def pair_value(pair: tuple[float, float]) -> str:
    high, low = pair
    return f"{high:g},{low:g}"


def levels_of(value: str) -> tuple[float, float]:
    high, low = value.split(",")
    return as_level(high), as_level(low)


def quantizer_typed(family: str, typed: Mapping[str, Any]) -> Quantizer:
    """Returns the quantizer with all options, from what is `typed` in their fields. Raises
    UserError for what is impossible."""
    options = QUANTIZERS[family].options
    chosen = (
        f"{key}={option.format(read_option(option, typed[key]))}" for key, option in options.items()
    )
    return quantizer_named(f"{family}:{','.join(chosen)}")


def read_option(option: Option, typed: Any) -> Value:
    """Returns the value that is typed. Raises UserError where the option cannot have it."""
    try:
        return option.parse(typed)
    except ValueError:
        raise UserError(f"{option.title}: choose {option.expected}.") from None


def packing_text(
    info: ModelInfo,
    quantizer: Quantizer,
    levels: tuple[float, float],
    store: Store,
    device: str,
) -> str:
    """Returns what it takes to have every layer at both levels, in words."""
    splits = [(level,) * info.num_layers for level in levels]
    cost = packing_cost(info, quantizer, splits, store, device)
    if not cost.missing:
        return "Packed already: every split is at hand at once."
    if missing := quantizer.missing():
        return missing
    high, low = (quantizer.level_title(level).partition(" (")[0] for level in levels)
    packed = max(1, math.floor(100 * (1 - cost.missing / cost.layers)))
    what = f"{packed} % is packed, the rest"
    if cost.missing == cost.layers:
        what = f"Packing all {info.num_layers} layers at {high} and at {low}"
    quick = cost.seconds < QUICK and not quantizer.calibrated
    time = "a moment" if quick else f"{duration(cost.seconds)}, once"
    sentences = f"{what}: {time}, {format_gib(cost.bytes)} on disk."
    if quantizer.calibrated:
        documents, tokens = quantizer.chosen["documents"], quantizer.chosen["tokens"]
        most = documents * min(tokens, info.max_tokens or tokens)
        sentences += (
            f" Calibrates on {documents} document{'s' * (documents > 1)} of the shipped text, "
            f"{most:,} tokens at most: once per level, then every split is at hand."
        )
    return sentences


def note(server: Server, session: Session, selection: Selection) -> str:
    if session.info is None:
        return ""
    where = (server.store, server.shelf.device(session.choice))
    return lines_html(packing_text(session.info, selection.quantizer, selection.levels, *where))


class QuantizerPanel:
    """What the page's handlers read from the panel and write to it."""

    parts: Parts
    server: Server

    def quantizer(self, v: Mapping[Any, Any]) -> Quantizer:
        """Returns what is chosen, with its options. Raises UserError where that is impossible."""
        p = self.parts
        return quantizer_typed(v[p.quantizer], {key: v[c] for key, c in p.options.items()})

    def options_kept(self, v: Mapping[Any, Any]) -> dict[Any, Any]:
        """Returns the chosen family's options: what is typed, or the default where that is
        impossible."""
        p, kept = self.parts, {}
        for key, option in QUANTIZERS[v[p.quantizer]].options.items():
            try:
                kept[p.options[key]] = read_option(option, v[p.options[key]])
            except UserError:
                kept[p.options[key]] = option.default
        return kept

    def controls_of_quantizer(self, selection: Selection) -> dict[Any, Any]:
        """Returns the controls that say the same as the selection, and the fields that it needs."""
        p, chosen = self.parts, selection.quantizer
        shown = {
            p.quantizer: chosen.family,
            p.drawn: chosen.name,
            p.levels: gr.update(
                label=levels_label(chosen),
                choices=pair_choices(chosen),
                value=pair_value(selection.levels),
            ),
        }
        for key, component in p.options.items():
            shown[component] = gr.update(visible=False)
            if option := chosen.options.get(key):
                shown[component] = gr.update(
                    visible=True, value=chosen.chosen[key], **values_of(option)
                )
        return shown

    def packing(self, session: Session, selection: Selection, v: Mapping[Any, Any]) -> str:
        """Returns what packing costs, or why what is typed is impossible."""
        try:
            self.quantizer(v)
        except UserError as e:
            return error_html(str(e))
        return note(self.server, session, selection)
