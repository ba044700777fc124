"""What the bank packs: its bytes, its numbers, its files; and that the model stays as it is."""

from __future__ import annotations

import errno
import itertools
import json
import logging
import os
import shutil
import struct
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest
import safetensors.torch
import tiny
import torch
from optimum import quanto
from torch import Tensor, nn

from lwq_ui.core.cost import model_cost
from lwq_ui.core.errors import Stopped, UserError
from lwq_ui.core.memory import GIB, group_size
from lwq_ui.core.run import Run
from lwq_ui.core.schema import WeightSpec
from lwq_ui.core.store import Store
from lwq_ui.core.writing import Prompt
from lwq_ui.engine import jobs
from lwq_ui.engine.banks import bank as bank_module
from lwq_ui.engine.banks.bank import Bank
from lwq_ui.engine.banks.composing import compose
from lwq_ui.engine.batches.request import Request
from lwq_ui.engine.checkpoints.source import Source
from lwq_ui.engine.exports import model_export
from lwq_ui.engine.models.description import describe
from lwq_ui.engine.models.layers import find_layers
from lwq_ui.engine.models.loading import LoadedModel
from lwq_ui.engine.peak import own_bytes
from lwq_ui.engine.quantizers import QUANTIZERS, quantizer_named
from lwq_ui.engine.quantizers.quanto import Quanto
from lwq_ui.engine.quantizers.quanto_optimizers import ClipOptimizer, GroupwiseHqqOptimizer
from lwq_ui.engine.sweeps.sweep import Sweep

Loaded = Callable[..., LoadedModel]
SPLIT = (2, 16, 8, 4)
OPTIMIZERS = {
    "quanto": quanto.MaxOptimizer,
    "quanto-hqq": GroupwiseHqqOptimizer,
    "quanto-clip": ClipOptimizer,
}
WIDTHS = [
    # hidden, intermediate: groups of 128, 96, 64, 32, or a whole row; odd rows do not fill bytes
    (64, 96),
    (96, 99),
    (160, 352),
    (192, 704),
    (256, 640),
    (320, 100),
    (64, 50),
]
MAKERS = {"memory": tiny.load, "stream": tiny.stream}
each_maker = pytest.mark.parametrize("maker", sorted(MAKERS))


def fill(bank: Bank, *splits: tuple[int, ...]) -> None:
    bank.fill(splits, tiny.run())


def measured_bytes(model: nn.Module) -> int:
    """Everything that the model keeps, each tensor once: its parameters, packed or not."""
    tensors: dict[int, Tensor] = {}
    for parameter in model.parameters():
        if isinstance(parameter, quanto.QTensor):
            stored: dict[str, Tensor] = {}
            parameter.save_to_state_dict(stored, "", False)
            tensors |= {t.data_ptr(): t for t in stored.values()}
        else:
            tensors[parameter.data_ptr()] = parameter
    return sum(t.numel() * t.element_size() for t in tensors.values())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("hidden", "intermediate"), WIDTHS)
def test_estimated_bytes_are_the_measured_ones(
    hidden: int, intermediate: int, tied: bool, dtype: str, folder_of: Callable[..., Path]
) -> None:
    folder = folder_of(
        "llama",
        dtype,
        hidden_size=hidden,
        intermediate_size=intermediate,
        tie_word_embeddings=tied,
        num_hidden_layers=3,
        vocab_size=101,
    )
    cost = model_cost(describe(Source("x", folder)), tiny.QUANTO)  # from the config alone
    loaded = tiny.load(folder)
    bank = Bank(loaded, tiny.QUANTO)
    for level in (8, 4, 2):
        for i in range(3):
            assert cost.layers[i].packed[level] == bank.packed_bytes(i, level, tiny.run())
    for split in ((2, 2, 2), (4, 4, 4), (8, 8, 8), (16, 16, 16), (4, 8, 2), (16, 2, 4)):
        assert cost.total(split) == measured_bytes(compose(bank, split, tiny.run()))
    assert loaded.info == describe(Source(str(folder), folder))


def test_the_widths_above_meet_every_group_size() -> None:
    sizes = {group_size(width) for widths in WIDTHS for width in widths}
    assert {128, 96, 64, 32} <= sizes
    assert group_size(320) == 64 and group_size(160) == 32 and group_size(192) == 96


