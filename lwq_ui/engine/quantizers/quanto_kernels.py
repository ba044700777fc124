"""optimum-quanto unpacks 2- and 4-bit values with a kernel that it compiles at first use: half a
minute where there is a compiler, an error where there is none (and on CUDA it wants nvcc). The same
in plain torch, put in its place."""

import warnings

import torch
from optimum import quanto  # noqa: F401  (registers the kernel that is replaced here)


def unpack(packed: torch.Tensor, bits: int) -> torch.Tensor:
    """uint8 [rows, ...] with 8/bits values in each byte -> uint8 [rows * 8/bits, ...]: first the
    lowest bits of every row, then the next ones."""
    mask = 2**bits - 1
    return torch.cat([(packed >> shift) & mask for shift in range(0, 8, bits)])


_library = torch.library.Library("quanto", "IMPL")
with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "Warning only once for all operators")
    for _device in ("CPU", "CUDA"):
        _library.impl("unpack", unpack, _device, allow_override=True)
