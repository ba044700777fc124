"""What was measured: the chart's points, the paper's views, and the comparison."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("gradio")

from page import (
    RANGE,
    choose,
    click_point,
    load_model,
    measure_only,
    open_tab,
    pick,
    read_pins,
    to_position,
    wait_for_line,
    wait_for_split,
    wait_for_status,
    wait_until,
)

pytestmark = pytest.mark.browser


def test_a_click_on_a_point_loads_exactly_that_split(world, page, known):
    load_model(page, known.folder)
    wait_for_status(page, "is loaded and scored")
    wait_for_line(page, "Reverse LIM")
    for line, ordering, point in (("Reverse LIM", "Reverse LIM", 2), ("LIM", "LIM", 4)):
        split = click_point(page, line, point)
        wait_for_status(page, f"^Loaded: .*{ordering}")
        wait_for_split(page, split)
        assert read_pins(page) == {}
        assert page.locator("#ordering input").input_value() == ordering
    assert split in known.lim


def test_another_model_is_drawn_beside(world, known, page):
    pick(page, "#metric", "Grammar pairs: accuracy")
    open_tab(page, "Sweep")
    page.click("#figure3")
    page.wait_for_function("document.querySelectorAll('#orderings input:checked').length === 1")
    page.locator("#other input").click()
    page.get_by_role("option", name=str(known.folder)).click()
    wait_for_line(page, "known, LIM")


def test_views_set_quantizers_and_levels(page):
    open_tab(page, "Sweep")
    quantizer, also = page.locator("#quantizer input"), page.locator("#also")
    page.click("#table3")
    wait_until(lambda: quantizer.input_value().startswith("SpQR"))
    chosen = "boxes => boxes.filter(b => b.checked).map(b => b.closest('label').innerText.trim())"
    orders = page.locator("#orderings input")
    wait_until(lambda: orders.evaluate_all(chosen) == ["LIM", "All layers alike"])
    wait_until(lambda: page.locator("#levels input:checked").input_value() == "3.945,3.657")
    page.wait_for_selector("#bar .cell[data-bits='3.945']")
    page.click("#table2")
    wait_until(lambda: quantizer.input_value().startswith("Quanto, Max"))
    wait_until(lambda: orders.evaluate_all(chosen) == ["LIM"])
    wait_until(lambda: page.locator("#levels input:checked").input_value() == "4,2")
    also.get_by_text("Quanto, HQQ").wait_for()
    assert "SpQR" not in also.inner_text()
    page.click("#figure2")
    wait_until(lambda: "Quanto" not in also.inner_text())
    page.wait_for_selector("#bar .cell[data-bits='2']")


def test_does_it_matter_here(world, page, known):
    load_model(page, known.folder)
    wait_for_status(page, "is loaded and scored")
    open_tab(page, "Does it matter?")
    panel = page.locator("#comparison")
    panel.get_by_text("LIM beats random here.").wait_for()
    assert "60 items" in panel.inner_text() and "better than 3 of the 3" in panel.inner_text()
    # seven orders, of which random three times, and the mean of those
    wait_until(lambda: panel.locator("tbody tr").count() == 10)
    pick(page, "#ordering", "Reverse LIM")
    panel.get_by_text("Reverse LIM does not beat random here by more than noise.").wait_for()
    panel.get_by_text("LIM beats random here.", exact=True).wait_for()
    page.locator(RANGE).press("End")
    panel.get_by_text("every order gives the same split").wait_for()


def test_every_order_is_measured_in_one_job(world, page, tiny):
    load_model(page, tiny)
    wait_for_status(page, "is loaded and scored")
    measure_only(page, "Grammar pairs")
    open_tab(page, "Does it matter?")
    to_position(page, 2)
    page.click("#compare")
    wait_for_status(page, "^Measured")
    page.wait_for_function(
        "() => { const text = document.querySelector('#comparison').innerText;"
        " return /random here/.test(text) && !/[Nn]ot measured/.test(text); }"
    )


def test_quantizers_and_levels_in_between_are_compared(world, page, tiny, monkeypatch):
    from lwq_ui.engine.quantizers import QUANTIZERS

    for family in {*QUANTIZERS} - {"quanto", "quanto-hqq"}:  # those take longer
        monkeypatch.delitem(QUANTIZERS, family)
    load_model(page, tiny)
    wait_for_status(page, "is loaded and scored")
    measure_only(page, "Grammar pairs")
    to_position(page, 3)
    open_tab(page, "Does it matter?")
    panel, button = page.locator("#comparison"), page.locator("#compare")
    choose(page, "#versus", "Quantizers")
    button.filter(has_text="Measure every quantizer at this budget").wait_for()
    button.click()
    wait_for_status(page, r"^Measured.* \(every quantizer here\)")
    row = panel.locator("tbody tr").filter(has_text="Quanto, HQQ")
    row.filter(has_text=re.compile("bits on average.*±.*(no|better|worse)", re.DOTALL)).wait_for()
    choose(page, "#versus", "All layers alike")
    panel.get_by_text("has no level between 4 and 2 bits").wait_for()
    choose(page, "#levels", "8 / 2")
    panel.get_by_text("has no level between").wait_for(state="detached")
    button.filter(has_text="Measure all layers alike").click()
    wait_for_status(page, r"^Measured.* \(all layers alike and mixes\)")
    panel.get_by_text("all layers at 4 bits.").wait_for()
    assert "Mix by LIM" in panel.inner_text() and panel.locator("tbody tr").count() == 1
