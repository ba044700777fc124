"""The quantizer: the controls that make its name, the levels that it has, and what packing with it
costs before anything starts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import gradio as gr

from ...core.duration import duration
from ...core.errors import UserError
from ...core.memory import format_gib
from ...core.schema import ModelInfo
from ...core.store import Store
from ...engine.banks.packing_cost import packing_cost
from ...engine.kept_texts import SHIPPED
from ...engine.quantizers import (
    QUANTIZERS,
    Option,
    Quantizer,
    Value,
    quantizer_named,
    quantizers_of,
)
from ...engine.quantizers.calibrated import Calibrated
from ..components.changing import ChangingRadio, read_levels
from ..events import Answer
from ..restoring import at_same_place
from ..situation import Situation
from ..status import error_html
from ..strip import Updates, Values
from ..templates import lines_html, paragraphs_html
from .base import Panel

QUICK = 2  # seconds to pack; below nobody needs to know how long


class QuantizerPanel(Panel):
    name = "quantizer"

    def build(self) -> None:
        s = self.strip.opened
        chosen = s.controls.quantizer
        self.quantizer = gr.Dropdown(
            [(q.heading, family) for family, q in QUANTIZERS.items()],
            value=chosen.family,
            label="Quantizer",
            elem_id="quantizer",
        )
        with gr.Row(elem_id="options"):
            self.options = {
                key: option_field(key, option, visible=key in chosen.options)
                for key, option in all_options().items()
            }
        self.drawn = gr.State(chosen.name)  # the name that the levels and the bar are of
        self.text = gr.State(SHIPPED)  # the reference of what a calibrated one calibrates on
        self.levels = ChangingRadio(
            pair_choices(chosen),
            value=pair_value(s.controls.levels),
            label=levels_label(chosen),
            elem_id="levels",
        )
        # Drawn when a browser opens the page: this machine's speed is measured for it, which takes
        # a fifteenth of the time to the first page.
        self.packing = gr.HTML(elem_id="packing", padding=True)
        self.lost = gr.HTML(elem_id="lost-levels", elem_classes="lost", padding=True)
        self.inputs = {self.quantizer, self.drawn, self.text, self.levels, *self.options.values()}

    def read(self, v: Values) -> Mapping[str, Any]:
        """What is typed for another family than the drawn one is kept where it is possible."""
        family = v[self.quantizer]
        typed = {key: v[component] for key, component in self.options.items()}
        if family != v[self.drawn].partition(":")[0]:
            typed = kept_options(family, typed)
        said = {"levels": read_levels(v[self.levels]), "calibration": v[self.text]}
        try:
            quantizer = quantizer_typed(family, typed)
        except UserError as e:
            quantizer, said["quantizer_error"] = QUANTIZERS[family], str(e)
        return {**said, "quantizer": quantizer.on_text(v[self.text])}

    def set_controls(self, s: Situation) -> Updates:
        """The fields of the options are the user's while their family stays."""
        chosen, drawn = s.controls.quantizer, s.values[self.drawn]
        shown: Updates = {}
        family = chosen.family != drawn.partition(":")[0]
        if family or chosen != s.said.quantizer or s.controls.levels != s.said.levels:
            shown |= {
                self.quantizer: chosen.family,
                self.levels: gr.update(
                    label=levels_label(chosen),
                    choices=pair_choices(chosen),
                    value=pair_value(s.controls.levels),
                ),
            }
            for key, component in self.options.items():
                shown[component] = option_update(chosen, key)
        if chosen != s.said.quantizer:
            shown[self.drawn] = chosen.name
        if s.controls.calibration != s.said.calibration:
            shown[self.text] = s.controls.calibration
        return shown

    def draw(self, s: Situation) -> Updates:
        return {self.packing: self.packing_html(s), self.lost: lost_html(s)}

    def packing_html(self, s: Situation) -> str:
        """Returns what packing costs, or why what is typed is impossible."""
        try:
            where = (self.server.store, self.server.shelf.device(s.session.choice))
            quantizer, levels = s.quantizer, s.controls.levels
            lines = packing_text(s.info, quantizer, levels, *where), back_text(s)
            return lines_html(*filter(None, lines))
        except UserError as e:
            return error_html(str(e))

    def wire(self) -> None:
        self.events.on(self.levels.input, self.other_levels)
        changed = [c.input for c in (self.quantizer, *self.options.values())]
        gr.on(changed, None, js="() => document.body.classList.add('stale')")
        drawn = self.events.on(changed, self.other_quantizer)
        settled = self.events.on(
            drawn.then, self.fields_settled, draws=(), outputs=(self.packing,), chosen=False
        )
        settled.then(None, js="() => document.body.classList.remove('stale')")

    def other_levels(self, s: Situation) -> Answer:
        """Other levels have another range of bytes: the budget goes back to its middle."""
        return Answer(s.changed(budget=None, pins={}).controls)

    def other_quantizer(self, s: Situation) -> Answer:
        """Another quantizer, or other options. The pair of levels stays where it has that one, and
        so does the place of the slider."""
        before = quantizer_named(s.values[self.drawn])
        if s.controls.quantizer_error:
            error = error_html(s.controls.quantizer_error)
            return Answer(updates={self.packing: error}, drawn=False)
        drawn = {self.drawn: s.controls.quantizer.name}
        if s.session.info is None:
            return Answer(updates=drawn)
        if s.controls.quantizer == before:  # a list that is left as it was makes an event, too
            return Answer(updates={self.packing: self.packing_html(s)}, drawn=False)
        place = replace(s, controls=replace(s.said, quantizer=before, quantizer_error=""))
        return Answer(at_same_place(s, place), updates=drawn)

    def fields_settled(self, s: Situation) -> Answer:
        """Says again what the fields say once they have all arrived. An event of theirs may have
        begun while another quantizer's options were on their way, with a value of the former."""
        if s.session.info is None:
            return Answer(drawn=False)
        error = s.controls.quantizer_error
        text = error_html(error) if error else self.packing_html(s)
        return Answer(updates={self.packing: text}, drawn=False)


