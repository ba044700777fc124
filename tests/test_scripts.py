"""Scripts beside the program import what there is: nothing else runs all of them."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

from lwq_ui.core.settings import ROOT

SCRIPTS = sorted(
    path.relative_to(ROOT)
    for folder in ("assets", "benchmarks", "examples", "tools")
    for path in (ROOT / folder).glob("*.py")
)


@pytest.mark.parametrize("script", SCRIPTS, ids=str)
def test_a_script_imports_what_there_is(script: Path) -> None:
    tree = ast.parse((ROOT / script).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lwq_ui"):
            module = importlib.import_module(node.module or "")
            for alias in node.names:
                if not hasattr(module, alias.name):
                    importlib.import_module(f"{module.__name__}.{alias.name}")
