"""What stands where on the page. What it does is in events.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gradio as gr

from ..core.memory import DTYPES
from ..core.orderings import ALIKE, ALIKE_TITLE, ORDERINGS
from ..engine.devices import DEVICES
from ..engine.quantizers import QUANTIZERS
from ..engine.tasks.presets import PRESETS
from .blocks import Blocks
from .components.base import read_asset
from .components.changing import ChangingDropdown
from .components.curvechart import CurveChart
from .components.heatmap import BudgetBar
from .components.modelfield import ModelField
from .memorypanel import build_memory
from .modelcard import loaded_card, scored_html
from .paper_views import PAIR, THREE, VIEWS
from .quantizerpanel import build_quantizer, note
from .selection import QUICK, Selection
from .server import Server
from .session import Session
from .status import status_html
from .templates import render
from .wording import plain_title

SHIPPED, OWN, PG19 = "Shipped", "My file", "PG19"
BY_ORDER, BY_QUANTIZER = "orders", "quantizers"


MEASURE = {
    BY_ORDER: "Measure every order at this budget",
    BY_QUANTIZER: "Measure every quantizer at this budget",
    ALIKE: "Measure all layers alike, and mixes of the same size",
}
PROMPT = "The old house stood at the end of the lane, and"


@dataclass(frozen=True)
class Parts:
    """The components that events touch."""

    demo: gr.Blocks
    session: gr.State
    status: gr.HTML
    error: gr.HTML
    stop: gr.Button
    model: ModelField
    device: gr.Dropdown
    dtype: gr.Dropdown
    load: gr.Button
    look: gr.Button
    card: gr.HTML
    text: gr.Radio
    own_text: gr.File
    score: gr.Button
    measure: gr.Button
    scored: gr.HTML
    quantizer: gr.Dropdown
    options: Mapping[str, gr.Dropdown | gr.Number]
    drawn: gr.State
    levels: gr.Radio
    packing: gr.HTML
    ordering: ChangingDropdown
    seed: gr.Number
    into: gr.Dropdown
    use: gr.Column
    own_size: gr.Number
    context: gr.Dropdown
    batch: gr.Number
    cache: gr.Dropdown
    left: gr.HTML
    fitted: gr.State
    bar: BudgetBar
    tasks: gr.CheckboxGroup
    others: gr.Dropdown
    quick: gr.Radio
    evaluate: gr.Button
    truth: gr.HTML
    views: Mapping[str, gr.Button]
    orderings: gr.CheckboxGroup
    also: gr.Dropdown
    sweep_levels: gr.Radio
    every: gr.Radio
    other: gr.Dropdown
    sweep: gr.Button
    how_long: gr.Button
    forecast: gr.HTML
    versus: gr.Radio
    compare: gr.Button
    comparison: gr.HTML
    metric: gr.Dropdown
    axis: gr.State
    beside: gr.State
    chart: CurveChart
    kept: gr.HTML
    results: gr.HTML
    sizes: gr.HTML
    disk: gr.HTML
    clear_disk: gr.Button
    redraw: gr.Number
    prompt: gr.Textbox
    write_seed: gr.Number
    length: gr.Slider
    write: gr.Button
    original: gr.Textbox
    quantized: gr.Textbox
    export: gr.Button
    file: gr.DownloadButton
    config: gr.UploadButton

    @property
    def starters(self) -> list[Any]:
        return [
            self.load,
            self.look,
            self.score,
            self.measure,
            self.evaluate,
            self.sweep,
            self.how_long,
            self.compare,
            self.write,
            self.config,
        ]


def build(server: Server) -> Parts:
    """The page as it opens: with the demo model's layers where their scores are known."""
    parts: dict[str, Any] = {}
    session = server.opening_session()
    selection = Selection()
    with Blocks(title="LWQ Explorer", analytics_enabled=False, fill_width=True) as demo:
        parts["session"] = gr.State(session)
        parts["axis"] = gr.State("bits")
        parts["beside"] = gr.State(None)  # the other model that is drawn
        # A running job changes it: the page is drawn again, from what the controls say by then.
        parts["redraw"] = gr.Number(0, label="Redraw", visible="hidden", elem_id="redraw")
        with gr.Row(elem_id="strip"):
            gr.HTML("<h1>LWQ Explorer</h1>", elem_id="head")
            with gr.Column(elem_id="messages", min_width=0):
                parts["status"] = gr.HTML(
                    status_html("Ready."), elem_id="status", js_on_load=read_asset("status.js")
                )
                parts["error"] = gr.HTML(elem_id="error")
            parts["stop"] = gr.Button(
                "Stop", size="sm", elem_id="stop", min_width=80, interactive=False
            )
        with gr.Row(equal_height=False, elem_id="columns"):
            with gr.Column(scale=1, min_width=290):
                build_model(parts, session)
                build_split(parts, note(server, session, selection))
                build_memory(parts, session.info)
                with gr.Row(elem_id="disk-row"):
                    parts["disk"] = gr.HTML(elem_id="disk")
                    parts["clear_disk"] = gr.Button(
                        "Clear unused", size="sm", elem_id="clear-disk", min_width=60
                    )
            with gr.Column(scale=3, min_width=320):
                known = session.info is not None
                parts["bar"] = BudgetBar(
                    selection.value(session) if known else None,
                    table=selection.table(session) if known else None,
                    elem_id="bar",
                    container=True,
                    padding=True,
                    visible=known or "hidden",
                )
                with gr.Tabs():
                    with gr.Tab("Evaluate", id="evaluate"):
                        build_evaluate(parts, server)
                    with gr.Tab("Write something", id="write"):
                        build_write(parts)
                    with gr.Tab("Config", id="config"):
                        build_config(parts)
                    with gr.Tab("What it means", id="meaning"):
                        gr.Markdown(meaning(), elem_id="meaning")
    return Parts(demo=demo, **parts)


