"""The budget bar in a real browser, on a page that holds nothing else."""

from __future__ import annotations

import json
import math
import random
import re
from dataclasses import replace
from functools import cache
from statistics import stdev

import pytest

from lwq_ui.core.allocation import breakpoints
from lwq_ui.core.budget import MemoryUse
from lwq_ui.core.errors import UserError
from lwq_ui.core.interpolation import Expected
from lwq_ui.core.memory import (
    LayerCost,
    ModelCost,
    affine_bytes,
    format_gib,
    size_unit,
    symmetric_bytes,
)
from lwq_ui.core.orderings import ORDERINGS, rank_layers
from lwq_ui.core.schema import Evaluation, Metric
from lwq_ui.engine.quantizers.quanto import Quanto

gr = pytest.importorskip("gradio")

from lwq_ui.ui.bar.card import Card  # noqa: E402
from lwq_ui.ui.bar.expected import expected_at, expected_texts  # noqa: E402
from lwq_ui.ui.bar.scores import shades  # noqa: E402
from lwq_ui.ui.bar.table import first_value, table  # noqa: E402
from lwq_ui.ui.components.heatmap import BudgetBar  # noqa: E402

WIDTHS = {4: 96, 24: 256, 32: 4096, 80: 8192, 126: 16384}  # layers -> hidden size
RANGE, FIELD = "#bar .range", "#bar .field"
# Those that the slider can follow without a measured score.
SPLITTING = [n for n, o in ORDERINGS.items() if not o.prunes and o.scorer != "sensitivity"]


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


# ---- a page with the component, choices of model, levels and ordering, and what Python received


def small_page():
    def read(n, levels):
        high, low = levels.split("/")
        return int(n), (int(high), int(low))

    def make_table(n, levels, ordering, pins):
        n, levels = read(n, levels)
        return table(model_cost(n), model_scores(n), levels, ordering, 0, pins)

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
        args = model_cost(24), scores, (4, 2), "lim", 0, None
        return gr.update(table=table(*args, expected=EXPECTED, expected_title="Perplexity"))

    def carded(which):
        card = small_card(int(which)) if which else None
        return gr.update(table=table(model_cost(24), model_scores(24), (4, 2), "lim", card=card))

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
            table=table(cost, model_scores(24), (4, 2), "lim"),
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


@pytest.fixture(scope="module")
def url(chrome):
    page = small_page()
    _, url, _ = page.launch(
        server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, ssr_mode=False
    )
    yield url
    page.close(verbose=False)


@pytest.fixture
def page(open_page, url):
    return ready(open_page(url))


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


@pytest.mark.browser
@pytest.mark.parametrize("levels", Quanto.pairs)
@pytest.mark.parametrize("n", [24, 32, 80])
def test_the_page_equals_python_at_every_breakpoint(page, n, levels):
    choose_model(page, n, levels)
    check_every_breakpoint(page, n, levels)


@pytest.mark.browser
@pytest.mark.parametrize("ordering", [name for name in SPLITTING if name != "lim"])
def test_every_ordering_splits_both_bars_alike(page, ordering):
    choose(page, "ordering", ordering)
    title = ORDERINGS[ordering].title
    page.wait_for_function(
        "title => document.querySelector('#bar .by').innerText.endsWith(title)", arg=title
    )
    check_every_breakpoint(page, 24, (4, 2), ordering)
    marked = page.locator("#bar .bar.decides").evaluate_all("n => n.map(b => b.dataset.scorer)")
    assert marked == [ORDERINGS[ordering].scorer] * bool(ORDERINGS[ordering].scorer)


