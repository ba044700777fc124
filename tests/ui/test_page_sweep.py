"""Sweeps: their forecast, the lines they draw, and where they stop."""

from __future__ import annotations

import pytest

pytest.importorskip("gradio")

from page import (
    WAIT,
    choose,
    click_point,
    find_lone_point,
    load_model,
    measure_only,
    open_tab,
    pick,
    read_lines,
    read_pins,
    read_split,
    save_llama,
    sweep_only,
    wait_for_alert,
    wait_for_forecast,
    wait_for_line,
    wait_for_split,
    wait_for_status,
    wait_until,
)

pytestmark = pytest.mark.browser


def test_a_sweep_is_forecast_and_draws_a_line_per_order(world, page, tiny):
    load_model(page, tiny)
    wait_for_status(page, "is loaded and scored")
    measure_only(page, "Grammar pairs")
    open_tab(page, "Sweep")
    few = wait_for_forecast(page, r"^\d+ splits on 1 task\.")
    choose(page, "#every", "All")
    page.wait_for_function("few => document.querySelector('#forecast').innerText !== few", arg=few)
    page.click("#how-long")
    assert "on this machine" in wait_for_forecast(page, "That takes")
    page.click("#sweep")
    wait_for_status(page, "^Measured .*5 orders, 4/2 bits")
    wait_for_line(page, "LIM")
    assert set(read_lines(page)) >= {"LIM", "ZD", "Random", "Reverse LIM", "ZD, other way"}
    assert read_lines(page)["LIM"] >= 4
    assert "All of these" in wait_for_forecast(page, "All of these")
    assert "LIM: 90 % of the 4-bit score" in page.inner_text("#kept")
    page.click("#sweep")
    assert "from the cache" in wait_for_status(page, "^Measured before")


def test_a_stopped_sweep_keeps_what_it_has_and_goes_on(world, page, tiny):
    load_model(page, tiny)
    wait_for_status(page, "is loaded and scored")
    measure_only(page, "Perplexity and divergence")
    open_tab(page, "Sweep")
    choose(page, "#every", "All")
    page.click("#sweep")
    # The first results rest on a part of the passages, and are on the chart while it runs.
    page.wait_for_function(
        "() => [...document.querySelectorAll('#results td')].some(c => /n 8$/.test(c.innerText))",
        timeout=WAIT,
    )
    page.click("#stop")
    wait_for_status(page, "^Stopped")
    wait_for_line(page, "LIM")
    assert "n 8" in page.inner_text("#results")
    page.click("#sweep")
    wait_for_status(page, r"^Measured \(")
    page.wait_for_function("!document.querySelector('#results').innerText.includes('n 8')")


def test_pruning_and_three_levels(world, page, tiny):
    load_model(page, tiny)
    wait_for_status(page, "is loaded and scored")
    measure_only(page, "Grammar pairs")
    open_tab(page, "Sweep")
    choose(page, "#every", "All")
    page.click("#figure4")
    page.wait_for_function("document.querySelectorAll('#orderings input:checked').length === 3")
    page.click("#sweep")
    wait_for_status(page, "^Measured")
    wait_for_line(page, "Prune by LIM")
    before = read_split(page)
    assert 0 in click_point(page, "Prune by LIM", 2)
    assert "cannot be loaded" in wait_for_alert(page)
    assert read_split(page) == before

    page.click("#figure5")
    page.wait_for_function(
        "document.querySelector('#sweep-levels input:checked').value === 'three'"
    )
    page.click("#sweep")
    wait_for_status(page, "8/4/2 bits")
    wait_for_line(page, "LIM")
    assert read_lines(page) == {"LIM": 3}  # none, one and two layers at 8 bits
    split = click_point(page, "LIM", 1)
    assert sorted(split) == [2, 2, 4, 4, 4, 8]
    wait_for_status(page, "all layers are pinned")
    assert read_split(page) == split and len(read_pins(page)) == 6


def test_quantizers_are_swept_together_and_a_click_loads_theirs(world, page, tmp_path):
    load_model(page, save_llama(tmp_path / "by-two", layers=6, seed=5))  # no other lines
    wait_for_status(page, "is loaded and scored")
    measure_only(page, "Grammar pairs")
    open_tab(page, "Sweep")
    sweep_only(page, "LIM")
    choose(page, "#every", "All")
    pick(page, "#also", "Quanto, HQQ")
    wait_for_forecast(page, r"^\d+ splits by 2 quantizers on 1 task\.")
    page.click("#sweep")
    wait_for_status(page, "^Measured .*1 order, 4/2 bits, 2 quantizers")
    for line in ("LIM, Quanto, Max", "LIM, Quanto, HQQ"):
        wait_for_line(page, line)
    split = click_point(page, "LIM, Quanto, HQQ", find_lone_point(page, "LIM, Quanto, HQQ"))
    wait_for_status(page, "^Loaded: .*LIM")
    wait_for_split(page, split)
    quantizer = page.locator("#quantizer input")
    wait_until(lambda: quantizer.input_value() == "Quanto, HQQ")
    split = click_point(page, "LIM, Quanto, Max", find_lone_point(page, "LIM, Quanto, Max"))
    wait_for_split(page, split)
    wait_until(lambda: quantizer.input_value().startswith("Quanto, Max"))
    assert "Quanto, HQQ" in page.inner_text("#results")


def test_all_layers_alike_are_a_line_where_a_level_lies_in_between(world, page, tmp_path):
    load_model(page, save_llama(tmp_path / "alike", layers=4, seed=11))
    wait_for_status(page, "is loaded and scored")
    measure_only(page, "Grammar pairs")
    open_tab(page, "Sweep")
    sweep_only(page, "All layers alike")
    wait_for_forecast(page, "has no level between 4 and 2 bits.* Choose 8 / 2")
    page.click("#sweep")
    assert "has no level between" in wait_for_alert(page)
    choose(page, "#levels", "8 / 2")
    wait_for_forecast(page, r"^4 splits on 1 task\.")
    page.click("#sweep")
    wait_for_status(page, r"^Measured.* \(1 order, 8/2 bits\)")
    wait_for_line(page, "All layers alike")
    split = click_point(page, "All layers alike", 1)
    wait_for_split(page, split)
    assert set(split) == {4}
