"""Which files of a model's folder hold its weights, as transformers chooses them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from ...core.errors import UserError, reason

SINGLE = "model.safetensors"
INDEX = f"{SINGLE}.index.json"
SINGLES = (SINGLE, "pytorch_model.bin")  # each may be in several files that an index names
LONGEST = 100_000_000  # bytes of a JSON file, and of a header: safetensors reads no longer one

Exists = Callable[[str], bool]
"""`exists(path)` says whether the model's folder has a file at this path, parts joined by "/"."""


def on_disk(folder: Path) -> Exists:
    """Returns a test for files in the folder or below it. A path that leads outside fails it."""

    def exists(name: str) -> bool:
        path = PurePosixPath(name)
        inside = not path.is_absolute() and ".." not in path.parts
        try:
            return inside and (folder / path).is_file()
        except ValueError:  # a name with a NUL
            return False

    return exists


def read_json(path: Path, model_id: str) -> dict[str, Any]:
    """Returns the object in a JSON file of a model. Raises UserError for anything else."""
    try:
        if not path.is_file():  # a pipe would never end
            raise ValueError("it is not a file")
        if path.stat().st_size > LONGEST:
            raise ValueError(f"it is longer than {LONGEST // 10**6} MB")
        value = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise ValueError("it holds no JSON object")
    except (OSError, ValueError, RecursionError) as e:
        cause = "it is nested too deeply" if isinstance(e, RecursionError) else reason(e)
        raise UserError(f"The file {path.name} of '{model_id}' cannot be read: {cause}.") from e
    return value


def index_of(folder: Path, model_id: str, single: str = SINGLE) -> dict[str, str]:
    """Returns file names by tensor names, from the index that replaces the one file `single`. The
    result is empty where there is no index. Raises UserError where it is damaged."""
    path = folder / f"{single}.index.json"
    if not path.exists():
        return {}
    try:
        weight_map = read_json(path, model_id)["weight_map"]
        if not all(isinstance(name, str) for name in weight_map.values()):
            raise TypeError
    except (UserError, KeyError, TypeError, AttributeError) as e:
        raise UserError(
            f"The file {path.name} of '{model_id}' is damaged. Download or copy it again."
        ) from e
    return dict(weight_map)


def weight_files(
    folder: Path, exists: Exists, model_id: str
) -> tuple[tuple[str, ...], dict[str, str]]:
    """Returns the files that transformers takes the weights from, sorted, and the index that names
    them, empty where there is none.

    One file comes before an index, and safetensors before pytorch_model.bin. No other file counts,
    whatever its format. Files that an index names need not exist. Raises UserError.
    """
    for single in SINGLES:
        weight_map = index_of(folder, model_id, single)
        if exists(single):
            if single in weight_map.values():
                check_present(weight_map.values(), exists, model_id)
            return (single,), weight_map
        if weight_map:
            return tuple(sorted(set(weight_map.values()))), weight_map
    return (), {}


def safetensors_files(
    folder: Path, exists: Exists, model_id: str
) -> tuple[tuple[str, ...], dict[str, str]]:
    """Returns what `weight_files` does. Raises UserError too where a file is missing or is not in
    safetensors' format."""
    names, weight_map = weight_files(folder, exists, model_id)
    if not is_safe(names):
        if any(folder.glob("model-*-of-*.safetensors")):
            raise UserError(f"'{model_id}' is incomplete: {INDEX} is missing. Download it again.")
        raise UserError(
            f"'{model_id}' has no weights in safetensors' format: there is no {SINGLE} in it."
        )
    check_present(names, exists, model_id)
    return names, weight_map


def is_safe(names: Iterable[str]) -> bool:
    """Whether weight files are in safetensors' format."""
    return any(name.endswith(".safetensors") for name in names)


def check_present(names: Iterable[str], exists: Exists, model_id: str) -> None:
    """Raises UserError where a file is missing."""
    if missing := sorted(name for name in set(names) if not exists(name)):
        raise UserError(f"'{model_id}' is incomplete: {missing[0]} is missing. Download it again.")
