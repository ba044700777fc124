"""Imports go one way: ui may import engine and core, engine may import core, core neither."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from lwq_ui.core.settings import ROOT

HEAVY = ("torch", "gradio", "transformers")

IMPORT_ALL = """
import importlib, json, pkgutil, sys
package = importlib.import_module(sys.argv[1])
def fail(name):
    raise
names = [m.name for m in pkgutil.walk_packages(package.__path__, sys.argv[1] + ".", onerror=fail)]
for name in names:
    importlib.import_module(name)
print(json.dumps({"imported": names, "loaded": sorted({m.split(".")[0] for m in sys.modules})}))
"""


def import_all(package: str) -> tuple[set[str], set[str]]:
    """The modules of a package, and the top-level packages loaded once all of them are."""
    run = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, package], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout.splitlines()[-1])
    return set(result["imported"]), set(result["loaded"])


def files_of(room: str) -> list[Path]:
    found = sorted((ROOT / "lwq_ui" / room).rglob("*.py"))
    assert found
    return found


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def test_core_loads_without_torch_gradio_and_transformers() -> None:
    imported, loaded = import_all("lwq_ui.core")
    assert imported | {"lwq_ui.core"} == set(map(module_of, files_of("core")))
    assert loaded.isdisjoint(HEAVY)


def test_engine_loads_without_gradio() -> None:
    imported, loaded = import_all("lwq_ui.engine")
    assert imported | {"lwq_ui.engine"} == set(map(module_of, files_of("engine")))
    assert "torch" in loaded
    assert "gradio" not in loaded


def imports(source: str, module: str, is_package: bool) -> Iterator[str]:
    """The full name of everything a module imports, also inside its functions."""
    package = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            parts = parts[: len(parts) - node.level + 1] if node.level else []
            base = ".".join([*parts, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def crossings(room: str, forbidden: tuple[str, ...]) -> list[str]:
    found = []
    for path in files_of(room):
        source = path.read_text(encoding="utf-8")
        for name in imports(source, module_of(path), path.name == "__init__.py"):
            if any(name == f or name.startswith(f"{f}.") for f in forbidden):
                found.append(f"{path.relative_to(ROOT)} imports {name}")
    return found


def test_core_imports_nothing_from_other_rooms() -> None:
    assert crossings("core", ("lwq_ui.engine", "lwq_ui.ui", *HEAVY)) == []


def test_engine_imports_nothing_from_ui() -> None:
    assert crossings("engine", ("lwq_ui.ui", "gradio")) == []


@pytest.mark.parametrize("room", ["core", "engine", "cli"])
def test_no_imports_go_round_in_a_circle(room: str) -> None:
    """Imports inside functions, and those for types alone, count like any other."""
    modules = {module_of(path): path for path in files_of(room)}
    graph: dict[str, set[str]] = {}
    for module, path in modules.items():
        source = path.read_text(encoding="utf-8")
        names = imports(source, module, path.name == "__init__.py")
        imported = {name if name in modules else name.rpartition(".")[0] for name in names}
        graph[module] = imported & set(modules) - {module}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_core_is_plain_python_and_numpy() -> None:
    allowed = set(sys.stdlib_module_names) | {"numpy", "lwq_ui"}
    for path in files_of("core"):
        source = path.read_text(encoding="utf-8")
        for name in imports(source, module_of(path), path.name == "__init__.py"):
            assert name.split(".")[0] in allowed, f"{path.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import lwq_ui.ui.state", ["lwq_ui.ui.state"]),
        ("from lwq_ui import ui", ["lwq_ui.ui"]),
        ("from ... import ui", ["lwq_ui.ui"]),
        ("from ...ui.state import State", ["lwq_ui.ui.state.State"]),
        ("from .errors import UserError as E", ["lwq_ui.core.deep.errors.UserError"]),
        ("from ..errors import UserError", ["lwq_ui.core.errors.UserError"]),
        ("def f():\n    if x:\n        import torch.nn", ["torch.nn"]),
        ("import json, os.path", ["json", "os.path"]),
    ],
)
def test_the_check_sees_every_form_of_import(source: str, found: list[str]) -> None:
    assert list(imports(source, "lwq_ui.core.deep.module", is_package=False)) == found
    if source.startswith("from ... "):
        assert list(imports("from .. import ui", "lwq_ui.core", is_package=True)) == found
