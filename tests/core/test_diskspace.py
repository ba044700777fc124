"""What packed layers take on disk, what goes when it is too much, and how a limit is said."""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lwq_ui import cli
from lwq_ui.core import diskspace
from lwq_ui.core.diskspace import DEFAULT_LIMIT, DiskSpace, DiskUse, mark_used
from lwq_ui.core.errors import UserError
from lwq_ui.core.memory import GIB, parse_size
from lwq_ui.core.settings import Settings
from lwq_ui.core.store import Store, write_atomically

USED = {  # file -> bytes, last used
    "one/a/layer-0.safetensors": (100, 30),
    "one/a/layer-1.safetensors": (100, 10),
    "one/b/layer-0.safetensors": (50, 40),
    "two/c/layer-0.safetensors": (100, 20),
    "two/c/layer-1.safetensors": (100, 50),
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, (size, used) in USED.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)
        os.utime(path, (used, used))
    return tmp_path


def left(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.glob("*/*/*"))


def test_usage_of_each_model_the_last_used_first(root: Path) -> None:
    (root / "empty" / "d").mkdir(parents=True)
    space = DiskSpace(root)
    assert space.usage() == [DiskUse("two", 200, 50), DiskUse("one", 250, 40)]
    assert space.total() == 450
    mark_used(root / "one/a/layer-1.safetensors")
    assert [u.model for u in space.usage()] == ["one", "two"]


def test_nothing_packed_yet(tmp_path: Path) -> None:
    space = DiskSpace(tmp_path / "not there" / "banks", 0)
    assert space.usage() == [] and space.total() == 0
    space.evict(tmp_path)
    space.make_room(1, tmp_path)
    assert space.clear([]) == 0
    mark_used(space.root / "model" / "bank" / "layer")


@pytest.mark.parametrize(
    ("limit", "gone"),
    [
        (450, []),
        (449, ["one/a/layer-1.safetensors"]),
        (350, ["one/a/layer-1.safetensors"]),
        (349, ["one/a/layer-1.safetensors", "one/a/layer-0.safetensors"]),
        (
            200,
            ["one/a/layer-1.safetensors", "one/a/layer-0.safetensors", "one/b/layer-0.safetensors"],
        ),
        (
            0,
            ["one/a/layer-1.safetensors", "one/a/layer-0.safetensors", "one/b/layer-0.safetensors"],
        ),  # but never the bank in use
    ],
)
def test_the_least_recently_used_go_first(limit: int, gone: list[str], root: Path) -> None:
    DiskSpace(root, limit).evict(keep=root / "two" / "c")
    assert left(root) == sorted(USED.keys() - set(gone))


def test_what_was_just_used_stays(root: Path) -> None:
    mark_used(root / "one/a/layer-1.safetensors")
    DiskSpace(root, 350).evict(keep=root / "two" / "c")
    assert left(root) == sorted(USED.keys() - {"one/a/layer-0.safetensors"})


