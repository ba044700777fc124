"""Lets a model write on from a prompt, with random numbers that another one meets, too."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.generation.streamers import BaseStreamer

from ..core.errors import UserError
from ..core.run import Run
from .chat import user_turn
from .finite import not_numbers
from .models.loading import LoadedModel
from .texts import check_tokens, first_token, token_ids

MOST_TOKENS = 4096  # of the prompt and what is written
TEMPERATURE = 0.8
TOP_K = 40


class SeededSampling(LogitsProcessor):
    """Turns greedy search into sampling.

    The most likely token after adding Gumbel noise is a draw from the softmax. The noise comes from
    a generator of our own. So two models with one seed meet the same random numbers, and differ
    only where their predictions do.
    """

    def __init__(self, seed: int):
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        least = scores.topk(min(TOP_K, scores.shape[-1]), dim=-1).values[:, -1:]
        scores = scores.float().masked_fill(scores < least, -torch.inf)
        uniform = torch.rand(scores.shape, generator=self.generator).clamp_min(1e-20)
        return scores / TEMPERATURE - (-uniform.log()).log().to(scores.device)


class OnlyNumbers(LogitsProcessor):
    """Raises UserError where a model has no most likely token. -inf rules a token out."""

    def __init__(self, dtype: str):
        self.dtype = dtype

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if not scores.amax(-1).isfinite().all():  # NaN is the largest of all
            raise not_numbers("The model", self.dtype)
        return scores


class StopWhen(StoppingCriteria):
    """Ends generation when the event is set."""

    def __init__(self, stop: threading.Event):
        self.stop = stop

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Any:
        return torch.full((len(input_ids),), self.stop.is_set(), device=input_ids.device)


class Tokens(BaseStreamer):
    """Hands every new token to a callback. The prompt comes first and is left out."""

    def __init__(self, receive: Any):
        self.receive = receive
        self.prompt_seen = False

    def put(self, value: Tensor) -> None:
        if self.prompt_seen:
            self.receive(value.reshape(-1).tolist())
        self.prompt_seen = True

    def end(self) -> None:
        pass


def fit_prompt(
    loaded: LoadedModel, prompt: str, max_tokens: int, chat: bool = False
) -> tuple[list[int], int]:
    """Returns the prompt's tokens and the number of tokens to write, which fit the model together.

    With `chat`, the prompt is the user's turn. A long prompt loses its beginning, a long turn the
    end of its text. Both keep at least half of the room. Raises UserError where there is no token
    to begin with, or the model has no embedding for one. Raises it too as `user_turn` does.
    """
    longest = loaded.max_tokens(MOST_TOKENS)
    most = max(1, longest // 2, longest - max_tokens)
    ids = user_turn(loaded, prompt, most) if chat else token_ids(loaded, prompt, verbose=False)
    if not ids:
        first = first_token(loaded)
        if first is None:
            raise UserError(
                f"The tokenizer of '{loaded.info.model_id}' has no token that begins a text. Type "
                "the beginning of a text."
            )
        ids = [first]
    check_tokens(ids, loaded)
    ids = ids[-most:]
    return ids, max(1, min(max_tokens, longest - len(ids)))  # the last one takes no position


def generate_options(
    loaded: LoadedModel, seed: int, max_tokens: int, stop: threading.Event
) -> dict[str, Any]:
    """Returns arguments of transformers' `generate` for one model and one prompt."""
    processors = [OnlyNumbers(loaded.info.dtype), SeededSampling(seed)]
    return {
        "max_new_tokens": max_tokens,
        "do_sample": False,
        "logits_processor": LogitsProcessorList(processors),
        "remove_invalid_values": False,  # would hide them
        "stopping_criteria": StoppingCriteriaList([StopWhen(stop)]),
        "pad_token_id": 0,  # of one text nothing is padded
    }


def write_on(
    model: PreTrainedModel,
    loaded: LoadedModel,
    prompt: Sequence[int],
    seed: int,
    max_tokens: int,
    run: Run,
) -> Iterator[str]:
    """Yields the text so far, whenever it grows.

    `prompt` and `max_tokens` come from `fit_prompt`. Raises UserError where the model computes
    values that are not numbers.
    """
    ids = torch.tensor([list(prompt)], device=model.device)
    news: queue.SimpleQueue[list[int] | BaseException | None] = queue.SimpleQueue()

    def write() -> None:
        generator: Any = model
        try:
            generator.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                streamer=Tokens(news.put),
                **generate_options(loaded, seed, max_tokens, run.stop),
            )
            news.put(None)
        except BaseException as e:
            news.put(e)

    threading.Thread(target=write, daemon=True).start()
    written: list[int] = []
    while (tokens := news.get()) is not None:
        if isinstance(tokens, BaseException):
            raise tokens
        written += tokens
        yield loaded.tokenizer.decode(written, skip_special_tokens=True)
