"""The whole program in a real browser, on the model that ships with it."""

from __future__ import annotations

import json
import re
import shutil
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from lwq_ui.core.allocation import breakpoints
from lwq_ui.core.config import Config
from lwq_ui.core.curves import curves
from lwq_ui.core.errors import Stopped, UserError
from lwq_ui.core.memory import format_gib
from lwq_ui.core.orderings import ORDERINGS, QUICK_SCORERS, rank_layers
from lwq_ui.core.schema import Evaluation, Metric
from lwq_ui.core.settings import Settings
from lwq_ui.engine.quantizers import model_cost

pytest.importorskip("gradio")

import app
from lwq_ui.ui.events import Pace
from lwq_ui.ui.layout import PROMPT
from lwq_ui.ui.selection import orders_of
from lwq_ui.ui.state import Choice

pytestmark = pytest.mark.browser

READY = "The demo model is ready"
RANGE = "#bar .range"
WAIT = 60_000  # milliseconds; what is waited for takes a few seconds on an idle machine


# ---- the program, and models to load into it


def few_results(folder):
    """The assets, with the shipped results of uniform splits only: a page that has less to draw."""
    shipped = Settings(cache=folder)
    for path in shipped.assets.iterdir():
        if path != shipped.shipped:
            (folder / path.name).symlink_to(path)
    for path in shipped.shipped.rglob("*.json"):
        value = json.loads(path.read_bytes())["value"]
        if len(set(value.get("split", ()))) < 2:
            link = folder / path.relative_to(shipped.assets)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path)
    return folder


@pytest.fixture(scope="module")
def world(chrome, tmp_path_factory):
    assets = few_results(tmp_path_factory.mktemp("assets"))
    settings = Settings(cache=tmp_path_factory.mktemp("cache"), assets=assets)
    demo, page = app.launch(settings, server_name="127.0.0.1", prevent_thread_lock=True, quiet=True)
    session = page.opening_session()
    yield SimpleNamespace(
        url=demo.local_url,
        page=page,
        worker=page.worker,
        shelf=page.shelf,
        info=session.info,
        scores={name: s.values for name, s in session.scores.items()},
    )
    demo.close(verbose=False)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A random Llama of 6 layers with the demo model's tokenizer; a second one differs."""
    return save_llama(tmp_path_factory.mktemp("models") / "tiny", layers=6, seed=1)


def save_llama(folder, layers, seed):
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


@pytest.fixture
def visit(world, open_page):
    """visit() -> the page of a new user, with the demo model ready."""

    def visit(**options):
        page = open_page(world.url, **{"viewport": {"width": 1280, "height": 900}, **options})
        told(page, READY)
        world.shelf.come("nobody")  # keeps the demo model in memory from test to test
        world.shelf.join("nobody", Choice())
        return page

    return visit


@pytest.fixture
def page(visit):
    return visit()


@pytest.fixture(autouse=True)
def nothing_is_left_running(world):
    yield
    eventually(lambda: not world.worker.busy)


# ---- what a user does and sees


def told(page, pattern: str, timeout: float = WAIT) -> str:
    """Waits until the status line says it, and nothing runs any more."""
    page.wait_for_function(
        "pattern => { const line = document.querySelector('#status .idle span');"
        " return line && new RegExp(pattern).test(line.innerText); }",
        arg=pattern,
        timeout=timeout,
    )
    return page.inner_text("#status .idle span")


def alert(page) -> str:
    """Waits for an error and returns it: one sentence or two, no traceback."""
    page.wait_for_selector("#error [role=alert]", timeout=WAIT)
    text = page.inner_text("#error [role=alert]").strip()
    assert "\n" not in text and text.endswith(".") and len(text) < 300
    return text


def running(page, pattern: str = "%") -> None:
    """Waits until a job runs and says so."""
    page.wait_for_function(
        "pattern => { const line = document.querySelector('#status');"
        " return line?.querySelector('progress') && new RegExp(pattern).test(line.innerText); }",
        arg=pattern,
        timeout=WAIT,
    )


def eventually(holds, seconds: float = 30) -> None:
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, "it did not come to pass"
        time.sleep(0.02)


def tab(page, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()


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


def split_of(page, scorer: str = "lim") -> tuple[int, ...]:
    shown = page.locator(f"#bar [data-scorer={scorer}] .cell").evaluate_all(
        "cells => cells.map(c => [+c.dataset.layer, +c.dataset.bits])"
    )
    return tuple(bits for _, bits in sorted(shown))


def pins_of(page) -> dict[int, int]:
    shown = page.locator("#bar [data-scorer=lim] .pinned.cell").evaluate_all(
        "cells => cells.map(c => [+c.dataset.layer, +c.dataset.bits])"
    )
    return dict(shown)


def total(page, name: str) -> str:
    return page.inner_text(f"#bar [data-text={name}]")


def pin(page, layer: int) -> None:
    cell = page.locator(f'#bar [data-scorer=lim] [data-layer="{layer}"]')
    cell.click()
    page.wait_for_selector(f'#bar [data-scorer=lim] [data-layer="{layer}"].pinned')


def to_position(page, steps: int) -> None:
    page.locator(RANGE).press("Home")
    for _ in range(steps):
        page.locator(RANGE).press("ArrowRight")
    page.wait_for_timeout(250)  # the budget is posted at most every 100 ms


def results(page) -> list[list[str]]:
    return page.locator("#results tbody tr").evaluate_all(
        "rows => rows.map(r => [...r.cells].map(c => c.innerText.split('\\n')[0].trim()))"
    )


def points(page) -> list[list[float]]:
    """[average bits, value] of everything on the chart but bands and the ring."""
    return page.evaluate(
        "() => (document.querySelector('#chart .js-plotly-plot')?.data ?? [])"
        ".filter(t => !t.meta.of && t.name !== 'measured last')"
        ".flatMap(t => Array.from(t.x, (x, i) => [x, t.y[i]]))"
    )


def ringed(page) -> list[float]:
    return page.evaluate(
        "() => [...(document.querySelector('#chart .js-plotly-plot')?.data ?? [])"
        ".filter(t => t.name === 'measured last').flatMap(t => [...t.x])]"
    )


@contextmanager
def somebody_computes(world):
    """Another user's job holds the device until the block ends."""
    running, go = threading.Event(), threading.Event()

    def work(job):
        running.set()
        while not go.wait(0.01):
            if job.stop.is_set():
                raise Stopped

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
    cost = model_cost(world.info, quantizer)
    ranked = rank_layers(ordering, world.scores, world.info.num_layers, seed)
    table = breakpoints(cost, levels, ranked, pins)
    return table.split(position), table.bytes[position]


# ---- the page opens


def test_the_page_opens_on_the_demo_model(world, visit):
    page = visit()
    n = world.info.num_layers
    for scorer in ("lim", "zd"):
        assert page.locator(f"#bar [data-scorer={scorer}] .cell").count() == n
    split = split_of(page)
    assert set(split) == {4, 2} and split == split_of(page, "zd")
    cost = model_cost(world.info, "quanto")
    assert total(page, "size") == format_gib(cost.total(split))
    assert total(page, "bytes") == f"{cost.total(split):,} bytes"
    assert total(page, "average") == f"{sum(split) / n:.2f}"
    assert total(page, "per_weight") == f"{cost.bits_per_weight(split):.2f}"
    assert f"{world.info.num_parameters:,}" in page.inner_text("#card")
    assert "50 documents" in page.inner_text("#scored")
    assert page.locator("#stop").is_disabled() and page.locator("#evaluate").is_enabled()
    assert {"unquantized", "all 4-bit", "all 2-bit"} <= {row[0] for row in results(page)}


def test_drag_and_arrow_keys_change_cells_and_totals(world, page):
    page.locator(RANGE).scroll_into_view_if_needed()
    box = page.locator(RANGE).bounding_box()
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] / 2, y)
    page.mouse.down()
    seen = []
    for i in range(20):
        page.mouse.move(box["x"] + box["width"] * (0.5 + 0.5 * i / 19), y)
        seen.append(sum(split_of(page)))
    page.mouse.up()
    assert seen == sorted(seen) and len(set(seen)) > 5
    n = world.info.num_layers
    assert split_of(page) == (4,) * n and total(page, "high") == str(n)
    for steps in (1, 2):
        page.locator(RANGE).press("ArrowLeft")
        split, size = core_split(world, n - steps)
        assert split_of(page) == split and total(page, "bytes") == f"{size:,} bytes"


