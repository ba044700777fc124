"""What this machine is said to hold, against figures added up by hand; and the same on the command
line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from lwq_ui.cli import main
from lwq_ui.core.budget import RESERVE, Workload, activation_bytes, kv_cache_bytes
from lwq_ui.core.cost import model_cost
from lwq_ui.core.memory import GIB
from lwq_ui.core.schema import LayerSpec, ModelInfo, WeightSpec
from lwq_ui.engine import devices
from lwq_ui.engine.devices import Device, local_devices
from lwq_ui.engine.fit import what_fits
from lwq_ui.engine.quantizers import quantizer_named

INFO = ModelInfo(
    *("m", None, "f" * 64, "LlamaForCausalLM", "bfloat16", 1, GIB, GIB // 2, 4096),
    layers=(LayerSpec((WeightSpec("w", 8192, 8192),), 0, 2048),) * 16,
    vocabulary=32_000,
    token_bytes=100_000,
    pair_bytes=0.0,
)
USE = Workload(4096, 2)


def test_this_machine() -> None:
    memory = local_devices()[-1]
    assert memory.kind == "cpu" and 0 < memory.total <= psutil.virtual_memory().total
    assert 0 < memory.free <= memory.total
    assert memory.reserve == 0


@pytest.mark.parametrize("version", [1, 2])
def test_a_container_has_what_its_limit_leaves(
    version: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond it the program is ended, whatever the machine has. What it uses as a cache of files
    counts as free; a group without a limit says nothing."""
    root = tmp_path / "memory" if version == 1 else tmp_path
    names = {
        1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_cache"),
        2: ("memory.max", "memory.current", "file"),
    }
    most, now, cached = names[version]
    inner = root / "a" / "b"
    inner.mkdir(parents=True)
    for folder, limit in ((root, 2**63 - 4096 if version == 1 else "max"), (inner, 300_000_000)):
        (folder / most).write_text(f"{limit}\n")
        (folder / now).write_text("120000000\n")
        (folder / "memory.stat").write_text(f"anon 5\n{cached} 50000000\n")
    monkeypatch.setattr(devices, "CONTROL", tmp_path)
    monkeypatch.setattr(
        devices, "own_group", lambda kind: ("a", "b") if bool(kind) == (version == 1) else ()
    )
    assert devices.machine_memory() == (300_000_000 - 70_000_000, 300_000_000)
    (inner / most).unlink()
    assert devices.machine_memory()[1] == psutil.virtual_memory().total


def test_every_gpu_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [(20 * GIB, 24 * GIB), (1 * GIB, 12 * GIB)]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda i: sizes[i])
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda i: f"GPU number {i}")
    gpus = [d for d in local_devices() if d.kind == "cuda"]
    assert gpus == [
        Device("GPU number 0", "cuda", 0, *sizes[0]),
        Device("GPU number 1", "cuda", 1, *sizes[1]),
    ]
    assert gpus[0].reserve == RESERVE


def test_what_fits_is_the_sum_of_the_parts() -> None:
    cost = model_cost(INFO, quantizer_named("quanto"))
    beside = kv_cache_bytes(INFO, 4096, 2, 2) + activation_bytes(INFO, 4096, 2)
    four = cost.total((4,) * 16) + beside
    devices = [
        Device("CPU", "cpu", 0, four, 64 * GIB),
        Device("GPU", "cuda", 0, four + RESERVE - 1, 64 * GIB),
        Device("small", "cuda", 1, GIB, GIB),
        Device("large", "cuda", 2, 64 * GIB, 64 * GIB),
    ]
    on_cpu, on_gpu, small, large = what_fits(INFO, quantizer_named("quanto"), devices, USE)
    assert list(on_cpu.needed) == [16, 8, 4, 2]
    assert on_cpu.needed[4] == four and on_gpu.needed[4] == four + RESERVE
    assert on_cpu.fits == {16: False, 8: False, 4: True, 2: True}
    assert on_gpu.fits == {16: False, 8: False, 4: False, 2: True}
    assert on_cpu.sentence().endswith("free) holds it at 4 and 2 bits.")
    assert on_gpu.sentence().endswith("holds it at 2 bits.")
    assert "does not hold it" in small.sentence()
    assert large.sentence() == (
        "large (64.00 GiB of 64.00 GiB free) holds it untouched and at 8, 4 and 2 bits."
    )
    assert on_gpu.to_json()["levels"]["2"] == {"needed": on_gpu.needed[2], "fits": True}


@pytest.fixture
def run(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    monkeypatch.setenv("LWQ_CACHE_DIR", str(tmp_path))

    def call(*arguments: str) -> Any:
        code = main([*arguments, "--json", "-"])
        out, err = capfd.readouterr()
        return json.loads(out) if code == 0 else err.splitlines()[-1]

    return call


def test_info_says_what_a_use_takes(run: Callable[..., Any]) -> None:
    found = run("info", "demo", "--context", "1000", "--batch", "3")
    assert found["cache_bytes"] == 3 * 1000 * 24 * 512 * 2
    assert found["activation_bytes"] > 3 * 1000 * 2 * 192
    assert found["devices"][-1]["kind"] == "cpu"
    assert found["devices"][-1]["levels"]["2"]["fits"] is True
    half = run("info", "demo", "--context", "1000", "--batch", "3", "--cache-dtype", "float8")
    assert 2 * half["cache_bytes"] == found["cache_bytes"]


def test_a_card_is_a_budget(run: Callable[..., Any]) -> None:
    use = ("--context", "1000", "--batch", "3")
    info = run("info", "demo", *use)
    beside = info["cache_bytes"] + info["activation_bytes"] + RESERVE
    between = (info["bytes"]["by_level"]["4"] + info["bytes"]["by_level"]["2"]) // 2
    split = ("split", "demo", "--ordering", "first")
    found = run(*split, "--gpu", f"{beside + between}B", *use)
    assert found["budget_bytes"] == between
    assert found == run(*split, "--budget", f"{between}B")
    told = run(*split, "--gpu", "0.5GiB", *use)
    assert "nothing is left" in told and "larger card" in told
