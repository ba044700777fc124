"""Measuring one split: the job, its results, Stop and errors."""

from __future__ import annotations

import time

import pytest

from lwq_ui.core.errors import UserError

pytest.importorskip("gradio")

from page import (
    RANGE,
    READY,
    choose,
    core_split,
    load_model,
    measure_only,
    open_tab,
    pick,
    pin,
    read_points,
    read_results,
    read_ring,
    read_split,
    read_total,
    save_llama,
    settle,
    somebody_computes,
    to_position,
    wait_for_alert,
    wait_for_job,
    wait_for_status,
    wait_until,
)

from lwq_ui.ui.following import Pace

pytestmark = pytest.mark.browser


def test_evaluate_then_again_from_the_cache(world, visit):
    page = visit()
    to_position(page, 4)
    pin(page, 13)
    split = read_split(page)
    assert split == core_split(world, page_position(world, split, {13: 4}), pins={13: 4})[0]
    average = f"{sum(split) / len(split):.2f}"
    count = len(read_results(page))
    measure_only(page, "Grammar pairs")
    page.click("#evaluate")
    assert f"({average} bits)" in wait_for_status(page, "^Measured .* in ")
    page.wait_for_selector("#results tr.current")
    assert len(read_results(page)) == count + 1
    assert any(row[:2] == [f"{average} bits", average] for row in read_results(page))
    assert "quick" in page.inner_text("#results caption")

    page.wait_for_function(  # of what was measured, without being asked for it
        "() => document.querySelector('#chart .ytitle')?.textContent.startsWith('Grammar')"
    )
    (accuracy,) = {e.metrics["acc"].value for e in stored(world) if e.split == split}
    page.wait_for_function(  # drawn again at its end
        "() => document.querySelector('#chart .js-plotly-plot').data"
        ".some(t => t.name === 'measured last')"
    )
    near = [y for x, y in read_points(page) if x == pytest.approx(sum(split) / len(split))]
    assert near == [pytest.approx(accuracy)]
    assert read_ring(page) == [pytest.approx(sum(split) / len(split))]

    page.click("#evaluate")
    assert "from the cache" in wait_for_status(page, "^Measured before")
    assert len(read_results(page)) == count + 1

    # All items is another view: nothing was measured on all of them.
    choose(page, "#quick", "All items")
    page.wait_for_function("!document.querySelector('#results').innerText.includes('quick')")
    assert [average] != [row[1] for row in read_results(page)]

    # Reloading the page forgets choices, not results.
    page.reload()
    wait_for_status(page, READY)
    assert any(row[:2] == [f"{average} bits", average] for row in read_results(page))


def stored(world):
    from lwq_ui.engine.records import known_evaluations

    return known_evaluations(world.info, world.page.tasks, world.page.store)


def page_position(world, split, pins):
    return sum(bits == 4 for i, bits in enumerate(split) if i not in pins)


def test_nothing_chosen_to_measure(page):
    measure_only(page)
    page.click("#evaluate")
    assert wait_for_alert(page) == "Choose at least one thing to measure."
    assert page.locator("#evaluate").is_enabled()


def test_an_error_outlives_a_job_and_ends_with_the_next_success(world, page, monkeypatch):
    monkeypatch.setattr(world.page, "other_models", lambda info: [])
    measure_only(page, "Grammar pairs")
    open_tab(page, "Sweep")
    with somebody_computes(world):
        open_tab(page, "This split")
        page.click("#evaluate")
        wait_for_job(page, "Waiting")
        open_tab(page, "Sweep")
        page.click("#figure3")
        assert wait_for_alert(page).startswith("No other model is measured yet.")
        wait_for_job(page, "Waiting")
    wait_for_status(page, "^Measured")
    settle(page)
    assert wait_for_alert(page).startswith("No other model")  # it came while the job ran
    page.click("#figure2")
    page.wait_for_selector("#error [role=alert]", state="detached")
    page.click("#figure3")
    wait_for_alert(page)
    page.locator(RANGE).press("ArrowRight")
    page.wait_for_selector("#error [role=alert]", state="detached")


