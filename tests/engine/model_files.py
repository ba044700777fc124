"""A model's files in a folder and on a served Hub, and the sentences that refuse them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import fake_hub
import pytest
import tiny

from lwq_ui.core.errors import UserError
from lwq_ui.core.run import silent
from lwq_ui.core.settings import Settings
from lwq_ui.engine.checkpoints.finding import find
from lwq_ui.engine.checkpoints.source import Source

SETTINGS = Settings(cache=Path("unused"))


def refused(model_id: str, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        find(model_id, tiny.run(settings=SETTINGS), **options)
    return sentence(caught.value)


def sentence(error: UserError) -> str:
    """What a person reads: whole sentences on one line, without a class name or a traceback."""
    text = str(error)
    assert "\n" not in text and "Traceback" not in text
    assert not re.search(r"\b\w+(Error|Exception)\b", text), text
    assert text[0] in "'ATtFOHPNG" and text.endswith(".")
    assert 20 < len(text) < 500
    return text


class Online(fake_hub.Hub):
    """A server with the model of a folder, and where its files and our cache go."""

    @contextmanager
    def __call__(self, folder: Path) -> Iterator[Online]:
        self.folder = folder
        with fake_hub.serve(self, self.monkeypatch, self.root / "hub"):
            yield self

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch):
        super().__init__(root)
        self.root, self.monkeypatch = root, monkeypatch
        self.settings = Settings(cache=root / "cache")

    def find(self, stop: Event | None = None, progress: Any = silent, **options: Any) -> Source:
        return find(
            fake_hub.NAME, tiny.run(progress=progress, settings=self.settings, stop=stop), **options
        )

    def refused(self) -> str:
        with pytest.raises(UserError) as caught:
            self.find()
        return sentence(caught.value)
