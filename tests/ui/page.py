"""What the tests of the whole page share: what a user does on it, and what the user sees."""

from __future__ import annotations

import json
import re
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

from lwq_ui.core.allocation import breakpoints
from lwq_ui.core.built_in import DEMO
from lwq_ui.core.cost import model_cost
from lwq_ui.core.curves import curves
from lwq_ui.core.orderings import QUICK_SCORERS, rank_layers
from lwq_ui.core.run import Run
from lwq_ui.core.schema import Evaluation, Metric
from lwq_ui.core.settings import Settings
from lwq_ui.engine.checkpoints.source import Source
from lwq_ui.engine.quantizers import quantizer_named

READY = "The demo model is ready"
RANGE = "#bar .range"
WAIT = 60_000  # milliseconds; what is waited for takes a few seconds on an idle machine

# Follows what the page asks of its server: how much of it is under way, and the bodies of what was
# answered. Gradio aborts the stream of its jobs' results when no job is left.
WATCH = """
window.lwqAsked = { underWay: 0, answered: [] };
const ask = window.fetch;
window.fetch = (what, options = {}) => {
  const answer = ask(what, options);
  const url = what.url ?? String(what);
  if (url.includes('heartbeat')) return answer;
  lwqAsked.underWay += 1;
  const end = () => { lwqAsked.underWay -= 1; };
  const signal = options.signal ?? what.signal;
  if (url.includes('queue/data')) signal.addEventListener('abort', end, { once: true });
  else
    answer
      .then((response) => response.clone().text())
      .then(() => lwqAsked.answered.push(String(options.body)))
      .catch(() => {})  // an answer that was given up is the page's to report
      .finally(end);
  return answer;
};
"""


# ---- models to load


