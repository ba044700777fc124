"""The most memory in use during a block, told by what the block really takes."""

from __future__ import annotations

import mmap
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lwq_ui.core.run import Run
from lwq_ui.engine import jobs, peak
from lwq_ui.engine.models.loading import LoadedModel
from lwq_ui.engine.peak import own_bytes, peak_memory
from lwq_ui.engine.quantizers import quantizer_named

MIB = 2**20
linux = pytest.mark.skipif(not peak.STATUS.exists(), reason="only Linux tells")


@pytest.fixture
def wait_for_look(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Waits until a look at the memory has begun and ended since the call."""
    looks = []

    def look() -> int:
        start = time.monotonic()
        size = own_bytes()
        looks.append(start)
        return size

    def wait() -> None:
        called = time.monotonic()
        while not (looks and looks[-1] > called):
            assert time.monotonic() < called + 60, "nobody looks"
            time.sleep(0.001)

    monkeypatch.setattr(peak, "own_bytes", look)
    return wait


@linux
def test_memory_that_is_given_back_within_the_block_counts(
    wait_for_look: Callable[[], None],
) -> None:
    before = own_bytes()
    with peak_memory("cpu") as seen:
        held = torch.ones(100 * MIB, dtype=torch.uint8)
        wait_for_look()
        del held
    assert seen.bytes is not None
    assert 90 * MIB < seen.bytes - before < 200 * MIB
    with peak_memory("cpu") as afterwards:
        pass
    assert afterwards.bytes is not None and afterwards.bytes < seen.bytes - 90 * MIB


@linux
def test_what_is_left_when_a_short_block_ends_counts() -> None:
    with peak_memory("cpu") as seen:
        held = torch.ones(100 * MIB, dtype=torch.uint8)
    assert seen.bytes is not None and seen.bytes > 100 * MIB
    assert held[-1] == 1


@linux
def test_mapped_files_do_not_count(tmp_path: Path, wait_for_look: Callable[[], None]) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(100 * MIB))
    with path.open("rb") as file, peak_memory("cpu") as seen:
        before = own_bytes()
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            assert not any(mapped[:: mmap.PAGESIZE])
            wait_for_look()
    assert seen.bytes is not None and seen.bytes - before < 50 * MIB


@linux
def test_an_error_passes_through() -> None:
    with pytest.raises(ZeroDivisionError), peak_memory("cpu") as seen:
        _ = 1 / 0
    assert seen.bytes


def test_where_it_cannot_be_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peak, "STATUS", tmp_path / "none")
    for device in ("cpu", "mps"):
        with peak_memory(device) as seen:
            pass
        assert seen.bytes is None


def test_on_gpus_torch_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch.cuda tells is replaced; the real one runs where there is a GPU."""
    peaks = {0: 7, 1: 8}
    cuda = SimpleNamespace(
        init=lambda: None,
        device_count=lambda: 2,
        reset_peak_memory_stats=lambda gpu: peaks.update({gpu: 100}),
        max_memory_allocated=lambda gpu: peaks[gpu] + gpu,
    )
    monkeypatch.setattr(torch, "cuda", cuda)
    with peak_memory("cuda") as seen:
        peaks[1] += 50
    assert seen.bytes == 100 + 150 + 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu() -> None:
    with peak_memory("cuda") as seen:
        held = torch.empty(64 * MIB, dtype=torch.uint8, device="cuda")
        del held
    before = seen.bytes
    with peak_memory("cuda") as afterwards:
        pass
    assert before is not None and afterwards.bytes is not None
    assert before - afterwards.bytes >= 64 * MIB


@linux
def test_jobs_tell_it(folder_of: Callable[..., Path], run: Run) -> None:
    folder = str(folder_of("llama"))
    loaded: LoadedModel = jobs.load(folder, "cpu", "auto", run)
    splits = [(4, 4, 2, 2)]
    first, again = (
        jobs.evaluate(
            loaded, jobs.Measurement(splits, quantizer_named("quanto"), ["perplexity"], 1), run
        )
        for _ in range(2)
    )
    assert (
        first.computed == 1 and first.peak_bytes and first.peak_bytes > 50 * MIB
    )  # torch alone is more
    assert again.computed == 0 and again.peak_bytes is None
