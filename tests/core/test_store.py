"""The disk cache: keys, damage, crashes, and two processes at once."""

from __future__ import annotations

import errno
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lwq_ui.core import store as store_module
from lwq_ui.core.settings import ROOT, Settings
from lwq_ui.core.store import Key, Store, canonical, dumps, keep, tidy, versions, write_atomically
from lwq_ui.core.typed import typed

FINGERPRINT = "0123456789abcdef" * 4
PARTS = {"scorer": "lim", "data": {"sha256": "abc", "max_tokens": 512}, "torch": "2.13.0"}
KEY = Key("scores", FINGERPRINT, PARTS)
VALUE = {"values": [0.1234567, -2.5, 1e-17], "calibration": "Käse\u2028 “x”", "seconds": 1.5}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


def python(code: str, *arguments: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)


def files(root: Path) -> list[str]:
    return sorted(p.name for p in root.rglob("*") if p.is_file())


# Keys


def test_a_key_changes_with_each_part() -> None:
    keys = [
        KEY,
        Key("evaluations", FINGERPRINT, PARTS),
        Key("scores", FINGERPRINT[:-1] + "0", PARTS),  # differs after what the folder's name holds
        *(
            Key("scores", FINGERPRINT, changed)
            for changed in (
                {**PARTS, "scorer": "zd"},
                {**PARTS, "data": {"sha256": "abd", "max_tokens": 512}},
                {**PARTS, "data": {"sha256": "abc", "max_tokens": 513}},
                {**PARTS, "data": {"sha256": "abc", "max_tokens": "512"}},
                {**PARTS, "torch": "2.13.1"},
                {**PARTS, "seed": None},
                {"scorer": "lim"},
                {},
            )
        ),
    ]
    assert len({k.digest for k in keys}) == len({k.path for k in keys}) == len(keys)


def test_a_key_does_not_depend_on_order_or_on_how_json_writes_it() -> None:
    backwards = dict(reversed(PARTS.items()))
    assert Key("scores", FINGERPRINT, backwards).digest == KEY.digest
    a = Key("scores", FINGERPRINT, {"bits": (4, 2), "pins": {2: 8, 10: 4}})
    b = Key("scores", FINGERPRINT, {"bits": [4, 2], "pins": {"10": 4, "2": 8}})
    assert a.digest == b.digest


def test_a_key_is_the_same_in_every_process_and_release() -> None:
    """Shipped entries are found by it."""
    assert KEY.path == Path("scores/0123456789abcdef/d80c1f9fa5421dcdb9cd69a3751cc45b.json")


def test_versions_leave_out_the_build(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"torch": "2.13.0+cpu", "gradio": "6.31.0"}
    monkeypatch.setattr("importlib.metadata.version", lambda name: installed[name])
    assert versions("torch", "gradio") == {"torch": "2.13.0", "gradio": "6.31.0"}


# Reading and writing


def test_what_is_written_is_read(store: Store) -> None:
    assert store.read(KEY) is None
    path = store.write(KEY, VALUE)
    assert path == store.root / KEY.path
    assert store.read(KEY) == VALUE
    assert store.read(Key("scores", FINGERPRINT, {**PARTS, "scorer": "zd"})) is None
    store.write(KEY, {"values": []})
    assert store.read(KEY) == {"values": []}
    assert files(store.root) == [KEY.path.name]


@pytest.mark.parametrize(
    "value",
    [
        [],
        {},
        "text",
        0,
        False,
        [[1, 2], [], {}],
        {"a": {"b": []}},
        {2: "two", 10: "ten", 1: "one"},  # sorted as numbers here, as text when read again
        (1, (2, 3)),
    ],
)
def test_any_json_value(store: Store, value: Any, caplog: pytest.LogCaptureFixture) -> None:
    store.write(KEY, value)
    assert store.read(KEY) == json.loads(json.dumps(value))
    assert [v for _, v in store.find("scores", FINGERPRINT)] == [json.loads(json.dumps(value))]
    assert not caplog.records


def test_entries_are_readable_json(store: Store) -> None:
    text = store.write(KEY, VALUE).read_text(encoding="utf-8")
    entry = json.loads(text)
    assert entry["kind"] == "scores"
    assert entry["fingerprint"] == FINGERPRINT
    assert entry["key"] == PARTS
    assert entry["value"] == VALUE
    assert '    "values": [0.1234567, -2.5, 1e-17],\n' in text
    assert "Käse" in text