@pytest.mark.parametrize("levels", [(8, 4), (8, 2)])
def test_levels_change_the_split_as_core_says(world, page, levels):
    high, low = levels
    choose(page, "#levels", f"{high} / {low}")
    page.wait_for_function(
        "text => document.querySelector('#bar .legend').innerText.includes(text)",
        arg=f"{high}-bit layer",
    )
    for position in (0, 5, 17):
        to_position(page, position)
        split, size = core_split(world, position, levels)
        assert split_of(page) == split and total(page, "bytes") == f"{size:,} bytes"


def test_every_ordering_and_seed_gives_cores_split(world, page):
    def shows(expected):
        page.wait_for_function(
            "bits => JSON.stringify([...document.querySelectorAll('#bar [data-scorer=lim] .cell')]"
            ".map(c => +c.dataset.bits)) === JSON.stringify(bits)",
            arg=list(expected),
        )

    to_position(page, 7)
    seen = set()
    offered = [o.name for o in ORDERINGS.values() if not o.prunes and o.name != "sensitivity"]
    for ordering in [*offered[1:], "lim"]:
        pick(page, "#ordering", ORDERINGS[ordering].title)
        split, size = core_split(world, 7, ordering=ordering)
        shows(split)
        assert total(page, "bytes") == f"{size:,} bytes"
        seen.add(split)
        assert page.locator("#seed").is_visible() == (ordering == "random")
    assert len(seen) == 7 == len(offered) - 1  # block influence ranks as LIM
    pick(page, "#ordering", "Random")
    for seed in (3, 11):
        page.locator("#seed input").fill(str(seed))
        page.locator("#seed input").press("Enter")
        shows(core_split(world, 7, ordering="random", seed=seed)[0])


def test_another_quantizer_keeps_budget_and_pins(world, page):
    to_position(page, 6)
    pin(page, 20)
    before = split_of(page)
    pick(page, "#quantizer", "Quanto, HQQ")
    page.wait_for_timeout(500)
    assert split_of(page) == before and pins_of(page) == {20: 4}


def test_a_pin_at_the_level_that_a_layer_has_anyway_holds(page):
    n = len(split_of(page))
    to_position(page, n)
    pin(page, 7)
    to_position(page, 0)
    assert split_of(page) == tuple(4 if i == 7 else 2 for i in range(n)) and pins_of(page) == {7: 4}
    page.locator('#bar [data-scorer=lim] [data-layer="7"]').click()  # to the low level, as all are
    page.wait_for_timeout(250)
    page.locator(RANGE).press("End")
    page.wait_for_timeout(250)
    assert split_of(page) == tuple(2 if i == 7 else 4 for i in range(n)) and pins_of(page) == {7: 2}


# ---- evaluate


def test_evaluate_then_again_from_the_cache(world, visit):
    page = visit()
    to_position(page, 4)
    pin(page, 13)
    split = split_of(page)
    assert split == core_split(world, page_position(world, split, {13: 4}), pins={13: 4})[0]
    average = f"{sum(split) / len(split):.2f}"
    known = len(results(page))
    measure_only(page, "Grammar pairs")
    page.click("#evaluate")
    assert f"({average} bits)" in told(page, "^Measured .* in ")
    page.wait_for_selector("#results tr.current")
    assert len(results(page)) == known + 1
    assert any(row[:2] == [f"{average} bits", average] for row in results(page))
    assert "quick" in page.inner_text("#results caption")

    page.wait_for_function(  # of what was measured, without being asked for it
        "() => document.querySelector('#chart .ytitle')?.textContent.startsWith('Grammar')"
    )
    (accuracy,) = {e.metrics["acc"].value for e in stored(world) if e.split == split}
    page.wait_for_function(  # drawn again at its end
        "() => document.querySelector('#chart .js-plotly-plot').data"
        ".some(t => t.name === 'measured last')"
    )
    near = [y for x, y in points(page) if x == pytest.approx(sum(split) / len(split))]
    assert near == [pytest.approx(accuracy)]
    assert ringed(page) == [pytest.approx(sum(split) / len(split))]

    page.click("#evaluate")
    assert "from the cache" in told(page, "^Measured before")
    assert len(results(page)) == known + 1

    # All items is another view: nothing was measured on all of them.
    choose(page, "#quick", "All items")
    page.wait_for_function("!document.querySelector('#results').innerText.includes('quick')")
    assert [average] != [row[1] for row in results(page)]

    # Reloading the page forgets choices, not results.
    page.reload()
    told(page, READY)
    assert any(row[:2] == [f"{average} bits", average] for row in results(page))


def stored(world):
    from lwq_ui.engine.records import known_evaluations

    return known_evaluations(world.info, world.page.tasks, world.page.store)


def page_position(world, split, pins):
    return sum(bits == 4 for i, bits in enumerate(split) if i not in pins)


def test_orders_are_found_again_from_bits(world):
    def order_of(split, values, seed):
        return orders_of([split], values, seed)[split]

    for ordering, title in (
        ("lim", "LIM"),
        ("reverse-zd", "ZD, other way"),
        ("last", "Last layers"),
    ):
        assert order_of(core_split(world, 9, ordering=ordering)[0], world.scores, 0) == title
    for seed, title in ((3, "Random 3"), (77, "Random 77")):
        split, _ = core_split(world, 9, ordering="random", seed=seed)
        assert order_of(split, world.scores, 77) == title
    assert order_of(split, world.scores, 0) is None
    top, _ = core_split(world, 1)  # layer 0 is the most important to both, and to no random one
    assert order_of(top, world.scores, 0) == "LIM = ZD = First layers"
    assert order_of((4,) * 24, world.scores, 0) is None
    split, _ = core_split(world, 9, (8, 4))
    assert order_of(split, {}, 0) is None and order_of(split, world.scores, 0) == "LIM"
    for ordering, levels in (("lim", (8, 4, 2)), ("prune-by-lim", (4, 2))):
        (line,) = curves([ordering], world.scores, 24, levels)
        assert order_of(line.splits[3], world.scores, 0) == ORDERINGS[ordering].title


