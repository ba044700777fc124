"""What a model takes beside its weights. So a budget can be given as people think of it: as a card,
a context and a batch. What a model keeps per token comes from ModelInfo."""

from __future__ import annotations

from dataclasses import dataclass

from .errors import UserError
from .memory import DTYPE_BYTES, GIB, OWN_DTYPE, apart, format_gib
from .schema import ModelInfo

MIB = 2**20

# A GPU's memory is partly taken before the first tensor. The driver's context with torch's kernels
# takes about 300 to 500 MiB on cards from Turing to Hopper, cuBLAS's workspace 8 to 32 MiB. The
# allocator rounds up and cannot hand out the rest. A desktop shown on the same card comes on top.
RESERVE = 768 * MIB

LOGITS = 32  # bytes per word of the vocabulary, while the next token is drawn

CACHE_DTYPES = {**DTYPE_BYTES, "float8": 1}

# A card sold with 24 GB has 24 GiB of memory. Drivers report a little less (23.6 GiB of an RTX
# 4090), since firmware and page tables take their part first; RESERVE covers that. An H200, sold
# with 141 GB, reports 140.4 GiB.
CARDS = tuple(
    (f"{names}: {size / GIB:.4g} GiB", size)
    for names, size in (
        ("RTX 3050, 3060 Ti, 4060", 8 * GIB),
        ("RTX 3060, 4070", 12 * GIB),
        ("T4, RTX 4060 Ti, 4080, 5080", 16 * GIB),
        ("L4, A10, RTX 3090, 4090", 24 * GIB),
        ("RTX 5090", 32 * GIB),
        ("A100 with 40 GB", 40 * GIB),
        ("A40, L40S, RTX A6000", 48 * GIB),
        ("A100 with 80 GB, H100", 80 * GIB),
        ("H200", 140 * GIB),
    )
)


@dataclass(frozen=True)
class Workload:
    """How a model is to be used: `context` tokens, read and written, in each of `batch` sequences.
    `cache_dtype` is one of CACHE_DTYPES, or 'auto' for the model's own.

    Raises UserError where a value is not one of these.
    """

    context: int = 8192
    batch: int = 1
    cache_dtype: str = OWN_DTYPE

    def __post_init__(self) -> None:
        if self.context < 1 or self.batch < 1:
            raise UserError("Context and batch must be whole numbers above 0.")
        if self.cache_dtype not in (OWN_DTYPE, *CACHE_DTYPES):
            raise UserError(
                f"There is no cache dtype '{self.cache_dtype}'. Choose one of: "
                f"{', '.join((OWN_DTYPE, *CACHE_DTYPES))}."
            )

    def dtype_bytes(self, info: ModelInfo) -> int:
        return info.dtype_bytes if self.cache_dtype == OWN_DTYPE else CACHE_DTYPES[self.cache_dtype]


@dataclass(frozen=True)
class MemoryUse:
    """What fills a card, in bytes."""

    weights: int
    cache: int
    activations: int
    reserve: int

    @property
    def total(self) -> int:
        return self.weights + self.cache + self.activations + self.reserve


def default_context(info: ModelInfo) -> int:
    """Returns the tokens of a workload that names none, or the model's limit where that is less."""
    return min(Workload.context, info.max_tokens or Workload.context)


def kv_cache_bytes(info: ModelInfo, context: int, batch: int, dtype_bytes: int) -> int:
    """Returns the bytes of all layers' keys and values, of `context` tokens in `batch` sequences.

    A layer with a window counts `window` tokens. Between two tokens transformers keeps one less,
    but while a token is computed its own keys and values exist, too.

    Raises UserError where it is not known what a layer keeps.
    """
    numbers = 0
    for layer in info.layers:
        if layer.cached is None:
            raise unknown(info)
        numbers += layer.cached * min(context, layer.window or context)
    return numbers * batch * dtype_bytes


def activation_bytes(info: ModelInfo, context: int, batch: int) -> int:
    """Returns the most bytes that exist at once beside weights and cache. transformers reads a
    prompt of `context` tokens and writes text:

        batch * (max(context * token_bytes + context^2 * pair_bytes, 32 * vocabulary) + held)
        + largest * (dtype_bytes + 1)

    - `token_bytes` and `pair_bytes` come from the model's code (engine/models/footprint.py). They
      cover the states of one layer at its widest place, masks, and the scores of unfused attention.
    - 32 bytes per word of the vocabulary cover the last token's logits. While a token is drawn,
      copies of them exist in float32.
    - `held`: after the prompt, layers with a window hold all its keys and values until the next
      token.
    - `largest`: quantized weights become their matrix again to be used, beside its unpacked values
      of one byte. This is the largest matrix of all layers.

    All sequences of a batch count as equally long. Runtimes with kernels of their own (llama.cpp,
    vLLM) need less.

    Raises UserError where it is not known what the model takes.
    """
    if info.token_bytes is None or info.pair_bytes is None:
        raise unknown(info)
    held = sum(
        (layer.cached or 0) * max(0, context - layer.window)
        for layer in info.layers
        if layer.window is not None
    )
    largest = max((w.numel for layer in info.layers for w in layer.weights), default=0)
    reading = context * info.token_bytes + int(context * context * info.pair_bytes)
    beside = max(reading, LOGITS * info.vocabulary) + held * info.dtype_bytes
    return batch * beside + largest * (info.dtype_bytes + 1)


def memory_use(
    info: ModelInfo, workload: Workload, weights: int, reserve: int = RESERVE
) -> MemoryUse:
    """Returns what fills a card that holds `weights` bytes of weights. Raises UserError where that
    is not known."""
    return MemoryUse(
        weights,
        kv_cache_bytes(info, workload.context, workload.batch, workload.dtype_bytes(info)),
        activation_bytes(info, workload.context, workload.batch),
        reserve,
    )


def weights_budget(
    card_bytes: int, info: ModelInfo, workload: Workload, smallest: int = 0, reserve: int = RESERVE
) -> int:
    """Returns the bytes that a card of `card_bytes` has left for weights. Raises UserError where
    these are fewer than `smallest`, the bytes of the smallest split."""
    beside = memory_use(info, workload, 0, reserve)
    left = card_bytes - beside.total
    if left < max(1, smallest):
        left_text, lowest = apart(left, smallest)
        room = f"{left_text} are" if left > 0 else "nothing is"
        least = f", and the smallest split takes {lowest}" if smallest else ""
        raise UserError(
            f"{format_gib(card_bytes)} do not hold this model: after {format_gib(beside.cache)} of "
            f"KV cache, {format_gib(beside.activations)} of activations and {format_gib(reserve)} "
            f"for the driver, {room} left for weights{least}. Choose fewer tokens of context, a "
            "smaller batch, lower levels or a larger card."
        )
    return left


def unknown(info: ModelInfo) -> UserError:
    return UserError(
        f"What {info.architecture} keeps of every token is not known to this program, so a card "
        "cannot be shared out. Give the budget for the weights in GiB instead."
    )
