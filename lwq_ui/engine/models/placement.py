"""Which place in a model each tensor of a checkpoint has, and whether the two belong together.

Names, shapes and types are enough for that. Weights are read only to see whether two tensors that
the config ties are equal.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

from ...core.errors import UserError
from ..checkpoints.headers import BITS, FLOATS, Entry, Headers
from ..checkpoints.quantized import PACKED_NAME, PACKED_TYPES, quantized_already
from .skeleton import declare_untied, load_tensors

CHUNK, SAMPLE = 2**22, 2**11  # values of two tensors that are compared at a time

TORCH_DTYPES = {
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
"""torch's types by safetensors' tags."""

Values = Callable[[str, int, int], Tensor]
"""`values(tensor's name, start, end)` returns the values from start to end of the flat tensor."""


def stored_values(headers: Headers, read: Callable[[str, int, int], bytes]) -> Values:
    """Returns access to the values of safetensors files. `read(file, start, end)` returns bytes of
    a file."""

    def values(name: str, start: int, end: int) -> Tensor:
        entry = headers.tensors[name]
        size = BITS[entry.dtype] // 8
        content = read(entry.file, entry.start + start * size, entry.start + end * size)
        return torch.frombuffer(bytearray(content), dtype=TORCH_DTYPES[entry.dtype])

    return values


class Placement:
    """The tensors that `headers` list, and their places in `model`.

    `names` maps a tensor's name in the checkpoint to the parameter or buffer that it goes to. It is
    the first one where the tensor is split up. Tensors that the model has no place for are left
    out. With `sampled`, `values` are costly, and of large tensors only some are compared.
    `conversion` are transformers' rules from names to places, by default those of the architecture.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        headers: Headers,
        model_id: str,
        values: Values,
        sampled: bool = False,
        conversion: Sequence[Any] | None = None,
    ):
        self.model = model
        self.headers = headers
        self.model_id = model_id
        self.conversion: Sequence[Any] = (
            get_model_conversion_mapping(model) if conversion is None else conversion
        )
        self.names: dict[str, str] = {}
        self._values = values
        self._sampled = sampled
        self._homeless: dict[str, str] = {}  # no place for them, by the name the model would give
        self._find_places()

    def _find_places(self) -> None:
        renamings = [c for c in self.conversion if isinstance(c, WeightRenaming)]
        converters = [c for c in self.conversion if isinstance(c, WeightConverter)]
        prefix, places = self.model.base_model_prefix, self.model.state_dict()
        for name in self.headers.tensors:
            place, _ = rename_source_key(name, renamings, converters, prefix, places)
            if place not in places and name in places:
                place = name
            (self.names if place in places else self._homeless)[name] = place

    def names_of(self, parameters: Collection[int]) -> list[str]:
        """Returns the names of the tensors that go to these parameters, given by their `id`."""
        places = {
            n for n, p in self.model.named_parameters(remove_duplicate=False) if id(p) in parameters
        }
        return [name for name, place in self.names.items() if place in places]

    def check(self) -> None:
        """Loads the names and shapes of the whole checkpoint, and ties the parameters that the
        loaded model will have tied.

        Raises UserError where a tensor is missing or does not fit: transformers would fill it with
        random numbers. Raises it too as `check_places` does.
        """
        self.check_places()
        empty = {
            name: torch.empty(t.shape, dtype=TORCH_DTYPES.get(t.dtype, torch.uint8), device="meta")
            for name, t in self.headers.tensors.items()
        }
        report = load_tensors(self.model, empty, self.conversion, "meta")
        self.model.tie_weights(missing_keys=report.missing_keys, recompute_mapping=False)
        self._tie()
        buffers = {name for name, _ in self.model.named_buffers()}
        check_complete(
            self.model_id,
            report.missing_keys - buffers,
            [str(key[0]) for key in report.mismatched_keys],
            [*report.conversion_errors.values(), *report.error_msgs],
        )

    def check_places(self) -> None:
        """Raises UserError for weights that are quantized, and for a tensor without a place that
        the model was trained with.

        transformers leaves such a tensor out, with a warning. The model would compute something
        else.
        """
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
        """Returns the part of the language model that a tensor without a place would belong to.

        That is the innermost module around it, if it has parameters of its own or is in a list of
        layers. Returns None where the tensor belongs to other parts, such as a vision tower
        or further heads.
        """
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
        """Ties the tensors that the config ties, as transformers does once it has read them.

        Two of them that are both in the checkpoint and differ stay apart.
        """
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
        """Whether two tensors hold the same values in the model's dtype. A sample has the first
        values, the last ones, and some in the middle."""
        entries = [self.headers.tensors[name] for name in (a, b)]
        if entries[0].shape != entries[1].shape:
            return False
        count, step = entries[0].parameters, SAMPLE if self._sampled else CHUNK
        starts = range(0, count, step)
        if self._sampled and count > 3 * step:
            starts = range(0, count - step + 1, (count - step) // 2)

        def values(name: str, start: int) -> Tensor:
            return self._values(name, start, min(start + step, count)).to(self.model.dtype)

        return all(torch.equal(values(a, start), values(b, start)) for start in starts)


def has_parameters(module: nn.Module | None) -> bool:
    return module is not None and next(module.parameters(recurse=False), None) is not None


def is_packed(tensor: Entry) -> bool:
    """Whether a tensor holds whole numbers, and more of them than a counter."""
    return tensor.dtype not in (*FLOATS, "BOOL") and tensor.parameters > 1


def is_table(name: str, tensor: Entry) -> bool:
    """Whether a tensor is a table of masks, positions or frequencies. Older releases of
    transformers stored these, and newer ones compute them."""
    shape = tensor.shape
    mask = len(shape) == 4 and shape[:2] == (1, 1) and shape[2] == shape[3]
    return mask or tensor.dtype not in FLOATS or name.endswith(("inv_freq", "masked_bias"))


def check_complete(
    model_id: str, missing: Collection[str], wrong: Collection[str], errors: Collection[Any]
) -> None:
    """Raises UserError where tensors are `missing` in a checkpoint, have the `wrong` shape, or gave
    `errors` when they were loaded."""
    if missing or wrong or errors:
        if len(missing) > 1:
            what = f"{len(missing)} tensors are missing, {min(missing)} first"
        elif missing:
            what = f"the tensor {min(missing)} is missing"
        else:
            what = f"the tensor {[*sorted(wrong), *errors][0]} does not fit its config"
        raise UserError(f"The weights of '{model_id}' are incomplete: {what}.")
