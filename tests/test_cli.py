"""The command line on the demo model, through the same `main` as `python -m lwq_ui`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lwq_ui.cli import main
from lwq_ui.core.config import Config
from lwq_ui.core.memory import GIB
from lwq_ui.core.settings import ROOT

N = 24
QUICK = ["--max-tokens", "300"]
Run = Callable[..., Any]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One cache for all tests here, apart from the user's."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("LWQ_CACHE_DIR", str(folder))
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield folder


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """run("info", "demo") -> its JSON; nothing but JSON may be on standard output."""

    def call(*arguments: str) -> Any:
        code = main([*arguments, "--json", "-"])
        out, err = capfd.readouterr()
        assert code == 0, err
        assert out.startswith("{") and out.endswith("}\n")
        return json.loads(out)

    return call


@pytest.fixture
def failing(capfd: pytest.CaptureFixture[str]) -> Run:
    """failing("info", "nowhere") -> the one line on standard error, below the progress."""

    def call(*arguments: str) -> str:
        assert main(list(arguments)) == 1
        out, err = capfd.readouterr()
        assert out == "" and "Traceback" not in err
        return err.rstrip("\n").splitlines()[-1]

    return call


def bad(capfd: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    assert caught.value.code == 2
    out, err = capfd.readouterr()
    assert out == ""
    return err


def test_info(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    info = run("info", "demo")
    assert (info["model"], info["num_layers"], info["dtype"]) == ("demo", N, "bfloat16")
    assert len(info["bytes_per_layer"]) == N
    by_level = info["bytes"]["by_level"]
    assert by_level["16"] == info["bytes"]["total"] == 2 * info["num_parameters"]
    assert by_level["16"] > by_level["8"] > by_level["4"] > by_level["2"] > info["bytes"]["rest"]
    for level in ("16", "8", "4", "2"):
        layers = sum(layer[level] for layer in info["bytes_per_layer"])
        assert layers + info["bytes"]["rest"] == by_level[level]
    assert main(["info", "demo"]) == 0
    text = capfd.readouterr().out
    assert f"{N} layers" in text and f"({by_level['4']:,} bytes)" in text


def test_score(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    found = run("score", "demo", *QUICK)
    assert set(found["scores"]) == {"lim", "zd"} and len(found["fingerprint"]) == 64
    for scores in found["scores"].values():
        assert len(scores) == N and len(set(scores)) > 1
    assert all(-1 <= s <= 1 for s in found["scores"]["lim"])
    lim = found["scores"]["lim"]
    assert found["orderings"]["lim"] == sorted(range(N), key=lambda i: (-lim[i], i))
    assert sorted(found["orderings"]) == [
        *("block-influence", "lim", "reverse-lim", "reverse-zd", "zd")
    ]
    assert found["orderings"]["block-influence"] == found["orderings"]["lim"]
    one = run("score", "demo", "--scorer", "zd")
    assert list(one["scores"]) == ["zd"] and one["scores"]["zd"] == found["scores"]["zd"]
    assert run("score", "demo", *QUICK) == found
    assert main(["score", "demo", *QUICK]) == 0
    assert "LIM on " in capfd.readouterr().out


def test_an_empty_cache_gives_the_same_numbers_again(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    threads = torch.get_num_threads()
    results = []
    try:
        for k, count in enumerate((1, 1, 2)):
            monkeypatch.setenv("LWQ_CACHE_DIR", str(tmp_path / str(k)))
            torch.set_num_threads(count)
            results.append(run("score", "demo", "--max-tokens", "100"))
    finally:
        torch.set_num_threads(threads)
    assert results[0] == results[1]
    assert results[2]["orderings"] == results[0]["orderings"]
    assert results[2]["scores"]["lim"] == pytest.approx(results[0]["scores"]["lim"], rel=1e-4)


def test_score_on_a_text_of_ones_own(run: Run, failing: Run, tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_text("The old house stood at the end of the lane. " * 20)
    found = run("score", "demo", "--scorer", "lim", "--text", str(path))
    assert (
        found["scores"]["lim"] != run("score", "demo", "--scorer", "lim", *QUICK)["scores"]["lim"]
    )
    missing = str(tmp_path / "nowhere.txt")
    assert failing("score", "demo", "--text", missing) == f"There is no text file '{missing}'."
    path.write_bytes(b"\xff\xfe\xfa")
    assert failing("score", "demo", "--text", str(path)) == "'mine.txt' is not UTF-8 text."
    path.write_text("  \n\n ")
    assert failing("score", "demo", "--text", str(path)) == "'mine.txt' holds no text."


@pytest.mark.parametrize(
    ("budget", "low"),
    [(["--low-layers", "10"], 10), (["--average-bits", "3.25"], 9), (["--low-layers", "24"], 24)],
)
def test_split(run: Run, budget: list[str], low: int) -> None:
    found = run("split", "demo", "--ordering", "lim", *QUICK, *budget)
    config = Config.from_json(found)
    assert config.bits_per_layer.count(2) == low and config.bits_per_layer.count(4) == N - low
    order = run("score", "demo", *QUICK)["orderings"]["lim"]
    assert {i for i, b in enumerate(config.bits_per_layer) if b == 4} == set(order[: N - low])
    assert found["average_bits"] == sum(found["bits_per_layer"]) / N
    assert config.bytes["layers"] + config.bytes["rest"] == config.bytes["total"]
    assert config.ordering["scores"] == run("score", "demo", *QUICK)["scores"]["lim"]


def test_a_budget_in_bytes_is_never_exceeded(run: Run) -> None:
    by_level = run("info", "demo")["bytes"]["by_level"]
    budget = (by_level["4"] + by_level["2"]) // 2
    found = run("split", "demo", "--ordering", "first", "--budget", f"{budget}B")
    assert found["budget_bytes"] == budget >= found["bytes"]["total"]
    high = found["bits_per_layer"].count(4)
    assert found["bits_per_layer"] == [4] * high + [2] * (N - high)
    step = (by_level["4"] - by_level["2"]) // N
    assert found["bytes"]["total"] + step > budget
    same = run("split", "demo", "--ordering", "first", "--budget", f"{budget / GIB!r}GiB")
    assert same["bits_per_layer"] == found["bits_per_layer"]


def test_a_budget_that_is_too_small_names_the_minimum(run: Run, failing: Run) -> None:
    smallest = run("info", "demo")["bytes"]["by_level"]["2"]
    found = failing("split", "demo", "--ordering", "first", "--budget", "1MiB")
    assert "too small" in found and f"({smallest} bytes)" in found
    assert run("split", "demo", "--ordering", "first", "--budget", str(smallest))
    assert "too small" in failing(
        "split", "demo", "--ordering", "first", "--budget", str(smallest - 1)
    )
    assert "the smallest split has 2" in failing("split", "demo", "--average-bits", "1.5", *QUICK)
    assert "25 low layers are not possible" in failing(
        "split", "demo", "--ordering", "first", "--low-layers", "25"
    )


def test_pins(run: Run, failing: Run) -> None:
    found = run(
        *("split", "demo", "--ordering", "first", "--low-layers", "20"),
        *("--pin", "0=2", "--pin", "23=8", "--pin", "5=16"),
    )
    assert found["pinned"] == {"0": 2, "5": 16, "23": 8}
    bits = found["bits_per_layer"]
    assert (bits[0], bits[5], bits[23]) == (2, 16, 8)
    assert bits[1:5] == [4, 2, 2, 2] and bits.count(2) == 21
    base = ("split", "demo", "--ordering", "first", "--low-layers", "3")
    assert "There is no layer 24 to pin" in failing(*base, "--pin", "24=4")
    assert "has no 3 bits, only 8, 4, 2" in failing(*base, "--pin", "1=3")


def test_the_seed_of_the_random_ordering(run: Run) -> None:
    def split(seed: int) -> Any:
        return run(
            "split", "demo", "--ordering", "random", "--low-layers", "12", "--seed", str(seed)
        )

    assert split(1) == split(1)
    assert split(1)["bits_per_layer"] != split(2)["bits_per_layer"]
    assert split(7)["ordering"]["seed"] == 7


def test_from_a_split_to_a_folder_and_back(
    run: Run, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "config.json"
    split = ["split", "demo", "--ordering", "last", "--low-layers", "12", "--pin", "3=8"]
    assert main([*split, "--json", str(path)]) == 0
    assert "bits on average" in capfd.readouterr().out
    config = Config.from_json(json.loads(path.read_text()))

    measured = run(
        "evaluate", str(path), "--task", "perplexity", "--task", "minimal_pairs", "--limit", "2"
    )
    assert measured["bits"] == list(config.bits_per_layer)
    assert set(measured["metrics"]) == {"perplexity", "kl_divergence", "top1_agreement", "acc"}
    for metric in measured["metrics"].values():
        assert set(metric) == {"value", "stderr", "n"} and metric["n"] == 2

    # The split asked for again has its evaluations with it, and is the same otherwise.
    again = run(*split)
    found = {e["task"]: e for e in again["evaluations"]}
    assert set(found) == {"minimal_pairs", "perplexity"} and len(again["evaluations"]) == 2
    assert found["perplexity"]["metrics"]["perplexity"] == measured["metrics"]["perplexity"]
    assert found["minimal_pairs"]["limit"] == 2
    assert {**again, "evaluations": []} == json.loads(path.read_text())

    exported = run("export", str(path), "--to", "json")
    assert exported == json.loads(path.read_text())
    assert main(["export", str(path), "--to", "json"]) == 0
    text = capfd.readouterr().out
    assert Config.from_json(json.loads(text)) == config

    out = tmp_path / "quantized"
    written = run("quantize", str(path), "--out", str(out))
    assert written["folder"] == str(out) and written["bytes"] == dict(config.bytes)
    on_disk = sum(f.stat().st_size for f in out.glob("*.safetensors"))
    assert written["safetensors_bytes"] == on_disk
    assert 0 < on_disk - config.bytes["total"] < 200_000
    assert json.loads((out / "lwq.json").read_text()) == exported
    assert main(["quantize", str(path), "--out", str(out)]) == 1
    assert "exists and is not an empty folder" in capfd.readouterr().err


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
            *("ordering", "seed", "quantizer", "low_layers"),
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


def test_results_go_to_a_file(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "new" / "info.json"
    assert main(["info", "demo", "--json", str(path)]) == 0
    assert "24 layers" in capfd.readouterr().out
    assert json.loads(path.read_text())["num_layers"] == N


def test_a_file_that_cannot_be_written(failing: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot be written" in failing("info", "demo", "--json", str(tmp_path / "file" / "x"))


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


def test_large_numbers_are_numbers(run: Run) -> None:
    base = ["split", "demo", "--ordering", "random", "--low-layers", "3"]
    assert run(*base, "--seed", str(2**70))["ordering"]["seed"] == 2**70
    many = ["--context", str(10**17), "--batch", str(10**17)]
    assert run("info", "demo", *many)["cache_bytes"] > 10**34


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


def test_a_scorer_that_fails_fails_alone(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lwq_ui.engine import jobs

    def fail(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(jobs.scoring, "level_scores", fail)
    both = ["--scorer", "sensitivity", "--scorer", "zd", "--max-tokens", "77"]
    assert main(["score", "demo", *both, "--json", "-"]) == 1
    out, err = capfd.readouterr()
    assert list(json.loads(out)["scores"]) == ["zd"]
    assert err.splitlines()[-1].startswith("The memory is not enough.")


@pytest.fixture
def config(tmp_path: Path, run: Run) -> Path:
    path = tmp_path / "config.json"
    found = run("split", "demo", "--ordering", "first", "--low-layers", "3")
    path.write_text(json.dumps(found))
    return path


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


def test_a_config_in_other_encodings(config: Path, run: Run, failing: Run) -> None:
    text = config.read_text()
    for encoding in ("utf-8-sig", "utf-16"):
        config.write_bytes(text.encode(encoding))
        assert run("export", str(config), "--to", "json") == json.loads(text)
    config.write_bytes(text.encode("utf-16")[:-1])
    assert "not valid JSON" in failing("export", str(config), "--to", "json")


def test_the_model_of_a_config_that_lies_elsewhere(
    config: Path, run: Run, failing: Run, tmp_path: Path
) -> None:
    data = json.loads(config.read_text())
    config.write_text(json.dumps({**data, "model_id": "./gone"}))
    asked = ["evaluate", str(config), "--task", "endings", "--limit", "1"]
    sentence = failing(*asked)
    assert "There is no folder './gone'" in sentence and "The config names './gone'" in sentence
    assert "--model" in sentence
    assert "--model" in failing("quantize", str(config), "--out", str(tmp_path / "out"))
    assert run(*asked, "--model", str(ROOT / "assets" / "demo_model"))["metrics"]
    written = run("quantize", str(config), "--out", str(tmp_path / "out"), "--model", "demo")
    assert written["bytes"] == data["bytes"]


def test_a_config_with_the_quantizers_name_at_length(config: Path, run: Run, failing: Run) -> None:
    """Its results are those of the short name, also for whoever asks for them by that."""
    data = json.loads(config.read_text())
    data["quantizer"]["name"] = "quanto:group=128"
    config.write_text(json.dumps(data))
    asked = ["evaluate", str(config), "--task", "minimal_pairs", "--limit", "3"]
    assert run(*asked)["metrics"]
    again = run("split", "demo", "--ordering", "first", "--low-layers", "3")
    assert again["quantizer"]["name"] == "quanto"
    assert ("minimal_pairs", 3) in {(e["task"], e["limit"]) for e in again["evaluations"]}
    data["quantizer"]["group_size"] = 64
    config.write_text(json.dumps(data))
    assert "'quantizer' is wrong: the group_size of 'quanto' is 128" in failing(*asked)


def test_a_budget_that_leaves_nothing_to_choose(
    run: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    def note(*arguments: str) -> str:
        assert main(["split", "demo", *arguments]) == 0
        return capfd.readouterr().err

    order = ["--ordering", "first"]
    for quantizer in ("quanto", "quanto:group=32"):
        chosen = [*order, "--quantizer", quantizer]
        floor = "has 2 bits: this budget is at the smallest split"
        assert floor in note(*chosen, "--average-bits", "2")
        smallest = run("split", "demo", *chosen, "--low-layers", "24")["bytes"]["total"]
        assert floor in note(*chosen, "--budget", str(smallest + 1000))
    assert "has 4 bits: this budget is enough for the largest" in note(*order, "--budget", "1GiB")
    pins = [f"--pin={i}=4" for i in range(N)]
    assert "Every layer is pinned" in note(*order, "--budget", "1GiB", *pins)
    assert "bits:" not in note(*order, "--average-bits", "3")


def test_pins_count_in_the_average(run: Run, failing: Run) -> None:
    base = ["split", "demo", "--ordering", "last", "--pin", "0=8"]
    assert "the smallest split has 2.25" in failing(*base, "--average-bits", "2.1")
    for bits in (2.25, 2.5, 3.3):
        found = run(*base, "--average-bits", str(bits))
        assert found["bits_per_layer"][0] == 8 and found["average_bits"] <= bits
    assert "pinned to two levels" in failing(*base, "--average-bits", "3", "--pin", "0=4")


def test_a_pin_to_the_level_a_layer_has_anyway_stays(run: Run) -> None:
    base = ["split", "demo", "--ordering", "first", "--pin", "0=4", "--pin", "23=2"]
    for low in ("12", "22", "0"):
        found = run(*base, "--low-layers", low)
        assert found["pinned"] == {"0": 4, "23": 2}
        assert (found["bits_per_layer"][0], found["bits_per_layer"][-1]) == (4, 2)


def test_levels_that_are_no_whole_bits(run: Run, tmp_path: Path) -> None:
    config = run(
        *("split", "demo", "--ordering", "first", "--quantizer", "spqr:documents=2"),
        *("--levels", "1%,0.1%", "--low-layers", "20", "--pin", "23=0.5%"),
    )
    assert config["levels"] == [3.945, 3.657]
    assert config["bits_per_layer"] == [3.945] * 3 + [3.657] * 20 + [3.785]
    assert config["quantizer"]["name"] == "spqr:documents=2"
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert run("export", str(tmp_path / "config.json"), "--to", "json") == config


def test_a_level_that_no_quantizer_has(failing: Run, run: Run, tmp_path: Path) -> None:
    config = run("split", "demo", "--ordering", "first", "--low-layers", "24")
    config |= {"levels": [4, 3], "bits_per_layer": [3] * N, "average_bits": 3.0}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    assert "has no 3 bits" in failing("evaluate", str(path), "--task", "endings", "--limit", "1")


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
