"""The page is served before torch is loaded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import wheels

from lwq_ui.core.settings import ROOT

LATER = ("torch", "transformers", "lm_eval", "plotly", "datasets", "accelerate", "optimum")
BUILD = """
import json, sys
import app
from lwq_ui.core.settings import Settings
settings = Settings.from_environment()
app.choose_opening(settings)
page = app.Page(app.Server(settings, app.Opening("smollm2")))
page.demo.get_config_file()  # what the browser asks for first
print(json.dumps(sorted({name.split(".")[0] for name in sys.modules})))
"""


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    cache: Path = tmp_path_factory.mktemp("cache")
    site: Path = tmp_path_factory.mktemp("site")
    wheels.install(site, b"weights, which are not read")
    run = subprocess.run(
        [sys.executable, "-c", BUILD],
        cwd=ROOT,
        env={**os.environ, "LWQ_CACHE_DIR": str(cache), "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return set(json.loads(run.stdout.splitlines()[-1]))


def test_the_page_was_built(loaded: set[str]) -> None:
    assert {"app", "gradio", "lwq_ui"} <= loaded


@pytest.mark.parametrize("package", LATER)
def test_building_the_page_does_not_load(package: str, loaded: set[str]) -> None:
    assert package not in loaded
