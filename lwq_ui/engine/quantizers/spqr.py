"""SpQR-like layers: 3 bits with GPTQ, and a share of outliers at 16 bits (paper table 3).

After Dettmers et al. 2023, "SpQR: A Sparse-Quantized Representation for Near-Lossless LLM Weight
Compression", section 4 and Algorithm 1. No maintained library has it; the arithmetic is in
spqr_algorithm.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ...core.errors import UserError
from ...core.run import Run
from ...core.schema import ModelInfo, WeightSpec
from .base import Machine, Option, Pair
from .calibrated import TEXT_OPTIONS, Calibrated, PackedLayers
from .spqr_format import GROUP, PER_MILLE, column_bytes, outlier_count, share, three_bit_bytes

if TYPE_CHECKING:
    from torch import Tensor

    from ..models.loading import LoadedModel

PASSES = 100  # packing takes about as long as so many passes over a weight's float32
COLUMN_SECONDS = 6e-5  # to start the operations on one column, on any device


class SpQR(Calibrated):
    """Packs every layer with what enters it in the *unquantized* model. So its packed form does not
    depend on the levels of the layers before it, and any split can be composed of the bank. The
    published code quantizes layer after layer, each with what the quantized ones before it give.

    The paper fixes a threshold of sensitivity, and the share of outliers follows from it. Here the
    share is fixed, and the threshold of every matrix follows from it. So the bytes are known before
    a matrix is packed."""

    family = "spqr"
    heading = "SpQR-like (3 bits, outliers)"
    meaning = (
        "Rounds as GPTQ does, at 3 bits, and keeps the 0.1 % to 1 % of the weights at 16 bits that "
        "rounding would hurt most."
    )
    levels = tuple(PER_MILLE)
    pairs = ((3.945, 3.657), (3.945, 3.785), (3.785, 3.657))
    options: ClassVar[Mapping[str, Option]] = TEXT_OPTIONS

    @property
    def group_size(self) -> int:
        return GROUP

    def level_title(self, level: float) -> str:
        return f"{share(level)} outliers ({level:g} bits)"

    def pair_title(self, pair: Pair) -> str:
        return " / ".join(map(share, pair))

    def level_named(self, text: str) -> float:
        """Returns the level that a text means: '1%' or '3.945' -> 3.945."""
        for level in self.levels:
            if text.replace(" ", "") in (f"{level:g}", share(level).replace(" ", "")):
                return level
        raise self.no_level(text)

    def no_level(self, text: object) -> UserError:
        levels = ", ".join(f"{level:g} ({share(level)})" for level in self.levels)
        return UserError(f"{self.title} has no level {text}, only these (outliers): {levels}.")

    def packed_bytes(self, weight: WeightSpec, level: float, dtype_bytes: int) -> int:
        """Returns the bytes of all that is stored. SpQR's own count leaves out where a row's
        outliers begin, and groups that are cut short at the edge of the matrix."""
        groups = -(-weight.columns // GROUP)
        blocks = -(-weight.rows // GROUP)
        outliers = outlier_count(weight.numel, level)
        return (
            three_bit_bytes(weight.numel)
            + 2 * three_bit_bytes(weight.rows * groups)
            + 8 * blocks * groups
            + outliers * (2 + column_bytes(weight.columns))
            + 4 * (weight.rows + 1)
        )

    def seconds(
        self, info: ModelInfo, wanted: Sequence[tuple[int, float]], machine: Machine
    ) -> float:
        tokens = self.documents * self.chosen["tokens"]
        last = max(layer for layer, _ in wanted)
        weights = sum(w.numel for layer in info.layers[: last + 1] for w in layer.weights)
        operations, moved, columns = 2.0 * weights * tokens, 0.0, 0
        for layer in {layer for layer, _ in wanted}:
            for w in info.layers[layer].weights:  # about half of them share their input
                operations += w.columns**2 * tokens + 2 * w.columns**3
        for layer, _ in wanted:
            for w in info.layers[layer].weights:
                operations += w.numel * w.columns
                moved += PASSES * w.numel * 4
                columns += w.columns
        started = COLUMN_SECONDS * columns
        return operations / machine.operations + moved / machine.bytes + started

    def calibrate(
        self,
        loaded: LoadedModel,
        wanted: Sequence[tuple[int, float]],
        run: Run,
        folder: Path | None,
    ) -> PackedLayers:
        """Packs in one pass over the layers up to the last one wanted. After a stop the pass goes
        on where it was. Raises UserError for the fused experts of a mixture."""
        from .spqr_calibration import pack_layers

        return pack_layers(loaded, wanted, self.sequences(loaded, run.store), run, folder)

    def tensors(self, packed: Any) -> dict[str, Tensor]:
        return packed.tensors

    def restore(self, tensors: dict[str, Tensor], spec: WeightSpec, level: float) -> Any:
        from .spqr_algorithm import Packed

        return Packed(spec.rows, spec.columns, tensors)

    def dense(self, packed: Any) -> Tensor:
        return packed.dense()
