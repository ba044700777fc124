"""optimum-quanto: groups of 128 at 2 and 4 bits, per channel at 8."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from ...core.errors import UserError
from ...core.memory import PRUNED, affine_bytes, group_size, symmetric_bytes
from ...core.run import Run
from ...core.schema import ModelInfo, WeightSpec
from .base import Machine, Option, Quantizer

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

    from ...core.allocation import Split
    from ..banks.bank import Bank


log = logging.getLogger(__name__)

LOADED_GROUP = 128  # optimum-quanto's QModuleMixin knows no other, and stores none


class Quanto(Quantizer):
    """Paper section 3.3.1: scale and shift of a group from its plain minimum and maximum. At 8 bits
    optimum-quanto is symmetric."""

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
    writes = "optimum-quanto loads it by itself"
    passes = 200  # over a weight's bytes to pack it: about what it takes, for the forecast

    @property
    def group_size(self) -> int:
        return self.chosen["group"]

    @property
    def details(self) -> Mapping[str, Any]:
        return {"optimizer": "MaxOptimizer"}

    def optimizer(self) -> Any:
        """Finds scale and shift of every group, at 2 and 4 bits."""
        from optimum.quanto import MaxOptimizer

        return MaxOptimizer()

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

        where = {"size": (spec.rows, spec.columns), "stride": (spec.columns, 1)}
        if level == 8:
            axis = 0 if spec.rows > 1 else None
            return WeightQBytesTensor.load_from_state_dict(
                dict(tensors),
                "",
                qtype=self._qtype(8),
                axis=axis,
                activation_qtype=None,
                missing_keys=[],
                **where,
            )
        return WeightQBitsTensor.load_from_state_dict(
            dict(tensors),
            "",
            qtype=self._qtype(level),
            axis=0,
            group_size=self._group(spec.columns),
            missing_keys=[],
            **where,
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
        for scale in ("input_scale", "output_scale"):  # beside an absent weight
            setattr(quantized, scale, torch.ones((), dtype=packed.dtype, device=packed.device))
        compiled = packed.device.type == "cuda" and packed.dtype == torch.float16  # with nvcc
        odd = packed.shape[0] % 16 > 0  # torch's 4-bit kernel for a CPU refuses such rows
        if not (compiled or to_write or odd):
            packed = packed.optimize()
        quantized.weight = torch.nn.Parameter(packed, requires_grad=False)
        return quantized

    def check_write(self, bank: Bank, split: Split) -> None:
        if PRUNED in split:
            raise UserError(
                "optimum-quanto cannot store a model with pruned layers. Export the config as JSON "
                "instead."
            )
        if self.group_size != LOADED_GROUP and {2, 4} & set(split):
            raise UserError(
                f"optimum-quanto loads only groups of {LOADED_GROUP} again, not of "
                f"{self.group_size}. Choose groups of {LOADED_GROUP}, or export the config as JSON "
                "instead."
            )
        if outside := bank.outside_of_linear(split):
            raise UserError(
                f"optimum-quanto cannot store {outside} of {bank.loaded.info.architecture}: it "
                "is not an nn.Linear. Export the config as JSON instead."
            )

    def write(self, bank: Bank, split: Split, folder: Path, run: Run) -> None:
        """As optimum-quanto saves a model: safetensors, config and quanto_qmap.json, with the
        tokenizer."""
        from optimum.quanto import quantization_map

        self.check_write(bank, split)
        if odd := odd_for_a_cpu(bank.loaded.info, split):
            log.warning("%s", odd)
        composed = bank.compose(split, run, to_write=True)
        composed.save_pretrained(folder)
        bank.loaded.tokenizer.save_pretrained(folder)
        qmap = json.dumps(quantization_map(composed), indent=1)
        (folder / "quanto_qmap.json").write_text(qmap, encoding="utf-8")

    @staticmethod
    def _qtype(level: float) -> Any:
        from optimum import quanto

        return {2: quanto.qint2, 4: quanto.qint4, 8: quanto.qint8}[int(level)]

    def _group(self, columns: int) -> int | None:
        size = group_size(columns, self.group_size)
        return None if size == columns else size


def odd_for_a_cpu(info: ModelInfo, split: Split) -> str:
    """A sentence where optimum-quanto's kernels for a CPU do not take weights of this model, which
    this program computes in another way. Empty where they do."""
    for layer, level in zip(info.layers, split, strict=True):
        for w in layer.weights:
            rows = level == 4 and w.rows % 16 and w.columns > LOADED_GROUP
            if info.dtype == "bfloat16" and (rows or (level == 8 and w.columns % 16)):
                return (
                    f"optimum-quanto may fail with this model on a CPU, or end the process: its "
                    f"kernels take multiples of 16 only, and {w.name} has {w.rows} by {w.columns}. "
                    "Load the folder on a GPU."
                )
    return ""


class SearchedQuanto(Quanto):
    """Scale and shift found by an optimizer of our own, from quanto_optimizers.py."""

    found_by: ClassVar[str]

    @property
    def details(self) -> Mapping[str, Any]:
        return {"optimizer": self.found_by, "version": 1}

    def optimizer(self) -> Any:
        from . import quanto_optimizers

        return getattr(quanto_optimizers, self.found_by)()


class QuantoHQQ(SearchedQuanto):
    """Half-quadratic quantization (Badri and Shaji 2023): a shift of smaller mean error."""

    family = "quanto-hqq"
    heading = "Quanto, HQQ"
    meaning = (
        "Rounds to nearest, in a better range: it gives up a few weights to come closer to most."
    )
    found_by = "GroupwiseHqqOptimizer"
    passes = 1500


class QuantoClip(SearchedQuanto):
    """The least squared error of every group, by searching ranges that cut off its extremes."""

    family = "quanto-clip"
    heading = "Quanto, clip search"
    meaning = (
        "Rounds to nearest, in a better range: it tries narrower ones and keeps the one with the "
        "least error."
    )
    found_by = "ClipOptimizer"
    passes = 800
