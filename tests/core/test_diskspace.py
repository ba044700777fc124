"""What packed layers take on disk, what goes when it is too much, and how a limit is said."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from lwq_ui import cli
from lwq_ui.core.diskspace import DEFAULT_LIMIT, BankSpace, Usage, mark_used
from lwq_ui.core.errors import UserError
from lwq_ui.core.memory import GIB, parse_size
from lwq_ui.core.store import Store
from lwq_ui.settings import Settings

USED = {  # file -> bytes, last used
    "one/a/layer-0": (100, 30),
    "one/a/layer-1": (100, 10),
    "one/b/layer-0": (50, 40),
    "two/c/layer-0": (100, 20),
    "two/c/layer-1": (100, 50),
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
    space = BankSpace(root)
    assert space.usage() == [Usage("two", 200, 50), Usage("one", 250, 40)]
    assert space.total() == 450
    assert space.bytes_of(root / "one" / "a") == 200
    mark_used(root / "one" / "a" / "layer-1")
    assert [u.model for u in space.usage()] == ["one", "two"]


def test_nothing_packed_yet(tmp_path: Path) -> None:
    space = BankSpace(tmp_path / "not there" / "banks", 0)
    assert space.usage() == [] and space.total() == 0
    space.evict(tmp_path)
    space.make_room(1, tmp_path)
    assert space.clear([]) == 0
    mark_used(space.root / "model" / "bank" / "layer")


@pytest.mark.parametrize(
    ("limit", "gone"),
    [
        (450, []),
        (449, ["one/a/layer-1"]),
        (350, ["one/a/layer-1"]),
        (349, ["one/a/layer-1", "one/a/layer-0"]),
        (200, ["one/a/layer-1", "one/a/layer-0", "one/b/layer-0"]),
        (0, ["one/a/layer-1", "one/a/layer-0", "one/b/layer-0"]),  # but never the bank in use
    ],
)
def test_the_least_recently_used_go_first(limit: int, gone: list[str], root: Path) -> None:
    BankSpace(root, limit).evict(keep=root / "two" / "c")
    assert left(root) == sorted(USED.keys() - set(gone))


def test_what_was_just_used_stays(root: Path) -> None:
    mark_used(root / "one" / "a" / "layer-1")
    BankSpace(root, 350).evict(keep=root / "two" / "c")
    assert left(root) == sorted(USED.keys() - {"one/a/layer-0"})


@pytest.mark.parametrize("error", [FileNotFoundError, PermissionError])
def test_a_file_that_cannot_be_deleted_is_skipped(
    error: type[OSError], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process was quicker; or, on Windows, it has the file mapped."""
    unlink = Path.unlink

    def refuse(path: Path) -> None:
        if path.name == "layer-1":
            raise error
        unlink(path)

    monkeypatch.setattr(Path, "unlink", refuse)
    space = BankSpace(root, 350)
    space.evict(keep=root / "two" / "c")
    assert left(root) == sorted(USED.keys() - {"one/a/layer-0"})
    assert space.clear([root / "two" / "c"]) == 50


def test_a_file_that_vanishes_while_it_is_counted(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stat = Path.stat

    def vanish(path: Path, **options: bool) -> os.stat_result:
        if path.name == "layer-1":
            path.unlink(missing_ok=True)
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", vanish)
    assert BankSpace(root).total() == 250


def test_clearing_keeps_what_is_in_use(root: Path) -> None:
    assert BankSpace(root).clear([root / "one" / "b"]) == 400
    assert left(root) == ["one/b/layer-0"]


def fill_disk(monkeypatch: pytest.MonkeyPatch, root: Path, capacity: int) -> None:
    """A disk that holds nothing but the banks."""

    def usage(path: Path) -> SimpleNamespace:
        assert path.exists()
        return SimpleNamespace(free=capacity - sum(p.stat().st_size for p in root.glob("*/*/*")))

    monkeypatch.setattr(shutil, "disk_usage", usage)


def test_a_full_disk_is_cleared_of_other_banks(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill_disk(monkeypatch, root, 500)
    space, keep = BankSpace(root), root / "two" / "c"
    space.make_room(50, keep)
    assert len(left(root)) == 5
    space.make_room(120, keep)
    assert left(root) == sorted(USED.keys() - {"one/a/layer-1"})
    with pytest.raises(UserError, match=r"takes 512.0 MiB of disk space, and \d+ bytes are free"):
        space.make_room(GIB // 2, keep)
    assert left(root) == ["two/c/layer-0", "two/c/layer-1"]


def test_free_space_is_that_of_the_disk(tmp_path: Path) -> None:
    there = BankSpace(tmp_path / "not" / "yet").free()
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
    assert Store(tmp_path, None, settings.bank_limit).banks == BankSpace(
        tmp_path / "banks", 3 * GIB // 2
    )