def test_nothing_chosen_to_measure(page):
    measure_only(page)
    page.click("#evaluate")
    assert alert(page) == "Choose at least one thing to measure."
    assert page.locator("#evaluate").is_enabled()


def test_an_error_outlives_a_job_and_ends_with_the_next_success(world, page, monkeypatch):
    monkeypatch.setattr(world.page, "other_models", lambda info: [])
    measure_only(page, "Grammar pairs")
    tab(page, "Sweep")
    with somebody_computes(world):
        tab(page, "This split")
        page.click("#evaluate")
        running(page, "Waiting")
        tab(page, "Sweep")
        page.click("#figure3")
        assert alert(page).startswith("No other model is measured yet.")
        running(page, "Waiting")
    told(page, "^Measured")
    page.wait_for_timeout(500)
    assert alert(page).startswith("No other model")  # it came while the job ran
    page.click("#figure2")
    page.wait_for_selector("#error [role=alert]", state="detached")
    page.click("#figure3")
    alert(page)
    page.locator(RANGE).press("ArrowRight")
    page.wait_for_selector("#error [role=alert]", state="detached")


def test_stop_ends_a_job_within_two_seconds_and_the_next_one_runs(world, page):
    pick(page, "#ordering", "Random")
    page.locator("#seed input").fill("77")
    page.locator("#seed input").press("Enter")
    page.wait_for_timeout(300)
    measure_only(page, "Perplexity and divergence")
    choose(page, "#quick", "All items")
    page.click("#evaluate")
    running(page, r"Perplexity[\s\S]*[1-9]%")
    assert page.locator("#stop").is_enabled() and page.locator("#evaluate").is_disabled()
    assert page.locator("#load").is_disabled()
    clicked = time.monotonic()
    page.click("#stop")
    told(page, "^Stopped")
    took = time.monotonic() - clicked
    assert not world.worker.busy
    assert took < 4  # 2 on a machine that does nothing else
    assert page.locator("#stop").is_disabled()
    measure_only(page, "Grammar pairs")
    choose(page, "#quick", "Quick: 60 items")
    page.click("#evaluate")
    told(page, "^Measured")


def test_stop_while_waiting_behind_another_user(world, page):
    with somebody_computes(world):
        measure_only(page, "Grammar pairs")
        page.click("#evaluate")
        running(page, r"Waiting: 1 job is before yours\.")
        page.click("#stop")
        told(page, "^Stopped", timeout=4000)
        assert page.locator("#evaluate").is_enabled()
        page.click("#evaluate")
        running(page, r"Waiting: 1 job is before yours\.")
    told(page, "^Measured")


def test_an_error_in_the_program_is_one_sentence(world, page, monkeypatch):
    from lwq_ui.engine import jobs

    def fail(*args):
        raise RuntimeError("boom\nTraceback (most recent call last)")

    measure_only(page, "Grammar pairs")
    with monkeypatch.context() as patch:
        patch.setattr(jobs, "evaluate", fail)
        page.click("#evaluate")
        assert alert(page) == (
            "Something went wrong (RuntimeError: boom). "
            f"The details are in '{world.page.settings.cache / 'lwq.log'}'."
        )
    page.click("#evaluate")
    told(page, "^Measured")


# ---- sweep


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Of 6 layers, and nobody else's."""
    return save_llama(tmp_path_factory.mktemp("models") / "small", layers=6, seed=5)


@pytest.fixture(scope="module")
def known(world, tmp_path_factory):
    """A model of which a sweep was measured: made up so that LIM's splits are much better than all
    others. Nothing of it has to be computed."""
    from lwq_ui.engine import jobs
    from lwq_ui.engine.quantizers import quantizer_named
    from lwq_ui.engine.records import evaluation_key

    folder = save_llama(tmp_path_factory.mktemp("models") / "known", layers=6, seed=6)
    page, where = world.page, (lambda what, share: None, threading.Event())
    loaded = jobs.load(str(folder), "cpu", "auto", page.settings, page.store, *where)
    scores = jobs.score(loaded, QUICK_SCORERS, page.shipped_text, page.store, *where)
    values = {name: s.values for name, s in scores.items()}
    right = {"lim": 54, "reverse-lim": 30, "zd": 42, "reverse-zd": 36, "first": 45, "last": 27}
    lines = curves([*right, "random"], values, 6, (4, 2))
    of = {split: right.get(line.ordering, 32) for line in reversed(lines) for split in line.splits}
    for split, count in of.items():
        items = [float(i < count) for i in range(60)]
        acc = {"acc": Metric(sum(items) / 60, 0.05, 60)}
        e = Evaluation("minimal_pairs", split, "quanto", acc, {"acc": items}, 60, 1.0)
        task = page.tasks["minimal_pairs"]
        key = evaluation_key(loaded.info, task, split, quantizer_named("quanto"), 60)
        page.store.write(key, e.to_json())
    return SimpleNamespace(folder=folder, values=values, lim=lines[0].splits)


def lines_of(page) -> dict[str, int]:
    """Name of each line on the chart -> its points."""
    return page.evaluate(
        "() => Object.fromEntries((document.querySelector('#chart .js-plotly-plot')?.data ?? [])"
        ".filter(t => t.line && !t.meta.of).map(t => [t.name, t.x.length]))"
    )


def draws(page, line: str) -> None:
    page.wait_for_function(
        "name => document.querySelector('#chart .js-plotly-plot')?.data"
        "?.some(t => t.name === name && t.x.length > 2)",
        arg=line,
        timeout=WAIT,
    )


def place_of(page, line: str, point: int) -> list:
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


def lone_point(page, line: str) -> int:
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


def click_point(page, line: str, point: int) -> tuple[int, ...]:
    """Clicks it with the mouse, and returns the split that it stands for. A chart that is still
    redrawn or moved, as by a text above it that becomes longer, is waited for."""
    page.locator("#chart").scroll_into_view_if_needed()
    place = None
    while place != (place := place_of(page, line, point)):
        x, y, split = place
        page.mouse.move(x - 3, y)
        page.mouse.move(x, y)
        page.wait_for_timeout(400)
    page.mouse.click(x, y)
    return tuple(split)


def shows_split(page, split) -> None:
    page.wait_for_function(
        "bits => JSON.stringify([...document.querySelectorAll('#bar [data-scorer=lim] .cell')]"
        ".sort((a, b) => a.dataset.layer - b.dataset.layer)"
        ".map(c => +c.dataset.bits)) === JSON.stringify(bits)",
        arg=list(split),
    )


