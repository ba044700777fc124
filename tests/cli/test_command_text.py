"""`--text`: what LIM is scored on and what quantizers calibrate on, from `split` to `evaluate`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from demo import Run

QUANTIZER = "spqr:documents=1,tokens=8"
# All layers but the first stay as they are: packing it is quick.
PINS = [argument for layer in range(1, 24) for argument in ("--pin", f"{layer}=16")]
SPLIT = ("split", "demo", "--ordering", "first", "--low-layers", "1", *PINS)


def test_a_quantizer_calibrates_on_the_same_text(
    run: Run, failing: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, config = tmp_path / "mine.txt", tmp_path / "config.json"
    text.write_text("The river runs down to the sea, and never back again. " * 3)
    made = run(*SPLIT, "--quantizer", QUANTIZER, "--text", str(text))
    name = made["quantizer"]["name"]
    assert name.startswith(f"{QUANTIZER},text=mine.txt~1~")
    plain = run(*SPLIT, "--quantizer", QUANTIZER)["quantizer"]
    assert plain["name"] == QUANTIZER and plain["options"] != made["quantizer"]["options"]
    chat = run(*SPLIT, "--quantizer", QUANTIZER, "--text", str(text), "--chat-template")
    assert "text=mine.txt as chat turns~1~" in chat["quantizer"]["name"]
    quanto = run(*SPLIT, "--text", str(text))["quantizer"]["name"]
    assert quanto == "quanto"  # it calibrates on nothing
    config.write_text(json.dumps(made))

    measure = ("evaluate", str(config), "--task", "endings", "--limit", "2")
    here = run(*measure)  # from the text in the cache
    assert here["quantizer"] == name
    monkeypatch.setenv("LWQ_CACHE_DIR", str(tmp_path / "elsewhere"))
    said = failing(*measure)
    assert said.startswith("The text 'mine.txt', which SpQR-like") and "--text" in said
    other = tmp_path / "other.txt"
    other.write_text("Another text. " * 9)
    for some in (measure, ("quantize", str(config), "--out", str(tmp_path / "out"))):
        said = failing(*some, "--text", str(other))
        assert said.startswith(f"'{other}' is not what the config's quantizer calibrates on (SpQR")
    text = text.rename(tmp_path / "renamed.txt")
    assert run(*measure, "--text", str(text))["metrics"] == here["metrics"]
