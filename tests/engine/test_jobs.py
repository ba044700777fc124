"""Jobs: cached equals fresh, a stop loses nothing, and what is written loads elsewhere."""

from __future__ import annotations

import errno
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import tiny
import torch
from safetensors import SafetensorError

from lwq_ui.core.choice import Choice
from lwq_ui.core.config import Config, format_config, parse_config
from lwq_ui.core.errors import Stopped, UserError
from lwq_ui.core.run import Run
from lwq_ui.core.settings import ROOT, Settings
from lwq_ui.core.store import Store
from lwq_ui.engine import jobs, records
from lwq_ui.engine.banks.bank import Bank
from lwq_ui.engine.banks.composing import compose
from lwq_ui.engine.configs import read_config
from lwq_ui.engine.exports.quanto_checkpoint import QuantoCheckpoint
from lwq_ui.engine.models import description, loading
from lwq_ui.engine.models.loading import LoadedModel
from lwq_ui.engine.quantizers import quantizer_named
from lwq_ui.engine.tasks import tasks
from lwq_ui.engine.tasks.lm_eval_tasks import Harness
from lwq_ui.engine.texts import Text, shipped_calibration

HQQ, LONG = map(quantizer_named, ("quanto-hqq", "quanto:group=128"))
SPLITS = [(4, 2, 4, 2), (16,) * 4, (8, 4, 2, 16)]
PROMPT = "The old house stood at the end of the lane, and"


@pytest.fixture
def loaded(folder_of: Callable[..., Path]) -> LoadedModel:
    """Without banks of other tests."""
    return tiny.load(folder_of("llama"))


@pytest.fixture(scope="module")
def text() -> Text:
    whole = shipped_calibration(Settings(cache=Path("unused")))
    return Text("a few", whole.documents[:5])


def score(loaded: LoadedModel, text: Text, run: Run, **options: Any) -> Any:
    return jobs.score(loaded, ["lim", "zd"], text, run, **options)


def measurement(**options: Any) -> jobs.Measurement:
    tasks = ["perplexity", "endings"]
    usual = {"splits": SPLITS, "quantizer": tiny.QUANTO, "tasks": tasks, "limit": 3}
    return jobs.Measurement(**{**usual, **options})


def evaluate(loaded: LoadedModel, run: Run, **options: Any) -> Any:
    callbacks = {name: options.pop(name) for name in ("partial", "early") if name in options}
    return jobs.evaluate(loaded, measurement(**options), run, **callbacks)


def elsewhere(run: Run, name: str) -> Run:
    """The same with an empty store."""
    return replace(run, store=Store(run.store.root.with_name(name)))


class StopAt:
    """Progress that sets the stop event at its n-th call."""

    def __init__(self, at: int):
        self.at = at
        self.stop = Event()
        self.calls: list[str] = []

    def __call__(self, what: str, done: float | None) -> None:
        self.calls.append(what)
        if len(self.calls) == self.at + 1:
            self.stop.set()


def numbers(evaluated: Any) -> list[Any]:
    """Everything but how long it took."""
    return [{**e.to_json(), "seconds": None} for e in evaluated.evaluations]


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


def write(loaded: LoadedModel, run: Run, split: Any, seed: int) -> list[Any]:
    return list(jobs.generate(loaded, split, tiny.QUANTO, PROMPT, seed, 12, run))


def test_writing_repeats_itself(loaded: LoadedModel, run: Run) -> None:
    split = (2, 2, 2, 2)
    first = write(loaded, run, split, 1)
    assert write(loaded, run, split, 1)[-1] == first[-1]
    assert write(loaded, run, split, 2)[-1] != first[-1]
    ours, theirs = first[-1]
    assert ours and theirs and ours != theirs
    for earlier, later in itertools.pairwise(first):
        assert all(len(b) >= len(a) for a, b in zip(earlier, later, strict=True))
    assert len(first) == 24  # one for each token of each model


def test_the_unquantized_split_writes_the_same(loaded: LoadedModel, run: Run) -> None:
    for seed in (0, 3):
        a, b = write(loaded, run, (16,) * 4, seed)[-1]
        assert a == b and len(a) > 10


def test_writing_stops(loaded: LoadedModel, run: Run) -> None:
    stop = Event()
    seen = 0
    with pytest.raises(Stopped):
        for _ in jobs.generate(
            loaded, SPLITS[0], tiny.QUANTO, PROMPT, 0, 110, replace(run, stop=stop)
        ):
            seen += 1
            if seen == 4:
                stop.set()
    assert seen < 40
    assert write(loaded, run, SPLITS[0], 0)


