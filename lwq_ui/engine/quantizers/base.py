from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from ...core.errors import UserError
from ...core.schema import ModelInfo, WeightSpec

if TYPE_CHECKING:
    from torch import Tensor, nn


Pair = tuple[float, float]


@dataclass(frozen=True)
class Option:
    """Something of a quantizer that can be chosen: one of `choices`, or any whole number from 1 to
    `most`. `told` says a chosen value in the quantizer's title: 'groups of {}'."""

    title: str
    told: str
    default: int
    choices: tuple[int, ...] = ()
    most: int = 0

    def check(self, value: int) -> bool:
        return value in self.choices if self.choices else 1 <= value <= self.most


@dataclass(frozen=True)
class Machine:
    """How fast this machine computes, roughly: multiplications and additions of large matrices, and
    bytes that elementwise work reads and writes, both per second."""

    operations: float
    bytes: float


class Quantizer(ABC):
    """Packs weight matrices at levels. It knows neither where packed layers are kept nor for whom.

    A new one derives from PerMatrix, or from Calibrated (calibrated.py) where it has to look at
    what passes through the model:

        class Halves(PerMatrix):
            family, heading, meaning = "halves", "Halves", "Keeps every weight in 16 bits."
            levels, pairs, group_size = (16,), ((16, 16),), 0

            def packed_bytes(self, weight, level, dtype_bytes):
                return 2 * weight.numel

            def seconds(self, info, wanted, machine):
                return 0.0

            def pack(self, matrix, level):
                return matrix.half()

            def tensors(self, packed):
                return {"half": packed}

            def restore(self, tensors, spec, level):
                return tensors["half"]

            def dense(self, packed):
                return packed.float()

    `family` is its name on the command line, in configs and in cache keys, `heading` its title on
    the page. `meaning` explains it to a user in a sentence or two. `levels` are the numbers of bits
    that it has, `pairs` the (high, low) ones that are offered, the usual one first. `options` are
    what can be chosen; `chosen` has a value for each. The `name` is the family's, followed by every
    choice that is not the default: 'gptq:group=32'.

    A packed weight may be any object. `tensors` lists what is stored of it, `restore` makes it
    again from those, and `dense` returns the matrix [rows, columns] in its first dtype.
    """

    family: ClassVar[str]
    heading: ClassVar[str]
    meaning: ClassVar[str]
    levels: ClassVar[tuple[float, ...]]
    pairs: ClassVar[tuple[Pair, ...]]
    options: ClassVar[Mapping[str, Option]] = {}
    calibrated: ClassVar[bool] = False

    def __init__(self, **chosen: int):
        self.chosen = {key: chosen.get(key, o.default) for key, o in self.options.items()}
        changed = {k: v for k, v in self.chosen.items() if v != self.options[k].default}
        told = ",".join(f"{key}={value}" for key, value in changed.items())
        self.name = f"{self.family}:{told}" if told else self.family
        titles = (self.options[key].told.format(value) for key, value in changed.items())
        self.title = ", ".join([self.heading, *titles])

    def __eq__(self, other: object) -> bool:
        """Quantizers of one name pack alike."""
        return isinstance(other, Quantizer) and self.name == other.name

    def __hash__(self) -> int:
        return hash(self.name)

    @property
    @abstractmethod
    def group_size(self) -> int: ...

    @property
    def details(self) -> Mapping[str, Any]:
        """Everything else that its packed layers depend on, beside model and level."""
        return {}

    def missing(self) -> str:
        """Why it cannot pack anything on this machine, as a sentence; empty where it can."""
        return ""

    def level_title(self, level: float) -> str:
        return f"{level:g} bits"

    def pair_title(self, pair: Pair) -> str:
        return " / ".join(f"{level:g}" for level in pair)

    def level_named(self, text: str) -> float:
        """'4' -> 4. Raises UserError for a level that it has not."""
        for level in self.levels:
            if text == f"{level:g}":
                return level
        raise self.no_level(text)

    def no_level(self, text: object) -> UserError:
        levels = ", ".join(f"{level:g}" for level in self.levels)
        return UserError(f"{self.title} has no {text} bits, only {levels}.")

    @abstractmethod
    def packed_bytes(self, weight: WeightSpec, level: float, dtype_bytes: int) -> int:
        """Returns the bytes of the tensors that are stored of a weight, by a formula."""

    @abstractmethod
    def seconds(
        self, info: ModelInfo, wanted: Sequence[tuple[int, float]], machine: Machine
    ) -> float:
        """Returns about how many seconds it takes to pack these (layer, level)."""

    @abstractmethod
    def tensors(self, packed: Any) -> dict[str, Tensor]:
        """Returns what is stored of a packed weight, by names without '|'."""

    @abstractmethod
    def restore(self, tensors: dict[str, Tensor], spec: WeightSpec, level: float) -> Any:
        """Returns the packed weight that `tensors` gave these of. They may lie in mapped files."""

    @abstractmethod
    def dense(self, packed: Any) -> Tensor:
        """Returns the de-quantized matrix [rows, columns] in its first dtype."""

    def module(
        self, linear: nn.Linear, packed: Any, level: float, to_write: bool = False
    ) -> nn.Module:
        """Returns a module that computes with the packed weight in place of `linear`, or one that
        is only written to disk. `linear` may be of a streamed layer, without its weight. This one
        de-quantizes at every call: it takes less memory, and is not faster."""
        from .packed_linear import PackedLinear

        return PackedLinear(partial(self.dense, packed), self.tensors(packed), linear.bias)

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "group_size": self.group_size, "options": dict(self.details)}


class PerMatrix(Quantizer):
    """Packs a matrix by looking at that matrix alone."""

    @abstractmethod
    def pack(self, matrix: Tensor, level: float) -> Any:
        """Returns a matrix [rows, columns], packed. The matrix is only read."""