@pytest.mark.parametrize("seed", range(30))
def test_dumps_is_json(seed: int) -> None:
    draw = random.Random(seed)

    def value(depth: int) -> Any:
        kind = draw.randrange(6 if depth else 4)
        if kind == 4:
            return [value(depth - 1) for _ in range(draw.randrange(4))]
        if kind == 5:
            return {f"k\n{i}ä": value(depth - 1) for i in range(draw.randrange(4))}
        return (draw.random(), draw.randint(-9, 9), None, 'x"\\\u2028\n')[kind]

    for _ in range(20):
        v = value(4)
        assert json.loads(dumps(v)) == v
        assert canonical(json.loads(dumps(v))) == canonical(v)


def test_find_is_oldest_first_and_of_one_model(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = FINGERPRINT[:16] + "f" * 48  # shares the folder
    written = [5, 1, 9, 3, 7]
    for second in written:
        monkeypatch.setattr("time.strftime", lambda *_, s=second: f"2026-01-01T00:00:0{s}Z")
        store.write(Key("evaluations", FINGERPRINT, {"n": second}), second * 10)
    store.write(Key("evaluations", other, {"n": 0}), "another model")
    store.write(Key("scores", FINGERPRINT, {"n": 0}), "another kind")
    found = list(store.find("evaluations", FINGERPRINT))
    assert found == [({"n": s}, s * 10) for s in sorted(written)]
    assert list(store.find("evaluations", other)) == [({"n": 0}, "another model")]
    assert list(store.find("banks", FINGERPRINT)) == []


# The shipped cache


def test_the_shipped_cache_is_read_and_never_written(tmp_path: Path) -> None:
    shipped = Store(tmp_path / "shipped")
    shipped.write(KEY, "shipped")
    before = (tmp_path / "shipped" / KEY.path).read_bytes()
    store = Store(tmp_path / "cache", tmp_path / "shipped")
    assert store.read(KEY) == "shipped"
    assert [v for _, v in store.find("scores", FINGERPRINT)] == ["shipped"]
    assert not store.root.exists()
    store.write(KEY, "own")
    assert store.read(KEY) == "own"
    assert [v for _, v in store.find("scores", FINGERPRINT)] == ["own"]
    other = Key("scores", FINGERPRINT, {"scorer": "zd"})
    store.write(other, "zd")
    assert (tmp_path / "shipped" / KEY.path).read_bytes() == before
    assert files(tmp_path / "shipped") == [KEY.path.name]


def test_a_damaged_entry_falls_back_to_the_shipped_one(tmp_path: Path) -> None:
    Store(tmp_path / "shipped").write(KEY, "shipped")
    store = Store(tmp_path / "cache", tmp_path / "shipped")
    store.write(KEY, "own").write_text("{")
    assert store.read(KEY) == "shipped"


def test_a_damaged_entry_that_cannot_be_moved_is_passed_over(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = store.write(KEY, VALUE)
    path.write_text("{")

    def refuse(self: Path, target: Path) -> Path:
        raise PermissionError("read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", refuse)
        assert store.read(KEY) is None
        assert list(store.find("scores", FINGERPRINT)) == []
    assert path.read_text() == "{"
    assert "read-only file system" in caplog.text


@pytest.mark.parametrize("variable", [None, "", "absolute", "~/lwq"])
def test_the_environment_moves_the_cache(
    variable: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    expected = ROOT / "cache"
    if variable is None:
        monkeypatch.delenv("LWQ_CACHE_DIR", raising=False)
    elif variable == "absolute":
        expected = tmp_path / "elsewhere"
        monkeypatch.setenv("LWQ_CACHE_DIR", str(expected))
    else:
        monkeypatch.setenv("LWQ_CACHE_DIR", variable)
        expected = tmp_path / "lwq" if variable else expected
    settings = Settings.from_environment()
    assert settings.cache == expected
    assert settings.shipped == ROOT / "assets" / "cache"
    if variable == "absolute":
        store = Store(settings.cache, settings.shipped)
        assert store.write(KEY, VALUE).is_relative_to(tmp_path / "elsewhere")
        assert store.read(KEY) == VALUE


# Damage


def edit(**changes: Any) -> Callable[[bytes], bytes]:
    return lambda content: json.dumps({**json.loads(content), **changes}).encode()


def without(field: str) -> Callable[[bytes], bytes]:
    return lambda content: json.dumps(
        {k: v for k, v in json.loads(content).items() if k != field}
    ).encode()


def replaced(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    def damage(content: bytes) -> bytes:
        assert content.count(old) == 1
        return content.replace(old, new)

    return damage


DAMAGE: Mapping[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "truncated": lambda content: content[: len(content) // 2],
    "last byte but one missing": lambda content: content[:-2],
    "zeros": lambda content: bytes(len(content)),
    "flipped digit in the value": replaced(b"0.1234567", b"0.1234667"),
    "flipped digit in the key": replaced(b'"max_tokens": 512', b'"max_tokens": 513'),
    "flipped digit in the fingerprint": replaced(FINGERPRINT.encode(), b"1" + b"0" * 63),
    "not UTF-8": replaced("ä".encode(), b"\xe4"),
    "a list": lambda content: b"[]",
    "nested too deeply": lambda content: b"[" * 200_000,
    "a value nested too deeply": replaced(b"[0.1234567,", b"[" * 200_000 + b"0.1234567,"),
    "an endless number": replaced(b"0.1234567", b"1" * 10_000),
    "half a character in the value": replaced("Käse".encode(), b"\\ud800"),
    "half a character in the key": edit(key={"scorer": "\ud800"}),
    "text": lambda content: b'"entry"',
    "a number": lambda content: b"3",
    "null": lambda content: b"null",
    "an empty object": lambda content: b"{}",
    "another value": edit(value=[1, 2]),
    "another kind": edit(kind="evaluations"),
    "a fingerprint of another type": edit(fingerprint=3),
    "a key of another type": edit(key=["scorer"]),
    "a checksum of another type": edit(sha256=None),
    "a date of another type": edit(created=5),
    **{f"no {f}": without(f) for f in ("value", "key", "fingerprint", "created", "sha256")},
}


@pytest.mark.parametrize("how", ["read", "find"])
@pytest.mark.parametrize("damage", list(DAMAGE))
def test_a_damaged_file_is_reported_set_aside_and_recomputed(
    store: Store, damage: str, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = store.write(KEY, VALUE)
    other = Key("scores", FINGERPRINT, {"scorer": "zd"})
    store.write(other, "sound")
    damaged = DAMAGE[damage](path.read_bytes())
    path.write_bytes(damaged)
    with caplog.at_level(logging.WARNING):
        if how == "read":
            assert store.read(KEY) is None
        else:
            assert list(store.find("scores", FINGERPRINT)) == [({"scorer": "zd"}, "sound")]
    (record,) = caplog.records
    assert str(path) in record.getMessage()
    assert "damaged" in record.getMessage()
    assert not path.exists()
    assert path.with_suffix(".damaged").read_bytes() == damaged
    store.write(KEY, VALUE)
    assert store.read(KEY) == VALUE
    assert len(list(store.find("scores", FINGERPRINT))) == 2
    assert len(caplog.records) == 1


def test_a_file_under_another_entrys_name_is_not_believed(store: Store) -> None:
    other = Key("scores", FINGERPRINT, {"scorer": "zd"})
    path = store.write(KEY, VALUE)
    path.rename(store.root / other.path)
    assert store.read(other) is None
    assert store.read(KEY) is None


# Values of another version

FIELDS = {"name": "n", "values": [1, 2.5], "level": None}


@dataclass(frozen=True)
class Made:
    name: str
    values: tuple[float, ...]
    level: float | None = None


def read_made(value: Any) -> Made:
    return typed(Made, value)


@pytest.mark.parametrize(
    "value",
    [
        {**FIELDS, "more": 1},
        {name: FIELDS[name] for name in ("name", "values")},
        {**FIELDS, "name": 5},
        {**FIELDS, "name": None},
        {**FIELDS, "values": None},
        {**FIELDS, "values": {"0": 1}},
        {**FIELDS, "values": [1, "2"]},
        {**FIELDS, "values": [True]},
        {**FIELDS, "values": [10**400]},
        {**FIELDS, "level": [4]},
        [FIELDS],
        "text",
        None,
        3,
    ],
)
def test_a_value_of_another_version_counts_as_absent(
    store: Store, value: Any, caplog: pytest.LogCaptureFixture
) -> None:
    path = store.write(KEY, value)
    assert store.read(KEY, read_made) is None
    assert list(store.find("scores", FINGERPRINT, read_made)) == []
    assert path.exists() and not caplog.records  # it may serve the version that wrote it
    store.write(Key("scores", FINGERPRINT, {"n": 2}), FIELDS)
    assert [v for _, v in store.find("scores", FINGERPRINT, read_made)] == [Made("n", (1, 2.5))]


def test_a_value_of_another_version_falls_back_to_the_shipped_one(tmp_path: Path) -> None:
    Store(tmp_path / "shipped").write(KEY, FIELDS)
    store = Store(tmp_path / "cache", tmp_path / "shipped")
    store.write(KEY, {"name": "old"})
    assert store.read(KEY, read_made) == Made("n", (1, 2.5))


# A cache that cannot be written or read


def refuse_files(monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(store_module.tempfile, "mkstemp", refuse)


@pytest.mark.parametrize("where", ["file", "below a file", "no folder may be made", "read-only"])
def test_a_cache_that_cannot_be_written_is_reported_once(
    where: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "cache"
    if where == "no folder may be made":
        root = Path("/proc/cache")
    elif where == "read-only":
        root.mkdir(mode=0o500)
        if os.access(root, os.W_OK):
            pytest.skip("root may write anywhere")
    else:
        root.write_bytes(b"")
        root /= "below" if where == "below a file" else ""
    store = Store(root)
    for n in range(3):
        for kind in ("scores", "evaluations"):
            store.write(Key(kind, FINGERPRINT, {"n": n}), VALUE)
            assert store.read(Key(kind, FINGERPRINT, {"n": n})) is None
            assert list(store.find(kind, FINGERPRINT)) == []
            assert store.fingerprints(kind) == set()
    assert not keep(root / "journals" / "model" / "key" / "shard.npz", b"")
    (record,) = caplog.records
    assert f"The cache folder {root} cannot be written" in record.getMessage()
    assert "LWQ_CACHE_DIR" in record.getMessage()


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EACCES])
def test_what_is_stored_is_read_from_a_full_or_read_only_disk(
    error: int, store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store.write(KEY, VALUE)
    refuse_files(monkeypatch, error)
    store.write(KEY, OLD)
    assert not keep(store.root / "passes" / "model" / "pass.safetensors", b"")
    assert store.read(KEY) == VALUE
    assert len(caplog.records) == 1
    assert os.strerror(error) in caplog.text


def test_a_folder_in_an_entrys_place_is_not_damaged(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    path = store.root / KEY.path
    path.mkdir(parents=True)
    other = Key("scores", FINGERPRINT, {"n": 1})
    for _ in range(2):
        assert store.read(KEY) is None
        store.write(KEY, VALUE)
        store.write(other, VALUE)
        assert [parts for parts, _ in store.find("scores", FINGERPRINT)] == [{"n": 1}]
    assert path.is_dir()
    assert files(store.root) == [other.path.name]
    read, written = (record.getMessage() for record in caplog.records)
    assert "cannot be read" in read and "cannot be written" in written
    assert "damaged" not in caplog.text


def test_a_folder_that_is_deleted_during_a_write_is_made_again(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    replace = os.replace

    def late(*paths: Any) -> None:
        monkeypatch.setattr(os, "replace", replace)
        shutil.rmtree(store.root)
        replace(*paths)

    monkeypatch.setattr(os, "replace", late)
    store.write(KEY, VALUE)
    assert store.read(KEY) == VALUE
    assert not caplog.records


def test_what_killed_processes_left_is_removed_when_it_is_old(tmp_path: Path) -> None:
    folder = (tmp_path / KEY.path).parent
    folder.mkdir(parents=True)
    name = "0" * 32
    old = [f".{name}.json.abcd_123", f"{name}.damaged"]
    foreign = ["notes.txt", "notes.damaged", ".hidden", f"{name}.json"]
    for path in (folder / n for n in (*old, *foreign)):
        path.write_text("{}")
        os.utime(path, (1e9, 1e9))
    (folder / ("1" * 32 + ".damaged")).mkdir()
    new = [f".{name}.json.new_4567", "2" * 32 + ".damaged"]
    for path in (folder / n for n in new):
        path.write_text("{}")
    Store(tmp_path).write(KEY, VALUE)
    assert files(tmp_path) == sorted([*foreign, *new, KEY.path.name])


def test_a_damaged_file_stays_a_day_after_it_was_set_aside(store: Store) -> None:
    path = store.write(KEY, VALUE)
    path.write_text("{")
    os.utime(path, (1e9, 1e9))
    assert store.read(KEY) is None
    tidy.cache_clear()
    store.write(KEY, VALUE)
    assert path.with_suffix(".damaged").exists()


# Crashes

OLD, NEW = {"values": [1.0] * 50}, {"values": [2.0] * 5000}

KILLED = """
import os, signal, sys
from pathlib import Path
from lwq_ui.core.store import Key, Store
setattr(os, sys.argv[2], lambda *a: os.kill(os.getpid(), signal.SIGKILL))
Store(Path(sys.argv[1])).write(Key(*eval(sys.argv[3])), eval(sys.argv[4]))
"""

DISK_FULL = """
import resource, sys
from pathlib import Path
from lwq_ui.core.store import Key, Store
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
Store(Path(sys.argv[1])).write(Key(*eval(sys.argv[2])), eval(sys.argv[3]))
"""

KEY_LITERAL = repr((KEY.kind, KEY.fingerprint, dict(KEY.parts)))


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_a_process_killed_while_it_writes_leaves_the_old_entry(
    store: Store, moment: str, caplog: pytest.LogCaptureFixture
) -> None:
    store.write(KEY, OLD)
    process = python(KILLED, store.root, moment, KEY_LITERAL, repr(NEW))
    assert process.wait(60) == -signal.SIGKILL
    process.communicate()
    assert store.read(KEY) == OLD
    assert list(store.find("scores", FINGERPRINT)) == [(PARTS, OLD)]
    store.write(KEY, NEW)
    assert store.read(KEY) == NEW
    assert not caplog.records


def test_a_write_that_fails_in_the_middle_leaves_the_old_entry_and_no_rubbish(
    store: Store,
) -> None:
    store.write(KEY, OLD)
    process = python(DISK_FULL, store.root, KEY_LITERAL, repr(NEW))
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "cannot be written (File too large" in errors
    assert store.read(KEY) == OLD
    assert files(store.root) == [KEY.path.name]


@pytest.mark.parametrize("error", [OSError("no space left"), KeyboardInterrupt()])
def test_an_interrupted_write_leaves_no_rubbish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    path = tmp_path / "folder" / "file"
    write_atomically(path, b"old")

    def fail(*_: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(store_module.os, "replace", fail)
        with pytest.raises(type(error)):
            write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert files(tmp_path) == ["file"]


def test_a_value_that_is_no_json_is_refused_before_anything_is_written(store: Store) -> None:
    store.write(KEY, OLD)
    with pytest.raises(TypeError):
        store.write(KEY, {"values": {1, 2}})
    assert store.read(KEY) == OLD
    assert files(store.root) == [KEY.path.name]


# Two processes at once

ROUNDS = 300

WRITER = f"""
import sys, time
from pathlib import Path
from lwq_ui.core.store import Key, Store
root, me, fingerprint = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
store = Store(root)
(root / f"ready-{{me}}").touch()
while not (root / "go").exists():
    time.sleep(0.001)
for n in range({ROUNDS}):
    # Values of different lengths: a file written over another would show the end of the old one.
    store.write(Key("same", fingerprint, {{"key": "shared"}}), [n] * (n * 37 % 1000 + 1))
    store.write(Key("different", fingerprint, {{"writer": me, "n": n}}), [me, n])
"""


def test_two_processes_write_and_a_third_never_sees_a_damaged_file(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    store.root.mkdir()
    shared = Key("same", FINGERPRINT, {"key": "shared"})
    writers = [python(WRITER, store.root, name, FINGERPRINT) for name in "ab"]
    try:
        while not all((store.root / f"ready-{name}").exists() for name in "ab"):
            assert all(w.poll() is None for w in writers), [w.communicate() for w in writers]
        (store.root / "go").touch()
        reads, seen = 0, False
        while any(w.poll() is None for w in writers):
            value = store.read(shared)
            if value is None:
                assert not seen, "an entry that was there is gone"
                continue
            seen = True
            reads += 1
            assert len(value) == value[0] * 37 % 1000 + 1
            assert set(value) == {value[0]}
            if reads % 50 == 0:
                for parts, (name, n) in store.find("different", FINGERPRINT):
                    assert parts == {"writer": name, "n": n}
        assert [w.wait() for w in writers] == [0, 0], [w.communicate() for w in writers]
    finally:
        for writer in writers:
            writer.kill()
            writer.communicate()
    assert reads > 0
    assert not caplog.records
    last = store.read(shared)
    assert last is not None
    assert last[0] == ROUNDS - 1
    found = {(p["writer"], p["n"]): v for p, v in store.find("different", FINGERPRINT)}
    assert found == {(name, n): [name, n] for name in "ab" for n in range(ROUNDS)}
    assert len(files(store.root)) == 2 * ROUNDS + 1 + 3  # "go" and two "ready": no rubbish


def test_the_models_that_have_entries(tmp_path: Path) -> None:
    store, shipped = Store(tmp_path / "own", tmp_path / "shipped"), Store(tmp_path / "shipped")
    assert store.fingerprints("evaluations") == set()
    for where, fingerprint in ((store, "a" * 64), (shipped, "b" * 64), (shipped, "a" * 64)):
        where.write(Key("evaluations", fingerprint, {"n": 1}), 1)
    damaged = store.write(Key("evaluations", "c" * 64, {"n": 1}), 1)
    damaged.write_text("{", encoding="utf-8")
    store.write(Key("info", "d" * 64, {}), 1)
    assert store.fingerprints("evaluations") == {"a" * 64, "b" * 64}
