"""`split`, `sweep` and `evaluate` say what is beyond use, by what was measured: here a made-up
past of the demo model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from demo import N

from lwq_ui.cli import main
from lwq_ui.core.allocation import Split
from lwq_ui.core.run import Run
from lwq_ui.core.schema import UNQUANTIZED, Evaluation, Metric
from lwq_ui.core.settings import Settings
from lwq_ui.core.store import Store
from lwq_ui.engine import jobs, records
from lwq_ui.engine.quantizers import quantizer_named
from lwq_ui.engine.tasks import tasks

MIX = (4,) * 12 + (2,) * 12  # of the first layers
LEVELS = (
    "At 2 bits this model is lost: perplexity 5,000 is 100 times the original's (10 times or more "
    "is beyond use). Try 8 / 4 (1.2 times), or GPTQ (1.4 times)."
)


def keep(cache: Path, quantizer: str, split: Split, value: float, limit: int) -> None:
    settings, store = Settings(cache=cache), Store(cache)
    info = jobs.describe("demo", "auto", Run(settings, store))
    by = UNQUANTIZED if set(split) == {16} else quantizer
    metrics = {"perplexity": Metric(value, 1.0, limit)}
    e = Evaluation("perplexity", split, by, metrics, {}, limit, 1.0)
    task = tasks(settings)["perplexity"]
    key = records.evaluation_key(info, task, split, quantizer_named(quantizer), limit)
    store.write(key, e.to_json())


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache whose evaluations of two items are made up."""
    monkeypatch.setenv("LWQ_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(Settings, "shipped", tmp_path / "none")
    past = {("quanto", (level,) * N): value for level, value in ((16, 50.0), (4, 60.0))}
    past |= {("quanto", MIX): 600.0, ("quanto", (2,) * N): 5000.0, ("gptq", (2,) * N): 70.0}
    for (name, split), value in past.items():
        keep(tmp_path, name, split, value, limit=2)
    return tmp_path


def said(capfd: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    assert main(list(arguments)) == 0
    return [line for line in capfd.readouterr().err.splitlines() if " lost" in line]


def test_split_and_evaluate(cache: Path, capfd: pytest.CaptureFixture[str]) -> None:
    first = ["split", "demo", "--ordering", "first"]
    path = str(cache / "config.json")
    mix = (
        "This split is lost: perplexity 600 is 12 times the original's (10 times or more is beyond "
        "use). "
    )
    nearest = f"{mix}The nearest usable one measured has 4.00 bits (1.2 times)."
    assert said(capfd, *first, "--low-layers", "12", "--json", path) == [LEVELS, nearest]
    assert json.loads(Path(path).read_text())["evaluations"][0]["metrics"]["perplexity"]
    assert said(capfd, *first, "--low-layers", "4") == [LEVELS]
    assert said(capfd, *first, "--levels", "8,4", "--low-layers", "12") == []
    few = ["--task", "perplexity", "--limit", "2"]
    assert said(capfd, "evaluate", path, *few) == [
        f"{mix}Try 8 / 4 (1.2 times), or GPTQ (1.4 times)."
    ]


SWEEP = ["sweep", "demo", "--ordering", "first", "--task", "perplexity"]


def test_sweep_says_it_once(cache: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert said(capfd, *SWEEP, "--every", "12", "--limit", "2") == [LEVELS]


def test_what_was_just_measured_is_said(cache: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Beside a made-up original on one item."""
    keep(cache, "quanto", (16,) * N, 1.5, limit=1)
    (line,) = said(capfd, *SWEEP, "--every", "24", "--levels", "8,4", "--limit", "1")
    assert line.startswith("At 8 bits this model is lost: perplexity ")