def test_stop_ends_a_job_within_two_seconds_and_the_next_one_runs(world, page):
    pick(page, "#ordering", "Random")
    page.locator("#seed input").fill("77")
    page.locator("#seed input").press("Enter")
    settle(page)
    measure_only(page, "Perplexity and divergence")
    choose(page, "#quick", "All items")
    page.click("#evaluate")
    wait_for_job(page, r"Perplexity[\s\S]*[1-9]%")
    assert page.locator("#stop").is_enabled() and page.locator("#evaluate").is_disabled()
    assert page.locator("#load").is_disabled()
    clicked = time.monotonic()
    page.click("#stop")
    wait_for_status(page, "^Stopped")
    took = time.monotonic() - clicked
    assert not world.worker.busy
    assert took < 4  # 2 on a machine that does nothing else
    assert page.locator("#stop").is_disabled()
    measure_only(page, "Grammar pairs")
    choose(page, "#quick", "Quick: 60 items")
    page.click("#evaluate")
    wait_for_status(page, "^Measured")


def test_stop_while_waiting_behind_another_user(world, page):
    with somebody_computes(world):
        measure_only(page, "Grammar pairs")
        page.click("#evaluate")
        wait_for_job(page, r"Waiting: 1 job is before yours\.")
        page.click("#stop")
        wait_for_status(page, "^Stopped", timeout=4000)
        assert page.locator("#evaluate").is_enabled()
        page.click("#evaluate")
        wait_for_job(page, r"Waiting: 1 job is before yours\.")
    wait_for_status(page, "^Measured")


def test_an_error_in_the_program_is_one_sentence(world, page, monkeypatch):
    from lwq_ui.engine import jobs

    def fail(*args):
        raise RuntimeError("boom\nTraceback (most recent call last)")

    measure_only(page, "Grammar pairs")
    with monkeypatch.context() as patch:
        patch.setattr(jobs, "evaluate", fail)
        page.click("#evaluate")
        assert wait_for_alert(page) == (
            "Something went wrong (RuntimeError: boom). "
            f"The details are in '{world.page.settings.cache / 'lwq.log'}'."
        )
    page.click("#evaluate")
    wait_for_status(page, "^Measured")


def test_a_task_that_cannot_be_had_does_not_keep_the_others(world, page, tiny, monkeypatch):
    from lwq_ui.engine import jobs

    shipped = jobs.evaluating.task_named

    def named(name, settings):
        if name == "piqa":
            raise UserError("The data of 'piqa' cannot be downloaded: check the network.")
        return shipped(name, settings)

    monkeypatch.setattr(jobs.evaluating, "task_named", named)
    load_model(page, tiny)
    wait_for_status(page, "is loaded and scored")
    measure_only(page, "Grammar pairs")
    page.locator("#others input").fill("piqa")
    page.locator("#others input").press("Enter")
    page.wait_for_selector("#others >> text=piqa")
    page.click("#evaluate")
    assert wait_for_alert(page) == "The data of 'piqa' cannot be downloaded: check the network."
    wait_for_status(page, "^Measured")
    page.wait_for_selector("#results tr.current")
    assert page.locator("#evaluate").is_enabled()


def test_the_time_left_is_told_once_it_can_be():
    pace = Pace()
    assert pace.left(None, 0) == pace.left(0.0, 1) == pace.left(0.01, 2) == ""
    assert pace.left(0.2, 11) == "about 40 s left"
    assert pace.left(0.5, 51) == "about 50 s left"
    assert pace.left(0.02, 60) == ""  # the next part of the job
    assert pace.left(0.12, 120) == "about 9 min left"


def test_what_a_split_takes_is_measured_and_its_disk_is_told(world, page, tmp_path):
    load_model(page, save_llama(tmp_path / "weighed", layers=4, seed=10))
    wait_for_status(page, "is loaded and scored")
    measure_only(page, "Grammar pairs")
    to_position(page, 1)
    page.click("#evaluate")
    wait_for_status(page, r"^Measured \(")
    page.wait_for_selector("#truth p")
    size = read_total(page, "size")
    assert f"{size} measured, {size} estimated." in page.inner_text("#truth")
    assert page.locator("#truth .wrong").count() == 0
    gone = world.page.store.banks.root / ("f" * 16) / "bank" / "layer.safetensors"
    gone.parent.mkdir(parents=True)
    gone.write_bytes(b"packed")
    kept = world.page.store.banks.total() - 6
    page.click("#clear-disk")
    page.wait_for_function("document.querySelector('#disk').innerText.includes('in use')")
    wait_until(lambda: not gone.exists())
    assert 0 < world.page.store.banks.total() <= kept
