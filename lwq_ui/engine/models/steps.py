"""A model computed one layer at a time, whatever its architecture.

The model's own code runs throughout; nothing of an architecture is written again here. For a
moment each layer's `forward` is replaced on the instance. Modules stay where they are, since some
architectures choose masks by a layer's index in its list.

- *head*: The model runs with layers that pass their input on. The arguments of every layer (masks,
  positions) are recorded on the way.
- *step*: One real layer is called with them.
- *tail*: The model runs with a first layer that injects the rows. So the final norm, the head and
  any scaling or soft cap are the model's own.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel

from ...core.errors import UserError
from .layers import LayersInMemory, LayerSource

Tap = Callable[[int, Tensor, tuple[Any, ...], dict[str, Any]], Tensor]
"""`tap(layer, hidden, args, kwargs)` takes the place of a layer and returns hidden states."""

Calls = list[tuple[tuple[Any, ...], dict[str, Any]]]
"""For each layer the arguments that the model calls it with, without the hidden states."""


class Positions:
    """What rotary embeddings of the kind 'dynamic' remember of the longest row they have met.

    `forget` restores what they remembered when this object was made, since a row must not depend on
    others.
    """

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


class LayerSteps:
    """Computes one model layer by layer. Hidden states are [batch, tokens, hidden].

    A layer whose own weights a step uses must be at hand: `source.at_hand(i)`. Raises UserError
    where the model does not call the decoder layers that were found.
    """

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

    @torch.no_grad()
    def head(
        self, input_ids: Tensor, visible: Tensor | None = None, positions: Tensor | None = None
    ) -> tuple[Tensor, Calls]:
        """Returns what enters layer 0, [batch, tokens, hidden], and every layer's own arguments.

        `input_ids` is [batch, tokens]. It may be padded on the right: attention is causal, so
        padding never reaches a real token. Rows that are not causal need `visible` and `positions`.
        `visible` is [batch, tokens, tokens], true where a token (first index) sees another one.
        `positions` is [batch, tokens].
        """
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

    @torch.no_grad()
    def step(
        self, i: int, hidden: Tensor, calls: Calls, weights: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Returns what layer i makes of `hidden`. `weights` replace the layer's own for this call.

        The result is on the device of `hidden`: of several GPUs, the layer may be on another.
        """
        args, kwargs = calls[i]
        with replaced_weights(self.layers[i], weights or {}):
            out = self.layers[i](hidden, *args, **kwargs)
        return (out[0] if isinstance(out, tuple | list) else out).to(hidden.device)

    @torch.no_grad()
    def tail(self, rows: Tensor) -> Tensor:
        """Returns the logits [n, vocabulary] of rows [n, hidden] that left the last layer."""
        x = rows.reshape(-1, 1, rows.shape[-1])
        ids = torch.zeros(x.shape[:2], dtype=torch.long, device=x.device)
        with self._tapped(lambda i, hidden, args, kwargs: x if i == 0 else hidden):
            logits = self.model(input_ids=ids, use_cache=False).logits
        return logits.reshape(len(rows), -1)

    def skip(self, layer: nn.Module) -> None:
        """Makes a layer of a copy of this model pass its input on."""
        self._replace(layer, lambda hidden, args, kwargs: hidden)

    def kinds(self, lengths: Sequence[int]) -> list[bytes]:
        """Returns the kind of a row of each length. Rows of different kinds share no batch.

        Some rotary embeddings (LongRoPE, dynamic) follow from a batch's longest row, padding
        included."""
        if len({self._kind(n) for n in {min(lengths), max(lengths)}}) == 1:
            return [b""] * len(lengths)
        return [self._kind(n) for n in lengths]

    def _kind(self, length: int) -> bytes:
        """Returns a hash of what the model's own code makes of the second position in a row of this
        length. A row of one token is of the kind of a row of two."""
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
        config = self.model.config.get_text_config(decoder=True)
        types = set(getattr(config, "layer_types", ()) or ())
        masks = dict.fromkeys(types, mask) if len(types) > 1 else mask
        return {"attention_mask": masks, "position_ids": positions}

    @contextmanager
    def _tapped(self, tap: Tap) -> Iterator[None]:
        hooks = [vars(layer).get("forward") for layer in self.layers]  # accelerate's, on many GPUs
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


@contextmanager
def replaced_weights(layer: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Does what torch.func.functional_call does, without its third of a millisecond per layer."""
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
