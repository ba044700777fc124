"""lm-evaluation-harness on top of the sweep.

Prompts, tokenization, context cuts, filters, metrics and standard errors are lm-eval's own.
Requests are built once for all splits. Log-likelihoods of all splits come from one walk: `SweepLM`
is lm-eval's HFLM with the one method replaced that would run the model on a batch of token
requests. Text is generated split by split, by stock HFLM on the composed model. What is left of
lm-eval's `evaluate` is `results_of`: it makes metrics from answers, and costs little enough to be
done for every split.
"""

from __future__ import annotations

import copy
import errno
import functools
import math
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from threading import Lock, Thread
from typing import Any

import datasets
import lm_eval.api.metrics
import lm_eval.api.task
import lm_eval.utils
import numpy as np
import torch
from huggingface_hub import constants as hub
from huggingface_hub.utils import get_session
from lm_eval.api.instance import Instance
from lm_eval.evaluator_utils import _compute_task_aggregations
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.tasks import TaskManager
from torch import Tensor
from tqdm import tqdm
from transformers import LogitsProcessorList

from ..core.errors import Stopped, Unexplained, UserError
from ..core.run import Run
from ..core.schema import Metric
from ..failures import out_of_memory
from .checkpoint import first_line
from .evaluation import Harness, Measured, Registered, registry
from .generation import OnlyNumbers
from .layers import find_layers
from .models import release_memory
from .sweep import Rehearsal, Rehearsed, Request, Sweep
from .texts import check_tokens, embeddings, first_token, tokenizing
from .walk import Positions

BOOTSTRAP = 1000  # resamples, for metrics whose standard error has no formula
SEED = 1234  # lm-eval's, for the examples in a prompt and for sampled text
UNBATCHED = 1 << 30  # HFLM then hands over all requests at once
MOST_ROWS = 64  # texts generated at a time
CPU_CACHE_BYTES = 2**30  # for the keys and values of those texts
GENERATE = "generate_until"
UNEXPLAINED = (LookupError, TypeError, AttributeError, ArithmeticError)  # by what they say

WEIGHTED = (lm_eval.api.metrics.weighted_perplexity, lm_eval.api.metrics.bits_per_byte)