def forecast(page, pattern: str) -> str:
    page.wait_for_function(
        "p => new RegExp(p).test(document.querySelector('#forecast').innerText)",
        arg=pattern,
        timeout=WAIT,
    )
    return page.inner_text("#forecast")


def test_a_sweep_is_forecast_and_draws_a_line_per_order(world, page, small):
    load(page, small)
    told(page, "is loaded and scored")
    measure_only(page, "Grammar pairs")
    tab(page, "Sweep")
    few = forecast(page, r"^\d+ splits on 1 task\.")
    choose(page, "#every", "All")
    page.wait_for_function("few => document.querySelector('#forecast').innerText !== few", arg=few)
    page.click("#how-long")
    assert "on this machine" in forecast(page, "That takes")
    page.click("#sweep")
    told(page, "^Measured .*5 orders, 4/2 bits")
    draws(page, "LIM")
    assert set(lines_of(page)) >= {"LIM", "ZD", "Random", "Reverse LIM", "ZD, other way"}
    assert lines_of(page)["LIM"] >= 4
    assert "All of these" in forecast(page, "All of these")
    assert "LIM: 90 % of the 4-bit score" in page.inner_text("#kept")
    page.click("#sweep")
    assert "from the cache" in told(page, "^Measured before")


def test_a_stopped_sweep_keeps_what_it_has_and_goes_on(world, page, small):
    load(page, small)
    told(page, "is loaded and scored")
    measure_only(page, "Perplexity and divergence")
    tab(page, "Sweep")
    choose(page, "#every", "All")
    page.click("#sweep")
    # The first results rest on a part of the passages, and are on the chart while it runs.
    page.wait_for_function(
        "() => [...document.querySelectorAll('#results td')].some(c => /n 8$/.test(c.innerText))",
        timeout=WAIT,
    )
    page.click("#stop")
    told(page, "^Stopped")
    draws(page, "LIM")
    assert "n 8" in page.inner_text("#results")
    page.click("#sweep")
    told(page, r"^Measured \(")
    page.wait_for_function("!document.querySelector('#results').innerText.includes('n 8')")


def test_pruning_and_three_levels(world, page, small):
    load(page, small)
    told(page, "is loaded and scored")
    measure_only(page, "Grammar pairs")
    tab(page, "Sweep")
    choose(page, "#every", "All")
    page.click("#figure4")
    page.wait_for_function("document.querySelectorAll('#orderings input:checked').length === 3")
    page.click("#sweep")
    told(page, "^Measured")
    draws(page, "Prune by LIM")
    before = split_of(page)
    assert 0 in click_point(page, "Prune by LIM", 2)
    assert "cannot be loaded" in alert(page)
    assert split_of(page) == before

    page.click("#figure5")
    page.wait_for_function(
        "document.querySelector('#sweep-levels input:checked').value === 'three'"
    )
    page.click("#sweep")
    told(page, "8/4/2 bits")
    draws(page, "LIM")
    assert lines_of(page) == {"LIM": 3}  # none, one and two layers at 8 bits
    split = click_point(page, "LIM", 1)
    assert sorted(split) == [2, 2, 4, 4, 4, 8]
    told(page, "all layers are pinned")
    assert split_of(page) == split and len(pins_of(page)) == 6


def test_a_click_on_a_point_loads_exactly_that_split(world, page, known):
    load(page, known.folder)
    told(page, "is loaded and scored")
    draws(page, "Reverse LIM")
    for line, ordering, point in (("Reverse LIM", "Reverse LIM", 2), ("LIM", "LIM", 4)):
        split = click_point(page, line, point)
        told(page, f"^Loaded: .*{ordering}")
        shows_split(page, split)
        assert pins_of(page) == {}
        assert page.locator("#ordering input").input_value() == ordering
    assert split in known.lim


def test_the_slider_says_what_to_expect(world, page, known):
    load(page, known.folder)
    told(page, "is loaded and scored")
    page.wait_for_function(
        "document.querySelector('#bar').innerText.includes('Grammar pairs: accuracy')"
    )
    expected = "document.querySelector('#bar [data-text=expected]').innerText"
    to_position(page, 3)
    page.wait_for_function(f"{expected}=== '0.9'")
    thumb = page.locator(RANGE).input_value()
    pick(page, "#ordering", "Reverse LIM")
    page.wait_for_function(f"{expected}=== '0.5'")
    assert page.locator(RANGE).input_value() == thumb


def test_does_it_matter_here(world, page, known):
    load(page, known.folder)
    told(page, "is loaded and scored")
    tab(page, "Does it matter?")
    panel = page.locator("#comparison")
    panel.get_by_text("LIM beats random here.").wait_for()
    assert "60 items" in panel.inner_text() and "better than 3 of the 3" in panel.inner_text()
    # seven orders, of which random three times, and the mean of those
    eventually(lambda: panel.locator("tbody tr").count() == 10)
    pick(page, "#ordering", "Reverse LIM")
    panel.get_by_text("Reverse LIM does not beat random here by more than noise.").wait_for()
    panel.get_by_text("LIM beats random here.", exact=True).wait_for()
    page.locator(RANGE).press("End")
    panel.get_by_text("every order gives the same split").wait_for()


def test_every_order_is_measured_in_one_job(world, page, small):
    load(page, small)
    told(page, "is loaded and scored")
    measure_only(page, "Grammar pairs")
    tab(page, "Does it matter?")
    to_position(page, 2)
    page.click("#compare")
    told(page, "^Measured")
    page.wait_for_function(
        "() => { const text = document.querySelector('#comparison').innerText;"
        " return /random here/.test(text) && !/[Nn]ot measured/.test(text); }"
    )


def sweep_only(page, *names: str) -> None:
    for box in page.locator("#orderings label").all():
        if box.locator("input").is_checked() != (box.inner_text().strip() in names):
            box.click()


def test_quantizers_are_swept_together_and_a_click_loads_theirs(world, page, small):
    load(page, small)
    told(page, "is loaded and scored")
    measure_only(page, "Grammar pairs")
    tab(page, "Sweep")
    sweep_only(page, "LIM")
    choose(page, "#every", "All")
    pick(page, "#also", "Quanto, HQQ")
    forecast(page, r"^\d+ splits by 2 quantizers on 1 task\.")
    page.click("#sweep")
    told(page, "^Measured .*1 order, 4/2 bits, 2 quantizers")
    for line in ("LIM, Quanto, Max", "LIM, Quanto, HQQ"):
        draws(page, line)
    split = click_point(page, "LIM, Quanto, HQQ", 4)
    told(page, "^Loaded: .*LIM")
    shows_split(page, split)
    quantizer = page.locator("#quantizer input")
    eventually(lambda: quantizer.input_value() == "Quanto, HQQ")
    split = click_point(page, "LIM, Quanto, Max", lone_point(page, "LIM, Quanto, Max"))
    shows_split(page, split)
    eventually(lambda: quantizer.input_value().startswith("Quanto, Max"))
    assert "Quanto, HQQ" in page.inner_text("#results")


