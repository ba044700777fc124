from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["DISABLE_MULTIPROC"] = "1"  # lm-eval would start a process per core for a bootstrap
os.environ["HF_HUB_OFFLINE"] = "1"  # before huggingface_hub is imported: no test asks the network

import pytest
import tiny

from lwq_ui.core.run import Run
from lwq_ui.core.settings import Settings
from lwq_ui.core.store import Store
from lwq_ui.engine.models.loading import LoadedModel


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
