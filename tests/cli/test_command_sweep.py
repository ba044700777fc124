"""`sweep`: curves of splits; a task, a quantizer or a user that ends a part of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from demo import QUICK, N, Run

from lwq_ui.cli import main
from lwq_ui.core.settings import ROOT


def test_sweep(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = [
        *("sweep", "demo", "--ordering", "first", "--ordering", "random", "--levels", "8,2"),
        *("--task", "perplexity", "--task", "endings", "--task", "minimal_pairs"),
        *("--limit", "2", "--every", "12"),
    ]
    points = run(*arguments)["points"]
    assert [(p["ordering"], p["seed"], p["low_layers"]) for p in points] == [
        (*ordering, low)
        for ordering in (("first", 0), ("random", 0), ("random", 1), ("random", 2))
        for low in (0, 12, 24)
    ]
    info = run("info", "demo")
    for point in points:
        assert set(point) == {
            *("ordering", "seed", "quantizer", "low_layers", "lossless_layers"),
            *("bits", "average_bits", "bytes", "metrics"),
        }
        assert point["bits"].count(2) == point["low_layers"] == N - point["bits"].count(8)
        assert point["average_bits"] == sum(point["bits"]) / N
        layers = zip(info["bytes_per_layer"], point["bits"], strict=True)
        total = sum(layer[str(bits)] for layer, bits in layers)
        assert point["bytes"] == total + info["bytes"]["rest"]
        # Two tasks call a metric 'acc': their names tell them apart.
        assert set(point["metrics"]) == {
            *("perplexity", "kl_divergence", "top1_agreement"),
            *("endings.acc", "acc_norm", "minimal_pairs.acc"),
        }
    assert points[1]["bits"] == [8] * 12 + [2] * 12
    assert points[0]["metrics"] == points[3]["metrics"]  # all-high is all-high
    assert (
        points[2]["metrics"]["kl_divergence"]["value"]
        > 10 * (points[0]["metrics"]["kl_divergence"]["value"])
    )
    assert main(arguments) == 0
    told = capfd.readouterr()
    assert "5.000 bits" in told.out
    assert "6 splits, all in the cache." in told.err


def test_sweeps_that_prune_and_of_three_levels(run: Run) -> None:
    few = ["--task", "perplexity", "--limit", "1", "--every", "4"]
    pruned = run("sweep", "demo", "--ordering", "prune-from-top", *few)["points"]
    assert [p["low_layers"] for p in pruned] == [0, 4, 8, 12]
    assert pruned[1]["bits"] == [4] * 19 + [0] * 4 + [4]
    by_level = run("info", "demo")["bytes_per_layer"]
    saved = sum(layer["4"] for layer in by_level[19:23])
    assert pruned[0]["bytes"] - pruned[1]["bytes"] == saved
    three = run("sweep", "demo", "--ordering", "first", "--levels", "8,4,2", *few)["points"]
    assert [p["bits"].count(8) for p in three] == [0, 4, 8]
    assert three[1]["bits"] == [8] * 4 + [4] * 12 + [2] * 8 and three[1]["low_layers"] == 8
    assert {p["average_bits"] for p in three} == {4}


def test_all_layers_alike_by_two_quantizers(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    both = ["--quantizer", "quanto", "--quantizer", "quanto:group=64"]
    sweep = ["sweep", "demo", "--ordering", "alike", "--levels", "8,2", *both]
    sweep += ["--task", "perplexity", "--limit", "1"]
    points = run(*sweep)["points"]
    assert [(p["quantizer"], *set(p["bits"])) for p in points] == [
        (name, level) for name in ("quanto", "quanto:group=64") for level in (8, 4, 2)
    ]
    assert [p["low_layers"] for p in points] == [0, 0, N] * 2
    assert points[4]["bytes"] > points[1]["bytes"]  # twice as many scales at 4 bits
    assert main([*sweep]) == 0
    told, progress = capfd.readouterr()
    assert "6 splits by 2 quantizers, all in the cache." in progress
    assert told.index("Quanto, Max (the paper's):") < told.index("(the paper's), groups of 64:")
    assert "All layers alike" in told


def test_a_sweep_by_sensitivity_measures_it_first(run: Run) -> None:
    scores = run("score", "demo", "--scorer", "sensitivity", *QUICK)
    order = scores["orderings"]["sensitivity"]
    points = run(
        *("sweep", "demo", "--ordering", "sensitivity", "--task", "perplexity"),
        *("--limit", "1", "--every", "12", *QUICK),
    )["points"]
    assert {i for i, bits in enumerate(points[1]["bits"]) if bits == 4} == set(order[:12])


def test_a_task_that_cannot_be_had_fails_alone(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "sweep.json"
    code = main(
        [
            *("sweep", "demo", "--ordering", "first", "--every", "24", "--limit", "1"),
            *("--task", "nosuch", "--task", "perplexity", "--json", str(path)),
        ]
    )
    assert code == 1 and "no task 'nosuch'" in capfd.readouterr().err.splitlines()[-1]
    assert [set(p["metrics"]) for p in json.loads(path.read_text())["points"]] == [
        {"perplexity", "kl_divergence", "top1_agreement"}
    ] * 2


FEW = ["sweep", "demo", "--ordering", "first", "--levels", "8,4", "--every", "24", "--limit", "2"]


def test_what_is_known_is_written_where_a_task_fails(
    run: Run,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of the only task some splits are in the cache; the rest fail."""
    from lwq_ui.engine.tasks.lm_eval_tasks import Harness

    known = run(*FEW, "--task", "endings")["points"]
    path = tmp_path / "sweep.json"

    def fail(*_: Any) -> None:
        raise TypeError("int() argument must be a string")

    monkeypatch.setattr(Harness, "measure", fail)
    more = [*FEW, "--every", "8", "--task", "endings", "--json", str(path)]
    assert main(more) == 1
    out, err = capfd.readouterr()
    assert err.splitlines()[-1].startswith("Something went wrong (TypeError: ")
    assert "Traceback" not in err and "First layers" in out
    assert json.loads(path.read_text())["points"] == known


