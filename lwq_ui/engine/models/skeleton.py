"""A model without its weights, and transformers' own way of putting tensors into it.

transformers' classes build the model. Its loader does all the renaming, fusing and splitting that
lies between a checkpoint's names and the model's parameters.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import Any

import torch
import transformers
from accelerate import init_empty_weights
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.core_model_loading import convert_and_load_state_dict_in_model
from transformers.modeling_utils import LoadStateDictConfig
from transformers.utils.logging import EmptyTqdm

from ...core.errors import UserError, first_line
from ..bars import transformers_bars


def skeleton(config: Any, dtype: str, model_id: str) -> PreTrainedModel:
    """Returns the model with parameters of the right shapes that hold nothing. Raises UserError
    where transformers cannot build it."""
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
    """Computes in float32 what the model computes for itself, as transformers does when it loads.
    A skeleton computes its tables of positions in the number format of the weights."""
    exact = skeleton(copy.deepcopy(model.config), "float32", model_id)
    for module, other in zip(model.modules(), exact.modules(), strict=True):
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = other.get_buffer(name).to(buffer.dtype)


def load_tensors(
    model: PreTrainedModel, tensors: Mapping[str, Any], conversion: Any, device: str
) -> Any:
    """Loads tensors, or slices of safetensors files, by the checkpoint's names. `conversion` is
    what transformers has for this architecture. Returns the report of transformers' loader."""
    options: dict[str, Any] = {
        "device_map": {"": torch.device(device)},
        "dtype": model.dtype,
        "dtype_plan": model._get_dtype_plan(model.dtype),
        "weight_mapping": conversion,
    }
    config = LoadStateDictConfig(**options)
    more: dict[str, Any] = {}
    if "tp_plan" in inspect.signature(convert_and_load_state_dict_in_model).parameters:
        more["tp_plan"] = None  # transformers before 5.20
    with transformers_bars(EmptyTqdm):  # a bar for every few tensors would be too much
        report, _ = convert_and_load_state_dict_in_model(model, dict(tensors), config, **more)
    return report


def declare_untied(model: PreTrainedModel) -> None:
    """Makes the config say that nothing is tied where that is so. Otherwise the model, once it is
    written, would be read with one tensor in place of two that differ."""
    if model.all_tied_weights_keys:
        return
    for config in (model.config, model.config.get_text_config(decoder=True)):
        config.tie_word_embeddings = False
