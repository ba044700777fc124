"""What the page opens on: a real model with its curves before any weight is read, or the small one
with the reason. A small random model stands in the wheel's place."""

from __future__ import annotations

import importlib.util
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import wheels

pytest.importorskip("gradio")

from page import (
    READY,
    choose,
    link_few_results,
    load_model,
    open_tab,
    read_lines,
    read_split,
    read_texts,
    save_llama,
    settle,
    wait_for_status,
)

from lwq_ui.core.built_in import DEMO, SMOLLM2, Opening
from lwq_ui.core.run import Run
from lwq_ui.core.settings import ROOT, Settings

pytestmark = pytest.mark.browser

LAYERS = 6
WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 420, "height": 800}
REASON = "The page opened on the small demo model. It has its reason."


def cache_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_cache", ROOT / "assets" / "make_cache.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Assets with what the page needs of the small random model that is now the wheel's."""
    root = tmp_path_factory.mktemp("opening")
    wheels.install(root / "site", wheels.tiny_gguf(root / "tiny.gguf", LAYERS))
    sys.path.insert(0, str(root / "site"))
    (root / "assets").mkdir()
    folder = link_few_results(root / "assets")
    script = cache_script()
    script.tasks, script.TASKS = lambda settings: ["perplexity"], ("perplexity",)
    settings = Settings(cache=root / "measured", assets=folder)
    plan = [script.Lines("quanto", (8, 4), ("lim", "first", "last"))]
    script.make(SMOLLM2, Run(settings, script.Remembering(settings)), plan)
    yield folder
    sys.path.remove(str(root / "site"))


@pytest.fixture
def serve(chrome: Any, assets: Path, tmp_path: Path) -> Iterator[Callable[..., SimpleNamespace]]:
    """serve(opening) -> a new server of the page, with an empty cache."""
    import app

    served = []

    def serve(opening: Opening) -> SimpleNamespace:
        settings = Settings(cache=tmp_path / "cache", assets=assets)
        demo, server = app.launch(
            settings, opening, server_name="127.0.0.1", prevent_thread_lock=True, quiet=True
        )
        served.append(demo)
        return SimpleNamespace(url=demo.local_url, server=server)

    yield serve
    for demo in served:
        demo.close(verbose=False)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Nothing of a model is read before the event."""
    from lwq_ui.ui.shelf import Shelf

    go, load = threading.Event(), Shelf.load

    def wait(self: Shelf, choice: Any, run: Run) -> Any:
        while not go.wait(0.01):
            run.check()
        return load(self, choice, run)

    monkeypatch.setattr(Shelf, "load", wait)
    yield go
    go.set()


def wait_for_lim(page: Any) -> None:
    """Waits for LIM's line, whatever other orders are the same on a random model."""
    page.wait_for_function(
        "document.querySelector('#chart .js-plotly-plot')?.data"
        "?.some(t => t.name?.startsWith('LIM') && t.x.length > 2)"
    )


def test_it_opens_on_smollm2_with_curves_before_a_weight_is_read(serve, held, open_page):
    page = open_page(serve(Opening(SMOLLM2)).url, viewport=WIDE)
    wait_for_lim(page)
    assert set(read_lines(page).values()) == {LAYERS + 1}
    assert page.input_value("#model input") == SMOLLM2 and SMOLLM2 in page.inner_text("#card")
    assert set(read_split(page)) == {8, 4} and len(read_split(page)) == LAYERS
    assert (
        page.locator("#levels input:checked").evaluate("i => i.parentElement.innerText") == "8 / 4"
    )
    assert page.locator("#bar [data-scorer=sensitivity] .cell").count() == LAYERS
    open_tab(page, "Write something")
    assert len(read_texts(page)) == 4 and "Not written yet." not in read_texts(page)
    assert not page.locator("#reason").is_visible()
    held.set()
    wait_for_status(page, "^SmolLM2-135M-Instruct is ready. Drag the memory budget.$")
    assert set(read_split(page)) == {8, 4}


def test_the_small_model_and_the_usual_levels_are_one_click_away(serve, open_page):
    world = serve(Opening(SMOLLM2))
    page = open_page(world.url, viewport=WIDE)
    wait_for_status(page, "is ready")
    choose(page, "#levels", "4 / 2")
    page.wait_for_selector('#bar [data-scorer=lim] [data-bits="2"]')
    assert set(read_split(page)) == {4, 2}
    choose(page, "#levels", "8 / 2")
    page.get_by_role("button", name="Small and fast: the demo model").click()
    wait_for_status(page, "^demo is loaded and scored")
    assert page.input_value("#model input") == DEMO
    assert len(read_split(page)) == 24 and set(read_split(page)) == {4, 2}
    assert not page.locator("#small").is_visible()
    assert {m.info.model_id for m in world.server.shelf.models()} == {DEMO}
    load_model(page, SMOLLM2)  # and back, to what it opened with
    wait_for_status(page, "^smollm2 is loaded and scored")
    assert len(read_split(page)) == LAYERS and set(read_split(page)) == {8, 4}
    wait_for_lim(page)
    assert page.locator("#small").is_visible()


@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
def test_it_opens_on_the_small_model_and_says_why(serve, open_page, tmp_path, size):
    page = open_page(serve(Opening(DEMO, REASON)).url, viewport=size)
    wait_for_status(page, READY)
    settle(page)
    page.locator("#reason").scroll_into_view_if_needed()
    assert page.inner_text("#reason").strip() == REASON
    assert page.input_value("#model input") == DEMO and not page.locator("#small").is_visible()
    page.reload()
    wait_for_status(page, READY)
    assert page.inner_text("#reason").strip() == REASON
    load_model(page, save_llama(tmp_path / "other", layers=4, seed=3))
    wait_for_status(page, "is loaded and scored")
    page.locator("#reason").wait_for(state="hidden")
    assert page.locator("#small").is_visible()
