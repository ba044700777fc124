"""Task files of lm-eval: what a YAML file says with what it includes, and its data beside it.

No Python code that comes with a file is run. Sentences name the file, the cause and the way out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ...core.errors import UserError, first_line
from ..texts import read

SPLITS = ("test_split", "validation_split", "training_split", "fewshot_split")
NO_PYTHON = "write it as a Jinja template, since code that comes with a task is not run"


@dataclass(frozen=True)
class Definition:
    """A YAML file with what it includes. `files` are all that were read, the file itself first."""

    config: Mapping[str, Any]
    files: tuple[Path, ...]


def wrong(path: Path, cause: str, way_out: str) -> UserError:
    return UserError(f"The task file '{path.name}' {cause}: {way_out}.")


def read_definition(path: Path, including: tuple[Path, ...] = ()) -> Definition:
    """Returns what a file says, over what it includes, as lm-eval merges them.

    Raises UserError where one of the files is not YAML, or includes itself.
    """
    if path in including:
        raise wrong(path, "includes itself", "take the include out of one of the files")
    own = read_yaml(path)
    included = own.pop("include", [])
    config: dict[str, Any] = {}
    files = [path]
    for name in [included] if isinstance(included, str) else included or []:
        if not isinstance(name, str) or not (path.parent / name).is_file():
            raise wrong(path, f"includes '{name}', which is no file", "correct the name")
        base = read_definition((path.parent / name).resolve(), (*including, path))
        config |= base.config
        files += base.files
    return Definition({**config, **own}, tuple(dict.fromkeys(files)))


def read_yaml(path: Path) -> dict[str, Any]:
    """Returns the mapping of one file. Raises UserError where it holds something else."""
    try:
        content = yaml.safe_load(read(path, most=-1))
    except (yaml.YAMLError, ValueError, RecursionError) as e:  # ValueError: an impossible date
        mark = getattr(e, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(e, "problem", None) or first_line(e)
        if "!function" in problem:
            raise wrong(path, f"names a Python function{line}", NO_PYTHON) from e
        raise wrong(path, f"cannot be read{line}: {problem}", "correct it there") from e
    if not isinstance(content, dict):
        raise wrong(path, "does not map names to values", "write one task of lm-eval into it")
    return content


def check_one_task(path: Path, config: Mapping[str, Any]) -> None:
    """Raises UserError for a group of tasks, and for a task that is a Python class."""
    if "class" in config:
        raise wrong(path, f"names the Python class '{config['class']}'", NO_PYTHON)
    if "group" in config or isinstance(config.get("task"), list):
        way_out = "choose its tasks one by one, each from a file of its own"
        raise wrong(path, "defines a group of tasks", way_out)


def text_at(path: Path, config: Mapping[str, Any], key: str) -> str:
    """Returns the text of a key. Raises UserError for none."""
    value = config.get(key)
    if not isinstance(value, str) or not value.strip():
        raise wrong(path, f"has no text at '{key}'", "write one there")
    return value


def data_files(path: Path, config: Mapping[str, Any]) -> dict[str, tuple[Path, ...]]:
    """Returns the files with the data, by split. Their names are relative to the YAML file.

    Raises UserError where they are elsewhere, missing, or not those of the splits that are used.
    """
    source = text_at(path, config, "dataset_path")
    if source != "json":
        way_out = "save it as JSON lines, with 'dataset_path: json' and the name in 'data_files'"
        raise wrong(path, f"takes its data from '{source}'", way_out)
    options = config.get("dataset_kwargs")
    named = options.get("data_files") if isinstance(options, dict) else None
    by_split = named if isinstance(named, dict) else {"train": named}  # as datasets calls it
    files = {
        str(split): tuple(path.parent / name for name in names_in(value))
        for split, value in by_split.items()
    }
    if not files or not all(files.values()):
        at = "'dataset_kwargs: data_files'"
        raise wrong(path, f"has no names of files at {at}", "write one for each split")
    for file in (file for some in files.values() for file in some):
        if not file.is_file():
            cause = f"names the data file '{file.name}', which is not there"
            raise wrong(path, cause, "put it beside the task file")
    check_splits(path, config, list(files))
    return files


def names_in(value: Any) -> Sequence[str]:
    """Returns the names of one text or of a list of them; none for anything else."""
    names = [value] if isinstance(value, str) else value
    return names if isinstance(names, list) and all(isinstance(n, str) for n in names) else []


def check_splits(path: Path, config: Mapping[str, Any], offered: Sequence[str]) -> None:
    """Raises UserError where the task names a split without data, or none to measure."""
    for key in SPLITS:
        split = config.get(key)
        if split is not None and split not in offered:
            cause = f"has '{key}: {split}', and data files for {', '.join(offered)} only"
            raise wrong(path, cause, "name one of these")
    if not measured_split(config):
        raise wrong(path, "has neither 'test_split' nor 'validation_split'", "name one of the data")


def measured_split(config: Mapping[str, Any]) -> str:
    """Returns the split that lm-eval measures, empty where there is none."""
    return str(config.get("test_split") or config.get("validation_split") or "")


def rows_of(file: Path) -> list[dict[str, Any]]:
    """Returns the data, an object per line. Raises UserError for a line that is no object."""
    rows = []
    for number, line in enumerate(read(file, most=-1).split("\n"), 1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except (ValueError, RecursionError):
                rows.append(None)
            if not isinstance(rows[-1], dict):
                raise UserError(
                    f"Line {number} of '{file.name}' is not a JSON object: write one on every line."
                )
    if not rows:
        raise UserError(f"'{file.name}' has no items: write one JSON object on every line.")
    return rows


def count_rows(files: Sequence[Path]) -> int:
    count = 0
    for path in files:
        with path.open(encoding="utf-8", errors="replace") as file:
            count += sum(1 for line in file if line.strip())
    return count


def digest_of(definition: Sequence[Path], data: Sequence[Path]) -> str:
    """Returns a digest of a task's definition and data, which the cache's keys carry.

    One file of each is hashed as the shipped cache has it. Of several, each is hashed alone: a line
    that moves from the end of one to the start of the next is a change.
    """
    contents = [file.read_bytes() for file in (*definition, *data)]
    if (len(definition), len(data)) != (1, 1):
        contents = [hashlib.sha256(content).digest() for content in contents]
    return hashlib.sha256(b"".join(contents)).hexdigest()
