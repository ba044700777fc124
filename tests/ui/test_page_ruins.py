"""What is beyond use is said before a job, and on the chart."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

pytest.importorskip("gradio")

from page import (
    RANGE,
    choose,
    load_model,
    read_total,
    save_llama,
    settle,
    to_position,
    wait_for_chart,
    wait_for_status,
)

from lwq_ui.core.curves import curves
from lwq_ui.core.orderings import QUICK_SCORERS
from lwq_ui.core.run import Run
from lwq_ui.core.schema import UNQUANTIZED, Evaluation, Metric

pytestmark = pytest.mark.browser
N = 10


@pytest.fixture(scope="module")
def ruined(world, tmp_path_factory) -> SimpleNamespace:
    """A model that is lost at 2 bits, with every second split of LIM's measured: made up after
    SmolLM2-135M."""
    from lwq_ui.engine import jobs
    from lwq_ui.engine.quantizers import quantizer_named
    from lwq_ui.engine.records import evaluation_key

    folder = save_llama(tmp_path_factory.mktemp("models") / "ruined", layers=N, seed=14)
    run = Run(world.page.settings, world.page.store)
    loaded = jobs.load(str(folder), "cpu", "auto", run)
    scores = jobs.score(loaded, QUICK_SCORERS, world.page.shipped_text, run)
    values = {name: s.values for name, s in scores.items()}

    def store(quantizer, split, value):
        name = UNQUANTIZED if set(split) == {16} else quantizer
        metrics = {"perplexity": Metric(value, value / 30, 32)}
        e = Evaluation("perplexity", split, name, metrics, {}, None, 1.0)
        task = world.page.tasks["perplexity"]
        key = evaluation_key(loaded.info, task, split, quantizer_named(quantizer), None)
        world.page.store.write(key, e.to_json())

    store("quanto", (16,) * N, 37.7)
    store("quanto:group=32", (2,) * N, 70.0)
    lim, graceful = (curves(["lim"], values, N, levels, stride=2)[0] for levels in ((4, 2), (8, 4)))
    for split, value in zip(lim.splits, (53.5, 70, 752, 9e3, 1.2e5, 1.1e6), strict=True):
        store("quanto", split, value)
    for split, value in zip(graceful.splits[:-1], (39.0, 41.6, 44.5, 47.4, 51.0), strict=True):
        store("quanto", split, value)
    return SimpleNamespace(folder=folder)


LEVELS = (
    "At 2 bits this model is lost: perplexity 1,100,000 is 29,000 times the original's (10 times "
    "or more is beyond use). Try 8 / 4 (1.4 times), or groups of 32 (1.9 times)."
)


def sentence(page, name: str) -> str:
    return page.inner_text(f"#{name}").strip()


def read_axis(page) -> dict:
    return page.evaluate(
        "() => { const { type, ticktext } = document.querySelector('#chart .js-plotly-plot')"
        ".layout.yaxis; return { type, ticktext }; }"
    )


def test_ruins_are_said_before_a_job_and_on_the_chart(page, ruined):
    load_model(page, ruined.folder)
    wait_for_status(page, "is loaded and scored")
    assert sentence(page, "lost-levels") == LEVELS
    # The slider stands in the middle: measured on both sides, and nowhere else.
    to_position(page, 5)
    settle(page)
    assert sentence(page, "lost-split") == (
        "The splits on both sides of this one, of 2.80 and 3.20 bits, are lost: already perplexity "
        "752 is 20 times the original's (10 times or more is beyond use). The nearest usable one "
        "measured has 3.60 bits (1.9 times)."
    )
    page.locator(RANGE).press("ArrowRight")
    page.wait_for_function("document.querySelector('#lost-split').innerText.startsWith('This')")
    assert sentence(page, "lost-split").startswith("This split is lost: perplexity 752 is 20 times")
    assert read_total(page, "expected_how").startswith("lost; measured")
    page.locator(RANGE).press("ArrowRight")
    page.wait_for_selector("#lost-split", state="hidden")

    wait_for_chart(page)
    axis = read_axis(page)
    assert axis["type"] == "log" and {"50", "100", "1k", "1M"} <= set(axis["ticktext"])
    notes = page.locator("#chart .annotation-text").all_text_contents()
    assert "↑ lost: 10 times the original's" in notes
    assert "compressed where splits are lost" in page.inner_text("#chart .caption")

    choose(page, "#levels", "8 / 4")
    page.wait_for_selector("#lost-levels", state="hidden")
    assert not page.is_visible("#lost-split")
    wait_for_chart(page)
    assert "type" not in read_axis(page) or read_axis(page)["type"] != "log"
