"""A model without its weights, and the checkpoint they come from, read a few tensors at a time.

transformers' own classes build the model and its own loader puts tensors into it, with all the
renaming, fusing and splitting that lies between a checkpoint's names and the model's parameters.
"""

from __future__ import annotations

import copy
import inspect
import os
import re
import zipfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate import init_empty_weights
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    convert_and_load_state_dict_in_model,
    rename_source_key,
)
from transformers.modeling_utils import LoadStateDictConfig
from transformers.utils.logging import EmptyTqdm

from ...core.errors import UserError, first_line
from ..bars import transformers_bars
from ..checkpoints.headers import BITS, FLOATS, PACKED_NAME, PACKED_TYPES, Entry, Headers, read_file
from ..checkpoints.source import quantized_already

CHUNK, SAMPLE = 2**22, 2**11  # values of two tensors that are compared at a time

Values = Callable[[str, int, int], Tensor]
"""`values(tensor's name, start, end)` gives values from start to end of the flat tensor."""

Fetch = Callable[[str, int, int], bytes]
"""`fetch(file, start, end)` gives those bytes of a file on the Hub."""

TAGS = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


PICKLED_TAGS = {dtype: tag for tag, dtype in TAGS.items()}


def skeleton(config: Any, dtype: str, model_id: str) -> PreTrainedModel:
    """The model with parameters of the right shapes that hold nothing. Raises UserError."""
    try:
        with init_empty_weights():
            model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
        model.tie_weights()
        if empty := [name for name, p in model.named_parameters() if not p.numel()]:
            raise ValueError(f"{empty[0]} has no values")
    except Exception as e:
        raise UserError(
            f"The config of '{model_id}' describes no model that transformers "
            f"{transformers.__version__} can build ({first_line(e)})."
        ) from e
    return model.eval()


def compute_buffers(model: PreTrainedModel, model_id: str) -> None:
    """What the model computes for itself, computed in float32, as where transformers loads it. A
    skeleton computes its tables of positions in the number format of the weights."""
    exact = skeleton(copy.deepcopy(model.config), "float32", model_id)
    for module, other in zip(model.modules(), exact.modules(), strict=True):
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = other.get_buffer(name).to(buffer.dtype)


