"""Imports go one way: ui and cli may import engine and core, engine may import core, core neither.
Inside a room there is no circle. Files, functions and classes stay short; names say something."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from code_shape import File, circles, import_graph, imports, non_names, too_long, upward

from lwq_ui.core.settings import ROOT

HEAVY = ("torch", "gradio", "transformers")
ALL_BELOW = {"core", "failures", "engine"}
MAY_IMPORT: dict[str, set[str]] = {
    "core": set(),
    "failures": {"core"},
    "engine": {"core", "failures"},
    "ui": ALL_BELOW,
    "cli": ALL_BELOW,
    "__main__": {"cli"},
    "": set(),  # the package itself
}
MOST_LINES = (450, 60, 250)  # of a file, a function, a class

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


def program() -> list[File]:
    """Every file of the program."""
    paths = sorted((ROOT / "lwq_ui").rglob("*.py"))
    assert paths
    return [
        File(module_of(path), path.read_text(encoding="utf-8"), path.name == "__init__.py")
        for path in paths
    ]


def test_core_loads_without_torch_gradio_and_transformers() -> None:
    imported, loaded = import_all("lwq_ui.core")
    assert imported | {"lwq_ui.core"} == set(map(module_of, files_of("core")))
    assert loaded.isdisjoint(HEAVY)


def test_engine_loads_without_gradio() -> None:
    imported, loaded = import_all("lwq_ui.engine")
    assert imported | {"lwq_ui.engine"} == set(map(module_of, files_of("engine")))
    assert "torch" in loaded
    assert "gradio" not in loaded


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


def test_rooms_import_only_downwards() -> None:
    lines = upward(program(), MAY_IMPORT)
    assert not lines, "\n".join(lines)


@pytest.mark.parametrize("room", [room for room in MAY_IMPORT if room])
def test_a_room_has_no_circle_of_imports(room: str) -> None:
    files = [file for file in program() if file.room == room]
    assert files and circles(import_graph(files)) == []


def test_files_functions_and_classes_are_short() -> None:
    lines = [line for file in program() for line in too_long(file, MOST_LINES)]
    assert not lines, "\n".join(lines)


def test_no_variable_has_a_name_that_says_nothing() -> None:
    lines = [line for file in program() for line in non_names(file)]
    assert not lines, "\n".join(lines)


LATE = "def f():\n    from . import b"
TYPES = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .b import B"


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        ({"a": "", "b": "from .a import A", "c": "from .b import B"}, []),
        ({"a": "from .b import B", "b": "from .a import A"}, [["a", "b"]]),
        (
            {"a": "import p.room.c", "b": "from . import a", "c": "from .b import B"},
            [["a", "b", "c"]],
        ),
        ({"a": LATE, "b": "from .a import A"}, [["a", "b"]]),
        ({"a": TYPES, "b": "from .a import A"}, [["a", "b"]]),
        (
            {"a": "from .b import B", "b": "from .a import A", "c": "from .d import D", "d": LATE}
            | {"d": "from .c import C"},
            [["a", "b"], ["c", "d"]],
        ),
        ({"a": "from .a import A", "b": "import json"}, []),
    ],
)
def test_the_check_sees_circles(sources: dict[str, str], expected: list[list[str]]) -> None:
    files = [File(f"p.room.{name}", source) for name, source in sources.items()]
    groups = circles(import_graph(files))
    assert groups == [[f"p.room.{name}" for name in group] for group in expected]


def test_the_check_sees_a_circle_through_a_package() -> None:
    package = File("p.room", "from .a import A", is_package=True)
    files = [package, File("p.room.a", "from . import b"), File("p.room.b", "from p.room import A")]
    assert circles(import_graph(files)) == [["p.room", "p.room.a", "p.room.b"]]


@pytest.mark.parametrize(
    ("module", "source", "crossed"),
    [
        ("p.top.a", "from ..low.b import B\nfrom .. import __version__", []),
        ("p.top.a", "from .c import C", []),
        ("p.low.b", "from ..top.a import A", ["p.low.b imports p.top.a"]),
        ("p.low.b", "def f():\n    import p.top.a", ["p.low.b imports p.top.a"]),
    ],
)
def test_the_check_sees_imports_upwards(module: str, source: str, crossed: list[str]) -> None:
    empty = [File(name, "") for name in ("p", "p.top.a", "p.top.c", "p.low.b") if name != module]
    rooms = {"top": {"low"}, "low": set[str](), "": set[str]()}
    assert upward([*empty, File(module, source)], rooms) == crossed


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("x = 1\ny = 2", []),
        ("x = 1\ny = 2\nz = 3", ["m"]),
        ("def f():\n    pass", []),
        ("class C:\n    def f(self):\n        pass", ["m", "m:1 C", "m:2 f"]),
        ("async def f():\n    x = 1\n    return x", ["m", "m:1 f"]),
    ],
)
def test_the_check_sees_what_is_long(source: str, names: list[str]) -> None:
    lines = too_long(File("m", source), (2, 1 if "class" in source else 2, 2))
    assert [line.partition(" has ")[0] for line in lines] == names


@pytest.mark.parametrize(
    "source",
    [
        *("known = 1", "a, known = 1, 2", "known: int = 1", "known += 1", "self.known = 1"),
        *("for known in x: pass", "with x as known: pass", "(known := 1)", "[1 for known in x]"),
        *("def f(known): pass", "def f(*, known=1): pass", "lambda known: 1", "def known(): pass"),
        *("try: pass\nexcept E as known: pass", "import x as known", "class C:\n  known: int"),
        "match x:\n  case [known]: pass",
    ],
)
def test_the_check_sees_every_way_to_give_a_name(source: str) -> None:
    line = source.count("\n") + 1
    assert non_names(File("m", source)) == [f"m:{line} known"]
    for text in ("known_info = known", "f(known=1)", "x.known", "'known = 1'", "# known = 1"):
        assert non_names(File("m", text)) == []