@pytest.mark.browser
def test_dragging_the_thumb(page):
    page.locator(RANGE).scroll_into_view_if_needed()
    box = page.locator(RANGE).bounding_box()
    middle = box["y"] + box["height"] / 2
    posts = []
    page.on("request", lambda request: posts.append(request) if request.post_data else None)
    page.mouse.move(box["x"] + box["width"] / 2, middle)
    page.mouse.down()
    seen = []
    started = page.evaluate("performance.now()")
    for i in range(60):
        page.mouse.move(box["x"] + box["width"] * (0.5 + 0.5 * i / 59), middle)
        seen.append(high_layers(page))
    took = page.evaluate("performance.now()") - started
    page.mouse.up()
    assert seen == sorted(seen) and seen[-1] == 24
    choice = committed(page, f"choice.budget === {model_cost(24).total((4,) * 24)}")
    assert choice["pins"] == {}
    assert 2 <= len(posts) <= took / 100 + 2


@pytest.mark.browser
def test_arrow_keys_move_by_one_layer(page):
    slider = page.locator(RANGE)
    slider.focus()
    slider.press("Home")
    assert high_layers(page) == 0
    for k in (1, 2, 3):
        slider.press("ArrowRight")
        assert high_layers(page) == k
    slider.press("ArrowLeft")
    assert high_layers(page) == 2
    assert "2 layers at 4 bits" in slider.get_attribute("aria-valuetext")
    slider.press("End")
    assert high_layers(page) == 24
    committed(page, f"choice.budget === {model_cost(24).total((4,) * 24)}")


@pytest.mark.browser
def test_a_click_pins_high_then_low_then_not_at_all(page):
    page.locator(RANGE).press("Home")
    layer = cell(page, 12)
    for level, pinned in ((4, True), (2, True), (2, False)):
        layer.click()
        page.wait_for_selector(
            f"#bar [data-scorer=zd] [data-layer='12'][data-bits='{level}']"
            + (".pinned" if pinned else ":not(.pinned)")
        )
        label = cell(page, 12, "zd").get_attribute("aria-label")
        assert label.startswith("Layer 12: ZD 0.1") and label.endswith("pinned") == pinned
        committed(page, f"choice.pins[12] === {level if pinned else 'undefined'}")
        if level == 4:
            check_every_breakpoint(page, 24, (4, 2), pins={12: 4})
            page.locator(RANGE).press("Home")


@pytest.mark.browser
def test_pins_can_be_cleared(page):
    button = page.locator("#bar .clear")
    assert not button.is_visible()
    cell(page, 3).click()
    cell(page, 9, "zd").click()
    page.wait_for_function("document.querySelectorAll('#bar .pinned.cell').length === 4")
    button.click()
    page.wait_for_function("!document.querySelector('#bar .pinned.cell')")
    assert not button.is_visible()
    assert page.evaluate("document.activeElement.className") == "range"
    assert committed(page, "!Object.keys(choice.pins).length")


@pytest.mark.browser
def test_a_loaded_pin_at_another_level_is_shown_and_goes_to_auto(page):
    page.click("#load")
    page.wait_for_selector("#bar .cell.other.pinned")
    assert "and 1 pinned at 8 bits" in page.inner_text("#bar .totals")
    assert cell(page, 2).get_attribute("data-bits") == "8"
    assert cell(page, 5).get_attribute("data-bits") == "4"
    page.locator(RANGE).press("End")
    points = breakpoints(
        model_cost(24), (4, 2), rank_layers("lim", model_scores(24), 24), {2: 8, 5: 4}
    )
    assert page.inner_text("#bar [data-text=bytes]") == f"{points.bytes[-1]:,} bytes"
    cell(page, 2).click()
    page.wait_for_selector("#bar [data-layer='2']:not(.pinned)")
    assert committed(page, "!(2 in choice.pins)")["pins"] == {"5": 4}


