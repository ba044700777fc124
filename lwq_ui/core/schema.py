"""The records that pass between the rooms. Frozen, and validated where they come from outside."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from math import isfinite
from sys import float_info
from typing import Any

from .allocation import Split
from .errors import UserError
from .memory import DTYPE_BYTES, UNTOUCHED, average_bits
from .typed import typed


@dataclass(frozen=True)
class WeightSpec:
    """A matrix that quantizers pack: `rows` output channels, `columns` inputs. Fused experts count
    as one matrix with the rows of all of them."""

    name: str
    rows: int
    columns: int

    @property
    def numel(self) -> int:
        return self.rows * self.columns


@dataclass(frozen=True)
class LayerSpec:
    """`cached` counts the numbers that the KV cache keeps of one token in this layer (keys and
    values of all KV heads; 0 where the layer uses another's), None where that is not known.
    `window` is the most tokens that are kept, None where all are."""

    weights: tuple[WeightSpec, ...]
    other_bytes: int
    cached: int | None = None
    window: int | None = None


@dataclass(frozen=True)
class ModelInfo:
    """What a model is, known from its config alone. `fingerprint` is a hash of its files' contents;
    `max_tokens` is the longest input it takes, None where it has no limit of its own. `token_bytes`
    and `pair_bytes` are what it takes to compute, for each token of a prompt and for each pair of
    tokens (engine/attention.py), None where that is not known."""

    model_id: str
    revision: str | None
    fingerprint: str
    architecture: str
    dtype: str
    num_parameters: int
    total_bytes: int
    rest_bytes: int
    max_tokens: int | None
    layers: tuple[LayerSpec, ...]
    vocabulary: int = 0
    token_bytes: int | None = None
    pair_bytes: float | None = None

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    @property
    def dtype_bytes(self) -> int:
        return DTYPE_BYTES[self.dtype]

    @property
    def packable_share(self) -> float:
        """Share of the layers' bytes that quantizers can pack."""
        packable = sum(w.numel for layer in self.layers for w in layer.weights) * self.dtype_bytes
        return packable / max(1, packable + sum(layer.other_bytes for layer in self.layers))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(data: Any) -> ModelInfo:
        """Raises ValueError for what no ModelInfo of today has written."""
        info = typed(ModelInfo, data)
        if info.dtype not in DTYPE_BYTES:
            raise ValueError(f"there is no number format '{info.dtype}'")
        return info


@dataclass(frozen=True)
class Scores:
    """One number per layer from one scorer. `calibration` names the text, None for scorers that
    need none; `seconds` is the wall time it took when it was computed. `quantizer` and `level` are
    those of a scorer that measures a level, None for others. `cut` documents of the text are longer
    than what is used of one, and `unused_bytes` of it are in none."""

    scorer: str
    values: tuple[float, ...]
    calibration: str | None
    documents: int
    tokens: int
    seconds: float
    quantizer: str | None = None
    level: float | None = None
    cut: int = 0
    unused_bytes: int = 0

    @property
    def text_used(self) -> str:
        """How much of the text it was computed on, in words."""
        used = f"{self.documents} document{'s' * (self.documents != 1)}, {self.tokens:,} tokens"
        left = [f"{self.cut} cut short"] if self.cut else []
        if self.unused_bytes:
            left.append(f"{self.unused_bytes:,} bytes of the text not used")
        return f"{used} ({', '.join(left)})" if left else used

    def __post_init__(self) -> None:
        for layer, value in enumerate(self.values):
            if not isfinite(value):
                raise UserError(
                    f"The score '{self.scorer}' of layer {layer} is no number: {value}."
                )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(data: Any) -> Scores:
        """Raises ValueError for what no Scores have written. Older ones counted neither `cut` nor
        `unused_bytes`."""
        if isinstance(data, dict):
            data = {"cut": 0, "unused_bytes": 0, **data}
        return typed(Scores, data)


@dataclass(frozen=True)
class Metric:
    """A measured figure: its value, its standard error and the number of items it rests on."""

    value: float
    stderr: float | None
    n: int


BYTES = ("layers", "rest", "total")  # of a config
UNQUANTIZED = "none"  # an evaluation's quantizer where no layer is packed


@dataclass(frozen=True)
class Evaluation:
    """One task measured on one split. `items` holds what the metrics were computed from, one entry
    per item, so that two splits can be compared on the same items. `seconds` is the split's share
    of the wall time that the task took for all splits measured with it."""

    task: str
    split: Split
    quantizer: str
    metrics: Mapping[str, Metric]
    items: Mapping[str, list[float]]
    limit: int | None
    seconds: float

    def __post_init__(self) -> None:
        named = {name: [m.value, m.stderr or 0.0] for name, m in self.metrics.items()}
        for name, values in (*named.items(), *self.items.items()):
            if wrong := [v for v in values if not isfinite(v)]:
                raise UserError(
                    f"The task '{self.task}' gives no number for '{name}' at "
                    f"{split_name(self.split)} but {wrong[0]}: nothing is kept of it."
                )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(data: Any) -> Evaluation:
        """Raises ValueError for what no Evaluation of today has written."""
        return typed(Evaluation, data)


def split_name(split: Split) -> str:
    """'all 4-bit', 'unquantized', or the average: '3.25 bits'."""
    if len(set(split)) == 1:
        return "unquantized" if split[0] == 16 else f"all {split[0]:g}-bit"
    return f"{average_bits(split):.2f} bits"


@dataclass(frozen=True)
class Config:
    """A quantization config, schema lwq/1: everything needed to quantize the model the same way."""

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

    SCHEMA = "lwq/1"

    def to_json(self) -> dict[str, Any]:
        data = asdict(self)
        data["pinned"] = {str(layer): level for layer, level in self.pinned.items()}
        return {
            "schema": self.SCHEMA,
            **data,
            "average_bits": average_bits(self.bits_per_layer),
        }

    @staticmethod
    def from_json(data: Any) -> Config:
        """Validates everything. Raises UserError naming the field that is wrong."""
        if not isinstance(data, dict):
            raise UserError("This is not a config: it should be a JSON object.")
        if data.get("schema") != Config.SCHEMA:
            raise UserError(
                f"Config field 'schema' is {data.get('schema')!r}; this program reads 'lwq/1'."
            )
        for name, value in data.items():
            if not is_json(value):
                raise UserError(
                    f"Config field {name!r} is wrong: it holds numbers that are not finite, or "
                    "text that is no Unicode."
                )
        n = take(data, "num_layers", int, lambda v: 0 < v < 100_000, "a positive number")
        levels = take(data, "levels", list, lambda v: is_pair(v), "[high, low], in bits up to 16")
        bits = take(
            data,
            "bits_per_layer",
            list,
            lambda v: len(v) == n and all(map(is_level, v)),
            f"a list of {n} levels, each a number of bits up to 16",
        )
        places = {str(i): b for i, b in enumerate(bits)}
        pinned = take(
            data,
            "pinned",
            dict,
            lambda v: all(is_level(b) and places.get(k) == b for k, b in v.items()),
            f"an object of layer (0 to {n - 1}) to the level that layer has in bits_per_layer",
        )
        outside = {b for i, b in enumerate(bits) if str(i) not in pinned} - set(levels)
        if outside:
            raise UserError(
                f"Config field 'bits_per_layer' is wrong: {sorted(outside)} is not one of the "
                f"levels {levels}, and those layers are not pinned."
            )
        average = take(data, "average_bits", (int, float), is_finite, "a finite number")
        if abs(average - sum(bits) / n) > 1e-6:
            raise UserError(
                f"Config field 'average_bits' is wrong: {average} is not bits_per_layer's mean."
            )
        sizes = take(
            data,
            "bytes",
            dict,
            lambda v: (
                all(type(v.get(k)) is int and 0 <= v[k] < 2**63 for k in BYTES)
                and v["layers"] + v["rest"] == v["total"]
            ),
            "an object of whole numbers layers, rest and total, below 2^63; total is their sum",
        )
        return Config(
            model_id=take(data, "model_id", str, bool, "a model's name"),
            revision=take(data, "revision", (str, type(None)), lambda v: True, "text or null"),
            fingerprint=take(data, "fingerprint", str, bool, "text"),
            dtype=take(
                data, "dtype", str, lambda v: v in DTYPE_BYTES, f"one of {', '.join(DTYPE_BYTES)}"
            ),
            num_layers=n,
            levels=(levels[0], levels[1]),
            bits_per_layer=tuple(bits),
            pinned={int(k): v for k, v in pinned.items()},
            ordering=take(
                data,
                "ordering",
                dict,
                lambda v: (
                    isinstance(v.get("name"), str)
                    and type(v.get("seed", 0)) is int
                    and are_scores(v.get("scores"), n)
                ),
                f"an object with a name, a whole seed, and scores: null or {n} finite numbers",
            ),
            quantizer=take(
                data,
                "quantizer",
                dict,
                lambda v: isinstance(v.get("name"), str),
                "an object with a name",
            ),
            bytes=sizes,
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
                lambda v: all(isinstance(x, str) for x in v.values()),
                "an object of package names to versions",
            ),
        )


