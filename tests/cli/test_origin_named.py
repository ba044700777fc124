"""A model from a file that was quantized before: every command says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from demo import Run

from lwq_ui.cli import main
from lwq_ui.core.settings import ROOT

SENTENCE = "Weights come from a Q4_1 file."
BACK = "4 bits give the Q4_1 file's weights back, but for rounding in bfloat16: lossless by "
GROUPS = ["--quantizer", "quanto:group=32"]


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.syspath_prepend(ROOT / "tests" / "engine")
    import gguf_models

    return str(gguf_models.write(gguf_models.build("llama"), tmp_path / "m.gguf", "Q4_1"))


def text(capfd: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(list(arguments)) == 0
    return capfd.readouterr().out


def test_what_a_model_is(model: str, run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("info", model)["weights_from"] == "Q4_1"
    assert f"\n{SENTENCE} The reference is that file" in text(capfd, "info", model)
    assert run("info", "demo")["weights_from"] is None
    stored = run("info", model)["stored"]
    down = stored["blk.0.ffn_down.weight"]  # 64 rows of three blocks of 32 values, 20 bytes each
    assert down == {"type": "Q4_1", "shape": [64, 96], "bytes": 64 * 3 * 20}
    assert "\nin its files: Q4_1 30 tensors, " in text(capfd, "info", model)
    assert run("score", model, "--scorer", "zd")["weights_from"] == "Q4_1"
    assert text(capfd, "score", model, "--scorer", "zd").startswith(f"{SENTENCE}\nZD")


def test_what_was_measured(
    model: str, run: Run, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    split = ["split", model, "--ordering", "first", "--low-layers", "1"]
    assert text(capfd, *split).startswith(f"{SENTENCE}\n")
    assert text(capfd, *split, *GROUPS).startswith(f"{SENTENCE} {BACK}")
    config = run(*split, *GROUPS)
    assert config["weights_from"] == "Q4_1"
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    evaluate = ["evaluate", str(path), "--task", "perplexity", "--limit", "1"]
    result = run(*evaluate)
    assert (result["weights_from"], result["lossless_layers"]) == ("Q4_1", 3)
    assert text(capfd, *evaluate).startswith(f"{SENTENCE} {BACK}")
    sweep = ["sweep", model, "--ordering", "first", "--task", "perplexity", "--limit", "1", *GROUPS]
    result = run(*sweep, "--every", "4")
    assert result["weights_from"] == "Q4_1"
    assert [point["lossless_layers"] for point in result["points"]] == [4, 0]
    assert text(capfd, *sweep, "--every", "4").startswith(f"{SENTENCE} {BACK}")
