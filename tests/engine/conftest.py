from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["DISABLE_MULTIPROC"] = "1"  # lm-eval would start a process per core for a bootstrap
os.environ["HF_HUB_OFFLINE"] = "1"  # before huggingface_hub is imported: no test asks the network

import pytest
import tiny
from model_files import Online

from lwq_ui.core.run import Run
from lwq_ui.core.settings import Settings
from lwq_ui.core.store import Store
from lwq_ui.engine.models.loading import LoadedModel
from lwq_ui.engine.texts import Text, shipped_calibration


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """folder_of("llama", **changes to its config) -> a saved tiny model, made once."""
    root = tmp_path_factory.mktemp("models")
    made: dict[str, Path] = {}

    def get(name: str, dtype: str = "float32", **changes: Any) -> Path:
        key = repr((name, dtype, sorted(changes.items())))
        if key not in made:
            made[key] = tiny.save(tiny.build(name, dtype, **changes), root / f"{name}-{len(made)}")
        return made[key]

    return get


@pytest.fixture(scope="session")
def loaded_of(folder_of: Callable[..., Path]) -> Callable[..., LoadedModel]:
    """loaded_of("llama", ...) -> that model, loaded once. Tests that fill banks take their own."""
    loaded: dict[Path, LoadedModel] = {}

    def get(name: str, dtype: str = "float32", **changes: Any) -> LoadedModel:
        folder = folder_of(name, dtype, **changes)
        if folder not in loaded:
            loaded[folder] = tiny.load(folder)
        return loaded[folder]

    return get


@pytest.fixture(scope="session")
def demo() -> LoadedModel:
    return tiny.load(tiny.DEMO)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(cache=tmp_path / "cache")


@pytest.fixture
def store(settings: Settings) -> Store:
    """Without the shipped cache."""
    return Store(settings.cache)


@pytest.fixture
def run(settings: Settings, store: Store) -> Run:
    """What a job is given, which nobody watches or stops."""
    return Run(settings, store)


@pytest.fixture
def copy(folder_of: Callable[..., Path], tmp_path: Path) -> Path:
    """A tiny model's folder that a test may change."""
    return Path(shutil.copytree(folder_of("llama"), tmp_path / "model"))


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """A tiny model in several files."""
    folder = tmp_path / "shards"
    tiny.build("llama").save_pretrained(folder, max_shard_size="20KB")
    assert len(list(folder.glob("*.safetensors"))) > 3
    return folder


@pytest.fixture
def online(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Online:
    return Online(tmp_path, monkeypatch)


@pytest.fixture
def loaded(folder_of: Callable[..., Path]) -> LoadedModel:
    """Without banks of other tests."""
    return tiny.load(folder_of("llama"))


@pytest.fixture(scope="session")
def text() -> Text:
    whole = shipped_calibration(Settings(cache=Path("unused")))
    return Text("a few", whole.documents[:5])
