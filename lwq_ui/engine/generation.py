"""Two models write on from the same prompt, with the same random numbers."""

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

TEMPERATURE = 0.8
TOP_K = 40


class SeededSampling(LogitsProcessor):
    """Turns greedy search into sampling: the most likely token after adding Gumbel noise is a draw
    from the softmax. The noise comes from a generator of our own, so two models that sample with
    one seed meet the same random numbers, and differ only where their predictions do."""

    def __init__(self, seed: int):
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        least = scores.topk(min(TOP_K, scores.shape[-1]), dim=-1).values[:, -1:]
        scores = scores.float().masked_fill(scores < least, -torch.inf)
        uniform = torch.rand(scores.shape, generator=self.generator).clamp_min(1e-20)
        return scores / TEMPERATURE - (-uniform.log()).log().to(scores.device)


class StopWhen(StoppingCriteria):
    def __init__(self, stop: threading.Event):
        self.stop = stop

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Any:
        return torch.full((len(input_ids),), self.stop.is_set(), device=input_ids.device)


class Tokens(BaseStreamer):
    """Hands every new token to a callback; the prompt comes first and is left out."""

    def __init__(self, receive: Any):
        self.receive = receive
        self.prompt_seen = False

    def put(self, value: Tensor) -> None:
        if self.prompt_seen:
            self.receive(value.reshape(-1).tolist())
        self.prompt_seen = True

    def end(self) -> None:
        pass


def write_on(
    models: Sequence[PreTrainedModel],
    tokenizer: Any,
    prompt: str,
    seed: int,
    max_tokens: int,
    longest: int,
    stop: threading.Event,
) -> Iterator[list[str]]:
    """The texts so far, one per model, whenever one grows. `longest` is the most tokens that the
    models take; a longer prompt loses its beginning."""
    device = models[0].device
    ids = tokenizer(prompt or tokenizer.bos_token or " ", return_tensors="pt")["input_ids"]
    ids = ids[:, -max(1, longest - max_tokens) :].to(device)
    news: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()

    cores = torch.get_num_threads()

    def run(k: int) -> None:
        model: Any = models[k]
        torch.set_num_threads(max(1, cores // len(models)))  # or both would fight for all cores
        try:
            model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=max_tokens,
                do_sample=False,
                logits_processor=LogitsProcessorList([SeededSampling(seed)]),
                stopping_criteria=StoppingCriteriaList([StopWhen(stop)]),
                streamer=Tokens(lambda tokens: news.put((k, tokens))),
                pad_token_id=tokenizer.pad_token_id or tokenizer.eos_token_id or 0,
            )
            news.put((k, None))
        except BaseException as e:
            news.put((k, e))

    threads = [threading.Thread(target=run, args=(k,), daemon=True) for k in range(len(models))]
    for thread in threads:
        thread.start()
    written: list[list[int]] = [[] for _ in models]
    running = len(models)
    error: BaseException | None = None
    try:
        while running:
            k, tokens = news.get()
            if isinstance(tokens, list):
                written[k] += tokens
                yield [tokenizer.decode(w, skip_special_tokens=True) for w in written]
                continue
            running -= 1
            if tokens is not None:
                error = tokens
                stop.set()
    finally:
        torch.set_num_threads(cores)
    if error:
        raise error
