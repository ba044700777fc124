"""One Chromium for the whole run, and pages that fail a test for any error or outside request."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest

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
