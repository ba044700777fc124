"""`split`: budgets, pins, seeds and levels, and the notes about them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from demo import QUICK, N, Run

from lwq_ui.cli import main
from lwq_ui.core.config import Config
from lwq_ui.core.memory import GIB


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


def test_the_seed_of_the_random_ordering(run: Run) -> None:
    def split(seed: int) -> Any:
        return run(
            "split", "demo", "--ordering", "random", "--low-layers", "12", "--seed", str(seed)
        )

    assert split(1) == split(1)
    assert split(1)["bits_per_layer"] != split(2)["bits_per_layer"]
    assert split(7)["ordering"]["seed"] == 7


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
