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
import functools
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from threading import Thread
from typing import Any

import datasets
import lm_eval.api.metrics
import lm_eval.api.task
import lm_eval.utils
import numpy as np
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import normalize_gen_kwargs
from torch import Tensor
from tqdm import tqdm
from transformers import LogitsProcessorList

from ...core.errors import Stopped, Unexplained, UserError, first_line
from ...core.run import Run
from ...failures import out_of_memory
from ..devices import release_memory
from ..generation import OnlyNumbers
from ..models.layers import find_layers
from ..models.steps import Positions
from ..sweeps.rehearsal import Rehearsal, Rehearsed
from ..sweeps.sweep import Request, Sweep
from ..texts import check_tokens, embeddings, first_token, tokenizing
from .base import Measured
from .lm_eval_errors import UNEXPLAINED, why
from .lm_eval_results import results_of

SEED = 1234  # lm-eval's, for the examples in a prompt and for sampled text
UNBATCHED = 1 << 30  # HFLM then hands over all requests at once
MOST_ROWS = 64  # texts generated at a time
CPU_CACHE_BYTES = 2**30  # for the keys and values of those texts
GENERATE = "generate_until"


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


Load = Callable[[], dict[str, Any]]  # lm-eval's {"tasks", "groups"} with their data


def run_task(name: str, title: str, load: Load, sweep: Sweep, limit: int | None) -> list[Measured]:
    """Every split's metrics and items. Raises UserError where the task's data cannot be had, the
    task does not fit the model, or lm-eval cannot compute it for any other reason: so the other
    tasks go on."""
    try:
        return measure(name, title, load, sweep, limit)
    except (UserError, Stopped, Rehearsed):
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
        raise kind(why(name, e)) from e


def measure(name: str, title: str, load: Load, sweep: Sweep, limit: int | None) -> list[Measured]:
    sweep.run.progress(f"{title}: reading its data", None)
    loaded = apart(load, sweep.run)
    sweep.run.progress(f"{title}: writing its prompts", None)
    requests: dict[str, list[Instance]] = defaultdict(list)
    for part in loaded["tasks"].values():
        sweep.run.check()
        part.set_fewshot_seed(seed=SEED)
        part.build_all_requests(limit=limit, rank=0, world_size=1)
        for request in part.instances:
            requests[request.request_type] += [request] * request.repeats
    if not requests:
        raise UserError(f"The task '{name}' has no items.")
    if GENERATE in requests and isinstance(sweep, Rehearsal):
        raise Rehearsed(None)  # how much a model writes is known when it has written
    lm = SweepLM(sweep, title)
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
            sweep.run.progress(f"{title}: computing metrics, split {c + 1} of {of}", None)
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
        measured.append(results_of(loaded, name, sweep.run))
    for part in loaded["tasks"].values():
        part._instances = None  # a registered task is kept, its prompts need not be
    return measured


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