@pytest.mark.parametrize("error", [FileNotFoundError, PermissionError])
def test_a_file_that_cannot_be_deleted_is_skipped(
    error: type[OSError], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process was quicker; or, on Windows, it has the file mapped."""
    unlink = Path.unlink

    def refuse(path: Path) -> None:
        if path.stem == "layer-1":
            raise error
        unlink(path)

    monkeypatch.setattr(Path, "unlink", refuse)
    space = DiskSpace(root, 350)
    space.evict(keep=root / "two" / "c")
    assert left(root) == sorted(USED.keys() - {"one/a/layer-0.safetensors"})
    assert space.clear([root / "two" / "c"]) == 50


def test_a_file_that_vanishes_while_it_is_counted(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process deletes it after the folder was listed."""
    listed = diskspace.without_strays

    def vanish(folder: Path) -> list[os.DirEntry[str]]:
        entries = listed(folder)
        for path in folder.glob("layer-1.*"):
            path.unlink()
        return entries

    monkeypatch.setattr(diskspace, "without_strays", vanish)
    assert DiskSpace(root).total() == 250


def test_clearing_keeps_what_is_in_use(root: Path) -> None:
    assert DiskSpace(root).clear([root / "one" / "b"]) == 400
    assert left(root) == ["one/b/layer-0.safetensors"]


UNFINISHED = [
    ".layer-002-4bit.safetensors.ab_12345",  # another process is writing it
    "layer-003-4bit.damaged",
    "layer-004-4bit.safetensors.txt",
    "notes.txt",
    ".hidden",
]


def test_only_finished_files_are_counted_and_deleted(root: Path) -> None:
    bank = root / "one" / "a"
    for name in UNFINISHED:
        (bank / name).write_bytes(b"x" * 1000)
    (root / "notes.txt").write_bytes(b"x" * 1000)
    (root / "one" / "notes.txt").write_bytes(b"x" * 1000)
    (bank / "layer-005-4bit.safetensors").mkdir()
    (bank / "layer-005-4bit.safetensors" / "layer-6.safetensors").write_bytes(b"x")
    (bank / "layer-007-4bit.safetensors").symlink_to(root / "notes.txt")
    (bank / "next-4bit.safetensors").write_bytes(b"x" * 7)
    (bank / "pass-cpu.safetensors").write_bytes(b"x" * 8)
    assert DiskSpace(root).total() == 450 + 7 + 8
    DiskSpace(root, 0).evict(root / "nothing")
    assert DiskSpace(root).clear([]) == DiskSpace(root).total() == 0
    assert (root / "notes.txt").exists() and (root / "one" / "notes.txt").exists()
    names = [*UNFINISHED, "layer-005-4bit.safetensors", "layer-007-4bit.safetensors"]
    assert sorted(p.name for p in bank.iterdir()) == sorted(names)


def test_another_process_can_finish_what_it_writes_while_this_one_clears(root: Path) -> None:
    bank = root / "one" / "a"
    replace = os.replace

    def late(*paths: str) -> None:
        DiskSpace(root).clear([])
        DiskSpace(root, 0).evict(root / "nothing")
        replace(*paths)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", late)
        write_atomically(bank / "layer-002-4bit.safetensors", b"packed")
    assert left(root) == ["one/a/layer-002-4bit.safetensors"]


def test_old_strays_are_removed_where_files_are_counted(root: Path) -> None:
    bank = root / "one" / "a"
    for name in UNFINISHED:
        (bank / name).write_bytes(b"x")
        os.utime(bank / name, (1e9, 1e9))
    recent = ".layer-009-4bit.safetensors.ab_12345"
    (bank / recent).write_bytes(b"x")
    DiskSpace(root).total()
    finished = ["layer-0.safetensors", "layer-1.safetensors"]
    names = [*UNFINISHED[2:], recent, *finished]
    assert sorted(p.name for p in bank.iterdir()) == sorted(names)


@pytest.mark.parametrize("limit", [10**9, 320_000, 100])
def test_packing_lists_the_folders_once_and_not_for_every_layer(
    limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for bank in range(20):
        folder = tmp_path / f"model-{bank}" / "bank"
        folder.mkdir(parents=True)
        for layer in range(40):
            path = folder / f"layer-{layer}.safetensors"
            path.write_bytes(b"x" * 400)
            os.utime(path, (bank, bank))
    calls = Counter[str]()
    for name in ("scandir", "stat"):
        original = getattr(os, name)

        def counting(*args: Any, name: str = name, original: Any = original, **kwargs: Any) -> Any:
            calls[name] += 1
            return original(*args, **kwargs)

        monkeypatch.setattr(os, name, counting)
    space, keep = DiskSpace(tmp_path, limit), tmp_path / "new" / "bank"
    keep.mkdir(parents=True)
    for layer in range(160):
        space.make_room(100, keep)
        (keep / f"layer-{layer}.safetensors").write_bytes(b"x" * 100)
        space.evict(keep, 100)
    listed, asked = calls["scandir"], calls["stat"]
    deleted = 800 - (len(left(tmp_path)) - 160)
    assert listed <= 50
    assert asked <= 160 * 2 + 2 * deleted + 100
    assert space.total() == min(max(limit, 160 * 100), 320_000 + 16_000) // 400 * 400
    assert len(list(keep.iterdir())) == 160


def test_what_was_used_since_the_folders_were_listed_stays(root: Path) -> None:
    space = DiskSpace(root, 450)
    space.evict(keep=root / "two" / "c")
    mark_used(root / "one/a/layer-1.safetensors")
    space.evict(keep=root / "two" / "c", written=1)
    assert left(root) == sorted(USED.keys() - {"one/a/layer-0.safetensors"})


def test_the_folders_are_listed_again_after_a_while(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = DiskSpace(root, 450)
    space.evict(keep=root / "two" / "c")
    (root / "one/b/layer-2.safetensors").write_bytes(b"x")  # by another process
    space.evict(keep=root / "two" / "c")
    assert len(left(root)) == 6
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + diskspace.RECOUNT_SECONDS)
    space.evict(keep=root / "two" / "c")
    assert len(left(root)) == 5


@pytest.mark.parametrize("where", ["a file", "below a file", "/proc"])
def test_where_no_folder_can_be_there_is_nothing_to_delete(where: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x")
    root = {"a file": file, "below a file": file / "cache" / "banks"}.get(where, Path("/proc/lwq"))
    space = DiskSpace(root, 0)
    assert space.total() == space.clear([]) == 0 and space.usage() == []
    space.evict(root / "model" / "bank", 1)
    with pytest.raises(UserError, match=f"free where '{root}' is. Delete something there, or set"):
        space.make_room(2**62, root / "model" / "bank")


def fill_disk(monkeypatch: pytest.MonkeyPatch, root: Path, capacity: int) -> None:
    """A disk that holds nothing but the banks."""

    def usage(path: Path) -> SimpleNamespace:
        assert path.exists()
        return SimpleNamespace(free=capacity - sum(p.stat().st_size for p in root.glob("*/*/*")))

    monkeypatch.setattr(shutil, "disk_usage", usage)


def test_a_full_disk_is_cleared_of_other_banks(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill_disk(monkeypatch, root, 500)
    space, keep = DiskSpace(root), root / "two" / "c"
    space.make_room(50, keep)
    assert len(left(root)) == 5
    space.make_room(120, keep)
    assert left(root) == sorted(USED.keys() - {"one/a/layer-1.safetensors"})
    with pytest.raises(UserError, match=r"takes 512.0 MiB of disk space, and \d+ bytes are free"):
        space.make_room(GIB // 2, keep)
    assert left(root) == ["two/c/layer-0.safetensors", "two/c/layer-1.safetensors"]


def test_free_space_is_that_of_the_disk(tmp_path: Path) -> None:
    there = DiskSpace(tmp_path / "not" / "yet").free()
    assert abs(there - shutil.disk_usage(tmp_path).free) < GIB


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("50GiB", 50 * GIB),
        (" 1.5 gib ", 3 * GIB // 2),
        ("2TiB", 2**41),
        ("3.2GB", 3_200_000_000),
        ("1tb", 10**12),
        ("4096", 4096),
        ("0", 0),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "much", "-1GiB", "GiB", "1.2.3", "5 GiB free", "1e3", "9" * 400, "nan"]
)
def test_what_is_no_size(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"is not a size such as 3\.2GiB"):
        parse_size(text)
    if text:
        monkeypatch.setenv("LWQ_BANK_LIMIT", text)
        with pytest.raises(
            UserError, match=r"variable LWQ_BANK_LIMIT is wrong: '.*' is not a size"
        ):
            Settings.from_environment()


def test_a_wrong_limit_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LWQ_BANK_LIMIT", "much")
    assert cli.main(["info", "demo"]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err == (
        "The environment variable LWQ_BANK_LIMIT is wrong: 'much' is not a size such as 3.2GiB.\n"
    )


def test_the_limit_comes_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LWQ_BANK_LIMIT", raising=False)
    assert Settings.from_environment().bank_limit == DEFAULT_LIMIT == 64 * GIB
    monkeypatch.setenv("LWQ_BANK_LIMIT", "")
    assert Settings.from_environment().bank_limit == DEFAULT_LIMIT
    monkeypatch.setenv("LWQ_BANK_LIMIT", "1.5GiB")
    settings = Settings.from_environment()
    assert settings.bank_limit == 3 * GIB // 2
    assert Store(tmp_path, None, settings.bank_limit).banks == DiskSpace(
        tmp_path / "banks", 3 * GIB // 2
    )
