from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ...core.errors import UserError
from ...core.run import Run
from ...core.schema import ModelInfo, WeightSpec

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

    from ...core.allocation import Split
    from ..banks.bank import Bank

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
    """Packs weight matrices at levels.

    `levels` are the numbers of bits it has, `pairs` the (high, low) ones that are offered, the
    usual one first. `options` lists what can be chosen; `chosen` has a value for each. The `name`
    is the family's, followed by every choice that is not the default: 'gptq:group=32'.

    `meaning` explains it to a user, in a sentence or two.

    `packed_bytes` is its own formula, and must equal the bytes of the tensors that are stored. A
    packed weight is whatever the quantizer likes, as long as `tensors` lists what it stores,
    `restore` makes it again from them, `dense` gives back the matrix [rows, columns] in its first
    dtype, and `module` puts it into a module of the model.

    Most look at one matrix: they have `pack`. One that is `calibrated` looks at what passes through
    the model, and packs layers in a pass of its own: see calibrated.py.
    """

    family: ClassVar[str]
    heading: ClassVar[str]
    meaning: ClassVar[str]
    levels: ClassVar[tuple[float, ...]]
    pairs: ClassVar[tuple[Pair, ...]]
    options: ClassVar[Mapping[str, Option]] = {}
    calibrated: ClassVar[bool] = False
    writes: ClassVar[str] = ""  # what the folder is that `write` makes, and who reads it

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
    def packed_bytes(self, weight: WeightSpec, level: float, dtype_bytes: int) -> int: ...

    @abstractmethod
    def seconds(
        self, info: ModelInfo, wanted: Sequence[tuple[int, float]], machine: Machine
    ) -> float:
        """About how long it takes to pack these (layer, level)."""

    def pack(self, matrix: Tensor, level: float) -> Any:
        raise NotImplementedError

    def calibrate(self, bank: Bank, wanted: Sequence[tuple[int, float]], run: Run) -> None:
        """Packs these (layer, level) and hands each to `bank.keep`. Raises Stopped: what was kept
        by then stays. Raises UserError where this model cannot be calibrated. Only called where
        nothing is `missing`."""
        raise NotImplementedError

    @abstractmethod
    def tensors(self, packed: Any) -> dict[str, Tensor]: ...

    @abstractmethod
    def restore(self, tensors: dict[str, Tensor], spec: WeightSpec, level: float) -> Any: ...

    @abstractmethod
    def dense(self, packed: Any) -> Tensor: ...

    def module(
        self, linear: nn.Linear, packed: Any, level: float, to_write: bool = False
    ) -> nn.Module:
        """A module that computes with the packed weight, in place of `linear`, or that is only
        written to disk. `linear` may be of a streamed layer, without its weight. This one
        de-quantizes at every call: less memory, not faster."""
        from .packed_linear import PackedLinear

        return PackedLinear(self, packed, linear.bias)

    def check_write(self, bank: Bank, split: Split) -> None:
        """Raises UserError where no program reads a folder of this split: before it is packed."""
        raise UserError(
            f"No program reads a folder of {self.heading}. Export the config as JSON instead."
        )

    def write(self, bank: Bank, split: Split, folder: Path, run: Run) -> None:
        """The model at this split as a folder that another program reads. Raises UserError as
        `check_write` does."""
        self.check_write(bank, split)

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "group_size": self.group_size, "options": dict(self.details)}
