"""Reads JSON into dataclasses, checked field by field. What another version of this program wrote
is refused as a whole, not read in half."""

from __future__ import annotations

import functools
import types
from collections.abc import Collection, Mapping
from dataclasses import is_dataclass
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")

LARGEST = 2**63  # sizes and counts of this program fit into 64 bits
PLAIN: Mapping[Any, set[type]] = {
    float: {float, int},
    int: {int},
    str: {str},
    bool: {bool},
    types.NoneType: {types.NoneType},
}


def typed(kind: type[T], data: Any) -> T:
    """Returns `data` as a `kind`. Raises ValueError where a field is missing, unknown or of another
    type, or where an integer exceeds 64 bits. Raises TypeError for a `kind` that JSON cannot
    hold."""
    result: T = _typed(kind, data, getattr(kind, "__name__", str(kind)))
    return result


def _typed(kind: Any, data: Any, name: str) -> Any:
    if kind in PLAIN:
        _check_plain(kind, (data,), name)
        return data
    if isinstance(kind, type) and is_dataclass(kind):
        hints = _hints(kind)
        if not isinstance(data, dict) or data.keys() != hints.keys():
            raise ValueError(f"{name} has other fields than {', '.join(hints)}")
        fields = {field: _typed(hint, data[field], field) for field, hint in hints.items()}
        return kind(**fields)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        if data is None and types.NoneType in arguments:
            return None
        (other,) = (a for a in arguments if a is not types.NoneType)
        return _typed(other, data, name)
    if origin is Mapping:
        if not isinstance(data, dict):
            raise ValueError(f"{name} is not an object")
        return {key: _typed(arguments[1], value, name) for key, value in data.items()}
    if origin not in (tuple, list):
        raise TypeError(f"JSON is not read as {kind}")
    if not isinstance(data, list):
        raise ValueError(f"{name} is not a list")
    if origin is tuple and arguments[-1] is not Ellipsis:
        if len(data) != len(arguments):
            raise ValueError(f"{name} has {len(data)} values, not {len(arguments)}")
        return tuple(_typed(a, value, name) for a, value in zip(arguments, data, strict=True))
    if arguments[0] in PLAIN:  # such lists are long
        _check_plain(arguments[0], data, name)
        return origin(data)
    return origin(_typed(arguments[0], value, name) for value in data)


def _check_plain(kind: Any, data: Collection[Any], name: str) -> None:
    types_in = set(map(type, data))
    if not types_in <= PLAIN[kind]:
        raise ValueError(f"{name} is not of type {kind.__name__}")
    if int in types_in and any(type(x) is int and abs(x) >= LARGEST for x in data):
        raise ValueError(f"{name} is larger than 64 bits")


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)
