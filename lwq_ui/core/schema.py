"""The records that pass between core, engine and page. They are frozen, and validated where they
come from outside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

from .allocation import Split
from .errors import UserError
from .memory import DTYPE_BYTES, UNTOUCHED, average_bits
from .origin import Origin
from .typed import typed


@dataclass(frozen=True)
class WeightSpec:
    """A matrix that quantizers pack: `rows` output channels by `columns` inputs. Fused experts are
    one matrix with the rows of all experts."""

    name: str
    rows: int
    columns: int

    @property
    def numel(self) -> int:
        return self.rows * self.columns


@dataclass(frozen=True)
class LayerSpec:
    """One decoder layer: the matrices that quantizers pack, and the bytes of everything else.

    `cached` counts the numbers that the KV cache keeps per token: keys and values of all KV heads.
    It is 0 where the layer uses another's, None where the number is unknown. `window` is the most
    tokens that the cache keeps, None where it keeps all.
    """

    weights: tuple[WeightSpec, ...]
    other_bytes: int
    cached: int | None = None
    window: int | None = None


BEFORE = ("quantized_as", "grid")  # fields of a ModelInfo that say what its weights were before


@dataclass(frozen=True)
class ModelInfo:
    """What a model is, read from its config and its files' headers.

    `fingerprint` is a hash of the contents of its files. `max_tokens` is the longest input, None
    where the model has no limit. Computing takes `token_bytes` for each token of a prompt and
    `pair_bytes` for each pair of tokens, see engine/models/footprint.py. None: unknown.
    `quantized_as` is what its weights were quantized as before, such as 'Q4_1'; None where they
    were not. `grid` names the type of all matrices of its layers where that is one of GRIDS, see
    origin.py.
    """

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
    quantized_as: str | None = None
    grid: str | None = None

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    @property
    def origin(self) -> Origin:
        return Origin(self.quantized_as)

    @property
    def dtype_bytes(self) -> int:
        return DTYPE_BYTES[self.dtype]

    @property
    def packable_share(self) -> float:
        """The share of the layers' bytes that quantizers can pack, from 0 to 1."""
        packable = sum(w.numel for layer in self.layers for w in layer.weights) * self.dtype_bytes
        return packable / max(1, packable + sum(layer.other_bytes for layer in self.layers))

    def to_json(self) -> dict[str, Any]:
        """Returns what weights were before only where they were something: other entries are read
        by older versions, too."""
        data = asdict(self)
        return {k: v for k, v in data.items() if k not in BEFORE or v is not None}

    @staticmethod
    def from_json(data: Any) -> ModelInfo:
        """Raises ValueError where this is not a ModelInfo as `to_json` writes it."""
        if isinstance(data, dict):
            data = {**dict.fromkeys(BEFORE), **data}
        info = typed(ModelInfo, data)
        if info.dtype not in DTYPE_BYTES:
            raise ValueError(f"there is no number format '{info.dtype}'")
        return info


@dataclass(frozen=True)
class Scores:
    """One number per layer from one scorer. Raises UserError where a value is not finite.

    `calibration` names the text, None for scorers that need none. `cut` of its documents are longer
    than what is used of one; `unused_bytes` of it belong to no document. `seconds` is the wall time
    of computing the scores. `quantizer` and `level` belong to a scorer that measures a level; they
    are None for others.
    """

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
        """Says how much of the text was used: '50 documents, 25,600 tokens (2 cut short)'."""
        used = f"{self.documents} document{'s' * (self.documents != 1)}, {self.tokens:,} tokens"
        losses = [f"{self.cut} cut short"] if self.cut else []
        if self.unused_bytes:
            losses.append(f"{self.unused_bytes:,} bytes of the text not used")
        return f"{used} ({', '.join(losses)})" if losses else used

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
        """Raises ValueError where these are not Scores as `to_json` writes them. Older entries of
        the cache lack `cut` and `unused_bytes`."""
        if isinstance(data, dict):
            data = {"cut": 0, "unused_bytes": 0, **data}
        return typed(Scores, data)


@dataclass(frozen=True)
class Metric:
    """A measured figure: its value, its standard error and its number of items."""

    value: float
    stderr: float | None
    n: int


UNQUANTIZED = "none"  # an evaluation's quantizer where no layer is packed


@dataclass(frozen=True)
class Evaluation:
    """One task measured on one split. Raises UserError where a value is not finite.

    `items` holds what the metrics were computed from, one entry per item. So two splits can be
    compared on the same items. `limit` is how many items were allowed, None for all. `seconds` is
    the split's share of the wall time of all splits measured together. With `chat_template`, the
    prompts were in the chat template of the model.
    """

    task: str
    split: Split
    quantizer: str
    metrics: Mapping[str, Metric]
    items: Mapping[str, list[float]]
    limit: int | None
    seconds: float
    chat_template: bool = False

    def __post_init__(self) -> None:
        figures = {name: [m.value, m.stderr or 0.0] for name, m in self.metrics.items()}
        for name, values in (*figures.items(), *self.items.items()):
            if wrong := [v for v in values if not isfinite(v)]:
                raise UserError(
                    f"The task '{self.task}' gives no number for '{name}' at "
                    f"{split_name(self.split)} but {wrong[0]}: nothing is kept of it."
                )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(data: Any) -> Evaluation:
        """Raises ValueError where this is not an Evaluation as `to_json` writes it. Older entries
        of the cache lack `chat_template`."""
        if isinstance(data, dict):
            data = {"chat_template": False, **data}
        return typed(Evaluation, data)


def split_name(split: Split) -> str:
    """Returns 'all 4-bit', 'unquantized', or the average: '3.25 bits'."""
    if len(set(split)) == 1:
        return "unquantized" if split[0] == UNTOUCHED else f"all {split[0]:g}-bit"
    return f"{average_bits(split):.2f} bits"
