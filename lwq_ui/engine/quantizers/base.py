"""What a quantizer is, and what of it can be chosen."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from ...core.errors import UserError
from ...core.origin import Grid
from ...core.schema import ModelInfo, WeightSpec
from ...core.store import Store

if TYPE_CHECKING:
    from torch import Tensor, nn


Pair = tuple[float, float]
"""A high and a low level, in bits."""

Value = int | float | str
"""What is chosen of an option."""


@dataclass(frozen=True)
class Option:
    """Something of a quantizer that can be chosen: one of `choices`, or a number in a range.

    The default's type says which values there are: words, whole numbers, or fractions.

        Option("Group size", "groups of {}", 128, choices=(128, 64, 32))
        Option("Rounding", "rounded {}", "nearest", choices=("nearest", "down"))
        Option("Documents", "{} documents", 50, most=50)
        Option("Damping", "{} damping", 0.01, least=0, most=1)

    `title` labels it on the page. `phrase` says a value in the quantizer's title. Words have no
    commas. Options that have one key in several quantizers are all choices, or all ranges: the page
    has one field for them.
    """

    title: str
    phrase: str
    default: Value
    choices: tuple[Value, ...] = ()
    least: float = 1
    most: float = 0

    @property
    def is_whole(self) -> bool:
        return isinstance(self.default, int)

    @property
    def expected(self) -> str:
        """Says which values are possible: 'a whole number from 1 to 50'."""
        if self.choices:
            return f"one of {', '.join(map(self.format, self.choices))}"
        return f"a {'whole ' * self.is_whole}number from {self.least:g} to {self.most:g}"

    def parse(self, value: object) -> Value:
        """Returns the value that is meant: by a text, as in '--quantizer', or by what a field of
        the page holds, which may be a number, a text or None. Raises ValueError where that is not
        a value of this option."""
        parsed = value if isinstance(self.default, str) else self._number(value)
        if parsed is not None and self.choices:
            if parsed in self.choices:
                return self.choices[self.choices.index(parsed)]
        elif isinstance(parsed, int | float) and self.least <= parsed <= self.most:
            return parsed
        raise ValueError(f"{value!r} is not {self.expected}")

    def _number(self, value: object) -> int | float | None:
        try:
            number = float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            return None
        if self.is_whole:
            return int(number) if number.is_integer() else None
        return number

    def format(self, value: Value) -> str:
        """Returns the text that `parse` reads as this value: '64', '0.01', 'nearest'."""
        return str(value).removesuffix(".0")


@dataclass(frozen=True)
class Machine:
    """About how fast this machine computes. `operations` are multiplications and additions of large
    matrices per second, `bytes` those that elementwise work reads and writes per second."""

    operations: float
    bytes: float


class Quantizer(ABC):
    """Packs weight matrices at levels. It knows neither where packed layers are kept nor for whom.

    A new one derives from PerMatrix, or from Calibrated (calibrated.py) where it has to look at
    what passes through the model:

        class Rounded(PerMatrix):
            family, heading = "rounded", "Rounded"
            meaning = "Rounds to nearest, with one scale for a whole matrix."
            levels, pairs, group_size = (8, 4), ((8, 4),), 0

            def packed_bytes(self, weight, level, dtype_bytes):
                return weight.numel + dtype_bytes

            def seconds(self, info, wanted, machine):
                weights = sum(w.numel for layer, _ in wanted for w in info.layers[layer].weights)
                return 20 * weights * info.dtype_bytes / machine.bytes

            def pack(self, matrix, level):
                scale = matrix.abs().max() / (2 ** (level - 1) - 1)
                return {"codes": (matrix / scale).round().char(), "scale": scale}

            def tensors(self, packed):
                return packed

            def restore(self, tensors, spec, level):
                return tensors

            def dense(self, packed):
                return packed["codes"] * packed["scale"]

    `family` is its name on the command line, in configs and in cache keys. `heading` is its title
    on the page, and `meaning` explains it to a user in a sentence or two. `levels` are the numbers
    of bits that it has. `pairs` are the (high, low) levels that are offered, the usual pair first.

    `options` are what can be chosen, and `chosen` has a value for each. `name` is the family's,
    followed by every choice that is not the default: 'gptq:group=32'. `text` refers to what it
    calibrates on; it is empty for the text that ships, and where nothing is calibrated.

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
    text: str = ""

    def __init__(self, **chosen: Value):
        self.chosen: dict[str, Any] = {
            key: chosen.get(key, option.default) for key, option in self.options.items()
        }
        changed = {
            key: option.format(self.chosen[key])
            for key, option in self.options.items()
            if self.chosen[key] != option.default
        }
        choices = ",".join(f"{key}={text}" for key, text in changed.items())
        self.name = f"{self.family}:{choices}" if choices else self.family
        phrases = (self.options[key].phrase.format(text) for key, text in changed.items())
        self.title = ", ".join([self.heading, *phrases])

    def __eq__(self, other: object) -> bool:
        """Quantizers of one name pack alike."""
        return isinstance(other, Quantizer) and self.name == other.name

    def __hash__(self) -> int:
        return hash(self.name)

    @property
    @abstractmethod
    def group_size(self) -> int:
        """The weights of a row that share a scale; 0 where there are no groups."""

    @property
    def details(self) -> Mapping[str, Any]:
        """All that its packed layers depend on beside its name, the model and the level."""
        return {}

    def missing(self) -> str:
        """Returns why it cannot pack anything on this machine, as a sentence; "" where it can."""
        return ""

    def on_text(self, text: str) -> Quantizer:
        """Returns the same quantizer, calibrated on the text of this reference."""
        return self

    def missing_text(self, store: Store) -> str:
        """Returns that the cache lacks the text to calibrate on, as a sentence; "" where not."""
        return ""

    def level_title(self, level: float) -> str:
        return f"{level:g} bits"

    def pair_title(self, pair: Pair) -> str:
        return " / ".join(f"{level:g}" for level in pair)

    def level_named(self, text: str) -> float:
        """Returns the level that a text means: '4' -> 4. Raises UserError where it is none of
        these."""
        for level in self.levels:
            if text == f"{level:g}":
                return level
        raise self.no_level(text)

    def no_level(self, text: object) -> UserError:
        levels = ", ".join(f"{level:g}" for level in self.levels)
        return UserError(f"{self.title} has no {text} bits, only {levels}.")

    def grid(self, columns: int, level: float) -> Grid | None:
        """Returns the values that a row of so many columns is rounded to, where they always span a
        group from its smallest weight to its largest. None where they are anything else."""
        return None

    @abstractmethod
    def packed_bytes(self, weight: WeightSpec, level: float, dtype_bytes: int) -> int:
        """Returns the bytes of the tensors that are stored of a weight, by a formula. Nothing is
        packed for that."""

    @abstractmethod
    def seconds(
        self, info: ModelInfo, wanted: Sequence[tuple[int, float]], machine: Machine
    ) -> float:
        """Returns about how many seconds it takes to pack these (layer, level)."""

    @abstractmethod
    def tensors(self, packed: Any) -> dict[str, Tensor]:
        """Returns what is stored of a packed weight, by names that have no '|'."""

    @abstractmethod
    def restore(self, tensors: dict[str, Tensor], spec: WeightSpec, level: float) -> Any:
        """Returns the packed weight that these tensors are of. They may lie in mapped files."""

    @abstractmethod
    def dense(self, packed: Any) -> Tensor:
        """Returns the de-quantized matrix [rows, columns] in its first dtype."""

    def module(
        self, linear: nn.Linear, packed: Any, level: float, to_write: bool = False
    ) -> nn.Module:
        """Returns a module that computes with the packed weight in place of `linear`. With
        `to_write` it is only written to disk. `linear` may be of a streamed layer, without its
        weight.

        This module de-quantizes at every call. It takes less memory, and is not faster."""
        from .packed_linear import PackedLinear

        return PackedLinear(partial(self.dense, packed), self.tensors(packed), linear.bias)

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "group_size": self.group_size, "options": dict(self.details)}


class PerMatrix(Quantizer):
    """Packs a matrix by looking at that matrix alone."""

    @abstractmethod
    def pack(self, matrix: Tensor, level: float) -> Any:
        """Returns the packed form of a matrix [rows, columns], which it must not change."""
