"""GPTQ: what the bank gets from GPTQModel, what is computed with it, and what it writes. GPTQModel
itself, which changes other libraries, is only ever asked in processes of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import gguf_models
import psutil
import pytest
import tiny
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from lwq_ui.core.cost import model_cost
from lwq_ui.core.errors import Stopped, UserError
from lwq_ui.core.run import Run
from lwq_ui.core.schema import ModelInfo, WeightSpec
from lwq_ui.core.settings import Settings
from lwq_ui.engine.banks.bank import Bank
from lwq_ui.engine.banks.composing import compose
from lwq_ui.engine.checkpoints.finding import find
from lwq_ui.engine.checkpoints.source import Source
from lwq_ui.engine.exports import model_export
from lwq_ui.engine.exports.gptq_checkpoint import GPTQCheckpoint
from lwq_ui.engine.models.description import describe
from lwq_ui.engine.models.loading import LoadedModel, load
from lwq_ui.engine.quantizers import gptq, quantizer_named
from lwq_ui.engine.quantizers.gptq import GPTQ, PARTS
from lwq_ui.engine.quantizers.gptq_format import GPTQWeight

NAME = "gptq:group=32,documents=4,tokens=48"
MODEL: dict[str, Any] = {"num_hidden_layers": 3}
SPLIT = (4, 16, 2)
MIXED = (4, 4, 2)


@pytest.fixture(scope="module")
def gptqmodel() -> None:
    if not gptq.is_installed():
        if os.environ.get("CI") == "true":
            pytest.fail("gptqmodel is not installed")
        pytest.skip("gptqmodel is not installed")


@pytest.fixture(scope="module")
def loaded(folder_of: Callable[..., Path]) -> LoadedModel:
    return tiny.load(folder_of("llama", "bfloat16", **MODEL))


@pytest.fixture(scope="module")
def bank(gptqmodel: None, loaded: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Bank:
    """Three layers at 4, 3 and 2 bits."""
    bank = Bank(loaded, quantizer_named(NAME), tmp_path_factory.mktemp("bank"))
    fill(bank, (4,) * 3, (3,) * 3, (2,) * 3)
    return bank


def fill(bank: Bank, *splits: Sequence[float]) -> None:
    bank.fill([tuple(split) for split in splits], tiny.run())


def packed_tensors(bank: Bank, layer: int, level: float) -> dict[str, Tensor]:
    """'self_attn.q_proj.qweight' -> tensor."""
    return {
        f"{name.removesuffix('weight')}{part}": tensor
        for name, packed in bank.packed(layer, level, tiny.run()).items()
        for part, tensor in bank.quantizer.tensors(packed).items()
        if part in PARTS
    }


def of_layer(checkpoint: Path, layer: int) -> dict[str, Tensor]:
    inside = f"model.layers.{layer}."
    stored = load_file(checkpoint / "model.safetensors")
    return {
        name.removeprefix(inside): tensor
        for name, tensor in stored.items()
        if name.startswith(inside) and name.rpartition(".")[2] in PARTS
    }


def equal(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(
        ours[k].dtype == theirs[k].dtype and torch.equal(ours[k], theirs[k]) for k in ours
    )


# GPTQModel's own way, in one process: a checkpoint at 4 bits, one at MIXED, and the logits of the
# checkpoint that we wrote.
REFERENCE = """
import json, os, sys
import torch
from gptqmodel import BACKEND, GPTQModel, QuantizeConfig

job = json.loads(sys.argv[1])
texts = [{"input_ids": s, "attention_mask": [1] * len(s)} for s in job["sequences"]]
for name, dynamic in job["runs"].items():
    config = QuantizeConfig(
        bits=4, group_size=32, device="cpu", dynamic=dynamic, offload_to_disk=False,
        pack_impl="original",
    )
    model = GPTQModel.load(job["model"], config, dtype=torch.bfloat16)
    model.quantize(texts, batch_size=1)
    model.save(os.path.join(job["out"], name))
