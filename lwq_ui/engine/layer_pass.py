"""One pass over the layers, with everything that wants to see each of them while it is at hand.

The hidden states of the whole text go through a layer before the next one is looked at. So each
layer's weights are needed once, however large the model is. A pass that ends early is kept on disk
and goes on where it was.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from itertools import accumulate
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from ..core.memory import format_gib
from ..core.run import Run
from ..core.store import keep
from .batches.padded import Batch, batch_tokens, batches
from .devices import free_bytes
from .finite import not_numbers
from .models.loading import LoadedModel
from .models.steps import Calls
from .sealed import check_seal, sealed

log = logging.getLogger(__name__)

SAVE_SECONDS = 120  # of work that is lost when a pass is killed
SHARE_OF_ROOM = 0.25  # for hidden states; beyond that they wait in the machine's memory


class Rider:
    """Looks at every layer of a pass, in order.

    For each layer a pass calls `enter` once, `watching` and `states` once per batch, then `value`.
    `states` is called only where `needs_states`; where no rider needs them, no text is computed.
    """

    needs_states = False

    def enter(self, i: int, layer: nn.Module) -> None:
        """Looks at layer i, whose weights are at hand."""

    def watching(self, i: int, layer: nn.Module, real: Tensor) -> AbstractContextManager[None]:
        """Returns what surrounds layer i's own computing of a batch.

        `real` [batch, tokens] is false on padding.
        """
        return nullcontext()

    def states(self, entered: Tensor, left: Tensor) -> None:
        """Takes the hidden states of a batch's real tokens: [tokens, hidden] each."""

    def value(self) -> float | None:
        """Returns the layer's value, and starts the next layer afresh."""
        return None


class PassRecord:
    """How far a pass has come.

    `values` and `seconds` are per rider: its layers' values, and the time it took. `states` are the
    hidden states that enter the next layer, [batch, tokens, hidden] for each batch.
    """

    def __init__(self, riders: int, path: Path | None):
        self.values: list[list[float | None]] = [[] for _ in range(riders)]
        self.seconds = [0.0] * riders
        self.states: list[Tensor] = []
        self.path = path
        self._saved = time.monotonic()

    @property
    def layer(self) -> int:
        """The layer that comes next."""
        return len(self.values[0])

    def resume(self, inputs: Sequence[Tensor], most: int) -> bool:
        """Reads a pass that was kept, and returns whether there was one to go on with.

        A pass of more than `most` layers is none. `inputs` are the ids [batch, tokens] of the
        batches that it must have states of.
        """
        if self.path is None or not os.path.exists(self.path):
            return False
        try:
            record = json.loads(check_seal(self.path)["so_far"])
            stored = safetensors.torch.load_file(self.path)
            states = [stored[str(b)] for b in range(len(inputs))]
            if any(s.shape[:2] != ids.shape for s, ids in zip(states, inputs, strict=True)):
                raise ValueError("its hidden states are of other batches")
        except (OSError, ValueError, KeyError, SafetensorError) as e:
            log.warning("Damaged file of a pass %s (%s): it is made again.", self.path, e)
            return False
        if len(record["values"]) != len(self.values) or len(record["values"][0]) > most:
            return False
        self.values, self.seconds, self.states = record["values"], record["seconds"], states
        return True

    def advance(self, values: Sequence[float | None], states: list[Tensor]) -> None:
        """Takes down the riders' values of a layer, and the states that enter the next one."""
        self.states = states
        for of_rider, value in zip(self.values, values, strict=True):
            of_rider.append(value)

    def save(self) -> None:
        """Writes the pass to its file, if it has one and any layer is done."""
        if self.path is None or not self.layer:
            return
        record = json.dumps({"values": self.values, "seconds": self.seconds})
        tensors = {str(b): state.cpu().contiguous() for b, state in enumerate(self.states)}
        keep(self.path, sealed(self.path, tensors, {"so_far": record}))
        self._saved = time.monotonic()

    def save_now_and_then(self) -> None:
        if time.monotonic() - self._saved > SAVE_SECONDS:
            self.save()

    def delete(self) -> None:
        if self.path:
            with suppress(OSError):  # where it cannot be deleted, a later pass reads or replaces it
                self.path.unlink(missing_ok=True)


def run_pass(
    loaded: LoadedModel,
    riders: Sequence[Rider],
    sequences: Sequence[Sequence[int]],
    run: Run,
    path: Path | None = None,
) -> PassRecord:
    """Takes the riders over all layers, and returns their values and seconds.

    `sequences` are the token ids that run through the layers. `path` is where a pass that ends
    early is kept: it must name everything that the result depends on. Raises UserError where a
    layer gives values that are not numbers, and Stopped.
    """
    record = PassRecord(len(riders), path)
    for _ in pass_layers(loaded, riders, sequences, run, record):
        pass
    return record


