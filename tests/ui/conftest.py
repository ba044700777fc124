"""One Chromium and one server of the whole page for all files that a process runs, and pages that
fail a test for any error or outside request."""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from page import (
    READY,
    WATCH,
    link_few_results,
    make_known,
    save_llama,
    settle,
    wait_for_status,
    wait_until,
)

from lwq_ui.core.settings import Settings

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def no_browser(reason: str) -> None:
    """A skip that CI does not let through."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"browser tests cannot run: {reason}")
    pytest.skip(f"browser tests cannot run: {reason}")


@pytest.fixture(scope="session")
def chrome() -> Iterator[Any]:
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError as error:
        no_browser(str(error))
    installed = next(filter(None, map(shutil.which, BROWSERS)), None)
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=installed, args=FLAGS)
        except Error as error:
            no_browser(str(error).splitlines()[0])
        yield browser
        browser.close()


@pytest.fixture
def open_page(chrome: Any) -> Iterator[Callable[..., Any]]:
    """open_page(url, **context options) -> a page of its own browser context. At the end no page
    may have logged an error or asked anything but its own server."""
    opened = []

    def open_(url: str, **options: Any) -> Any:
        page = chrome.new_context(**options).new_page()
        page.add_init_script(WATCH)
        problems: list[str] = []
        own = (url.split("?")[0], "data:", "blob:")
        page.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda r: None if r.url.startswith(own) else problems.append(r.url))
        opened.append((page, problems))
        page.goto(url)
        return page

    yield open_
    for page, problems in opened:
        page.context.close()
        assert problems == []


# ---- the whole page, on the model that ships with it


@pytest.fixture(scope="session")
def world(chrome: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """The page's server. Starting it takes seconds, so that files share it: a test measures splits
    or models of its own where it matters that nobody has measured them before."""
    pytest.importorskip("gradio")
    import app

    assets = link_few_results(tmp_path_factory.mktemp("assets"))
    settings = Settings(cache=tmp_path_factory.mktemp("cache"), assets=assets)
    demo, page = app.launch(settings, server_name="127.0.0.1", prevent_thread_lock=True, quiet=True)
    session = page.opening_session()
    yield SimpleNamespace(
        url=demo.local_url,
        page=page,
        worker=page.worker,
        shelf=page.shelf,
        info=session.info,
        scores={name: s.values for name, s in session.scores.items()},
    )
    demo.close(verbose=False)


@pytest.fixture(scope="session")
def known(world: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    return make_known(world.page, tmp_path_factory.mktemp("models") / "known")


@pytest.fixture
def idle(world: SimpleNamespace) -> Iterator[None]:
    """No job of a test runs into the next one. Closing its pages ends what it left running."""
    yield
    wait_until(lambda: not world.worker.busy)


@pytest.fixture
def visit(world: SimpleNamespace, idle: None, open_page: Callable[..., Any]) -> Callable[..., Any]:
    """visit() -> the page of a new user, with the demo model ready."""
    from lwq_ui.ui.session import ModelChoice

    def visit(**options: Any) -> Any:
        page = open_page(world.url, **{"viewport": {"width": 1280, "height": 900}, **options})
        wait_for_status(page, READY)
        settle(page)
        world.shelf.come("nobody")  # keeps the demo model in memory from test to test
        world.shelf.join("nobody", ModelChoice())
        return page

    return visit


@pytest.fixture
def page(visit: Callable[..., Any]) -> Any:
    return visit()


@pytest.fixture(scope="module")
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A random Llama of 6 layers that no other file has."""
    seed = zlib.crc32(request.module.__name__.encode())
    return save_llama(tmp_path_factory.mktemp("models") / "tiny", layers=6, seed=seed)