def test_quantizers_and_levels_in_between_are_compared(world, page, small, monkeypatch):
    from lwq_ui.engine.quantizers import QUANTIZERS

    for family in {*QUANTIZERS} - {"quanto", "quanto-hqq"}:  # those take longer
        monkeypatch.delitem(QUANTIZERS, family)
    load(page, small)
    told(page, "is loaded and scored")
    measure_only(page, "Grammar pairs")
    to_position(page, 3)
    tab(page, "Does it matter?")
    panel, button = page.locator("#comparison"), page.locator("#compare")
    choose(page, "#versus", "Quantizers")
    button.filter(has_text="Measure every quantizer at this budget").wait_for()
    button.click()
    told(page, r"^Measured.* \(every quantizer here\)")
    row = panel.locator("tbody tr").filter(has_text="Quanto, HQQ")
    row.filter(has_text=re.compile("bits on average.*±.*(no|better|worse)", re.DOTALL)).wait_for()
    choose(page, "#versus", "All layers alike")
    panel.get_by_text("has no level between 4 and 2 bits").wait_for()
    choose(page, "#levels", "8 / 2")
    panel.get_by_text("has no level between").wait_for(state="detached")
    button.filter(has_text="Measure all layers alike").click()
    told(page, r"^Measured.* \(all layers alike and mixes\)")
    panel.get_by_text("all layers at 4 bits.").wait_for()
    assert "Mix by LIM" in panel.inner_text() and panel.locator("tbody tr").count() == 1


def test_all_layers_alike_are_a_line_where_a_level_lies_in_between(world, page, tmp_path):
    load(page, save_llama(tmp_path / "alike", layers=4, seed=11))
    told(page, "is loaded and scored")
    measure_only(page, "Grammar pairs")
    tab(page, "Sweep")
    sweep_only(page, "All layers alike")
    forecast(page, "has no level between 4 and 2 bits.* Choose 8 / 2")
    page.click("#sweep")
    assert "has no level between" in alert(page)
    choose(page, "#levels", "8 / 2")
    forecast(page, r"^4 splits on 1 task\.")
    page.click("#sweep")
    told(page, r"^Measured.* \(1 order, 8/2 bits\)")
    draws(page, "All layers alike")
    split = click_point(page, "All layers alike", 1)
    shows_split(page, split)
    assert set(split) == {4}


def test_views_set_quantizers_and_levels(page):
    tab(page, "Sweep")
    quantizer, also = page.locator("#quantizer input"), page.locator("#also")
    page.click("#table3")
    eventually(lambda: quantizer.input_value().startswith("SpQR"))
    chosen = "boxes => boxes.filter(b => b.checked).map(b => b.closest('label').innerText.trim())"
    orders = page.locator("#orderings input")
    eventually(lambda: orders.evaluate_all(chosen) == ["LIM", "All layers alike"])
    eventually(lambda: page.locator("#levels input:checked").input_value() == "3.945,3.657")
    page.wait_for_selector("#bar .cell[data-bits='3.945']")
    page.click("#table2")
    eventually(lambda: quantizer.input_value().startswith("Quanto, Max"))
    eventually(lambda: orders.evaluate_all(chosen) == ["LIM"])
    eventually(lambda: page.locator("#levels input:checked").input_value() == "4,2")
    also.get_by_text("Quanto, HQQ").wait_for()
    assert "SpQR" not in also.inner_text()
    page.click("#figure2")
    eventually(lambda: "Quanto" not in also.inner_text())
    page.wait_for_selector("#bar .cell[data-bits='2']")


def test_another_model_is_drawn_beside(world, known, page):
    pick(page, "#metric", "Grammar pairs: accuracy")
    tab(page, "Sweep")
    page.click("#figure3")
    page.wait_for_function("document.querySelectorAll('#orderings input:checked').length === 1")
    page.locator("#other input").click()
    page.get_by_role("option", name=str(known.folder)).click()
    draws(page, "known, LIM")


def test_sensitivity_is_measured_for_one_level(world, page, small):
    load(page, small)
    told(page, "is loaded and scored")
    assert "Sensitivity at these bits: not measured" in page.inner_text("#scored")
    page.click("#measure")
    told(page, "^Sensitivity at 2 bits is measured")
    page.wait_for_selector("#bar [data-scorer=sensitivity] .cell")
    assert "Sensitivity at 2 bits: " in page.inner_text("#scored")
    pick(page, "#ordering", "Sensitivity")
    page.wait_for_function("document.querySelector('#bar .by').innerText.includes('Sensitivity')")
    choose(page, "#levels", "8 / 4")
    page.wait_for_function("!document.querySelector('#bar [data-scorer=sensitivity]')")
    page.wait_for_function("document.querySelector('#ordering input').value === 'LIM'")
    choose(page, "#levels", "8 / 2")
    page.wait_for_selector("#bar [data-scorer=sensitivity] .cell")


def test_a_task_that_cannot_be_had_does_not_keep_the_others(world, page, small, monkeypatch):
    from lwq_ui.engine import jobs

    shipped = jobs.task_named

    def named(name, settings):
        if name == "piqa":
            raise UserError("The data of 'piqa' cannot be downloaded: check the network.")
        return shipped(name, settings)

    monkeypatch.setattr(jobs, "task_named", named)
    load(page, small)
    told(page, "is loaded and scored")
    measure_only(page, "Grammar pairs")
    page.locator("#others input").fill("piqa")
    page.locator("#others input").press("Enter")
    page.wait_for_selector("#others >> text=piqa")
    page.click("#evaluate")
    assert alert(page) == "The data of 'piqa' cannot be downloaded: check the network."
    told(page, "^Measured")
    page.wait_for_selector("#results tr.current")
    assert page.locator("#evaluate").is_enabled()


def test_the_time_left_is_told_once_it_can_be():
    pace = Pace()
    assert pace.left(None, 0) == pace.left(0.0, 1) == pace.left(0.01, 2) == ""
    assert pace.left(0.2, 11) == "about 40 s left"
    assert pace.left(0.5, 51) == "about 50 s left"
    assert pace.left(0.02, 60) == ""  # the next part of the job
    assert pace.left(0.12, 120) == "about 9 min left"


# ---- write


