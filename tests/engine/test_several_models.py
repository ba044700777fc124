"""A folder or a repository with several GGUF models: which ones there are to choose from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import fake_hub
import pytest
import tiny
from model_files import Online, sentence

from lwq_ui.core.run import Run
from lwq_ui.engine.checkpoints.finding import find
from lwq_ui.engine.checkpoints.gguf_source import SeveralModels, models_among
from lwq_ui.engine.checkpoints.search import FoundModel, search

SIZES = {
    "m-Q8_0.gguf": 300,
    "m-Q4_1.gguf": 100,
    "large/m-f16-00001-of-00003.gguf": 200,
    "large/m-f16-00002-of-00003.gguf": 200,
    "large/m-f16-00003-of-00003.gguf": 50,
    "mmproj-m-f16.gguf": 70,
    "m-mmproj-f16.gguf": 70,
}
MODELS = {"m-Q4_1.gguf": 100, "m-Q8_0.gguf": 300, "large/m-f16-00001-of-00003.gguf": 450}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Nothing is read of these files but their sizes."""
    folder = tmp_path / "files"
    for name, size in SIZES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"GGUF" + bytes(size - 4))
    (folder / "README.md").write_text("no model")
    return folder


@pytest.fixture
def hub(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Online]:
    with Online(tmp_path, monkeypatch)(folder) as hub:
        yield hub


def several(name: str, run: Run) -> SeveralModels:
    for weights in (True, False):
        with pytest.raises(SeveralModels) as caught:
            find(name, run, weights=weights)
        sentence(caught.value)
    return caught.value


def test_a_set_counts_as_one_model_and_a_projector_as_none() -> None:
    assert list(models_among(SIZES).items()) == list(MODELS.items())
    assert models_among({"mmproj.gguf": 1}) == {}


def test_a_folder_names_its_own_files(folder: Path, run: Run) -> None:
    error = several(str(folder), run)
    assert error.choices == tuple((str(folder / name), MODELS[name]) for name in list(MODELS)[:2])
    assert str(error).startswith(f"The folder '{folder}' holds several models: m-Q4_1.gguf (")
    assert str(error).endswith(f"Name one, such as {folder}/m-Q4_1.gguf.")


def test_a_repository_names_those_of_all_its_folders(hub: Online) -> None:
    error = several(fake_hub.NAME, tiny.run(settings=hub.settings))
    assert error.choices == tuple(
        (f"{fake_hub.NAME}:{name}", size) for name, size in MODELS.items()
    )
    assert not hub.sent_bytes(".gguf")


def test_a_long_list_is_cut_in_the_sentence_and_not_in_the_choice(folder: Path, run: Run) -> None:
    for i in range(12):
        (folder / f"m-{i:02}.gguf").write_bytes(bytes(1000 + i))
    error = several(str(folder), run)
    assert len(error.choices) == 14 and "and 8 more" in str(error)


def test_the_field_completes_the_files_of_a_repository(hub: Online) -> None:
    found = tuple(FoundModel(f"{fake_hub.NAME}:{name}", bytes=n) for name, n in MODELS.items())
    assert search(f"{fake_hub.NAME}:").models == found
    assert search(f"{fake_hub.NAME}:q8").models == found[1:2]
    assert not hub.sent_bytes(".gguf")


def test_the_field_says_why_there_are_none_to_complete(hub: Online) -> None:
    hub.folder = hub.folder / "none"
    assert search(f"{fake_hub.NAME}:").reason == f"'{fake_hub.NAME}' has no GGUF files."
    assert "knows no model 'other/name'" in search("other/name:").reason
    hub.refuses = (429, "")
    assert search(f"{fake_hub.NAME}:").reason.startswith("Hugging Face does not answer this search")
