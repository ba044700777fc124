"""How the tensors of GGUF files become those of a model in transformers.

transformers has two readers of GGUF files. One names each tensor and turns it around (permuted
heads, norms less one); the other, for newer architectures, says the same in its rules of
conversion. Both read a whole file. Here each gives a recipe per tensor, so that a layer can be read
alone.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
import transformers
from gguf import MODEL_ARCH_NAMES, GGMLQuantizationType, get_tensor_name_map, quants
from torch import Tensor
from transformers import PreTrainedModel
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key
from transformers.integrations.gguf.utils import get_gguf_conversion_mapping, is_gguf_arch_supported
from transformers.modeling_gguf_pytorch_utils import (
    TENSOR_PROCESSORS,
    TensorProcessor,
)

from ...core.errors import UserError
from ..checkpoints.gguf_source import GgufContent
from ..checkpoints.headers import Entry, Headers
from .gguf_description import ROPE_FACTORS

EXPERTS = re.compile(r"blk\.\d+\.ffn_(gate|up|down)_exps\.weight")
PLAIN = ("F32", "F16", "BF16")


@dataclass(frozen=True)
class Recipe:
    """One tensor of a model: the tensors of the file that it is made of, its shape, and how.

    `make` takes the file's tensors in float32, in the order of `sources`.
    """

    sources: tuple[str, ...]
    shape: tuple[int, ...]
    make: Callable[[Sequence[Tensor]], Tensor]


def recipes(model: PreTrainedModel, content: GgufContent, model_id: str) -> dict[str, Recipe]:
    """Returns how each tensor of a model is made, by the model's name for it.

    No weights are read. Raises UserError for a tensor that transformers would leave out, and for a
    type that the package gguf cannot read.
    """
    tensors = {n: t for n, t in content.headers.tensors.items() if n != ROPE_FACTORS}
    for name, tensor in tensors.items():
        if tensor.dtype not in readable():
            raise UserError(
                f"The tensor {name} of '{model_id}' is of the type {tensor.dtype}, which cannot be "
                "de-quantized here. Choose another file of the model, such as Q8_0 or Q4_K_M."
            )
    if is_gguf_arch_supported(content.architecture):
        return by_conversion(model, content.architecture, tensors)
    return by_processor(model, content.architecture, tensors, model_id)


@cache
def readable() -> frozenset[str]:
    """Returns the types that the package gguf de-quantizes, by ggml's names."""
    return frozenset((*PLAIN, *(kind.name for kind in quants._type_traits)))


def by_processor(
    model: PreTrainedModel, architecture: str, tensors: Mapping[str, Entry], model_id: str
) -> dict[str, Recipe]:
    """Returns the recipes of transformers' first reader. Raises UserError for a tensor that it
    would leave out."""
    processor = TENSOR_PROCESSORS.get(architecture, TensorProcessor)(model.config.to_dict())
    places = places_by_name(model, architecture, processor)
    sources: dict[str, list[str]] = {}
    for name in tensors:
        place = places.get(name) or places.get(name.removesuffix(".weight"))
        if place is None:
            raise UserError(
                f"'{model_id}' has a tensor {name} that transformers {transformers.__version__} "
                "would leave out. Choose the model in safetensors files."
            )
        sources.setdefault(place, []).append(name)
    made = {}
    shapes: dict[tuple[str, tuple[int, ...]], tuple[int, ...]] = {}
    for place, names in sources.items():
        make = experts if EXPERTS.fullmatch(names[0]) else Processed(processor, names[0], places)
        names.sort(key=lambda name: "_up_" in name)  # of two, the gate comes first
        given = [tensors[name].shape for name in names]
        kind = re.sub(r"\d+", "", place), sum(given, ())
        if kind not in shapes:
            shapes[kind] = tuple(make([hollow(shape, make is experts) for shape in given]).shape)
        made[place] = Recipe(tuple(names), shapes[kind], make)
    return made


def places_by_name(
    model: PreTrainedModel, architecture: str, processor: TensorProcessor
) -> dict[str, str]:
    """Returns the model's names of tensors by GGUF's.

    transformers' own function for that (`get_gguf_hf_weights_map`) makes the table of names again
    for each module, which takes seconds.
    """
    by_architecture = {name: number for number, name in MODEL_ARCH_NAMES.items()}
    config = model.config.get_text_config(decoder=True)
    table = get_tensor_name_map(by_architecture[architecture], config.num_hidden_layers)
    places: dict[str, str] = {}
    for prefix in ("", f"{model.base_model_prefix}."):  # some are named as without the head
        for full in model.state_dict():
            if not full.startswith(prefix):
                continue
            name = processor.preprocess_name(full.removeprefix(prefix))
            stem, dot, last = name.rpartition(".")
            if last not in ("weight", "bias"):
                stem, dot, last = name, "", ""
            stored = table.get_name(stem)
            if stored is None:
                processor.perform_fallback_tensor_mapping(places, dot + last, prefix, name)
            else:
                places.setdefault(stored + dot + last, full)
    return places


