"""The split: slider, levels, order, quantizer and pins, against what core says."""

from __future__ import annotations

import pytest

from lwq_ui.core.curves import curves
from lwq_ui.core.memory import format_gib
from lwq_ui.core.orderings import ORDERINGS

pytest.importorskip("gradio")

from page import (
    RANGE,
    choose,
    core_split,
    load_model,
    pick,
    pin,
    press,
    read_pins,
    read_split,
    read_total,
    settle,
    to_position,
    wait_for_status,
    wait_until,
)

from lwq_ui.core.split_orders import orders_of

pytestmark = pytest.mark.browser


def test_drag_and_arrow_keys_change_cells_and_totals(world, page):
    page.locator(RANGE).scroll_into_view_if_needed()
    box = page.locator(RANGE).bounding_box()
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] / 2, y)
    page.mouse.down()
    seen = []
    for i in range(20):
        page.mouse.move(box["x"] + box["width"] * (0.5 + 0.5 * i / 19), y)
        seen.append(sum(read_split(page)))
    page.mouse.up()
    assert seen == sorted(seen) and len(set(seen)) > 5
    n = world.info.num_layers
    assert read_split(page) == (4,) * n and read_total(page, "high") == str(n)
    for steps in (1, 2):
        page.locator(RANGE).press("ArrowLeft")
        split, size = core_split(world, n - steps)
        assert read_split(page) == split and read_total(page, "bytes") == f"{size:,} bytes"


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
        assert read_split(page) == split and read_total(page, "bytes") == f"{size:,} bytes"


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
        assert read_total(page, "bytes") == f"{size:,} bytes"
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
    before = read_split(page)
    pick(page, "#quantizer", "Quanto, HQQ")
    settle(page)
    assert read_split(page) == before and read_pins(page) == {20: 4}


def test_a_pin_at_the_level_that_a_layer_has_anyway_holds(page):
    n = len(read_split(page))
    to_position(page, n)
    pin(page, 7)
    to_position(page, 0)
    assert read_split(page) == tuple(4 if i == 7 else 2 for i in range(n)) and read_pins(page) == {
        7: 4
    }
    page.locator('#bar [data-scorer=lim] [data-layer="7"]').click()  # to the low level, as all are
    settle(page)
    press(page, "End")
    assert read_split(page) == tuple(2 if i == 7 else 4 for i in range(n)) and read_pins(page) == {
        7: 2
    }


def test_the_slider_marks_its_row_among_all_sizes(world, page):
    n = world.info.num_layers
    page.click("#every-size button")
    rows, marked = page.locator("#sizes tbody tr"), page.locator("#sizes tr.current td")
    wait_until(lambda: rows.count() == n + 1)
    for position, levels in ((5, (4, 2)), (9, (8, 4))):
        choose(page, "#levels", f"{levels[0]} / {levels[1]}")
        page.locator("#sizes th").filter(has_text=f"At {levels[1]} bits").wait_for()
        wait_until(lambda levels=levels: set(read_split(page)) == set(levels))
        to_position(page, position)
        split, size = core_split(world, position, levels)
        low, average, _, whole, saved = marked.all_inner_texts()
        assert low == f"{n - position}" and average == f"{sum(split) / n:.2f}"
        assert whole == format_gib(size) == read_total(page, "size") and saved == read_total(
            page, "saving"
        )
        assert marked.first.is_visible()
    with page.expect_download() as download:
        page.get_by_text("Download as CSV").click()
    with open(download.value.path(), encoding="utf-8") as file:
        assert f"{n - position},{average}," in file.read()


def test_the_slider_says_what_to_expect(world, page, known):
    load_model(page, known.folder)
    wait_for_status(page, "is loaded and scored")
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
