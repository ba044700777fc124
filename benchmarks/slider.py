"""Milliseconds from a movement of the budget slider to the painted frame, in Chromium.

    python -m benchmarks.slider [--steps 200] [--json FILE]

Two measures, because waiting for the screen's next refresh is no work of the page:

work    The input event is dispatched inside a requestAnimationFrame callback, which is where
        Chromium delivers real input too. The clock stops in the first task after that frame: by
        then style, layout and paint are done on the main thread. Waiting for the refresh is not
        in it. Every step jumps to a random budget, so a third of the layers change on average.
mouse   A real drag of the thumb. The clock starts at the event's own timestamp, when the browser
        received it, so waiting for the refresh and for whatever else the page is doing (its posts
        to Python among it) are in it.

"empty" is the same measurement where nothing but one text changes: the machine's own floor.
"new tables" clicks a layer every tenth step, so that Python sends new tables all the time.
"Plotly.react" draws the same two bars and levels with Plotly instead.
"""

from __future__ import annotations

import math
import random
import shutil
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from benchmarks.report import arguments, report
from lwq_ui.core.memory import LayerCost, ModelCost, affine_bytes

LAYERS = (24, 32, 80)
LEVELS = (4, 2)
WIDTH = 1024
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]

MEASURE = """
window.painted = () => new Promise(done => {
  const { port1, port2 } = new MessageChannel();
  port1.onmessage = () => done(performance.now());
  port2.postMessage(0);
});
window.measure = async (steps, move) => {
  const times = [];
  for (let k = 0; k < steps; k++)
    await new Promise(done => requestAnimationFrame(async () => {
      const start = performance.now();
      move(k);
      times.push(await painted() - start);
      done();
    }));
  return times;
};
window.watchMouse = () => {
  const times = [];
  addEventListener('pointermove', event => requestAnimationFrame(async () => {
    times.push(await painted() - event.timeStamp);
  }), true);
  return times;
};
"""
EMPTY = """steps => {
  const text = document.body.appendChild(document.createElement('p')).appendChild(new Text());
  return measure(steps, k => { text.data = k; });
}"""
SLIDER = """([budgets, pinEvery]) => {
  const range = document.querySelector('#bar .range');
  const cells = document.querySelectorAll('#bar .cell');
  return measure(budgets.length, k => {
    if (pinEvery && k % pinEvery === 0) cells[k % cells.length].click();
    range.value = budgets[k];
    range.dispatchEvent(new Event('input', { bubbles: true }));
  });
}"""
# Two heatmaps with the layers' importance, and under each the levels: what the component shows.
PLOTLY = """async ([shades, levels]) => {
  const layers = shades[0].map((_, i) => i);
  const figure = split => shades.flatMap((shade, bar) => [
    { type: 'heatmap', x: layers, y: ['layer'], z: [shade], text: [layers], showscale: false,
      texttemplate: '%{text}', yaxis: 'y' + (2 * bar + 1) },
    { type: 'heatmap', x: layers, y: ['bits'], z: [split], text: [split], showscale: false,
      texttemplate: '%{text}', zmin: 2, zmax: 4, yaxis: 'y' + (2 * bar + 2) }]);
  const layout = { height: 320, grid: { rows: 4, columns: 1, subplots: [['xy'], ['xy2'], ['xy3'], ['xy4']] } };
  const plot = document.body.appendChild(document.createElement('div'));
  await Plotly.newPlot(plot, figure(levels[0]), layout);
  return measure(levels.length, k => Plotly.react(plot, figure(levels[k]), layout));
}"""  # noqa: E501


def llama(n: int) -> ModelCost:
    width = 4096
    shapes = [(width, width)] * 4 + [(3 * width, width)] * 2 + [(width, 3 * width)]
    packed = {bits: sum(affine_bytes(*s, bits, 2) for s in shapes) for bits in LEVELS}
    layer = LayerCost(sum(r * c for r, c in shapes), packed, 4 * width)
    return ModelCost((layer,) * n, rest_bytes=4 * 32000 * width)


def made_up_scores(n: int) -> dict[str, list[float]]:
    rng = random.Random(n)
    return {
        "lim": [-0.98 + 0.4 * math.exp(-i / 3) + 0.1 * rng.random() for i in range(n)],
        "zd": [0.15 - 0.02 * i / n + 0.01 * rng.random() for i in range(n)],
    }


def choice_of(cost: ModelCost, scores: Mapping[str, Any], pins: Mapping[int, float]) -> Any:
    """A choice of a model whose bytes and scores are made up."""
    from lwq_ui.core.choice import Choice
    from lwq_ui.engine.quantizers import DEFAULT_QUANTIZER

    info: Any = SimpleNamespace(num_layers=len(cost.layers))
    choice = Choice(info, DEFAULT_QUANTIZER, LEVELS, pins=pins)
    vars(choice).update(cost=cost, values=scores)
    return choice


