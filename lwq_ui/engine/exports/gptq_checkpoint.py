"""A GPTQ checkpoint as GPTQModel saves one."""

from __future__ import annotations

import copy
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.allocation import Split
from ...core.memory import PRUNED, UNTOUCHED
from ...core.run import Run
from ..quantizers import Quantizer
from ..quantizers.gptq import GPTQ, PARTS, VERSION, module_name, weights_of
from .base import ModelExport

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from ..banks.bank import Bank
    from ..models.loading import LoadedModel

SHARD_BYTES = 4 * 2**30  # of weights in one file, before the next one is begun


class GPTQCheckpoint(ModelExport):
    """config.json and quantize_config.json, the weights in safetensors, and the tokenizer."""

    name = "gptqmodel"
    title = "GPTQ checkpoint"
    reader = (
        "GPTQModel loads it by itself. Of other programs, those that know its 'dynamic' rules read "
        "mixed levels: vLLM and SGLang do, with 8 and 4 bits; transformers does not"
    )
    quantizer = GPTQ

    def __init__(self, shard_bytes: int = SHARD_BYTES):
        self.shard_bytes = shard_bytes

    def can(self, loaded: LoadedModel, quantizer: Quantizer, split: Split) -> str:
        if PRUNED in split:
            return (
                "A GPTQ checkpoint cannot hold a model with pruned layers. Export the config as "
                "JSON instead."
            )
        if set(split) == {UNTOUCHED}:
            return "Every layer of this split has 16 bits: there is nothing to quantize."
        return ""

    def write(self, bank: Bank, split: Split, folder: Path, run: Run) -> None:
        prefix = layers_name(bank.loaded.model)
        quantization = quantize_config(bank.quantizer, split, prefix)
        folder.mkdir(parents=True, exist_ok=True)
        config = copy.deepcopy(bank.loaded.model.config)
        config.quantization_config = quantization
        config.save_pretrained(folder)
        text = json.dumps(quantization, indent=2)
        (folder / "quantize_config.json").write_text(text, encoding="utf-8")
        if generation := bank.loaded.model.generation_config:
            generation.save_pretrained(folder)
        bank.loaded.tokenizer.save_pretrained(folder)
        write_shards(checkpoint(bank, split, prefix, run), folder, self.shard_bytes)


def quantize_config(quantizer: Quantizer, split: Split, prefix: str) -> dict[str, Any]:
    """Returns what GPTQModel reads from both quantize_config.json and config.json. The rules in
    'dynamic' are for layers at other levels than the most frequent one."""
    usual = Counter(level for level in split if level != UNTOUCHED).most_common(1)[0][0]
    dynamic: dict[str, Any] = {}
    for level in sorted(set(split) - {usual}, reverse=True):
        layers = "|".join(str(i) for i, at in enumerate(split) if at == level)
        which = rf"{re.escape(prefix)}\.({layers})\..*"
        if level == UNTOUCHED:
            dynamic[f"-:{which}"] = {}
        else:
            dynamic[f"+:{which}"] = {"bits": int(level), "sym": level in GPTQ.symmetric}
    return {
        "bits": int(usual),
        "sym": usual in GPTQ.symmetric,
        "group_size": quantizer.group_size,
        "desc_act": False,
        "lm_head": False,
        "quant_method": "gptq",
        "method": "gptq",
        "format": "gptq",
        "checkpoint_format": "gptq",
        "pack_dtype": "int32",
        "dynamic": dynamic or None,
        "meta": {"quantizer": [f"gptqmodel:{quantizer.details['gptqmodel'] or VERSION}"]},
    }


def checkpoint(bank: Bank, split: Split, prefix: str, run: Run) -> Iterator[tuple[str, Tensor]]:
    """Yields every tensor of the checkpoint with its name, one layer at hand at a time."""
    inside = f"{prefix}."
    seen: set[int] = set()
    for name, tensor in bank.loaded.model.state_dict(keep_vars=True).items():
        if not name.startswith(inside) and id(tensor) not in seen:  # tied ones once
            seen.add(id(tensor))
            yield name, tensor.detach()
    for i, level in enumerate(split):
        weights = weights_of(bank.loaded, i) if level != UNTOUCHED else []
        quantized = {w.name for w in weights}
        with bank.loaded.walk.source.at_hand(i) as layer:
            for name, tensor in layer.state_dict().items():
                if name not in quantized:
                    yield f"{inside}{i}.{name}", tensor.detach()
        for w in weights:
            packed = bank.packed(i, level, run)[w.name]
            for part in PARTS:
                yield f"{inside}{i}.{module_name(w)}.{part}", getattr(packed, part)


def layers_name(model: PreTrainedModel) -> str:
    """Returns the name of the list of layers in a model: 'model.layers'."""
    from ..models.layers import find_layers

    layers = find_layers(model)
    return next(name for name, module in model.named_modules() if module is layers)


def write_shards(tensors: Iterator[tuple[str, Tensor]], folder: Path, shard_bytes: int) -> None:
    """Writes model.safetensors, or several files with an index where that would be too large.

    huggingface_hub's split_torch_state_dict_into_shards wants all tensors at once. This function
    holds those of one file."""
    from safetensors.torch import save_file

    files: list[list[str]] = []
    shard: dict[str, Tensor] = {}
    total = size = 0

    def flush() -> None:
        nonlocal size
        files.append(list(shard))
        save_file(shard, folder / f"part-{len(files)}", metadata={"format": "pt"})
        shard.clear()
        size = 0

    for name, tensor in tensors:
        shard[name] = tensor.contiguous()
        taken = tensor.numel() * tensor.element_size()
        total, size = total + taken, size + taken
        if size >= shard_bytes:
            flush()
    if shard:
        flush()
    if len(files) == 1:
        (folder / "part-1").rename(folder / "model.safetensors")
        return
    file_of: dict[str, str] = {}
    for number, names in enumerate(files, 1):
        file = f"model-{number:05}-of-{len(files):05}.safetensors"
        (folder / f"part-{number}").rename(folder / file)
        file_of |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": total}, "weight_map": file_of}
    text = json.dumps(index, indent=2)
    (folder / "model.safetensors.index.json").write_text(text, encoding="utf-8")