@pytest.mark.browser
def test_sorted_by_importance(page):
    shown = "n => n.map(c => +c.dataset.layer)"
    lim, zd = (page.locator(f"#bar [data-scorer={name}] .cell") for name in ("lim", "zd"))
    assert lim.evaluate_all(shown) == list(range(24))
    page.get_by_role("button", name="Sorted by importance").click()
    for cells, name in ((lim, "lim"), (zd, "zd")):
        assert cells.evaluate_all(shown) == rank_layers(name, model_scores(24), 24)
        shade = cells.evaluate_all("n => n.map(c => +c.style.getPropertyValue('--shade'))")
        assert shade == sorted(shade, reverse=True) and (shade[0], shade[-1]) == (1, 0)
    check_every_breakpoint(page, 24, (4, 2))
    page.get_by_role("button", name="Model order").click()
    assert lim.evaluate_all(shown) == list(range(24))


def type_budget(page, text):
    page.locator(FIELD).fill(text)
    page.locator(FIELD).press("Enter")


def split_shown(page):
    return cell_bits(page.locator("#bar [data-scorer=lim] .cell"))


def cell_bits(cells):
    return cells.evaluate_all("n => n.map(c => +c.dataset.bits)")


@pytest.mark.browser
def test_a_budget_typed_as_a_size(page):
    choose_model(page, 32)
    cost = model_cost(32)
    name, unit = size_unit(cost.total((4,) * 32))
    assert page.locator("#bar .unit option").first.inner_text() == name
    least, most = cost.total((2,) * 32), cost.total((4,) * 32)
    for share in (0.1, 0.5, 0.93):
        text = f"{(least + share * (most - least)) / unit:.7f}"
        type_budget(page, text)
        choice = committed(page, f"Math.abs(choice.budget - {float(text) * unit}) < 1")
        assert split_shown(page) == allocate(32, (4, 2), "lim", choice["budget"], {})
    type_budget(page, "9999")
    committed(page, f"choice.budget === {most}")
    assert split_shown(page) == [4] * 32


@pytest.mark.browser
def test_a_budget_typed_in_average_bits(page):
    page.locator("#bar .unit").select_option("bits")
    points = breakpoints(model_cost(24), (4, 2), rank_layers("lim", model_scores(24), 24))
    for bits in (2, 2.5, 3.26, 3.9999, 4, 7):
        type_budget(page, str(bits))
        position = points.position_for_average_bits(bits)
        assert split_shown(page) == list(points.split(position))
        committed(page, f"choice.budget === {points.bytes[position]}")
    page.locator(FIELD).press("ArrowDown")
    assert high_layers(page) == 23 and page.locator(FIELD).input_value() == "3.92"


@pytest.mark.browser
@pytest.mark.parametrize("unit", ["size", "bits"])
def test_what_the_page_shows_can_be_typed_back(page, unit):
    page.locator("#bar .unit").select_option(unit)
    shown = "#bar [data-text=size]" if unit == "size" else "#bar [data-text=average]"
    for steps in range(1, 25, 4):
        page.locator(RANGE).press("Home")
        for _ in range(steps):
            page.locator(RANGE).press("ArrowRight")
        text = page.inner_text(shown).split()[0]
        page.locator(RANGE).press("Home")
        type_budget(page, text)
        assert page.inner_text(shown).split()[0] == text


@pytest.mark.browser
def test_too_small_a_budget_says_the_minimum(page):
    message, size = page.locator("#bar .message"), model_cost(24).total((2,) * 24)
    before = split_shown(page)
    type_budget(page, "0.0001")
    minimum = f"{format_gib(size)} ({size:,} bytes)"
    assert message.inner_text() == f"Too small: the smallest split takes {minimum}."
    assert page.locator(FIELD).get_attribute("aria-invalid") == "true"
    assert split_shown(page) == before
    page.locator(RANGE).press("ArrowRight")
    assert message.inner_text() == ""

    page.locator("#bar .unit").select_option("bits")
    type_budget(page, "1.5")
    assert message.inner_text() == "Too small: the smallest split has 2 bits on average."

    cell(page, 7).click()
    page.wait_for_selector("#bar [data-layer='7'].pinned")
    split = [4 if i == 7 else 2 for i in range(24)]
    size = model_cost(24).total(split)
    page.locator(RANGE).evaluate("r => { r.value = r.min; r.dispatchEvent(new Event('change')); }")
    assert message.inner_text() == (
        f"Too small: with the pinned layers, the smallest split takes "
        f"{format_gib(size)} ({size:,} bytes)."
    )
    assert split_shown(page) == split
    type_budget(page, "2")
    assert message.inner_text() == (
        "Too small: with the pinned layers, the smallest split has 2.083 bits on average."
    )


