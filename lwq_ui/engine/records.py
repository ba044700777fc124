"""The keys of what the engine stores, and access to it.

Imports no torch, so that the page can show cached results before torch is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..core.allocation import Split, whole
from ..core.errors import UserError
from ..core.memory import UNTOUCHED
from ..core.orderings import QUICK_SCORERS, SCORERS
from ..core.schema import Evaluation, ModelInfo, Scores
from ..core.store import LIBRARIES, Key, Store, versions
from ..core.writing import Prompt, Written
from .checkpoints.source import Source
from .quantizers import Quantizer, quantizer_named
from .tasks.base import Task
from .texts import MAX_TOKENS, Text

TEXT_FORMAT = 1  # of what is written: raise it when the sampling of tokens changes
INFO_FORMAT = 3  # of ModelInfo as JSON: raise it when a field or its meaning changes


def info_key(fingerprint: str, dtype: str) -> Key:
    """Returns the key of a model's description. `dtype` is the user's choice, also 'auto'."""
    parts = {
        "format": INFO_FORMAT,
        "dtype": dtype,
        "versions": versions("torch", "transformers"),
    }
    return Key("info", fingerprint, parts)


def scores_key(
    info: ModelInfo,
    scorer: str,
    text: Text,
    max_tokens: int | None,
    quantizer: Quantizer | None = None,
    low: float | None = None,
) -> Key:
    """Returns the key of a scorer's scores. `quantizer` and the `low` level in bits matter to a
    scorer that measures a level, and to no other."""
    spec = SCORERS[scorer]
    parts: dict[str, Any] = {
        "scorer": scorer,
        "version": spec.version,
        "dtype": info.dtype,
        "versions": versions("torch", "transformers"),
    }
    if spec.needs_text:
        most = max_tokens or spec.max_tokens
        parts |= {"text": text.digest, "document_tokens": MAX_TOKENS, "max_tokens": most}
    if spec.measures_level:
        if quantizer is None or low is None:
            raise ValueError(f"{scorer} is a score of a quantizer's level")
        parts |= {
            "quantizer": quantizer.to_json(),
            "level": low,
            "versions": versions("torch", "transformers", "optimum-quanto"),
        }
    return Key("scores", info.fingerprint, parts)


def evaluation_key(
    info: ModelInfo, task: Task, split: Split, quantizer: Quantizer, limit: int | None
) -> Key:
    """Returns the key of one split's evaluation. An untouched model has no quantizer."""
    unquantized = set(split) == {UNTOUCHED}
    parts = {
        "task": task.name,
        "data": task.data,
        "limit": task.limited(limit),
        "split": list(split),
        "quantizer": None if unquantized else quantizer.to_json(),
        "dtype": info.dtype,
        "versions": versions(*LIBRARIES),
        **prompts(task),
    }
    return Key("evaluations", info.fingerprint, parts)


def prompts(task: Task) -> dict[str, Any]:
    """Returns what a key says of a task's prompts: nothing where they are plain, as they were
    before there was a choice. The template is one of the files that the fingerprint is of."""
    return {"chat_template": True} if task.chat_template else {}


def text_key(info: ModelInfo, split: Split, quantizer: Quantizer, prompt: Prompt) -> Key:
    """Returns the key of what a split writes on from a prompt. An untouched model has no
    quantizer."""
    unquantized = set(split) == {UNTOUCHED}
    parts: dict[str, Any] = {
        "format": TEXT_FORMAT,
        "prompt": prompt.text,
        "seed": prompt.seed,
        "tokens": prompt.tokens,
        "split": list(map(whole, split)),
        "quantizer": None if unquantized else quantizer.to_json(),
        "dtype": info.dtype,
        "versions": versions("torch", "transformers", "optimum-quanto"),
    }
    if prompt.chat:
        parts["chat_template"] = True
    return Key("texts", info.fingerprint, parts)


def written_text(
    info: ModelInfo, split: Split, quantizer: Quantizer, prompt: Prompt, store: Store
) -> Written | None:
    """Returns what the split wrote before, None where nobody has asked for it."""
    return store.read(text_key(info, split, quantizer, prompt), Written.from_json)


def pass_path(scores: Sequence[Key], device: str, store: Store) -> Path:
    """Returns where an unfinished pass that computes these scores is kept. The batches depend on
    the device, so it is a part of the path."""
    parts = {"device": device, "scores": [key.digest for key in scores]}
    return store.root / Key("passes", scores[0].fingerprint, parts).path.with_suffix(".safetensors")


def journal_folder(info: ModelInfo, task: Task, quantizer: Quantizer, store: Store) -> Path:
    """Returns where a sweep keeps what it has scored of a task, for all splits and any number of
    items."""
    parts = {
        "task": task.name,
        "data": task.data,
        "quantizer": quantizer.to_json(),
        "dtype": info.dtype,
        "versions": versions(*LIBRARIES),
        **prompts(task),
    }
    return store.root / Key("journals", info.fingerprint, parts).path.with_suffix("")


def known_info(source: Source, dtype: str, store: Store) -> ModelInfo | None:
    """Returns the stored description of these files, under the name that they have now."""
    info = store.read(info_key(source.fingerprint(), dtype), ModelInfo.from_json)
    return info and replace(info, model_id=source.model_id, revision=source.revision)


def known_infos(fingerprint: str, store: Store) -> list[ModelInfo]:
    """Returns the stored descriptions of one model, the newest for each dtype."""
    infos = {
        info.dtype: info
        for parts, info in store.find("info", fingerprint, ModelInfo.from_json)
        if parts.get("format") == INFO_FORMAT
    }
    return [infos[dtype] for dtype in sorted(infos)]


def known_scores(
    info: ModelInfo,
    text: Text,
    store: Store,
    max_tokens: int | None = None,
    quantizer: Quantizer | None = None,
    low: float | None = None,
) -> dict[str, Scores]:
    """Returns the scores that are in the store, by scorer. Those that measure a level are among
    them only where `low` names one."""
    all_scores = {}
    for scorer in QUICK_SCORERS if low is None else SCORERS:
        key = scores_key(info, scorer, text, max_tokens, quantizer, low)
        if scores := store.read(key, Scores.from_json):
            all_scores[scorer] = scores
    return all_scores


def with_short_name(evaluation: Evaluation) -> Evaluation:
    """Returns the evaluation under the quantizer's name of today. Earlier versions stored the name
    that the user typed: 'quanto:group=128' for 'quanto'."""
    try:
        return replace(evaluation, quantizer=quantizer_named(evaluation.quantizer).name)
    except UserError:  # none, or one that this version does not have
        return evaluation


def known_evaluations(info: ModelInfo, tasks: Mapping[str, Task], store: Store) -> list[Evaluation]:
    """Returns all stored evaluations of this model in this dtype, as far as today's libraries and
    task data made them."""
    installed = versions(*LIBRARIES)
    return [
        with_short_name(evaluation)
        for parts, evaluation in store.find("evaluations", info.fingerprint, Evaluation.from_json)
        if parts.get("dtype") == info.dtype
        and parts.get("versions") == installed
        and (task := tasks.get(evaluation.task))
        and (parts.get("task"), parts.get("data")) == (task.name, task.data)
    ]