model = GPTQModel.load(
    job["written"], device="cpu", backend=BACKEND.GPTQ_TORCH, dtype=torch.bfloat16
)
kinds = {n: [m.bits, m.sym] for n, m in model.model.named_modules() if hasattr(m, "qweight")}
with torch.no_grad():
    logits = model.model(input_ids=torch.tensor([job["tokens"]])).logits[0]
torch.save((kinds, logits), os.path.join(job["out"], "loaded.pt"))
sys.stdout.flush()
os._exit(0)
"""
TOKENS = tiny.documents(24, seed=3)[0]


@pytest.fixture(scope="module")
def reference(bank: Bank, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the checkpoints 'high' and 'mixed', our own one 'written', and loaded.pt."""
    out = tmp_path_factory.mktemp("reference")
    model_export(bank.quantizer).write(bank, SPLIT, out / "written", tiny.run())
    job = {
        "model": str(bank.loaded.source.folder),
        "sequences": GPTQ(documents=4, tokens=48).sequences(bank.loaded, tiny.run().store),
        "runs": {
            "high": None,
            "mixed": {r"+:model\.layers\.2\..*": {"bits": 2, "sym": 2 in GPTQ.symmetric}},
        },
        "written": str(out / "written"),
        "tokens": TOKENS,
        "out": str(out),
    }
    environment = {"GPTQMODEL_CPU_WORKERS": "2", "TORCHDYNAMO_DISABLE": "1"}
    run = subprocess.run(
        [sys.executable, "-c", REFERENCE, json.dumps(job)],
        cwd=out,  # where GPTQModel leaves its logs
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-4000:]
    return out


def test_a_layer_of_the_bank_is_that_of_the_checkpoint_gptqmodel_saves(
    bank: Bank, reference: Path
) -> None:
    for layer in range(3):
        assert equal(packed_tensors(bank, layer, 4), of_layer(reference / "high", layer))


def test_mixed_levels_are_those_of_gptqmodels_dynamic(bank: Bank, reference: Path) -> None:
    """Up to the first layer of another level, from the same inputs. From there on, theirs saw
    inputs that layers at 4 bits made, ours those that layers at 2 bits made."""
    for layer in (0, 1):
        assert equal(packed_tensors(bank, layer, 4), of_layer(reference / "mixed", layer))
    ours, theirs = packed_tensors(bank, 2, 2), of_layer(reference / "mixed", 2)
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}
    assert not equal(ours, theirs)


def test_the_written_checkpoint_holds_the_banks_tensors(bank: Bank, reference: Path) -> None:
    written = reference / "written"
    assert equal(packed_tensors(bank, 0, 4), of_layer(written, 0))
    assert of_layer(written, 1) == {}
    assert equal(packed_tensors(bank, 2, 2), of_layer(written, 2))
    stored = load_file(written / "model.safetensors")
    for name, parameter in bank.loaded.model.named_parameters():
        packed = name.startswith(("model.layers.0.", "model.layers.2.")) and "proj" in name
        assert (name in stored) != packed
        assert packed or torch.equal(stored[name], parameter)
    assert (written / "tokenizer.json").exists()


def test_gptqmodel_loads_the_written_checkpoint_by_itself(bank: Bank, reference: Path) -> None:
    kinds, theirs = torch.load(reference / "loaded.pt")
    projections = [w.name.removesuffix(".weight") for w in gptq.weights_of(bank.loaded, 0)]
    assert kinds == {
        f"model.layers.{layer}.{name}": [bits, bits in GPTQ.symmetric]
        for layer, bits in ((0, 4), (2, 2))
        for name in projections
    }
    ours = tiny.logits(compose(bank, SPLIT, tiny.run()), TOKENS).float()
    plain = tiny.logits(bank.loaded.model, TOKENS).float()
    assert relative(theirs.float(), ours) < 0.03 < 0.2 < relative(plain, ours)


