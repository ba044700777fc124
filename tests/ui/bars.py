"""A page that holds nothing but the budget bar, and what its tests do there."""

from __future__ import annotations

import json
import math
import random
import re
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest

from lwq_ui.core.allocation import breakpoints
from lwq_ui.core.budget import MemoryUse
from lwq_ui.core.choice import Choice
from lwq_ui.core.interpolation import Expected
from lwq_ui.core.memory import LayerCost, ModelCost, affine_bytes, format_gib, symmetric_bytes
from lwq_ui.core.orderings import ORDERINGS, REFERENCE_SCORER, rank_layers
from lwq_ui.core.origin import Origin
from lwq_ui.engine.quantizers import DEFAULT_QUANTIZER
from lwq_ui.engine.quantizers.quanto import Quanto

pytest.importorskip("gradio")

import gradio as gr

from lwq_ui.ui.bar.card import Card
from lwq_ui.ui.bar.expected import Expectation
from lwq_ui.ui.bar.table import bar_table
from lwq_ui.ui.components.heatmap import BudgetBar

WIDTHS = {4: 96, 24: 256, 32: 4096, 80: 8192, 126: 16384}  # layers -> hidden size
RANGE, FIELD = "#bar .range", "#bar .field"
# Those that the slider can follow without a measured score.
SPLITTING = [n for n, o in ORDERINGS.items() if not o.prunes and o.scorer != REFERENCE_SCORER]


@cache
def model_cost(n: int) -> ModelCost:
    """A Llama's layers; every seventh is wider, as hybrid models have them."""
    width = WIDTHS[n]

    def layer(wide: bool) -> LayerCost:
        mlp = width * (4 if wide else 3)
        shapes = [(width, width)] * 4 + [(mlp, width)] * 2 + [(width, mlp)]
        weights = sum(rows * columns for rows, columns in shapes)
        packed = {16: 2 * weights, 8: sum(symmetric_bytes(*s, 2) for s in shapes)}
        for bits in (4, 2):
            packed[bits] = sum(affine_bytes(*s, bits, 2) for s in shapes)
        return LayerCost(weights, packed, 4 * width)

    return ModelCost(tuple(layer(i % 7 == 3) for i in range(n)), rest_bytes=2 * 8192 * width)


@cache
def model_scores(n: int) -> dict[str, tuple[float, ...]]:
    rng = random.Random(n)
    ends = [math.exp(-i / 2.5) + 0.6 * math.exp((i - n + 1) / 2) for i in range(n)]
    return {
        "lim": tuple(-0.98 + 0.5 * e + 0.1 * rng.random() for e in ends),
        "zd": tuple(0.152 - 0.02 * i / n + 0.004 * rng.random() for i in range(n)),
    }


def allocate(n, levels, ordering, budget, pins) -> list[int]:
    """The paper's rule written the obvious way, without breakpoints."""
    cost, (high, low) = model_cost(n), levels
    split = [pins.get(i, low) for i in range(n)]
    for layer in rank_layers(ordering, model_scores(n), n, seed=0):
        if layer in pins:
            continue
        richer = [high if i == layer else level for i, level in enumerate(split)]
        if cost.total(richer) > budget:
            break
        split = richer
    return split


# By the number of high layers: measured at 0, interpolated at 1, unknown beyond 20.
EXPECTED = [
    *(Expected(90.0 - k, 1.25, measured=k % 2 == 0) for k in range(21)),
    *[None] * 4,
]

BESIDE = MemoryUse(weights=0, cache=3 * 2**20, activations=2**18, reserve=2**20)


def small_card(high: int) -> Card:
    """Holds the 24 layers' model with so many high layers, and nothing more."""
    points = breakpoints(model_cost(24), (4, 2), rank_layers("lim", model_scores(24), 24))
    return Card("Small card", "2,048 tokens", points.bytes[high] + BESIDE.total, BESIDE)


def choice_of(cost, levels, values, ordering="lim", pins=None) -> Choice:
    """A choice of a model whose bytes are made up, too."""
    info = SimpleNamespace(
        num_layers=len(cost.layers), origin=Origin(), grid=None, dtype="bfloat16"
    )
    choice = Choice(info, DEFAULT_QUANTIZER, levels, ordering, pins=pins or {})
    vars(choice).update(cost=cost, values=values)
    return choice


