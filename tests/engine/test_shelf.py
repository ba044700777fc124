"""Models in memory, shared by everybody who chose them."""

from __future__ import annotations

import shutil
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
from safetensors.torch import load_file, save_file

from lwq_ui.core.settings import Settings
from lwq_ui.ui.state import Choice, Page, Shelf

JOB: Any = SimpleNamespace(progress=tiny.quiet, stop=Event())


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer_config.json"])
def test_files_that_were_saved_again_are_loaded_again(tmp_path: Path, name: str) -> None:
    folder = tiny.save(tiny.build("llama"), tmp_path / "model")
    page, shelf, choice = Page(Settings(cache=tmp_path / "cache")), Shelf(), Choice(str(folder))
    shelf.come("somebody")
    first = shelf.load(choice, page, JOB)
    shelf.assign("somebody", choice, first)
    assert shelf.load(choice, page, JOB) is first
    path = folder / name
    if path.suffix == ".json":
        path.write_text(path.read_text() + "\n")
    else:
        other = tmp_path / "other"
        save_file({n: t + 1 for n, t in load_file(path).items()}, other, metadata={"format": "pt"})
        shutil.move(other, path)
    second = shelf.load(choice, page, JOB)
    assert second.info.fingerprint != first.info.fingerprint
    assert second.info.fingerprint == tiny.load(folder).info.fingerprint
    shelf.assign("somebody", choice, second)
    assert shelf.load(choice, page, JOB) is second
