"""Reads what the program's files import, how long they are and how their variables are called."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

Graph = Mapping[str, set[str]]

Function = ast.FunctionDef | ast.AsyncFunctionDef
NON_NAMES = frozenset({"told", "found", "known", "every", "its", "there"})


@dataclass(frozen=True)
class File:
    """A Python file as its text and the name that it is imported by."""

    module: str
    source: str
    is_package: bool = False

    @property
    def room(self) -> str:
        """'engine' of lwq_ui.engine.jobs, and '' of lwq_ui itself."""
        return [*self.module.split("."), ""][1]


def imports(source: str, module: str, is_package: bool) -> Iterator[str]:
    """Yields the full name of everything a module imports, also inside its functions."""
    package = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            parts = parts[: len(parts) - node.level + 1] if node.level else []
            base = ".".join([*parts, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def import_graph(files: list[File]) -> dict[str, set[str]]:
    """Returns the modules that each module imports, among those of the files."""
    modules = {file.module for file in files}
    graph: dict[str, set[str]] = {}
    for file in files:
        names = imports(file.source, file.module, file.is_package)
        targets = {n if n in modules else n.rpartition(".")[0] for n in names}
        graph[file.module] = targets & modules - {file.module}
    return graph


def circles(graph: Graph) -> list[list[str]]:
    """Returns the groups of modules that import each other, directly or through others."""
    reachable = {module: reach(graph, module) for module in graph}
    groups = {
        frozenset(other for other in reachable[module] if module in reachable[other])
        for module in graph
        if module in reachable[module]
    }
    return sorted(map(sorted, groups))


def reach(graph: Graph, start: str) -> set[str]:
    """Returns the modules that one module imports, directly or through others."""
    reached: set[str] = set()
    waiting = list(graph[start])
    while waiting:
        module = waiting.pop()
        if module not in reached:
            reached.add(module)
            waiting.extend(graph[module])
    return reached


def upward(files: list[File], may_import: Mapping[str, set[str]]) -> list[str]:
    """Returns a line for each import from a room that the importing file's room may not use."""
    rooms = {file.module: file.room for file in files}
    return [
        f"{module} imports {target}"
        for module, targets in import_graph(files).items()
        for target in sorted(targets)
        if rooms[target] not in {"", rooms[module], *may_import[rooms[module]]}
    ]


def too_long(file: File, most: tuple[int, int, int]) -> list[str]:
    """Returns a line for each thing with more lines than allowed: (file, function, class)."""
    of_file, of_function, of_class = most
    sizes = [(len(file.source.splitlines()), of_file, file.module)]
    for node in ast.walk(ast.parse(file.source)):
        if isinstance(node, Function | ast.ClassDef):
            limit = of_class if isinstance(node, ast.ClassDef) else of_function
            lines = (node.end_lineno or 0) - node.lineno + 1
            sizes.append((lines, limit, f"{file.module}:{node.lineno} {node.name}"))
    return [f"{name} has {lines} lines" for lines, limit, name in sizes if lines > limit]


def non_names(file: File) -> list[str]:
    """Returns a line for each variable, parameter, field or function with a name that says nothing
    of what it is."""
    return [
        f"{file.module}:{line} {name}"
        for line, name in sorted(set(names_given(ast.parse(file.source))))
        if name in NON_NAMES
    ]


def names_given(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yields (line, name) of everything that code gives a name to."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield node.lineno, name
            case ast.arg(arg=name):
                yield node.lineno, name
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield node.lineno, name
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)):
                yield node.lineno, name
            case ast.alias(asname=str(name)):
                yield node.lineno, name
