"""lm-eval's HFLM on a sweep: all splits answer a request at once.

Prompts, tokenization and context cuts are HFLM's own. The one method is replaced that would run the
model on a batch of token requests. Text is generated split by split, by stock HFLM on the composed
model.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import normalize_gen_kwargs
from torch import Tensor
from transformers import LogitsProcessorList

from ...core.errors import UserError
from ..banks.composing import compose
from ..batches.request import Request
from ..devices import release_memory
from ..generation import OnlyNumbers
from ..models.layers import find_layers
from ..models.steps import Positions
from ..sweeps.journal import Scored
from ..sweeps.sweep import Sweep
from ..texts import check_tokens, embeddings, first_token, tokenizing

SEED = 1234  # lm-eval's, for the examples in a prompt and for sampled text
UNBATCHED = 1 << 30  # HFLM then hands over all requests at once
MOST_ROWS = 64  # texts generated at a time
CPU_CACHE_BYTES = 2**30  # for the keys and values of those texts


class SweepLM(HFLM):
    """Answers with an array of log-likelihoods, one per split, where HFLM answers with one.

    Text is generated with split `current`.
    """

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
        self.texts = 0  # of the current split, of which some are written
        self.written = 0

    def give_padding(self) -> bool:
        """Returns whether the tokenizer has a padding token that the model has an embedding for.

        If need be another special token becomes it. Which one does not matter, since the attention
        mask hides it.
        """
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
        """The token that ends a text, None where only the model's own config names one."""
        return self.tokenizer.eos_token_id

    def tok_decode(self, tokens: Any, skip_special_tokens: bool = True) -> Any:
        """Returns None for no token: then HFLM has no text to stop at beside the task's."""
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
                # HFLM would compare the string's beginning with either token.
                special = add_special_tokens is not False
                tokens = tokenizer.encode(string, add_special_tokens=special)
            else:
                tokens = super().tok_encode(string, add_special_tokens, **kw)
        check_tokens(tokens, self.loaded)
        return tokens

    def _loglikelihood_tokens(self, requests: Any, *args: Any, **kwargs: Any) -> Any:
        answered = []
        for _, context, target in requests:
            if not context or not 0 < len(target) <= self.max_length:  # HFLM asserts the same
                raise UserError(
                    f"The task '{self.title}' has an answer of {len(target)} tokens after "
                    f"{len(context)}: this model needs at least one of each, and takes at most "
                    f"{self.max_length}."
                )
            answered.append(Request((context + target)[-(self.max_length + 1) :][:-1], target))
        scored = self.score(answered)
        return list(zip(scored.logprob, scored.greedy, strict=True))

    def score(self, requests: Sequence[Request]) -> Scored:
        """Returns what requests score under each split."""
        return self.sweep.score(requests, self.title)

    def fit(self, requests: Sequence[Instance], room: int = CPU_CACHE_BYTES) -> None:
        """Sets how many texts are written at a time, so that their keys and values fit into memory.

        They have `room` bytes on a CPU, and half of what is free on a GPU. Each attention head
        counts as having its own. Where heads share them, that leaves room for the activations.
        Texts are written one at a time where padding beside longer ones would change them.
        """
        texts = {r.args[0]: normalize_gen_kwargs(r.args[1], self.max_gen_toks) for r in requests}
        longest = max(len(self.tok_encode(t)) + k["max_gen_toks"] for t, k in texts.items())
        config = self.model.config.get_text_config(decoder=True)
        info = self.sweep.bank.loaded.info
        token_bytes = 2 * info.num_layers * config.hidden_size * info.dtype_bytes
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
        self.written, self.texts = 0, len(requests)
        torch.manual_seed(SEED)  # sampled text: the same random numbers for every split
        self._model = compose(self.sweep.bank, self.sweep.splits[self.current], self.sweep.run)
        self.positions = Positions(self._model)
        for layer in find_layers(self._model):  # modules of its own: the hooks go with it
            layer.register_forward_pre_hook(lambda *args: self.sweep.run.check())
        try:
            return super().generate_until(requests, disable_tqdm=True)
        finally:
            self._model = self.sweep.bank.loaded.model  # before the next one is composed

    def _model_generate(self, context: Tensor, *args: Any, **kwargs: Any) -> Any:
        n = len(self.sweep.splits)
        share = (self.current + self.written / self.texts) / n
        self.sweep.run.progress(f"{self.title}: writing, split {self.current + 1} of {n}", share)
        numbers = LogitsProcessorList([OnlyNumbers(self.loaded.info.dtype)])
        kwargs |= {"logits_processor": numbers, "remove_invalid_values": False}
        self.positions.forget()
        texts = super()._model_generate(context, *args, **kwargs)
        self.written += len(context)
        return texts


class ForecastLM(SweepLM):
    """Adds up the forecast `seconds` of all requests, and answers them with zeros."""

    def __init__(self, sweep: Sweep, title: str):
        super().__init__(sweep, title)
        self.seconds = 0.0

    def score(self, requests: Sequence[Request]) -> Scored:
        self.seconds += self.sweep.forecast(requests, self.title)
        return Scored.empty(len(requests), len(self.sweep.splits))
