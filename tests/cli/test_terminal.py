"""Where results and errors go: files, streams and the program as a process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from demo import N, Run

from lwq_ui.cli import main
from lwq_ui.core.settings import ROOT


def test_as_a_program(tmp_path: Path) -> None:
    """`python -m lwq_ui` with standard output as a pipe: JSON there, progress on standard error."""
    run = subprocess.run(
        [sys.executable, "-m", "lwq_ui", "score", "demo", "--scorer", "zd", "--json", "-"],
        cwd=ROOT,
        env={**os.environ, "LWQ_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0
    assert list(json.loads(run.stdout)["scores"]) == ["zd"]
    assert "Reading" in run.stderr


def test_results_go_to_a_file(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "new" / "info.json"
    assert main(["info", "demo", "--json", str(path)]) == 0
    assert "24 layers" in capfd.readouterr().out
    assert json.loads(path.read_text())["num_layers"] == N


def test_a_file_that_cannot_be_written(failing: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot be written" in failing("info", "demo", "--json", str(tmp_path / "file" / "x"))


def test_a_result_that_cannot_be_written_goes_to_standard_output(
    config: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(config), "--to", "json", "--json", "/dev/full"]) == 1
    out, err = capfd.readouterr()
    assert json.loads(out) == json.loads(config.read_text())
    assert err == (
        "'/dev/full' cannot be written: No space left on device. "
        "Its content went to standard output.\n"
    )


def test_devices_and_links_stay_what_they_are(
    config: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    expected = json.loads(config.read_text())
    for place in ("/dev/stdout", "-"):
        assert main(["export", str(config), "--to", "json", "--json", place]) == 0
        assert json.loads(capfd.readouterr().out) == expected  # and no text beside it
    assert main(["export", str(config), "--to", "json", "--json", "/dev/null"]) == 0
    assert Path("/dev/null").is_char_device() and capfd.readouterr().out
    link = tmp_path / "link.json"
    link.symlink_to(tmp_path / "target.json")
    assert main(["export", str(config), "--to", "json", "--json", str(link)]) == 0
    assert link.is_symlink() and json.loads((tmp_path / "target.json").read_text()) == expected


def test_a_place_that_cannot_be_written_is_said_before_the_work(
    config: Path, failing: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lwq_ui.engine import jobs

    monkeypatch.setattr(jobs, "load", lambda *_: pytest.fail("loaded"))
    monkeypatch.setattr(jobs, "load_for", lambda *_: pytest.fail("loaded"))
    (tmp_path / "file").write_text("mine")
    for place in (tmp_path, tmp_path / "file" / "x"):
        assert str(place) in failing("score", "demo", "--json", str(place))
    for place in (tmp_path / "file", tmp_path, tmp_path / "missing" / "x"):
        assert str(place) in failing("quantize", str(config), "--out", str(place))
    assert "needs the name" in failing("quantize", str(config), "--out", "")
    assert (tmp_path / "file").read_text() == "mine"


def test_standard_output_that_takes_nothing(config: Path, tmp_path: Path) -> None:
    """One line and exit code 1; the result is kept. Closed streams are no failure."""
    command = f"exec {sys.executable} -m lwq_ui export {config} --to json"
    environment = {**os.environ, "TMPDIR": str(tmp_path)}

    def call(redirected: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            f"{command} {redirected}",
            shell=True,
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
        )

    full = call(">/dev/full")
    (kept,) = tmp_path.glob("lwq-*.json")
    assert (full.returncode, full.stderr) == (
        1,
        f"Standard output cannot be written: No space left on device. The result is in '{kept}'.\n",
    )
    assert json.loads(kept.read_text()) == json.loads(config.read_text())
    closed = call(">&- 2>&-")
    assert (closed.returncode, closed.stdout, closed.stderr) == (0, "", "")


@pytest.mark.parametrize("error", [RuntimeError, KeyError, RecursionError, BaseException])
def test_an_error_that_nobody_foresaw_is_one_sentence(
    error: type[BaseException], failing: Run, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lwq_ui.engine import jobs

    def fail(*_: Any) -> None:
        raise error("boom \udcff\nof two lines")

    monkeypatch.setattr(jobs, "look", fail)
    sentence = failing("info", "demo")
    assert sentence.startswith(f"Something went wrong ({error.__name__}: ")
    assert sentence.endswith(f"The details are in '{cache / 'lwq.log'}'.")
    assert "in fail" in (cache / "lwq.log").read_text().split("====")[-1]


def test_too_little_memory_is_told_as_such(failing: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from lwq_ui.engine import jobs

    def fail(*_: Any) -> None:
        raise RuntimeError("could not create a primitive")

    monkeypatch.setattr(jobs, "look", fail)
    assert failing("info", "demo").startswith("The memory is not enough. Close other programs")
