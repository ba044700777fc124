"""The whole project passes the linter, the formatter and the type checker."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lwq_ui.core.settings import ROOT


@pytest.mark.parametrize("command", ["ruff check .", "ruff format --check ."])
def test_style(command: str) -> None:
    check(command, ROOT)


def test_types(tmp_path: Path) -> None:
    """On a copy: Gradio writes stubs beside the page's components whenever they are imported, which
    other tests do meanwhile, and a stub goes before its module."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    without = shutil.ignore_patterns("*.pyi", "__pycache__")
    shutil.copytree(ROOT / "lwq_ui", tmp_path / "lwq_ui", ignore=without)
    check("mypy", tmp_path)


def check(command: str, folder: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", *command.split()], cwd=folder, capture_output=True, text=True
    )
    if run.returncode:
        pytest.fail(f"{command} found problems:\n{run.stdout}{run.stderr}", pytrace=False)
