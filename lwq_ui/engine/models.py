"""Describe and load a model, whatever its architecture."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event
from typing import Any

import torch
import transformers
from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.pytorch_utils import Conv1D

from ..core.errors import Stopped, UserError
from ..core.memory import format_gib
from ..core.schema import LayerSpec, ModelInfo, WeightSpec
from .sources import Progress, Source
from .walk import LayerWalk, find_layers

DEVICES = ("auto", "cuda", "mps", "cpu")
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
GPU_HEADROOM = 1.15  # weights, plus hidden states and de-quantized layers while computing


@dataclass(frozen=True)
class LayerWeight:
    """A weight of a layer that quantizers pack, as a matrix [rows, columns] with the inputs along
    the columns. transformers keeps GPT-2's weights transposed (Conv1D) and the experts of a mixture
    in one 3-D tensor; both are brought into this shape and back."""

    name: str
    parameter: nn.Parameter
    transposed: bool

    def matrix(self) -> Tensor:
        tensor = self.parameter.detach()
        if self.transposed:
            tensor = tensor.transpose(-1, -2)
        return tensor.reshape(-1, tensor.shape[-1])

    def restored(self, matrix: Tensor) -> Tensor:
        """A matrix as `matrix()` gives it -> a tensor of the parameter's own shape."""
        shape = self.parameter.shape
        if not self.transposed:
            return matrix.reshape(shape)
        turned = (*shape[:-2], shape[-1], shape[-2])
        return matrix.reshape(turned).transpose(-1, -2)

    @property
    def spec(self) -> WeightSpec:
        columns = self.parameter.shape[-2 if self.transposed else -1]
        return WeightSpec(self.name, self.parameter.numel() // columns, columns)


def layer_weights(layer: nn.Module) -> list[LayerWeight]:
    """The weight matrices of one decoder layer, in the order of its modules."""
    found = []
    for module_name, module in layer.named_modules():
        for name, parameter in module.named_parameters(recurse=False, prefix=module_name):
            if isinstance(module, nn.Linear) and parameter.ndim == 2:
                found.append(LayerWeight(name, parameter, transposed=False))
            elif isinstance(module, Conv1D) and parameter.ndim == 2:
                found.append(LayerWeight(name, parameter, transposed=True))
            elif parameter.ndim == 3 and "expert" in type(module).__name__.lower():
                transposed = bool(getattr(module, "is_transposed", False))
                found.append(LayerWeight(name, parameter, transposed))
    return found


def read_config(source: Source) -> Any:
    """The config of a causal language model. Raises UserError for anything else."""
    try:
        config = AutoConfig.from_pretrained(source.folder, trust_remote_code=False)
    except Exception as e:  # configs are validated in many ways
        if "trust_remote_code" in str(e) or "custom code" in str(e):
            raise UserError(
                f"'{source.model_id}' needs code of its own, which this program never runs. Choose "
                "a model that transformers knows."
            ) from e
        raise UserError(
            f"transformers {transformers.__version__} does not know the model type of "
            f"'{source.model_id}', or its config is damaged ({first_line(e)})."
        ) from e
    known = set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
    named = getattr(config, "architectures", None) or []
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
    if getattr(config, "quantization_config", None):
        raise UserError(
            f"'{source.model_id}' is quantized already. Choose the original model it was made from."
        )
    return config


def resolve_dtype(config: Any, dtype: str) -> str:
    """'auto' is the checkpoint's own dtype; bfloat16 where it names none."""
    if dtype != "auto":
        return dtype
    own = str(getattr(config.get_text_config(decoder=True), "dtype", None) or config.dtype)
    own = own.removeprefix("torch.")
    return own if own in DTYPES else "bfloat16"


def resolve_device(device: str) -> str:
    """'auto' is the GPU where there is one. Raises UserError for a device that is not there."""
    present = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if device == "auto":
        return next(name for name, there in present.items() if there)
    if not present.get(device):
        raise UserError(
            f"There is no device '{device}' on this machine. Choose "
            f"{' or '.join(name for name, there in present.items() if there)}."
        )
    return device


def describe(source: Source, dtype: str = "auto") -> ModelInfo:
    """Architecture, layers and exact bytes, from the config alone: no weights are read."""
    config = read_config(source)
    dtype = resolve_dtype(config, dtype)
    try:
        with init_empty_weights():
            model = AutoModelForCausalLM.from_config(config, dtype=DTYPES[dtype])
        model.tie_weights()
    except Exception as e:
        raise UserError(
            f"The config of '{source.model_id}' describes no model that transformers "
            f"{transformers.__version__} can build ({first_line(e)})."
        ) from e
    return model_info(model, source, dtype)


def model_info(model: PreTrainedModel, source: Source, dtype: str) -> ModelInfo:
    layers = find_layers(model)
    config = model.config.get_text_config(decoder=True)
    specs = []
    for layer in layers:
        packable = layer_weights(layer)
        packed = {id(w.parameter) for w in packable}
        other = sum(nbytes(p) for p in layer.parameters() if id(p) not in packed)
        specs.append(LayerSpec(tuple(w.spec for w in packable), other))
    total = sum(nbytes(p) for p in model.parameters())  # tied parameters come once
    limit = next(
        (
            value
            for name in ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len")
            if (value := getattr(config, name, None))
        ),
        None,
    )
    return ModelInfo(
        model_id=source.model_id,
        revision=source.revision,
        fingerprint=source.fingerprint(),
        architecture=type(model).__name__,
        dtype=dtype,
        num_parameters=sum(p.numel() for p in model.parameters()),
        total_bytes=total,
        rest_bytes=total - sum(nbytes(p) for p in layers.parameters()),
        max_tokens=limit,
        layers=tuple(specs),
    )


def nbytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def covered_share(info: ModelInfo) -> float:
    """Share of the layers' bytes that quantizers can pack."""
    packable = sum(w.numel for layer in info.layers for w in layer.weights) * info.dtype_bytes
    other = sum(layer.other_bytes for layer in info.layers)
    return packable / max(1, packable + other)


@dataclass
class LoadedModel:
    """A model on its device. Shared by everybody who chose it; nothing ever changes its weights."""

    info: ModelInfo
    device: str
    model: PreTrainedModel
    tokenizer: Any
    walk: LayerWalk
    banks: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str, str]:
        return self.info.fingerprint, self.device, self.info.dtype

    def max_tokens(self, at_most: int) -> int:
        return min(at_most, self.info.max_tokens or at_most)


