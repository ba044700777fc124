"""The command line on the demo model, through the same `main` as `python -m lwq_ui`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from demo import Run

from lwq_ui.cli import main


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for all tests here, apart from the user's."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def cache(shared_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LWQ_CACHE_DIR", str(shared_cache))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return shared_cache


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """run("info", "demo") -> its JSON; nothing but JSON may be on standard output."""

    def call(*arguments: str) -> Any:
        code = main([*arguments, "--json", "-"])
        out, err = capfd.readouterr()
        assert code == 0, err
        assert out.startswith("{") and out.endswith("}\n")
        return json.loads(out)

    return call


@pytest.fixture
def failing(capfd: pytest.CaptureFixture[str]) -> Run:
    """failing("info", "nowhere") -> the one line on standard error, below the progress."""

    def call(*arguments: str) -> str:
        assert main(list(arguments)) == 1
        out, err = capfd.readouterr()
        assert out == "" and "Traceback" not in err
        return err.rstrip("\n").splitlines()[-1]

    return call


@pytest.fixture
def config(tmp_path: Path, run: Run) -> Path:
    path = tmp_path / "config.json"
    found = run("split", "demo", "--ordering", "first", "--low-layers", "3")
    path.write_text(json.dumps(found))
    return path
