"""optimum-quanto: groups of 128 at 2 and 4 bits, per channel at 8."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from ...core.memory import affine_bytes, group_size, symmetric_bytes
from ...core.origin import Grid
from ...core.schema import ModelInfo, WeightSpec
from .base import Machine, Option, PerMatrix

if TYPE_CHECKING:
    from torch import Tensor, nn


log = logging.getLogger(__name__)


class Quanto(PerMatrix):
    """Takes a group's scale and shift from its plain minimum and maximum (paper section 3.3.1). At
    8 bits optimum-quanto is symmetric."""

    family = "quanto"
    heading = "Quanto, Max (the paper's)"
    meaning = (
        "Rounds to nearest: the few values that there are lie evenly from the smallest weight of a "
        "group to the largest."
    )
    levels = (8, 4, 2)
    pairs = ((4, 2), (8, 4), (8, 2))
    options: ClassVar[Mapping[str, Option]] = {
        "group": Option("Group size", "groups of {}", 128, choices=(128, 64, 32))
    }
    passes = 200  # packing takes about as long as so many passes over a weight's bytes

    @property
    def group_size(self) -> int:
        return self.chosen["group"]

    @property
    def details(self) -> Mapping[str, Any]:
        return {"optimizer": "MaxOptimizer"}

    def optimizer(self) -> Any:
        """Returns what finds the scale and shift of every group at 2 and 4 bits."""
        from optimum.quanto import MaxOptimizer

        return MaxOptimizer()

    def grid(self, columns: int, level: float) -> Grid | None:
        """A search for another range keeps the plain one where that has the smaller error, and on
        its own values it has none."""
        return None if level == 8 else Grid(int(level), group_size(columns, self.group_size))

    def packed_bytes(self, weight: WeightSpec, level: float, dtype_bytes: int) -> int:
        if level == 8:
            return symmetric_bytes(weight.rows, weight.columns, dtype_bytes)
        return affine_bytes(weight.rows, weight.columns, int(level), dtype_bytes, self.group_size)

    def seconds(
        self, info: ModelInfo, wanted: Sequence[tuple[int, float]], machine: Machine
    ) -> float:
        weights = sum(w.numel for layer, _ in wanted for w in info.layers[layer].weights)
        return self.passes * weights * info.dtype_bytes / machine.bytes

    def pack(self, matrix: Tensor, level: float) -> Any:
        from optimum import quanto

        from . import quanto_kernels  # noqa: F401

        qtype = self._qtype(level)
        if level == 8:
            scale = quanto.AbsmaxOptimizer()(matrix, qtype=qtype, axis=0)
            return quanto.quantize_weight(matrix, qtype, axis=0, scale=scale, optimized=False)
        group = self._group(matrix.shape[1])
        scale, shift = self.optimizer()(matrix, qtype=qtype, axis=0, group_size=group)
        return quanto.quantize_weight(
            matrix, qtype, axis=0, scale=scale, shift=shift, group_size=group, optimized=False
        )

    def tensors(self, packed: Any) -> dict[str, Tensor]:
        stored: dict[str, Tensor] = {}
        packed.save_to_state_dict(stored, "", False)
        return stored

    def restore(self, tensors: dict[str, Tensor], spec: WeightSpec, level: float) -> Any:
        from optimum.quanto import WeightQBitsTensor, WeightQBytesTensor

        from . import quanto_kernels  # noqa: F401

        shape = {"size": (spec.rows, spec.columns), "stride": (spec.columns, 1)}
        if level == 8:
            axis = 0 if spec.rows > 1 else None
            return WeightQBytesTensor.load_from_state_dict(
                dict(tensors),
                "",
                qtype=self._qtype(8),
                axis=axis,
                activation_qtype=None,
                missing_keys=[],
                **shape,
            )
        return WeightQBitsTensor.load_from_state_dict(
            dict(tensors),
            "",
            qtype=self._qtype(level),
            axis=0,
            group_size=self._group(spec.columns),
            missing_keys=[],
            **shape,
        )

    def dense(self, packed: Any) -> Tensor:
        return packed.dequantize()

    def module(
        self, linear: nn.Linear, packed: Any, level: float, to_write: bool = False
    ) -> nn.Module:
        import torch
        from optimum.quanto import QLinear

        quantized = QLinear.from_module(linear, weights=self._qtype(level))
        quantized.bias = linear.bias
        for scale in ("input_scale", "output_scale"):  # a streamed layer's are on the meta device
            setattr(quantized, scale, torch.ones((), dtype=packed.dtype, device=packed.device))
        compiled = packed.device.type == "cuda" and packed.dtype == torch.float16  # with nvcc
        odd = packed.shape[0] % 16 > 0  # torch's 4-bit kernel for a CPU refuses such rows
        if not (compiled or to_write or odd):
            packed = packed.optimize()
        quantized.weight = torch.nn.Parameter(packed, requires_grad=False)
        return quantized

    @staticmethod
    def _qtype(level: float) -> Any:
        from optimum import quanto

        return {2: quanto.qint2, 4: quanto.qint4, 8: quanto.qint8}[int(level)]

    def _group(self, columns: int) -> int | None:
        size = group_size(columns, self.group_size)
        return None if size == columns else size


class SearchedQuanto(Quanto):
    """Has an optimizer of our own, from quanto_optimizers.py, find scale and shift."""

    found_by: ClassVar[str]

    @property
    def details(self) -> Mapping[str, Any]:
        return {"optimizer": self.found_by, "version": 1}

    def optimizer(self) -> Any:
        from . import quanto_optimizers

        return getattr(quanto_optimizers, self.found_by)()


class QuantoHQQ(SearchedQuanto):
    """Half-quadratic quantization (Badri and Shaji 2023): it finds a shift of smaller mean
    error."""

    family = "quanto-hqq"
    heading = "Quanto, HQQ"
    meaning = (
        "Rounds to nearest, in a better range: it gives up a few weights to come closer to most."
    )
    found_by = "GroupwiseHqqOptimizer"
    passes = 1500


class QuantoClip(SearchedQuanto):
    """Searches ranges that cut off a group's extremes, for the least squared error of the group."""

    family = "quanto-clip"
    heading = "Quanto, clip search"
    meaning = (
        "Rounds to nearest, in a better range: it tries narrower ones and keeps the one with the "
        "least error."
    )
    found_by = "ClipOptimizer"
    passes = 800