class SweepLM(HFLM):
    """Where HFLM answers a request with a log-likelihood, this answers with an array of one per
    split. Text is generated with split `current`."""

    def __init__(self, sweep: Sweep, title: str):
        loaded = sweep.bank.loaded
        super().__init__(
            pretrained=loaded.model,
            tokenizer=copy.deepcopy(loaded.tokenizer),  # HFLM gives it a padding token
            batch_size=UNBATCHED,
            softmax_dtype="float32",
        )
        self.loaded = loaded
        self.pads = self.give_padding()
        self.sweep = sweep
        self.title = title
        self.current = 0
        self.written = 0  # of `asked` texts of the current split
        self.asked = 0

    def give_padding(self) -> bool:
        """Whether the tokenizer has a padding token that the model has an embedding for, if need be
        another special token: which one does not matter, since the attention mask hides it."""
        tokenizer, rows = self.tokenizer, embeddings(self.loaded.model)
        names = ("pad_token_id", "eos_token_id", "unk_token_id", "bos_token_id")
        for token in (getattr(tokenizer, name, None) for name in names):
            if token is not None and token < rows:
                tokenizer.pad_token_id = token
                return True
        return False

    @property
    def prefix_token_id(self) -> int:
        token = first_token(self.loaded)
        if token is None:
            raise UserError(
                f"The task '{self.title}' asks what a text begins with, and the tokenizer of "
                f"'{self.loaded.info.model_id}' has no token that begins a text, nor has its "
                "config. Choose another task."
            )
        return token

    @property
    def eot_token_id(self) -> int | None:
        """Where the tokenizer has none, only the model's own config ends a text."""
        return self.tokenizer.eos_token_id

    def tok_decode(self, tokens: Any, skip_special_tokens: bool = True) -> Any:
        """None for no token: then HFLM has no text to stop at beside the task's."""
        return None if tokens is None else super().tok_decode(tokens, skip_special_tokens)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kw: Any) -> Any:
        self.sweep.run.check()  # tens of thousands of requests are tokenized before the walk
        if not isinstance(string, str):
            raise UserError(
                f"The task '{self.title}' makes a prompt or an answer that is no text but "
                f"{str(string)[:40]!r} ({type(string).__name__}): correct its file or its data."
            )
        tokenizer = self.tokenizer
        with tokenizing(self.loaded):
            if tokenizer.bos_token_id is None and tokenizer.eos_token_id is None:
                # HFLM would look whether the string begins with the one or the other
                special = add_special_tokens is not False
                tokens = tokenizer.encode(string, add_special_tokens=special)
            else:
                tokens = super().tok_encode(string, add_special_tokens, **kw)
        check_tokens(tokens, self.loaded)
        return tokens

    def _loglikelihood_tokens(self, requests: Any, *args: Any, **kwargs: Any) -> Any:
        asked = []
        for _, context, target in requests:
            if not context or not 0 < len(target) <= self.max_length:  # HFLM asserts the same
                raise UserError(
                    f"The task '{self.title}' has an answer of {len(target)} tokens after "
                    f"{len(context)}: this model needs at least one of each, and takes at most "
                    f"{self.max_length}."
                )
            asked.append(Request((context + target)[-(self.max_length + 1) :][:-1], target))
        scored = self.sweep.score(asked, self.title)
        return list(zip(scored.logprob, scored.greedy, strict=True))

    def fit(self, requests: Sequence[Instance]) -> None:
        """As many texts at a time as their keys and values have room for. Counted as if every
        attention head had its own, which leaves room for the activations where heads share them.
        One at a time where padding beside longer texts would change what is written."""
        texts = {r.args[0]: normalize_gen_kwargs(r.args[1], self.max_gen_toks) for r in requests}
        longest = max(len(self.tok_encode(t)) + k["max_gen_toks"] for t, k in texts.items())
        config = self.model.config.get_text_config(decoder=True)
        info = self.sweep.bank.loaded.info
        token_bytes = 2 * info.num_layers * config.hidden_size * info.dtype_bytes
        room = CPU_CACHE_BYTES
        if self.device.type == "cuda":
            release_memory()
            room = torch.cuda.mem_get_info(self.device)[0] // 2
        longest = min(longest, self.max_length)
        row_bytes = token_bytes * longest
        walk = self.loaded.walk
        alone = walk.keeps_state or len(set(walk.kinds([2, longest]))) > 1
        most = 1 if alone or not self.pads else MOST_ROWS
        self.batch_size_per_gpu = max(1, min(most, room // row_bytes))

    def generate_until(self, requests: Any, disable_tqdm: bool = True) -> list[str]:
        self.written, self.asked = 0, len(requests)
        torch.manual_seed(SEED)  # sampled text: the same random numbers for every split
        self._model = self.sweep.bank.compose(self.sweep.splits[self.current], self.sweep.run)
        self.positions = Positions(self._model)
        for layer in find_layers(self._model):  # modules of its own: the hooks go with it
            layer.register_forward_pre_hook(lambda *args: self.sweep.run.check())
        try:
            return super().generate_until(requests, disable_tqdm=True)
        finally:
            self._model = self.sweep.bank.loaded.model  # before the next one is composed

    def _model_generate(self, context: Tensor, *args: Any, **kwargs: Any) -> Any:
        done = self.current + self.written / self.asked
        of = len(self.sweep.splits)
        self.sweep.run.progress(
            f"{self.title}: writing, split {self.current + 1} of {of}", done / of
        )
        numbers = LogitsProcessorList([OnlyNumbers(self.loaded.info.dtype)])
        kwargs |= {"logits_processor": numbers, "remove_invalid_values": False}
        self.positions.forget()
        texts = super()._model_generate(context, *args, **kwargs)
        self.written += len(context)
        return texts


def run_task(task: Harness | Registered, sweep: Sweep, limit: int | None) -> list[Measured]:
    """Every split's metrics and items. Raises UserError where the task's data cannot be had, the
    task does not fit the model, or lm-eval cannot compute it for any other reason: so the other
    tasks go on."""
    try:
        return measure(task, sweep, limit)
    except (UserError, Stopped, Rehearsed):
        raise
    except AssertionError as e:  # HFLM's way of refusing
        raise UserError(f"The task '{task.name}' does not fit this model: {first_line(e)}.") from e
    except Exception as e:  # tasks are programs of many authors, and raise anything
        if out_of_memory(e):
            raise UserError(
                f"There is too little memory for the task '{task.name}'. Close other programs, or "
                "choose another device, a smaller dtype or a smaller model."
            ) from e
        kind = Unexplained if isinstance(e, UNEXPLAINED) else UserError
        raise kind(why(task.name, e)) from e


def measure(task: Harness | Registered, sweep: Sweep, limit: int | None) -> list[Measured]:
    sweep.run.progress(f"{task.title}: reading its data", None)
    loaded = apart(lambda: load_task(task), sweep.run)
    sweep.run.progress(f"{task.title}: writing its prompts", None)
    requests: dict[str, list[Instance]] = defaultdict(list)
    for part in loaded["tasks"].values():
        sweep.run.check()
        part.set_fewshot_seed(seed=SEED)
        part.build_all_requests(limit=limit, rank=0, world_size=1)
        for request in part.instances:
            requests[request.request_type] += [request] * request.repeats
    if not requests:
        raise UserError(f"The task '{task.name}' has no items.")
    if GENERATE in requests and isinstance(sweep, Rehearsal):
        raise Rehearsed(None)  # how much a model writes is known when it has written
    lm = SweepLM(sweep, task.title)
    scored = {
        kind: getattr(lm, kind)(asked, disable_tqdm=True)
        for kind, asked in requests.items()
        if kind != GENERATE
    }
    if GENERATE in requests:
        lm.fit(requests[GENERATE])
    measured = []
    of = len(sweep.splits)
    for c in range(of):
        sweep.run.check()
        if GENERATE not in requests:  # else every batch of texts tells how far it is
            sweep.run.progress(f"{task.title}: computing metrics, split {c + 1} of {of}", None)
        lm.current = c
        for part in loaded["tasks"].values():
            for request in part.instances:
                request.resps, request.filtered_resps = [], {}
        for kind, asked in requests.items():
            answers: list[Any]
            if kind == GENERATE:
                answers = lm.generate_until(asked)
            elif kind == "loglikelihood":
                answers = [(float(ll[c]), bool(greedy[c])) for ll, greedy in scored[kind]]
            else:  # rolling: the sum of a document's windows; an empty document has none
                answers = [float(ll[c]) if np.ndim(ll) else 0.0 for ll in scored[kind]]
            for request, answer in zip(asked, answers, strict=True):
                request.resps.append(answer)
        measured.append(results_of(loaded, task.name, sweep.run))
    for part in loaded["tasks"].values():
        part._instances = None  # a registered task is kept, its prompts need not be
    return measured


def results_of(loaded: dict[str, Any], name: str, run: Run) -> Measured:
    """The second half of lm-eval's `evaluate`, from the answers in the requests to metrics. Without
    the samples' copies and hashes, and with documents that are decoded once."""
    tables: dict[str, dict[str, Any]] = {}
    values: dict[str, list[Any]] = defaultdict(list)  # "metric,filter" -> one per document
    weighted = set()
    for part_name, part in loaded["tasks"].items():
        run.check()
        part.apply_filters()
        documents = defaultdict(list)
        for request in part.instances:
            documents[request.doc_id].append(request)
        raw: dict[tuple[str, str], list[Any]] = defaultdict(list)
        for kind in part.instances[0].filtered_resps:
            for asked in documents.values():
                asked.sort(key=lambda r: r.idx)
                answers = [request.filtered_resps[kind] for request in asked]
                for metric, value in part.process_results(asked[0].doc, answers).items():
                    raw[metric, kind].append(value)
        metrics, count = _compute_task_aggregations(part, raw, BOOTSTRAP)
        tables[part_name] = {"sample_len": count, **metrics}
        for (metric, kind), found in raw.items():
            values[f"{metric},{kind}"] += found
            if part.aggregation().get(metric) in WEIGHTED:
                weighted.add(f"{metric},{kind}")
    group = loaded["groups"].get(name)
    table = group.aggregate(tables) if group else next(iter(tables.values()))
    keys = [key for key in values if is_number(table.get(key))]
    if not keys:
        raise UserError(f"The task '{name}' gives no metric that is a number.")
    one_filter = len({key.partition(",")[2] for key in keys}) == 1
    results: dict[str, Metric] = {}
    items: dict[str, list[float]] = {}
    for key in keys:
        metric, _, kind = key.partition(",")
        error: Any = table.get(f"{metric}_stderr,{kind}")
        count = table["sample_count"][key] if group else len(values[key])
        title = metric if one_filter else f"{metric} ({kind})"
        error = float(error) if is_number(error) else None
        if not all(math.isfinite(v) for v in (table[key], error or 0.0)):
            raise UserError(too_large(name))
        results[title] = Metric(float(table[key]), error, count)
        items |= items_of(title, values[key], key in weighted)
    return Measured(results, items)


def items_of(title: str, values: Sequence[Any], weighted: bool) -> dict[str, list[float]]:
    """Per document what a metric is made of; nothing where that is not a number (such as the pair
    of answers behind an F1 score)."""
    if weighted:
        logs, weights = zip(*values, strict=True)
        return {title: list(map(float, logs)), f"{title}_weight": list(map(float, weights))}
    return {title: [float(v) for v in values]} if all(map(is_number, values)) else {}


def is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number | np.bool_)


def load_task(task: Harness | Registered) -> dict[str, Any]:
    """lm-eval's {"tasks", "groups"} with their data."""
    if isinstance(task, Registered):
        return load_registered(task.name)
    rows = task.rows()
    config = {
        **task.config,
        "dataset_path": None,  # rows in memory: no dataset cache is written, no network is asked
        "dataset_kwargs": None,
        "custom_dataset": lambda **kwargs: {"test": datasets.Dataset.from_list(rows)},
    }
    return set_up(TaskManager(include_defaults=False).load([config]), task.name)


@functools.lru_cache(maxsize=16)  # a forecast, a part of the items and all of them ask one by one
def load_registered(name: str) -> dict[str, Any]:
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


def why(name: str, error: BaseException) -> str:
    """What keeps a task from being measured, and the way out."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) and cause not in chain:
        chain.append(cause)
    kinds = {type(e).__name__ for e in chain}
    said = " ".join(map(str, chain))
    for e in chain:
        if isinstance(e, ModuleNotFoundError) and e.name:
            package = e.name.partition(".")[0]
            return f"The task '{name}' needs the Python package '{package}': install it."
    if "Dataset scripts are no longer supported" in said or "trust_remote_code" in said:
        return f"The data of '{name}' comes as a program, which the datasets library does not run."
    if "GatedRepoError" in kinds or "gated dataset" in said:
        return (
            f"The data of '{name}' is only for those who asked for it: accept its terms on the "
            "Hugging Face Hub and log in with 'hf auth login'."
        )
    if "DatasetNotFoundError" in kinds:
        return f"The data of '{name}' is not on the Hugging Face Hub, or not for everybody."
    full = any(isinstance(e, OSError) and e.errno == errno.ENOSPC for e in chain)
    network = any(isinstance(e, OSError) or type(e).__module__.startswith("httpx") for e in chain)
    if network and not full:
        return (
            f"The data of '{name}' cannot be downloaded: check the network, or copy it into the "
            "Hugging Face datasets cache."
        )
    if isinstance(error, OverflowError):
        return too_large(name)
    kind = f"{type(error).__name__}: " if isinstance(error, UNEXPLAINED) else ""
    return f"The task '{name}' cannot be measured: {kind}{first_line(error)}."


def too_large(name: str) -> str:
    return (
        f"The task '{name}' gives a figure that is too large for a number, as the perplexity of a "
        "model that predicts nothing is. Leave out the splits of the fewest bits."
    )


def apart(work: Callable[[], Any], run: Run) -> Any:
    """Downloads take minutes, without a network retries half a minute, and neither looks at a stop:
    they go on in a thread that is left behind."""
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


def bootstrap_stderr(f: Callable[..., float], xs: Sequence[Any], iters: int) -> float:
    """lm-eval's, draw for draw for up to 1000 resamples, without its processes, its progress bar
    and its prints. Perplexity, where it takes seconds per split, is computed in NumPy."""
    if f is lm_eval.api.metrics.perplexity:
        logs = np.asarray(xs, np.float64)
        values = [float(np.exp(-logs[picks].mean())) for picks in resamples(len(xs), iters)]
    else:
        rng = random.Random(0)
        values = [f(rng.choices(xs, k=len(xs))) for _ in range(iters)]
    return lm_eval.api.metrics.sample_stddev(values)


@functools.lru_cache(maxsize=1)
def resamples(n: int, iters: int) -> np.ndarray:
    """[iters, n] indices, the same for every split."""
    rng = random.Random(0)
    return np.stack([np.array(rng.choices(range(n), k=n), np.int32) for _ in range(iters)])


lm_eval.api.metrics.bootstrap_stderr = bootstrap_stderr
# It shows a progress bar per task and has no switch for it.
lm_eval.api.task.tqdm = functools.partial(tqdm, disable=True)
# Every use of a template compiles it again, which takes most of the time that metrics take.
lm_eval.utils.env.from_string = functools.lru_cache(maxsize=1024)(lm_eval.utils.env.from_string)
datasets.disable_progress_bars()