def back_text(s: Situation) -> str:
    """Returns whether a level of the pair only gives the file's weights back."""
    return s.given_back.sentence([(s.quantizer.name, s.controls.levels)])


def lost_html(s: Situation) -> str:
    """Returns whether a level of the pair is of no use, as far as it was measured."""
    c, others = s.controls, quantizers_of(s.session.evaluations)
    sentence = s.usability.of_levels(c.quantizer, c.levels, s.info.num_layers, others)
    return paragraphs_html(sentence) if sentence else ""


def option_field(key: str, option: Option, visible: bool) -> gr.Dropdown | gr.Number:
    """Returns the field of an option. It may hold another quantizer's choice for a moment, while
    its own are on their way."""
    shown: dict[str, Any] = {
        "value": option.default,
        "label": option.title,
        "visible": visible,
        "elem_id": f"option-{key}",
        "min_width": 80,
        **values_of(option),
    }
    return gr.Dropdown(allow_custom_value=True, **shown) if option.choices else gr.Number(**shown)


def option_update(chosen: Quantizer, key: str) -> Any:
    """Returns what the field of an option shows for a quantizer."""
    if (option := chosen.options.get(key)) is None:
        return gr.update(visible=False)
    return gr.update(visible=True, value=chosen.chosen[key], **values_of(option))


def values_of(option: Option) -> dict[str, Any]:
    """Returns what an option's field must be told of the values that it can have."""
    if option.choices:
        return {"choices": list(option.choices)}
    if option.is_whole:
        return {"precision": 0, "step": 1}
    return {"precision": None, "step": (option.most - option.least) / 100}


def kept_options(family: str, typed: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the family's options: what is typed, or the default where that is impossible."""
    kept = {}
    for key, option in QUANTIZERS[family].options.items():
        try:
            kept[key] = read_option(option, typed[key])
        except UserError:
            kept[key] = option.default
    return kept


def all_options() -> dict[str, Option]:
    """Returns the options of all families; the first family's where several have one."""
    options: dict[str, Option] = {}
    for quantizer in QUANTIZERS.values():
        options = {**quantizer.options, **options}
    return options


def pair_choices(chosen: Quantizer) -> list[tuple[str, str]]:
    return [(chosen.pair_title(pair), pair_value(pair)) for pair in chosen.pairs]


def levels_label(chosen: Quantizer) -> str:
    whole = all(isinstance(level, int) for level in chosen.levels)
    return f"{'Bits at the' if whole else 'The'} high and the low level"


def pair_value(pair: tuple[float, float]) -> str:
    high, low = pair
    return f"{high:g},{low:g}"


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
    if missing := quantizer.missing() or quantizer.missing_text(store):
        return missing
    high, low = (quantizer.level_title(level).partition(" (")[0] for level in levels)
    packed = max(1, math.floor(100 * (1 - cost.missing / cost.layers)))
    what = f"{packed} % is packed, the rest"
    if cost.missing == cost.layers:
        what = f"Packing all {info.num_layers} layers at {high} and at {low}"
    quick = cost.seconds < QUICK and not quantizer.calibrated
    time = "a moment" if quick else f"{duration(cost.seconds)}, once"
    sentences = f"{what}: {time}, {format_gib(cost.bytes)} on disk."
    if isinstance(quantizer, Calibrated):
        documents, tokens = quantizer.documents, quantizer.chosen["tokens"]
        count = f"{documents} document{'s' * (documents > 1)}"
        most = documents * min(tokens, info.max_tokens or tokens)
        sentences += (
            f" Calibrates on {count} of {quantizer.text_title}, "
            f"{most:,} tokens at most: once per level, then every split is at hand."
        )
    return sentences
