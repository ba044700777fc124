"""A model's decoder layers, whatever the architecture: where they are, which of their weights can
be packed, and where those weights come from. Behind the walk stands one source of layers; scorers,
bank and sweep do not know which."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ...core.errors import UserError
from ...core.schema import WeightSpec
from .checkpoint import Checkpoint, check_finite


def find_layers(model: PreTrainedModel) -> nn.ModuleList:
    """The list of decoder layers, whatever the architecture calls it."""
    config = model.config.get_text_config(decoder=True)
    expected = getattr(config, "num_hidden_layers", None)
    whole = set(getattr(model, "_no_split_modules", None) or ())
    candidates = []
    for name, m in model.named_modules():
        if isinstance(m, nn.ModuleList) and len(m):
            kinds = {type(x).__name__ for x in m}
            if len(kinds) == 1 or (len(m) == expected and kinds <= whole):  # hybrids have several
                candidates.append((len(m) == expected, kinds <= whole, len(m), -name.count("."), m))
    if not candidates:
        raise UserError(
            f"The architecture {type(model).__name__} has no list of equal decoder layers, so it "
            "cannot be quantized layer by layer."
        )
    return max(candidates, key=lambda c: c[:4])[4]


@dataclass(frozen=True)
class LayerWeight:
    """A weight of a layer that quantizers pack, as a matrix [rows, columns] with the inputs along
    the columns. transformers keeps GPT-2's weights transposed (Conv1D) and the experts of a mixture
    in one 3-D tensor; both are brought into this shape and back. `name` is its path in the layer;
    the parameter is looked up when it is used, since a streamed layer's comes and goes."""

    name: str
    module: nn.Module
    transposed: bool

    @property
    def parameter(self) -> nn.Parameter:
        return self.module.get_parameter(self.name.rpartition(".")[2])

    def replace(self, parameter: Any) -> None:
        self.module._parameters[self.name.rpartition(".")[2]] = parameter

    def matrix(self) -> Tensor:
        tensor = self.parameter.detach()
        if self.transposed:
            tensor = tensor.transpose(-1, -2)
        return tensor.reshape(-1, tensor.shape[-1])

    def restored(self, matrix: Tensor) -> Tensor:
        """A matrix as `matrix()` gives it -> a tensor of the parameter's own shape."""
        shape = self.parameter.shape
        if not self.transposed:
            return matrix.reshape(shape)
        turned = (*shape[:-2], shape[-1], shape[-2])
        return matrix.reshape(turned).transpose(-1, -2)

    @property
    def spec(self) -> WeightSpec:
        parameter = self.parameter
        columns = parameter.shape[-2 if self.transposed else -1]
        return WeightSpec(self.name, parameter.numel() // columns, columns)


def layer_weights(layer: nn.Module) -> list[LayerWeight]:
    """The weight matrices of one decoder layer, in the order of its modules."""
    found = []
    for module_name, module in layer.named_modules():
        for name, parameter in module.named_parameters(recurse=False, prefix=module_name):
            kind = type(module).__name__.lower()
            if "router" in kind:  # some are nn.Linear, with a forward of their own
                continue
            if isinstance(module, nn.Linear) and parameter.ndim == 2:
                found.append(LayerWeight(name, module, transposed=False))
            elif isinstance(module, Conv1D) and parameter.ndim == 2:
                found.append(LayerWeight(name, module, transposed=True))
            elif parameter.ndim == 3 and "expert" in kind:
                transposed = getattr(module, "is_transposed", "llama4" in kind)  # which tells not
                found.append(LayerWeight(name, module, transposed))
    return found


class LayerSource(ABC):
    """Where the layers' weights come from. `modules` are the model's own modules, in order. The
    weights that quantizers pack are only sure to be there while a layer is at hand; everything else
    of a layer (norms, biases, routers) always is."""

    modules: nn.ModuleList
    streamed: bool
    check_unchanged: Callable[[], None] = staticmethod(lambda: None)
    """Raises UserError where the files have changed since the model was loaded from them."""

    @contextmanager
    def at_hand(self, i: int) -> Iterator[nn.Module]:
        """Layer i with its weights on the device, for as long as the context lasts. Raises
        UserError where they hold values that are not numbers, or where the files have changed,
        which is seen at the end as well."""
        self.check_unchanged()
        with self._at_hand(i) as layer:
            yield layer
        self.check_unchanged()

    @abstractmethod
    def _at_hand(self, i: int) -> AbstractContextManager[nn.Module]:
        """As `at_hand`, whatever has become of the files."""

    @abstractmethod
    def standing_in(self) -> AbstractContextManager[None]:
        """While it lasts every layer can be called, with weights of the right shapes, not
        necessarily its own: enough to see how the model's parts work together."""


class LayersInMemory(LayerSource):
    streamed = False

    def __init__(self, model: PreTrainedModel):
        self.modules = find_layers(model)

    def _at_hand(self, i: int) -> AbstractContextManager[nn.Module]:
        return nullcontext(self.modules[i])

    def standing_in(self) -> AbstractContextManager[None]:
        return nullcontext()


class StreamedLayers(LayerSource):
    """Each layer is read from the checkpoint when it is needed, and let go afterwards; the
    operating system reads the next one meanwhile."""

    streamed = True

    def __init__(self, checkpoint: Checkpoint):
        self.checkpoint = checkpoint
        self.modules = find_layers(checkpoint.model)
        self.weights = [layer_weights(layer) for layer in self.modules]
        self._empty = [[w.parameter for w in weights] for weights in self.weights]
        self._names = [checkpoint.names_of({id(p) for p in empty}) for empty in self._empty]
        self._users = [0] * len(self.modules)
        self._checked: set[int] = set()
        streamed = set().union(*self._names)
        checkpoint.open([name for name in checkpoint.names if name not in streamed])

    @contextmanager
    def _at_hand(self, i: int) -> Iterator[nn.Module]:
        self._users[i] += 1
        try:
            if self._users[i] == 1:
                self.checkpoint.fill(self._names[i])
                if i not in self._checked:
                    for w in self.weights[i]:
                        name = f"layer {i}, {w.name}"
                        check_finite(self.checkpoint.model_id, name, w.parameter)
                    self._checked.add(i)
                if i + 1 < len(self.modules):
                    self.checkpoint.read_ahead(self._names[i + 1])
            yield self.modules[i]
        finally:
            self._users[i] -= 1
            if not self._users[i]:
                self._let_go(i)

    @contextmanager
    def standing_in(self) -> Iterator[None]:
        """The first layer of each shape stands in for the others like it."""
        first: dict[Any, int] = {}
        try:
            for i, weights in enumerate(self.weights):
                like = first.setdefault(tuple((w.name, w.parameter.shape) for w in weights), i)
                if like == i:
                    self.checkpoint.fill(self._names[i])
                else:
                    for own, other in zip(weights, self.weights[like], strict=True):
                        own.replace(other.parameter)
            yield
        finally:
            for i in range(len(self.modules)):
                self._let_go(i)

    def _let_go(self, i: int) -> None:
        for weight, empty in zip(self.weights[i], self._empty[i], strict=True):
            weight.replace(empty)


def nbytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
