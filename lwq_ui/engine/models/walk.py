"""The layer-by-layer walk through any decoder-only model of transformers.

It is checked against the model's plain forward pass, and says which rows the model can take.
"""

from __future__ import annotations

import logging
from functools import cached_property

import torch
from torch import Tensor

from ...core.errors import UserError
from ...failures import out_of_memory
from ..finite import not_numbers
from .prefix_sharing import leak, small_tree, tree_error
from .steps import LayerSteps

log = logging.getLogger(__name__)

# How configs call the most tokens that a token sees, also where a layer chooses these itself; and
# what limits them along the row.
WINDOWS = (
    *("sliding_window", "sliding_window_size", "sliding_window_len"),
    *("attention_window", "attention_window_size", "keep_window_size", "index_topk"),
)
ALONG_THE_ROW = ("window_size", "attention_chunk_size", "index_topk_blocks", "index_block_size")
TOLERANCE = 0.01  # of the largest logit; every supported architecture gives the very same bits


class LayerWalk(LayerSteps):
    """Walks one model. For `check` and `shares_prefixes` every layer must be at hand."""

    @property
    def window(self) -> int:
        """How many tokens a layer looks back at, where some are limited. It is 0 where an
        architecture counts them along the row: branches would lie between a token and its
        context."""
        config = self.model.config.get_text_config(decoder=True)
        if any(getattr(config, name, None) for name in ALONG_THE_ROW):
            return 0
        sizes = [getattr(config, name, None) for name in WINDOWS]
        return min((size for size in sizes if size), default=2**31)

    @cached_property
    def shares_prefixes(self) -> bool:
        """Whether a prefix tree gives what rows of its own give, as seen on a small tree. It does
        not where a layer counts distances along the row (ALiBi) or carries a state from token to
        token."""
        limit = 1e-3 if self.model.dtype == torch.float32 else 0.05
        try:
            return (
                not self.keeps_state
                and max(map(len, small_tree(self))) < self.window
                and tree_error(self) < limit
                and leak(self) == 0
            )
        except Exception as e:  # some take no such mask, or no positions
            if out_of_memory(e):
                raise
            log.info("%s takes no trees: %r", type(self.model).__name__, e)
            return False

    @cached_property
    @torch.no_grad()
    def keeps_state(self) -> bool:
        """Whether a layer carries a state from token to token (Mamba, linear attention, short
        convolutions). The cache that the model's own code makes shows it. True where it makes
        none."""
        ids = torch.zeros(1, 2, dtype=torch.long, device=self.device)
        cache = getattr(self.model(input_ids=ids, use_cache=True), "past_key_values", None)
        layers = getattr(cache, "layers", None)
        return not layers or any(hasattr(layer, "recurrent_states") for layer in layers)

    @torch.no_grad()
    def check(self) -> None:
        """Compares the walk with the plain forward pass.

        Raises UserError where they differ, and where a result is not a number. Raises it too where
        a token sees those after it, since padding would change its figures.
        """
        vocabulary = self.model.get_input_embeddings().num_embeddings
        ids = torch.arange(24, device=self.device).reshape(2, 12) * 7919 % vocabulary
        plain = self.model(input_ids=ids, use_cache=False).logits
        if (plain.isnan() | plain.isposinf()).any() or not plain.isfinite().any():
            raise self._not_numbers(ids)
        start = self.model(input_ids=ids[:, :7], use_cache=False).logits
        largest = plain[plain.isfinite()].abs().max()  # some tokens may have minus infinity
        change = difference(start, plain[:, :7]).amax(-1) / largest
        # The median: rounding may send a single token of a mixture to another expert.
        if change.median() > (1e-3 if plain.dtype == torch.float32 else 0.02):
            raise UserError(
                f"{type(self.model).__name__} is not a causal language model: its tokens see those "
                "that come after them."
            )
        try:
            hidden, calls = self.head(ids)
            for i in range(len(self)):
                hidden = self.step(i, hidden, calls)
            walked = self.tail(hidden.flatten(0, 1)).reshape(plain.shape)
            same = bool(difference(walked, plain).max() <= TOLERANCE * largest)
        except Exception as e:  # hidden states of another shape fail anywhere in the model's code
            if out_of_memory(e):
                raise
            log.info("The walk fails on %s: %r", type(self.model).__name__, e)
            same = False
        if not same:
            raise UserError(
                f"The architecture {type(self.model).__name__} cannot be computed layer by layer: "
                "its layers share more than hidden states, so its figures would be wrong here."
            )

    def _not_numbers(self, ids: Tensor) -> UserError:
        """Returns an error that names the first layer with NaN or infinity on these tokens."""
        name, dtype = type(self.model).__name__, str(self.model.dtype).removeprefix("torch.")
        try:
            hidden, calls = self.head(ids)
            for i in range(len(self)):
                hidden = self.step(i, hidden, calls)
                if not hidden.isfinite().all():
                    return not_numbers(f"Layer {i} of {name}", dtype)
        except Exception as e:  # an architecture that the walk cannot compute
            log.info("The walk fails on %s: %r", name, e)
            return not_numbers(name, dtype)
        return not_numbers(f"The head of {name}", dtype)


def difference(a: Tensor, b: Tensor) -> Tensor:
    """Returns |a - b|, 0 where both are minus infinity."""
    return torch.where(a == b, 0.0, a - b).abs()