@pytest.mark.browser
def test_the_number_on_keyboard_focus_and_on_hover(page):
    page.locator(RANGE).press("End")
    page.locator("#bar .orders button").last.focus()
    page.keyboard.press("Tab")
    tip = page.locator("#bar .tip")
    page.evaluate("document.fonts.ready.then(() => null)")  # another font has other heights
    height = page.evaluate("document.querySelector('#bar').offsetHeight")
    for layer in (0, 1):
        rank = rank_layers("lim", model_scores(24), 24).index(layer) + 1
        score = f"{model_scores(24)['lim'][layer]:#.4g}".replace("-", "−")
        about = f"LIM {score}, rank {rank} of 24"
        assert tip.inner_text().split("\n") == [f"Layer {layer}", about, "4 bits"]
        label = page.evaluate("document.activeElement.ariaLabel")
        assert label == f"Layer {layer}: {about}, 4 bits"
        page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.wait_for_selector("#bar [data-layer='2'].pinned")
    # the new table kept the focus and refreshed the tooltip
    assert page.evaluate("document.activeElement.dataset.layer") == "2"
    assert tip.inner_text().endswith("4 bits, pinned")
    page.keyboard.press("Escape")
    assert not tip.is_visible()
    for layer in (0, 23):
        cell(page, layer, "zd").hover()
        assert tip.inner_text().startswith(f"Layer {layer}\nZD 0.1")
        box = tip.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= page.viewport_size["width"]
    assert page.evaluate("document.querySelector('#bar').offsetHeight") == height


@pytest.mark.browser
def test_another_model_keeps_the_keyboard_focus(page):
    cell(page, 5, "zd").focus()
    page.evaluate("document.querySelector('#layers input[value=\"32\"]').click()")
    page.wait_for_function("document.querySelectorAll('#bar .cell').length === 64")
    focus = "[document.activeElement.dataset.layer,"
    focus += " document.activeElement.closest('.bar').dataset.scorer]"
    assert page.evaluate(focus) == ["5", "zd"]


@pytest.mark.browser
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 420, 768, 1280])
def test_fits_the_window_and_the_finger(open_page, url, width, theme):
    page = ready(open_page(f"{url}?__theme={theme}", viewport={"width": width, "height": 900}))
    assert page.evaluate("document.body.classList.contains('dark')") == (theme == "dark")
    for n in (4, 24, 80, 126):
        choose_model(page, n)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        sizes = page.locator("#bar .cell").evaluate_all(
            "n => n.map(c => c.getBoundingClientRect()).map(b => [b.width, b.height, b.right])"
        )
        assert min(w for w, _, _ in sizes) >= 22 and min(h for _, h, _ in sizes) >= 24
        assert len({h for _, h, _ in sizes}) == 1 and max(r for _, _, r in sizes) <= width
        # a drag changes no height
        height = "document.querySelector('#bar .lwq').offsetHeight"
        page.locator(RANGE).press("Home")
        low = page.evaluate(height)
        page.locator(RANGE).press("End")
        assert page.evaluate(height) == low


