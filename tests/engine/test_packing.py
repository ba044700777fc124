"""What packing costs is known before it starts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from threading import Event

import pytest
import tiny

from lwq_ui.core.settings import ROOT
from lwq_ui.core.store import Store
from lwq_ui.engine import jobs
from lwq_ui.engine.models import LoadedModel
from lwq_ui.engine.packing import packing_cost, speed

N = 4


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return tiny.load(tiny.save(tiny.build("llama"), tmp_path_factory.mktemp("llama")))


def test_what_is_packed_costs_nothing_more(loaded: LoadedModel, tmp_path: Path) -> None:
    store = Store(tmp_path)
    ends = [(4,) * N, (2,) * N]
    before = packing_cost(loaded.info, "quanto", ends, store)
    assert (before.layers, before.missing) == (2 * N, 2 * N) and before.seconds > 0
    bank = jobs.bank_of(loaded, "quanto", store)
    bank.fill(ends[:1], tiny.quiet, Event())
    half = packing_cost(loaded.info, "quanto", ends, store)
    assert (half.layers, half.missing) == (2 * N, N)
    fours = sum(bank.packed_bytes(i, 4) for i in range(N))
    assert before.bytes - half.bytes == fours
    assert half.bytes == sum(bank.packed_bytes(i, 2) for i in range(N))
    bank.fill(ends, tiny.quiet, Event())
    assert packing_cost(loaded.info, "quanto", ends, store).missing == 0
    assert packing_cost(loaded.info, "quanto", ends, store).seconds == 0.0
    other = packing_cost(loaded.info, "quanto:group=64", ends, store)
    assert other.missing == 2 * N  # has a bank of its own


def test_untouched_and_pruned_layers_need_no_packing(loaded: LoadedModel, tmp_path: Path) -> None:
    cost = packing_cost(loaded.info, "quanto", [(16, 0, 16, 4), (16, 0, 16, 4)], Store(tmp_path))
    assert (cost.layers, cost.missing) == (1, 1)


def test_the_machines_speed_is_plausible() -> None:
    machine = speed("cpu")
    assert 1e8 < machine.operations < 1e14 and 1e7 < machine.bytes < 1e13


def test_it_is_known_without_torch() -> None:
    code = (
        "import sys, lwq_ui.engine.packing as p; p.speed('cpu'); p.speed('cuda');"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
