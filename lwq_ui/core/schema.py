"""The records that pass between the rooms. Frozen, and validated where they come from outside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import isfinite
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
        return "unquantized" if split[0] == UNTOUCHED else f"all {split[0]:g}-bit"
    return f"{average_bits(split):.2f} bits"