@pytest.mark.browser
def test_after_a_sweep_the_totals_say_what_to_expect(page):
    expected = page.locator("#bar .totals .expected")
    assert not expected.is_visible()
    page.evaluate("addEventListener('lwq-budget', () => { window.told = window.lwqBudget; })")
    page.click("#sweep")
    page.wait_for_selector("#bar .totals.expecting")
    slider = page.locator(RANGE)
    slider.press("Home")
    height = page.evaluate("document.querySelector('#bar .lwq').offsetHeight")
    assert expected.inner_text().split("\n") == ["Perplexity", "90", "measured"]
    slider.press("ArrowRight")
    assert expected.inner_text().split("\n") == ["Perplexity", "89", "interpolated"]
    told = page.evaluate("told")
    size = model_cost(24).total(split_shown(page))
    assert told == {"bits": 50 / 24, "bytes": size, "size": format_gib(size)}
    slider.press("End")
    assert expected.inner_text().split("\n") == ["Perplexity", "–", "not measured here"]
    assert page.evaluate("document.querySelector('#bar .lwq').offsetHeight") == height
    meanings = page.locator("#bar .meaning").all_inner_texts()
    assert "rank correlation with sensitivity 1.00" in meanings[0] and len(meanings) == 3


PARTS = """() => Object.fromEntries([...document.querySelectorAll('#bar .stack .part')]
  .map(part => [part.className.split(' ')[1], part.getBoundingClientRect().width]))"""


def legend(page) -> dict[str, str]:
    told = page.locator("#bar .parts > div").all_inner_texts()
    return dict(line.split("\n") for line in told)


@pytest.mark.browser
def test_a_card_is_filled_as_the_slider_moves(page):
    card, slider = page.locator("#bar .card"), page.locator(RANGE)
    assert not card.is_visible()
    choose(page, "fits", "24")
    card.wait_for()
    slider.press("Home")
    points = breakpoints(model_cost(24), (4, 2), rank_layers("lim", model_scores(24), 24))
    size, before = small_card(24).size, page.evaluate(PARTS)
    assert list(before) == ["weights", "cache", "activations", "reserve", "free"]
    line = page.locator("#bar .stack").bounding_box()["width"]
    for part, held in (("weights", points.bytes[0]), ("cache", BESIDE.cache)):
        assert before[part] == pytest.approx(line * held / size, rel=0.03)
    for k in (1, 2):
        slider.press("ArrowRight")
        now = page.evaluate(PARTS)
        assert now["weights"] > before["weights"] + 1 and now["free"] < before["free"] - 1
        for part in ("cache", "activations", "reserve"):
            assert now[part] == pytest.approx(before[part], abs=0.1)
        free = format_gib(points.bytes[24] - points.bytes[k])
        assert legend(page) == {
            "Weights": format_gib(points.bytes[k]),
            "KV cache": format_gib(BESIDE.cache),
            "Activations": format_gib(BESIDE.activations),
            "Driver": format_gib(BESIDE.reserve),
            "Free": free,
        }
        assert card.locator(".fits").inner_text() == f"{free} free"
        assert slider.get_attribute("aria-valuetext").endswith(f"{free} free")
        before = now
    # what is read out in place of the picture is the legend itself
    named = page.get_by_role("img", name=re.compile(f"Weights .*Free {free}"))
    assert named.count() == 1
    choose(page, "fits", "")
    card.wait_for(state="hidden")
    assert "free" not in slider.get_attribute("aria-valuetext")


@pytest.mark.browser
@pytest.mark.parametrize(("width", "theme"), [(360, "dark"), (1280, "light")])
def test_a_card_that_is_too_small_says_by_how_much(open_page, url, width, theme):
    page = ready(open_page(f"{url}?__theme={theme}", viewport={"width": width, "height": 900}))
    choose(page, "fits", "12")
    page.locator("#bar .card").wait_for()
    slider, height = page.locator(RANGE), "document.querySelector('#bar .lwq').offsetHeight"
    slider.press("Home")
    for _ in range(12):
        slider.press("ArrowRight")
    assert legend(page)["Free"] == "0 bytes"
    tall = page.evaluate(height)
    slider.press("ArrowRight")
    points = breakpoints(model_cost(24), (4, 2), rank_layers("lim", model_scores(24), 24))
    over = format_gib(points.bytes[13] - points.bytes[12])
    assert legend(page)["Too much"] == over
    assert page.inner_text("#bar .fits") == f"Over by {over}"
    assert slider.get_attribute("aria-valuetext").endswith(f"Over by {over}")
    assert page.evaluate(height) == tall
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    boxes = page.locator("#bar .parts > div").evaluate_all(
        "all => all.map(d => [d.clientWidth, d.scrollWidth])"
    )
    assert all(inside <= room for room, inside in boxes)