def test_what_is_known_is_written_where_a_quantizer_cannot_pack(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lwq_ui.engine.quantizers import quantizer_named

    why = "GPTQ needs the package gptqmodel, which is not installed."
    monkeypatch.setattr(type(quantizer_named("gptq")), "missing", lambda self: why)
    path = tmp_path / "sweep.json"
    both = ["--quantizer", "quanto", "--quantizer", "gptq", "--task", "endings"]
    assert main([*FEW, *both, "--json", str(path)]) == 1
    lines = capfd.readouterr().err.splitlines()
    assert lines[-1] == why
    # It is said before anything is measured, too.
    assert lines.index(why) < len(lines) - 1
    points = json.loads(path.read_text())["points"]
    assert [p["quantizer"] for p in points] == ["quanto", "quanto"]
    assert main([*FEW, *both[2:], "--json", str(tmp_path / "none.json")]) == 1
    assert capfd.readouterr().err.splitlines()[-1] == why
    assert not (tmp_path / "none.json").exists()


def test_what_is_known_is_written_where_the_user_stops(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lwq_ui.engine.tasks.lm_eval_tasks import Harness

    measure = Harness.measure

    def interrupted(self: Any, sweep: Any, limit: int | None) -> Any:
        if sweep.bank.quantizer.name == "quanto:group=64":
            signal.raise_signal(signal.SIGINT)
        return measure(self, sweep, limit)

    monkeypatch.setattr(Harness, "measure", interrupted)
    monkeypatch.setattr("lwq_ui.cli.sweep.print_forecast", lambda *_: None)
    path = tmp_path / "sweep.json"
    names = [f"--quantizer=quanto{group}" for group in ("", ":group=64", ":group=32")]
    assert main([*FEW, "--limit", "3", "--task", "endings", *names, "--json", str(path)]) == 1
    assert capfd.readouterr().err.splitlines()[-1] == "Stopped."
    points = json.loads(path.read_text())["points"]
    assert [p["quantizer"] for p in points] == ["quanto", "quanto"]


def test_control_c_stops(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "lwq_ui", "sweep", "demo", "--ordering", "first"),
            *("--task", "perplexity"),
        ],
        cwd=ROOT,
        env={**os.environ, "LWQ_CACHE_DIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr and process.stdout
    for line in process.stderr:
        if line.startswith("Perplexity"):
            break
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert error.strip().splitlines()[-1] == "Stopped."
