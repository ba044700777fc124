"""Models that a typed name may mean: on the Hub, on this disk, and a short list of known ones."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

from ...core.built_in import BUILT_IN, DEMO, SMOLLM2
from ...core.errors import UserError, reason
from .gguf_source import SUFFIX, models_among
from .hub import WEIGHTS, possible_weights
from .smollm2 import is_installed

# Anything else that a person types may be a path, which the Hub need not see.
SEARCHABLE = re.compile(r"\w[\w. -]*(/[\w. -]*)?")
FILES = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+):\s*(?P<file>.*)")
CAUSAL = re.compile("CausalLM|LMHead")
QUANTIZED = {"gptq", "awq", "fp8", "compressed-tensors", "bitsandbytes", "4-bit", "8-bit", "mlx"}
SECONDS = 2.0  # a search that takes longer is of no use to a person who types


@dataclass(frozen=True)
class FoundModel:
    """A model to offer, with its `billions` of parameters. A `gated` one asks for a sign-in. One in
    a file of its own has its `bytes`."""

    model_id: str
    billions: float | None = None
    remark: str = ""
    gated: bool = False
    on_disk: bool = False
    bytes: int | None = None


@dataclass(frozen=True)
class Answer:
    """The models to offer, and a sentence that says why the Hub gave none, where that is so."""

    models: tuple[FoundModel, ...]
    reason: str = ""


def search(text: str, limit: int = 8) -> Answer:
    """Returns models whose ids hold `text`: those on this disk, then those of the Hub.

    Of the Hub's they are the `limit` most downloaded that this program can load. `owner/name:`
    stands for the GGUF files of a repository. Takes `SECONDS` at most, and raises nothing.
    """
    from huggingface_hub import constants

    text = text.strip()
    local = tuple(f for f in on_disk() if text.lower() in f.model_id.lower())
    ask: Callable[[], tuple[FoundModel, ...]]
    if files := FILES.fullmatch(text):
        ask = partial(files_of, **files.groupdict())
    elif SEARCHABLE.fullmatch(text):
        ask = partial(models_with, text, limit)
    else:
        return Answer(local)
    if constants.HF_HUB_OFFLINE:
        return Answer(local, "Hugging Face is not asked: HF_HUB_OFFLINE is set.")
    # In a thread: looking a name up takes any time, and the limit holds for each address anew.
    answers: SimpleQueue[tuple[FoundModel, ...] | str] = SimpleQueue()
    Thread(target=lambda: answers.put(asked(ask)), daemon=True).start()
    try:
        answer = answers.get(timeout=SECONDS)
    except Empty:
        return Answer(local, f"Hugging Face did not answer within {SECONDS:g} seconds.")
    if isinstance(answer, str):
        return Answer(local, answer)
    local_ids = {f.model_id for f in local}
    return Answer(local + tuple(f for f in answer if f.model_id not in local_ids))


def asked(ask: Callable[[], tuple[FoundModel, ...]]) -> tuple[FoundModel, ...] | str:
    """Returns the Hub's models, or a sentence that says why there are none."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return ask()
    except UserError as e:
        return str(e)
    except HfHubHTTPError as e:
        return f"Hugging Face does not answer this search: {reason(e)}."
    except Exception:  # a connection breaks in many ways, each with a class of its own
        return "Hugging Face cannot be reached: only models on this disk are offered."


def files_of(repository: str, file: str) -> tuple[FoundModel, ...]:
    """Returns the models in GGUF files of a repository whose names hold `file`. Raises UserError
    where there is no such repository or file, and what huggingface_hub raises."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        files = possible_weights(repository, "main", (f"*{SUFFIX}",))
    except RepositoryNotFoundError as e:
        raise UserError(f"Hugging Face knows no model '{repository}', or it is private.") from e
    models = models_among({f.name: f.bytes for f in files.values()})
    if not models:
        raise UserError(f"'{repository}' has no GGUF files.")
    return tuple(
        FoundModel(f"{repository}:{name}", bytes=size)
        for name, size in models.items()
        if file.lower() in name.lower()
    )


def models_with(text: str, limit: int) -> tuple[FoundModel, ...]:
    """Returns the Hub's models. Raises what huggingface_hub raises.

    Sends the request of HfApi.list_models, but once: that tries again for half a minute where there
    is no network.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    parameters: dict[str, Any] = {
        "search": text,
        "filter": "safetensors",
        "pipeline_tag": "text-generation",
        "sort": "downloads",
        "limit": 4 * limit,  # many are quantized already
        "expand": ["safetensors", "gated", "tags"],
    }
    response = get_session().get(
        f"{constants.ENDPOINT}/api/models",
        params=parameters,
        headers=build_hf_headers(),
        timeout=SECONDS,
    )
    hf_raise_for_status(response)
    models = [m for m in response.json() if not is_quantized(m.get("tags", ()))]
    return tuple(
        FoundModel(
            m["id"],
            billions=total / 1e9 if (total := (m.get("safetensors") or {}).get("total")) else None,
            gated=bool(m.get("gated")),
        )
        for m in models[:limit]
    )