@contextmanager
def served(n: int) -> Iterator[str]:
    import gradio as gr

    from lwq_ui.ui.bar.table import bar_table
    from lwq_ui.ui.components.heatmap import BudgetBar

    cost, scores = llama(n), made_up_scores(n)
    live: dict[str, Any] = {
        "queue": False,
        "show_progress": "hidden",
        "trigger_mode": "always_last",
        "api_visibility": "private",
    }
    with gr.Blocks(analytics_enabled=False) as page:
        bar = BudgetBar(
            {"budget": sum(cost.span(LEVELS)) // 2, "pins": {}},
            table=bar_table(choice_of(cost, scores, {})),
            elem_id="bar",
        )
        note = gr.HTML()
        bar.change(lambda choice: f"{choice['budget']} bytes", bar, note, **live)
        bar.pin(
            lambda choice: gr.update(table=bar_table(choice_of(cost, scores, choice["pins"]))),
            bar,
            bar,
            **live,
        )
    _, url, _ = page.launch(
        server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, ssr_mode=False
    )
    try:
        yield url
    finally:
        page.close(verbose=False)


def drag(page: Any, selector: str, steps: int) -> list[float]:
    """Drags a range input's thumb from its middle to both ends and back, in `steps` moves."""
    box = page.locator(selector).bounding_box()
    y = box["y"] + box["height"] / 2
    times = page.evaluate_handle("watchMouse()")
    at = [0.5 + 0.5 * math.sin(2 * math.pi * k / steps) for k in range(steps + 1)]
    page.mouse.move(box["x"] + box["width"] / 2, y)
    page.mouse.down()
    for share in at[1:]:
        page.mouse.move(box["x"] + box["width"] * share, y)
    page.mouse.up()
    page.wait_for_timeout(100)
    return times.json_value()[-steps:]


def measure(browser: Any, n: int, steps: int) -> Iterator[tuple[str, str, list[float]]]:
    from plotly.offline import get_plotlyjs

    from lwq_ui.core.allocation import breakpoints
    from lwq_ui.core.orderings import rank_layers
    from lwq_ui.ui.bar.scores import shades

    cost, scores = llama(n), made_up_scores(n)
    points = breakpoints(cost, LEVELS, rank_layers("lim", scores, n))
    rng = random.Random(0)
    positions = [rng.randrange(n + 1) for _ in range(steps)]

    with served(n) as url:

        def open_page() -> Any:
            page = browser.new_page(viewport={"width": WIDTH, "height": 800})
            page.goto(url)
            page.wait_for_selector("#bar .cell")
            page.evaluate(MEASURE)
            page.evaluate(EMPTY, 30)  # the page settles
            return page

        page = open_page()
        yield "work", "empty", page.evaluate(EMPTY, steps)
        budgets = [points.bytes[k] for k in positions]
        yield "work", "slider", page.evaluate(SLIDER, [budgets, 0])
        yield "work", "slider, new tables", page.evaluate(SLIDER, [budgets, 10])
        page.close()

        page = open_page()
        page.evaluate(
            "document.body.insertAdjacentHTML('afterbegin',"
            " '<input id=bare type=range style=\"width:100%\">')"
        )
        yield "mouse", "empty", drag(page, "#bare", steps)
        page.close()
        page = open_page()
        yield "mouse", "slider", drag(page, "#bar .range", steps)
        page.close()

    page = browser.new_page(viewport={"width": WIDTH, "height": 800})
    page.set_content("<!doctype html><body></body>")
    page.add_script_tag(content=get_plotlyjs())
    page.evaluate(MEASURE)
    shade = [shades(values, name == "lim") for name, values in scores.items()]
    splits = [points.split(k) for k in positions]
    yield "work", "Plotly.react", page.evaluate(PLOTLY, [shade, splits])
    page.close()


def summary(times: Sequence[float]) -> dict[str, float]:
    cuts = statistics.quantiles(times, n=20, method="inclusive")
    return {"p50": round(statistics.median(times), 1), "p95": round(cuts[-1], 1)}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args()
    from playwright.sync_api import sync_playwright

    rows = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium") or shutil.which("google-chrome"), args=FLAGS
        )
        for n in LAYERS:
            for measured, what, times in measure(browser, n, options.steps):
                rows.append(
                    {"layers": n, "measure": measured, "what": what, **summary(times)}
                    | {"steps": len(times)}
                )
        browser.close()
    rows.sort(key=lambda row: (row["measure"] == "mouse", row["layers"]))
    report("slider: input event to painted frame, ms", rows, options.json)


if __name__ == "__main__":
    main()
