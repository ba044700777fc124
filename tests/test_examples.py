"""examples/: what they write is what they say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from lwq_ui.core.config import Config
from lwq_ui.core.memory import average_bits
from lwq_ui.core.settings import ROOT


def run_example(*arguments: str, cache: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "examples.layerwise", *arguments],
        cwd=ROOT,
        env={**os.environ, "LWQ_CACHE_DIR": str(cache), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )


def test_a_model_is_quantized_layerwise_without_the_page(tmp_path: Path) -> None:
    out, cache = tmp_path / "out", tmp_path / "cache"
    folder = str(ROOT / "assets" / "demo_model")
    done = run_example(folder, str(out), "--bits", "3.25", cache=cache)
    assert done.returncode == 0, done.stderr
    config = Config.from_json(json.loads((out / "lwq.json").read_text()))
    assert average_bits(config.bits_per_layer) == 3.25
    scores = config.ordering["scores"]
    by_lim = sorted(range(config.num_layers), key=lambda i: -scores[i])
    assert {i for i in range(config.num_layers) if config.bits_per_layer[i] == 4} == set(
        by_lim[:15]
    )
    size = sum(f.stat().st_size for f in out.glob("*.safetensors"))
    assert 0 <= size - config.bytes["total"] < 200_000
    bits, original, quantized, written = done.stdout.splitlines()
    assert bits.endswith(" ".join(map(str, config.bits_per_layer)))
    before, after = (float(line.split()[-1]) for line in (original, quantized))
    assert 20 < before < after < 100
    assert f"{config.bytes['total']:,} bytes" in written
    assert (out / "quanto_qmap.json").exists()


def test_what_cannot_be_done_is_one_sentence(tmp_path: Path) -> None:
    done = run_example("./nowhere", str(tmp_path / "out"), cache=tmp_path / "cache")
    assert done.returncode == 1 and "There is no folder './nowhere'" in done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "out").exists()


def test_the_example_stays_short() -> None:
    assert len((ROOT / "examples" / "layerwise.py").read_text().splitlines()) <= 80