def save_llama(folder, layers, seed):
    """A random Llama with the demo model's tokenizer; with another seed it is another one."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(Settings(cache=folder).demo_model)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=layers,
        num_attention_heads=2,
        max_position_embeddings=128,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(seed)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_known(page, folder):
    """A model of which a sweep was measured: made up so that LIM's splits are much better than all
    others. Nothing of it has to be computed."""
    from lwq_ui.engine import jobs
    from lwq_ui.engine.records import evaluation_key

    save_llama(folder, layers=6, seed=6)
    run = Run(page.settings, page.store)
    loaded = jobs.load(str(folder), "cpu", "auto", run)
    scores = jobs.score(loaded, QUICK_SCORERS, page.shipped_text, run)
    values = {name: s.values for name, s in scores.items()}
    right = {"lim": 54, "reverse-lim": 30, "zd": 42, "reverse-zd": 36, "first": 45, "last": 27}
    lines = curves([*right, "random"], values, 6, (4, 2))
    counts = {
        split: right.get(line.ordering, 32) for line in reversed(lines) for split in line.splits
    }
    for split, count in counts.items():
        items = [float(i < count) for i in range(60)]
        acc = {"acc": Metric(sum(items) / 60, 0.05, 60)}
        e = Evaluation("minimal_pairs", split, "quanto", acc, {"acc": items}, 60, 1.0)
        task = page.tasks["minimal_pairs"]
        key = evaluation_key(loaded.info, task, split, quantizer_named("quanto"), 60)
        page.store.write(key, e.to_json())
    return SimpleNamespace(folder=folder, values=values, lim=lines[0].splits)


def link_few_results(folder):
    """The assets, with the demo model's shipped results of uniform splits only: a page that has
    less to draw."""
    shipped = Settings(cache=folder)
    demo = Source(DEMO, shipped.demo_model).fingerprint()[:16]
    for path in shipped.assets.iterdir():
        if path != shipped.shipped:
            (folder / path.name).symlink_to(path)
    for path in shipped.shipped.glob(f"*/{demo}/*.json"):
        value = json.loads(path.read_bytes())["value"]
        if len(set(value.get("split", ()))) < 2:
            link = folder / path.relative_to(shipped.assets)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path)
    return folder


# ---- what a user does and sees


def wait_for_status(page, pattern: str, timeout: float = WAIT) -> str:
    """Waits until the status line says it, and nothing runs any more."""
    page.wait_for_function(
        "pattern => { const line = document.querySelector('#status .idle span');"
        " return line && new RegExp(pattern).test(line.innerText); }",
        arg=pattern,
        timeout=timeout,
    )
    settle(page)  # the page is drawn once a job is over
    return page.inner_text("#status .idle span")


def wait_for_alert(page) -> str:
    """Waits for an error and returns it: one sentence or two, no traceback."""
    page.wait_for_selector("#error [role=alert]", timeout=WAIT)
    text = page.inner_text("#error [role=alert]").strip()
    assert "\n" not in text and text.endswith(".") and len(text) < 300
    return text


def wait_for_job(page, pattern: str = "%") -> None:
    """Waits until a job runs and says so."""
    page.wait_for_function(
        "pattern => { const line = document.querySelector('#status');"
        " return line?.querySelector('progress') && new RegExp(pattern).test(line.innerText); }",
        arg=pattern,
        timeout=WAIT,
    )


def wait_until(holds, seconds: float = 30) -> None:
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, "it did not come to pass"
        time.sleep(0.02)


def open_tab(page, name: str) -> None:
    """Opens it, and waits until its controls are there."""
    page.get_by_role("tab", name=name, exact=True).click()
    page.locator("[role=tabpanel]:visible").get_by_role("button").first.wait_for()


def choose(page, group: str, text: str) -> None:
    """A radio button or a checkbox."""
    page.locator(f"{group} label").filter(has_text=re.compile(rf"^\s*{text}\s*$")).click()


def pick(page, dropdown: str, text: str) -> None:
    page.locator(f"{dropdown} input").click()
    page.get_by_role("option", name=text, exact=True).click()


def measure_only(page, *titles: str) -> None:
    for box in page.locator("#tasks label").all():
        if box.locator("input").is_checked() != (box.inner_text().strip() in titles):
            box.click()


def load_model(page, name) -> None:
    page.fill("#model input", str(name))
    page.press("#model input", "Escape")  # the list of offers lies above the button
    page.click("#load")


def read_split(page, scorer: str = "lim") -> tuple[int, ...]:
    shown = page.locator(f"#bar [data-scorer={scorer}] .cell").evaluate_all(
        "cells => cells.map(c => [+c.dataset.layer, +c.dataset.bits])"
    )
    return tuple(bits for _, bits in sorted(shown))


def read_pins(page) -> dict[int, int]:
    shown = page.locator("#bar [data-scorer=lim] .pinned.cell").evaluate_all(
        "cells => cells.map(c => [+c.dataset.layer, +c.dataset.bits])"
    )
    return dict(shown)


def read_total(page, name: str) -> str:
    return page.inner_text(f"#bar [data-text={name}]")


def pin(page, layer: int) -> None:
    cell = page.locator(f'#bar [data-scorer=lim] [data-layer="{layer}"]')
    cell.click()
    page.wait_for_selector(f'#bar [data-scorer=lim] [data-layer="{layer}"].pinned')


def settle(page) -> None:
    """Waits until the server has answered everything and the page has drawn the answers. Does not
    wait for what begins later, such as a budget that is not posted yet."""
    page.evaluate("lwqAsked.quietFrames = 0")
    page.wait_for_function(
        "() => { lwqAsked.quietFrames = lwqAsked.underWay ? 0 : lwqAsked.quietFrames + 1;"
        " return lwqAsked.quietFrames > 3; }",
        polling="raf",
        timeout=WAIT,
    )


def press(page, *keys: str) -> None:
    """Presses keys on the slider, and waits until the server was told the budget where it ends."""
    page.evaluate("lwqAsked.answered = []")
    for key in keys:
        page.locator(RANGE).press(key)
    page.wait_for_function(  # the budget is posted at most every 100 ms
        """budget => lwqAsked.answered.some(body => body.includes(`"budget":${budget}`))""",
        arg=int(page.input_value(RANGE)),
        timeout=WAIT,
    )
    settle(page)


def to_position(page, steps: int) -> None:
    press(page, "Home", *["ArrowRight"] * steps)


def read_results(page) -> list[list[str]]:
    return page.locator("#results tbody tr").evaluate_all(
        "rows => rows.map(r => [...r.cells].map(c => c.innerText.split('\\n')[0].trim()))"
    )


def read_texts(page) -> list[str]:
    """What "Write something" shows, the original's text first."""
    return page.locator("#texts section p").evaluate_all("all => all.map(p => p.textContent)")


def read_points(page) -> list[list[float]]:
    """[average bits, value] of everything on the chart but bands and the ring."""
    return page.evaluate(
        "() => (document.querySelector('#chart .js-plotly-plot')?.data ?? [])"
        ".filter(t => !t.meta.of && t.name !== 'measured last')"
        ".flatMap(t => Array.from(t.x, (x, i) => [x, t.y[i]]))"
    )


def read_ring(page) -> list[float]:
    return page.evaluate(
        "() => [...(document.querySelector('#chart .js-plotly-plot')?.data ?? [])"
        ".filter(t => t.name === 'measured last').flatMap(t => [...t.x])]"
    )


def read_lines(page) -> dict[str, int]:
    """Name of each line on the chart -> its points."""
    return page.evaluate(
        "() => Object.fromEntries((document.querySelector('#chart .js-plotly-plot')?.data ?? [])"
        ".filter(t => t.line && !t.meta.of).map(t => [t.name, t.x.length]))"
    )


def wait_for_line(page, line: str) -> None:
    page.wait_for_function(
        "name => document.querySelector('#chart .js-plotly-plot')?.data"
        "?.some(t => t.name === name && t.x.length > 2)",
        arg=line,
        timeout=WAIT,
    )