def hollow(shape: tuple[int, ...], on_meta: bool) -> Tensor:
    """Returns a tensor that takes no memory. What numpy computes with must not be on "meta"."""
    if on_meta:
        return torch.empty(shape, device="meta")
    return torch.full((1,) * len(shape), -1, dtype=torch.half).expand(shape)


def experts(parts: Sequence[Tensor]) -> Tensor:
    """Returns the matrices of all experts in one tensor: gate above up, or down alone."""
    return torch.cat(list(parts), dim=1)


@dataclass(frozen=True)
class Processed:
    """Turns a tensor around as transformers' first reader does."""

    processor: TensorProcessor
    name: str
    places: Mapping[str, str]

    def __call__(self, parts: Sequence[Tensor]) -> Tensor:
        """Returns the model's tensor. Raises ValueError for more than one part."""
        (part,) = parts
        kept: dict[str, Any] = {"tensors": {}}
        done = self.processor.process(
            weights=part.numpy(),
            name=self.name,
            tensor_key_mapping=self.places,
            parsed_parameters=kept,
        )
        if done.name is None:  # put away under its name in the model
            (tensor,) = kept["tensors"].values()
            return tensor
        return torch.from_numpy(done.weights)


def by_conversion(
    model: PreTrainedModel, architecture: str, tensors: Mapping[str, Entry]
) -> dict[str, Recipe]:
    """Returns the recipes of transformers' second reader. A tensor that the model has no place for
    keeps its name, and is refused later."""
    mapping = copy.deepcopy(get_gguf_conversion_mapping(architecture, model.config))
    renamings = [rule for rule in mapping if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in mapping if isinstance(rule, WeightConverter)]
    owners = {pattern: rule for rule in converters for pattern in rule.source_patterns}
    sources: dict[str, list[tuple[str, str | None]]] = {}
    for name in tensors:
        place, pattern = rename_source_key(name, renamings, converters)
        sources.setdefault(place, []).append((name, pattern))
    made = {}
    for place, parts in sources.items():
        names, patterns = zip(*parts, strict=True)
        converter = owners.get(patterns[0]) if patterns[0] else None
        make = Converted(converter, place, patterns, model)
        empty = [torch.empty(tensors[name].shape, device="meta") for name in names]
        made[place] = Recipe(names, tuple(make(empty).shape), make)
    return made


@dataclass(frozen=True)
class Converted:
    """Turns tensors around as transformers' second reader does."""

    converter: WeightConverter | None
    place: str
    patterns: tuple[str | None, ...]
    model: PreTrainedModel

    def __call__(self, parts: Sequence[Tensor]) -> Tensor:
        """Returns the model's tensor. Raises ValueError where the parts give more than one."""
        if self.converter is None:
            (part,) = parts
            return part
        values: dict[str, Any] = {}
        for pattern, part in zip(self.patterns, parts, strict=True):
            values.setdefault(str(pattern), []).append(part)
        for operation in self.converter.operations:
            values = operation.convert(
                values,
                source_patterns=self.converter.source_patterns,
                target_patterns=self.converter.target_patterns,
                full_layer_name=self.place,
                model=self.model,
                config=self.model.config,
            )
        (tensor,) = values.values()
        return tensor[0] if isinstance(tensor, list) else tensor


def dequantized(content: bytes | np.ndarray, kind: str, shape: Sequence[int]) -> Tensor:
    """Returns values of ggml's type `kind`, in float32 and in this shape."""
    number = GGMLQuantizationType[kind]
    raw = np.frombuffer(content, dtype=np.uint8)
    if kind == "F32":
        values = raw.view(np.float32).copy()
    elif kind == "F16":
        values = raw.view(np.float16).astype(np.float32)
    else:
        values = quants.dequantize(raw, number)
    return torch.from_numpy(values).reshape(tuple(shape))


def headers_of(made: Mapping[str, Recipe], content: GgufContent) -> Headers:
    """Returns a model's tensors in the form of headers. They are in float32 once they are made; of
    several parts an entry names the first."""
    entries = {}
    for place, recipe in made.items():
        first = content.headers.tensors[recipe.sources[0]]
        entries[place] = Entry(first.file, "F32", recipe.shape, first.start, first.end)
    return Headers(entries, content.headers.sizes)
