"""SpQR for one matrix: Dettmers et al. 2023, Algorithm 1, vectorised over rows.

`packed` takes a matrix [rows, columns], and `Packed.dense` returns one. Everything between is
[columns, rows]: the algorithm goes from column to column, and a column then is contiguous.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .spqr_format import BITS, GROUP, column_bytes

MOST = 2**BITS - 1
DAMPING = 0.01  # of the Hessian's mean diagonal, as in GPTQ
BLOCK = 128  # columns whose errors are pushed on together: changes the speed, not the result
TINY = 1e-30  # no division by the scale of a group of zeros


@dataclass(frozen=True)
class Packed:
    """A matrix [rows, columns] as it is stored:

    - `values`, `scales`, `zeros`: eight numbers of 3 bits in three bytes. There is a value per
      weight in the order of the matrix, and a scale and a zero per group of 16 columns [groups,
      rows];
    - `statistics` [groups, blocks of 16 rows, 4], float16: least scale, step of scales, least zero,
      step of zeros;
    - `starts` [rows + 1], int32, `columns` and `outliers`: row r has the outliers from starts[r] to
      starts[r + 1]. Outliers of a float32 matrix are float16, since SpQR's count gives them 16
      bits. float16 has 11 significant bits where bfloat16 has 8, and no weight needs bfloat16's
      range;
    - `like`: an empty tensor of the matrix' own dtype."""

    rows: int
    columns: int
    tensors: dict[str, Tensor]

    def dense(self) -> Tensor:
        """Returns the matrix [rows, columns] in its own dtype."""
        rows, columns, stored = self.rows, self.columns, self.tensors
        groups = -(-columns // GROUP)
        codes = unpack(stored["values"], rows * columns).view(rows, columns)
        scale, zero = (
            leveled(
                unpack(stored[name], groups * rows).view(groups, rows),
                stored["statistics"][..., part].float(),
                stored["statistics"][..., part + 1].float(),
            ).T
            for name, part in (("scales", 0), ("zeros", 2))
        )
        scale, zero = (x.repeat_interleave(GROUP, 1)[:, :columns] for x in (scale, zero))
        dense = codes.float().sub_(zero).mul_(scale).to(stored["like"].dtype)
        at = stored["columns"].long()
        if column_bytes(columns) == 2:
            at &= 0xFFFF  # stored in signed numbers
        starts = stored["starts"].long()
        row = torch.arange(rows, device=at.device).repeat_interleave(starts.diff())
        dense.view(-1)[row * columns + at] = stored["outliers"].to(dense.dtype)
        return dense


def inverse_root(hessian: Tensor) -> Tensor:
    """Returns an upper triangular U with U^T U = (H + damping)^-1: H [columns, columns] -> float32
    [columns, columns].

    The damping also gives a little weight to inputs that were zero throughout the text. So their
    columns are rounded like any other, while the published code sets them to zero.

    It computes in float64, where the damping makes any H well conditioned. An mps device has no
    float64, so the CPU computes for it.
    """
    device = hessian.device
    h = hessian.to("cpu" if device.type == "mps" else device).double()
    diagonal = h.diagonal()
    diagonal += DAMPING * diagonal.mean() or 1
    # The Cholesky factor from the last column to the first: H = R R^T with R upper triangular, so
    # H^-1 = R^-T R^-1, and no inverse has to be factored.
    r = torch.linalg.cholesky(h.flip(0, 1)).flip(0, 1)
    eye = torch.eye(len(r), dtype=r.dtype, device=r.device)
    return torch.linalg.solve_triangular(r, eye, upper=True).float().to(device)


def fit(group: Tensor) -> tuple[Tensor, Tensor]:
    """Returns scale and zero of a group: [columns of the group, rows] -> [rows] each.

    3-bit numbers, less the zero and times the scale, reach from the least to the largest weight.
    The range holds 0. So a weight that is left out of a fit is replaced by 0, and zeros stay within
    0..7."""
    low, high = group.amin(0).clamp_max(0), group.amax(0).clamp_min(0)
    scale = (high - low) / MOST
    return scale, torch.where(scale > 0, -low / scale, MOST / 2)


def coded(x: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """Returns the nearest of the eight numbers, as float."""
    return (x / scale.clamp_min(TINY) + zero).round_().clamp_(0, MOST)


def gains(matrix: Tensor, root: Tensor) -> Tensor:
    """Returns by how much the error of a weight's group shrinks when the weight is left out of it
    (`outliers` in Algorithm 1): matrix [columns, rows] -> [columns, rows].

    This is error(group) - error(group without the weight). The error is the sum of
    (w - quantized w)^2 / U_jj^2, and each group is fitted to what is in it. Leaving a weight out
    changes the fit only where the weight is the least or the largest."""
    shrinking = torch.empty_like(matrix)
    importance = root.diagonal().square().reciprocal()[:, None]

    def errors(group: Tensor, fitted: Tensor, weight: Tensor) -> Tensor:
        scale, zero = fit(fitted)
        return (group - scale * (coded(group, scale, zero) - zero)).square_() * weight

    for start in range(0, len(matrix), GROUP):
        group, weight = matrix[start : start + GROUP], importance[start : start + GROUP]
        whole = errors(group, group, weight)
        gain = whole.clone()
        for extreme in (group.argmin(0, keepdim=True), group.argmax(0, keepdim=True)):
            left = errors(group, group.scatter(0, extreme, 0), weight).scatter_(0, extreme, 0)
            gain.scatter_(0, extreme, (whole.sum(0) - left.sum(0))[None])
        shrinking[start : start + GROUP] = gain
    return shrinking


def two_levels(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Quantizes the scales or zeros of a group of columns, x [rows].

    Returns 3-bit numbers [rows], the least and the step of every 16 rows [blocks] as float16, and x
    as it is restored from these."""
    blocks = -(-len(x) // GROUP)
    at = torch.arange(blocks * GROUP, device=x.device).clamp_max_(len(x) - 1)
    block = x[at].view(blocks, GROUP)  # the last row fills the last block up
    least = block.amin(1).half()
    step = ((block.amax(1) - least.float()) / MOST).half()
    per_row = (s.float().repeat_interleave(GROUP)[: len(x)] for s in (least, step))
    low, width = per_row
    codes = ((x - low) / width.clamp_min(TINY)).round_().clamp_(0, MOST)
    return codes, least, step, low + codes * width


def leveled(codes: Tensor, least: Tensor, step: Tensor) -> Tensor:
    """Restores scales or zeros: codes [groups, rows], least and step [groups, blocks] -> [groups,
    rows]."""
    low, width = (s.repeat_interleave(GROUP, 1)[:, : codes.shape[1]] for s in (least, step))
    return low + codes * width


def quantize(matrix: Tensor, root: Tensor, outlier: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Returns 3-bit numbers [columns, rows], and the groups' scales, zeros and statistics.

    `matrix` [columns, rows] is float32. It changes to what is left to represent: its weights with
    the errors of earlier columns taken over. `root` is as `inverse_root` returns it, and `outlier`
    [columns, rows] a mask.

    The loop of Algorithm 1 is GPTQ's. A column's error, divided by U_jj, times the row U_j is
    subtracted from the later columns. An outlier has no error: its value in `matrix` is kept."""
    columns = len(matrix)
    codes = torch.empty_like(matrix, dtype=torch.uint8)
    errors = torch.empty_like(matrix)
    scales, zeros, statistics = [], [], []
    diagonal = root.diagonal().tolist()
    for block in range(0, columns, BLOCK):
        block_end = min(block + BLOCK, columns)
        for start in range(block, block_end, GROUP):
            end = min(start + GROUP, block_end)
            fitted = fit(matrix[start:end].masked_fill(outlier[start:end], 0))
            (scale_codes, *of_scales, scale), (zero_codes, *of_zeros, zero) = map(
                two_levels, fitted
            )
            scales.append(scale_codes)
            zeros.append(zero_codes)
            statistics.append(torch.stack([*of_scales, *of_zeros], 1))
            for j in range(start, end):
                code = coded(matrix[j], scale, zero)
                codes[j] = code
                error = matrix[j] - scale * (code - zero)
                errors[j] = error.masked_fill_(outlier[j], 0).div_(diagonal[j])
                matrix[j + 1 : end].addr_(root[j, j + 1 : end], errors[j], alpha=-1)
            matrix[end:block_end].addmm_(
                root[start:end, end:block_end].T, errors[start:end], alpha=-1
            )
        matrix[block_end:].addmm_(
            root[block:block_end, block_end:].T, errors[block:block_end], alpha=-1
        )
    return codes, {
        "scales": pack(torch.stack(scales)),
        "zeros": pack(torch.stack(zeros)),
        "statistics": torch.stack(statistics),
    }


def most_useful(gain: Tensor, count: int) -> Tensor:
    """Returns a mask of the `count` weights of the largest gain. So the threshold of Algorithm 1 is
    set for this matrix, and the share is exact."""
    mask = torch.zeros_like(gain, dtype=torch.bool)
    mask.view(-1)[gain.flatten().topk(count, sorted=False).indices] = True
    return mask


def packed(weight: Tensor, root: Tensor, outlier: Tensor) -> Packed:
    """Packs a weight [rows, columns]. `root` is the inverse root of its inputs' Hessian, and
    `outlier` [columns, rows] a mask."""
    rows, columns = weight.shape
    left = weight.T.float().contiguous()
    if left.data_ptr() == weight.data_ptr():
        left = left.clone()
    codes, tensors = quantize(left, root, outlier)
    row, column = outlier.T.nonzero(as_tuple=True)
    starts = torch.zeros(rows + 1, dtype=torch.int32, device=weight.device)
    starts[1:] = outlier.sum(0).cumsum(0)
    narrow = torch.int16 if column_bytes(columns) == 2 else torch.int32
    half = torch.float16 if weight.dtype == torch.float32 else weight.dtype
    return Packed(
        rows,
        columns,
        {
            "values": pack(codes.T),
            **tensors,
            "starts": starts,
            "columns": column.to(narrow),
            "outliers": left[column, row].to(half),
            "like": weight.new_empty(0),
        },
    )


def pack(codes: Tensor) -> Tensor:
    """Returns numbers 0..7 of any shape as bytes, eight in three. The last eight are filled up with
    zeros."""
    flat = codes.reshape(-1).to(torch.int32)
    eights = torch.nn.functional.pad(flat, (0, -len(flat) % 8)).view(-1, 8)
    words = torch.zeros_like(eights[:, 0])
    for k in range(8):
        words |= eights[:, k] << BITS * k
    return torch.stack([words >> 8 * k & 255 for k in range(3)], 1).to(torch.uint8).view(-1)


def unpack(stored: Tensor, count: int) -> Tensor:
    """Returns the first `count` numbers of bytes that `pack` returned, uint8."""
    threes = stored.view(-1, 3).to(torch.int32)
    words = threes[:, 0] | threes[:, 1] << 8 | threes[:, 2] << 16
    shifts = torch.arange(0, 8 * BITS, BITS, dtype=torch.int32, device=stored.device)
    return (words[:, None] >> shifts & MOST).to(torch.uint8).view(-1)[:count]
