"""What packing costs is known before it starts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import tiny

from lwq_ui.core.settings import ROOT
from lwq_ui.core.store import Store
from lwq_ui.engine import jobs
from lwq_ui.engine.banks import packing_cost as packing
from lwq_ui.engine.banks.packing_cost import packing_cost, speed
from lwq_ui.engine.models.loading import LoadedModel
from lwq_ui.engine.quantizers import quantizer_named

N = 4


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return tiny.load(tiny.save(tiny.build("llama"), tmp_path_factory.mktemp("llama")))


def test_what_is_packed_costs_nothing_more(loaded: LoadedModel, tmp_path: Path) -> None:
    store = Store(tmp_path)
    ends = [(4,) * N, (2,) * N]
    before = packing_cost(loaded.info, tiny.QUANTO, ends, store)
    assert (before.layers, before.missing) == (2 * N, 2 * N) and before.seconds > 0
    bank = jobs.bank_of(loaded, tiny.QUANTO, store)
    bank.fill(ends[:1], tiny.run())
    half = packing_cost(loaded.info, tiny.QUANTO, ends, store)
    assert (half.layers, half.missing) == (2 * N, N)
    fours = sum(bank.packed_bytes(i, 4, tiny.run()) for i in range(N))
    assert before.bytes - half.bytes == fours
    assert half.bytes == sum(bank.packed_bytes(i, 2, tiny.run()) for i in range(N))
    bank.fill(ends, tiny.run())
    assert packing_cost(loaded.info, tiny.QUANTO, ends, store).missing == 0
    assert packing_cost(loaded.info, tiny.QUANTO, ends, store).seconds == 0.0
    other = packing_cost(loaded.info, quantizer_named("quanto:group=64"), ends, store)
    assert other.missing == 2 * N  # has a bank of its own


def test_untouched_and_pruned_layers_need_no_packing(loaded: LoadedModel, tmp_path: Path) -> None:
    cost = packing_cost(loaded.info, tiny.QUANTO, [(16, 0, 16, 4), (16, 0, 16, 4)], Store(tmp_path))
    assert (cost.layers, cost.missing) == (1, 1)


def test_the_machines_speed_is_that_of_its_fastest_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock on which the four multiplications take 5, 2, 3 and 4 seconds, and then the four
    additions 9, 8, 7 and 10: the first run of each is slow because it wakes threads."""
    durations = [5.0, 2.0, 3.0, 4.0, 9.0, 8.0, 7.0, 10.0]
    looks = iter([time for duration in durations for time in (100.0, 100.0 + duration)])
    monkeypatch.setattr(packing.time, "perf_counter", lambda: next(looks))
    machine = speed.__wrapped__("cpu")
    assert machine.operations == 2 * 768**3 / 2  # a multiplication and an addition, 768^3 times
    assert machine.bytes == 2 * 4 * 8 * 2**20 / 7  # 32 MiB are read, and 32 MiB are written
    assert next(looks, None) is None


def test_the_machines_speed_is_measured_once() -> None:
    machine = speed("cpu")
    assert machine is speed("cpu") and machine.operations > 0 and machine.bytes > 0


def test_it_is_known_without_torch() -> None:
    code = (
        "import sys, lwq_ui.engine.banks.packing_cost as p; p.speed('cpu'); p.speed('cuda');"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