@pytest.mark.parametrize("name", ["gpt2", "mixtral", "qwen3", "gemma2", "gpt_neox", "opt", "phi3"])
def test_estimated_bytes_of_other_architectures(
    name: str, folder_of: Callable[..., Path], loaded_of: Loaded
) -> None:
    loaded = loaded_of(name)
    info = describe(Source("x", folder_of(name)))
    cost = model_cost(info, tiny.QUANTO)
    bank = Bank(loaded, tiny.QUANTO)
    for level in (8, 4, 2):
        assert [c.packed[level] for c in cost.layers] == [
            bank.packed_bytes(i, level, tiny.run()) for i in range(4)
        ]
    assert cost.total((16,) * 4) == measured_bytes(loaded.model) == info.total_bytes
    assert info.total_bytes < 0.1 * GIB


def quanto_reference(name: str, dtype: str, split: Any, optimizer: Any, **changes: Any) -> Any:
    """optimum-quanto's own way: quantize() per layer, then freeze()."""
    model = tiny.build(name, dtype, **changes)
    qtypes = {2: quanto.qint2, 4: quanto.qint4, 8: quanto.qint8}
    for i, level in enumerate(split):
        if level != 16:
            quanto.quantize(
                model,
                weights=qtypes[level],
                include=f"{tiny.LAYERS[name]}.{i}.*",
                optimizer=None if level == 8 else optimizer(),
            )
    quanto.freeze(model)
    return model


@pytest.mark.parametrize("quantizer", sorted(OPTIMIZERS))
@pytest.mark.parametrize(
    ("name", "dtype", "changes"),
    [
        ("llama", "float32", {}),
        ("llama", "bfloat16", {"hidden_size": 256, "intermediate_size": 704}),
        ("llama", "float32", {"hidden_size": 160, "intermediate_size": 99}),
        ("qwen3", "bfloat16", {}),
        ("gemma2", "float32", {}),
        ("gpt_neox", "float32", {}),
        ("opt", "float32", {}),
        ("phi3", "float32", {}),
    ],
)
def test_logits_are_those_of_quantos_own_quantize_and_freeze(
    name: str, dtype: str, changes: dict[str, Any], quantizer: str, loaded_of: Loaded
) -> None:
    loaded = loaded_of(name, dtype, **changes)
    reference = quanto_reference(name, dtype, SPLIT, OPTIMIZERS[quantizer], **changes)
    composed = compose(Bank(loaded, quantizer_named(quantizer)), SPLIT, tiny.run())
    quantized = sum(isinstance(m, quanto.QLinear) for m in composed.modules())
    assert quantized == sum(isinstance(m, quanto.QLinear) for m in reference.modules()) > 0
    for tokens in tiny.documents(30, 7):
        logits = tiny.logits(composed, tokens)
        assert torch.equal(logits, tiny.logits(reference, tokens))
        assert not torch.equal(logits, tiny.logits(loaded.model, tokens))


def test_the_optimizers_differ(loaded_of: Loaded) -> None:
    loaded = loaded_of("llama")
    tokens = tiny.documents(20)[0]
    composed = [compose(Bank(loaded, quantizer_named(q)), SPLIT, tiny.run()) for q in OPTIMIZERS]
    for one, other in itertools.combinations([tiny.logits(m, tokens) for m in composed], 2):
        assert not torch.equal(one, other)


def through_linear(matrix: Tensor, level: int) -> Tensor:
    """A matrix quantized the way optimum-quanto quantizes an nn.Linear, and back."""
    linear = nn.Linear(matrix.shape[1], matrix.shape[0], bias=False, dtype=matrix.dtype)
    linear.weight.data = matrix.clone()
    model = nn.Sequential(linear)
    quanto.quantize(model, weights={2: quanto.qint2, 4: quanto.qint4, 8: quanto.qint8}[level])
    quanto.freeze(model)
    return model[0].weight.dequantize()


