"""The order of importance that the splits follow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gradio as gr

from ...core.orderings import DEFAULT_ORDERING, ORDERINGS, SCORERS
from ..components.changing import ChangingDropdown
from ..events import LIVE
from ..situation import Situation
from ..strip import Updates, Values
from .base import Panel


class OrderPanel(Panel):
    name = "order"

    def build(self) -> None:
        self.ordering = ChangingDropdown(
            [(o.title, o.name) for o in ORDERINGS.values() if not o.prunes],
            value=DEFAULT_ORDERING,
            label="Order of importance",
            info="the first layers in it keep the high level",
            elem_id="ordering",
        )
        self.seed = gr.Number(
            0, label="Seed of the random order", precision=0, elem_id="seed", visible=False
        )
        self.inputs = {self.ordering, self.seed}

    def read(self, v: Values) -> Mapping[str, Any]:
        return {"ordering": v[self.ordering], "seed": int(v[self.seed] or 0)}

    def set_controls(self, s: Situation) -> Updates:
        ordering, seed = s.controls.ordering, s.controls.seed
        shown: Updates = {}
        if ordering != s.said.ordering:
            shown[self.ordering] = gr.update(value=ordering)
        if seed != s.said.seed:
            shown[self.seed] = seed
        return shown

    def draw(self, s: Situation) -> Updates:
        choices = [
            (o.title, o.name)
            for o in ORDERINGS.values()
            if not (
                o.prunes
                or (o.scorer and SCORERS[o.scorer].measures_level and o.scorer not in s.scores)
            )
        ]
        return {self.ordering: gr.update(choices=choices)}

    def wire(self) -> None:
        self.events.on([self.ordering.input, self.seed.input])
        self.ordering.change(
            lambda name: gr.update(visible=ORDERINGS[name].seeded), self.ordering, self.seed, **LIVE
        )