class Checkpoint:
    """The tensors that `headers` list, on their way into `model`. `names` is checkpoint name -> the
    parameter it goes to (the first, where it is split up), without the tensors that the model has
    no place for. `folder` is None while the files are elsewhere: names and shapes can be checked.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        headers: Headers,
        model_id: str,
        folder: Path | None = None,
        device: str = "cpu",
        values: Values | None = None,
        fetch: Fetch | None = None,
    ):
        self.model = model
        self.headers = headers
        self.model_id = model_id
        self.folder = folder
        self.device = device
        self._values = values or self._values_in_file
        self._fetch = fetch
        self._conversion = get_model_conversion_mapping(model)
        self.names: dict[str, str] = {}
        self._homeless: dict[str, str] = {}  # no place for them, by the name the model would give
        self._find_places()

    def _find_places(self) -> None:
        renamings = [c for c in self._conversion if isinstance(c, WeightRenaming)]
        converters = [c for c in self._conversion if isinstance(c, WeightConverter)]
        prefix, known = self.model.base_model_prefix, self.model.state_dict()
        for name in self.headers.tensors:
            place, _ = rename_source_key(name, renamings, converters, prefix, known)
            if place not in known and name in known:
                place = name
            (self.names if place in known else self._homeless)[name] = place

    def names_of(self, parameters: Collection[int]) -> list[str]:
        """The tensors that go to these parameters, named by id."""
        places = {
            n for n, p in self.model.named_parameters(remove_duplicate=False) if id(p) in parameters
        }
        return [name for name, place in self.names.items() if place in places]

    def check(self) -> None:
        """Loads the whole checkpoint, as far as names and shapes go, and ties the parameters that
        the loaded model will have tied. Raises UserError where a tensor is missing or does not fit:
        transformers would fill it with random numbers. Raises it too as `check_places` does."""
        self.check_places()
        empty = {
            name: torch.empty(t.shape, dtype=TAGS.get(t.dtype, torch.uint8), device="meta")
            for name, t in self.headers.tensors.items()
        }
        report = self._load(empty, "meta")
        self.model.tie_weights(missing_keys=report.missing_keys, recompute_mapping=False)
        self._tie()
        buffers = {name for name, _ in self.model.named_buffers()}
        complete(
            self.model_id,
            report.missing_keys - buffers,
            [str(key[0]) for key in report.mismatched_keys],
            [*report.conversion_errors.values(), *report.error_msgs],
        )

    def check_places(self) -> None:
        """Raises UserError for weights that are quantized, and for tensors without which the model
        would compute something else than it was trained to: transformers leaves out, with a
        warning, what it has no place for."""
        parameters = {name for name, _ in self.model.named_parameters(remove_duplicate=False)}
        modules = dict(self.model.named_modules())
        buffers = {name for name, _ in self.model.named_buffers()}
        left_out = []
        for name, tensor in self.headers.tensors.items():
            place = self.names.get(name)
            if place in parameters or tensor.dtype in PACKED_TYPES:
                if tensor.dtype not in FLOATS:
                    raise quantized_already(self.model_id)
            elif place is None and self._homeless[name] not in buffers and not self._ignored(name):
                owner = self._owner(name, modules)
                if PACKED_NAME.search(name) or (is_packed(tensor) and has_parameters(owner)):
                    raise quantized_already(self.model_id)
                if owner is not None and not is_table(name, tensor):
                    left_out.append(name)
        if left_out:
            raise UserError(
                f"The weights of '{self.model_id}' do not belong to its config: there is no place "
                f"in the model for {left_out[0]}"
                + (f" and {len(left_out) - 1} other tensors" if len(left_out) > 1 else "")
                + ". Correct config.json, or download both again."
            )

    def _ignored(self, name: str) -> bool:
        """Whether the architecture itself says that this tensor is not used."""
        patterns = self.model._keys_to_ignore_on_load_unexpected or ()
        return any(re.search(p, n) for p in patterns for n in (name, self._homeless[name]))

    def _owner(self, name: str, modules: Mapping[str, nn.Module]) -> nn.Module | None:
        """The part of the language model that a tensor without a place would belong to: the
        innermost module around it where that has parameters of its own or is in a list of layers.
        None where it belongs to other parts, such as a vision tower or further heads."""
        parts = self._homeless[name].split(".")
        depth = max(d for d in range(len(parts)) if ".".join(parts[:d]) in modules)
        around = [modules[".".join(parts[:d])] for d in range(depth + 1)]
        if isinstance(around[-1], nn.ModuleList):
            config = self.model.config.get_text_config(decoder=True)
            beyond = int(parts[depth]) - len(around[-1]) if parts[depth].isdigit() else -1
            predictors = getattr(config, "num_nextn_predict_layers", None) or 0
            return around[-1] if beyond >= predictors else None
        in_list = any(isinstance(module, nn.ModuleList) for module in around)
        return around[-1] if in_list or has_parameters(around[-1]) else None

    def _tie(self) -> None:
        """Ties what the config says is tied, but for two tensors that are both in the checkpoint
        and differ, as transformers does once it has read them."""
        stored = {place: name for name, place in self.names.items()}
        different = [
            target
            for target, source in self.model.all_tied_weights_keys.items()
            if target in stored
            and source in stored
            and not self._equal(stored[target], stored[source])
        ]
        self.model.tie_weights()
        for target in different:
            module, _, name = target.rpartition(".")
            parameter = self.model.get_parameter(target)
            own = nn.Parameter(torch.empty_like(parameter), requires_grad=parameter.requires_grad)
            setattr(self.model.get_submodule(module), name, own)
            del self.model.all_tied_weights_keys[target]
        declare_untied(self.model)

    def _equal(self, a: str, b: str) -> bool:
        """Whether two tensors hold the same values in the model's dtype. Of tensors on the Hub a
        sample is compared: the first values, the last, and some in the middle."""
        entries = [self.headers.tensors[name] for name in (a, b)]
        if entries[0].shape != entries[1].shape:
            return False
        count, step = entries[0].parameters, SAMPLE if self._fetch else CHUNK
        starts = range(0, count, step)
        if self._fetch and count > 3 * step:
            starts = range(0, count - step + 1, (count - step) // 2)

        def values(name: str, start: int) -> Tensor:
            return self._values(name, start, min(start + step, count)).to(self.model.dtype)

        return all(torch.equal(values(a, start), values(b, start)) for start in starts)

    def _values_in_file(self, name: str, start: int, end: int) -> Tensor:
        entry = self.headers.tensors[name]
        size = BITS[entry.dtype] // 8
        where = entry.start + start * size, entry.start + end * size
        if self._fetch:
            content = self._fetch(entry.file, *where)
        else:
            assert self.folder is not None
            content = read_file(self.folder / entry.file, *where)
        return torch.frombuffer(bytearray(content), dtype=TAGS[entry.dtype])

    def open(self, names: Collection[str]) -> None:
        """Puts these tensors, which stay, and what the model computes for itself onto the device.
        Raises UserError for values that are not numbers."""
        report = self.fill(names)
        self.model.tie_weights(missing_keys=report.missing_keys, recompute_mapping=False)
        for module in self.model.modules():
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = buffer.to(self.device)
        for name, parameter in self.model.named_parameters():
            if not parameter.is_meta:
                check_finite(self.model_id, name, parameter)

    def fill(self, names: Collection[str]) -> Any:
        """Reads these tensors onto the device. On a CPU they are views of the mapped file where
        neither their number format nor their shape has to change."""
        assert self.folder is not None
        with ExitStack() as stack:
            files = {}
            for file in sorted({self.headers.tensors[name].file for name in names}):
                try:
                    opened = safe_open(self.folder / file, framework="pt")
                except (OSError, SafetensorError) as e:  # gone or replaced since it was checked
                    raise UserError(
                        f"The file {file} of '{self.model_id}' can no longer be read "
                        f"({first_line(e)}). Load the model again."
                    ) from e
                files[file] = stack.enter_context(opened)
            tensors = {
                name: files[self.headers.tensors[name].file].get_slice(name) for name in names
            }
            return self._load(tensors, self.device)

    def _load(self, tensors: Mapping[str, Any], device: str) -> Any:
        dtype = self.model.dtype
        options: Any = {
            "device_map": {"": torch.device(device)},
            "dtype": dtype,
            "dtype_plan": self.model._get_dtype_plan(dtype),
            "weight_mapping": self._conversion,
        }
        config = LoadStateDictConfig(**options)
        more: dict[str, Any] = {}
        if "tp_plan" in inspect.signature(convert_and_load_state_dict_in_model).parameters:
            more["tp_plan"] = None  # transformers before 5.20
        with transformers_bars(EmptyTqdm):  # they would be many
            report, _ = convert_and_load_state_dict_in_model(
                self.model, dict(tensors), config, **more
            )
        return report

    def read_ahead(self, names: Iterable[str]) -> None:
        """Asks the operating system to have these tensors' bytes ready, and returns at once."""
        if self.folder is None or not hasattr(os, "posix_fadvise"):
            return
        for file, start, end in self._ranges(names):
            handle = os.open(self.folder / file, os.O_RDONLY)
            try:
                os.posix_fadvise(handle, start, end - start, os.POSIX_FADV_WILLNEED)
            finally:
                os.close(handle)

    def _ranges(self, names: Iterable[str]) -> Iterator[tuple[str, int, int]]:
        """Stretches of files that hold these tensors, neighbours joined."""
        entries = [self.headers.tensors[name] for name in names]
        now: tuple[str, int, int] | None = None
        for t in sorted(entries, key=lambda t: (t.file, t.start)):
            if now and now[0] == t.file and now[2] == t.start:
                now = (t.file, now[1], t.end)
                continue
            if now:
                yield now
            now = (t.file, t.start, t.end)
        if now:
            yield now