def test_both_models_write_and_the_same_seed_writes_the_same(page):
    tab(page, "Write something")
    page.locator("#length input[type=number]").fill("40")
    page.locator("#length input[type=number]").press("Tab")
    texts = "['original', 'quantized'].map(n => document.querySelector(`#${n} textarea`).value)"
    page.click("#write")
    page.wait_for_function(  # both grow while the job still runs
        f"prompt => document.querySelector('#status progress') && "
        f"{texts}.every(t => t.length > prompt.length)",
        arg=PROMPT,
        timeout=WAIT,
    )
    early = page.evaluate(texts)
    told(page, "^Written")
    first = page.evaluate(texts)
    pairs = list(zip(early, first, strict=True))
    assert all(a.startswith(PROMPT) and b.startswith(a[:-8]) for a, b in pairs)
    assert any(len(b) > len(a) for a, b in pairs)
    assert "3.00 bits" in page.inner_text("#quantized")

    page.locator("#write-seed input").fill("2")
    page.locator("#write-seed input").press("Tab")
    again(page)
    assert page.evaluate(texts) != first
    page.locator("#write-seed input").fill("1")
    page.locator("#write-seed input").press("Tab")
    again(page)
    assert page.evaluate(texts) == first


def again(page):
    page.click("#write")
    running(page, ".")
    told(page, "^Written")


# ---- configs


def export(page):
    tab(page, "Config")
    with page.expect_download() as download:
        page.click("#export")
    with open(download.value.path(), encoding="utf-8") as file:
        return download.value.suggested_filename, json.load(file)


def load_config(page, data) -> None:
    tab(page, "Config")
    text = data if isinstance(data, str) else json.dumps(data)
    with page.expect_file_chooser() as chooser:
        page.click("#import")
    chooser.value.set_files(
        {"name": "config.json", "mimeType": "application/json", "buffer": text.encode()}
    )


def test_export_and_load_in_another_browser(world, visit):
    page = visit()
    choose(page, "#levels", "8 / 4")
    page.wait_for_selector("#bar .cell[data-bits='8']")
    pick(page, "#ordering", "Random")
    page.locator("#seed input").fill("5")
    page.locator("#seed input").press("Enter")
    page.wait_for_function("document.querySelector('#bar .by').innerText.includes('Random')")
    pick(page, "#quantizer", "Quanto, HQQ")
    to_position(page, 9)
    pin(page, 2)
    split, budget = split_of(page), page.locator("#bar .field").input_value()
    name, data = export(page)
    config = Config.from_json(data)
    assert name == f"lwq-demo-{sum(split) / len(split):.2f}bit.json"
    assert config.bits_per_layer == split and config.pinned == pins_of(page) == {2: 8}
    assert config.levels == (8, 4) and config.quantizer["name"] == "quanto-hqq"
    assert (config.ordering["name"], config.ordering["seed"]) == ("random", 5)
    assert f"{config.bytes['total']:,} bytes" == total(page, "bytes")
    assert config.fingerprint == world.info.fingerprint

    other = visit()
    assert split_of(other) != split
    load_config(other, data)
    told(other, "^The config is loaded")
    assert split_of(other) == split and pins_of(other) == {2: 8}
    assert other.locator("#bar .field").input_value() == budget
    assert other.locator("#ordering input").input_value() == "Random"
    assert other.locator("#seed input").input_value() == "5"
    assert other.locator("#quantizer input").input_value() == "Quanto, HQQ"
    assert other.locator("#levels input:checked").input_value() == "8,4"
    _, again = export(other)
    assert {**again, "evaluations": []} == {**data, "evaluations": []}


def test_a_config_without_an_order_comes_back_as_pins(world, page):
    _, data = export(page)
    bits = [(8, 4, 2)[i % 3] for i in range(world.info.num_layers)]
    cost = model_cost(world.info, "quanto")
    data |= {
        "bits_per_layer": bits,
        "pinned": {str(i): b for i, b in enumerate(bits) if b == 8},
        "average_bits": sum(bits) / len(bits),
        "bytes": {
            "layers": cost.layer_bytes(bits),
            "rest": cost.rest_bytes,
            "total": cost.total(bits),
        },
    }
    load_config(page, data)
    assert "all layers are pinned" in told(page, "^The config is loaded")
    assert split_of(page) == tuple(bits) and len(pins_of(page)) == len(bits)
    assert Config.from_json(export(page)[1]).bits_per_layer == tuple(bits)


BROKEN = {
    "bits_per_layer": lambda data: {**data, "bits_per_layer": [4, 2]},
    "budget_bytes": lambda data: {k: v for k, v in data.items() if k != "budget_bytes"},
    "ordering": lambda data: {**data, "ordering": {**data["ordering"], "name": "alphabet"}},
    "levels": lambda data: {**data, "levels": [4, 3], "bits_per_layer": [4] * 24},
    "schema": lambda data: {**data, "schema": "lwq/9"},
    "not valid JSON": lambda data: '{"schema": ',
}


def test_a_broken_config_names_the_field_and_changes_nothing(world, page):
    _, data = export(page)
    n = world.info.num_layers
    few = {**data, "num_layers": 2, "bits_per_layer": [4, 2], "pinned": {}, "average_bits": 3.0}
    few["ordering"] = {"name": "first", "seed": 0, "scores": None, "calibration": None}
    three = {**data, "bits_per_layer": [3] * n, "pinned": {str(i): 3 for i in range(n)}}
    three["average_bits"] = 3.0
    broken = {name: change(data) for name, change in BROKEN.items()}
    broken["levels"]["average_bits"] = 4.0
    before = split_of(page)
    for field, wrong in [*broken.items(), ("num_layers", few), ("bits_per_layer", three)]:
        load_config(page, wrong)
        page.wait_for_function(
            "text => document.querySelector('#error [role=alert]')?.innerText.includes(text)",
            arg=field,
        )
        assert len(re.findall("Config field", alert(page))) <= 1
        page.evaluate("document.querySelector('#error [role=alert]').remove()")
    assert split_of(page) == before and page.locator("#evaluate").is_enabled()
    load_config(page, data)
    told(page, "^The config is loaded")


def test_a_config_of_other_weights_is_refused(page, tiny):
    _, data = export(page)
    load_config(page, {**data, "model_id": str(tiny), "fingerprint": "0" * 64})
    assert "fingerprints differ" in alert(page)
    assert page.inner_text("#card b") == "demo"


def test_a_config_whose_model_lies_elsewhere_says_so(page):
    _, data = export(page)
    load_config(page, {**data, "model_id": "/gone/model", "fingerprint": "0" * 64})
    assert "The config names '/gone/model': if its files lie elsewhere, load them" in alert(page)
    assert page.inner_text("#card b") == "demo"


# ---- models


def load(page, name) -> None:
    page.fill("#model input", str(name))
    page.press("#model input", "Escape")  # the list of offers lies above the button
    page.click("#load")


def test_models_that_cannot_be_loaded(world, page, tiny, tmp_path):
    from transformers import BertConfig, BertForMaskedLM

    empty, bert, cut = (tmp_path / name for name in ("no weights", "bert", "cut"))
    empty.mkdir()
    shutil.copy(tiny / "config.json", empty)
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    BertForMaskedLM(BertConfig(**size, intermediate_size=16, vocab_size=50)).save_pretrained(bert)
    shutil.copytree(tiny, cut)
    weights = cut / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    for name, part in (
        (empty, "has no weights"),
        (tmp_path / "nowhere", "There is no folder"),
        ("", "Name a model"),
        (bert, "not a causal language model"),
        (cut, "cut short"),
    ):
        load(page, name)
        page.wait_for_function(
            "text => document.querySelector('#error [role=alert]')?.innerText.includes(text)",
            arg=part,
            timeout=WAIT,
        )
        alert(page)
    assert page.inner_text("#card b") == "demo"
    assert split_of(page) == core_split(world, 12)[0]
    measure_only(page, "Grammar pairs")
    page.click("#evaluate")
    told(page, "^Measured")


