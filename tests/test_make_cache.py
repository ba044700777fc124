"""The script that fills the shipped cache: it goes on where it was, and ships what is finished."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import wheels

from lwq_ui.core.built_in import SMOLLM2, Opening
from lwq_ui.core.curves import all_splits, curves
from lwq_ui.core.memory import UNTOUCHED
from lwq_ui.core.run import Run
from lwq_ui.core.settings import ASSETS, ROOT, Settings
from lwq_ui.core.usability import Usability
from lwq_ui.core.writing import Prompt, splits_to_read
from lwq_ui.engine import jobs, records
from lwq_ui.engine.jobs import evaluating, scoring
from lwq_ui.ui.page import opening_situation
from lwq_ui.ui.server import Server

OTHER = f"scores/{'0' * 16}/of-another-model.json"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_cache", ROOT / "assets" / "make_cache.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Assets whose cache holds nothing but a file of another model, and a random model in the
    wheel's place."""
    assets = tmp_path / "assets"
    assets.mkdir()
    for path in ASSETS.iterdir():
        if path.name != "cache":
            (assets / path.name).symlink_to(path)
    other = assets / "cache" / OTHER
    other.parent.mkdir(parents=True)
    other.write_text("{}")
    wheels.install(tmp_path / "site", wheels.tiny_gguf(tmp_path / "tiny.gguf"))
    monkeypatch.syspath_prepend(tmp_path / "site")
    return Settings(cache=tmp_path / "cache", assets=assets)


@pytest.fixture
def run(settings: Settings, script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(script, "tasks", lambda settings: ["minimal_pairs"])
    monkeypatch.setattr(script, "TASKS", ("minimal_pairs",))
    return Run(settings, script.Remembering(settings))


def shipped(settings: Settings) -> set[str]:
    root = settings.shipped
    return {p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()}


def plan_of(script: ModuleType) -> list[Any]:
    return [script.Lines("quanto", (8, 4), ("lim", "first"), stride=2)]


def check_page(fresh: Settings) -> None:
    """The page of a program that has nothing else opens with all of it."""
    server = Server(fresh, Opening(SMOLLM2))
    s = opening_situation(server)
    session = server.with_model(s.session, s.info, s.session.scores or {})
    assert (s.info.model_id, s.controls.levels) == (SMOLLM2, (8, 4))
    assert {"lim", "zd", "sensitivity"} <= s.scores.keys()
    measured = {(e.split, e.limit) for e in session.evaluations}
    line = all_splits(curves(["lim", "first"], s.choice.values, 4, (8, 4), 2))
    for split in ((UNTOUCHED,) * 4, *line):
        assert (split, None) in measured
    for level in (UNTOUCHED, 8, 4, 2):
        assert ((level,) * 4, 60) in measured
    usability = Usability(session.evaluations)
    quantizer = s.controls.quantizer
    for split in ((UNTOUCHED,) * 4, *splits_to_read(quantizer, (8, 4), s.split, usability)):
        assert records.written_text(s.info, split, quantizer, Prompt(), server.store)


def test_stopped_it_has_shipped_what_is_finished_and_goes_on_from_there(
    script: ModuleType,
    settings: Settings,
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(jobs, "generate", interrupted)
        with pytest.raises(KeyboardInterrupt):
            script.make(SMOLLM2, run, plan_of(script))
    half = shipped(settings) - {OTHER}
    assert {Path(name).parts[0] for name in half} == {"info", "scores", "evaluations"}
    old = settings.shipped / "evaluations" / Path(min(half)).parent.name / "of-an-earlier-plan.json"
    old.write_text("{}")

    def computed(*args: object, **options: object) -> None:
        pytest.fail("something is measured again")

    monkeypatch.setattr(evaluating, "measure", computed)
    monkeypatch.setattr(scoring, "pass_scores", computed)
    monkeypatch.setattr(scoring, "level_scores", computed)
    script.make(SMOLLM2, Run(settings, script.Remembering(settings)), plan_of(script))
    new = shipped(settings) - half
    assert half < shipped(settings) and not old.exists()
    assert {Path(name).parts[0] for name in new - {OTHER}} == {"texts"}
    assert OTHER in new and not any("banks" in name for name in new)
    check_page(replace(settings, cache=tmp_path / "fresh"))


def test_what_cannot_be_measured_ends_it(
    script: ModuleType, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = jobs.Evaluated([], 0, ("It cannot be had.",))
    monkeypatch.setattr(jobs, "evaluate", lambda *args: failed)
    with pytest.raises(SystemExit, match="It cannot be had"):
        script.measure(None, [], None, ["minimal_pairs"], None, run)
