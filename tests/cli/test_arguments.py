"""Arguments that are wrong, odd or that fail: one sentence each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from demo import Run, bad

SWEPT = ("--ordering", "first", "--task", "perplexity")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nosuch"],
        ["info"],
        ["info", "demo", "--dtype", "int4"],
        ["score", "demo", "--scorer", "nosuch"],
        ["score", "demo", "--max-tokens", "0"],
        ["split", "demo"],
        ["split", "demo", "--budget", "1GiB", "--low-layers", "3"],
        ["split", "demo", "--budget", "much"],
        ["split", "demo", "--budget", "."],
        ["split", "demo", "--budget", "1 parsec"],
        ["split", "demo", "--levels", "2,4", "--low-layers", "3"],
        ["split", "demo", "--low-layers", "3", "--pin", "0:8"],
        ["split", "demo", "--low-layers", "3", "--ordering", "nosuch"],
        ["split", "demo", "--low-layers", "3", "--ordering", "prune-by-lim"],
        ["split", "demo", "--low-layers", "3", "--levels", "8,4,2"],
        ["split", "demo", "--low-layers", "3", "--levels", "4,3"],
        ["split", "demo", "--low-layers", "3", "--levels", "3.9,3.6", "--quantizer", "spqr"],
        ["split", "demo", "--low-layers", "3", "--quantizer", "nosuch"],
        ["split", "demo", "--low-layers", "3", "--quantizer", "quanto:group=3"],
        ["sweep", "demo", *("--quantizer", "quanto", "--quantizer", "spqr"), *SWEPT],
        ["sweep", "demo", "--ordering", "lim"],
        ["sweep", "demo", "--task", "perplexity"],
        ["evaluate", "x.json"],
        ["evaluate", "x.json", "--task", "perplexity", "--limit", "-1"],
        ["quantize", "x.json"],
        ["export", "x.json"],
        ["export", "x.json", "--to", "nosuch"],
        ["score", "demo", "--device", "tpu"],
        ["score", "demo", "--level", "3"],
        ["score", "demo", "--max-tokens", "²"],
        ["sweep", "demo", *SWEPT, "--limit", str(10**400)],
        ["split", "demo", "--average-bits", "nan"],
        ["split", "demo", "--average-bits", "inf"],
        ["split", "demo", "--budget", "1e400GiB"],
        ["split", "demo", "--budget", "9" * 400],
        ["split", "demo", "--low-layers", "9" * 5000],
        ["split", "demo", "--low-layers", "3", "--quantizer", "quanto:group=²"],
        ["split", "demo", "--low-layers", "3", "--quantizer", "quanto:group=64,group=32"],
        ["split", "demo", "--low-layers", "3", "--gpu", ""],
    ],
)
def test_bad_arguments(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert "usage: python -m lwq_ui" in bad(capfd, *arguments)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["info", ""], "Name a model"),
        (["info", "a\0b"], "There is no folder"),
        (["info", "/tmp/\udcff"], "There is no folder"),
        (["info", "demo", "--json", ""], "not the name of a file"),
        (["info", "demo", "--json", "/"], "not the name of a file"),
        (["split", "demo", "--ordering", "first", "--low-layers", "-1"], "-1 low layers"),
        (["split", "demo", "--ordering", "first", "--budget", "0"], "too small"),
        (["split", "demo", "--average-bits", "-3", "--ordering", "first"], "too small"),
        (["sweep", "demo", "--ordering", "first", "--task", "\0", "--every", "99"], "no task"),
        (["evaluate", "", "--task", "endings"], "cannot be read"),
        (["evaluate", "\udcff", "--task", "endings"], "cannot be read"),
        (["evaluate", "/dev/zero", "--task", "endings"], "is larger than"),
        (["evaluate", "/dev/null", "--task", "endings"], "not valid JSON"),
        (["export", "/", "--to", "json"], "cannot be read: Is a directory"),
    ],
)
def test_odd_arguments(arguments: list[str], why: str, failing: Run) -> None:
    assert why in failing(*arguments)


def test_what_fails_says_why(failing: Run, run: Run, tmp_path: Path) -> None:
    assert "There is no folder './nowhere'" in failing("info", "./nowhere")
    assert "cannot be reached" in failing("info", "no-such-owner-here/no-such-model")
    missing = str(tmp_path / "x.json")
    assert "cannot be read" in failing("evaluate", missing, "--task", "perplexity")
    path = tmp_path / "config.json"
    path.write_text("{")
    assert "not valid JSON" in failing("export", str(path), "--to", "json")
    config = run("split", "demo", "--ordering", "first", "--low-layers", "3")
    path.write_text(json.dumps({**config, "bits_per_layer": [4] * 23}))
    assert "'bits_per_layer'" in failing("evaluate", str(path), "--task", "perplexity")
    path.write_text(json.dumps(config))
    assert "There is no task 'nosuch'" in failing("evaluate", str(path), "--task", "nosuch")
    path.write_text(json.dumps({**config, "fingerprint": "0" * 64}))
    assert "fingerprints differ" in failing("evaluate", str(path), "--task", "perplexity")
    assert "fingerprints differ" in failing("quantize", str(path), "--out", str(tmp_path / "out"))
    path.write_text(json.dumps({**config, "quantizer": {"name": "nosuch"}}))
    assert "There is no quantizer 'nosuch'" in failing(
        "quantize", str(path), "--out", str(tmp_path / "out")
    )
    assert not (tmp_path / "out").exists()
