"""Replaces three kernels of optimum-quanto, where its own choice fails:

- It unpacks 2- and 4-bit values with a kernel that it compiles at first use: half a minute where
  there is a compiler, an error where there is none (and on CUDA it wants nvcc).
- On a CPU it hands 8-bit weights to a kernel of torch (_weight_int8pack_mm) that takes rows of a
  multiple of 16 in aligned memory. With others it reads beyond them, and the process may die.
- On a CPU it hands 4-bit weights to one that takes contiguous activations only.
"""

import warnings
from typing import Any

import torch
from optimum import quanto  # noqa: F401  (registers the kernels that are replaced here)
from optimum.quanto.library import qbytes_mm as original
from optimum.quanto.tensor.weights.tinygemm import qbits as tinygemm
from torch import Tensor

ROW = 16  # columns
ALIGNED = 64  # bytes, as torch allocates


def unpack(packed: Tensor, bits: int) -> Tensor:
    """Returns the values in bytes: uint8 [rows, ...] with 8/bits values in each byte -> uint8
    [rows * 8/bits, ...]. The lowest bits of all rows come first, then the next ones."""
    mask = 2**bits - 1
    return torch.cat([(packed >> shift) & mask for shift in range(0, 8, bits)])


def qbytes_mm(activations: Tensor, weights: Tensor, scales: Tensor) -> Tensor:
    """Returns activations times weights: activations [tokens, columns], 8-bit weights [rows,
    columns], a scale for each row -> [tokens, rows]. torch's kernel is used only where it is
    safe."""
    if activations.dtype == weights.dtype == torch.int8:
        return original.qbytes_int_mm(activations, weights, scales)
    safe = weights.shape[1] % ROW == 0 and is_safe(weights)
    if activations.dtype == torch.bfloat16 and weights.dtype == torch.int8 and safe:
        if not is_safe(activations):
            activations = activations.clone(memory_format=torch.contiguous_format)
        return original.qbytes_int8pack_mm(activations, weights, scales)
    return original.qbytes_mm(activations, weights, scales)


def is_safe(tensor: Tensor) -> bool:
    """Returns whether torch's kernel reads within this memory."""
    return tensor.is_contiguous() and tensor.data_ptr() % ALIGNED == 0


_library = torch.library.Library("quanto", "IMPL")
with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "Warning only once for all operators")
    for _device in ("CPU", "CUDA"):
        _library.impl("unpack", unpack, _device, allow_override=True)
    _library.impl("qbytes_mm", qbytes_mm, "CPU", allow_override=True)

_linear = tinygemm.TinyGemmQBitsLinearFunction.forward


def linear(ctx: Any, activations: Tensor, weights: Tensor, bias: Tensor | None = None) -> Tensor:
    return _linear(ctx, activations.contiguous(), weights, bias)


tinygemm.TinyGemmQBitsLinearFunction.forward = staticmethod(linear)