def relative(a: Tensor, b: Tensor) -> float:
    return float(((a - b).norm() / b.norm()).detach())


def test_gptqmodel_is_never_imported_here(bank: Bank) -> None:
    assert "gptqmodel" not in sys.modules


def test_estimated_bytes_are_the_measured_ones(bank: Bank) -> None:
    cost = model_cost(describe(Source("x", bank.loaded.source.folder)), quantizer_named(NAME))
    for layer in range(3):
        for level in (4, 3, 2):
            assert bank.packed_bytes(layer, level, tiny.run()) == cost.layers[layer].packed[level]
    assert bank.measured_bytes(SPLIT, tiny.run()) == cost.total(SPLIT)


@pytest.mark.parametrize(
    ("level", "group", "hidden", "intermediate"), [(2, 128, 160, 100), (8, 64, 96, 99)]
)
def test_bytes_of_shapes_that_nothing_divides(
    level: int,
    group: int,
    hidden: int,
    intermediate: int,
    gptqmodel: None,
    folder_of: Callable[..., Path],
) -> None:
    folder = folder_of(
        "llama",
        "bfloat16",
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=1,
        vocab_size=4096,
    )
    name = "gptq:" + (f"group={group}," if group != 128 else "") + "documents=2,tokens=24"
    bank = Bank(tiny.load(folder), quantizer_named(name))
    fill(bank, (level,))
    cost = model_cost(describe(Source("x", folder)), quantizer_named(name))
    assert bank.packed_bytes(0, level, tiny.run()) == cost.layers[0].packed[level]
    for w in gptq.weights_of(bank.loaded, 0):
        error = relative(bank.dense(0, level, tiny.run())[w.name].float(), w.parameter.float())
        assert error < (0.01 if level == 8 else 0.8)


def test_transposed_weights(gptqmodel: None, folder_of: Callable[..., Path]) -> None:
    """GPT-2's Conv1D keeps [inputs, outputs]."""
    loaded = tiny.load(folder_of("gpt2", n_layer=1))
    bank = Bank(loaded, quantizer_named("gptq:group=32,documents=2,tokens=48"))
    fill(bank, (4,))
    for w in gptq.weights_of(bank.loaded, 0):
        dense = bank.dense(0, 4, tiny.run())[w.name]
        assert dense.shape == w.parameter.shape and dense.dtype == w.parameter.dtype
        assert relative(dense, w.parameter) < 0.2


def workers() -> list[psutil.Process]:
    return [
        p
        for p in psutil.Process().children()
        if p.status() != psutil.STATUS_ZOMBIE and str(gptq.WORKER) in p.cmdline()
    ]


def test_killed_stopped_and_continued_is_what_it_would_have_been(
    bank: Bank, loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait_for = gptq.wait_for

    def waiting(packed: Path, process: Any, layer: int, info: ModelInfo, run: Run) -> None:
        """Kills the first process at layer 1, and stops the second at layer 2. However far the
        process was ahead by then, its layer is lost."""
        if layer == len(ended):
            process.kill()
            process.wait()
            packed.unlink(missing_ok=True)
            if layer == 2:
                stop.set()
            ended.append(layer)
        wait_for(packed, process, layer, info, run)

    def progress(what: str, done: float | None) -> None:
        if what.startswith("GPTQ at 4 bits"):
            seen.append(what.partition("layer ")[2])

    monkeypatch.setattr(gptq, "wait_for", waiting)
    ended, stop, seen = [0], Event(), list[str]()
    split = [(4,) * 3]
    with pytest.raises(UserError, match="memory was not enough for GPTQ at layer 1"):
        first = Bank(loaded, quantizer_named(NAME), tmp_path)
        first.fill(split, tiny.run(progress=progress, stop=stop))
    assert [Bank(loaded, first.quantizer, tmp_path).has(i, 4) for i in range(3)] == [1, 0, 0]
    with pytest.raises(Stopped):
        Bank(loaded, first.quantizer, tmp_path).fill(split, tiny.run(progress=progress, stop=stop))
    assert [Bank(loaded, first.quantizer, tmp_path).has(i, 4) for i in range(3)] == [1, 1, 0]
    assert workers() == []
    Bank(loaded, first.quantizer, tmp_path).fill(split, tiny.run(progress=progress))
    assert seen == ["1 of 3", "2 of 3", "2 of 3", "3 of 3", "3 of 3"]
    again = Bank(loaded, first.quantizer, tmp_path)
    for layer in range(3):
        assert equal(packed_tensors(again, layer, 4), packed_tensors(bank, layer, 4))
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        f"layer-{i:03}-4bit.safetensors" for i in range(3)
    ]


