"""The pass that packs a model's layers by SpQR: what enters their weights, then Algorithm 1."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from torch import Tensor, nn

from ...core.errors import UserError
from ...core.run import Run
from ..banks.bank import Bank
from ..layer_pass import PassRecord, Rider, passing
from ..models.layers import LayerWeight, layer_weights
from .spqr import outlier_count
from .spqr_algorithm import Packed, gains, inverse_root, most_useful, packed


def pack_layers(
    bank: Bank,
    wanted: Sequence[tuple[int, float]],
    sequences: Sequence[Sequence[int]],
    run: Run,
) -> None:
    """Packs these (layer, level) into the bank. `sequences` are token ids. Raises UserError and
    Stopped."""
    levels: dict[int, list[float]] = defaultdict(list)
    for layer, level in wanted:
        levels[layer].append(level)
    for i in levels:
        for w in layer_weights(bank.loaded.walk.layers[i]):
            if w.parameter.ndim > 2:
                raise unseen(w.name)
    path = bank.folder / f"pass-{bank.loaded.device}.safetensors" if bank.folder else None
    within = range(min(levels), max(levels) + 1)
    rider = SpQRPacking(bank, levels, run)
    record = PassRecord(1, path)
    for _ in passing(bank.loaded, [rider], sequences, run, record, "Packing", within):
        pass


class Hessians:
    """H = 2/n * sum of x x^T over the n real tokens x that enter a module, for every module of a
    layer that holds a weight. Modules that get the same tensor share one."""

    def __init__(self, weights: Sequence[LayerWeight]):
        self.weights = weights
        self.first: dict[nn.Module, nn.Module] = {}  # of those that get the same tensor
        self.sums: dict[nn.Module, Tensor] = {}
        self.tokens: dict[nn.Module, int] = defaultdict(int)

    @contextmanager
    def watching(self, real: Tensor) -> Iterator[None]:
        """While it lasts the layer computes a batch; `real` [batch, tokens] is false on padding."""
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
        """x [batch * tokens, inputs], real [batch * tokens]."""
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
        """Each H, and the weights whose inputs it is of. Raises UserError for a weight that nothing
        entered."""
        together: dict[nn.Module, list[LayerWeight]] = defaultdict(list)
        for w in self.weights:
            if w.module not in self.first:
                raise unseen(w.name)
            together[self.first[w.module]].append(w)
        for module, weights in together.items():
            yield self.sums.pop(module).mul_(2 / self.tokens[module]), weights


def unseen(name: str) -> UserError:
    return UserError(
        f"SpQR cannot pack {name}: it has to see what enters a weight for every token of the text, "
        "and here it does not, as with the experts of a mixture. Choose Quanto instead."
    )


class SpQRPacking(Rider):
    """Sees what enters the weights of a layer, then packs it at every level asked for."""

    needs_states = True

    def __init__(self, bank: Bank, levels: dict[int, list[float]], run: Run):
        self.bank = bank
        self.levels = levels
        self.run = run
        self.layer = -1
        self.hessians = Hessians([])

    def watching(self, i: int, layer: nn.Module, real: Tensor) -> AbstractContextManager[None]:
        if self.layer != i:
            self.layer = i
            self.hessians = Hessians(layer_weights(layer) if i in self.levels else [])
        return self.hessians.watching(real)

    def value(self) -> None:
        i, levels = self.layer, self.levels.get(self.layer, [])
        for level in levels:
            self.bank.make_room(i, level)
        made: dict[float, dict[str, Packed]] = {level: {} for level in levels}
        for hessian, weights in self.hessians.by_input():
            root = inverse_root(hessian)
            for w in weights:
                matrix = w.matrix()
                gain = gains(matrix.T.float().contiguous(), root)
                for level in levels:
                    self.run.check()
                    outlier = most_useful(gain, outlier_count(matrix.numel(), level))
                    made[level][w.name] = packed(matrix, root, outlier)
        for level, layer in made.items():
            self.bank.keep(i, level, layer)
        self.hessians = Hessians([])