@pytest.mark.parametrize("prompt", ["", "word " * 400])
def test_any_prompt_can_be_written_on(prompt: str, loaded: LoadedModel, run: Run) -> None:
    texts = list(jobs.generate(loaded, SPLITS[0], tiny.QUANTO, prompt, 0, 5, run))
    assert len(texts) == 10


def config_of(loaded: LoadedModel, split: Any) -> Config:
    """A config with these levels: all layers but those at 4 bits are pinned."""
    pins = {i: level for i, level in enumerate(split) if level != 4}
    choice = Choice(loaded.info, tiny.QUANTO, (4, 2), "first", pins=pins)
    return choice.with_budget(choice.cost.total(tuple(split))).config()


# optimum-quanto unpacks with a kernel that it compiles for half a minute at first use; the same in
# plain torch comes from our file, run as text.
BEFORE = """
import json, sys
exec(open(sys.argv[1]).read())
"""
AFTER = """
import torch
with torch.no_grad():
    torch.save(model(torch.tensor([json.loads(sys.argv[3])])).logits[0], sys.argv[4])
assert not any(name.startswith("lwq_ui") for name in sys.modules)
"""


def readmes_lines() -> str:
    """The README's way to load a quantized model, for the folder in sys.argv[2]."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (block,) = (b for b in re.findall(r"```python\n(.*?)```", readme, re.S) if "requantize" in b)
    lines, places = re.subn(r'Path\(".*?"\)', "Path(sys.argv[2])", block)
    assert places == 1 and "lwq_ui" not in lines
    return lines


@pytest.mark.parametrize(
    ("name", "dtype", "tied"),
    [("llama", "float32", True), ("qwen3", "bfloat16", False)],
)
def test_what_is_written_loads_without_this_program(
    name: str,
    dtype: str,
    tied: bool,
    folder_of: Callable[..., Path],
    run: Run,
    tmp_path: Path,
) -> None:
    loaded = tiny.load(folder_of(name, dtype, tie_word_embeddings=tied))
    split = (2, 8, 4, 16)
    config = config_of(loaded, split)
    assert config.bits_per_layer == split
    out = tmp_path / "quantized"
    assert jobs.quantize(loaded, config, out, run) == out
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith("quantized")] == ["quantized"]
    assert parse_config((out / "lwq.json").read_text()) == config
    tokens = tiny.documents(20)[0]
    result = tmp_path / "logits.pt"
    kernels = ROOT / "lwq_ui" / "engine" / "quantizers" / "quanto_kernels.py"
    script = BEFORE + readmes_lines() + AFTER
    arguments = [str(kernels), str(out), json.dumps(tokens), str(result)]
    read = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": "", "CXX": "no-compiler"},
        capture_output=True,
        text=True,
    )
    assert read.returncode == 0, read.stderr
    bank = jobs.bank_of(loaded, tiny.QUANTO, run.store)
    expected = tiny.logits(compose(bank, split, run), tokens)
    assert torch.equal(torch.load(result), expected)
    # What lies in the folder is as large as the config says, but for headers and the scales of
    # activations, which optimum-quanto always stores.
    written = sum(p.stat().st_size for p in out.glob("*.safetensors"))
    assert 0 < written - config.bytes["total"] < 20_000


def test_an_existing_folder_is_not_written_to(
    loaded: LoadedModel, run: Run, tmp_path: Path
) -> None:
    config = config_of(loaded, SPLITS[0])
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine").write_text("mine")
    file = tmp_path / "file"
    file.write_text("mine")
    for out in (full, file):
        with pytest.raises(UserError, match="exists and is not an empty folder"):
            jobs.quantize(loaded, config, out, run)
    assert (full / "mine").read_text() == file.read_text() == "mine"
    empty = tmp_path / "empty"
    empty.mkdir()
    jobs.quantize(loaded, config, empty, run)
    assert (empty / "lwq.json").exists()


def test_a_folder_of_the_users_beside_the_new_one_stays(
    loaded: LoadedModel, run: Run, tmp_path: Path
) -> None:
    mine = tmp_path / "out.part" / "precious.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    jobs.quantize(loaded, config_of(loaded, SPLITS[0]), tmp_path / "out", run)
    assert mine.read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cache", "out", "out.part"]


def test_the_folder_one_is_in(
    loaded: LoadedModel, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    jobs.quantize(loaded, config_of(loaded, SPLITS[0]), Path("."), run)
    assert Path("model.safetensors").exists() and Path("config.json").exists()
    assert not list(Path(".").glob(".*"))


def test_a_place_that_cannot_be_written_is_refused_before_the_work(
    loaded: LoadedModel, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    (tmp_path / "link").symlink_to("full")
    monkeypatch.setattr(Bank, "fill", lambda *_: pytest.fail("worked for nothing"))
    for name in ("file", "file/out", "full", "link", "missing/out"):
        with pytest.raises(UserError):
            jobs.quantize(loaded, config_of(loaded, SPLITS[0]), tmp_path / name, run)
    monkeypatch.setattr(
        jobs.writing,
        "check_folder",
        lambda out, needed: (_ for _ in ()).throw(UserError(f"{needed}")),
    )
    config = config_of(loaded, SPLITS[0])
    with pytest.raises(UserError, match=f"^{config.bytes['total']}$"):
        jobs.quantize(loaded, config, tmp_path / "out", run)


@pytest.mark.parametrize("name", ["spqr", "quanto:group=64"])
def test_what_no_program_reads_is_refused_before_the_work(
    name: str,
    loaded: LoadedModel,
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Bank, "fill", lambda *_: pytest.fail("worked for nothing"))
    quantizer = quantizer_named(name)
    config = Choice(loaded.info, quantizer, quantizer.pairs[0], "first", budget=10**9).config()
    with pytest.raises(UserError, match="as JSON instead"):
        jobs.quantize(loaded, config, tmp_path / "out", run)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("Error while serializing: No space left on device (os error 28)"),
    ],
)
def test_a_disk_that_fills_up_while_writing(
    error: Exception,
    loaded: LoadedModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run: Run,
) -> None:
    """safetensors has an error of its own, which is no OSError."""
    monkeypatch.setattr(QuantoCheckpoint, "write", lambda *_: (_ for _ in ()).throw(error))
    with pytest.raises(UserError, match=r"out' cannot be written: .*No space left on device"):
        jobs.quantize(loaded, config_of(loaded, SPLITS[0]), tmp_path / "out", run)
    assert [p.name for p in tmp_path.iterdir()] == ["cache"]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"num_layers": 2, "bits_per_layer": (4, 2)}, "'num_layers' is 2; the model has 4 layers"),
        ({"dtype": "bfloat16"}, "'dtype' and 'bytes' do not fit together"),
        ({"bytes": {"layers": 1, "rest": 2, "total": 3}}, "'dtype' and 'bytes' do not fit"),
        ({"fingerprint": "0" * 64}, "made for other weights"),
    ],
)
def test_a_config_that_contradicts_the_model(
    changes: dict[str, Any], why: str, loaded: LoadedModel, run: Run, tmp_path: Path
) -> None:
    config = replace(config_of(loaded, SPLITS[0]), **changes)
    with pytest.raises(UserError, match=why):
        jobs.quantize(loaded, config, tmp_path / "out", run)
    assert not (tmp_path / "out").exists()


def test_a_config_of_another_size_beside_the_layers(
    loaded: LoadedModel, run: Run, tmp_path: Path
) -> None:
    """Its bytes are what `quantize` reports and what lwq.json in the folder says."""
    config = config_of(loaded, SPLITS[0])
    rest = config.bytes["rest"] - 1
    sizes = {**config.bytes, "rest": rest, "total": config.bytes["layers"] + rest}
    with pytest.raises(UserError, match=f"beside its layers .* {rest + 1:,} bytes, not {rest:,}"):
        jobs.quantize(loaded, replace(config, bytes=sizes), tmp_path / "out", run)
    assert not (tmp_path / "out").exists()


def load_for(config: Config, model_id: str | None, settings: Settings) -> LoadedModel:
    return jobs.load_for(config, model_id, "cpu", tiny.run(settings=settings))


def test_a_config_whose_model_lies_elsewhere(
    folder_of: Callable[..., Path], settings: Settings, tmp_path: Path, monkeypatch: Any
) -> None:
    there = tmp_path / "moved"
    shutil.copytree(folder_of("llama"), there)
    config = replace(
        config_of(tiny.load(folder_of("llama")), SPLITS[0]), model_id=str(tmp_path / "gone")
    )
    with pytest.raises(UserError, match=r"no folder '.*gone'.* The config names '.*--model"):
        load_for(config, None, settings)
    loaded = load_for(config, str(there), settings)
    assert (loaded.info.fingerprint, loaded.info.model_id) == (config.fingerprint, str(there))
    with pytest.raises(UserError) as error:  # what was asked for is not there either
        load_for(config, str(tmp_path / "nowhere"), settings)
    assert "--model" not in str(error.value) and "nowhere" in str(error.value)
    monkeypatch.setattr(jobs.loading, "load_source", lambda *_: pytest.fail("loaded for nothing"))
    with pytest.raises(UserError, match="made for other weights"):
        load_for(config, str(folder_of("qwen3")), settings)


def written(tmp_path: Path, config: Config, **quantizer: Any) -> Path:
    data = json.loads(format_config(config))
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**data, "quantizer": {**data["quantizer"], **quantizer}}))
    return path


def test_a_quantizer_that_contradicts_its_name(loaded: LoadedModel, tmp_path: Path) -> None:
    config = config_of(loaded, SPLITS[0])
    assert read_config(written(tmp_path, config)) == config
    assert read_config(written(tmp_path, config, name="quanto:group=128")) == config
    for wrong in (
        {"group_size": -5},
        {"group_size": 128.0},
        {"options": {"x": 1e9}},
        {"options": {**config.quantizer["options"], "version": 7}},
        {"name": "quanto:group=64"},
        {"name": "quanto:group=\u00b2"},
        {"name": "quanto:group=64,group=128"},
        {"name": "nosuch"},
    ):
        with pytest.raises(UserError, match="Config field 'quantizer' is wrong"):
            read_config(written(tmp_path, config, **wrong))


def test_the_options_of_a_quantizer_that_is_not_installed_here(
    loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another version's may be right; what it needs is said where it is used."""
    choice = Choice(loaded.info, quantizer_named("gptq"), (4, 2), "first")
    config = choice.with_budget(choice.cost.total((4,) * 4)).config()
    path = written(tmp_path, config, options={**config.quantizer["options"], "gptqmodel": "1.0"})
    monkeypatch.setattr(type(quantizer_named("gptq")), "missing", lambda self: "")
    with pytest.raises(UserError, match="'quantizer' is wrong"):
        read_config(path)
    monkeypatch.setattr(type(quantizer_named("gptq")), "missing", lambda self: "Not installed.")
    assert read_config(path).quantizer["options"]["gptqmodel"] == "1.0"