# ---- without a browser


def test_a_cards_parts_are_what_python_sends():
    sent = json.loads(table(model_cost(24), model_scores(24), (4, 2), "lim", card=small_card(12)))
    points = breakpoints(model_cost(24), (4, 2), rank_layers("lim", model_scores(24), 24))
    card = sent["card"]
    assert [(part["name"], part["bytes"]) for part in card["beside"]] == [
        ("cache", BESIDE.cache),
        ("activations", BESIDE.activations),
        ("reserve", BESIDE.reserve),
    ]
    for k, (spare, text) in enumerate(zip(card["spare"], sent["texts"], strict=True)):
        assert points.bytes[k] + BESIDE.total + spare == card["size"]
        assert text["fits"].startswith("Over by ") == (spare < 0) == (k > 12)
        assert text["spare_title"] == ("Too much" if spare < 0 else "Free")
        assert text["spare"] == format_gib(abs(spare)) and text["spare"] in text["fits"]
        assert text["weights"] == text["size"]
    machine = replace(small_card(12), beside=replace(BESIDE, reserve=0))
    sent = json.loads(table(model_cost(24), model_scores(24), (4, 2), "lim", card=machine))
    assert [part["name"] for part in sent["card"]["beside"]] == ["cache", "activations"]
    plain = json.loads(table(model_cost(24), model_scores(24), (4, 2), "lim"))
    assert plain["card"] is None and "fits" not in plain["texts"][0]


def test_expected_quality_comes_from_the_splits_of_the_slider():
    points = breakpoints(model_cost(24), (4, 2), rank_layers("lim", model_scores(24), 24))

    def measured(k, value, task="pairs"):
        metrics = {"acc": Metric(value, 0.02, 60)}
        return Evaluation(task, points.split(k), "quanto", metrics, {}, None, 1.0)

    found = [measured(0, 0.5), measured(4, 0.7), measured(2, 0.1, "other")]
    expected = expected_at(points, found, "pairs", "acc")
    assert len(expected) == 25
    assert expected[0] == Expected(0.5, None, True)
    assert expected[2] == Expected(pytest.approx(0.6), None, False)
    assert expected[5:] == [None] * 20
    assert expected_at(points, found, "pairs", "f1") == [None] * 25


def test_scores_are_compared_with_the_sensitivity_in_their_own_direction():
    rising = [float(i) for i in range(24)]
    scores = {"lim": rising, "zd": rising, "sensitivity": [math.exp(v) for v in rising]}
    rows = json.loads(table(model_cost(24), scores, (4, 2), "lim"))["rows"]
    meanings = {row["name"]: row["meaning"] for row in rows}
    assert list(meanings) == ["lim", "zd", "sensitivity"]
    assert meanings["lim"].endswith(" · rank correlation with sensitivity 1.00")
    assert meanings["zd"].endswith(" · rank correlation with sensitivity −1.00")
    assert "correlation" not in meanings["sensitivity"]
    flat = {"lim": [1.0] * 24, "sensitivity": rising}
    assert "correlation" not in json.loads(table(model_cost(24), flat, (4, 2), "lim"))["rows"][0]
    (row, _) = json.loads(table(model_cost(24), model_scores(24), (4, 2), "lim"))["rows"]
    assert "correlation" not in row["meaning"]