def load(source: Source, device: str, dtype: str, progress: Progress, stop: Event) -> LoadedModel:
    """Weights onto the device, checked. Raises UserError naming the cause and the way out."""
    device = resolve_device(device)
    info = describe(source, dtype)
    if covered_share(info) < 0.5:
        raise UserError(
            f"Only {covered_share(info):.0%} of the layers of {info.architecture} are weights that "
            "can be quantized; a split of its layers would mean little."
        )
    check_memory(info, device)
    progress(f"Reading {format_gib(info.total_bytes)} of weights", 0.0)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source.folder, trust_remote_code=False)
    except Exception as e:
        raise UserError(
            f"The tokenizer of '{source.model_id}' cannot be loaded; its files are missing or "
            f"damaged, or need a package that is not installed ({first_line(e)})."
        ) from e
    try:
        with reporting_progress("Reading weights", progress, stop):
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                source.folder,
                dtype=DTYPES[info.dtype],
                device_map={"": device},
                trust_remote_code=False,
                ignore_mismatched_sizes=True,  # they are in the report, which we check
                output_loading_info=True,
            )
        model, report = loaded
        check_report(source, report)
        progress("Checking the weights", None)
        check_finite(source, model, stop)
        walk = LayerWalk(model)
        walk.check()
    except torch.OutOfMemoryError as e:
        raise too_small(info, device, free_bytes(device)) from e
    except (UserError, Stopped):
        raise
    except Exception as e:  # among them pickle's, which are of no common class
        raise UserError(f"'{source.model_id}' cannot be loaded ({first_line(e)}).") from e
    return LoadedModel(info, device, model, tokenizer, walk)


def check_memory(info: ModelInfo, device: str) -> None:
    free = free_bytes(device)
    if free is not None and info.total_bytes * GPU_HEADROOM > free:
        raise too_small(info, device, free)


def free_bytes(device: str) -> int | None:
    """Free memory of a GPU; None on devices that share the machine's memory."""
    if device != "cuda":
        return None
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info()[0]


def too_small(info: ModelInfo, device: str, free: int | None) -> UserError:
    room = f", and {format_gib(free)} are free" if free is not None else ""
    return UserError(
        f"The GPU is too small for this model: it needs {format_gib(info.total_bytes)} in "
        f"{info.dtype}{room}. Choose the device cpu, a smaller dtype or a smaller model."
    )


def check_report(source: Source, report: dict[str, Any]) -> None:
    """transformers fills tensors that a checkpoint lacks with random numbers; we refuse."""
    missing = sorted(report["missing_keys"])
    wrong = sorted(str(key[0]) for key in report["mismatched_keys"])
    if missing or wrong or report.get("error_msgs"):
        what = (
            f"{len(missing)} tensors are missing, {missing[0]} first"
            if missing
            else f"the tensor {(wrong or report['error_msgs'])[0]} does not fit its config"
        )
        raise UserError(f"The weights of '{source.model_id}' are incomplete: {what}.")


def check_finite(source: Source, model: nn.Module, stop: Event) -> None:
    for name, parameter in model.named_parameters():
        if stop.is_set():
            raise Stopped
        if not torch.isfinite(parameter).all():
            raise UserError(
                f"The weights of '{source.model_id}' hold values that are not numbers (NaN or "
                f"infinity), in {name} first. Download it again or load it in another dtype."
            )


@contextmanager
def reporting_progress(title: str, progress: Progress, stop: Event) -> Iterator[None]:
    """transformers counts tensors in a tqdm of its own; we listen to it."""
    from transformers.utils import logging

    class Bar:
        def __init__(self, iterable: Any = None, total: int | None = None, **kwargs: Any) -> None:
            self.iterable = iterable
            self.total = total or (len(iterable) if hasattr(iterable, "__len__") else None)
            self.done = 0

        def __iter__(self) -> Iterator[Any]:
            for item in self.iterable:
                yield item
                self.update()

        def update(self, n: int = 1) -> None:
            if stop.is_set():
                raise Stopped
            self.done += n
            progress(title, self.done / self.total if self.total else None)

        def __enter__(self) -> Bar:
            return self

        def __exit__(self, *error: Any) -> None:
            pass

        def __getattr__(self, name: str) -> Any:  # set_description, refresh, close, ...
            return lambda *args, **kwargs: None

    previous = logging.set_tqdm_hook(lambda factory, args, kwargs: Bar(*args, **kwargs))
    try:
        yield
    finally:
        logging.set_tqdm_hook(previous)


def release_memory() -> None:
    """Gives freed memory back to the device, so that the next job finds it."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def first_line(error: BaseException) -> str:
    """What a library says of an error, as a part of a sentence."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(" .:!")
    return text if len(text) < 300 else text[:297] + "..."
