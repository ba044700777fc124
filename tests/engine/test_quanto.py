"""optimum-quanto with every optimizer and group size: errors of each group, bytes, files."""

from __future__ import annotations

import itertools
import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from accelerate import init_empty_weights
from optimum.quanto import (
    MaxOptimizer,
    WeightQBitsTensor,
    qint2,
    qint4,
    quantize_weight,
    requantize,
)
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from lwq_ui.core.errors import UserError
from lwq_ui.core.schema import WeightSpec
from lwq_ui.core.settings import ROOT
from lwq_ui.engine.banks.bank import Bank
from lwq_ui.engine.banks.composing import compose
from lwq_ui.engine.exports import model_export
from lwq_ui.engine.exports.quanto_checkpoint import odd_for_a_cpu
from lwq_ui.engine.quantizers import quantizer_named
from lwq_ui.engine.quantizers import quanto_optimizers as own
from lwq_ui.engine.quantizers.quanto_optimizers import ClipOptimizer, GroupwiseHqqOptimizer

QTYPES = {2: qint2, 4: qint4}
DTYPES = ("float32", "bfloat16", "float16")
FAMILIES = ("quanto", "quanto-hqq", "quanto-clip")
GROUPS = (128, 64, 32)
each_family = pytest.mark.parametrize("family", FAMILIES)
each_group = pytest.mark.parametrize("group", GROUPS)
each_dtype = pytest.mark.parametrize("dtype", DTYPES)


def odd_weights(groups: int, size: int, seed: int = 0) -> Tensor:
    """Ordinary groups, and some of every kind that could go wrong: [8 * groups, size]."""
    g = torch.Generator().manual_seed(seed)
    normal = torch.randn(groups, size, generator=g) * 0.05
    heavy = normal / torch.rand(groups, size, generator=g).clamp(min=1e-3)
    constant = torch.randn(groups, 1, generator=g).expand(groups, size)
    outlier = normal.clone()
    outlier[:, 3] = 1000.0
    two = torch.where(torch.rand(groups, size, generator=g) < 0.5, -0.3, 0.7)
    tiny_ones = normal * 1e-6
    shifted = normal + 7.0
    zeros = torch.zeros(groups, size)
    return torch.cat([normal, heavy, constant, outlier, two, tiny_ones, shifted, zeros])


