"""Replaces attributes of other libraries while lm-eval works for us, and puts them back."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Sequence
from threading import Lock
from typing import Any

import lm_eval.api.metrics
import lm_eval.api.task
import lm_eval.utils
import numpy as np
from huggingface_hub import constants as hub
from tqdm import tqdm


class Override:
    """Replaces attributes, given as (owner, name, value), while any thread is inside.

    A download that was stopped goes on in its thread (see `run_apart`), beside the next one. So the
    first thread in puts the values there, and the last one out puts back what was there before.
    """

    def __init__(self, *attributes: tuple[Any, str, Any]):
        self.attributes = attributes
        self.lock = Lock()
        self.inside = 0

    def __enter__(self) -> None:
        with self.lock:
            if not self.inside:
                self.before = [getattr(owner, name) for owner, name, _ in self.attributes]
                for owner, name, value in self.attributes:
                    setattr(owner, name, value)
            self.inside += 1

    def __exit__(self, *error: object) -> None:
        with self.lock:
            self.inside -= 1
            if not self.inside:
                for (owner, name, _), value in zip(self.attributes, self.before, strict=True):
                    setattr(owner, name, value)


def bootstrap_stderr(f: Callable[..., float], xs: Sequence[Any], iters: int) -> float:
    """Returns lm-eval's bootstrapped standard error, draw for draw for up to 1000 resamples.

    It starts no processes, shows no progress bar and prints nothing. It computes perplexity in
    NumPy, since lm-eval's way takes seconds per split.
    """
    if f is lm_eval.api.metrics.perplexity:
        logs = np.asarray(xs, np.float64)
        values = [float(np.exp(-logs[picks].mean())) for picks in resamples(len(xs), iters)]
    else:
        rng = random.Random(0)
        values = [f(rng.choices(xs, k=len(xs))) for _ in range(iters)]
    return lm_eval.api.metrics.sample_stddev(values)


@functools.lru_cache(maxsize=1)
def resamples(n: int, iters: int) -> np.ndarray:
    """Returns [iters, n] indices, the same for every split."""
    rng = random.Random(0)
    return np.stack([np.array(rng.choices(range(n), k=n), np.int32) for _ in range(iters)])


OFFLINE = Override((hub, "HF_HUB_OFFLINE", True))
"""The Hub is not asked."""

IN_PROCESS = Override(
    (lm_eval.api.metrics, "bootstrap_stderr", bootstrap_stderr),
    # It shows a progress bar per task and has no switch for it.
    (lm_eval.api.task, "tqdm", functools.partial(tqdm, disable=True)),
    # Every use of a template compiles it again, which takes most of the time that metrics take.
    (
        lm_eval.utils.env,
        "from_string",
        functools.lru_cache(maxsize=1024)(lm_eval.utils.env.from_string),
    ),
)
"""lm-eval builds prompts and computes metrics quickly and quietly, in this process."""