def pass_layers(
    loaded: LoadedModel,
    riders: Sequence[Rider],
    sequences: Sequence[Sequence[int]],
    run: Run,
    record: PassRecord,
    doing: str = "Scoring",
    within: range | None = None,
) -> Generator[int, None, None]:
    """Does what `run_pass` does, and yields each layer once its riders have their values.

    The layer counts as passed, and is in the record, when the next one is asked for. Layers after
    the range `within` are left out. A kept pass that is beyond the start of `within` is made again.
    """
    layers = range(len(loaded.walk))
    within = within or range(len(layers), len(layers))
    text = LayerPass(loaded, riders, sequences, run, record)
    text.start(within.start)
    try:
        for i in layers[record.layer : within.stop]:
            passed = text.take(i, f"{doing} layer {i + 1} of {len(layers)}")
            yield i
            record.advance(*passed)
            record.save_now_and_then()
    except BaseException:
        record.save()
        raise
    finally:
        text.release()
    record.delete()


class LayerPass:
    """One pass under way: a text in batches, and the riders that look on."""

    def __init__(
        self,
        loaded: LoadedModel,
        riders: Sequence[Rider],
        sequences: Sequence[Sequence[int]],
        run: Run,
        record: PassRecord,
    ):
        self.loaded = loaded
        self.riders = riders
        self.run = run
        self.record = record
        work: list[Batch] = []
        if any(rider.needs_states for rider in riders):
            kinds = loaded.walk.kinds([len(s) for s in sequences])
            work = batches(sequences, batch_tokens(loaded.info, loaded.device), kinds)
        self.inputs = [batch.tensors(loaded.device) for batch in work]
        self.padded = [not bool(real.all()) for _, real in self.inputs]
        self.calls: list[Calls] = []
        numbers = sum(ids.numel() for ids, _ in self.inputs) * loaded.walk.width
        room = free_bytes(loaded.device)[0] * SHARE_OF_ROOM
        self.waiting = loaded.device if numbers * loaded.info.dtype_bytes < room else "cpu"
        sizes = (sum(w.numel for w in layer.weights) for layer in loaded.info.layers)
        self.read_bytes = [n * loaded.info.dtype_bytes for n in accumulate(sizes)]

    @torch.no_grad()
    def start(self, most: int) -> None:
        """Goes on with a pass of at most `most` layers that was kept, or starts at layer 0."""
        resumed = self.record.resume([ids for ids, _ in self.inputs], most)
        for ids, _ in self.inputs:
            hidden, arguments = self.loaded.walk.head(ids)
            self.calls.append(arguments)
            if not resumed:
                self.record.states.append(hidden.to(self.waiting))

    @torch.no_grad()
    def take(self, i: int, what: str) -> tuple[list[float | None], list[Tensor]]:
        """Shows layer i to the riders, and takes the text through it; reports `what` meanwhile.

        Returns the riders' values and the hidden states that leave the layer.
        """
        walk, dtype = self.loaded.walk, self.loaded.info.dtype
        if self.loaded.streamed:
            read, whole = format_gib(self.read_bytes[i]), format_gib(self.read_bytes[-1])
            what += f", {read} of {whole} read"
        self.run.progress(what, i / len(walk))
        states, finite = [], []
        with walk.source.at_hand(i) as layer:
            for r, rider in enumerate(self.riders):
                began = time.perf_counter()
                rider.enter(i, layer)
                self.record.seconds[r] += time.perf_counter() - began
            for b in range(len(self.inputs)):
                self.run.check()
                self.run.progress(what, (i + b / len(self.inputs)) / len(walk))
                left, numbers = self._take_batch(i, b, layer)
                states.append(left)
                finite.append(numbers)
            self.run.check()
            if finite and not torch.stack(finite).all():
                raise not_numbers(f"Layer {i}", dtype)
            values = self._values()
        if not all(math.isfinite(value) for value in values if value is not None):
            raise not_numbers(f"A score of layer {i}", dtype)
        return values, states

    def _take_batch(self, i: int, b: int, layer: nn.Module) -> tuple[Tensor, Tensor]:
        """Returns what leaves layer i, and whether all of it are numbers (on the device)."""
        _, real = self.inputs[b]
        began = time.perf_counter()
        entered = self.record.states[b].to(self.loaded.device)
        with ExitStack() as stack:
            for rider in self.riders:
                stack.enter_context(rider.watching(i, layer, real))
            left = self.loaded.walk.step(i, entered, self.calls[b])
        waiting = left.to(self.waiting)
        seconds = time.perf_counter() - began
        numbers = torch.isfinite(left[real] if self.padded[b] else left).all()
        for r, rider in enumerate(self.riders):
            if rider.needs_states:
                began = time.perf_counter()
                tokens = [x[real] if self.padded[b] else x.flatten(0, 1) for x in (entered, left)]
                rider.states(*tokens)
                self.record.seconds[r] += seconds + time.perf_counter() - began
        return waiting, numbers

    def _values(self) -> list[float | None]:
        values = []
        for r, rider in enumerate(self.riders):
            began = time.perf_counter()
            values.append(rider.value())
            self.record.seconds[r] += time.perf_counter() - began
        return values

    def release(self) -> None:
        """Lets go of all hidden states: an exception keeps its frames, and what they refer to."""
        self.calls.clear()
        self.record.states.clear()