def build_model(parts: dict[str, Any], session: Session) -> None:
    with gr.Group():
        parts["model"] = ModelField(elem_id="model", padding=True)
        with gr.Row():
            parts["device"] = gr.Dropdown(
                list(DEVICES),
                value="auto",
                label="Device",
                elem_id="device",
                min_width=100,
            )
            parts["dtype"] = gr.Dropdown(
                list(DTYPES),
                value="auto",
                label="Number format",
                elem_id="dtype",
                min_width=100,
            )
        with gr.Row(elem_classes="button-row"):
            parts["load"] = gr.Button("Load", elem_id="load", size="md", min_width=90)
            parts["look"] = gr.Button("Look first", elem_id="look", size="md", min_width=90)
        card = loaded_card(session.info) if session.info else ""
        parts["card"] = gr.HTML(card, elem_id="card", padding=True)
    with gr.Group():
        parts["text"] = gr.Radio(
            [SHIPPED, OWN, PG19],
            value=SHIPPED,
            label="Calibration text for LIM",
            elem_id="text",
        )
        parts["own_text"] = gr.File(
            label="A .txt file",
            file_types=[".txt"],
            elem_id="own-text",
            height=140,
            visible=False,
        )
        with gr.Row(elem_classes="button-row"):
            parts["score"] = gr.Button(
                "Score the layers", elem_id="score", size="md", min_width=110
            )
            parts["measure"] = gr.Button(
                "Measure sensitivity", elem_id="measure", size="md", min_width=110
            )
        scored = scored_html(session.info, Selection().scores(session)) if session.info else ""
        parts["scored"] = gr.HTML(scored, elem_id="scored", padding=True)


def build_split(parts: dict[str, Any], packing: str) -> None:
    with gr.Group():
        build_quantizer(parts, packing)
        parts["ordering"] = ChangingDropdown(
            [(o.title, o.name) for o in ORDERINGS.values() if not o.prunes],
            value="lim",
            label="Order of importance",
            info="the first layers in it keep the high level",
            elem_id="ordering",
        )
        parts["seed"] = gr.Number(
            0, label="Seed of the random order", precision=0, elem_id="seed", visible=False
        )


def build_evaluate(parts: dict[str, Any], server: Server) -> None:
    parts["tasks"] = gr.CheckboxGroup(
        [(task.title, name) for name, task in server.tasks.items()],
        value=[name for name in server.tasks if name in ("perplexity", "minimal_pairs")],
        label="Measure",
        elem_id="tasks",
    )
    with gr.Row(equal_height=True):
        parts["others"] = gr.Dropdown(
            [(title, name) for name, (title, _) in PRESETS.items()],
            value=[],
            label="Other lm-eval tasks (their data is downloaded)",
            multiselect=True,
            allow_custom_value=True,
            elem_id="others",
            scale=3,
            min_width=260,
        )
        parts["quick"] = gr.Radio(
            [(f"Quick: {QUICK} items", "quick"), ("All items", "all")],
            value="quick",
            label="On how many items of each",
            elem_id="quick",
            scale=2,
            min_width=260,
        )
    with gr.Tabs(elem_id="ways"):
        with gr.Tab("This split", id="split"):
            parts["evaluate"] = gr.Button(
                "Quantize and evaluate", variant="primary", elem_id="evaluate", size="md"
            )
            parts["truth"] = gr.HTML(elem_id="truth")
        with gr.Tab("Sweep", id="sweep"):
            build_sweep(parts)
        with gr.Tab("Does it matter?", id="matter"):
            parts["versus"] = gr.Radio(
                [("Orders", BY_ORDER), ("Quantizers", BY_QUANTIZER), (ALIKE_TITLE, ALIKE)],
                value=BY_ORDER,
                label="Compare",
                elem_id="versus",
            )
            parts["compare"] = gr.Button(
                MEASURE[BY_ORDER],
                variant="primary",
                elem_id="compare",
                size="md",
            )
            parts["comparison"] = gr.HTML(elem_id="comparison", elem_classes="figures")
    parts["metric"] = gr.Dropdown(
        [], label="Measure on the chart", elem_id="metric", visible="hidden"
    )
    parts["chart"] = CurveChart(elem_id="chart", visible="hidden", container=True, padding=True)
    parts["kept"] = gr.HTML(elem_id="kept")
    parts["results"] = gr.HTML(elem_id="results", elem_classes="figures")
    title = "What every split takes (the paper's table 4)"
    with gr.Accordion(title, open=False, elem_id="every-size"):
        parts["sizes"] = gr.HTML(
            elem_id="sizes", elem_classes="figures", js_on_load=read_asset("sizes.js")
        )