def is_quantized(tags: list[str]) -> bool:
    """Whether a model's tags say that it is quantized already, which leaves nothing to do here."""
    return any(t.lower() in QUANTIZED or t.startswith("base_model:quantized:") for t in tags)


def on_disk() -> tuple[FoundModel, ...]:
    """Returns the program's own models, and the causal language models in the Hugging Face cache,
    by name."""
    from huggingface_hub import constants, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repositories = scan_cache_dir(constants.HF_HUB_CACHE).repos
    except CacheNotFound:
        repositories = frozenset()
    names = sorted(
        r.repo_id
        for r in repositories
        if r.repo_type == "model" and any(map(is_causal, r.revisions))
    )
    return *built_in(), *(FoundModel(name, on_disk=True) for name in names)


def built_in() -> tuple[FoundModel, ...]:
    """Returns those of the program's own models that are on this disk."""
    names = [DEMO, SMOLLM2] if is_installed() else [DEMO]
    return tuple(FoundModel(name, remark=BUILT_IN[name].remark, on_disk=True) for name in names)


def is_causal(revision: Any) -> bool:
    """Whether a cached revision holds weights, and a config of a causal language model."""
    folder = revision.snapshot_path
    if not any(next(folder.glob(pattern), None) for pattern in WEIGHTS):
        return False
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return any(map(CAUSAL.search, config["architectures"]))
    except (OSError, ValueError, KeyError, TypeError):
        return False


CURATED = (
    FoundModel("HuggingFaceTB/SmolLM2-135M", 0.13, "runs on any laptop"),
    FoundModel("EleutherAI/pythia-160m", 0.16, "trained in the open"),
    FoundModel("HuggingFaceTB/SmolLM2-360M", 0.36),
    FoundModel("Qwen/Qwen2.5-0.5B", 0.49),
    FoundModel("Qwen/Qwen3-0.6B-Base", 0.60),
    FoundModel("google/gemma-3-1b-pt", 1.0, gated=True),
    FoundModel("meta-llama/Llama-3.2-1B", 1.2, gated=True),
    FoundModel("allenai/OLMo-2-0425-1B", 1.5, "data and training in the open"),
    FoundModel("HuggingFaceTB/SmolLM2-1.7B", 1.7),
    FoundModel("google/gemma-2-2b", 2.6, gated=True),
    FoundModel("Qwen/Qwen2.5-3B", 3.1),
    FoundModel("meta-llama/Llama-3.2-3B", 3.2, gated=True),
    FoundModel("microsoft/Phi-3.5-mini-instruct", 3.8, "tuned to follow instructions"),
    FoundModel("mistralai/Mistral-7B-v0.3", 7.2),
    FoundModel("allenai/OLMo-2-1124-7B", 7.3, "data and training in the open"),
    FoundModel("Qwen/Qwen2.5-7B", 7.6),
    FoundModel("meta-llama/Llama-3.1-8B", 8.0, gated=True),
    FoundModel("Qwen/Qwen3-8B-Base", 8.2),
    FoundModel("google/gemma-2-9b", 9.2, gated=True),
    FoundModel("microsoft/phi-4", 14.7, "tuned to follow instructions"),
    FoundModel("Qwen/Qwen2.5-14B", 14.8),
    FoundModel("Qwen/Qwen3-30B-A3B-Base", 30.5, "mixture of experts, 3.3 at work"),
    FoundModel("Qwen/Qwen2.5-32B", 32.8),
    FoundModel("mistralai/Mixtral-8x7B-v0.1", 46.7, "mixture of experts, 12.9 at work"),
    FoundModel("meta-llama/Llama-3.1-70B", 70.6, gated=True),
    FoundModel("Qwen/Qwen2.5-72B", 72.7),
)
"""Well-known models from small to large, base models where the maker publishes one."""
