"""What a control can say. A browser, or whoever plays one, can send any value: what no control of
the page can hold is refused in one sentence before a handler uses it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import gradio as gr

from ..core.errors import UserError
from ..core.orderings import ORDERINGS
from .blocks import UNREADABLE
from .components.changing import ChangingDropdown, ChangingRadio, read_levels
from .components.curvechart import CurveChart
from .components.heatmap import BudgetBar
from .components.modelfield import ModelField
from .restoring import LARGEST_SEED

GROWING = ("into", "metric", "other")  # their lists come with models and devices


def check(values: Mapping[Any, Any]) -> None:
    """Raises UserError where a control has a value (`values`: component -> value) that it cannot
    have. States are the server's own and are not looked at."""
    for component, value in values.items():
        if isinstance(component, gr.State) or possible(component, value):
            continue
        name = getattr(component, "label", None)
        if isinstance(component, gr.Number | gr.Slider):
            least, most = limits(component)
            raise UserError(f"{name}: choose a number from {least:,.0f} to {most:,.0f}.")
        raise UserError(
            f"'{name}' has a value that it cannot have. Choose another one." if name else UNREADABLE
        )


def possible(component: Any, value: Any) -> bool:
    if isinstance(component, BudgetBar | CurveChart):
        return raises_nothing(component.preprocess, value)
    if isinstance(component, ChangingRadio):
        return isinstance(value, str) and raises_nothing(read_levels, value)
    if isinstance(component, ChangingDropdown):
        return isinstance(value, str) and value in ORDERINGS and not ORDERINGS[value].prunes
    if isinstance(component, gr.Slider):
        return is_number(value, *limits(component))
    if isinstance(component, gr.Checkbox):
        return isinstance(value, bool)
    if isinstance(component, gr.Number):
        return value is None or is_number(value, *limits(component))
    if isinstance(component, gr.CheckboxGroup) or getattr(component, "multiselect", False):
        return isinstance(value, list) and all(is_choice(component, each) for each in value)
    if isinstance(component, gr.Radio | gr.Dropdown):
        return is_choice(component, value)
    if isinstance(component, gr.Textbox | ModelField):
        return is_text(value)
    return value is None or is_text(value)  # the path of a file


def is_choice(component: Any, value: Any) -> bool:
    if component.elem_id in GROWING:
        return value is None or is_text(value)
    if getattr(component, "allow_custom_value", False):
        return is_text(value) or (is_number(value) and not component.multiselect)
    return isinstance(value, str | int) and value in [choice for _, choice in component.choices]


def is_text(value: Any) -> bool:
    """Text that can be written anywhere: half a surrogate pair cannot."""
    return isinstance(value, str) and raises_nothing(str.encode, value)


def is_number(value: Any, least: float = -math.inf, most: float = math.inf) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return math.isfinite(value) and least <= value <= most


def limits(component: Any) -> tuple[float, float]:
    least, most = component.minimum, component.maximum
    return -LARGEST_SEED if least is None else least, LARGEST_SEED if most is None else most


def raises_nothing(read: Callable[[Any], Any], value: Any) -> bool:
    try:
        read(value)
    except Exception:
        return False
    return True