def build_sweep(parts: dict[str, Any]) -> None:
    gr.HTML(
        "Measures the splits of an order, from all layers high to all layers low: one line per "
        "order. As in the paper:",
        elem_id="about-sweep",
    )
    with gr.Row(elem_id="views"):
        parts["views"] = {
            name: gr.Button(view.title, size="sm", elem_id=name, min_width=150)
            for name, view in VIEWS.items()
        }
    parts["orderings"] = gr.CheckboxGroup(
        [*((o.title, o.name) for o in ORDERINGS.values()), (ALIKE_TITLE, ALIKE)],
        value=list(VIEWS["figure2"].orderings),
        label="Orders",
        elem_id="orderings",
    )
    parts["also"] = gr.Dropdown(
        [(plain_title(q), family) for family, q in QUANTIZERS.items()],
        value=[],
        multiselect=True,
        label="Also with",
        info="other quantizers, beside the chosen one",
        elem_id="also",
    )
    with gr.Row(equal_height=True):
        parts["sweep_levels"] = gr.Radio(
            [("High and low, as chosen", PAIR), ("Three: 8 / 4 / 2", THREE)],
            value=PAIR,
            label="Levels",
            elem_id="sweep-levels",
            min_width=260,
        )
        parts["every"] = gr.Radio(
            [("All", 1), ("Every 2nd", 2), ("Every 4th", 4)],
            value=4,
            label="Points of each line",
            elem_id="every",
            min_width=260,
        )
    parts["other"] = gr.Dropdown(
        [("None", "")],
        value="",
        label="Draw another model's results beside these",
        info="models that were measured before appear here",
        elem_id="other",
    )
    with gr.Row(equal_height=True):
        parts["sweep"] = gr.Button("Sweep", variant="primary", elem_id="sweep", size="md", scale=2)
        parts["how_long"] = gr.Button("How long?", elem_id="how-long", size="md", scale=1)
    parts["forecast"] = gr.HTML(elem_id="forecast")


def build_write(parts: dict[str, Any]) -> None:
    parts["prompt"] = gr.Textbox(
        PROMPT, label="Both models go on from here", lines=2, elem_id="prompt"
    )
    with gr.Row(equal_height=True):
        parts["write_seed"] = gr.Number(
            1, label="Seed", precision=0, elem_id="write-seed", min_width=90
        )
        parts["length"] = gr.Slider(
            10, 400, value=80, step=10, label="Tokens", elem_id="length", scale=2, min_width=160
        )
    parts["write"] = gr.Button("Write with both", variant="primary", elem_id="write", size="md")
    with gr.Row(equal_height=True):
        for name, label in (("original", "Unquantized"), ("quantized", "Quantized")):
            parts[name] = gr.Textbox(
                label=label, lines=8, max_lines=20, elem_id=name, interactive=False, min_width=260
            )


def build_config(parts: dict[str, Any]) -> None:
    gr.Markdown(
        "The config holds the model, the bits of every layer, pins, order, budget and what was "
        "measured. `python -m lwq_ui quantize config.json --out DIR` writes the quantized model.",
        elem_id="about-config",
    )
    with gr.Row():
        parts["export"] = gr.Button(
            "Download config (JSON)", variant="primary", elem_id="export", size="md"
        )
        parts["config"] = gr.UploadButton(
            "Load a config", file_types=[".json"], elem_id="import", size="md"
        )
    parts["file"] = gr.DownloadButton("The config", elem_id="file", visible="hidden")


def meaning() -> str:
    """Returns what the page's terms mean, as Markdown."""
    return render("meaning.md", orderings=ORDERINGS.values(), quantizers=QUANTIZERS.values())
