"""A model's decoder layers, whatever the architecture.

They are found here, and so are the weights that can be packed, and the place those come from.

Behind the walk stands one source of layers. Scorers, bank and sweep do not know which.
"""

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


def find_layers(model: PreTrainedModel) -> nn.ModuleList:
    """Returns the list of decoder layers, whatever the architecture calls it. Raises UserError
    where there is none."""
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
    the columns.

    transformers keeps GPT-2's weights transposed (Conv1D), and the experts of a mixture in one 3-D
    tensor. Both are brought into this shape and back. `name` is its path in the layer. The
    parameter is looked up when it is used, since a streamed layer's comes and goes.
    """

    name: str
    module: nn.Module
    transposed: bool

    @property
    def parameter(self) -> nn.Parameter:
        return self.module.get_parameter(self.name.rpartition(".")[2])

    def replace(self, parameter: Any) -> None:
        self.module._parameters[self.name.rpartition(".")[2]] = parameter

    def matrix(self) -> Tensor:
        """Returns the weight as [rows, columns], a view where possible."""
        tensor = self.parameter.detach()
        if self.transposed:
            tensor = tensor.transpose(-1, -2)
        return tensor.reshape(-1, tensor.shape[-1])

    def restored(self, matrix: Tensor) -> Tensor:
        """Returns a matrix, as `matrix()` gives it, in the parameter's own shape."""
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
    """Returns the weight matrices of one decoder layer, in the order of its modules."""
    weights = []
    for module_name, module in layer.named_modules():
        for name, parameter in module.named_parameters(recurse=False, prefix=module_name):
            kind = type(module).__name__.lower()
            if "router" in kind:  # some are nn.Linear, with a forward of their own
                continue
            if isinstance(module, nn.Linear) and parameter.ndim == 2:
                weights.append(LayerWeight(name, module, transposed=False))
            elif isinstance(module, Conv1D) and parameter.ndim == 2:
                weights.append(LayerWeight(name, module, transposed=True))
            elif parameter.ndim == 3 and "expert" in kind:
                # Llama 4's experts are transposed, without an attribute that says so.
                transposed = getattr(module, "is_transposed", "llama4" in kind)
                weights.append(LayerWeight(name, module, transposed))
    return weights


class LayerSource(ABC):
    """Where the layers' weights come from. `modules` are the model's own modules, in order.

    The weights that quantizers pack are only sure to be in memory while a layer is at hand.
    Everything else of a layer (norms, biases, routers) always is.
    """

    modules: nn.ModuleList
    streamed: bool
    check_unchanged: Callable[[], None] = staticmethod(lambda: None)
    """Raises UserError where the files have changed since the model was loaded from them."""

    @contextmanager
    def at_hand(self, i: int) -> Iterator[nn.Module]:
        """Yields layer i with its weights on the device. Raises UserError where they hold values
        that are not numbers, and where the files have changed at the beginning or the end."""
        self.check_unchanged()
        with self._at_hand(i) as layer:
            yield layer
        self.check_unchanged()

    @abstractmethod
    def _at_hand(self, i: int) -> AbstractContextManager[nn.Module]:
        """Does what `at_hand` does, whatever has become of the files."""


class LayersInMemory(LayerSource):
    streamed = False

    def __init__(self, model: PreTrainedModel):
        self.modules = find_layers(model)

    def _at_hand(self, i: int) -> AbstractContextManager[nn.Module]:
        return nullcontext(self.modules[i])


def nbytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
