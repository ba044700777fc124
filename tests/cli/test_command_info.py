"""`info`: a model's figures."""

from __future__ import annotations

import pytest
from demo import N, Run

from lwq_ui.cli import main


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


def test_large_numbers_are_numbers(run: Run) -> None:
    base = ["split", "demo", "--ordering", "random", "--low-layers", "3"]
    assert run(*base, "--seed", str(2**70))["ordering"]["seed"] == 2**70
    many = ["--context", str(10**17), "--batch", str(10**17)]
    assert run("info", "demo", *many)["cache_bytes"] > 10**34