def group_errors(weights: Tensor, optimizer: object, bits: int, power: int, size: int) -> Tensor:
    """As optimum-quanto really computes it: sum of |w - restored w|^power over each group."""
    rows, columns = weights.shape
    group = size if size < columns else None
    scale, shift = optimizer(weights, qtype=QTYPES[bits], axis=0, group_size=group)  # type: ignore
    packed = quantize_weight(
        weights, QTYPES[bits], 0, scale, shift, group_size=group, optimized=False
    )
    assert scale.dtype == shift.dtype == weights.dtype
    assert scale.shape == shift.shape == (rows * columns // size, 1)
    error = packed.dequantize().double() - weights.double()
    return error.abs().pow(power).reshape(-1, size).sum(1)


@pytest.mark.parametrize(
    ("optimizer", "power"),
    [(ClipOptimizer(), 2), (GroupwiseHqqOptimizer(), 1)],
    ids=["clip", "hqq"],
)
@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("size", [*GROUPS, 384])  # 384: one group per output channel
@each_dtype
def test_no_group_is_worse_than_rounded_to_nearest(
    dtype: str, size: int, bits: int, optimizer: object, power: int
) -> None:
    weights = odd_weights(6, 384).to(getattr(torch, dtype))
    ours = group_errors(weights, optimizer, bits, power, size)
    nearest = group_errors(weights, MaxOptimizer(), bits, power, size)
    assert torch.isfinite(ours).all()
    assert (ours <= nearest * (1 + 1e-5)).all()
    if power == 2 and bits == 2:
        ordinary = slice(0, 6 * 384 // size)
        assert ours[ordinary].sum() < 0.8 * nearest[ordinary].sum()


def test_hqq_still_lowers_the_error() -> None:
    torch.manual_seed(0)
    weights = torch.randn(64, 512)
    for bits in (2, 4):
        ours = group_errors(weights, GroupwiseHqqOptimizer(), bits, 1, 128)
        nearest = group_errors(weights, MaxOptimizer(), bits, 1, 128)
        assert ours.sum() < 0.99 * nearest.sum()


def test_quantos_own_hqq_makes_groups_worse() -> None:
    """Why there is GroupwiseHqqOptimizer; where this fails, it can go."""
    from optimum.quanto import HqqOptimizer

    weights = odd_weights(6, 384)
    plain = group_errors(weights, MaxOptimizer(), 2, 1, 128)
    assert (group_errors(weights, HqqOptimizer(), 2, 1, 128) > plain * 1.01).any()


@pytest.mark.parametrize(("bits", "least"), [(2, 0.65), (4, 0.95)])
@each_group
def test_clip_search_is_better_on_normal_weights(group: int, bits: int, least: float) -> None:
    torch.manual_seed(0)
    weights = torch.randn(64, 512).bfloat16()
    ours = group_errors(weights, ClipOptimizer(), bits, 2, group)
    nearest = group_errors(weights, MaxOptimizer(), bits, 2, group)
    assert ours.sum() < least * nearest.sum()
    if bits == 2:
        assert (ours < nearest).all()


def brute_force(group: Tensor, bits: int, tries: int = 300) -> float:
    """Least squared error of one group over a fine grid of scales and shifts, in float64."""
    low, high = group.min(), group.max()
    top = 2**bits - 1
    scale = (high - low) / top * torch.linspace(0.15, 1.05, tries, dtype=torch.float64)[:, None]
    least = math.inf
    for start in torch.linspace(float(low), float(high), tries, dtype=torch.float64):
        codes = ((group - start) / scale).round().clamp(0, top)
        least = min(least, float((scale * codes + start - group).square().sum(1).min()))
    return least


@pytest.mark.parametrize(("bits", "worst", "mean"), [(2, 1.08, 1.02), (4, 1.25, 1.05)])
@pytest.mark.parametrize("kind", ["normal", "heavy"])
def test_clip_search_finds_about_the_least_error(
    kind: str, bits: int, worst: float, mean: float
) -> None:
    torch.manual_seed(0)
    groups = torch.randn(16, 24, dtype=torch.float64)
    if kind == "heavy":
        groups = torch.distributions.StudentT(4.0).sample((16, 24)).double()
    scale, shift = (part.double() for part in own.search(groups.float(), bits))
    codes = ((groups + shift) / scale).round().clamp(0, 2**bits - 1)
    ours = (scale * codes - shift - groups).square().sum(1)
    least = torch.tensor([brute_force(group, bits) for group in groups], dtype=torch.float64)
    assert (ours / least).max() < worst
    assert ours.sum() / least.sum() < mean


@pytest.mark.parametrize("bits", [2, 4])
@each_dtype
def test_errors_are_those_of_optimum_quanto(dtype: str, bits: int) -> None:
    weights = odd_weights(3, 64).to(getattr(torch, dtype))
    scale, shift = MaxOptimizer().optimize(weights, QTYPES[bits], 0)
    expected = group_errors(weights, MaxOptimizer(), bits, 2, 64).unsqueeze(1)
    errors = own.errors(weights, scale, shift, bits, 2)
    torch.testing.assert_close(errors.double(), expected, rtol=1e-4, atol=1e-30)


def test_an_overflow_is_the_worst_error() -> None:
    """float16 has no number for this group's range: MaxOptimizer restores nan."""
    weights = torch.linspace(-60000, 60000, 128).half().reshape(1, 128).expand(2, 128)
    scale, shift = MaxOptimizer().optimize(weights, qint2, 0)
    assert (own.errors(weights, scale, shift, 2, 2) == math.inf).all()


def test_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = odd_weights(5, 64)
    whole = ClipOptimizer().optimize(weights, qint2, 0)
    monkeypatch.setattr(own, "CHUNK", 3 * 64)
    for a, b in zip(whole, ClipOptimizer().optimize(weights, qint2, 0), strict=True):
        torch.testing.assert_close(a, b)
    monkeypatch.setattr(own, "CHUNK", 1)
    ClipOptimizer().optimize(weights, qint2, 0)


@pytest.mark.parametrize("optimizer", [ClipOptimizer(), GroupwiseHqqOptimizer()])
def test_the_other_axis_is_the_same_turned(optimizer: MaxOptimizer) -> None:
    weights = odd_weights(2, 32)
    for a, b in zip(
        optimizer.optimize(weights, qint2, 0),
        optimizer.optimize(weights.T.contiguous(), qint2, -1),
        strict=True,
    ):
        torch.testing.assert_close(a, b.T)


@each_family
@each_group
@each_dtype
def test_bytes_values_and_files_of_every_shape(family: str, group: int, dtype: str) -> None:
    quantizer = quantizer_named(f"{family}:group={group}")
    g = torch.Generator().manual_seed(0)
    shapes = [(64, 96), (3, 160), (7, 50), (5, 320), (33, 256), (1, 96), (1, 256), (1, 1)]
    for (rows, columns), level in itertools.product(shapes, (8, 4, 2)):
        matrix = torch.randn(rows, columns, generator=g).to(getattr(torch, dtype))
        spec = WeightSpec("w", rows, columns)
        packed = quantizer.pack(matrix, level)
        tensors = quantizer.tensors(packed)
        size = sum(t.nbytes for t in tensors.values())
        assert size == quantizer.packed_bytes(spec, level, matrix.itemsize), (rows, columns, level)
        dense = quantizer.dense(packed)
        assert dense.shape == matrix.shape and dense.dtype == matrix.dtype
        assert (dense - matrix).abs().mean() <= matrix.abs().mean() * {8: 0.02, 4: 0.2, 2: 0.8}[
            level
        ]
        stored = {name: t.contiguous().clone() for name, t in tensors.items()}
        again = quantizer.restore(stored, spec, level)
        assert torch.equal(quantizer.dense(again), dense)
        linear = torch.nn.Linear(columns, rows, bias=True, dtype=matrix.dtype)
        module = quantizer.module(linear, again, level)
        x = torch.randn(4, columns, generator=g).to(matrix.dtype)
        expected = torch.nn.functional.linear(x.float(), dense.float(), linear.bias.float())
        torch.testing.assert_close(module(x).float(), expected, rtol=0.05, atol=0.1)


def test_smaller_groups_are_better() -> None:
    torch.manual_seed(0)
    matrix = torch.randn(64, 512)
    for family, level in itertools.product(FAMILIES, (4, 2)):
        errors = []
        for group in GROUPS:
            quantizer = quantizer_named(f"{family}:group={group}")
            dense = quantizer.dense(quantizer.pack(matrix, level))
            errors.append(float((dense - matrix).square().mean()))
        assert errors[0] > errors[1] > errors[2]


def test_names_and_titles() -> None:
    assert [quantizer_named(family).title for family in FAMILIES] == [
        "Quanto, Max (the paper's)",
        "Quanto, HQQ",
        "Quanto, clip search",
    ]
    assert quantizer_named("quanto-clip:group=32").title == "Quanto, clip search, groups of 32"
    keys = [json.dumps(quantizer_named(family).to_json()) for family in FAMILIES]
    assert len(set(keys)) == 3
    # Cached results of today's Max stay valid; those of optimum-quanto's own HQQ do not.
    assert tiny.QUANTO.details == {"optimizer": "MaxOptimizer"}
    assert quantizer_named("quanto-hqq").details != {"optimizer": "HqqOptimizer"}


@pytest.mark.parametrize("family", ["quanto-hqq", "quanto-clip"])
def test_what_is_written_is_read_by_optimum_quanto_alone(
    family: str, folder_of: Callable[..., Path], tmp_path: Path
) -> None:
    """The README's lines."""
    widths = {"hidden_size": 256, "intermediate_size": 320}  # groups of 128 and of 64
    loaded = tiny.load(folder_of("llama", "bfloat16", **widths))
    bank = Bank(loaded, quantizer_named(family))
    split = (2, 8, 4, 16)
    model_export(bank.quantizer).write(bank, split, tmp_path, tiny.run())
    config = AutoConfig.from_pretrained(tmp_path)
    with init_empty_weights():
        model = AutoModelForCausalLM.from_config(config, dtype=config.dtype)
    state = {k: v.clone() for k, v in load_file(tmp_path / "model.safetensors").items()}
    requantize(model, state, json.loads((tmp_path / "quanto_qmap.json").read_text()))
    model.tie_weights()
    tokens = tiny.documents(20)[0]
    expected = tiny.logits(compose(bank, split, tiny.run()), tokens)
    assert torch.equal(tiny.logits(model.eval(), tokens), expected)


@each_family
def test_groups_that_optimum_quanto_cannot_read_are_not_written(
    family: str, folder_of: Callable[..., Path], tmp_path: Path
) -> None:
    loaded = tiny.load(folder_of("llama", hidden_size=128, intermediate_size=256))
    bank = Bank(loaded, quantizer_named(f"{family}:group=64"))
    with pytest.raises(
        UserError, match=r"loads only groups of 128.*Choose groups of 128, or export"
    ):
        model_export(bank.quantizer).check(loaded, bank.quantizer, (4, 2, 16, 8))
    without_groups = (8, 16, 16, 8)  # there is nothing to mix up
    model_export(bank.quantizer).check(loaded, bank.quantizer, without_groups)
    model_export(bank.quantizer).write(bank, without_groups, tmp_path, tiny.run())
    assert (tmp_path / "quanto_qmap.json").exists()


def test_optimum_quanto_reads_no_other_groups() -> None:
    """Why writing refuses; where this fails, optimum-quanto has learnt it."""
    linear = torch.nn.Linear(256, 64, bias=False)
    quantizer = quantizer_named("quanto:group=64")
    packed = quantizer.pack(linear.weight.data, 4)
    model = torch.nn.Sequential(torch.nn.Linear(256, 64, bias=False))
    state = {f"0.weight.{name}": t for name, t in quantizer.tensors(packed).items()}
    requantize(model, state, {"0": {"weights": "qint4", "activations": "none"}})
    read = model[0].weight
    assert isinstance(read, WeightQBitsTensor) and read._group_size == 128


GUARDED = '''
import ctypes
import mmap
import sys

import torch
from torch import nn

from lwq_ui.engine.quantizers import quantizer_named

libc = ctypes.CDLL(None)
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
kept = []


def guarded(t):
    """The same at the end of its memory: whoever reads beyond it dies."""
    size = t.numel() * t.element_size()
    pages = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
    memory = mmap.mmap(-1, pages + mmap.PAGESIZE)
    kept.append(memory)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    assert libc.mprotect(start + pages, mmap.PAGESIZE, 0) == 0
    copy = torch.frombuffer(memory, dtype=t.dtype, count=t.numel(), offset=pages - size)
    return copy.view(t.shape).copy_(t)


def check(rows, columns, level, misaligned=False):
    matrix = torch.randn(rows, columns).to(torch.bfloat16)
    quantizer = quantizer_named("quanto")
    packed = quantizer.pack(matrix, level)
    if level == 8:
        packed = packed.optimize()
        packed._data = guarded(packed._data)
    dense = quantizer.dense(packed).float()
    module = quantizer.module(nn.Linear(columns, rows, bias=False).bfloat16(), packed, level)
    for x in (torch.randn(1, 1, columns), torch.randn(2, 3, columns)):
        inputs = [guarded(x.to(torch.bfloat16))]
        wide = torch.randn(*x.shape[:2], 3 * columns).to(torch.bfloat16)
        inputs.append(wide[..., 3 : 3 + columns])  # as a model splits what it projected
        for given in inputs:
            expected = given.float() @ dense.T
            error = (module(given).float() - expected).abs().max() / expected.abs().max()
            assert error < 0.02, (rows, columns, level, error)


torch.manual_seed(0)
for rows, columns in ((64, 172), (5, 4), (16, 72), (33, 100), (1, 300), (48, 50), (17, 128)):
    check(rows, columns, 8)
for rows, columns in ((64, 256), (72, 256), (16, 128), (200, 384)):
    check(rows, columns, 4)
print("right")
'''


@pytest.mark.skipif(sys.platform != "linux", reason="guards memory as Linux does")
def test_kernels_for_a_cpu_stay_within_their_memory() -> None:
    """Of 8 bits on commit 60eb633: a segmentation fault, where the inputs are no multiple of 16."""
    done = subprocess.run(
        [sys.executable, "-c", GUARDED], capture_output=True, text=True, timeout=300, cwd=ROOT
    )
    assert (done.returncode, done.stdout.strip()) == (0, "right"), done.stderr[-2000:]


@pytest.mark.parametrize(
    "inner, split, warned",
    [(172, (8,) * 4, True), (172, (2,) * 4, False), (176, (8,) * 4, False), (176, (4,) * 4, False)],
)
def test_a_model_that_optimum_quanto_may_not_load_is_named(
    inner: int, split: tuple[int, ...], warned: bool, folder_of: Callable[..., Path]
) -> None:
    info = tiny.load(folder_of("llama", "bfloat16", intermediate_size=inner)).info
    odd = odd_for_a_cpu(info, split)
    assert ("down_proj.weight has 64 by 172" in odd) == warned
    assert not odd_for_a_cpu(replace(info, dtype="float32"), split)
