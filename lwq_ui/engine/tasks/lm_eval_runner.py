"""Runs tasks of lm-evaluation-harness on a sweep.

Prompts, tokenization, context cuts, filters, metrics and standard errors are lm-eval's own.
Requests are built once for all splits, and log-likelihoods of all splits come from one walk. Then
`results_of` makes metrics from the answers of each split, as lm-eval's `evaluate` does.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from threading import Thread
from typing import Any

import numpy as np
from lm_eval.api.instance import Instance

from ...core.errors import Stopped, Unexplained, UserError, first_line
from ...core.run import Run
from ...failures import out_of_memory
from ..sweeps.sweep import Sweep
from .base import Measured
from .lm_eval_errors import UNEXPLAINED, explain
from .lm_eval_model import SEED, ForecastLM, SweepLM
from .lm_eval_overrides import IN_PROCESS
from .lm_eval_results import results_of

GENERATE = "generate_until"  # the kind of request that a model answers by writing

Definition = dict[str, Any]
"""lm-eval's {"tasks", "groups"} with their data."""

Load = Callable[[], Definition]


def run_task(
    name: str, title: str, load: Load, sweep: Sweep, limit: int | None, chat_template: bool = False
) -> list[Measured]:
    """Returns the metrics and items of every split.

    With `chat_template`, prompts are what lm-eval's `--apply_chat_template` makes them. Raises
    UserError where the task cannot be measured, for any reason: the data cannot be had, or the
    model does not fit. So the other tasks go on.
    """
    try:
        with IN_PROCESS:
            lm = SweepLM(sweep, title)
            definition, requests = prepare(name, lm, load, limit, chat_template)
            return measure(name, lm, definition, requests)
    except (UserError, Stopped):
        raise
    except AssertionError as e:  # HFLM's way of refusing
        raise UserError(f"The task '{name}' does not fit this model: {first_line(e)}.") from e
    except Exception as e:  # tasks are programs of many authors, and raise anything
        if out_of_memory(e):
            raise UserError(
                f"There is too little memory for the task '{name}'. Close other programs, or "
                "choose another device, a smaller dtype or a smaller model."
            ) from e
        kind = Unexplained if isinstance(e, UNEXPLAINED) else UserError
        raise kind(explain(name, e)) from e


def forecast_task(
    name: str, title: str, load: Load, sweep: Sweep, limit: int | None, chat_template: bool = False
) -> float | None:
    """Returns the seconds that `run_task` takes.

    Returns None where a model writes text, since nobody knows how much it will write.
    """
    with IN_PROCESS:
        lm = ForecastLM(sweep, title)
        definition, requests = prepare(name, lm, load, limit, chat_template)
        forget_prompts(definition)
        if GENERATE in requests:
            return None
        for kind, instances in requests.items():
            getattr(lm, kind)(instances, disable_tqdm=True)
        return lm.seconds


def prepare(
    name: str, lm: SweepLM, load: Load, limit: int | None, chat_template: bool
) -> tuple[Definition, dict[str, list[Instance]]]:
    """Returns the task's definition, and the requests of each kind for all splits."""
    run = lm.sweep.run
    run.progress(f"{lm.title}: reading its data", None)
    definition = run_apart(load, run)
    run.progress(f"{lm.title}: writing its prompts", None)
    requests: dict[str, list[Instance]] = defaultdict(list)
    chat: dict[str, Any] = {}
    if chat_template:  # examples are turns of their own: lm-eval's default with a chat template
        chat = {"apply_chat_template": True, "chat_template": lm.apply_chat_template}
        chat["fewshot_as_multiturn"] = True
    for part in definition["tasks"].values():
        run.check()
        part.set_fewshot_seed(seed=SEED)
        part.build_all_requests(limit=limit, rank=0, world_size=1, **chat)
        for request in part.instances:
            requests[request.request_type] += [request] * request.repeats
    if not requests:
        raise UserError(f"The task '{name}' has no items.")
    return definition, dict(requests)


def measure(
    name: str, lm: SweepLM, definition: Definition, requests: dict[str, list[Instance]]
) -> list[Measured]:
    """Returns the metrics and items of every split, from the answers of `lm`."""
    sweep = lm.sweep
    scored = {
        kind: getattr(lm, kind)(instances, disable_tqdm=True)
        for kind, instances in requests.items()
        if kind != GENERATE
    }
    if GENERATE in requests:
        lm.fit(requests[GENERATE])
    measured = []
    n = len(sweep.splits)
    for c in range(n):
        sweep.run.check()
        if GENERATE not in requests:  # else every batch of texts reports how far it is
            sweep.run.progress(f"{lm.title}: computing metrics, split {c + 1} of {n}", None)
        lm.current = c
        for part in definition["tasks"].values():
            for request in part.instances:
                request.resps, request.filtered_resps = [], {}
        for kind, instances in requests.items():
            if kind == GENERATE:
                answers = lm.generate_until(instances)
            else:
                answers = answers_of(kind, scored[kind], c)
            for request, answer in zip(instances, answers, strict=True):
                request.resps.append(answer)
        measured.append(results_of(definition, name, sweep.run))
    forget_prompts(definition)
    return measured


def answers_of(kind: str, scored: list[Any], c: int) -> list[Any]:
    """Returns the answers of split c, as HFLM gives them for this kind of request."""
    if kind == "loglikelihood":
        return [(float(logprob[c]), bool(greedy[c])) for logprob, greedy in scored]
    # A rolling request sums up a document's windows. An empty document has none.
    return [float(logprob[c]) if np.ndim(logprob) else 0.0 for logprob in scored]


def forget_prompts(definition: Definition) -> None:
    """Frees the prompts of a task, since a registered task stays in memory."""
    for part in definition["tasks"].values():
        part._instances = None


def run_apart(work: Callable[[], Any], run: Run) -> Any:
    """Returns what `work` returns, and stops waiting for it when the run is stopped.

    Downloads take minutes, and retries without a network half a minute. Neither looks at a stop, so
    they go on in a thread that is left behind.
    """
    outcome: list[Any] = []

    def finish() -> None:
        try:
            outcome.append((work(), None))
        except BaseException as e:
            outcome.append((None, e))

    thread = Thread(target=finish, daemon=True)
    thread.start()
    while thread.is_alive():
        run.check()
        thread.join(0.1)
    result, error = outcome[0]
    if error:
        raise error
    return result
