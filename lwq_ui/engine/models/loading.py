"""A model loaded: as a whole, or with its layers left in the checkpoint where it is too large."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.utils import is_peft_available

from ...core.errors import Stopped, UserError
from ...core.memory import format_gib
from ...core.run import Run
from ...core.schema import ModelInfo
from ...failures import out_of_memory, refusing
from ..bars import reporting_bar, transformers_bars
from ..checkpoints.gguf_source import GgufSource
from ..checkpoints.source import Source
from ..devices import free_bytes, resolve_device
from ..finite import check_finite
from .description import (
    describe,
    model_info,
    placed,
    placement_of,
    read_config,
    tensor_files,
    unreadable,
)
from .gguf_description import tokenizer_folder
from .layers import LayersInMemory, nbytes
from .placement import check_complete
from .skeleton import compute_buffers, declare_untied, skeleton
from .streaming import StreamedLayers, WeightReader
from .walk import LayerWalk

HEADROOM = 1.15  # weights, plus hidden states and de-quantized layers while computing
LEAST_PACKABLE = 0.5  # share of the layers' weights without which a split means little


class PackedLayers(Protocol):
    """What a model knows of its banks."""

    folder: Path | None


@dataclass
class LoadedModel:
    """A model on its device. Everybody who chose it shares it; nothing ever changes its weights."""

    info: ModelInfo
    device: str
    model: PreTrainedModel
    tokenizer: Any
    walk: LayerWalk
    source: Source
    banks: dict[str, PackedLayers] = field(default_factory=dict)  # by the quantizer's name

    @property
    def key(self) -> tuple[str, str, str]:
        return self.info.fingerprint, self.device, self.info.dtype

    @property
    def streamed(self) -> bool:
        """Whether its layers are read from the checkpoint as they are needed."""
        return self.walk.source.streamed

    def is_current(self, run: Run) -> bool:
        """Whether its files are still those that it was loaded from. A revision of the Hub never
        changes."""
        if self.info.revision is not None:
            return True
        return self.source.fingerprint(run) == self.info.fingerprint

    def max_tokens(self, at_most: int) -> int:
        return min(at_most, self.info.max_tokens or at_most)


def load(
    source: Source,
    device: str,
    dtype: str,
    run: Run,
    streamed: bool | None = None,
    info: ModelInfo | None = None,
) -> LoadedModel:
    """Returns the model on its device, its weights checked.

    Where it does not fit, its layers are read from the checkpoint one by one. `streamed` decides
    that beforehand. `info` saves describing the model again. Raises Stopped, and UserError that
    names the cause and the way out.
    """
    device = resolve_device(device)
    check_unchanged = source.watch()
    info = info or describe(source, dtype)
    if info.packable_share < LEAST_PACKABLE:
        raise UserError(
            f"Only {info.packable_share:.0%} of the layers of {info.architecture} are weights that "
            "can be quantized; a split of its layers would mean little."
        )
    if streamed is None:
        streamed = not fits(info, device)
    run.progress(f"Reading {format_gib(info.total_bytes)} of weights", 0.0)
    tokenizer = load_tokenizer(source)
    try:
        walk = (stream_weights if streamed else read_weights)(source, info, device, run)
    except (UserError, Stopped):
        raise
    except Exception as e:  # among them pickle's, which are of no common class
        if out_of_memory(e):
            raise too_small(info, device) from e
        raise unreadable(source.model_id, e) from e
    if sum(map(nbytes, walk.model.parameters())) != info.total_bytes:  # a head that is not tied
        info = model_info(walk.model, source, info.dtype, info.fingerprint)
    check_unchanged()
    walk.source.check_unchanged = check_unchanged
    return LoadedModel(info, device, walk.model, tokenizer, walk, source)


def load_tokenizer(source: Source) -> Any:
    """Returns the model's tokenizer. Raises UserError where it cannot be loaded."""
    with refusing(
        lambda cause: (
            f"The tokenizer of '{source.model_id}' cannot be loaded; its files are missing or "
            f"damaged, or need a package that is not installed ({cause})."
        )
    ):
        return AutoTokenizer.from_pretrained(tokenizer_folder(source), trust_remote_code=False)


def read_weights(source: Source, info: ModelInfo, device: str, run: Run) -> LayerWalk:
    """Loads the whole model into memory, over several GPUs where it does not fit on one. Returns
    its walk, checked. Raises UserError and Stopped."""
    if is_peft_available() and (source.folder / "adapter_config.json").exists():
        raise UserError(
            f"'{source.model_id}' holds an adapter beside the model, which peft would add to its "
            "weights. Merge the two, or move adapter_config.json away."
        )
    free = free_bytes(device)
    one = info.total_bytes * HEADROOM <= free[0]
    bar = reporting_bar("Reading weights", run)
    with loader(source, info) as from_pretrained, transformers_bars(bar):
        loaded: Any = from_pretrained(
            dtype=getattr(torch, info.dtype),
            device_map={"": device} if one else "auto",
            max_memory=None if one else {i: int(f / HEADROOM) for i, f in enumerate(free)},
            trust_remote_code=False,
            ignore_mismatched_sizes=True,  # they are in the report, which we check
            output_loading_info=True,
        )
    model, report = loaded
    wrong = [str(key[0]) for key in report["mismatched_keys"]]
    check_complete(source.model_id, report["missing_keys"], wrong, report.get("error_msgs") or ())
    declare_untied(model)
    run.progress("Checking the weights", None)
    for name, parameter in model.named_parameters():
        run.check()
        check_finite(source.model_id, name, parameter)
    if placement := placement_of(model, source):
        placement.check_places()
    walk = LayerWalk(model, LayersInMemory(model))
    walk.check()
    return walk


@contextmanager
def loader(source: Source, info: ModelInfo) -> Iterator[Callable[..., Any]]:
    """Yields transformers' `from_pretrained` of a folder, or of the tensors of GGUF files. Raises
    UserError."""
    if not isinstance(source, GgufSource):
        yield partial(AutoModelForCausalLM.from_pretrained, source.folder)
        return
    config = read_config(source)
    empty = skeleton(config, info.dtype, source.model_id)
    files = tensor_files(empty, source)
    with files.opened(list(files.headers.tensors)) as tensors:
        yield partial(type(empty).from_pretrained, None, config=config, state_dict=dict(tensors))


def stream_weights(source: Source, info: ModelInfo, device: str, run: Run) -> LayerWalk:
    """Loads everything but the layers into memory. Returns the model's walk, checked. Raises
    UserError."""
    model = skeleton(read_config(source), info.dtype, source.model_id)
    compute_buffers(model, source.model_id)
    files = tensor_files(model, source)
    placement = placed(model, source, files)
    placement.check()
    layers = StreamedLayers(WeightReader(placement, files, source.folder, device))
    run.progress("Checking the architecture", None)
    with layers.standing_in():
        walk = LayerWalk(model, layers)
        walk.check()
        walk.shares_prefixes  # noqa: B018  (found out now, while every layer can be called)
    return walk


def fits(info: ModelInfo, device: str) -> bool:
    """Whether the whole model has room on the device, on all GPUs together where it has some."""
    return info.total_bytes * HEADROOM <= sum(free_bytes(device))


def too_small(info: ModelInfo, device: str) -> UserError:
    return UserError(
        f"The memory of {device} is too small for what is not a layer of this model "
        f"({format_gib(info.rest_bytes)} in {info.dtype}) and two of its layers. Choose the device "
        "cpu, a smaller dtype or a smaller model."
    )
