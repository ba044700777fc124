"""Scores: from the store or computed, one and the same; stopped at any step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
from jobs_on_tiny import HQQ, StopAt, elsewhere

from lwq_ui.core.errors import Stopped, UserError
from lwq_ui.core.run import Run
from lwq_ui.core.store import Store
from lwq_ui.engine import jobs, records
from lwq_ui.engine.models.loading import LoadedModel
from lwq_ui.engine.texts import Text


def score(loaded: LoadedModel, text: Text, run: Run, **options: Any) -> Any:
    return jobs.score(loaded, ["lim", "zd"], text, run, **options)


def test_cached_scores_equal_fresh_ones(
    loaded: LoadedModel, text: Text, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = score(loaded, text, run)
    other = score(loaded, text, elsewhere(run, "other"))
    assert [s.values for s in fresh.values()] == [s.values for s in other.values()]
    assert fresh["lim"].calibration == "a few" and fresh["lim"].documents == 5
    assert fresh["lim"].tokens == sum(
        len(loaded.tokenizer(d)["input_ids"][:128]) for d in text.documents
    )
    assert (fresh["zd"].calibration, fresh["zd"].tokens) == (None, 0)
    monkeypatch.setattr(jobs.scoring, "pass_scores", lambda *args: pytest.fail("computed again"))
    assert score(loaded, text, run) == fresh
    with pytest.raises(pytest.fail.Exception):
        score(loaded, Text("a few", text.documents[:4]), run)
    with pytest.raises(pytest.fail.Exception):
        score(loaded, text, run, max_tokens=50)


def test_the_tokens_of_a_calibration_can_be_bounded(
    loaded: LoadedModel, text: Text, run: Run
) -> None:
    found = score(loaded, text, run, max_tokens=200)["lim"]
    assert (found.documents, found.tokens) == (2, 200)


def test_sensitivity_is_cached_per_level_and_quantizer(
    loaded: LoadedModel, text: Text, store: Store, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    def sensitivity(**options: Any) -> Any:
        options = {"max_tokens": 300, **options}
        found = jobs.score(loaded, ["sensitivity"], text, run, **options)
        return found["sensitivity"]

    fresh = sensitivity()
    assert (fresh.quantizer, fresh.level, fresh.tokens) == ("quanto", 2, 300)
    finer, other = sensitivity(low=4), sensitivity(quantizer=HQQ)
    assert sum(finer.values) < sum(fresh.values) != sum(other.values)
    monkeypatch.setattr(jobs.scoring, "level_scores", None)  # from here on the store must answer
    assert (sensitivity(), sensitivity(low=4)) == (fresh, finer)
    chosen = tiny.QUANTO
    known = records.known_scores(loaded.info, text, store, 300, chosen, 2)
    assert known == {"sensitivity": fresh}
    assert records.known_scores(loaded.info, text, store, 300) == {}
    with pytest.raises(TypeError):
        sensitivity(low=8)


def test_an_unknown_scorer(loaded: LoadedModel, text: Text, run: Run) -> None:
    with pytest.raises(UserError, match=r"no scorer 'bi'.*lim, zd"):
        jobs.score(loaded, ["bi"], text, run)


def test_a_stop_while_scoring_at_any_step(loaded: LoadedModel, text: Text, run: Run) -> None:
    steps = StopAt(-1)
    expected = score(loaded, text, replace(run, progress=steps))
    assert set(steps.calls) == {f"Scoring layer {i} of 4" for i in (1, 2, 3, 4)}
    for at in range(0, len(steps.calls), 3):
        empty = elsewhere(run, f"stopped-{at}")
        stopping = StopAt(at)
        try:
            score(loaded, text, replace(empty, progress=stopping, stop=stopping.stop))
        except Stopped:
            assert len(stopping.calls) <= at + 2  # heard before the next layer is done
        else:
            assert at == len(steps.calls) - 1
        found = score(loaded, text, empty)
        assert [s.values for s in found.values()] == [s.values for s in expected.values()]
