"""The memory budget's slider and the layers' heatmap: one component, no arithmetic in the browser.

`value` (browser -> Python) is what the user chose: {"budget": bytes, "pins": {"3": 4}}.
`table` (Python -> browser) is everything computed from it: all splits of the active ordering as
breakpoints, the scores, and every text the page shows. A drag only looks positions up.
"""

from __future__ import annotations

from typing import Any

import gradio as gr

from .base import AssetComponent

LARGEST_BUDGET = 2**50


def as_level(value: Any) -> float:
    """'4' -> 4, 3.945 -> 3.945: whole levels are ints. Raises ValueError."""
    level = float(value)
    return int(level) if level.is_integer() else level


class BudgetBar(AssetComponent):
    """Slider, typed budget, one heatmap bar per scorer, and totals. Its `table` is an option.

    Events of the user: `.move` (another budget, at most ten times a second), `.settle` (where it
    ends) and `.pin` (the pins changed: answer with `gr.update(table=table(...))`, without a value,
    because the user may be dragging). `.change` is every other value, whoever set it.
    """

    asset = "heatmap"

    def preprocess(self, payload: Any) -> Any:
        """{"budget": int, "pins": {layer: level}}, checked as far as possible without the model;
        None as long as there is no model to choose for."""
        if payload is None:
            return None
        try:
            budget = int(payload["budget"])
            pins = {int(k): as_level(v) for k, v in payload.get("pins", {}).items()}
        except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
            raise gr.Error("The page sent a budget that cannot be read. Reload it.") from error
        return {"budget": max(0, min(budget, LARGEST_BUDGET)), "pins": pins}

    def postprocess(self, value: Any) -> Any:
        if value is None:
            return None
        # An int key in a result breaks Gradio's client.
        pins = {str(layer): level for layer, level in value.get("pins", {}).items()}
        return {"budget": value["budget"], "pins": pins}

    def api_info(self) -> dict[str, Any]:
        return {"type": "object", "description": '{"budget": bytes, "pins": {"layer": level}}'}