def test_the_model_field_offers_what_it_knows_and_takes_anything(world, page, monkeypatch):
    from lwq_ui.engine import hub, jobs
    from lwq_ui.ui.components import modelfield

    def search(text):
        there = {
            "": (hub.Found("demo", on_disk=True),),
            "smollm9 tiny": (hub.Found("someone/SmolLM9-tiny", 0.01),),
        }
        return hub.Answer(there.get(text, ()), "" if text in there else "Nobody answers.")

    def describe(model_id, *args):
        raise UserError(f"Asked for {model_id}.")

    monkeypatch.setattr(modelfield, "search", search)
    monkeypatch.setattr(jobs, "describe", describe)
    field, offered = page.locator("#model input"), page.locator("#model [role=option]")
    field.click()
    assert offered.count() > 20 and "demo" in offered.first.inner_text()
    assert offered.filter(has_text="Qwen/Qwen3-8B-Base").inner_text().endswith("8.2 B")
    field.fill("smollm9 tiny")
    offered.filter(has_text="someone/SmolLM9-tiny").wait_for()
    assert offered.count() == 1
    field.press("ArrowDown")
    field.press("Enter")  # picks; the next Enter would load
    assert field.input_value() == "someone/SmolLM9-tiny" and not offered.first.is_visible()
    assert not world.worker.busy

    field.fill("Qwen/Qwen3-8B")  # how another one begins, too
    page.get_by_text("Nobody answers.").wait_for()
    assert offered.count() == 1 and "Qwen3-8B-Base" in offered.inner_text()
    field.press("Enter")
    assert alert(page) == "Asked for Qwen/Qwen3-8B."


def look(page, name) -> None:
    page.fill("#model input", str(name))
    page.press("#model input", "Escape")
    page.click("#look")


def test_a_look_says_what_a_model_is_and_loads_nothing(world, page, tiny, tmp_path, monkeypatch):
    from lwq_ui.engine import jobs

    monkeypatch.setattr(jobs, "load", None)
    look(page, tiny)
    told(page, "Nothing was loaded")
    card = page.inner_text("#card")
    assert str(tiny) in card and "Looked at, not loaded" in card
    assert "nothing, it is on this disk" in card and "The bars still show demo." in card
    assert "fits untouched" in card and "the smallest" in card
    assert len(split_of(page)) == 24
    assert {m.info.num_layers for m in world.shelf.models()} == {24}
    look(page, tmp_path / "nowhere")
    assert "There is no folder" in alert(page)
    assert page.inner_text("#card") == card
    look(page, "demo")
    told(page, "^demo .* Nothing was loaded")
    assert page.inner_text("#card span") == "Loaded"


def test_a_model_that_does_not_fit_is_read_layer_by_layer(world, page, monkeypatch, tmp_path):
    from lwq_ui.engine import models
    from lwq_ui.ui.modelcard import TOO_LARGE

    monkeypatch.setattr(models, "fits", lambda *args: False)
    load(page, save_llama(tmp_path / "large", layers=4, seed=9))
    told(page, "is loaded and scored")
    card = page.inner_text("#card")
    assert "read from the disk one by one" in card and "Memory" not in card
    tab(page, "Write something")
    page.locator("#length input[type=number]").fill("10")
    page.locator("#length input[type=number]").press("Tab")
    page.click("#write")
    told(page, "^Written")
    texts = [page.input_value(f"#{name} textarea") for name in ("original", "quantized")]
    assert texts[0] == TOO_LARGE and texts[1].startswith(PROMPT) and len(texts[1]) > len(PROMPT)


def test_the_slider_marks_its_row_among_all_sizes(world, page):
    n = world.info.num_layers
    page.click("#every-size button")
    rows, marked = page.locator("#sizes tbody tr"), page.locator("#sizes tr.current td")
    eventually(lambda: rows.count() == n + 1)
    for position, levels in ((5, (4, 2)), (9, (8, 4))):
        choose(page, "#levels", f"{levels[0]} / {levels[1]}")
        page.locator("#sizes th").filter(has_text=f"At {levels[1]} bits").wait_for()
        eventually(lambda levels=levels: set(split_of(page)) == set(levels))
        to_position(page, position)
        split, size = core_split(world, position, levels)
        low, average, _, whole, saved = marked.all_inner_texts()
        assert low == f"{n - position}" and average == f"{sum(split) / n:.2f}"
        assert whole == format_gib(size) == total(page, "size") and saved == total(page, "saving")
        assert marked.first.is_visible()
    with page.expect_download() as download:
        page.get_by_text("Download as CSV").click()
    with open(download.value.path(), encoding="utf-8") as file:
        assert f"{n - position},{average}," in file.read()


def test_what_a_split_takes_is_measured_and_its_disk_is_told(world, page, tmp_path):
    load(page, save_llama(tmp_path / "weighed", layers=4, seed=10))
    told(page, "is loaded and scored")
    measure_only(page, "Grammar pairs")
    to_position(page, 1)
    page.click("#evaluate")
    told(page, r"^Measured \(")
    page.wait_for_selector("#truth p")
    size = total(page, "size")
    assert f"{size} measured, {size} estimated." in page.inner_text("#truth")
    assert page.locator("#truth .wrong").count() == 0
    gone = world.page.store.banks.root / ("f" * 16) / "bank" / "layer.safetensors"
    gone.parent.mkdir(parents=True)
    gone.write_bytes(b"packed")
    kept = world.page.store.banks.total() - 6
    page.click("#clear-disk")
    page.wait_for_function("document.querySelector('#disk').innerText.includes('in use')")
    eventually(lambda: not gone.exists())
    assert 0 < world.page.store.banks.total() <= kept


