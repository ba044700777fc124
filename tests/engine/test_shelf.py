"""Models in memory, shared by everybody who chose them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import tiny
from safetensors.torch import load_file, save_file

from lwq_ui.core.run import Run
from lwq_ui.ui.session import ModelChoice
from lwq_ui.ui.shelf import Shelf


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer_config.json"])
def test_files_that_were_saved_again_are_loaded_again(tmp_path: Path, name: str, run: Run) -> None:
    folder = tiny.save(tiny.build("llama"), tmp_path / "model")
    shelf, choice = Shelf(), ModelChoice(str(folder))
    shelf.come("somebody")
    first = shelf.load(choice, run)
    shelf.assign("somebody", choice, first)
    assert shelf.load(choice, run) is first
    path = folder / name
    if path.suffix == ".json":
        path.write_text(path.read_text() + "\n")
    else:
        other = tmp_path / "other"
        save_file({n: t + 1 for n, t in load_file(path).items()}, other, metadata={"format": "pt"})
        shutil.move(other, path)
    second = shelf.load(choice, run)
    assert second.info.fingerprint != first.info.fingerprint
    assert second.info.fingerprint == tiny.load(folder).info.fingerprint
    shelf.assign("somebody", choice, second)
    assert shelf.load(choice, run) is second
