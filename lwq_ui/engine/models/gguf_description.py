"""Config and tokenizer of a model in GGUF files, in transformers' format.

transformers reads both from the file's entries, once; they are kept in the cache. It passes over
some entries that change what a model computes. Those are put right here, or the file is refused.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch
import transformers
from tokenizers.pre_tokenizers import Digits
from tokenizers.pre_tokenizers import Sequence as SplitInSteps
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer
from transformers.integrations.gguf import GGUF_CONFIG_ARCHS
from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from ...core.errors import UserError, first_line
from ...failures import refusing
from ..checkpoints.gguf_header import main_type
from ..checkpoints.gguf_source import GgufContent, GgufSource
from ..checkpoints.headers import read_part
from ..checkpoints.source import Source

ROPE_FACTORS = "rope_freqs.weight"
LLAMA3 = {
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
"""What the factors of Llama 3.1 to 3.3 are computed from, beside the main factor."""

SCALES = ("attention.scale", "logit_scale", "residual_scale", "embedding_scale")
"""Entries that transformers passes over. Models that have them compute something else without."""

RENAMED = {
    "attention.key_length": "head_dim",
    "attention.sliding_window": "sliding_window",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
    "expert_feed_forward_length": "moe_intermediate_size",
    "expert_shared_feed_forward_length": "shared_expert_intermediate_size",
}
"""Names in a config by entries. transformers reads some of them for some architectures only."""

WHOLE_NUMBERS = ("default", "gpt-2", "phi-2", "mpt", "olmo", "jais")
DIGITS = ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b")
"""Rules by which texts are split before byte pairs are joined: GPT-2's, and the same with digits
apart. transformers takes GPT-2's for every rule that it does not know."""

LARGEST = {("gemma2", 46), ("gemma3", 62)}
"""Gemma's 27B models by their layers. Their attention is scaled by the width that a head would have
without one of its own, that of all others by a head's width. No entry says so; llama.cpp goes by
the number of layers, too."""


def config_folder(source: Source) -> Path:
    """Returns the folder that transformers reads the config from. Raises UserError where it does
    not know a GGUF file's architecture."""
    folder = source.description_folder()
    if isinstance(source, GgufSource) and not (folder / "config.json").is_file():
        keep(folder, lambda new: write_config(source, new))
    return folder


def tokenizer_folder(source: Source) -> Path:
    """Returns the folder that transformers reads the tokenizer from. Raises UserError where it
    cannot read a GGUF file's."""
    folder = source.description_folder()
    if isinstance(source, GgufSource) and not (folder / "tokenizer_config.json").is_file():
        keep(folder, lambda new: write_tokenizer(source, new))
    return folder


def keep(folder: Path, write: Callable[[Path], None]) -> None:
    """Puts what `write` writes into a folder. A file appears there complete, or not at all. The one
    that others look for comes last."""
    folder.mkdir(parents=True, exist_ok=True)
    new = Path(mkdtemp(prefix="new-", dir=folder))
    try:
        write(new)
        for path in sorted(new.iterdir(), key=lambda p: p.name.endswith("_config.json")):
            path.replace(folder / path.name)
    finally:
        shutil.rmtree(new)


def write_tokenizer(source: GgufSource, folder: Path) -> None:
    file, content = source.first_file(), source.content()
    rule = content.entries.get("tokenizer.ggml.pre", "")
    if content.entries.get("tokenizer.ggml.model") != "gpt2":
        rule = ""  # only byte-level tokenizers split a text beforehand
    if rule and rule not in GGUF_PRE_TOKENIZER_SPLITS and rule not in (*WHOLE_NUMBERS, *DIGITS):
        raise UserError(
            f"The tokenizer of '{source.model_id}' splits texts by the rule '{rule}', which "
            f"transformers {transformers.__version__} does not read from a GGUF file. Choose the "
            "model in safetensors files."
        )
    with refusing(
        lambda cause: (
            f"transformers {transformers.__version__} cannot read the tokenizer of "
            f"'{source.model_id}' ({cause}). Choose the model in safetensors files."
        )
    ):
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        if rule in DIGITS:
            backend = tokenizer.backend_tokenizer
            steps = [Digits(individual_digits=True), backend.pre_tokenizer]
            backend.pre_tokenizer = SplitInSteps(steps)
        tokenizer.save_pretrained(folder)


def write_config(source: GgufSource, folder: Path) -> None:
    content, file = source.content(), source.first_file()
    try:
        config = AutoConfig.from_pretrained(
            file.parent, gguf_file=file.name, trust_remote_code=False
        )
    except Exception as e:  # its reader looks many entries up, and none may be there
        if "not supported" in str(e):
            raise unknown_architecture(source.model_id, content) from e
        raise UserError(
            f"The header of '{source.model_id}' is damaged or of a kind that transformers "
            f"{transformers.__version__} cannot read ({first_line(e)}). Choose another file of the "
            "model."
        ) from e
    config.dtype = stored_dtype(content)
    if config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:  # runtimes choose by it
        config.architectures = [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[config.model_type]]
    if content.architecture not in GGUF_CONFIG_ARCHS:
        correct(config, content, rope_factors(source, content), source.model_id)
    config.save_pretrained(folder)


def unknown_architecture(model_id: str, content: GgufContent) -> UserError:
    return UserError(
        f"'{model_id}' is of the architecture '{content.architecture}', whose GGUF files "
        f"transformers {transformers.__version__} cannot read. Choose the model in safetensors "
        "files."
    )


