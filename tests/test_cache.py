"""A cache that cannot be written, or holds what another version wrote, as users meet it."""

from __future__ import annotations

import dataclasses
import errno
import gc
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lwq_ui import cli
from lwq_ui.core.run import Run
from lwq_ui.core.schema import Evaluation, Metric, ModelInfo, Scores
from lwq_ui.core.settings import ROOT, Settings
from lwq_ui.core.store import Key, Store
from lwq_ui.engine import jobs, records
from lwq_ui.engine.checkpoints.finding import find
from lwq_ui.engine.checkpoints.fingerprint import FileHashes
from lwq_ui.engine.checkpoints.headers import Entry, Headers
from lwq_ui.engine.checkpoints.hub import HubFile
from lwq_ui.engine.checkpoints.source import Source, listed
from lwq_ui.engine.quantizers import quantizer_named
from lwq_ui.engine.tasks import tasks
from lwq_ui.engine.texts import Text, shipped_calibration
from lwq_ui.ui.server import Server
from lwq_ui.ui.session import ModelChoice

REPORT = "cannot be written"
MODEL = str(ROOT / "assets" / "demo_model")


# A cache that cannot be written


def refuse_files(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """command(cache, *arguments) -> exit code, standard output, standard error."""

    def run(cache: Path, *arguments: str) -> tuple[int, str, str]:
        monkeypatch.setenv("LWQ_CACHE_DIR", str(cache))
        code = cli.main(arguments)
        return code, *capsys.readouterr()

    return run


@pytest.mark.parametrize("where", ["a file", "below a file", "full", "no possible name"])
def test_a_score_that_cannot_be_kept_is_given(
    where: str,
    command: Callable[..., tuple[int, str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cache = tmp_path / "cache"
    if where == "full":
        monkeypatch.setattr(tempfile, "mkstemp", refuse_files)
    elif where == "no possible name":  # asking whether a file is there is an OSError, too
        cache /= "x" * 300
    else:
        cache.write_bytes(b"")
        cache /= "below" if where == "below a file" else ""
    code, out, err = command(cache, "score", MODEL, "--scorer", "lim", "--max-tokens", "300")
    assert code == 0 and "LIM" in out
    (report,) = [line for line in err.splitlines() if REPORT in line]
    assert f"The cache folder {cache} {REPORT}" in report and "LWQ_CACHE_DIR" in report
    assert "damaged" not in err


def test_what_is_stored_is_answered_from_a_read_only_cache(
    command: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "config.json"
    split = ("split", MODEL, "--ordering", "zd", "--levels", "4,2", "--average-bits", "3")
    asked = (
        ("score", MODEL, "--scorer", "zd"),
        (*split, "--json", str(config)),
        ("evaluate", str(config), "--task", "endings", "--limit", "2"),
    )
    cache = tmp_path / "cache"
    warm = [command(cache, *arguments) for arguments in asked]
    assert [code for code, *_ in warm] == [0, 0, 0]
    make = tempfile.mkstemp

    def refuse(dir: Path, **options: Any) -> tuple[int, str]:
        if Path(dir).is_relative_to(cache):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return make(dir=dir, **options)

    monkeypatch.setattr(tempfile, "mkstemp", refuse)
    again = [command(cache, *arguments) for arguments in asked]
    assert [out for _, out, _ in again] == [out for _, out, _ in warm]
    assert all(REPORT not in err for *_, err in again)
    more = ("evaluate", str(config), "--task", "minimal_pairs", "--limit", "2")
    code, out, err = command(cache, *more)
    assert code == 0 and "acc" in out and err.count(REPORT) == 1


@pytest.mark.parametrize("name", ["file", "x" * 300])
def test_a_packed_layer_that_cannot_be_kept_is_one_sentence(
    name: str, command: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    config = tmp_path / "config.json"
    split = ("split", MODEL, "--ordering", "zd", "--levels", "4,2", "--average-bits", "3")
    assert command(tmp_path / "cache", *split, "--json", str(config))[0] == 0
    (tmp_path / "file").write_bytes(b"")
    cache = tmp_path / name
    code, out, err = command(cache, "evaluate", str(config), "--task", "endings", "--limit", "2")
    assert code == 1 and not out
    assert "A packed layer cannot be written to" in err.splitlines()[-1]
    assert "Traceback" not in err


def test_the_warning_reaches_standard_error_of_a_real_process_once(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.write_bytes(b"")
    run = subprocess.run(
        [sys.executable, "-m", "lwq_ui", "score", MODEL, "--scorer", "lim", "--max-tokens", "300"],
        cwd=ROOT,
        env={**os.environ, "LWQ_CACHE_DIR": str(cache)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert "LIM" in run.stdout
    assert run.stderr.count(REPORT) == 1


# What another version wrote


@pytest.fixture(scope="module")
def info() -> ModelInfo:
    settings = Settings(cache=Path("unused"))
    shipped = Store(settings.shipped)
    source = find("demo", Run(settings, shipped))
    known = records.known_info(source, "auto", shipped)
    assert known is not None
    return known


def changed(value: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """A value whose fields were added, removed or have other types."""
    first, *_ = value
    return {
        "added": {**value, "colour": 1},
        "removed": {k: v for k, v in value.items() if k != first},
        "renamed": {"name" if k == first else k: v for k, v in value.items()},
        "null": dict.fromkeys(value),
        "text": {k: str(v) for k, v in value.items()},
        "lists": {k: [v] for k, v in value.items()},
    }


KINDS = ("added", "removed", "renamed", "null", "text", "lists")


@pytest.mark.parametrize("how", KINDS)
def test_stored_values_of_another_version_count_as_absent(
    how: str, info: ModelInfo, tmp_path: Path
) -> None:
    settings = Settings(cache=tmp_path)
    store = Store(tmp_path)
    known = tasks(settings)
    task, text, quantizer = known["endings"], Text("t", ("a",)), quantizer_named("quanto")
    split = (4.0,) * info.num_layers
    metrics = {"acc": Metric(0.5, 0.1, 2)}
    evaluation = Evaluation("endings", split, "quanto", metrics, {"acc": [0.0, 1.0]}, None, 1.0)
    scores = Scores("zd", (1.0,) * info.num_layers, None, 0, 0, 1.0)
    level = dataclasses.replace(scores, scorer="sensitivity", quantizer="quanto", level=2.0)
    other = dataclasses.replace(info, fingerprint="f" * 64)
    store.write(records.info_key(other.fingerprint, "auto"), changed(other.to_json())[how])
    keys = [
        (records.evaluation_key(info, task, split, quantizer, None), evaluation),
        (records.evaluation_key(other, task, split, quantizer, None), evaluation),
        (records.scores_key(info, "zd", text, None), scores),
        (records.scores_key(info, "sensitivity", text, None, quantizer, 2.0), level),
    ]
    for key, value in keys:
        store.write(key, changed(value.to_json())[how])
    page = Server(settings)
    page.store = store
    assert page.other_models(info) == []
    assert page.known_level_scores(info, text) == {}
    assert records.known_evaluations(info, known, store) == []
    assert records.known_scores(info, text, store) == {}
    for key, value in keys:
        store.write(key, value.to_json())
    store.write(records.info_key(other.fingerprint, "auto"), other.to_json())
    assert page.other_models(info) == [other]
    assert page.known_level_scores(info, text) == {(quantizer, 2.0): {"sensitivity": level}}
    assert records.known_evaluations(info, known, store) == [evaluation]
    assert records.known_scores(info, text, store) == {"zd": scores}


def test_an_info_of_another_format_is_no_other_model(info: ModelInfo, tmp_path: Path) -> None:
    """Even where its fields are those of today."""
    page = Server(Settings(cache=tmp_path))
    page.store = Store(tmp_path)
    other = "f" * 64
    key = records.info_key(other, "auto")
    page.store.write(Key("evaluations", other, {}), {})
    older = {**key.parts, "format": records.INFO_FORMAT - 1}
    page.store.write(Key("info", other, older), info.to_json())
    page.store.write(Key("info", other, {"dtype": "auto"}), info.to_json())
    assert page.other_models(info) == []


def test_keys_of_another_version_are_passed_over(info: ModelInfo, tmp_path: Path) -> None:
    store = Store(tmp_path)
    for kind in ("evaluations", "scores", "info"):
        for parts in ({}, {"task": ["endings"]}, {"versions": None, "dtype": 3}):
            store.write(Key(kind, info.fingerprint, parts), {})
    page = Server(Settings(cache=tmp_path))
    page.store = store
    assert records.known_evaluations(info, page.tasks, store) == []
    assert page.known_level_scores(info, Text("t", ("a",))) == {}


HEADERS = Headers({"a.weight": Entry("model.safetensors", "BF16", (2, 3), 80, 92)}, {"m": 92})
FILE = ["model.safetensors", 92, "0" * 64]


@pytest.mark.parametrize(
    "value",
    [
        *changed(HEADERS.to_json()).values(),
        {**HEADERS.to_json(), "tensors": {"a.weight": ["model.safetensors", "BF16", [2, 3], 80]}},
        {**HEADERS.to_json(), "tensors": {"a.weight": ["model.safetensors", "BF16", 6, 80, 92]}},
        [],
        None,
        "text",
    ],
)
def test_headers_of_another_version_are_refused(value: Any) -> None:
    with pytest.raises(ValueError):
        Headers.from_json(value)


@pytest.mark.parametrize("value", [[FILE[:2]], [[*FILE, 1]], [["a", "92", "0"]], {"a": 1}, 3, [3]])
def test_file_lists_of_another_version_are_asked_for_again(
    value: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = (HubFile("model.safetensors", 92, "0" * 64),)
    possible = {file.name: file for file in files}
    monkeypatch.setattr("lwq_ui.engine.checkpoints.source.possible_weights", lambda *_: possible)
    source, store = Source("owner/name", tmp_path, revision="1" * 40), Store(tmp_path)
    assert listed(source, store, False) == files
    (path,) = (tmp_path / "files").rglob("*.json")
    parts = json.loads(path.read_text())["key"]
    store.write(Key("files", "1" * 40, parts), value)
    assert listed(source, store, False) == files
    assert store.read(Key("files", "1" * 40, parts)) == [list(dataclasses.astuple(files[0]))]


@pytest.mark.parametrize("value", ["", "0" * 63, ["0" * 64], None, 3, {}])
def test_a_hash_that_is_none_is_made_again(value: Any, tmp_path: Path) -> None:
    file, store = tmp_path / "file", Store(tmp_path / "cache")
    file.write_bytes(b"weights")
    right = FileHashes(large=0).get(file, store)
    (path,) = (tmp_path / "cache").rglob("*.json")
    entry = json.loads(path.read_text())
    store.write(Key(entry["kind"], entry["fingerprint"], entry["key"]), value)
    hashes = FileHashes(large=0)
    assert hashes.without_reading(file, store) is None and not hashes.is_quick(file, store)
    assert hashes.get(file, store) == right and hashes.is_quick(file, store)


# Bounds on the disk


def test_old_journals_and_passes_go_when_they_are_too_much(tmp_path: Path) -> None:
    store = Store(tmp_path)
    run = Run(Settings(cache=tmp_path), store)
    loaded = jobs.load(MODEL, "cpu", "auto", run)
    old = [
        tmp_path / "journals" / ("a" * 16) / ("b" * 32) / ("c" * 32 + ".npz"),
        tmp_path / "passes" / ("a" * 16) / ("b" * 32 + ".safetensors"),
    ]
    for path in old:
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x" * 100)
    store.journals.limit = store.passes.limit = 99
    text = Text("a few", shipped_calibration(run.settings).documents[:1])
    jobs.score(loaded, ["zd"], text, run)
    split = (16.0,) * loaded.info.num_layers
    measurement = jobs.Measurement([split], quantizer_named("quanto"), ["endings"], 1)
    (evaluation,) = jobs.evaluate(loaded, measurement, run).evaluations
    assert not any(path.exists() for path in old)
    (journal,) = (tmp_path / "journals").rglob("*.npz")
    assert journal.stat().st_size > 99  # what is in use may exceed the bound
    assert evaluation.seconds > 0


def test_the_bank_of_a_model_that_is_scored_before_it_arrives_is_in_use(tmp_path: Path) -> None:
    """Nothing that is being packed is deleted, and a load that ends early leaves nothing."""
    page = Server(Settings(cache=tmp_path))
    page.store = Store(tmp_path)
    run = Run(page.settings, page.store)
    page.shelf.come("user")
    loaded = page.shelf.load(ModelChoice(MODEL), run)
    assert page.shelf.banks() == []
    bank = jobs.bank_of(loaded, quantizer_named("quanto"), page.store)
    bank.packed(0, 4, run)
    size = page.store.banks.total()
    assert page.shelf.banks() == [bank.folder]
    assert page.store.banks.clear(page.shelf.banks()) == 0
    page.shelf.assign("user", ModelChoice(MODEL), loaded)
    assert set(page.shelf.banks()) == {bank.folder}
    page.shelf.leave("user")
    del loaded, bank
    gc.collect()
    assert page.shelf.banks() == []
    assert page.store.banks.clear(page.shelf.banks()) == size > 0
