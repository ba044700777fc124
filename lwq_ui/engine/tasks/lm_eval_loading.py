"""lm-eval's task definitions with their data, from files beside them or from the Hub."""

from __future__ import annotations

import functools
from contextlib import nullcontext
from threading import Lock
from typing import Any

import datasets
from huggingface_hub import constants as hub
from huggingface_hub.utils import get_session
from lm_eval.tasks import TaskManager

from ...core.errors import UserError
from .lm_eval_errors import why
from .lm_eval_registry import registry


def load_rows(config: dict[str, Any], rows: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """Returns lm-eval's {"tasks", "groups"} of a definition whose data is `rows`."""
    config = {
        **config,
        "dataset_path": None,  # rows in memory: no dataset cache is written, no network is asked
        "dataset_kwargs": None,
        "custom_dataset": lambda **kwargs: {"test": datasets.Dataset.from_list(rows)},
    }
    return set_up(TaskManager(include_defaults=False).load([config]), name)


@functools.lru_cache(maxsize=16)  # a forecast, a part of the items and all of them ask one by one
def load_registered(name: str) -> dict[str, Any]:
    """Returns lm-eval's {"tasks", "groups"} of a name in its registry, with their data. Raises
    UserError where the data cannot be had."""
    chosen = hub.HF_HUB_OFFLINE and not OFFLINE.inside
    with nullcontext() if chosen or reachable() else OFFLINE:
        try:
            loaded = registry().load([name])
        except Exception as e:  # datasets and the hub raise dozens of kinds
            raise UserError(why(name, e)) from e
    return set_up(loaded, name)


class Offline:
    """While any thread is inside, the Hub is not asked. Threads that are left behind (see `apart`)
    overlap, so the first one in sets the switch, and the last one out sets it back."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.inside = 0

    def __enter__(self) -> None:
        with self.lock:
            if not self.inside:
                self.before = hub.HF_HUB_OFFLINE
            self.inside += 1
            hub.HF_HUB_OFFLINE = True

    def __exit__(self, *error: object) -> None:
        with self.lock:
            self.inside -= 1
            if not self.inside:
                hub.HF_HUB_OFFLINE = self.before


OFFLINE = Offline()


def reachable() -> bool:
    """Whether the Hub answers. Without it every data set, be it in the local cache, costs half a
    minute of retries before it is looked for there, and mmlu has 57; told to be offline, none."""
    try:
        get_session().head(hub.ENDPOINT, timeout=5)
    except Exception:  # of whatever HTTP library huggingface_hub uses
        return False
    return True


def set_up(loaded: dict[str, Any], name: str) -> dict[str, Any]:
    """What lm-eval's `simple_evaluate` does and refuses before it calls `evaluate`."""
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
