"""One pass over the layers, with everything that wants to see each of them while it is at hand.

The hidden states of the whole text go through a layer before the next one is looked at, so each
layer's weights are needed once, however large the model is. A pass that ends early is kept on disk
and goes on where it was.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from itertools import accumulate
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from ..core.memory import format_gib
from ..core.run import Run
from ..core.store import keep
from .batches.padded import batch_tokens, batches
from .devices import free_bytes
from .finite import not_numbers
from .models.layers import layer_weights
from .models.loading import LoadedModel
from .models.walk import Calls
from .sealed import check_seal, sealed

log = logging.getLogger(__name__)

SAVE_SECONDS = 120  # of work that is lost when a pass is killed
SHARE_OF_ROOM = 0.25  # for hidden states; beyond that they wait in the machine's memory


class Rider:
    """Sees every layer in order while it is at hand: `weights` once, `watching` and `states` for
    every batch where it needs them, then `value`, which is the layer's and starts the next one
    afresh."""

    needs_states = False

    def weights(self, i: int, matrices: Sequence[Tensor]) -> None:
        """The weights of layer i that quantizers pack, as matrices [rows, columns]."""

    def watching(self, i: int, layer: nn.Module, real: Tensor) -> AbstractContextManager[None]:
        """Around layer i's own computing of a batch; `real` [batch, tokens] is false on padding."""
        return nullcontext()

    def states(self, entered: Tensor, left: Tensor) -> None:
        """Hidden states of a batch's real tokens, [tokens, hidden] each."""

    def value(self) -> float | None:
        return None


class Pass:
    """How far a pass has come: per rider its layers' values and the seconds it took, and the hidden
    states that enter the next layer."""

    def __init__(self, riders: int, path: Path | None):
        self.values: list[list[float | None]] = [[] for _ in range(riders)]
        self.seconds = [0.0] * riders
        self.states: list[Tensor] = []
        self.path = path
        self._saved = time.monotonic()

    @property
    def layer(self) -> int:
        return len(self.values[0])

    def resume(self, batches: Sequence[Tensor], most: int) -> bool:
        """Whether there was a pass to go on with, of at most so many layers. `batches` are the ids
        [batch, tokens] that it must have states of."""
        if self.path is None or not os.path.exists(self.path):
            return False
        try:
            so_far = json.loads(check_seal(self.path)["so_far"])
            stored = safetensors.torch.load_file(self.path)
            states = [stored[str(b)] for b in range(len(batches))]
            if any(s.shape[:2] != ids.shape for s, ids in zip(states, batches, strict=True)):
                raise ValueError("its hidden states are of other batches")
        except Exception as e:
            log.warning("Damaged file of a pass %s (%s): it is made again.", self.path, e)
            return False
        if len(so_far["values"]) != len(self.values) or len(so_far["values"][0]) > most:
            return False
        self.values, self.seconds, self.states = so_far["values"], so_far["seconds"], states
        return True

    def save(self) -> None:
        if self.path is None or not self.layer:
            return
        so_far = json.dumps({"values": self.values, "seconds": self.seconds})
        tensors = {str(b): state.cpu().contiguous() for b, state in enumerate(self.states)}
        keep(self.path, sealed(self.path, tensors, {"so_far": so_far}))
        self._saved = time.monotonic()

    def save_now_and_then(self) -> None:
        if time.monotonic() - self._saved > SAVE_SECONDS:
            self.save()


@torch.no_grad()
def survey(
    loaded: LoadedModel,
    riders: Sequence[Rider],
    sequences: Sequence[Sequence[int]],
    run: Run,
    path: Path | None = None,
    doing: str = "Scoring",
    within: range | None = None,
) -> Pass:
    """Takes the riders over all layers; `sequences` (token ids) are what runs through them, and
    none does where no rider needs it. `path` is where the pass is kept if it ends early: it must
    name everything that the result depends on. Where only layers `within` a range matter, those
    after it are left out, and a pass that was kept beyond its start is made again."""
    walk = loaded.walk
    states = any(r.needs_states for r in riders)
    work = []
    if states:
        kinds = walk.kinds([len(s) for s in sequences])
        work = batches(sequences, batch_tokens(loaded.info, loaded.device), kinds)
    inputs = [batch.tensors(loaded.device) for batch in work]
    padded = [not bool(real.all()) for _, real in inputs]
    done = Pass(len(riders), path)
    going_on = done.resume([ids for ids, _ in inputs], within.start if within else len(walk))
    end = within.stop if within else len(walk)
    calls: list[Calls] = []
    held = sum(len(b.rows) * len(b.rows[0]) for b in work) * loaded.walk.width
    room = free_bytes(loaded.device)[0] * SHARE_OF_ROOM
    where = loaded.device if held * loaded.info.dtype_bytes < room else "cpu"
    for ids, _ in inputs:
        hidden, arguments = walk.head(ids)
        calls.append(arguments)
        if not going_on:
            done.states.append(hidden.to(where))
    sizes = (sum(w.numel for w in layer.weights) for layer in loaded.info.layers)
    read = [numel * loaded.info.dtype_bytes for numel in accumulate(sizes)]
    try:
        for i in range(done.layer, end):
            what = f"{doing} layer {i + 1} of {len(walk)}"
            if loaded.streamed:
                what += f", {format_gib(read[i])} of {format_gib(read[-1])} read"
            run.progress(what, i / len(walk))
            with walk.source.at_hand(i) as layer:
                see_weights(i, [w.matrix() for w in layer_weights(layer)], riders, done)
                after, finite = [], []
                for b, (_, real) in enumerate(inputs):
                    run.check()
                    run.progress(what, (i + b / len(inputs)) / len(walk))
                    began = time.perf_counter()
                    entered = done.states[b].to(loaded.device)
                    with ExitStack() as stack:
                        for rider in riders:
                            stack.enter_context(rider.watching(i, layer, real))
                        left = walk.step(i, entered, calls[b])
                    after.append(left.to(where))
                    took = time.perf_counter() - began
                    finite.append(torch.isfinite(left[real] if padded[b] else left).all())
                    for r, rider in enumerate(riders):
                        if rider.needs_states:
                            began = time.perf_counter()
                            tokens = [
                                x[real] if padded[b] else x.flatten(0, 1) for x in (entered, left)
                            ]
                            rider.states(*tokens)
                            done.seconds[r] += took + time.perf_counter() - began
                run.check()
                if finite and not torch.stack(finite).all():
                    raise not_numbers(f"Layer {i}", loaded.info.dtype)
                values = []
                for r, rider in enumerate(riders):
                    began = time.perf_counter()
                    values.append(rider.value())
                    done.seconds[r] += time.perf_counter() - began
                if not all(math.isfinite(value) for value in values if value is not None):
                    raise not_numbers(f"A score of layer {i}", loaded.info.dtype)
            done.states = after
            for r, value in enumerate(values):
                done.values[r].append(value)
            done.save_now_and_then()
    except BaseException:
        done.save()
        raise
    finally:
        calls.clear()  # an exception keeps its frames, and so what they refer to
        done.states.clear()
    if path:
        with suppress(OSError):  # it is made again where it is in the way
            path.unlink(missing_ok=True)
    return done


def see_weights(i: int, matrices: list[Tensor], riders: Sequence[Rider], done: Pass) -> None:
    for r, rider in enumerate(riders):
        began = time.perf_counter()
        rider.weights(i, matrices)
        done.seconds[r] += time.perf_counter() - began
