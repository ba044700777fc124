"""Configs: downloaded, loaded in another browser, and refused."""

from __future__ import annotations

import re

import pytest

from lwq_ui.core.config import Config
from lwq_ui.core.cost import model_cost
from lwq_ui.engine.quantizers import quantizer_named

pytest.importorskip("gradio")

from page import (
    choose,
    export,
    load_config,
    open_tab,
    pick,
    pin,
    read_pins,
    read_split,
    read_total,
    to_position,
    wait_for_alert,
    wait_for_status,
)

pytestmark = pytest.mark.browser


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
    split, budget = read_split(page), page.locator("#bar .field").input_value()
    name, data = export(page)
    config = Config.from_json(data)
    assert name == f"lwq-demo-{sum(split) / len(split):.2f}bit.json"
    assert config.bits_per_layer == split and config.pinned == read_pins(page) == {2: 8}
    assert config.levels == (8, 4) and config.quantizer["name"] == "quanto-hqq"
    assert (config.ordering["name"], config.ordering["seed"]) == ("random", 5)
    assert f"{config.bytes['total']:,} bytes" == read_total(page, "bytes")
    assert config.fingerprint == world.info.fingerprint

    other = visit()
    assert read_split(other) != split
    load_config(other, data)
    wait_for_status(other, "^The config is loaded")
    assert read_split(other) == split and read_pins(other) == {2: 8}
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
    cost = model_cost(world.info, quantizer_named("quanto"))
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
    assert "all layers are pinned" in wait_for_status(page, "^The config is loaded")
    assert read_split(page) == tuple(bits) and len(read_pins(page)) == len(bits)
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
    before = read_split(page)
    for field, wrong in [*broken.items(), ("num_layers", few), ("bits_per_layer", three)]:
        load_config(page, wrong)
        page.wait_for_function(
            "text => document.querySelector('#error [role=alert]')?.innerText.includes(text)",
            arg=field,
        )
        assert len(re.findall("Config field", wait_for_alert(page))) <= 1
        page.evaluate("document.querySelector('#error [role=alert]').remove()")
    assert read_split(page) == before and page.locator("#evaluate").is_enabled()
    load_config(page, data)
    wait_for_status(page, "^The config is loaded")


def test_a_config_of_other_weights_is_refused(page, tiny):
    _, data = export(page)
    load_config(page, {**data, "model_id": str(tiny), "fingerprint": "0" * 64})
    assert "fingerprints differ" in wait_for_alert(page)
    assert page.inner_text("#card b") == "demo"


def test_a_config_whose_model_lies_elsewhere_says_so(page):
    _, data = export(page)
    load_config(page, {**data, "model_id": "/gone/model", "fingerprint": "0" * 64})
    assert (
        "The config names '/gone/model': if its files lie elsewhere, load them"
        in wait_for_alert(page)
    )
    assert page.inner_text("#card b") == "demo"


def test_a_config_whose_calibration_text_is_not_here_says_so(world, page):
    _, data = export(page)
    bits = [3.945] * world.info.num_layers
    own = quantizer_named("spqr:text=gone.txt~3~0123456789abcdef")
    cost = model_cost(world.info, own)
    data |= {
        "quantizer": own.to_json(),
        "levels": [3.945, 3.657],
        "bits_per_layer": bits,
        "pinned": {},
        "average_bits": 3.945,
        "budget_bytes": cost.total(bits),
        "bytes": {
            "layers": cost.layer_bytes(bits),
            "rest": cost.rest_bytes,
            "total": cost.total(bits),
        },
    }
    missing = "The text 'gone.txt', which SpQR-like (3 bits, outliers) calibrates on, is not in "
    load_config(page, data)
    assert missing in wait_for_status(page, "^The config is loaded")
    page.wait_for_function(
        "text => document.querySelector('#packing').innerText.includes(text)", arg=missing
    )
    assert read_split(page) == tuple(bits)
    open_tab(page, "Evaluate")
    page.click("#evaluate")
    assert wait_for_alert(page).startswith(missing)
    assert export(page)[1]["quantizer"] == data["quantizer"]
