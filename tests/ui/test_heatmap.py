"""The budget bar in a real browser, on a page that holds nothing else."""

from __future__ import annotations

import re

import pytest

from lwq_ui.core.allocation import breakpoints
from lwq_ui.core.memory import format_gib, size_unit
from lwq_ui.core.orderings import ORDERINGS, rank_layers
from lwq_ui.engine.quantizers.quanto import Quanto

pytest.importorskip("gradio")

from bars import (
    BESIDE,
    FIELD,
    RANGE,
    SPLITTING,
    allocate,
    cell,
    check_every_breakpoint,
    choose,
    choose_model,
    committed,
    high_layers,
    model_cost,
    model_scores,
    ready,
    small_card,
    small_page,
)


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