@torch.no_grad()
@pytest.mark.parametrize("name", ["gpt2", "mixtral"])
def test_weights_outside_of_linear_modules_are_quantized_alike(
    name: str, loaded_of: Loaded
) -> None:
    """GPT-2's Conv1D, and the experts of a mixture one by one: optimum-quanto skips both."""
    reference = tiny.build(name)
    for layer, level in zip(reference.get_submodule(tiny.LAYERS[name]), (2, 16, 8, 4), strict=True):
        if level == 16:
            continue
        for path, parameter in layer.named_parameters():
            if parameter.ndim == 3:
                for expert in parameter:
                    expert.copy_(through_linear(expert, level))
            elif name == "gpt2" and parameter.ndim == 2:
                parameter.copy_(through_linear(parameter.T, level).T)
            elif "self_attn" in path and parameter.ndim == 2:
                parameter.copy_(through_linear(parameter, level))
    composed = compose(Bank(loaded_of(name), tiny.QUANTO), SPLIT, tiny.run())
    tokens = tiny.documents(25)[0]
    torch.testing.assert_close(
        tiny.logits(composed, tokens), tiny.logits(reference, tokens), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("name", ["llama", "gpt2", "mixtral"])
def test_the_unquantized_model_is_never_touched(
    name: str, folder_of: Callable[..., Path], store: Store, run: Run
) -> None:
    loaded = tiny.load(folder_of(name))
    tokens = tiny.documents(20)[0]
    content, before = tiny.state_hash(loaded.model), tiny.logits(loaded.model, tokens)
    kinds = [type(m) for m in loaded.model.modules()]
    bank = jobs.bank_of(loaded, tiny.QUANTO, store)
    composed = compose(bank, SPLIT, tiny.run())
    tiny.logits(composed, tokens)
    request = Request(tokens[:-1], tokens[1:])
    Sweep(bank, [SPLIT, (4,) * 4], tiny.run()).score([request], "x", divergence=True)
    written = jobs.generate(loaded, SPLIT, tiny.QUANTO, Prompt("The house", 0, 5), run)
    assert len(list(written)) > 1
    assert tiny.state_hash(loaded.model) == content
    assert [type(m) for m in loaded.model.modules()] == kinds
    assert torch.equal(tiny.logits(loaded.model, tokens), before)
    # Everything that is not quantized is shared, not copied.
    embedding = loaded.model.get_input_embeddings().weight
    assert composed.get_input_embeddings().weight is embedding


def contents(bank: Bank) -> Iterator[tuple[Any, Tensor]]:
    for layer in range(4):
        for level in (8, 4, 2):
            for name, packed in bank.packed(layer, level, tiny.run()).items():
                for part, tensor in bank.quantizer.tensors(packed).items():
                    yield (layer, level, name, part), tensor


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "mixtral"])
def test_a_bank_from_disk_is_the_one_in_memory(
    name: str,
    dtype: str,
    loaded_of: Loaded,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded = loaded_of(name, dtype)
    memory = Bank(loaded, tiny.QUANTO, tmp_path)
    fill(memory, (8,) * 4, (4,) * 4, (2,) * 4)
    assert len(list(tmp_path.glob("*.safetensors"))) == len(list(tmp_path.iterdir())) == 12
    monkeypatch.setattr(Quanto, "pack", lambda *args: pytest.fail("packed again"))
    disk = Bank(loaded, tiny.QUANTO, tmp_path)
    for (place, a), (same, b) in zip(contents(memory), contents(disk), strict=True):
        assert place == same and a.dtype == b.dtype and torch.equal(a, b)
    tokens = tiny.documents(20)[0]
    assert torch.equal(
        tiny.logits(compose(disk, SPLIT, tiny.run()), tokens),
        tiny.logits(compose(memory, SPLIT, tiny.run()), tokens),
    )
    for i, level in enumerate(SPLIT):
        if level != 16:
            a, b = memory.dense(i, level, tiny.run()), disk.dense(i, level, tiny.run())
            assert a and all(torch.equal(a[k], b[k]) for k in a)


def write_at(path: Path, tensors: dict[str, Tensor], odd: int) -> None:
    """A safetensors file as the format allows it: tensors in any order, `odd` bytes off."""
    tags = {"int8": "I8", "uint8": "U8", "float16": "F16", "bfloat16": "BF16", "float32": "F32"}
    header, body = {}, b""
    for name, tensor in tensors.items():
        data = tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
        header[name] = {
            "dtype": tags[str(tensor.dtype).removeprefix("torch.")],
            "shape": list(tensor.shape),
            "data_offsets": [len(body), len(body) + len(data)],
        }
        body += data
    text = json.dumps(header).encode()
    text += b" " * ((odd - len(text) - 8) % 64)
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


@pytest.mark.parametrize("odd", [0, 1, 2, 7, 13, 33, 63])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_memory_that_is_not_aligned_dequantizes_alike(dtype: str, odd: int, tmp_path: Path) -> None:
    torch.manual_seed(odd)
    quantizer = tiny.QUANTO
    shapes = [(64, 96), (99, 64), (7, 50), (33, 256), (1, 96)]
    for (rows, columns), level in itertools.product(shapes, quantizer.levels):
        packed = quantizer.pack(torch.randn(rows, columns).to(getattr(torch, dtype)), level)
        path = tmp_path / f"{rows}-{columns}-{level}"
        write_at(path, quantizer.tensors(packed), odd)
        mapped = safetensors.torch.load_file(path)
        first = next(iter(mapped.values()))
        assert first.data_ptr() % 64 == odd
        again = quantizer.restore(mapped, WeightSpec("w", rows, columns), level)
        assert torch.equal(quantizer.dense(again), quantizer.dense(packed))


def mapped_ranges(folder: Path) -> list[tuple[int, int]]:
    """Addresses where this process has files of a folder mapped, as the kernel tells them."""
    rows = [row.split() for row in Path("/proc/self/maps").read_text().splitlines()]
    ranges = [row[0].split("-") for row in rows if row[-1].startswith(str(folder))]
    return [(int(start, 16), int(end, 16)) for start, end in ranges]


def in_files(tensor: Tensor, folder: Path) -> bool:
    start, end = tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
    return any(low <= start and end <= high for low, high in mapped_ranges(folder))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what is mapped")
@each_maker
def test_on_a_cpu_packed_layers_are_views_of_their_files(
    maker: str, folder_of: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = MAKERS[maker](folder_of("llama", "bfloat16"))
    packing = Bank(loaded, tiny.QUANTO, tmp_path)
    for place, tensor in contents(packing):
        assert in_files(tensor, tmp_path), place
    monkeypatch.setattr(Quanto, "pack", lambda *args: pytest.fail("packed again"))
    reading = Bank(loaded, tiny.QUANTO, tmp_path)
    assert all(in_files(tensor, tmp_path) for _, tensor in contents(reading))
    for module in compose(
        reading, (8, 2, 2, 8), tiny.run()
    ).modules():  # whose kernels need aligned memory
        if isinstance(module, quanto.QLinear):
            for tensor in reading.quantizer.tensors(module.weight).values():
                assert not in_files(tensor, tmp_path) and tensor.data_ptr() % 16 == 0


@torch.no_grad()
def test_a_bank_in_files_that_are_not_aligned_computes_alike(
    loaded_of: Loaded, tmp_path: Path
) -> None:
    """torch's int8 kernel ends the program where it is given such memory."""
    loaded = loaded_of("llama", "bfloat16", hidden_size=128, intermediate_size=256)
    split, tokens = (8, 8, 4, 2), tiny.documents(40)[0]
    expected = tiny.logits(compose(Bank(loaded, tiny.QUANTO), split, tiny.run()), tokens)
    fill(Bank(loaded, tiny.QUANTO, tmp_path), split)
    for path in tmp_path.iterdir():
        tensors = safetensors.torch.load(path.read_bytes())
        path.unlink()
        write_at(path, tensors, odd=1)
    assert torch.equal(
        tiny.logits(compose(Bank(loaded, tiny.QUANTO, tmp_path), split, tiny.run()), tokens),
        expected,
    )


@each_maker
@pytest.mark.parametrize("name", sorted(tiny.CONFIGS.keys() - {"gemma3n_text"}))
def test_estimated_bytes_are_the_truth(
    name: str, maker: str, folder_of: Callable[..., Path], store: Store
) -> None:
    dtype = "bfloat16" if name in ("qwen3", "gpt2", "mixtral") else "float32"
    loaded = MAKERS[maker](folder_of(name, dtype))
    levels = (16, 8, 4, 2, 0)
    for split in [*((level,) * 4 for level in levels), (2, 16, 8, 4), (0, 4, 0, 2)]:
        truth = jobs.truth(loaded, split, tiny.QUANTO, tiny.run(store))
        assert truth.estimated == truth.measured
    assert (
        jobs.truth(loaded, (16,) * 4, tiny.QUANTO, tiny.run(store)).measured
        == loaded.info.total_bytes
    )


def test_the_truth_is_counted_from_the_tensors(
    folder_of: Callable[..., Path], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = tiny.load(folder_of("llama"))
    bank = jobs.bank_of(loaded, tiny.QUANTO, store)
    fill(bank, (4,) * 4)
    monkeypatch.setattr(Quanto, "packed_bytes", lambda *args: 1)
    truth = jobs.truth(loaded, (4,) * 4, tiny.QUANTO, tiny.run(store))
    assert truth.estimated < truth.measured == measured_bytes(compose(bank, (4,) * 4, tiny.run()))


def test_other_banks_make_room_and_the_one_in_use_is_kept(
    folder_of: Callable[..., Path], tmp_path: Path
) -> None:
    first, second = (tiny.load(folder_of(name)) for name in ("llama", "qwen3"))
    old = jobs.bank_of(first, tiny.QUANTO, Store(tmp_path))
    fill(old, (4,) * 4)
    for path in tmp_path.glob("banks/*/*/*"):
        os.utime(path, (1, 1))
    old.dense(2, 4, tiny.run())  # used again
    full = Store(tmp_path).banks.total()
    bank = jobs.bank_of(second, tiny.QUANTO, Store(tmp_path, None, full))
    fill(bank, (2, 2, 16, 16))
    assert Store(tmp_path).banks.total() <= full
    left = [path.name for path in tmp_path.glob("banks/*/*/*")]
    assert "layer-002-4bit.safetensors" in left and 3 < len(left) < 6

    second.banks.clear()
    small = Store(tmp_path, None, 1)
    bank = jobs.bank_of(second, tiny.QUANTO, small)
    fill(bank, (2, 4, 16, 16))
    left = sorted(path.name for path in tmp_path.glob("banks/*/*/*"))
    assert left == [f"layer-00{i}-{level}bit.safetensors" for i, level in ((0, 2), (1, 2), (1, 4))]
    assert small.banks.total() > small.banks.limit
    expected = Bank(first, tiny.QUANTO).dense(2, 4, tiny.run())  # what is mapped stays readable
    assert all(torch.equal(expected[k], v) for k, v in old.dense(2, 4, tiny.run()).items())


def test_use_is_marked(loaded_of: Loaded, tmp_path: Path) -> None:
    bank = Bank(loaded_of("llama"), tiny.QUANTO, tmp_path)
    fill(bank, (4, 2, 16, 0))
    paths = sorted(tmp_path.iterdir())
    for path in paths:
        os.utime(path, (1, 1))
    bank.dense(0, 4, tiny.run())
    assert paths[0].stat().st_mtime > paths[1].stat().st_mtime == 1
    Bank(loaded_of("llama"), tiny.QUANTO, tmp_path).dense(1, 2, tiny.run())
    assert paths[1].stat().st_mtime > 1


def test_what_is_read_per_use_is_not_read_to_fill(
    folder_of: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A streamed model's bank on a GPU."""
    bank = Bank(tiny.stream(folder_of("llama")), tiny.QUANTO, tmp_path)
    monkeypatch.setattr(bank, "_keeps", False)
    fill(bank, (4, 4, 16, 0))
    assert len(list(tmp_path.iterdir())) == 2 and not bank._packed
    monkeypatch.setattr(Bank, "packed", lambda *args: pytest.fail("read"))
    fill(bank, (4, 4, 16, 0))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_packing_leaves_no_memory_behind(folder_of: Callable[..., Path], tmp_path: Path) -> None:
    wide = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 6}
    loaded = tiny.stream(folder_of("llama", "bfloat16", **wide))
    fill(Bank(loaded, tiny.QUANTO, tmp_path / "first"), (4,) * 6)
    before = own_bytes()
    fill(Bank(loaded, tiny.QUANTO, tmp_path), (8,) * 6, (4,) * 6, (2,) * 6)
    size = sum(path.stat().st_size for path in tmp_path.glob("*.safetensors"))
    assert size > 40 * 2**20 and own_bytes() - before < size / 4


@each_maker
def test_files_that_another_process_deletes_are_packed_again(
    maker: str, folder_of: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = MAKERS[maker](folder_of("llama"))
    first = Bank(loaded, tiny.QUANTO, tmp_path)
    fill(first, (4,) * 4)
    expected = first.dense(1, 4, tiny.run())
    load_file = safetensors.torch.load_file

    def too_late(path: Path) -> Any:
        monkeypatch.setattr(safetensors.torch, "load_file", load_file)
        path.unlink()
        return load_file(path)

    monkeypatch.setattr(safetensors.torch, "load_file", too_late)
    again = Bank(loaded, tiny.QUANTO, tmp_path)
    assert all(torch.equal(expected[k], v) for k, v in again.dense(1, 4, tiny.run()).items())
    assert len(list(tmp_path.iterdir())) == 4  # nothing was set aside
    shutil.rmtree(tmp_path)
    assert all(torch.equal(expected[k], v) for k, v in again.dense(1, 4, tiny.run()).items())
    again = Bank(loaded, tiny.QUANTO, tmp_path)
    assert all(torch.equal(expected[k], v) for k, v in again.dense(1, 4, tiny.run()).items())


def test_a_full_disk_is_told_before_anything_is_packed(
    folder_of: Callable[..., Path], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank = jobs.bank_of(tiny.load(folder_of("llama")), tiny.QUANTO, store)
    free = bank.packed_bytes(0, 4, tiny.run())
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    bank.packed(1, 4, tiny.run())
    free -= 1
    monkeypatch.setattr(Quanto, "pack", lambda *args: pytest.fail("packed"))
    with pytest.raises(UserError, match=r"of disk space, and [\d.,]+ [KM]iB are free where"):
        bank.packed(2, 4, tiny.run())


def test_a_file_that_cannot_be_written(
    loaded_of: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(bank_module, "write_atomically", full)
    bank = Bank(loaded_of("llama"), tiny.QUANTO, tmp_path)
    with pytest.raises(UserError, match=r"cannot be written to '.*': No space left on device\."):
        bank.packed(0, 4, tiny.run())


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "other"])
def test_a_damaged_bank_file_is_set_aside_and_packed_again(
    damage: str, loaded_of: Loaded, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loaded = loaded_of("llama")
    first = Bank(loaded, tiny.QUANTO, tmp_path)
    fill(first, (4,) * 4, (8,) * 4)
    path = tmp_path / "layer-001-4bit.safetensors"
    good = path.read_bytes()
    path.unlink()  # a file that is mapped may go, but not shrink
    path.write_bytes(
        {
            "cut": good[: len(good) // 2],
            "empty": b"",
            "text": b"not a file of tensors",
            "other": (tmp_path / "layer-001-8bit.safetensors").read_bytes(),
        }[damage]
    )
    bad = path.read_bytes()
    with caplog.at_level(logging.WARNING):
        again = Bank(loaded, tiny.QUANTO, tmp_path)
        fill(again, (4,) * 4)
    assert path.name in caplog.text
    assert path.read_bytes() == good
    assert path.with_suffix(".damaged").read_bytes() == bad
    for (_, a), (_, b) in zip(contents(first), contents(again), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("level", [3, 5])
def test_a_level_that_the_quantizer_lacks(level: int, loaded_of: Loaded) -> None:
    bank = Bank(loaded_of("llama"), tiny.QUANTO)
    for use in (
        lambda: bank.packed(0, level, tiny.run()),
        lambda: fill(bank, (4, 4, level, 4)),
        lambda: bank.dense(1, level, tiny.run()),
        lambda: compose(bank, (16, 16, 16, level), tiny.run()),
    ):
        with pytest.raises(UserError, match=f"has no {level} bits, only 8, 4, 2"):
            use()


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2"])
def test_pruned_layers_are_skipped(name: str, loaded_of: Loaded) -> None:
    loaded = loaded_of(name)
    bank = Bank(loaded, tiny.QUANTO)
    fill(bank, (0, 16, 0, 4))
    assert set(bank._packed) == {(3, 4)}
    composed = compose(bank, (0, 16, 0, 4), tiny.run())
    tokens = tiny.documents(20)[0]
    states = tiny.layer_states(composed, find_layers(composed), tokens)
    for i, pruned in enumerate((True, False, True, False)):
        entered, left = states[i]
        assert torch.equal(entered, left) == pruned
    with pytest.raises(UserError, match="cannot store a model with pruned layers"):
        model_export(bank.quantizer).check(loaded, bank.quantizer, (0, 16, 0, 4))


@torch.no_grad()
@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2"])
def test_a_model_with_pruned_layers_writes_what_it_computes(name: str, loaded_of: Loaded) -> None:
    loaded = loaded_of(name)
    composed = compose(Bank(loaded, tiny.QUANTO), (0, 16, 4, 0), tiny.run())
    tokens = tiny.documents(5)[0]
    ids = torch.tensor([tokens])
    written = composed.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False, eos_token_id=1
    )[0].tolist()
    for n in range(len(tokens), len(written)):
        assert written[n] == tiny.logits(composed, written[:n])[-1].argmax()
    assert loaded.model.generation_config.use_cache and loaded.model.config.use_cache


def test_an_unknown_quantizer() -> None:
    with pytest.raises(UserError, match=r"no quantizer 'awq'.*quanto, quanto-hqq, quanto-clip"):
        quantizer_named("awq")
    assert OPTIMIZERS.keys() < QUANTIZERS.keys()


def test_a_new_split_packs_nothing_again(
    loaded_of: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed: Counter[int] = Counter()
    pack = Quanto.pack

    def counting(self: Quanto, matrix: Tensor, level: int) -> Any:
        packed[level] += 1
        return pack(self, matrix, level)

    monkeypatch.setattr(Quanto, "pack", counting)
    bank = Bank(loaded_of("llama"), tiny.QUANTO)
    fill(bank, (4,) * 4, (2,) * 4)
    assert packed == {4: 28, 2: 28}  # seven weights in each of four layers
    tokens = tiny.documents(10)[0]
    request = Request(tokens[:-1], tokens[1:])
    for split in ((4, 2, 2, 4), (2, 4, 16, 2), (16,) * 4):
        fill(bank, split)
        compose(bank, split, tiny.run())
        Sweep(bank, [split], tiny.run()).score([request], "x")
    assert packed == {4: 28, 2: 28}
    fill(bank, (4, 8, 4, 4))
    assert packed == {4: 28, 2: 28, 8: 7}


def test_filling_stops_between_layers_and_goes_on_from_there(
    loaded_of: Loaded, tmp_path: Path
) -> None:
    bank = Bank(loaded_of("llama"), tiny.QUANTO, tmp_path)
    stop = Event()

    def progress(what: str, done: float | None) -> None:
        assert what == "Quantizing layers"
        if done == 0.5:
            stop.set()

    with pytest.raises(Stopped):
        bank.fill([(4,) * 4], tiny.run(progress=progress, stop=stop))
    assert len(list(tmp_path.iterdir())) == 3
    seen: list[Any] = []
    bank.fill([(4,) * 4], tiny.run(progress=lambda what, done: seen.append(done)))
    assert seen == [0.0]
    assert len(list(tmp_path.iterdir())) == 4


def test_composing_shares_memory_and_costs_only_the_packed_weights(loaded_of: Loaded) -> None:
    loaded = loaded_of("llama")
    composed = compose(Bank(loaded, tiny.QUANTO), (4, 16, 4, 4), tiny.run())
    layers = composed.get_submodule("model.layers")
    own = loaded.walk.layers
    assert layers[1].mlp.up_proj.weight is own[1].mlp.up_proj.weight
    assert isinstance(layers[0].mlp.up_proj, quanto.QLinear)
    assert not isinstance(own[0].mlp.up_proj, quanto.QLinear)
    assert find_layers(composed) is layers
