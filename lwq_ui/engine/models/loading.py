"""Describe and load a model, whatever its architecture."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import is_peft_available

from ...core.errors import Stopped, UnknownArchitecture, UserError, first_line
from ...core.memory import DTYPE_BYTES, OWN_DTYPE, format_gib
from ...core.run import Run
from ...core.schema import LayerSpec, ModelInfo
from ...failures import is_panic, out_of_memory
from ..bars import reporting_bar, transformers_bars
from ..checkpoints.headers import Headers, is_safe, local_headers
from ..checkpoints.source import Source, refuse_quantized
from ..devices import free_bytes, resolve_device
from .checkpoint import (
    Checkpoint,
    check_finite,
    complete,
    compute_buffers,
    declare_untied,
    pickled,
    skeleton,
)
from .footprint import footprint
from .layers import LayersInMemory, StreamedLayers, find_layers, layer_weights, nbytes
from .walk import LayerWalk

MOST_POSITIONS = 2**40
HEADROOM = 1.15  # weights, plus hidden states and de-quantized layers while computing


def read_config(source: Source) -> Any:
    """The config of a causal language model. Raises UserError for anything else."""
    try:
        config = AutoConfig.from_pretrained(source.folder, trust_remote_code=False)
    except Exception as e:  # configs are validated in many ways
        if "trust_remote_code" in str(e) or "custom code" in str(e):
            raise UnknownArchitecture(
                f"'{source.model_id}' needs code of its own, which this program never runs. Choose "
                "a model that transformers knows."
            ) from e
        raise UnknownArchitecture(
            f"transformers {transformers.__version__} does not know the model type of "
            f"'{source.model_id}', or its config is damaged ({first_line(e)})."
        ) from e
    refuse_quantized(source.folder, source.model_id)
    known = set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
    named = getattr(config, "architectures", None) or []
    if not (isinstance(named, list) and all(isinstance(name, str) for name in named)):
        raise UserError(f"The config of '{source.model_id}' is damaged: architectures is no list.")
    if config.is_encoder_decoder or (named and not known & set(named)):
        kind = named[0] if named else config.model_type
        raise UserError(
            f"'{source.model_id}' is not a causal language model but a {kind}. Choose a model that "
            "writes text, such as Qwen/Qwen3-0.6B."
        )
    if not named and config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise UserError(
            f"'{source.model_id}' ({config.model_type}) is not a causal language model."
        )
    if getattr(config, "transformers_weights", None):
        raise UserError(
            f"The config of '{source.model_id}' names a weights file of its own "
            "(transformers_weights), which is not supported. Rename the file to model.safetensors "
            "and delete that entry."
        )
    return config


def resolve_dtype(config: Any, dtype: str) -> str:
    """'auto' is the checkpoint's own dtype; bfloat16 where it names none."""
    if dtype != OWN_DTYPE:
        return dtype
    own = str(getattr(config.get_text_config(decoder=True), "dtype", None) or config.dtype)
    own = own.removeprefix("torch.")
    return own if own in DTYPE_BYTES else "bfloat16"


def describe(
    source: Source,
    dtype: str = "auto",
    headers: Headers | None = None,
    fingerprint: str | None = None,
) -> ModelInfo:
    """Architecture, layers and exact bytes, from the config and what can be known of the checkpoint
    without reading the weights: its files or, while they are on the Hub, `headers`. Weights are
    only read for the fingerprint, where none is given, and to see whether two tensors that the
    config ties are equal. Raises UserError where a tensor is missing, quantized or does not fit."""
    config = read_config(source)
    dtype = resolve_dtype(config, dtype)
    model = skeleton(config, dtype, source.model_id)
    if checkpoint := checkpoint_of(model, source, headers):
        checkpoint.check()
    return model_info(model, source, dtype, fingerprint)


def checkpoint_of(
    model: PreTrainedModel, source: Source, headers: Headers | None = None
) -> Checkpoint | None:
    """The checkpoint of a model as far as it can be known: from its files, or from `headers` while
    those are on the Hub. None without either. Raises UserError where the files are damaged."""
    if source.download_bytes != 0:
        return Checkpoint(model, headers, source.model_id, fetch=source.fetch) if headers else None
    files = source.weight_files()
    if not files:
        return None
    if is_safe(path.name for path in files):
        headers = headers or local_headers(source.folder, source.model_id)
        return Checkpoint(model, headers, source.model_id, source.folder)
    try:
        headers, values = pickled(files, source.folder)
    except Exception as e:  # pickle's errors have no class in common
        raise unreadable(source.model_id, e) from e
    return Checkpoint(model, headers, source.model_id, values=values)


def unreadable(model_id: str, error: Exception) -> UserError:
    return UserError(f"'{model_id}' cannot be loaded ({first_line(error)}).")