def has_parameters(module: nn.Module | None) -> bool:
    return module is not None and next(module.parameters(recurse=False), None) is not None


def is_packed(tensor: Entry) -> bool:
    """Whole numbers, and more than a counter."""
    return tensor.dtype not in (*FLOATS, "BOOL") and tensor.parameters > 1


def is_table(name: str, tensor: Entry) -> bool:
    """What older releases of transformers stored and newer ones compute: masks, positions and
    frequencies."""
    shape = tensor.shape
    mask = len(shape) == 4 and shape[:2] == (1, 1) and shape[2] == shape[3]
    return mask or tensor.dtype not in FLOATS or name.endswith(("inv_freq", "masked_bias"))


def declare_untied(model: PreTrainedModel) -> None:
    """Makes the config say that nothing is tied where that is so. A checkpoint whose config ties
    two tensors that differ would, once the model is written, be read as if they were one."""
    if model.all_tied_weights_keys:
        return
    for config in (model.config, model.config.get_text_config(decoder=True)):
        config.tie_word_embeddings = False


def pickled(paths: Iterable[Path], folder: Path) -> tuple[Headers, Values]:
    """What pytorch_model.bin files hold, in the form of headers, and access to their values. They
    are mapped, not read; no code in them is run."""
    tensors: dict[str, Tensor] = {}
    entries, sizes = {}, {}
    for path in paths:
        file = path.relative_to(folder).as_posix()
        sizes[file] = path.stat().st_size
        new = zipfile.is_zipfile(path)  # files of torch before 1.6 cannot be mapped
        held = torch.load(path, map_location="cpu", weights_only=True, mmap=new)
        for name, tensor in held.items():
            if isinstance(tensor, Tensor):
                tensors[name] = tensor
                tag = PICKLED_TAGS.get(tensor.dtype, "U8")
                shape = tuple(tensor.shape)
                entries[name] = Entry(file, tag, shape, 0, tensor.numel() * tensor.element_size())
    return Headers(entries, sizes), lambda name, start, end: tensors[name].reshape(-1)[start:end]


def complete(
    model_id: str, missing: Collection[str], wrong: Collection[str], errors: Collection[str]
) -> None:
    """Raises UserError where a checkpoint lacks something of its model."""
    if missing or wrong or errors:
        if len(missing) > 1:
            what = f"{len(missing)} tensors are missing, {min(missing)} first"
        elif missing:
            what = f"the tensor {min(missing)} is missing"
        else:
            what = f"the tensor {[*sorted(wrong), *errors][0]} does not fit its config"
        raise UserError(f"The weights of '{model_id}' are incomplete: {what}.")


def check_finite(model_id: str, name: str, tensor: Tensor) -> None:
    """Raises UserError for NaN and infinity. A sum tells most of it in one quick pass; it may
    overflow where every value is finite."""
    if torch.isfinite(tensor.sum(dtype=torch.float32)) or torch.isfinite(tensor).all():
        return
    raise UserError(
        f"The weights of '{model_id}' hold values that are not numbers (NaN or infinity), in "
        f"{name} first. Download it again or load it in another dtype."
    )