def test_a_folder_that_cannot_be_written(loaded: LoadedModel, run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        jobs.quantize(
            loaded,
            config_of(loaded, SPLITS[0]),
            tmp_path / "file" / "out",
            run,
        )


@pytest.mark.parametrize("name", ["gpt2", "mixtral"])
def test_what_quanto_cannot_store_is_refused(
    name: str, folder_of: Callable[..., Path], run: Run, tmp_path: Path
) -> None:
    loaded = tiny.load(folder_of(name))
    with pytest.raises(UserError, match=r"optimum-quanto cannot store .* Export the config"):
        jobs.quantize(loaded, config_of(loaded, SPLITS[0]), tmp_path / "out", run)
    assert not list(tmp_path.glob("out*"))


def test_a_config_of_other_weights_is_refused(
    loaded: LoadedModel, folder_of: Callable[..., Path], run: Run, tmp_path: Path
) -> None:
    config = config_of(tiny.load(folder_of("qwen3")), SPLITS[0])
    with pytest.raises(UserError, match="made for other weights"):
        jobs.quantize(loaded, config, tmp_path / "out", run)


def test_a_stop_leaves_no_folder_behind(
    folder_of: Callable[..., Path], run: Run, tmp_path: Path
) -> None:
    loaded = tiny.load(folder_of("llama"))
    config = config_of(loaded, SPLITS[0])
    steps = StopAt(-1)
    jobs.quantize(loaded, config, tmp_path / "done", replace(run, progress=steps))
    for at in range(len(steps.calls)):
        loaded.banks.clear()
        stopping = StopAt(at)
        out = tmp_path / f"out-{at}"
        empty = elsewhere(run, f"cache-{at}")
        with pytest.raises(Stopped):
            jobs.quantize(
                loaded, config, out, replace(empty, progress=stopping, stop=stopping.stop)
            )
        assert not list(tmp_path.glob(f"out-{at}*"))


def test_a_failure_while_writing_leaves_no_folder_behind(
    loaded: LoadedModel, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(loaded.tokenizer), "save_pretrained", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        jobs.quantize(loaded, config_of(loaded, SPLITS[0]), tmp_path / "out", run)
    assert not list(tmp_path.glob("out*"))


def test_the_model_is_described_without_its_weights(
    folder_of: Callable[..., Path], run: Run, monkeypatch: Any
) -> None:
    folder = str(folder_of("llama"))
    load = tiny.load(Path(folder)).info
    monkeypatch.setattr(
        loading.AutoModelForCausalLM, "from_pretrained", lambda *a, **k: pytest.fail("read")
    )
    for _ in range(2):
        found = jobs.describe(folder, "auto", run)
        assert found == load
    monkeypatch.setattr(description, "describe", lambda *args: pytest.fail("described again"))
    assert jobs.describe(folder, "auto", run) == load
