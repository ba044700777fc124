"""Evaluations and forecasts: what is known is kept, whatever fails or is stopped later."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import tiny
from jobs_on_tiny import HQQ, LONG, SPLITS, StopAt, elsewhere

from lwq_ui.core.errors import Stopped, UserError
from lwq_ui.core.run import Run
from lwq_ui.core.settings import Settings
from lwq_ui.core.store import Store
from lwq_ui.engine import jobs, records
from lwq_ui.engine.banks.bank import Bank
from lwq_ui.engine.models.loading import LoadedModel
from lwq_ui.engine.quantizers import quantizer_named
from lwq_ui.engine.tasks import tasks
from lwq_ui.engine.tasks.lm_eval_tasks import Harness
from lwq_ui.engine.texts import Text


def measurement(**options: Any) -> jobs.Measurement:
    tasks = ["perplexity", "endings"]
    usual = {"splits": SPLITS, "quantizer": tiny.QUANTO, "tasks": tasks, "limit": 3}
    return jobs.Measurement(**{**usual, **options})


def evaluate(loaded: LoadedModel, run: Run, **options: Any) -> Any:
    callbacks = {name: options.pop(name) for name in ("partial", "early") if name in options}
    return jobs.evaluate(loaded, measurement(**options), run, **callbacks)


def numbers(evaluated: Any) -> list[Any]:
    """Everything but how long it took."""
    return [{**e.to_json(), "seconds": None} for e in evaluated.evaluations]


def test_cached_evaluations_equal_fresh_ones(
    loaded: LoadedModel,
    folder_of: Callable[..., Path],
    settings: Settings,
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fresh = evaluate(loaded, run)
    assert fresh.computed == 6
    assert [(e.task, e.split) for e in fresh.evaluations] == [
        (task, split) for task in ("perplexity", "endings") for split in SPLITS
    ]
    assert {e.quantizer for e in fresh.evaluations if e.split == SPLITS[1]} == {"none"}
    assert {e.limit for e in fresh.evaluations} == {3}
    again = tiny.load(folder_of("llama"))
    other = evaluate(again, elsewhere(run, "other"))
    assert numbers(other) == numbers(fresh)
    for task in tasks(settings).values():
        monkeypatch.setattr(type(task), "measure", lambda *args: pytest.fail("measured again"))
    monkeypatch.setattr(jobs.evaluating, "bank_of", lambda *args: pytest.fail("a bank for nothing"))
    cached = evaluate(loaded, run)
    assert cached.computed == 0
    assert cached.evaluations == fresh.evaluations
    for changed in (
        {"limit": 4},
        {"quantizer": HQQ},
        {"splits": [(2,) * 4]},
    ):
        with pytest.raises(pytest.fail.Exception):
            evaluate(loaded, run, **changed)
    # The unquantized model is the same under every quantizer.
    assert evaluate(loaded, run, quantizer=HQQ, splits=[SPLITS[1]]).computed == 0


def test_only_what_is_missing_is_measured(loaded: LoadedModel, run: Run) -> None:
    assert evaluate(loaded, run, splits=SPLITS[:1]).computed == 2
    assert evaluate(loaded, run, splits=[*SPLITS[:2], SPLITS[0]]).computed == 2
    assert evaluate(loaded, run, splits=SPLITS).computed == 2


def test_results_are_told_early_on_a_part_of_the_items(
    loaded: LoadedModel, run: Run, store: Store
) -> None:
    evaluate(loaded, run, limit=32, splits=SPLITS[:1], tasks=["endings"])
    told: list[Any] = []
    whole: list[bool] = []

    def partial(some: Any, stored: bool) -> None:
        told.append(some)
        whole.append(stored)
        if stored:  # so that whoever stops now finds it again
            kept = Store(store.root).find("evaluations", loaded.info.fingerprint)
            assert {(e.task, e.split) for e in some} <= {
                (parts["task"], tuple(parts["split"])) for parts, _ in kept
            }

    done = evaluate(loaded, run, limit=32, partial=partial)
    assert whole == [True, False, True, False, True]
    count = [[(e.task, len(next(iter(e.items.values())))) for e in some] for some in told]
    assert count == [
        [("endings", 32)],
        [("perplexity", 8)] * 3,
        [("perplexity", 32)] * 3,
        [("endings", 8)] * 2,
        [("endings", 32)] * 2,
    ]
    assert [e for e in done.evaluations if e.task == "perplexity"] == told[2]
    assert {e.limit for some in told for e in some if e.task == "endings"} == {32}
    # What was told early is the same as a smaller evaluation, and is not stored as the larger one.
    few = evaluate(loaded, elsewhere(run, "other"), limit=8, splits=SPLITS)
    early = [e.metrics for e in few.evaluations if e.task == "perplexity"]
    for ours, theirs in zip(told[1], early, strict=True):
        assert ours.metrics["perplexity"].value == pytest.approx(theirs["perplexity"].value)
    assert evaluate(loaded, run, limit=32).computed == 0


def test_a_task_that_fails_does_not_keep_the_others(
    loaded: LoadedModel, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Any:
        raise UserError("The data cannot be had.")

    monkeypatch.setattr(Harness, "measure", fail)
    done = evaluate(loaded, run, tasks=["endings", "perplexity", "no such"])
    assert [e.task for e in done.evaluations] == ["perplexity"] * 3
    assert len(done.failures) == 2
    assert "The data cannot be had." in done.failures
    assert any("no task 'no such'" in told for told in done.failures)
    with pytest.raises(UserError, match=r"The data cannot be had\."):
        evaluate(loaded, run, tasks=["endings"])


def test_what_is_known_is_kept_whatever_fails_later(
    loaded: LoadedModel, run: Run, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Splits in the store, though the task fails on the others; other tasks, though one ends in an
    error that nobody foresaw."""
    first = evaluate(loaded, run, splits=SPLITS[:1], tasks=["endings"])

    class Panic(BaseException):
        """As a tokenizer's."""

    for error in (UserError("No data."), KeyError("x"), Panic("no entry"), MemoryError()):
        with monkeypatch.context() as patch:
            patch.setattr(Harness, "measure", lambda *_, error=error: (_ for _ in ()).throw(error))
            done = evaluate(loaded, run, tasks=["endings", "perplexity"])
        assert [(e.task, e.split) for e in done.evaluations] == [
            ("endings", SPLITS[0]),
            *(("perplexity", split) for split in SPLITS),
        ]
        assert numbers(done)[:1] == numbers(first) and len(done.failures) == 1
        told = done.failures[0]
        if isinstance(error, MemoryError):
            assert told.startswith("The memory is not enough.")
        elif not isinstance(error, UserError):
            assert f"({type(error).__name__}: " in told and str(store.root / "lwq.log") in told
        assert "Traceback" not in told
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(Harness, "measure", lambda *_: (_ for _ in ()).throw(Stopped()))
        evaluate(loaded, run, tasks=["endings", "perplexity"])


