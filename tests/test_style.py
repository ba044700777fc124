"""The whole project passes the linter, the formatter and the type checker."""

from __future__ import annotations

import subprocess
import sys

import pytest

from lwq_ui.core.settings import ROOT


@pytest.mark.parametrize("command", ["ruff check .", "ruff format --check .", "mypy"])
def test_style(command: str) -> None:
    run = subprocess.run(
        [sys.executable, "-m", *command.split()], cwd=ROOT, capture_output=True, text=True
    )
    if run.returncode:
        pytest.fail(f"{command} found problems:\n{run.stdout}{run.stderr}", pytrace=False)
