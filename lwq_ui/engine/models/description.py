"""A model described from its config and its checkpoint's headers, whatever its architecture."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from transformers import AutoConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from ...core.errors import UnknownArchitecture, UserError, first_line
from ...core.memory import DTYPE_BYTES, OWN_DTYPE
from ...core.schema import LayerSpec, ModelInfo
from ..checkpoints.gguf_source import GgufSource
from ..checkpoints.headers import Headers, local_headers
from ..checkpoints.quantized import refuse_quantized
from ..checkpoints.source import Source
from ..checkpoints.weight_files import is_safe
from .footprint import footprint
from .gguf_description import config_folder, reader
from .gguf_tensors import recipes
from .layers import find_layers, layer_weights, nbytes
from .pickled import pickled
from .placement import Placement
from .skeleton import skeleton
from .tensor_files import GgufFiles, SafetensorsFiles, TensorFiles

MOST_POSITIONS = 2**40


def read_config(source: Source) -> Any:
    """Returns the config of a causal language model. Raises UserError for anything else."""
    folder = config_folder(source)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
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
    refuse_quantized(folder, source.model_id)
    check_causal(config, source.model_id)
    if getattr(config, "transformers_weights", None):
        raise UserError(
            f"The config of '{source.model_id}' names a weights file of its own "
            "(transformers_weights), which is not supported. Rename the file to model.safetensors "
            "and delete that entry."
        )
    return config


def check_causal(config: Any, model_id: str) -> None:
    """Raises UserError for the config of anything but a causal language model."""
    named = getattr(config, "architectures", None) or []
    if not (isinstance(named, list) and all(isinstance(name, str) for name in named)):
        raise UserError(f"The config of '{model_id}' is damaged: architectures is no list.")
    causal = set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
    if config.is_encoder_decoder or (named and not causal & set(named)):
        kind = named[0] if named else config.model_type
        raise UserError(
            f"'{model_id}' is not a causal language model but a {kind}. Choose a model that writes "
            "text, such as Qwen/Qwen3-0.6B."
        )
    if not named and config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise UserError(f"'{model_id}' ({config.model_type}) is not a causal language model.")


def resolve_dtype(config: Any, dtype: str) -> str:
    """Returns the dtype to load in. 'auto' is the checkpoint's own, bfloat16 where it has none."""
    if dtype != OWN_DTYPE:
        return dtype
    own = str(getattr(config.get_text_config(decoder=True), "dtype", None) or config.dtype)
    own = own.removeprefix("torch.")
    return own if own in DTYPE_BYTES else "bfloat16"


def describe(
    source: Source,
    dtype: str = OWN_DTYPE,
    headers: Headers | None = None,
    fingerprint: str | None = None,
) -> ModelInfo:
    """Returns architecture, layers and exact bytes, without loading the model.

    They come from the config and from the checkpoint: its files or, while these are on the Hub,
    `headers`. Weights are read for the fingerprint, where none is given. They are also read to see
    whether two tensors that the config ties are equal. Raises UserError where a tensor is missing,
    quantized or does not fit.
    """
    config = read_config(source)
    dtype = resolve_dtype(config, dtype)
    model = skeleton(config, dtype, source.model_id)
    if placement := placement_of(model, source, headers):
        placement.check()
    return model_info(model, source, dtype, fingerprint)


def placement_of(
    model: PreTrainedModel, source: Source, headers: Headers | None = None
) -> Placement | None:
    """Returns the places of the checkpoint's tensors: of its files or, while those are on the Hub,
    of `headers`. Returns None without either. Raises UserError where the files are damaged."""
    here = source.download_bytes == 0
    if isinstance(source, GgufSource) or (not here and headers is not None):
        return placed(model, source, tensor_files(model, source, headers))
    paths = source.weight_files()
    if not (here and paths):
        return None
    if is_safe(path.name for path in paths):
        return placed(model, source, tensor_files(model, source, headers))
    try:
        headers, values = pickled(paths, source.folder)
    except Exception as e:  # pickle's errors have no class in common
        raise unreadable(source.model_id, e) from e
    return Placement(model, headers, source.model_id, values)


def tensor_files(
    model: PreTrainedModel, source: Source, headers: Headers | None = None
) -> TensorFiles:
    """Returns the tensors of a model's safetensors or GGUF files. `headers` are those of files that
    are on the Hub. Raises UserError where there are none, or where they are damaged."""
    if isinstance(source, GgufSource):
        content = source.content()
        made = recipes(model, content, source.model_id)
        return GgufFiles(made, content, source.folder, source.model_id)
    headers = headers or local_headers(source.folder, source.model_id)
    return SafetensorsFiles(headers, source.folder, source.model_id)


def placed(model: PreTrainedModel, source: Source, files: TensorFiles) -> Placement:
    """Returns the places of a checkpoint's tensors, on this disk or on the Hub. Raises UserError
    where a tensor has none."""
    values = files.values(reader(source))
    sampled = bool(source.download_bytes)
    if isinstance(source, GgufSource):  # its tensors have the model's names already
        return Placement(model, files.headers, source.model_id, values, sampled, conversion=[])
    return Placement(model, files.headers, source.model_id, values, sampled)


def unreadable(model_id: str, error: Exception) -> UserError:
    return UserError(f"'{model_id}' cannot be loaded ({first_line(error)}).")


def model_info(
    model: PreTrainedModel, source: Source, dtype: str, fingerprint: str | None = None
) -> ModelInfo:
    """Returns what a model is, by its modules; they may hold nothing. Raises UserError where it has
    no layers, or where its config is damaged."""
    layers = find_layers(model)
    config = model.config.get_text_config(decoder=True)
    memory = footprint(model.config, getattr(torch, dtype))
    if memory and len(memory.kept) != len(layers):
        memory = None
    kept = memory.kept if memory else ((None, None),) * len(layers)
    specs = []
    for layer, (cached, window) in zip(layers, kept, strict=True):
        weights = layer_weights(layer)
        packable = {id(w.parameter) for w in weights}
        other = sum(nbytes(p) for p in layer.parameters() if id(p) not in packable)
        specs.append(LayerSpec(tuple(w.spec for w in weights), other, cached, window))
    total = sum(nbytes(p) for p in model.parameters())  # tied parameters come once
    return ModelInfo(
        model_id=source.model_id,
        revision=source.revision,
        fingerprint=source.fingerprint() if fingerprint is None else fingerprint,
        architecture=type(model).__name__,
        dtype=dtype,
        num_parameters=sum(p.numel() for p in model.parameters()),
        total_bytes=total,
        rest_bytes=total - sum(nbytes(p) for p in layers.parameters()),
        max_tokens=max_positions(config, source.model_id),
        layers=tuple(specs),
        vocabulary=config.vocab_size,
        token_bytes=memory.token_bytes if memory else None,
        pair_bytes=memory.pair_bytes if memory else None,
        quantized_as=source.quantized_as(),
        grid=source.grid(),
    )


def max_positions(config: Any, model_id: str) -> int | None:
    """Returns how many positions a model has, None where it has no limit. Raises UserError for a
    number that makes no sense."""
    names = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len")
    limit = next((value for name in names if (value := getattr(config, name, None))), None)
    if limit is not None and not (type(limit) is int and 0 < limit < MOST_POSITIONS):
        raise UserError(
            f"The config of '{model_id}' is damaged: a model cannot have {str(limit)[:20]} "
            "positions."
        )
    return limit