def are_scores(value: Any, num_layers: int) -> bool:
    return value is None or (
        isinstance(value, list) and len(value) == num_layers and all(map(is_finite, value))
    )


def is_json(value: Any) -> bool:
    """Python's parser also takes NaN, Infinity and halves of surrogate pairs."""
    try:
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return False
    return True


def is_finite(value: Any) -> bool:
    """Also of whole numbers that no float holds, which JSON can name."""
    return type(value) in (int, float) and abs(value) <= float_info.max


def is_pair(value: list[Any]) -> bool:
    return len(value) == 2 and all(map(is_level, value)) and (value[0] > value[1] > 0)


def is_level(value: Any) -> bool:
    """A number of bits; which ones there are, the quantizer says. Whole ones are ints, so that they
    read alike everywhere."""
    whole = type(value) is int or (type(value) is float and not value.is_integer())
    return whole and 0 <= value <= UNTOUCHED


def take(
    data: Mapping[str, Any],
    name: str,
    kind: type | tuple[type, ...],
    valid: Callable[[Any], bool],
    wanted: str,
) -> Any:
    if name not in data:
        raise UserError(f"Config field '{name}' is missing; it should be {wanted}.")
    value = data[name]
    if not isinstance(value, kind) or isinstance(value, bool) or not valid(value):
        shown = repr(value)
        shown = shown if len(shown) < 80 else shown[:77] + "..."
        raise UserError(f"Config field '{name}' is wrong: {shown} should be {wanted}.")
    return value
