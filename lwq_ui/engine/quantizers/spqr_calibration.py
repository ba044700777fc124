"""Packs a model's layers by SpQR in one pass: sees what enters their weights, then runs Algorithm
1."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ...core.errors import UserError
from ...core.run import Run
from ..layer_pass import PassRecord, Rider, pass_layers
from ..models.layers import LayerWeight, layer_weights
from ..models.loading import LoadedModel
from .calibrated import PackedLayers
from .spqr_algorithm import Packed, gains, inverse_root, most_useful, packed
from .spqr_format import outlier_count


def pack_layers(
    loaded: LoadedModel,
    wanted: Sequence[tuple[int, float]],
    sequences: Sequence[Sequence[int]],
    run: Run,
    folder: Path | None,
) -> PackedLayers:
    """Yields these (layer, level), packed. `sequences` are token ids. A pass that ends early is
    kept in `folder`. Raises Stopped, and UserError where a weight cannot be packed."""
    levels: dict[int, list[float]] = defaultdict(list)
    for layer, level in wanted:
        levels[layer].append(level)
    for i in levels:
        for w in layer_weights(loaded.walk.layers[i]):
            if w.parameter.ndim > 2:
                raise unseen(w.name)
    path = folder / f"pass-{loaded.device}.safetensors" if folder else None
    record = PassRecord(1, path)
    within = range(min(levels), max(levels) + 1)
    rider = SpQRPacking(levels, run)
    layers = pass_layers(loaded, [rider], sequences, run, record, "Packing", within)
    with closing(layers):
        for i in layers:
            for level in levels.get(i, ()):
                yield i, level, rider.packed.pop(level)


class Hessians:
    """H = 2/n * sum of x x^T over the n real tokens x that enter a module, for every module of a
    layer that holds a weight. Modules that get the same tensor share one."""

    def __init__(self, weights: Sequence[LayerWeight]):
        self.weights = weights
        self.first: dict[nn.Module, nn.Module] = {}  # -> the first that gets the same tensor
        self.sums: dict[nn.Module, Tensor] = {}
        self.tokens: dict[nn.Module, int] = defaultdict(int)

    @contextmanager
    def watching(self, real: Tensor) -> Iterator[None]:
        """Adds what enters the modules while the layer computes a batch. `real` [batch, tokens] is
        false on padding."""
        seen: list[tuple[Tensor, nn.Module]] = []

        def see(module: nn.Module, args: tuple[Any, ...]) -> None:
            x = args[0]
            first = next((m for y, m in seen if y is x), module)
            self.first[module] = first
            if first is module:
                seen.append((x, module))
                self.add(module, x.reshape(-1, x.shape[-1]), real.flatten().to(x.device))

        hooks = [w.module.register_forward_pre_hook(see) for w in self.weights]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def add(self, module: nn.Module, x: Tensor, real: Tensor) -> None:
        """Adds tokens to a module's sum: x [batch * tokens, inputs], real [batch * tokens]. Raises
        UserError where the module sees other tokens than the layer."""
        if len(x) != len(real):
            name = next(w.name for w in self.weights if w.module is module)
            raise unseen(name)
        x = x[real].float()
        self.tokens[module] += len(x)
        if module in self.sums:
            self.sums[module].addmm_(x.T, x)
        else:
            self.sums[module] = x.T @ x

    def by_input(self) -> Iterator[tuple[Tensor, list[LayerWeight]]]:
        """Yields each H with the weights that share its inputs. Raises UserError for a weight that
        nothing entered."""
        sharing: dict[nn.Module, list[LayerWeight]] = defaultdict(list)
        for w in self.weights:
            if w.module not in self.first:
                raise unseen(w.name)
            sharing[self.first[w.module]].append(w)
        for module, weights in sharing.items():
            yield self.sums.pop(module).mul_(2 / self.tokens[module]), weights


def unseen(name: str) -> UserError:
    """Returns the error for a weight that does not see every token of the text."""
    return UserError(
        f"SpQR cannot pack {name}: it has to see what enters a weight for every token of the text, "
        "and here it does not, as with the experts of a mixture. Choose Quanto instead."
    )


class SpQRPacking(Rider):
    """Sees what enters the weights of a layer, then packs it at each of its `levels`. `packed` has
    the layer that was packed last: level -> weight name -> packed weight."""

    needs_states = True

    def __init__(self, levels: Mapping[int, Sequence[float]], run: Run):
        self.levels = levels
        self.run = run
        self.packed: dict[float, dict[str, Packed]] = {}
        self.layer = -1
        self.hessians = Hessians([])

    def watching(self, i: int, layer: nn.Module, real: Tensor) -> AbstractContextManager[None]:
        if self.layer != i:
            self.layer = i
            self.hessians = Hessians(layer_weights(layer) if i in self.levels else [])
        return self.hessians.watching(real)

    def value(self) -> None:
        levels = self.levels.get(self.layer, ())
        self.packed = {level: {} for level in levels}
        for hessian, weights in self.hessians.by_input():
            root = inverse_root(hessian)
            for w in weights:
                matrix = w.matrix()
                gain = gains(matrix.T.float().contiguous(), root)
                for level in levels:
                    self.run.check()
                    outlier = most_useful(gain, outlier_count(matrix.numel(), level))
                    self.packed[level][w.name] = packed(matrix, root, outlier)
        self.hessians = Hessians([])