def find_place(page, line: str, point: int) -> list:
    """x and y on the screen, and the split that the point stands for."""
    return page.evaluate(
        """([name, i]) => {
          const plot = document.querySelector('#chart .js-plotly-plot');
          const { xaxis, yaxis, _size: size } = plot._fullLayout;
          const trace = plot.data.find(t => t.name === name && t.x.length > 2);
          const box = plot.getBoundingClientRect();
          return [box.x + size.l + xaxis.l2p(trace.x[i]), box.y + size.t + yaxis.l2p(trace.y[i]),
                  trace.customdata[i]];
        }""",
        [line, point],
    )


def find_lone_point(page, line: str) -> int:
    """A point of the line that no other line has one near: a click means this one."""
    return page.evaluate(
        """name => {
          const plot = document.querySelector('#chart .js-plotly-plot');
          const { xaxis, yaxis } = plot._fullLayout;
          const at = (t, i) => [xaxis.l2p(t.x[i]), yaxis.l2p(t.y[i])];
          const line = plot.data.find(t => t.name === name && t.x.length > 2);
          const others = plot.data.filter(t => t !== line && t.customdata && t.visible === true)
            .flatMap(t => Array.from(t.x, (_, i) => at(t, i)));
          return Array.from(line.x).findIndex((_, i) => {
            const [x, y] = at(line, i);
            return others.every(([u, v]) => !(Math.hypot(u - x, v - y) < 12));
          });
        }""",
        line,
    )


def wait_for_chart(page) -> None:
    """Waits until the chart stays where it is: no answer can redraw it or move it any more."""
    page.locator("#chart").scroll_into_view_if_needed()
    settle(page)
    page.evaluate("lwqAsked.place = null")
    page.wait_for_function(
        """() => {
          const plot = document.querySelector('#chart .js-plotly-plot');
          const { x, y } = plot.getBoundingClientRect();
          const { xaxis, yaxis, width } = plot._fullLayout;
          const place = JSON.stringify([x, y, width, xaxis.range, yaxis.range]);
          const frames = lwqAsked.place === place ? lwqAsked.frames + 1 : 0;
          Object.assign(lwqAsked, { place, frames });
          return frames > 3;
        }""",
        polling="raf",
    )


def click_point(page, line: str, point: int) -> tuple[int, ...]:
    """Clicks it with the mouse, and returns the split that it stands for."""
    wait_for_chart(page)
    x, y, split = find_place(page, line, point)
    page.mouse.move(x - 3, y)
    page.mouse.move(x, y)
    page.wait_for_selector("#chart .hoverlayer .hovertext")
    click(page, x, y)
    return tuple(split)


def click(page, x: float, y: float) -> None:
    """Clicks the chart once its last click cannot make this one a double click."""
    page.wait_for_function(
        """() => {
          const plot = document.querySelector('#chart .js-plotly-plot');
          return !(Date.now() - plot._mouseDownTime <= plot._context.doubleClickDelay);
        }"""
    )
    page.mouse.click(x, y)


def wait_for_split(page, split) -> None:
    page.wait_for_function(
        "bits => JSON.stringify([...document.querySelectorAll('#bar [data-scorer=lim] .cell')]"
        ".sort((a, b) => a.dataset.layer - b.dataset.layer)"
        ".map(c => +c.dataset.bits)) === JSON.stringify(bits)",
        arg=list(split),
    )


def wait_for_forecast(page, pattern: str) -> str:
    page.wait_for_function(
        "p => new RegExp(p).test(document.querySelector('#forecast').innerText)",
        arg=pattern,
        timeout=WAIT,
    )
    return page.inner_text("#forecast")


def sweep_only(page, *names: str) -> None:
    for box in page.locator("#orderings label").all():
        if box.locator("input").is_checked() != (box.inner_text().strip() in names):
            box.click()


def export(page):
    open_tab(page, "Config")
    with page.expect_download() as download:
        page.click("#export")
    with open(download.value.path(), encoding="utf-8") as file:
        return download.value.suggested_filename, json.load(file)


def load_config(page, data) -> None:
    open_tab(page, "Config")
    text = data if isinstance(data, str) else json.dumps(data)
    with page.expect_file_chooser() as chooser:
        page.click("#import")
    chooser.value.set_files(
        {"name": "config.json", "mimeType": "application/json", "buffer": text.encode()}
    )


@contextmanager
def somebody_computes(world):
    """Another user's job holds the device until the block ends."""
    running, go = threading.Event(), threading.Event()

    def work(job):
        running.set()
        while not go.wait(0.01):
            job.run.check()

    job = world.worker.submit("somebody", work)
    assert running.wait(30)
    try:
        yield
    finally:
        go.set()
        assert job.done.wait(30)


def core_split(
    world, position, levels=(4, 2), ordering="lim", seed=0, pins=None, quantizer="quanto"
):
    """(split, bytes) of a slider position, from core alone."""
    cost = model_cost(world.info, quantizer_named(quantizer))
    ranked = rank_layers(ordering, world.scores, world.info.num_layers, seed)
    table = breakpoints(cost, levels, ranked, pins)
    return table.split(position), table.bytes[position]