def test_from_the_disk_nothing_is_calibrated(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(subprocess, "Popen", never)
    again = Bank(bank.loaded, bank.quantizer, bank.folder)
    fill(again, (4,) * 3, (3,) * 3, (2,) * 3)
    for level in (4, 3, 2):
        for name, dense in again.dense(1, level, tiny.run()).items():
            assert dense.dtype == torch.bfloat16
            assert torch.equal(dense, bank.dense(1, level, tiny.run())[name])


def test_a_damaged_continuation_is_not_used(tmp_path: Path) -> None:
    path = gptq.state_path(tmp_path, 4)
    assert path and gptq.reached(tmp_path, 4) == 0
    path.write_bytes(b"half a file")
    assert gptq.reached(tmp_path, 4) == 0


def test_the_process_ends_with_whoever_takes_the_layers(
    gptqmodel: None, loaded: LoadedModel
) -> None:
    quantizer = quantizer_named(NAME)
    assert isinstance(quantizer, GPTQ)
    with closing(quantizer.calibrate(loaded, [(2, 4)], tiny.run(), None)) as layers:
        layer, level, packed = next(layers)
        assert (layer, level) == (0, 4) and len(packed) == 7 and len(workers()) == 1
    assert workers() == []


def test_the_worker_ends_with_the_program(tmp_path: Path) -> None:
    """Its standard input ends then."""
    (tmp_path / "job.json").write_text(json.dumps({"out": str(tmp_path)}), encoding="utf-8")
    command = [sys.executable, str(gptq.WORKER), str(tmp_path / "job.json")]
    ended = subprocess.run(
        command, cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, timeout=20
    )
    assert ended.returncode == 1
    assert b"Traceback" not in ended.stderr


def failed(tmp_path: Path, code: int, **error: str) -> str:
    (tmp_path / "log.txt").write_text("noise\n")
    if error:
        (tmp_path / "error.json").write_text(json.dumps(error))
    info = SimpleNamespace(architecture="StrangeForCausalLM")
    return str(gptq.failure(tmp_path, code, 4, info))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("code", "error", "said"),
    [
        (-9, {}, "memory was not enough for GPTQ at layer 4. Choose fewer documents"),
        (1, {"doing": "quantize", "kind": "OutOfMemoryError", "text": "x"}, "memory was not"),
        (
            1,
            {"doing": "load", "kind": "ValueError", "text": "no module tree."},
            "GPTQModel cannot load StrangeForCausalLM (no module tree). Choose Quanto",
        ),
        (
            1,
            {"doing": "load", "kind": "LookupError", "text": "mlp.experts"},
            "GPTQModel does not quantize mlp.experts of StrangeForCausalLM. Choose Quanto",
        ),
        (
            1,
            {"doing": "start", "kind": "ImportError", "text": "libx is missing"},
            "The package gptqmodel cannot be used here (libx is missing). Install it anew",
        ),
        (
            1,
            {"doing": "quantize", "kind": "RuntimeError", "text": "\x1b[31mbad"},
            "GPTQModel failed at layer 4 of StrangeForCausalLM. What was quantized",
        ),
        (-11, {}, "GPTQModel failed at layer 4 of StrangeForCausalLM. What was quantized"),
    ],
)
def test_failures_are_told_in_a_sentence(
    code: int, error: dict[str, str], said: str, tmp_path: Path
) -> None:
    assert said in failed(tmp_path, code, **error)