def test_a_quantizer_that_cannot_pack_keeps_what_is_known(
    loaded: LoadedModel, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate(loaded, run, splits=SPLITS[:1])

    def fail(*_: Any) -> None:
        raise UserError("GPTQ needs the package gptqmodel.")

    monkeypatch.setattr(Bank, "fill", fail)
    done = evaluate(loaded, run)
    assert {(e.task, e.split) for e in done.evaluations} == {
        (task, SPLITS[0]) for task in ("perplexity", "endings")
    }
    assert done.failures == ("GPTQ needs the package gptqmodel.",)
    with pytest.raises(UserError, match=r"^GPTQ needs the package gptqmodel\.$"):
        evaluate(loaded, run, splits=SPLITS[2:])


def test_every_result_as_it_becomes_known_without_parts(
    loaded: LoadedModel, settings: Settings, run: Run
) -> None:
    plain = evaluate(loaded, run, limit=32, tasks=["endings"])
    known: list[Any] = []
    other = elsewhere(run, "other")
    keep = {"partial": lambda some, whole: known.append((list(some), whole)), "early": False}
    done = evaluate(loaded, other, limit=32, tasks=["endings"], **keep)
    assert numbers(done) == numbers(plain) and known == [(done.evaluations, True)]


def test_one_thing_has_one_name_in_the_store(
    loaded: LoadedModel, text: Text, run: Run, store: Store
) -> None:
    """4 bits are 4.0, 'quanto' is 'quanto:group=128', and a task asked for twice is one."""
    plain = evaluate(loaded, run)
    again = evaluate(
        loaded,
        run,
        quantizer=LONG,
        splits=[tuple(map(float, split)) for split in SPLITS],
        tasks=["perplexity", "endings", "perplexity"],
    )
    assert again.computed == 0 and again.evaluations == plain.evaluations
    empty = elsewhere(run, "other")
    fresh = evaluate(
        loaded,
        empty,
        quantizer=LONG,
        splits=[tuple(map(float, split)) for split in SPLITS],
        tasks=["perplexity", "endings", "perplexity"],
    )
    assert numbers(fresh) == numbers(plain) and fresh.computed == 6
    assert "quanto:group=128" not in json.dumps(numbers(fresh))
    assert sorted(p.name for p in empty.store.root.glob("evaluations/*/*")) == sorted(
        p.name for p in store.root.glob("evaluations/*/*")
    )
    one = jobs.score(loaded, ["sensitivity"], text, run, 60, low=2)
    two = jobs.score(loaded, ["sensitivity"], text, run, 60, LONG, 2.0)
    assert one == two and one["sensitivity"].quantizer == "quanto"
    assert len(list(store.root.glob("scores/*/*.json"))) == 1
    assert list(loaded.banks) == ["quanto"]
    forms = ("spqr:documents=2,tokens=64", "spqr:tokens=64,documents=2")
    assert len({quantizer_named(form).name for form in forms}) == 1


def test_what_earlier_versions_stored_under_the_long_name(
    loaded: LoadedModel, settings: Settings, store: Store, run: Run
) -> None:
    plain = evaluate(loaded, run, tasks=["endings"], splits=SPLITS[:1]).evaluations[0]
    task = tasks(settings)["endings"]
    key = records.evaluation_key(loaded.info, task, SPLITS[0], tiny.QUANTO, 3)
    store.write(key, replace(plain, quantizer="quanto:group=128").to_json())
    assert evaluate(loaded, run, tasks=["endings"], splits=SPLITS[:1]).evaluations == [plain]
    assert records.known_evaluations(loaded.info, tasks(settings), store) == [plain]


def test_a_forecast_measures_nothing(loaded: LoadedModel, run: Run, store: Store) -> None:
    def ahead(**options: Any) -> Any:
        return jobs.forecast(loaded, measurement(**{"limit": 8, **options}), run)

    all_ahead = ahead()
    assert all_ahead.splits == 6 and all_ahead.seconds > 0 and not all_ahead.unknown
    assert not list(store.root.glob("evaluations/**/*.json"))
    assert ahead(tasks=["endings", "nosuch"]).unknown == ("nosuch",)
    evaluate(loaded, run, limit=8, tasks=["perplexity"])
    assert ahead().splits == 3
    evaluate(loaded, run, limit=8)
    assert ahead() == jobs.Forecast(0.0, 0.0, 0, ())


def test_a_limit_beyond_the_task_is_no_limit(loaded: LoadedModel, run: Run) -> None:
    options: dict[str, Any] = {"splits": SPLITS[:1], "tasks": ["perplexity"]}
    found = evaluate(loaded, run, limit=1000, **options)
    assert found.evaluations[0].limit is None
    assert found.evaluations[0].metrics["perplexity"].n == 32
    assert evaluate(loaded, run, limit=None, **options).computed == 0


def test_a_damaged_evaluation_is_measured_again(
    loaded: LoadedModel, settings: Settings, run: Run
) -> None:
    fresh = evaluate(loaded, run, splits=SPLITS[:1], tasks=["endings"])
    (path,) = (settings.cache / "evaluations").rglob("*.json")
    path.write_text(path.read_text().replace('"n": 3', '"n": 4'))
    again = evaluate(loaded, run, splits=SPLITS[:1], tasks=["endings"])
    assert again.computed == 1 and numbers(again) == numbers(fresh)


def test_unknown_tasks_and_levels(loaded: LoadedModel, run: Run) -> None:
    with pytest.raises(UserError, match="There is no task 'nosuch'"):
        evaluate(loaded, run, tasks=["nosuch"])
    with pytest.raises(UserError, match="There is no quantizer 'nosuch'"):
        quantizer_named("nosuch")
    with pytest.raises(UserError, match="has no 3 bits"):
        evaluate(loaded, run, splits=[(3,) * 4])


def test_a_stop_while_evaluating_at_any_step(folder_of: Callable[..., Path], run: Run) -> None:
    steps = StopAt(-1)
    expected = numbers(evaluate(tiny.load(folder_of("llama")), replace(run, progress=steps)))
    total = len(steps.calls)
    loaded = tiny.load(folder_of("llama"))
    for at in (0, 3, total // 4, total // 2, 3 * total // 4, total - 1):
        empty = elsewhere(run, f"stopped-{at}")
        loaded.banks.clear()
        stopping = StopAt(at)
        with pytest.raises(Stopped):
            evaluate(loaded, replace(empty, progress=stopping, stop=stopping.stop))
        assert len(stopping.calls) <= at + 2
        assert not list(empty.store.root.rglob(".*")) and not list(empty.store.root.rglob("*.part"))
        assert numbers(evaluate(loaded, empty)) == expected


def test_finished_tasks_are_kept_before_a_stop(
    loaded: LoadedModel, settings: Settings, run: Run
) -> None:
    stop = Event()

    def progress(what: str, done: float | None) -> None:
        if what.startswith("Story endings:") and done > 0.6:
            stop.set()

    with pytest.raises(Stopped):
        evaluate(loaded, replace(run, progress=progress, stop=stop))
    kept = [json.loads(p.read_text()) for p in (settings.cache / "evaluations").rglob("*.json")]
    assert [k["value"]["task"] for k in kept] == ["perplexity"] * 3
    assert evaluate(loaded, run).computed == 3


def test_the_share_done_goes_up_over_all_tasks(loaded: LoadedModel, run: Run) -> None:
    seen: list[Any] = []
    evaluate(loaded, replace(run, progress=lambda what, done: seen.append((what, done))))
    shares = [done for what, done in seen if what != "Quantizing layers"]
    assert shares == sorted(shares) and shares[0] >= 0 and shares[-1] <= 1
    endings = [done for what, done in seen if what.startswith("Story endings:")]
    assert endings and min(endings) >= 0.5
    seen.clear()
    again = replace(elsewhere(run, "other"), progress=lambda what, done: seen.append((what, done)))
    evaluate(loaded, again, limit=16, partial=lambda *told: None)
    shares = [done for what, done in seen if what != "Quantizing layers"]
    assert shares == sorted(shares) and shares[-1] <= 1
