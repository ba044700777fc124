"""lm-eval's task definitions with their data, from files beside them or from the Hub."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import datasets
from huggingface_hub import constants as hub
from huggingface_hub.utils import get_session
from lm_eval.tasks import TaskManager

from ...core.errors import UserError
from .lm_eval_errors import explain
from .lm_eval_overrides import OFFLINE
from .lm_eval_registry import registry

datasets.disable_progress_bars()


Rows = Sequence[Mapping[str, Any]]


def load_rows(config: dict[str, Any], rows: Mapping[str, Rows], name: str) -> dict[str, Any]:
    """Returns lm-eval's {"tasks", "groups"} of a definition whose data are these rows by split.

    Raises UserError where lm-eval does not take the definition.
    """
    config = {
        **config,
        "dataset_path": None,  # rows in memory: no dataset cache is written, no network is asked
        "dataset_kwargs": None,
        "custom_dataset": lambda **kwargs: {split: dataset(some) for split, some in rows.items()},
    }
    return set_up(TaskManager(include_defaults=False).load([config]), name)


def dataset(rows: Rows) -> datasets.Dataset:
    """Returns the rows as a table of all their keys. datasets alone takes the first row's."""
    keys = dict.fromkeys(key for row in rows for key in row)
    return datasets.Dataset.from_dict({key: [row.get(key) for row in rows] for key in keys})


@functools.lru_cache(maxsize=16)  # a forecast, a part of the items and all of them ask one by one
def load_registered(name: str) -> dict[str, Any]:
    """Returns lm-eval's {"tasks", "groups"} of a name in its registry, with their data.

    Raises UserError where the data cannot be had.
    """
    chosen = hub.HF_HUB_OFFLINE and not OFFLINE.inside
    with nullcontext() if chosen or reachable() else OFFLINE:
        try:
            loaded = registry().load([name])
        except Exception as e:  # datasets and the hub raise dozens of kinds
            raise UserError(explain(name, e)) from e
    return set_up(loaded, name)


def reachable() -> bool:
    """Returns whether the Hub answers.

    Where it does not, each data set costs half a minute of retries, and mmlu has 57. With
    HF_HUB_OFFLINE, the local cache is read at once.
    """
    try:
        get_session().head(hub.ENDPOINT, timeout=5)
    except Exception:  # huggingface_hub changes its HTTP library, and so the errors
        return False
    return True


def set_up(loaded: dict[str, Any], name: str) -> dict[str, Any]:
    """Does and refuses what lm-eval's `simple_evaluate` does before it calls `evaluate`.

    Raises UserError for a task that cannot be measured here.
    """
    for part in loaded["tasks"].values():
        if getattr(part, "UNSAFE_CODE", False):
            raise UserError(f"The task '{name}' runs code that the model writes: not done here.")
        if getattr(part, "MULTIMODAL", False):
            raise UserError(f"The task '{name}' needs a model that sees or hears.")
        functions = getattr(part, "_metric_fn_list", {})
        missing = [metric for metric, function in functions.items() if function is None]
        if missing and part.get_config("process_results") is None:
            raise UserError(
                f"The metric '{missing[0]}' of '{name}' comes from the Hugging Face Hub: it needs "
                "the network and the package 'evaluate'."
            )
        if part.get_config("num_fewshot") is None:
            part.set_config(key="num_fewshot", value=0)
    return loaded
