"""A quantization config, schema lwq/1: its fields, and how it is written to JSON and read back."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from sys import float_info
from typing import Any

from .allocation import Split
from .errors import UserError
from .memory import DTYPE_BYTES, UNTOUCHED, average_bits
from .store import dumps

SCHEMA = "lwq/1"
BYTES = ("layers", "rest", "total")


@dataclass(frozen=True)
class Config:
    """Everything that is needed to quantize a model the same way elsewhere.

    `levels` are (high, low), in bits. `pinned` maps layers to levels that no budget changes.
    `ordering` has the name, the seed, the scores and the calibration text; `quantizer` the name and
    the options. `bytes` has the sizes named by BYTES. `weights_from` says what the model's weights
    were quantized as before, such as 'Q4_1'; it is None where they were not.
    """

    model_id: str
    revision: str | None
    fingerprint: str
    dtype: str
    num_layers: int
    levels: tuple[float, float]
    bits_per_layer: Split
    pinned: Mapping[int, float]
    ordering: Mapping[str, Any]
    quantizer: Mapping[str, Any]
    bytes: Mapping[str, int]
    budget_bytes: int
    evaluations: tuple[Mapping[str, Any], ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    weights_from: str | None = None

    def to_json(self) -> dict[str, Any]:
        data = asdict(self)
        data["pinned"] = {str(layer): level for layer, level in self.pinned.items()}
        if self.weights_from is None:
            del data["weights_from"]
        return {"schema": SCHEMA, **data, "average_bits": average_bits(self.bits_per_layer)}

    @staticmethod
    def from_json(data: Any) -> Config:
        """Validates everything. Raises UserError naming the field that is wrong."""
        check_schema(data)
        num_layers = take(data, "num_layers", int, lambda n: 0 < n < 100_000, "a positive number")
        levels, bits, pinned = take_split(data, num_layers)
        return Config(
            num_layers=num_layers,
            levels=levels,
            bits_per_layer=bits,
            pinned=pinned,
            bytes=take(
                data,
                "bytes",
                dict,
                are_sizes,
                "an object of whole numbers layers, rest and total, below 2^63; total is their sum",
            ),
            model_id=take(data, "model_id", str, bool, "a model's name"),
            revision=take(data, "revision", (str, type(None)), lambda v: True, "text or null"),
            fingerprint=take(data, "fingerprint", str, bool, "text"),
            dtype=take(
                data, "dtype", str, lambda v: v in DTYPE_BYTES, f"one of {', '.join(DTYPE_BYTES)}"
            ),
            ordering=take(
                data,
                "ordering",
                dict,
                lambda v: is_ordering(v, num_layers),
                "an object with a name, a whole seed, and scores: null or "
                f"{num_layers} finite numbers",
            ),
            quantizer=take(
                data,
                "quantizer",
                dict,
                lambda v: isinstance(v.get("name"), str),
                "an object with a name",
            ),
            budget_bytes=take(data, "budget_bytes", int, lambda v: v >= 0, "a number of bytes"),
            evaluations=tuple(
                take(
                    data,
                    "evaluations",
                    list,
                    lambda v: all(isinstance(e, dict) for e in v),
                    "a list of objects",
                )
            ),
            versions=take(
                data,
                "versions",
                dict,
                lambda v: all(isinstance(version, str) for version in v.values()),
                "an object of package names to versions",
            ),
            weights_from=take_origin(data),
        )


def format_config(config: Config) -> str:
    return dumps(config.to_json()) + "\n"


def parse_config(text: str | bytes) -> Config:
    """Reads a config. Bytes may be UTF-8 or UTF-16, with or without a byte order mark.

    Raises UserError naming what is wrong.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as e:
        raise UserError(f"This is not a config: it is not valid JSON ({e}).") from e
    return Config.from_json(data)


def check_schema(data: Any) -> None:
    """Raises UserError where the data is no JSON object of this schema."""
    if not isinstance(data, dict):
        raise UserError("This is not a config: it should be a JSON object.")
    if data.get("schema") != SCHEMA:
        raise UserError(
            f"Config field 'schema' is {data.get('schema')!r}; this program reads '{SCHEMA}'."
        )
    for name, value in data.items():
        if not is_json(value):
            raise UserError(
                f"Config field {name!r} is wrong: it holds numbers that are not finite, or text "
                "that is no Unicode."
            )


