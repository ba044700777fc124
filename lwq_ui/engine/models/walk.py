"""The layer-by-layer walk: any decoder-only model of transformers, one layer at hand at a time.

The model's own code runs throughout; nothing of an architecture is written again here. For a
moment each layer's `forward` is replaced on the instance (modules stay where they are, since some
architectures choose masks by a layer's index in its list):

- *head*: the model runs with layers that pass their input on, and every layer's own arguments
  (masks, positions) are recorded on the way;
- *step*: one real layer is called with them;
- *tail*: the model runs with a first layer that injects the rows wanted, so that the final norm,
  the head and any scaling or soft cap are the model's own.
"""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel

from ...core.errors import UserError
from ...failures import out_of_memory
from ..batches.prefix_trees import Request, Rows, tree
from ..finite import not_numbers
from .layers import LayersInMemory, LayerSource

log = logging.getLogger(__name__)

Tap = Callable[[int, Tensor, tuple[Any, ...], dict[str, Any]], Tensor]
Calls = list[tuple[tuple[Any, ...], dict[str, Any]]]

# How configs call the most tokens that a token sees, also where a layer chooses these itself; and
# what limits them along the row.
WINDOWS = (
    *("sliding_window", "sliding_window_size", "sliding_window_len"),
    *("attention_window", "attention_window_size", "keep_window_size", "index_topk"),
)
ALONG_THE_ROW = ("window_size", "attention_chunk_size", "index_topk_blocks", "index_block_size")
TOLERANCE = 0.01  # of the largest logit; every supported architecture gives the very same bits


class Positions:
    """What a model's rotary embeddings of the kind 'dynamic' remember of the longest row they have
    met. `forget` puts back what they had when this was made: a row must not depend on others."""

    REMEMBERED = ("max_seq_len_cached", "attention_scaling")

    def __init__(self, model: PreTrainedModel):
        self._fresh = [
            (m, dict(m._buffers), {k: v for k, v in vars(m).items() if k in self.REMEMBERED})
            for m in model.modules()
            if "max_seq_len_cached" in vars(m)
        ]

    def forget(self) -> None:
        for module, buffers, values in self._fresh:
            module._buffers.update(buffers)
            vars(module).update(values)