def test_another_model_and_ones_own_calibration_text(world, page, tiny):
    pin(page, 20)
    before = page.inner_text("#scored")
    load(page, tiny)
    told(page, "is loaded and scored")
    page.wait_for_function("document.querySelectorAll('#bar .cell').length === 12")
    assert str(tiny) in page.inner_text("#card") and "6" in page.inner_text("#card dl")
    assert page.inner_text("#scored") != before and "50 documents" in page.inner_text("#scored")
    assert pins_of(page) == {} and set(split_of(page)) == {4, 2}
    assert page.locator("#results tbody tr").count() == 0

    labels = "cells => cells.map(c => c.ariaLabel)"
    scores = page.locator("#bar [data-scorer=lim] .cell").evaluate_all(labels)
    choose(page, "#text", "My file")
    page.click("#score")
    assert alert(page) == "Choose a .txt file to calibrate on, or use the shipped text."
    page.locator("#own-text input[type=file]").set_input_files(
        {"name": "mine.txt", "mimeType": "text/plain", "buffer": b"A short text of my own. " * 9}
    )
    page.wait_for_selector("#own-text >> text=mine")
    page.click("#score")
    told(page, r"^Scored on mine\.txt")
    assert "mine.txt, 1 document, " in page.inner_text("#scored")
    page.wait_for_function(
        "old => JSON.stringify([...document.querySelectorAll('#bar [data-scorer=lim] .cell')]"
        ".map(c => c.ariaLabel)) !== JSON.stringify(old)",
        arg=scores,
    )

    measure_only(page, "Grammar pairs")
    page.click("#evaluate")
    told(page, "^Measured")
    page.wait_for_selector("#results tr.current")
    assert len(results(page)) == 4


def test_what_is_chosen_while_a_model_loads_is_kept(world, page, tiny):
    with somebody_computes(world):
        load(page, tiny)
        running(page, "Waiting")
        choose(page, "#levels", "8 / 4")
        page.wait_for_selector("#bar .cell[data-bits='8']")
    told(page, "is loaded and scored")
    page.wait_for_function(
        "[...document.querySelectorAll('#bar .cell')].map(c => c.dataset.bits).join('')"
        ".match(/^[84]{12}$/)"
    )
    assert page.locator("#levels input:checked").input_value() == "8,4"
    (info,) = [m.info for m in world.shelf.models() if m.info.model_id == str(tiny)]
    cost = model_cost(info, "quanto")
    eventually(lambda: total(page, "bytes") == f"{cost.total(split_of(page)):,} bytes")


# ---- two users


def test_two_users_do_not_see_each_other_and_share_a_model(world, visit, tiny):
    ann, bob = visit(), visit()
    pin(ann, 1)
    assert pins_of(bob) == {} and pins_of(ann) == {1: 4}
    load(bob, tiny)
    told(bob, "is loaded and scored")
    assert ann.inner_text("#card b") == "demo" and len(split_of(ann)) == 24
    known = len(results(ann))

    measure_only(bob, "Grammar pairs")
    bob.click("#evaluate")
    told(bob, "^Measured")
    bob.wait_for_selector("#results tr.current")
    assert len(results(ann)) == known

    # Under another name it is the same model still: one copy.
    load(ann, tiny.parent / "." / "tiny" / ".." / "tiny")
    told(ann, "is loaded and scored")
    tinies = [m for m in world.shelf.models() if m.info.num_layers == 6]
    assert len({id(m.model) for m in tinies}) == 1
    eventually(lambda: pins_of(ann) == {})


def test_the_second_user_sees_their_place_in_the_line(world, visit):
    ann, bob = visit(), visit()
    with somebody_computes(world):
        for page, line in (
            (ann, r"Waiting: 1 job is before yours\."),
            (bob, "Waiting: 2 jobs are"),
        ):
            tab(page, "Write something")
            page.locator("#length input[type=number]").fill("10")
            page.locator("#length input[type=number]").press("Tab")
            page.click("#write")
            running(page, line)
        ann.click("#stop")
        running(bob, r"Waiting: 1 job is before yours\.")
    told(bob, "^Written")


def test_closing_the_tab_ends_its_job_and_releases_its_model(world, visit, tiny):
    page = visit()
    load(page, tiny)
    told(page, "is loaded and scored")
    assert any(m.info.num_layers == 6 for m in world.shelf.models())
    with somebody_computes(world):
        page.click("#evaluate")
        running(page, "Waiting")
        page.close()
        eventually(lambda: len(world.worker._line) == 1)
    eventually(lambda: {m.info.num_layers for m in world.shelf.models()} == {24})


def test_closing_the_tab_stops_what_runs(world, visit):
    page = visit()
    choose(page, "#quick", "All items")
    pick(page, "#ordering", "Random")
    page.locator("#seed input").fill("78")
    page.locator("#seed input").press("Enter")
    page.wait_for_timeout(300)
    measure_only(page, "Perplexity and divergence")
    page.click("#evaluate")
    running(page, r"Perplexity[\s\S]*%")
    page.close()
    eventually(lambda: not world.worker.busy, 10)
    again = visit()
    assert (
        again.locator("#evaluate").is_enabled() and not again.locator("#error [role=alert]").count()
    )


# ---- without a mouse, without eyes


def test_keyboard_alone(page):
    def press_tab_until(expression, most=60):
        for _ in range(most):
            page.keyboard.press("Tab")
            if page.evaluate(f"document.activeElement.matches({json.dumps(expression)})"):
                return
        pytest.fail(f"Tab does not reach {expression}")

    press_tab_until(RANGE)
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    assert total(page, "high") == "1"
    press_tab_until("#bar [data-scorer=lim] .cell")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.wait_for_selector('#bar [data-scorer=lim] [data-layer="1"].pinned')
    press_tab_until("#evaluate")
    assert page.evaluate(
        "getComputedStyle(document.activeElement).outlineStyle !== 'none'"
        " || getComputedStyle(document.activeElement).boxShadow !== 'none'"
    )


def test_every_control_has_a_name(page):
    client = page.context.new_cdp_session(page)
    roles = {
        "button", "textbox", "combobox", "listbox", "slider", "spinbutton", "radio", "checkbox",
        "tab", "progressbar",
    }  # fmt: skip
    for name in ("Write something", "Config", "Evaluate", "Sweep", "Does it matter?"):
        tab(page, name)
        page.wait_for_timeout(200)
        nodes = client.send("Accessibility.getFullAXTree")["nodes"]
        controls = [n for n in nodes if not n["ignored"] and n["role"]["value"] in roles]
        assert len(controls) > 60
        unnamed = [n["role"]["value"] for n in controls if not n.get("name", {}).get("value")]
        assert unnamed == []


@pytest.mark.parametrize("width", [420, 1280])
def test_the_status_stays_in_sight_and_nothing_sticks_out(visit, width):
    page = visit(viewport={"width": width, "height": 700})
    page.mouse.wheel(0, 5000)
    page.wait_for_function("scrollY > 300")
    assert page.locator("#status").bounding_box()["y"] == pytest.approx(0, abs=20)
    assert page.locator("#stop").bounding_box()["y"] == pytest.approx(0, abs=45)
    # the page itself is clipped, so that what sticks out could not be reached
    assert page.evaluate("document.querySelector('.gradio-container').scrollWidth <= innerWidth")


def test_the_status_is_announced_once_and_without_percents(world, page):
    live = page.locator(".lwq-announcer[role=status]")
    assert live.inner_text() == page.inner_text("#status span")
    with somebody_computes(world):
        measure_only(page, "Grammar pairs")
        page.click("#evaluate")
        running(page, "Waiting")
        assert live.inner_text() == "Waiting: 1 job is before yours."
    told(page, "^Measured")
    assert live.inner_text() == page.inner_text("#status span")