def stored_dtype(content: GgufContent) -> torch.dtype:
    """Returns the number format of most weights, and bfloat16 where they are quantized."""
    tensors = content.headers.tensors
    if main_type(content.entries, tensors) is not None:
        return torch.bfloat16
    sizes = dict.fromkeys(("BF16", "F16", "F32"), 0)
    for tensor in tensors.values():
        if len(tensor.shape) > 1 and tensor.dtype in sizes:
            sizes[tensor.dtype] += tensor.parameters
    formats = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
    return formats[max(sizes, key=lambda kind: sizes[kind])]


def correct(config: Any, content: GgufContent, factors: Tensor | None, model_id: str) -> None:
    """Puts entries into a config that transformers passes over. Raises UserError for those that no
    config can say."""
    entries = architecture_entries(content)
    for name in SCALES:
        if entries.get(name, 1) not in (0, 1):
            raise UserError(
                f"'{model_id}' scales numbers by {entries[name]:g} ({name}), which transformers "
                "does not read from a GGUF file. Choose the model in safetensors files."
            )
    config.tie_word_embeddings = "output.weight" not in content.headers.tensors
    for name, own in RENAMED.items():
        if name in entries and hasattr(config, own):
            setattr(config, own, entries[name])
    if hasattr(config, "query_pre_attn_scalar"):
        largest = (content.architecture, config.num_hidden_layers) in LARGEST
        by_width = config.hidden_size // config.num_attention_heads
        config.query_pre_attn_scalar = by_width if largest else config.head_dim
    if content.architecture == "gpt2":
        config.n_positions = entries["context_length"]
    correct_positions(config, entries, factors, model_id)


def architecture_entries(content: GgufContent) -> dict[str, Any]:
    """Returns the entries of a file's own architecture, without its name."""
    prefix = f"{content.architecture}."
    entries = content.entries.items()
    return {name.removeprefix(prefix): v for name, v in entries if name.startswith(prefix)}


def correct_positions(
    config: Any, entries: Mapping[str, Any], factors: Tensor | None, model_id: str
) -> None:
    """Puts base and scaling of rotary positions into a config. Raises UserError where their scaling
    is of a kind that no config can say."""
    rope = getattr(config, "rope_parameters", None)
    if rope is None:
        return
    global_rope = rope.get("full_attention", rope)  # layers with a window have one of their own
    if (base := entries.get("rope.freq_base")) is not None:
        global_rope["rope_theta"] = base
    global_rope.update(scaling(entries, model_id))
    if factors is not None:
        global_rope.update(llama3_scaling(factors, global_rope["rope_theta"], model_id))
    turned, head = entries.get("rope.dimension_count"), getattr(config, "head_dim", None)
    head = head or config.hidden_size // config.num_attention_heads
    if turned is not None and turned < head:
        global_rope["partial_rotary_factor"] = config.partial_rotary_factor = turned / head
    config.rope_parameters = rope


def scaling(entries: Mapping[str, Any], model_id: str) -> dict[str, Any]:
    """Returns what a config says of positions that are scaled to reach further. Raises UserError
    for an unknown kind."""
    kind = entries.get("rope.scaling.type", "none")
    if kind == "none":
        return {}
    if kind not in ("linear", "yarn"):
        raise UserError(
            f"'{model_id}' scales positions by the method '{kind}', which is not read from a GGUF "
            "file. Choose the model in safetensors files."
        )
    said: dict[str, Any] = {"rope_type": kind, "factor": entries.get("rope.scaling.factor", 1.0)}
    if kind == "yarn" and (original := entries.get("rope.scaling.original_context_length")):
        said["original_max_position_embeddings"] = original
    return said


def llama3_scaling(factors: Tensor, base: float, model_id: str) -> dict[str, Any]:
    """Returns what a config says of positions with these factors by frequency. Raises UserError
    where they are not computed as Llama 3's are."""
    largest = round(factors.max().item(), 3)
    said = {"rope_type": "llama3", "factor": largest, **LLAMA3}
    if not torch.allclose(factors, llama3_factors(largest, base, len(factors)), rtol=1e-3):
        raise UserError(
            f"'{model_id}' scales its positions in a way of its own ({ROPE_FACTORS}), which no "
            "config can say. Choose the model in safetensors files."
        )
    return said


def llama3_factors(factor: float, base: float, count: int) -> Tensor:
    """Returns by what the frequencies of a head with 2 * `count` numbers are divided. Source:
    transformers' `_compute_llama3_parameters`."""
    length = 2 * math.pi * base ** (torch.arange(count, dtype=torch.float64) / count)
    turns = LLAMA3["original_max_position_embeddings"] / length
    low, high = LLAMA3["low_freq_factor"], LLAMA3["high_freq_factor"]
    share = ((turns - low) / (high - low)).clamp(0, 1)
    return (1 / ((1 - share) / factor + share)).float()


def rope_factors(source: GgufSource, content: GgufContent) -> Tensor | None:
    """Returns the factors of the rotary frequencies, where a file has some."""
    tensor = content.headers.tensors.get(ROPE_FACTORS)
    if tensor is None:
        return None
    stored = reader(source)(tensor.file, tensor.start, tensor.end)
    return torch.frombuffer(bytearray(stored), dtype=torch.float32)


def reader(source: Source) -> Callable[[str, int, int], bytes]:
    """Returns access to bytes of a model's files, on this disk or on the Hub."""
    if source.download_bytes:
        return source.fetch
    return lambda file, start, end: read_part(source.folder, file, start, end)
