"""The cache that ships belongs to today's code and pinned libraries: the page opens scored."""

import sys
from pathlib import Path
from threading import Event

import pytest

from lwq_ui.core.curves import alike, all_splits, curves, levels_between
from lwq_ui.core.orderings import SCORERS
from lwq_ui.core.settings import Settings
from lwq_ui.core.store import Store
from lwq_ui.engine import jobs, records
from lwq_ui.engine.evaluation import tasks
from lwq_ui.engine.quantizers import QUANTIZERS, quantizer_named
from lwq_ui.engine.sources import DEMO, Source
from lwq_ui.engine.texts import shipped_calibration

STALE = "assets/cache is out of date: run python assets/make_cache.py"

pytestmark = pytest.mark.skipif(
    sys.version_info < (3, 11), reason="another transformers is pinned there: nothing is shipped"
)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(cache=tmp_path)


def test_info_scores_and_baselines_are_there(settings: Settings) -> None:
    shipped = Store(settings.shipped)
    info = records.known_info(Source(DEMO, settings.demo_model), "auto", shipped)
    assert info is not None, STALE
    text, quanto = shipped_calibration(settings), quantizer_named("quanto")
    scores = records.known_scores(info, text, shipped, None, quanto, 2)
    assert scores.keys() == SCORERS.keys(), STALE
    every = tasks(settings)
    found = {
        (e.task, e.split[0], e.limit is None)
        for e in records.known_evaluations(info, every, shipped)
    }
    levels = (16, 8, 4, 2)
    assert {(t, level, True) for t in every for level in levels} <= found, STALE
    orderings = ["lim", "zd", "sensitivity", "reverse-lim", "reverse-zd", "random"]
    values = {name: s.values for name, s in scores.items()}
    lines = curves(orderings, values, info.num_layers, (4, 2))
    measured = {(e.task, e.split) for e in records.known_evaluations(info, every, shipped)}
    tasks_of_curves = ("perplexity", "minimal_pairs")
    assert {(t, s) for t in tasks_of_curves for s in all_splits(lines)} <= measured, STALE
    found = records.known_evaluations(info, every, shipped)
    by_quantizer = {(e.task, e.split, e.quantizer) for e in found}
    for name, quantizer in QUANTIZERS.items():
        between = levels_between(quantizer.levels, *quantizer.pairs[0])
        lines = curves(["lim"], values, info.num_layers, quantizer.pairs[0])
        splits = all_splits([*lines, alike(between, info.num_layers)])
        assert {(t, s, name) for t in tasks_of_curves for s in splits} <= by_quantizer, STALE


def test_shipped_scores_equal_fresh_ones(settings: Settings) -> None:
    shipped, fresh, stop = Store(settings.shipped), Store(settings.cache), Event()
    loaded = jobs.load(DEMO, "cpu", "auto", settings, fresh, lambda *_: None, stop)
    text = shipped_calibration(settings)
    known = records.known_scores(loaded.info, text, shipped)
    zd = jobs.score(loaded, ["zd"], text, fresh, lambda *_: None, stop)["zd"]
    assert zd.values == known["zd"].values, STALE
    lim = jobs.score(loaded, ["lim"], text, fresh, lambda *_: None, stop)["lim"]
    assert lim.values == pytest.approx(known["lim"].values, abs=1e-3), STALE  # other CPUs round
