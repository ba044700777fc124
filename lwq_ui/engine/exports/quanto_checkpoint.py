"""optimum-quanto's own checkpoint: safetensors, config and quanto_qmap.json, with the tokenizer."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from ...core.allocation import Split
from ...core.memory import PRUNED, UNTOUCHED
from ...core.run import Run
from ...core.schema import ModelInfo
from ..quantizers import Quantizer
from ..quantizers.quanto import Quanto
from .base import ModelExport

if TYPE_CHECKING:
    from ..banks.bank import Bank
    from ..models.loading import LoadedModel

log = logging.getLogger(__name__)

LOADED_GROUP = 128  # optimum-quanto's QModuleMixin knows no other, and stores none


class QuantoCheckpoint(ModelExport):
    """Needs nn.Linear modules, and groups of 128."""

    name = "quanto"
    title = "optimum-quanto checkpoint"
    reader = "optimum-quanto loads it by itself"
    quantizer = Quanto

    def can(self, loaded: LoadedModel, quantizer: Quantizer, split: Split) -> str:
        if PRUNED in split:
            return (
                "optimum-quanto cannot store a model with pruned layers. Export the config as JSON "
                "instead."
            )
        if quantizer.group_size != LOADED_GROUP and {2, 4} & set(split):
            return (
                f"optimum-quanto loads only groups of {LOADED_GROUP} again, not of "
                f"{quantizer.group_size}. Choose groups of {LOADED_GROUP}, or export the config as "
                "JSON instead."
            )
        if name := outside_of_linear(loaded, split):
            return (
                f"optimum-quanto cannot store {name} of {loaded.info.architecture}: it is not an "
                "nn.Linear. Export the config as JSON instead."
            )
        return ""

    def write(self, bank: Bank, split: Split, folder: Path, run: Run) -> None:
        from optimum.quanto import quantization_map

        from ..banks.composing import compose

        if message := odd_for_a_cpu(bank.loaded.info, split):
            log.warning("%s", message)
        composed = compose(bank, split, run, to_write=True)
        composed.save_pretrained(folder)
        bank.loaded.tokenizer.save_pretrained(folder)
        qmap = json.dumps(quantization_map(composed), indent=1)
        (folder / "quanto_qmap.json").write_text(qmap, encoding="utf-8")


def outside_of_linear(loaded: LoadedModel, split: Split) -> str:
    """Returns the name of a quantized weight that is in no nn.Linear; "" where there is none."""
    from torch import nn

    from ..models.layers import layer_weights

    for layer, level in zip(loaded.walk.layers, split, strict=True):
        for w in layer_weights(layer) if level != UNTOUCHED else ():
            if not isinstance(w.module, nn.Linear):
                return w.name
    return ""


def odd_for_a_cpu(info: ModelInfo, split: Split) -> str:
    """Returns a sentence where optimum-quanto's kernels for a CPU cannot compute with weights of
    this model; "" where they can. This program computes with such weights in another way."""
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