def take_split(
    data: Mapping[str, Any], num_layers: int
) -> tuple[tuple[float, float], Split, dict[int, float]]:
    """Returns `levels`, `bits_per_layer` and `pinned`. Raises UserError where they contradict each
    other or `average_bits`."""
    levels = take(data, "levels", list, is_pair, f"[high, low], in bits up to {UNTOUCHED}")
    bits = take(
        data,
        "bits_per_layer",
        list,
        lambda v: len(v) == num_layers and all(map(is_level, v)),
        f"a list of {num_layers} levels, each a number of bits up to {UNTOUCHED}",
    )
    level_of = {str(layer): level for layer, level in enumerate(bits)}
    pinned = take(
        data,
        "pinned",
        dict,
        lambda v: all(is_level(b) and level_of.get(k) == b for k, b in v.items()),
        f"an object of layer (0 to {num_layers - 1}) to the level that layer has in bits_per_layer",
    )
    outside = {level for layer, level in level_of.items() if layer not in pinned} - set(levels)
    if outside:
        raise UserError(
            f"Config field 'bits_per_layer' is wrong: {sorted(outside)} is not one of the "
            f"levels {levels}, and those layers are not pinned."
        )
    average = take(data, "average_bits", (int, float), is_finite, "a finite number")
    if abs(average - average_bits(bits)) > 1e-6:
        raise UserError(
            f"Config field 'average_bits' is wrong: {average} is not bits_per_layer's mean."
        )
    high, low = levels
    return (high, low), tuple(bits), {int(layer): level for layer, level in pinned.items()}


def take_origin(data: Mapping[str, Any]) -> str | None:
    """Returns `weights_from`, which configs of other models lack. Raises UserError where it is no
    text."""
    described = "what the weights were quantized as, such as Q4_1, or null"
    data = {"weights_from": None, **data}
    origin: str | None = take(data, "weights_from", (str, type(None)), lambda v: v != "", described)
    return origin


def take(
    data: Mapping[str, Any],
    name: str,
    kind: type | tuple[type, ...],
    is_valid: Callable[[Any], bool],
    description: str,
) -> Any:
    """Returns a field of the config. Raises UserError where it is missing, of another type, or not
    valid; `description` says what it should be."""
    if name not in data:
        raise UserError(f"Config field '{name}' is missing; it should be {description}.")
    value = data[name]
    if not isinstance(value, kind) or isinstance(value, bool) or not is_valid(value):
        quoted = repr(value)
        quoted = quoted if len(quoted) < 80 else quoted[:77] + "..."
        raise UserError(f"Config field '{name}' is wrong: {quoted} should be {description}.")
    return value


def is_json(value: Any) -> bool:
    """Python's parser also takes NaN, Infinity and halves of surrogate pairs."""
    try:
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return False
    return True


def is_finite(value: Any) -> bool:
    """JSON can name whole numbers that no float holds: these count as infinite."""
    return type(value) in (int, float) and abs(value) <= float_info.max


def is_pair(value: list[Any]) -> bool:
    return len(value) == 2 and all(map(is_level, value)) and (value[0] > value[1] > 0)


def is_level(value: Any) -> bool:
    """Whether this is a number of bits; the quantizer knows which ones exist. Whole levels are
    ints, so that they read alike everywhere."""
    whole = type(value) is int or (type(value) is float and not value.is_integer())
    return whole and 0 <= value <= UNTOUCHED


def are_sizes(value: Mapping[str, Any]) -> bool:
    return (
        all(type(value.get(name)) is int and 0 <= value[name] < 2**63 for name in BYTES)
        and value["layers"] + value["rest"] == value["total"]
    )


def is_ordering(value: Mapping[str, Any], num_layers: int) -> bool:
    scores = value.get("scores")
    return (
        isinstance(value.get("name"), str)
        and type(value.get("seed", 0)) is int
        and (
            scores is None
            or (
                isinstance(scores, list)
                and len(scores) == num_layers
                and all(map(is_finite, scores))
            )
        )
    )
