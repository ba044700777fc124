"""The commands that take a config: `evaluate`, `quantize` and `export`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from demo import N, Run

from lwq_ui.cli import main
from lwq_ui.core.config import Config
from lwq_ui.core.settings import ROOT


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


def test_a_level_that_no_quantizer_has(failing: Run, run: Run, tmp_path: Path) -> None:
    config = run("split", "demo", "--ordering", "first", "--low-layers", "24")
    config |= {"levels": [4, 3], "bits_per_layer": [3] * N, "average_bits": 3.0}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    assert "has no 3 bits" in failing("evaluate", str(path), "--task", "endings", "--limit", "1")