def test_what_gptqmodel_cannot_load_is_told(
    gptqmodel: None, loaded: LoadedModel, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    gone = replace(loaded, source=Source("gone", tmp_path / "gone"), banks={})
    with pytest.raises(UserError, match="GPTQModel cannot load LlamaForCausalLM"):
        fill(Bank(gone, quantizer_named(NAME)), (4,) * 3)
    assert capfd.readouterr().err == ""


def test_a_gguf_file_is_quantized_as_the_same_model_in_a_folder(bank: Bank, tmp_path: Path) -> None:
    model = tiny.build("llama", "bfloat16", **MODEL)
    run = tiny.run(settings=Settings(cache=tmp_path / "cache"))
    path = gguf_models.write(model, tmp_path / "model.gguf", "BF16")
    loaded = load(find(str(path), run), "cpu", "auto", run, streamed=True)
    other = Bank(loaded, quantizer_named(NAME))
    fill(other, (4,) * 3)
    for layer in range(3):
        assert equal(packed_tensors(other, layer, 4), packed_tensors(bank, layer, 4))


@pytest.fixture
def no_process(gptqmodel: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(subprocess, "Popen", never)


def test_fused_experts_are_refused_before_anything_starts(
    no_process: None, loaded_of: Callable[..., LoadedModel]
) -> None:
    with pytest.raises(UserError, match=r"does not quantize mlp\.experts.* Choose Quanto"):
        fill(Bank(loaded_of("mixtral"), quantizer_named(NAME)), (4,) * 4)


def test_three_bits_of_odd_shapes_are_refused(
    no_process: None, loaded_of: Callable[..., LoadedModel]
) -> None:
    odd = loaded_of("llama", "bfloat16", intermediate_size=100)
    with pytest.raises(UserError, match=r"gate_proj\.weight has 100 by 64. Choose other bits"):
        fill(Bank(odd, quantizer_named(NAME)), (3,) * 4)


def test_too_little_memory_and_too_short_texts(
    no_process: None, loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="documents of at least 11 tokens"):
        fill(Bank(loaded, quantizer_named("gptq:tokens=10")), (4,) * 3)
    monkeypatch.setattr("lwq_ui.engine.devices.machine_memory", lambda: (10**8, 10**9))
    with pytest.raises(UserError, match=r"GPTQ needs about .* of memory beside this program"):
        fill(Bank(loaded, quantizer_named(NAME)), (4,) * 3)


def test_without_the_package(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    quantizer = quantizer_named(NAME)
    assert "pip install gptqmodel==" in quantizer.missing()
    assert quantizer.details["gptqmodel"] is None
    with pytest.raises(UserError, match="which is not installed"):
        fill(Bank(loaded, quantizer), (4,) * 3)


def test_what_cannot_be_written(loaded: LoadedModel) -> None:
    export = model_export(quantizer_named(NAME))
    with pytest.raises(UserError, match="pruned"):
        export.check(loaded, quantizer_named(NAME), (4, 0, 2))
    with pytest.raises(UserError, match="nothing to quantize"):
        export.check(loaded, quantizer_named(NAME), (16, 16, 16))
    export.check(loaded, quantizer_named(NAME), SPLIT)


def test_large_checkpoints_are_several_files(bank: Bank, tmp_path: Path) -> None:
    model_export(bank.quantizer).write(bank, MIXED, tmp_path / "one", tiny.run())
    GPTQCheckpoint(shard_bytes=200_000).write(bank, MIXED, tmp_path / "many", tiny.run())
    whole = load_file(tmp_path / "one" / "model.safetensors")
    index = json.loads((tmp_path / "many" / "model.safetensors.index.json").read_text())
    files = sorted((tmp_path / "many").glob("*.safetensors"))
    assert len(files) > 2 and {p.name for p in files} == set(index["weight_map"].values())
    found: dict[str, Tensor] = {}
    for path in files:
        with safe_open(path, "pt") as file:
            assert all(index["weight_map"][name] == path.name for name in file.keys())  # noqa: SIM118
        found |= load_file(path)
    assert equal(found, whole)
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in whole.values())


def pack_slowly(values: Sequence[int], bits: int) -> list[int]:
    """One stream of bits, cut into words of 32, as signed numbers."""
    stream = sum(value << (bits * i) for i, value in enumerate(values))
    words = -(-len(values) * bits // 32)
    cut = [(stream >> (32 * i)) & 0xFFFFFFFF for i in range(words)]
    return [word - 2**32 if word >= 2**31 else word for word in cut]


def less_one(zeros: Sequence[int], bits: int) -> list[int]:
    """As GPTQModel stores zero-points: at 3 bits each by itself, else word by word."""
    if bits == 3:
        return pack_slowly([(zero - 1) % 8 for zero in zeros], 3)
    one = sum(1 << i for i in range(0, 32, bits))
    less = [(word - one) % 2**32 for word in pack_slowly(zeros, bits)]
    return [word - 2**32 if word >= 2**31 else word for word in less]


@pytest.mark.parametrize(
    ("bits", "rows", "columns", "group"),
    [
        *[(bits, 64, 96, 32) for bits in (2, 3, 4, 8)],
        (2, 33, 100, 64),
        (4, 5, 50, 128),
        (8, 3, 70, 32),
        (3, 32, 160, 128),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dense_is_what_a_slow_loop_gives(
    bits: int, rows: int, columns: int, group: int, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(bits)
    groups = -(-columns // group)
    values = torch.randint(0, 2**bits, (columns, rows), generator=generator).tolist()
    zeros = torch.randint(0, 2**bits, (groups, rows), generator=generator)
    zeros[0, :3] = 0  # borrows from its neighbour
    scales = torch.rand(groups, rows, generator=generator).half() * 0.1
    expected = torch.tensor(
        [
            [
                float(scales[j // group, i]) * (values[j][i] - int(zeros[j // group, i]))
                for j in range(columns)
            ]
            for i in range(rows)
        ]
    )
    streams = [pack_slowly([values[j][i] for j in range(columns)], bits) for i in range(rows)]
    tensors = {
        "qweight": torch.tensor(streams, dtype=torch.int32).t().contiguous(),
        "qzeros": torch.tensor([less_one(z, bits) for z in zeros.tolist()], dtype=torch.int32),
        "scales": scales,
        "g_idx": torch.tensor([j // group for j in range(columns)], dtype=torch.int32),
        "like": torch.empty(0, dtype=dtype),
    }
    quantizer = GPTQ(group=group)
    spec = WeightSpec("w", rows, columns)
    packed = quantizer.restore(tensors, spec, bits)
    assert isinstance(packed, GPTQWeight)
    assert torch.equal(quantizer.dense(packed), expected.to(dtype))
    stored = sum(t.nbytes for t in quantizer.tensors(packed).values())
    assert stored == quantizer.packed_bytes(spec, bits, dtype.itemsize)


def test_the_forecast_grows_with_what_is_asked_for(loaded: LoadedModel) -> None:
    from lwq_ui.engine.quantizers import Machine

    machine = Machine(operations=1e11, bytes=1e10)
    plain, more = GPTQ(), GPTQ(documents=10)
    one = plain.seconds(loaded.info, [(0, 4)], machine)
    assert one < plain.seconds(loaded.info, [(2, 4)], machine)
    assert plain.seconds(loaded.info, [(2, 4)], machine) == plain.seconds(
        loaded.info, [(0, 4), (1, 4), (2, 4)], machine
    )
    assert plain.seconds(loaded.info, [(0, 4), (0, 2)], machine) == pytest.approx(2 * one)
    assert more.seconds(loaded.info, [(0, 4)], machine) < one
