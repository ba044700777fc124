"""The page as a whole: what it opens with, and its use without a mouse and without eyes."""

from __future__ import annotations

import json

import pytest

from lwq_ui.core.cost import model_cost
from lwq_ui.core.memory import format_gib
from lwq_ui.engine.quantizers import quantizer_named

pytest.importorskip("gradio")

from page import (
    RANGE,
    measure_only,
    open_tab,
    read_results,
    read_split,
    read_total,
    somebody_computes,
    wait_for_job,
    wait_for_status,
)

pytestmark = pytest.mark.browser


def test_the_page_opens_on_the_demo_model(world, visit):
    page = visit()
    n = world.info.num_layers
    for scorer in ("lim", "zd"):
        assert page.locator(f"#bar [data-scorer={scorer}] .cell").count() == n
    split = read_split(page)
    assert set(split) == {4, 2} and split == read_split(page, "zd")
    cost = model_cost(world.info, quantizer_named("quanto"))
    assert read_total(page, "size") == format_gib(cost.total(split))
    assert read_total(page, "bytes") == f"{cost.total(split):,} bytes"
    assert read_total(page, "average") == f"{sum(split) / n:.2f}"
    assert read_total(page, "per_weight") == f"{cost.bits_per_weight(split):.2f}"
    assert f"{world.info.num_parameters:,}" in page.inner_text("#card")
    assert "50 documents" in page.inner_text("#scored")
    assert page.locator("#stop").is_disabled() and page.locator("#evaluate").is_enabled()
    assert {"unquantized", "all 4-bit", "all 2-bit"} <= {row[0] for row in read_results(page)}


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
    assert read_total(page, "high") == "1"
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
        open_tab(page, name)
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
        wait_for_job(page, "Waiting")
        assert live.inner_text() == "Waiting: 1 job is before yours."
    wait_for_status(page, "^Measured")
    assert live.inner_text() == page.inner_text("#status span")