def first_value(cost, levels) -> dict[str, Any]:
    return {"budget": sum(cost.span(levels)) // 2, "pins": {}}


# ---- a page with the component, choices of model, levels and ordering, and what Python received


def small_page():
    def read(n, levels):
        high, low = levels.split("/")
        return int(n), (int(high), int(low))

    def make_table(n, levels, ordering, pins):
        n, levels = read(n, levels)
        return bar_table(choice_of(model_cost(n), levels, model_scores(n), ordering, pins=pins))

    def fresh(n, levels, ordering):
        value = first_value(model_cost(int(n)), read(n, levels)[1])
        return gr.update(value=value, table=make_table(n, levels, ordering, {}))

    def retable(n, levels, ordering, choice):
        return gr.update(table=make_table(n, levels, ordering, choice["pins"]))

    def imported(n, levels, ordering):
        value = {**first_value(model_cost(int(n)), read(n, levels)[1]), "pins": {2: 8, 5: 4}}
        return gr.update(value=value, table=make_table(n, levels, ordering, value["pins"]))

    def swept():
        scores = {**model_scores(24), "sensitivity": model_scores(24)["lim"]}
        slider = choice_of(model_cost(24), (4, 2), scores)
        return gr.update(
            table=bar_table(slider, Expectation("Perplexity", EXPECTED, [""] * len(EXPECTED)))
        )

    def carded(which):
        card = small_card(int(which)) if which else None
        return gr.update(
            table=bar_table(choice_of(model_cost(24), (4, 2), model_scores(24)), card=card)
        )

    def received(choice):
        return f"<output>{json.dumps(choice)}</output>"

    live = {
        "queue": False,
        "show_progress": "hidden",
        "trigger_mode": "always_last",
        "api_visibility": "private",
    }
    with gr.Blocks(analytics_enabled=False) as page:
        layers = gr.Radio([str(n) for n in WIDTHS], value="24", elem_id="layers")
        levels = gr.Radio([f"{h}/{low}" for h, low in Quanto.pairs], value="4/2", elem_id="levels")
        ordering = gr.Radio(SPLITTING, value="lim", elem_id="ordering")
        load = gr.Button("Load config", elem_id="load")
        sweep = gr.Button("Sweep", elem_id="sweep")
        card = gr.Radio(["", "12", "24"], value="", elem_id="fits")
        cost = model_cost(24)
        bar = BudgetBar(
            first_value(cost, (4, 2)),
            table=bar_table(choice_of(cost, (4, 2), model_scores(24))),
            elem_id="bar",
        )
        seen = gr.HTML(elem_id="seen")
        choices = [layers, levels, ordering]
        bar.change(received, bar, seen, **live)
        bar.pin(retable, [*choices, bar], bar, **live)
        ordering.change(retable, [*choices, bar], bar, **live)
        for choice in (layers, levels):
            choice.change(fresh, choices, bar, **live)
        load.click(imported, choices, bar, **live)
        sweep.click(swept, None, bar, **live)
        card.change(carded, card, bar, **live)
    return page


def ready(page):
    page.wait_for_selector("#bar .cell")
    return page


def choose(page, what, name):
    page.locator(f"#{what} label").filter(has_text=re.compile(rf"^\s*{name}\s*$")).click()


def choose_model(page, n, levels=(4, 2)):
    high, low = levels
    choose(page, "layers", n)
    page.wait_for_function(f"document.querySelectorAll('#bar .cell').length === {2 * n}")
    choose(page, "levels", f"{high}/{low}")
    page.wait_for_function(
        "([high, low]) => document.querySelector('#bar .legend').innerText.includes("
        "`${high}-bit layer\\n`) && document.querySelector('#bar .legend').innerText"
        ".includes(`${low}-bit layer\\n`)",
        arg=[high, low],
    )


# One call: move the slider to each budget and read what the page shows.
SWEEP = """budgets => {
  const bar = document.querySelector('#bar'), range = bar.querySelector('.range');
  const split = s => [...bar.querySelectorAll(`[data-scorer=${s}] .cell`)]
    .sort((a, b) => a.dataset.layer - b.dataset.layer).map(c => +c.dataset.bits);
  return budgets.map(budget => {
    range.value = budget;
    range.dispatchEvent(new Event('input', {bubbles: true}));
    const text = Object.fromEntries([...bar.querySelectorAll('.totals [data-text]')]
      .map(node => [node.dataset.text, node.textContent]));
    return {budget: +range.value, lim: split('lim'), zd: split('zd'), text};
  });
}"""


def check_every_breakpoint(page, n, levels, ordering="lim", pins=None) -> None:
    cost, pins = model_cost(n), pins or {}
    points = breakpoints(cost, levels, rank_layers(ordering, model_scores(n), n), pins)
    least, most = (cost.total((level,) * n) for level in (levels[1], levels[0]))
    edges = sorted({size + by for size in points.bytes for by in (-1, 0, 1)})
    edges = [budget for budget in edges if least <= budget <= most]
    assert len(edges) > 2 * len(points.raised)
    for shown in page.evaluate(SWEEP, edges):
        assert shown["budget"] in edges
        split = allocate(n, levels, ordering, shown["budget"], pins)
        assert shown["lim"] == shown["zd"] == split
        size = cost.total(split)
        text = shown["text"]
        assert text["size"] == format_gib(size)
        assert text["bytes"] == f"{size:,} bytes"
        assert text["average"] == f"{sum(split) / n:.2f}"
        assert text["per_weight"] == f"{cost.bits_per_weight(split):.2f}"
        assert [int(text["high"]), int(text["low"])] == [split.count(level) for level in levels]


def committed(page, wanted: str):
    """Waits until Python has received a choice for which the JavaScript expression holds."""
    page.wait_for_function(
        "wanted => { const text = document.querySelector('#seen output')?.innerText;"
        " return text && new Function('choice', `return ${wanted}`)(JSON.parse(text)); }",
        arg=wanted,
    )
    return json.loads(page.inner_text("#seen output"))


def cell(page, layer, scorer="lim"):
    return page.locator(f'#bar [data-scorer={scorer}] [data-layer="{layer}"]')


def high_layers(page, scorer="lim") -> int:
    return page.locator(f"#bar [data-scorer={scorer}] .cell.high").count()