def test_value_is_validated():
    bar = BudgetBar()
    assert bar.preprocess({"budget": 5.0, "pins": {"3": 4}}) == {"budget": 5, "pins": {3: 4}}
    assert bar.preprocess({"budget": -1})["budget"] == 0
    assert bar.preprocess(None) is None  # before there is a model
    for bad in ({}, {"budget": "x"}, {"budget": 1, "pins": {"a": 4}}, {"budget": math.inf}):
        with pytest.raises(gr.Error):
            bar.preprocess(bad)
    assert bar.postprocess({"budget": 5, "pins": {3: 4}}) == {"budget": 5, "pins": {"3": 4}}


def test_shade_is_importance_whatever_the_direction():
    for row in json.loads(table(model_cost(24), model_scores(24), (4, 2), "last"))["rows"]:
        assert row["order"] == rank_layers(row["name"], model_scores(24), 24)
        assert row["shade"][row["order"][0]] == 1 and row["shade"][row["order"][-1]] == 0
        assert not row["decides"]
    same = json.loads(table(model_cost(24), {"lim": [0.5] * 24}, (4, 2), "lim"))
    assert [row["name"] for row in same["rows"]] == ["lim"]
    assert set(same["rows"][0]["shade"]) == {0.5}


def test_shades_are_linear_and_outliers_share_the_end_of_the_scale():
    assert shades([1.0, 2.0, 3.0, 5.0], True) == [0, 0.25, 0.5, 1]
    assert shades([1.0, 2.0, 3.0, 5.0], False) == [1, 0.75, 0.5, 0]
    close = [10.0, 11.0, 12.0, 13.0, 14.0]
    far = shades([*close, 1000.0, 2000.0], True)
    # quartiles of all seven: 11.5 and 507, so the reach ends at 1250.25
    assert far[-1] == 1 and far[0] == 0 and far[-2] == pytest.approx(990 / 1240.25, abs=0.001)
    far = shades([*close, 15.0, 16.0, 17.0, 1000.0, -1000.0], True)
    # quartiles 11.25 and 15.75: everything from 4.5 to 22.5 is told apart
    assert (far[-2], far[-1]) == (1, 0)
    assert far[:5] == [round((v - 4.5) / 18, 3) for v in close]
    assert shades([3.0] * 5, True) == [0.5] * 5
    assert shades([3.0] * 9 + [7.0], True) == [0] * 9 + [1]  # no spread: nothing is cut off


def test_without_scores_the_split_still_shows():
    (row,) = json.loads(table(model_cost(24), {}, (4, 2), "first"))["rows"]
    assert row["title"] == "Layers" and len(row["shade"]) == 24
    with pytest.raises(UserError):
        table(model_cost(24), {}, (4, 2), "lim")


def test_a_fresh_page_starts_in_the_middle():
    cost = model_cost(32)
    least, most = cost.total((2,) * 32), cost.total((4,) * 32)
    assert first_value(cost, (4, 2)) == {"budget": (least + most) // 2, "pins": {}}


def test_the_expected_error_is_that_of_the_difference_to_the_unquantized_model():
    def at(split, right):
        items = {"acc": [float(k < right) for k in range(40)]}
        quantizer = "none" if set(split) == {16} else "quanto"
        acc = {"acc": Metric(right / 40, 0.08, 40)}
        return Evaluation("pairs", split, quantizer, acc, items, 40, 1.0)

    points = breakpoints(model_cost(24), (4, 2), range(24))
    found = [at((16,) * 24, 36), at(points.split(0), 26), at(points.split(2), 30)]
    first, between, *_ = expected_at(points, found, "pairs", "acc")
    error = stdev([1.0] * 10 + [0.0] * 30) / math.sqrt(40)  # the ten items that only one gets
    assert first == Expected(0.65, pytest.approx(error), True, 0.9)
    assert expected_texts(first) == {
        "expected": "0.65",
        "expected_how": f"measured: −0.25 ± {error:.2g} to unquantized",
    }
    assert expected_texts(between)["expected_how"].startswith("interpolated: −0.2 ± 0.06")