def model_info(
    model: PreTrainedModel, source: Source, dtype: str, fingerprint: str | None = None
) -> ModelInfo:
    layers = find_layers(model)
    config = model.config.get_text_config(decoder=True)
    found = footprint(model.config, getattr(torch, dtype))
    if found and len(found.kept) != len(layers):
        found = None
    kept = found.kept if found else ((None, None),) * len(layers)
    specs = []
    for layer, (cached, window) in zip(layers, kept, strict=True):
        packable = layer_weights(layer)
        packed = {id(w.parameter) for w in packable}
        other = sum(nbytes(p) for p in layer.parameters() if id(p) not in packed)
        specs.append(LayerSpec(tuple(w.spec for w in packable), other, cached, window))
    total = sum(nbytes(p) for p in model.parameters())  # tied parameters come once
    limit = next(
        (
            value
            for name in ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len")
            if (value := getattr(config, name, None))
        ),
        None,
    )
    if limit is not None and not (type(limit) is int and 0 < limit < MOST_POSITIONS):
        raise UserError(
            f"The config of '{source.model_id}' is damaged: a model cannot have {str(limit)[:20]} "
            "positions."
        )
    return ModelInfo(
        model_id=source.model_id,
        revision=source.revision,
        fingerprint=source.fingerprint() if fingerprint is None else fingerprint,
        architecture=type(model).__name__,
        dtype=dtype,
        num_parameters=sum(p.numel() for p in model.parameters()),
        total_bytes=total,
        rest_bytes=total - sum(nbytes(p) for p in layers.parameters()),
        max_tokens=limit,
        layers=tuple(specs),
        vocabulary=config.vocab_size,
        token_bytes=found.token_bytes if found else None,
        pair_bytes=found.pair_bytes if found else None,
    )


@dataclass
class LoadedModel:
    """A model on its device. Shared by everybody who chose it; nothing ever changes its weights."""

    info: ModelInfo
    device: str
    model: PreTrainedModel
    tokenizer: Any
    walk: LayerWalk
    folder: Path
    banks: dict[str, Any] = field(default_factory=dict)

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
        source = Source(self.info.model_id, self.folder)
        return source.fingerprint(run) == self.info.fingerprint

    def max_tokens(self, at_most: int) -> int:
        return min(at_most, self.info.max_tokens or at_most)


def load(
    source: Source,
    device: str,
    dtype: str,
    run: Run,
    streamed: bool | None = None,
    known: ModelInfo | None = None,
) -> LoadedModel:
    """Weights onto the device, checked; where they do not fit, a model whose layers are read from
    the checkpoint one by one (`streamed` says so, or asks for it). Raises UserError naming the
    cause and the way out."""
    device = resolve_device(device)
    check_unchanged = source.watch()
    info = known or describe(source, dtype)
    if info.packable_share < 0.5:
        raise UserError(
            f"Only {info.packable_share:.0%} of the layers of {info.architecture} are weights that "
            "can be quantized; a split of its layers would mean little."
        )
    if streamed is None:
        streamed = not fits(info, device)
    run.progress(f"Reading {format_gib(info.total_bytes)} of weights", 0.0)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source.folder, trust_remote_code=False)
    except BaseException as e:
        if not (isinstance(e, Exception) or is_panic(e)):
            raise
        raise UserError(
            f"The tokenizer of '{source.model_id}' cannot be loaded; its files are missing or "
            f"damaged, or need a package that is not installed ({first_line(e)})."
        ) from e
    try:
        if streamed:
            walk = stream_weights(source, info, device, run)
        else:
            walk = read_weights(source, info, device, run)
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
    return LoadedModel(info, device, walk.model, tokenizer, walk, source.folder)


def read_weights(source: Source, info: ModelInfo, device: str, run: Run) -> LayerWalk:
    """The whole model into memory, over several GPUs where it does not fit on one."""
    if is_peft_available() and (source.folder / "adapter_config.json").exists():
        raise UserError(
            f"'{source.model_id}' holds an adapter beside the model, which peft would add to its "
            "weights. Merge the two, or move adapter_config.json away."
        )
    free = free_bytes(device)
    one = info.total_bytes * HEADROOM <= free[0]
    with transformers_bars(reporting_bar("Reading weights", run)):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source.folder,
            dtype=getattr(torch, info.dtype),
            device_map={"": device} if one else "auto",
            max_memory=None if one else {i: int(f / HEADROOM) for i, f in enumerate(free)},
            trust_remote_code=False,
            ignore_mismatched_sizes=True,  # they are in the report, which we check
            output_loading_info=True,
        )
    model, report = loaded
    wrong = [str(key[0]) for key in report["mismatched_keys"]]
    complete(source.model_id, report["missing_keys"], wrong, report.get("error_msgs") or ())
    declare_untied(model)
    run.progress("Checking the weights", None)
    for name, parameter in model.named_parameters():
        run.check()
        check_finite(source.model_id, name, parameter)
    if checkpoint := checkpoint_of(model, source):
        checkpoint.check_places()
    walk = LayerWalk(model, LayersInMemory(model))
    walk.check()
    return walk


def stream_weights(source: Source, info: ModelInfo, device: str, run: Run) -> LayerWalk:
    """Everything but the layers into memory."""
    config = read_config(source)
    model = skeleton(config, info.dtype, source.model_id)
    compute_buffers(model, source.model_id)
    headers = local_headers(source.folder, source.model_id)
    checkpoint = Checkpoint(model, headers, source.model_id, source.folder, device)
    checkpoint.check()
    layers = StreamedLayers(checkpoint)
    run.progress("Checking the architecture", None)
    with layers.standing_in():
        walk = LayerWalk(model, layers)
        walk.check()
        walk.shares_prefixes  # noqa: B018  (found out now, while every layer can be called)
    return walk


def fits(info: ModelInfo, device: str) -> bool:
    """Whether the whole model has room on the device, on all GPUs together where there are some."""
    return info.total_bytes * HEADROOM <= sum(free_bytes(device))


def too_small(info: ModelInfo, device: str) -> UserError:
    return UserError(
        f"The memory of {device} is too small for what is not a layer of this model "
        f"({format_gib(info.rest_bytes)} in {info.dtype}) and two of its layers. Choose the device "
        "cpu, a smaller dtype or a smaller model."
    )
