"""SpQR against its published definitions, written the slow obvious way in float64; its bytes; and
the pass that packs the bank's layers."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor

from lwq_ui.core.allocation import to_pack
from lwq_ui.core.errors import Stopped, UserError
from lwq_ui.core.schema import WeightSpec
from lwq_ui.engine.banks.bank import Bank
from lwq_ui.engine.banks.composing import compose
from lwq_ui.engine.models.layers import layer_weights, nbytes
from lwq_ui.engine.models.loading import LoadedModel
from lwq_ui.engine.quantizers import calibrated, quantizer_named
from lwq_ui.engine.quantizers import spqr_algorithm as algorithm
from lwq_ui.engine.quantizers import spqr_calibration as calibration
from lwq_ui.engine.quantizers.spqr import SpQR
from lwq_ui.engine.quantizers.spqr_format import PER_MILLE, outlier_count
from lwq_ui.engine.texts import Text

HIGH, LOW = 3.945, 3.657
SHAPES = [(32, 48), (20, 37), (1, 16), (17, 1), (5, 130), (24, 160)]
SMALL = "spqr:documents=3,tokens=24"
Folder = Callable[..., Path]
Array = np.ndarray[Any, np.dtype[np.float64]]
each_shape = pytest.mark.parametrize(("rows", "columns"), SHAPES)


def weights_and_inputs(rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """Weights with some far from the others, and H of inputs that depend on each other."""
    generator = torch.Generator().manual_seed(rows * columns)
    weights = torch.randn(rows, columns, generator=generator) * 0.05
    weights[torch.rand(rows, columns, generator=generator) > 0.98] *= 6
    mixed = torch.randn(columns, columns, generator=generator) / columns**0.5
    x = torch.randn(4 * columns, columns, generator=generator)
    x = (x + 2 * x @ mixed) * (0.2 + torch.rand(columns, generator=generator))
    return weights, 2 / len(x) * x.T @ x


def slow_root(hessian: Tensor) -> Array:
    """Upper triangular, of the inverse of the damped H (GPTQ, step 3)."""
    h = hessian.double().numpy()
    h = h + 0.01 * np.mean(np.diag(h)) * np.eye(len(h))
    return np.linalg.cholesky(np.linalg.inv(h)).T


def slow_fit(values: list[float]) -> tuple[float, float]:
    low, high = min([0.0, *values]), max([0.0, *values])
    scale = (high - low) / 7
    return scale, -low / scale if scale else 3.5


def slow_rounded(w: float, scale: float, zero: float) -> float:
    if not scale:
        return 0.0
    return scale * (min(max(round(w / scale + zero), 0), 7) - zero)


def slow_two_levels(x: Array) -> Array:
    """Every 16 of these numbers on eight steps from the least to the largest, in float16."""
    out = np.empty_like(x)
    for start in range(0, len(x), 16):
        block = x[start : start + 16]
        least = np.float64(np.float16(block.min()))
        step = np.float64(np.float16((block.max() - least) / 7))
        for i, value in enumerate(block):
            code = min(max(round((value - least) / step), 0), 7) if step else 0
            out[start + i] = least + step * code
    return out


def slow_gains(weights: Array, root: Array) -> Array:
    """Algorithm 1, `outliers`: every weight left out in turn."""
    rows, columns = weights.shape
    found = np.zeros_like(weights)

    def error(row: int, inside: list[int]) -> float:
        scale, zero = slow_fit([weights[row, k] for k in inside])
        return sum(
            (weights[row, k] - slow_rounded(weights[row, k], scale, zero)) ** 2 / root[k, k] ** 2
            for k in inside
        )

    for r in range(rows):
        for start in range(0, columns, 16):
            group = list(range(start, min(start + 16, columns)))
            for j in group:
                found[r, j] = error(r, group) - error(r, [k for k in group if k != j])
    return found


def slow_spqr(weights: Array, root: Array, outlier: Array, second_level: bool = True) -> Array:
    """Algorithm 1 from column to column, without blocks. With no outliers and no second level this
    is GPTQ with groups as its authors give it."""
    w = weights.copy()
    rows, columns = w.shape
    done = np.empty_like(w)
    for j in range(columns):
        if j % 16 == 0:
            inside = range(j, min(j + 16, columns))
            fitted = [slow_fit([w[r, k] for k in inside if not outlier[r, k]]) for r in range(rows)]
            scale, zero = np.array(fitted).T
            if second_level:
                scale, zero = slow_two_levels(scale), slow_two_levels(zero)
        for r in range(rows):
            kept = outlier[r, j]
            done[r, j] = w[r, j] if kept else slow_rounded(w[r, j], scale[r], zero[r])
            w[r, j + 1 :] -= (w[r, j] - done[r, j]) / root[j, j] * root[j, j + 1 :]
    return done


def no_outliers(rows: int, columns: int) -> Tensor:
    return torch.zeros(columns, rows, dtype=torch.bool)


def chosen(weights: Tensor, root: Tensor, level: float) -> Tensor:
    gain = algorithm.gains(weights.T.float().contiguous(), root)
    return algorithm.most_useful(gain, outlier_count(weights.numel(), level))


def packed(weights: Tensor, hessian: Tensor, level: float) -> algorithm.Packed:
    root = algorithm.inverse_root(hessian)
    return algorithm.packed(weights, root, chosen(weights, root, level))


def error(weights: Tensor, quantized: Tensor, hessian: Tensor) -> float:
    d = weights.double() - quantized.double()
    return torch.trace(d @ hessian.double() @ d.T).item()


@each_shape
def test_the_inverse_root_is_the_textbook_one(rows: int, columns: int) -> None:
    _, hessian = weights_and_inputs(rows, columns)
    root = algorithm.inverse_root(hessian)
    np.testing.assert_allclose(root.double(), slow_root(hessian), rtol=1e-4, atol=1e-5)
    assert bool((root.tril(-1) == 0).all())


def test_inputs_that_were_always_zero_do_no_harm() -> None:
    weights, hessian = weights_and_inputs(32, 48)
    hessian[[3, 20]] = 0
    hessian[:, [3, 20]] = 0
    for h in (hessian, torch.zeros(48, 48)):
        dense = packed(weights, h, HIGH).dense()
        assert bool(((dense - weights).abs() < 0.1).all())


@each_shape
def test_gains_are_those_of_leaving_every_weight_out_in_turn(rows: int, columns: int) -> None:
    weights, hessian = weights_and_inputs(rows, columns)
    root = algorithm.inverse_root(hessian)
    expected = slow_gains(weights.double().numpy(), root.double().numpy())
    found = algorithm.gains(weights.T.contiguous(), root).T
    np.testing.assert_allclose(
        found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max() + 1e-12
    )


@each_shape
def test_without_outliers_and_second_level_it_is_gptq(
    rows: int, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted: list[Tensor] = []  # scale and zero of every group in turn

    def as_they_are(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        fitted.append(x)
        return x, x.half(), x.half(), x

    monkeypatch.setattr(algorithm, "two_levels", as_they_are)
    weights, hessian = weights_and_inputs(rows, columns)
    root = algorithm.inverse_root(hessian)
    expected = slow_spqr(
        weights.double().numpy(), slow_root(hessian), no_outliers(columns, rows).numpy(), False
    )
    codes, _ = algorithm.quantize(weights.T.contiguous(), root, no_outliers(rows, columns))
    scale, zero = (
        torch.stack(x).repeat_interleave(16, 0)[:columns] for x in (fitted[::2], fitted[1::2])
    )
    found = (scale * (codes.float() - zero)).T
    np.testing.assert_allclose(found.double(), expected, rtol=1e-3, atol=2e-5)


@each_shape
def test_a_packed_matrix_is_what_algorithm_1_gives(rows: int, columns: int) -> None:
    weights, hessian = weights_and_inputs(rows, columns)
    root = algorithm.inverse_root(hessian)
    outlier = chosen(weights, root, HIGH)
    expected = slow_spqr(weights.double().numpy(), slow_root(hessian), outlier.T.numpy())
    dense = algorithm.packed(weights, root, outlier).dense()
    np.testing.assert_allclose(dense.double(), expected, rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("count", [1, 16, 17, 50])
def test_two_levels_of_statistics(count: int) -> None:
    x = torch.rand(count, generator=torch.Generator().manual_seed(count)) * 0.01
    codes, least, step, restored = algorithm.two_levels(x)
    np.testing.assert_allclose(
        restored.double(), slow_two_levels(x.double().numpy()), rtol=1e-5, atol=1e-9
    )
    assert least.dtype == step.dtype == torch.float16 and len(least) == len(step) == -(-count // 16)
    again = algorithm.leveled(codes[None], least[None].float(), step[None].float())[0]
    assert torch.equal(again, restored)


def test_equal_scales_and_groups_of_zeros_are_exact() -> None:
    weights, hessian = weights_and_inputs(32, 48)
    weights[:16] = 0
    dense = algorithm.packed(weights, algorithm.inverse_root(hessian), no_outliers(32, 48)).dense()
    assert bool((dense[:16] == 0).all()) and bool(dense.isfinite().all())


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 8000])
def test_three_bit_values_are_really_packed(count: int) -> None:
    codes = torch.randint(0, 8, (count,), generator=torch.Generator().manual_seed(count))
    stored = algorithm.pack(codes)
    assert stored.dtype == torch.uint8 and len(stored) == 3 * -(-count // 8)
    assert algorithm.unpack(stored, count).tolist() == codes.tolist()


def test_eight_numbers_lie_in_three_bytes_least_bits_first() -> None:
    word = sum(k << 3 * k for k in range(8))
    assert algorithm.pack(torch.arange(8)).tolist() == list(word.to_bytes(3, "little"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@each_shape
def test_bytes_are_known_before_and_restore_gives_the_same(
    rows: int, columns: int, dtype: torch.dtype
) -> None:
    weights, hessian = weights_and_inputs(rows, columns)
    weights = weights.to(dtype)
    quantizer, spec = SpQR(), WeightSpec("w", rows, columns)
    for level in (HIGH, 3.785, LOW):
        made = packed(weights, hessian, level)
        stored = quantizer.tensors(made)
        bits = {
            "values": -(-rows * columns // 8) * 24,
            "scales": -(-rows * -(-columns // 16) // 8) * 24,
            "zeros": -(-rows * -(-columns // 16) // 8) * 24,
            "statistics": 64 * -(-rows // 16) * -(-columns // 16),
            "starts": 32 * (rows + 1),
            "columns": 16 * outlier_count(rows * columns, level),
            "outliers": 16 * outlier_count(rows * columns, level),
            "like": 0,
        }
        assert {name: 8 * nbytes(t) for name, t in stored.items()} == bits
        size = quantizer.packed_bytes(spec, level, dtype.itemsize)
        assert 8 * size == sum(bits.values())
        dense = quantizer.dense(made)
        assert dense.dtype == dtype and dense.shape == (rows, columns)
        again = quantizer.restore({k: t.clone() for k, t in stored.items()}, spec, level)
        assert torch.equal(quantizer.dense(again), dense)


def test_a_level_is_the_average_bits_as_spqr_counts_them() -> None:
    rows, columns = 160, 400
    for level, share in PER_MILLE.items():
        counted = (
            rows * columns * (3 + Fraction(6, 16) + Fraction(64, 256) + Fraction(32 * share, 1000))
        )
        assert counted / (rows * columns) == Fraction(str(level))
        size = SpQR().packed_bytes(WeightSpec("w", rows, columns), level, 2)
        assert 8 * (size - 4 * (rows + 1)) == counted


def test_more_than_65536_columns_have_wider_numbers() -> None:
    columns = 2**16 + 3
    weights = torch.zeros(1, columns)
    outlier = no_outliers(1, columns)
    for at in (5, 2**15, columns - 1):
        outlier[at] = True
        weights[0, at] = at / 8
    for most, dtype in ((columns, torch.int32), (2**16, torch.int16)):
        row, codes, starts = weights[:, :most], outlier[:most].T, torch.tensor([0, 0])
        starts[1] = codes.sum()
        at = codes.nonzero(as_tuple=True)[1]
        zeros = algorithm.pack(torch.zeros(-(-most // 16)))
        made = algorithm.Packed(
            1,
            most,
            {
                "values": algorithm.pack(torch.zeros(most)),
                "scales": zeros,
                "zeros": zeros,
                "statistics": torch.zeros(-(-most // 16), 1, 4, dtype=torch.float16),
                "starts": starts.int(),
                "columns": at.to(dtype),
                "outliers": row[0, at],
                "like": torch.empty(0),
            },
        )
        assert torch.equal(made.dense(), row)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_outliers_are_exactly_as_many_and_exact(dtype: torch.dtype) -> None:
    weights, hessian = weights_and_inputs(64, 160)
    weights = weights.to(dtype)
    root = algorithm.inverse_root(hessian)
    for level in PER_MILLE:
        outlier = chosen(weights, root, level)
        assert int(outlier.sum()) == round(64 * 160 * PER_MILLE[level] / 1000)
        left = weights.T.float().clone()
        algorithm.quantize(left, root, outlier)
        dense = algorithm.packed(weights, root, outlier).dense()
        half = torch.float16 if dtype == torch.float32 else dtype
        assert torch.equal(dense[outlier.T], left.T[outlier.T].to(half).to(dtype))


def test_the_matrix_itself_is_only_read() -> None:
    weights, hessian = weights_and_inputs(32, 48)
    for matrix in (weights, weights.T.contiguous().T):
        packed(matrix, hessian, HIGH)
        assert torch.equal(matrix, weights_and_inputs(32, 48)[0])


def test_more_outliers_and_feedback_make_the_error_smaller() -> None:
    weights, hessian = weights_and_inputs(64, 160)
    root = algorithm.inverse_root(hessian)
    by_level = {
        level: error(weights, packed(weights, hessian, level).dense(), hessian)
        for level in (LOW, 3.785, HIGH)
    }
    assert by_level[LOW] > by_level[3.785] > by_level[HIGH]
    outlier = chosen(weights, root, LOW)
    alone = algorithm.packed(weights, root.diagonal().diag(), outlier).dense()
    assert by_level[LOW] < 0.8 * error(weights, alone, hessian)
    nearest = torch.empty_like(weights)
    for start in range(0, 160, 16):
        group = weights.T[start : start + 16]
        scale, zero = algorithm.fit(group)
        code = algorithm.coded(group, scale, zero)
        nearest[:, start : start + 16] = (scale * (code - zero)).T
    assert by_level[LOW] < 0.8 * error(weights, nearest, hessian)


def fill(bank: Bank, *splits: tuple[float, ...], stop: Event | None = None) -> list[str]:
    """What it said meanwhile."""
    said: list[str] = []
    bank.fill(splits, tiny.run(progress=lambda what, done: said.append(what), stop=stop))
    return said


def same(a: Bank, b: Bank, layer: int, level: float) -> bool:
    one, other = a.packed(layer, level, tiny.run()), b.packed(layer, level, tiny.run())
    return one.keys() == other.keys() and all(
        torch.equal(t, other[name].tensors[part])
        for name in one
        for part, t in one[name].tensors.items()
    )


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_streamed_models_give_the_same_layers(name: str, folder_of: Folder, tmp_path: Path) -> None:
    folder = folder_of(name, "bfloat16")
    split = (LOW, HIGH, 16, HIGH)
    quantizer = quantizer_named(SMALL)
    banks = [
        Bank(tiny.load(folder), quantizer),
        Bank(tiny.stream(folder), quantizer, tmp_path / "a" / "b" / "bank"),
    ]
    for bank in banks:
        said = fill(bank, split)
        assert next(w for w in said if "Packing" in w).startswith("Packing layer 1 of 4")
        assert {w for w in to_pack([split]) if bank.has(*w)} == {(0, LOW), (1, HIGH), (3, HIGH)}
    for i in (0, 1, 3):
        assert same(*banks, i, split[i])
        assert banks[0].dense(i, split[i], tiny.run()).keys() == {
            w.name for w in layer_weights(banks[0].loaded.walk.layers[i])
        }


def test_a_layer_does_not_depend_on_the_levels_of_others(folder_of: Folder) -> None:
    folder = folder_of("llama")
    quantizer = quantizer_named(SMALL)
    together, alone = (Bank(tiny.load(folder), quantizer) for _ in range(2))
    fill(together, (HIGH,) * 4, (LOW,) * 4)
    said = fill(alone, (16, LOW, 16, 16))
    assert {w for w in said if w.startswith("Packing")} == {
        f"Packing layer {i} of 4" for i in (1, 2)
    }
    assert same(together, alone, 1, LOW) and not alone.has(0, LOW)


@pytest.mark.parametrize("maker", [tiny.load, tiny.stream])
def test_what_is_stopped_goes_on_and_what_is_on_disk_is_not_packed_again(
    maker: Callable[..., LoadedModel],
    folder_of: Folder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    quantizer, folder, stop = quantizer_named(SMALL), folder_of("llama"), Event()
    bank = Bank(maker(folder), quantizer, tmp_path / "bank")

    def until_the_third(what: str, done: float | None) -> None:
        if what.startswith("Packing layer 3"):
            stop.set()

    with pytest.raises(Stopped):
        bank.fill([(LOW,) * 4], tiny.run(progress=until_the_third, stop=stop))
    assert [bank.has(i, LOW) for i in range(4)] == [True, True, False, False]
    kept = list((tmp_path / "bank").glob("pass-*"))
    assert len(kept) == 1
    before = kept[0].read_bytes()
    said = fill(bank, (HIGH, 16, 16, 16))  # before what was kept: from the start, and only that
    assert {w.split(",")[0] for w in said if "Packing" in w} == {"Packing layer 1 of 4"}
    kept[0].write_bytes(before)
    bank = Bank(maker(folder), quantizer, tmp_path / "bank")
    said = fill(bank, (LOW,) * 4)
    assert {w.split(",")[0] for w in said if "Packing" in w} == {
        f"Packing layer {i} of 4" for i in (3, 4)
    }
    assert not kept[0].exists()
    whole = Bank(tiny.load(folder), quantizer)
    fill(whole, (LOW,) * 4)
    assert all(same(whole, bank, i, LOW) for i in range(4))
    monkeypatch.setattr(SpQR, "calibrate", None)
    again = Bank(maker(folder), quantizer, tmp_path / "bank")
    fill(again, (LOW,) * 4)
    assert same(whole, again, 2, LOW)
    assert torch.isfinite(tiny.logits(compose(again, (LOW,) * 4, tiny.run()), [1, 2, 3])).all()


def inputs(loaded: LoadedModel, module: torch.nn.Module, documents: list[list[int]]) -> Tensor:
    """What enters a module of all documents, one document at a time: [tokens, inputs]."""
    entered: list[Tensor] = []
    hook = module.register_forward_pre_hook(lambda m, args: entered.append(args[0][0]))
    for tokens in documents:
        tiny.logits(loaded.model, tokens)
    hook.remove()
    return torch.cat(entered).double()


def test_padding_does_not_count(folder_of: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """H of documents in one batch is that of all their tokens, one document at a time."""
    loaded, found = tiny.load(folder_of("llama")), []
    monkeypatch.setattr(
        calibration,
        "inverse_root",
        lambda h: found.append(h.clone()) or algorithm.inverse_root(h),
    )
    documents = tiny.documents(30, 24, 27, 7)
    packed = calibration.pack_layers(loaded, [(0, LOW), (1, LOW)], documents, tiny.run(), None)
    assert [(layer, level) for layer, level, _ in packed] == [(0, LOW), (1, LOW)]
    names = ["self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj"]
    assert len(found) == 2 * len(names)  # q, k and v share one, and so do gate and up
    for i in range(2):
        for k, name in enumerate(names):
            x = inputs(loaded, loaded.walk.layers[i].get_submodule(name), documents)
            assert len(x) == 88
            expected = 2 / len(x) * x.T @ x
            np.testing.assert_allclose(
                found[i * len(names) + k], expected, rtol=1e-3, atol=1e-4 * expected.abs().max()
            )


def test_a_layer_that_is_stopped_while_it_is_packed_is_not_kept(
    folder_of: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank, stop = Bank(tiny.load(folder_of("llama")), quantizer_named(SMALL)), Event()

    def stopping(*args: Any) -> algorithm.Packed:
        stop.set()
        return algorithm.packed(*args)

    monkeypatch.setattr(calibration, "packed", stopping)
    with pytest.raises(Stopped):
        fill(bank, (HIGH,) * 4, stop=stop)
    assert not bank.has(0, HIGH)


def test_experts_in_one_tensor_are_refused_before_any_work(folder_of: Folder) -> None:
    bank = Bank(tiny.load(folder_of("mixtral")), quantizer_named(SMALL))
    with pytest.raises(UserError, match=r"cannot pack mlp\.experts\.gate_up_proj.*Choose Quanto"):
        fill(bank, (HIGH,) * 4)
    assert not any(bank.has(i, HIGH) for i in range(4))


def test_a_weight_that_sees_some_tokens_only_is_refused() -> None:
    linear = torch.nn.Linear(8, 4)
    hessians = calibration.Hessians(layer_weights(torch.nn.ModuleDict({"expert": linear})))
    with (
        pytest.raises(UserError, match=r"cannot pack expert\.weight"),
        hessians.watching(torch.ones(2, 3, dtype=torch.bool)),
    ):
        linear(torch.ones(5, 8))
    hessians = calibration.Hessians(hessians.weights)
    with pytest.raises(UserError, match=r"cannot pack expert\.weight"):
        list(hessians.by_input())


def test_text_and_tokens_are_part_of_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["spqr", "spqr:documents=4", "spqr:tokens=99", SMALL]
    descriptions = {json.dumps(quantizer_named(name).to_json()) for name in names}
    before = SpQR().to_json()
    monkeypatch.setattr(calibrated, "read_calibration", lambda _: Text("other", ("Words.",) * 50))
    assert len(descriptions) == 4 and SpQR().to_json() != before


def test_levels_have_names_in_percent() -> None:
    quantizer = SpQR()
    assert quantizer.levels == tuple(sorted(PER_MILLE, reverse=True)) and len(PER_MILLE) == 10
    assert quantizer.level_title(HIGH) == "1 % outliers (3.945 bits)"
    assert quantizer.pair_title(quantizer.pairs[0]) == "1 % / 0.1 %"
    assert [quantizer.level_named(t) for t in ("1%", "0.1 %", "3.945")] == [HIGH, LOW, HIGH]
    with pytest.raises(UserError, match=r"no level 4, only these \(outliers\): 3.945 \(1 %\)"):
        quantizer.level_named("4")