class LayerWalk:
    """Walks one model. Hidden states are [batch, tokens, hidden]. A layer whose own weights a step
    takes must be at hand (`walk.source.at_hand(i)`), and so must every layer for the checks."""

    def __init__(self, model: PreTrainedModel, source: LayerSource | None = None):
        self.model = model.eval()
        self.source = source or LayersInMemory(model)
        self.layers = self.source.modules
        self._tuple_out = self._layers_return_tuples()
        self.positions = Positions(model)
        self._kinds: dict[int, bytes] = {}

    def __len__(self) -> int:
        return len(self.layers)

    @property
    def width(self) -> int:
        """Numbers of a token's hidden state."""
        return self.model.config.get_text_config(decoder=True).hidden_size

    @property
    def device(self) -> torch.device:
        return self.model.device

    @torch.no_grad()
    def _layers_return_tuples(self) -> bool:
        seen: list[bool] = []
        hook = self.layers[0].register_forward_hook(
            lambda module, args, out: seen.append(isinstance(out, tuple | list))
        )
        try:
            ids = torch.zeros(1, 2, dtype=torch.long, device=self.device)
            self.model(input_ids=ids, use_cache=False)
        finally:
            hook.remove()
        if not seen:
            raise UserError(
                f"The decoder layers of {type(self.model).__name__} were not found, so it cannot "
                "be quantized layer by layer."
            )
        return seen[0]

    @property
    def window(self) -> int:
        """How many tokens a layer looks back at, where some are limited. 0 where an architecture
        counts them along the row, in which branches would lie between a token and its context."""
        config = self.model.config.get_text_config(decoder=True)
        if any(getattr(config, name, None) for name in ALONG_THE_ROW):
            return 0
        sizes = [getattr(config, name, None) for name in WINDOWS]
        return min((size for size in sizes if size), default=2**31)

    @cached_property
    def shares_prefixes(self) -> bool:
        """Whether a prefix tree (see rows.py) gives what rows of its own give: not where a layer
        counts distances along the row (ALiBi) or carries a state from token to token. Found out on
        a small tree."""
        try:
            limit = 1e-3 if self.model.dtype == torch.float32 else 0.05
            return not self.keeps_state and self._tree_error() < limit and self._leak() == 0
        except Exception as e:  # some take no such mask, or no positions
            if out_of_memory(e):
                raise
            log.info("%s takes no trees: %r", type(self.model).__name__, e)
            return False

    @cached_property
    @torch.no_grad()
    def keeps_state(self) -> bool:
        """Whether a layer carries a state from token to token (Mamba, linear attention, short
        convolutions), by the cache that the model's own code makes. True where it makes none."""
        ids = torch.zeros(1, 2, dtype=torch.long, device=self.device)
        cache = getattr(self.model(input_ids=ids, use_cache=True), "past_key_values", None)
        layers = getattr(cache, "layers", None)
        return not layers or any(hasattr(layer, "recurrent_states") for layer in layers)

    @torch.no_grad()
    def _leak(self) -> float:
        """How much of a tree's first branch the others see, which must be nothing: the change that
        other tokens there make, relative to what a layer changes. Layers are compared one by one,
        and the median over tokens is taken, as in `_tree_error`."""
        sequences = self._small_tree()
        paths = tree(sequences).paths
        own = sorted(set(paths[0]) - set(paths[1]) - set(paths[2]))
        others = sorted({*paths[1], *paths[2]} - set(paths[0]))
        ids, *arguments = Rows([Request(s, ()) for s in sequences], [[0, 1, 2]]).tensors(
            str(self.device)
        )
        hidden, calls = self.head(ids, *arguments)
        ids[0, own] = ids[0, own].flip(0)
        changed, changed_calls = self.head(ids, *arguments)
        leaks = []
        for i in range(len(self)):
            beside = hidden.clone()
            beside[:, own] = changed[:, own]
            after, changed = self.step(i, hidden, calls), self.step(i, beside, changed_calls)
            change = (after - hidden).float().norm(dim=-1)
            leaks.append(((after - changed).float().norm(dim=-1) / change)[0, others].median())
            hidden = after
        return torch.stack(leaks).max().item()

    def _small_tree(self) -> list[list[int]]:
        """Three sequences with a common beginning of 12 tokens, in lexicographic order."""
        vocabulary = self.model.get_input_embeddings().num_embeddings
        ids = (torch.arange(1, 45) * 7919 % vocabulary).sort().values.tolist()
        context, rest = ids[:12], ids[12:]
        return [context + rest[:12], context + rest[12:22], context + rest[12:16] + rest[22:]]

    @torch.no_grad()
    def _tree_error(self) -> float:
        """The largest error of a layer on the later branches of a tree, relative to what the layer
        changes. Layers are compared one by one on the same input, so rounding does not add up; the
        median over tokens, since in a mixture rounding may send a token to another expert."""
        sequences = self._small_tree()
        context = sequences[0][:12]
        if max(map(len, sequences)) >= self.window:
            return float("inf")
        device = str(self.device)
        requests = [Request(s, ()) for s in sequences]
        paths = tree(sequences).paths
        hidden, calls = self.head(*Rows(requests, [[0, 1, 2]]).tensors(device))
        alone = [self.head(*Rows(requests, [[k]]).tensors(device)) for k in range(3)]
        errors = [
            (hidden[:, path] - own).norm() / own.norm()
            for path, (own, _) in zip(paths, alone, strict=True)
        ]
        for i in range(len(self)):
            after = self.step(i, hidden, calls)
            for path, (_, own) in zip(paths[1:], alone[1:], strict=True):
                expected = self.step(i, hidden[:, path], own)
                change = (expected - hidden[:, path]).float().norm(dim=-1)
                error = (after[:, path] - expected).float().norm(dim=-1)
                errors.append((error / change)[0, len(context) :].median())
            hidden = after
        return torch.stack(errors).max().item()

    @contextmanager
    def _tapped(self, tap: Tap) -> Iterator[None]:
        hooks = [
            vars(layer).get("forward") for layer in self.layers
        ]  # accelerate's, on several GPUs
        for i, layer in enumerate(self.layers):
            self._replace(layer, functools.partial(tap, i))
        try:
            yield
        finally:
            for layer, hook in zip(self.layers, hooks, strict=True):
                vars(layer).pop("forward")
                if hook:
                    vars(layer)["forward"] = hook

    def _replace(self, layer: nn.Module, instead: Callable[..., Tensor]) -> None:
        def forward(*args: Any, **kwargs: Any) -> Any:
            if args:
                hidden, args = args[0], args[1:]
            else:
                hidden = kwargs.pop("hidden_states")
            hidden = instead(hidden, args, kwargs)
            return (hidden,) if self._tuple_out else hidden

        vars(layer)["forward"] = forward

    def skip(self, layer: nn.Module) -> None:
        """Makes a layer of a copy of this model pass its input on."""
        self._replace(layer, lambda hidden, args, kwargs: hidden)

    @torch.no_grad()
    def head(
        self, input_ids: Tensor, visible: Tensor | None = None, positions: Tensor | None = None
    ) -> tuple[Tensor, Calls]:
        """input_ids [batch, tokens], right padding allowed (attention is causal, so padding never
        reaches a real token) -> what enters layer 0, and every layer's own arguments. For other
        than causal rows: `visible` [batch, tokens, tokens], true where a token (first index) sees
        another, and `positions` [batch, tokens]."""
        entering: list[Tensor] = []
        calls: Calls = [((), {})] * len(self)

        def tap(i: int, hidden: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
            if i == 0:
                entering.append(hidden)
            calls[i] = (args, kwargs)
            return hidden

        self.positions.forget()
        base = getattr(self.model, self.model.base_model_prefix, self.model)  # skips the lm_head
        with self._tapped(tap):
            base(input_ids=input_ids, use_cache=False, **self._attending(visible, positions))
        return entering[0], calls

    def kinds(self, lengths: Sequence[int]) -> list[bytes]:
        """The kind of a row of each length. Rows of different kinds share no batch: some rotary
        embeddings (LongRoPE, dynamic) follow from the longest row of a batch, padding included."""
        if len({self._kind(n) for n in {min(lengths), max(lengths)}}) == 1:
            return [b""] * len(lengths)
        return [self._kind(n) for n in lengths]

    def _kind(self, length: int) -> bytes:
        """What the model's own code makes of the second position in a row of this length. A row of
        one token is as one of two."""
        length = max(length, 2)
        if length not in self._kinds:
            ids = torch.zeros(1, length, dtype=torch.long, device=self.device)
            content = hashlib.sha256()
            for tensor in tree_leaves(self.head(ids)[1]):
                if isinstance(tensor, Tensor) and tensor.ndim > 2 and tensor.shape[-2] == length:
                    numbers = torch.view_as_real(tensor) if tensor.is_complex() else tensor
                    if numbers.is_floating_point() and tensor.shape[-1] != length:
                        second = numbers.narrow(-3 if tensor.is_complex() else -2, 1, 1)
                        content.update(second.float().cpu().numpy().tobytes())
            self._kinds[length] = content.digest()
        return self._kinds[length]

    def _attending(self, visible: Tensor | None, positions: Tensor | None) -> dict[str, Any]:
        if visible is None:
            return {}
        dtype = self.model.dtype
        mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
        mask = mask.masked_fill_(~visible, torch.finfo(dtype).min)[:, None]
        types = set(
            getattr(self.model.config.get_text_config(decoder=True), "layer_types", ()) or ()
        )
        per_type = dict.fromkeys(types, mask)
        return {
            "attention_mask": per_type if len(types) > 1 else mask,
            "position_ids": positions,
        }

    @torch.no_grad()
    def step(
        self, i: int, hidden: Tensor, calls: Calls, weights: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Layer i on hidden, on whose device the result is, too: of several GPUs, layers may lie on
        another. `weights` stand in for the layer's own for this one call."""
        args, kwargs = calls[i]
        with self._standing_in(self.layers[i], weights or {}):
            out = self.layers[i](hidden, *args, **kwargs)
        return (out[0] if isinstance(out, tuple | list) else out).to(hidden.device)

    @contextmanager
    def _standing_in(self, layer: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
        """What torch.func.functional_call does, without its third of a millisecond for a layer."""
        own: list[tuple[dict[str, Any], str, Any]] = []
        try:
            for path, tensor in weights.items():
                module, _, name = path.rpartition(".")
                parameters: dict[str, Any] = layer.get_submodule(module)._parameters
                own.append((parameters, name, parameters[name]))
                parameters[name] = tensor
            yield
        finally:
            for parameters, name, parameter in own:
                parameters[name] = parameter

    @torch.no_grad()
    def tail(self, rows: Tensor) -> Tensor:
        """rows [n, hidden] as the last layer gives them -> logits [n, vocabulary]."""
        x = rows.reshape(-1, 1, rows.shape[-1])
        ids = torch.zeros(x.shape[:2], dtype=torch.long, device=x.device)
        with self._tapped(lambda i, hidden, args, kwargs: x if i == 0 else hidden):
            logits = self.model(input_ids=ids, use_cache=False).logits
        return logits.reshape(len(rows), -1)

    @torch.no_grad()
    def check(self) -> None:
        """Compares the walk with the plain forward pass. Raises UserError where they differ, and
        where a token sees those after it: padding would change its figures."""
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
        """Names the first layer that gives NaN or infinity on these tokens."""
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
    """|a - b|, 0 where both are minus infinity."""
    return torch.where(a == b, 0.0, a - b).abs()
