"""Users beside each other: what they share, what they wait for, and what they leave."""

from __future__ import annotations

import pytest

from lwq_ui.core.cost import model_cost
from lwq_ui.engine.quantizers import quantizer_named

pytest.importorskip("gradio")

from page import (
    choose,
    load_model,
    measure_only,
    open_tab,
    pick,
    pin,
    read_pins,
    read_results,
    read_split,
    read_total,
    settle,
    somebody_computes,
    wait_for_job,
    wait_for_status,
    wait_until,
)

pytestmark = pytest.mark.browser


def test_two_users_do_not_see_each_other_and_share_a_model(world, visit, tiny):
    ann, bob = visit(), visit()
    pin(ann, 1)
    assert read_pins(bob) == {} and read_pins(ann) == {1: 4}
    load_model(bob, tiny)
    wait_for_status(bob, "is loaded and scored")
    assert ann.inner_text("#card b") == "demo" and len(read_split(ann)) == 24
    count = len(read_results(ann))

    measure_only(bob, "Grammar pairs")
    bob.click("#evaluate")
    wait_for_status(bob, "^Measured")
    bob.wait_for_selector("#results tr.current")
    assert len(read_results(ann)) == count

    # Under another name it is the same model still: one copy.
    load_model(ann, tiny.parent / "." / "tiny" / ".." / "tiny")
    wait_for_status(ann, "is loaded and scored")

    def copies():
        return {id(m.model) for m in world.shelf.models() if m.info.num_layers == 6}

    wait_until(lambda: len(copies()) == 1)  # an earlier test's model leaves with its page
    wait_until(lambda: read_pins(ann) == {})


def test_the_second_user_sees_their_place_in_the_line(world, visit):
    ann, bob = visit(), visit()
    with somebody_computes(world):
        for page, line in (
            (ann, r"Waiting: 1 job is before yours\."),
            (bob, "Waiting: 2 jobs are"),
        ):
            open_tab(page, "Write something")
            page.locator("#length input[type=number]").fill("10")
            page.locator("#length input[type=number]").press("Tab")
            page.click("#write")
            wait_for_job(page, line)
        ann.click("#stop")
        wait_for_job(bob, r"Waiting: 1 job is before yours\.")
    wait_for_status(bob, "^Written")


def test_closing_the_tab_ends_its_job_and_releases_its_model(world, visit, tiny):
    page = visit()
    load_model(page, tiny)
    wait_for_status(page, "is loaded and scored")
    assert any(m.info.num_layers == 6 for m in world.shelf.models())
    with somebody_computes(world):
        page.click("#evaluate")
        wait_for_job(page, "Waiting")
        page.close()
        wait_until(lambda: len(world.worker._line) == 1)
    wait_until(lambda: {m.info.num_layers for m in world.shelf.models()} == {24})


def test_closing_the_tab_stops_what_runs(world, visit):
    page = visit()
    choose(page, "#quick", "All items")
    pick(page, "#ordering", "Random")
    page.locator("#seed input").fill("78")
    page.locator("#seed input").press("Enter")
    settle(page)
    measure_only(page, "Perplexity and divergence")
    page.click("#evaluate")
    wait_for_job(page, r"Perplexity[\s\S]*%")
    page.close()
    wait_until(lambda: not world.worker.busy, 10)
    again = visit()
    assert (
        again.locator("#evaluate").is_enabled() and not again.locator("#error [role=alert]").count()
    )


def test_what_is_chosen_while_a_model_loads_is_kept(world, page, tiny):
    with somebody_computes(world):
        load_model(page, tiny)
        wait_for_job(page, "Waiting")
        choose(page, "#levels", "8 / 4")
        page.wait_for_selector("#bar .cell[data-bits='8']")
    wait_for_status(page, "is loaded and scored")
    page.wait_for_function(
        "[...document.querySelectorAll('#bar .cell')].map(c => c.dataset.bits).join('')"
        ".match(/^[84]{12}$/)"
    )
    assert page.locator("#levels input:checked").input_value() == "8,4"
    (info,) = [m.info for m in world.shelf.models() if m.info.model_id == str(tiny)]
    cost = model_cost(info, quantizer_named("quanto"))
    wait_until(lambda: read_total(page, "bytes") == f"{cost.total(read_split(page)):,} bytes")
