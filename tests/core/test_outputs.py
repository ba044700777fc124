"""Files and folders that the user names: written through, never replaced or deleted unasked."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lwq_ui.core import outputs
from lwq_ui.core.errors import UserError
from lwq_ui.core.outputs import check_file, check_folder, new_folder, write_file


def write(path: Path | str, content: bytes = b"new") -> None:
    check_file(str(path))
    write_file(str(path), content)


def test_a_new_file_and_missing_folders(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "result.json"
    write(path)
    assert path.read_bytes() == b"new" and os.listdir(path.parent) == ["result.json"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~outputs.UMASK


def test_a_link_stays_and_its_target_is_written(tmp_path: Path) -> None:
    target, link = tmp_path / "elsewhere" / "target", tmp_path / "link"
    target.parent.mkdir()
    link.symlink_to("elsewhere/target")
    write(link, b"first")  # of a target that is not there yet
    assert target.read_bytes() == b"first"
    write(link, b"second")
    assert link.is_symlink() and target.read_bytes() == b"second"


def test_what_a_file_is_stays(tmp_path: Path) -> None:
    path, other = tmp_path / "private", tmp_path / "other"
    path.write_bytes(b"a longer text than the new one")
    path.chmod(0o600)
    write(path)
    assert path.read_bytes() == b"new" and stat.S_IMODE(path.stat().st_mode) == 0o600
    os.link(path, other)
    write(path, b"both")
    assert other.read_bytes() == b"both" and path.samefile(other)


def test_a_pipe_stays_a_pipe(tmp_path: Path) -> None:
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    with pytest.raises(OSError) as nobody:
        write(pipe)  # nobody reads: no waiting for ever
    assert nobody.value.errno == errno.ENXIO
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    content = b"x" * 200_000  # more than a pipe holds
    while not read and reader.is_alive():
        try:
            write(pipe, content)
            break
        except OSError as e:
            assert e.errno == errno.ENXIO  # not opened yet
    reader.join(10)
    assert read == [content] and stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_device_stays_a_device() -> None:
    write("/dev/null")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    with pytest.raises(OSError) as full:
        write("/dev/full")
    assert full.value.errno == errno.ENOSPC and stat.S_ISCHR(os.stat("/dev/full").st_mode)


def test_a_file_whose_folder_takes_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mounted"
    path.write_bytes(b"old and longer")

    def refuse(code: int) -> None:
        def write_atomically(*_: Any) -> None:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(outputs, "write_atomically", write_atomically)

    for code in (errno.EBUSY, errno.EACCES):
        refuse(code)
        write(path, str(code).encode())
        assert path.read_bytes() == str(code).encode()
    refuse(errno.ENOSPC)  # writing in place would lose the old content
    with pytest.raises(OSError, match="No space left"):
        write(path)
    assert path.read_bytes() == str(errno.EACCES).encode()


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "not the name of a file"),
        ("new/", "not the name of a file"),
        (".", "not the name of a file"),
        ("folder", "is a folder"),
        ("file/x", "cannot be written: Not a directory"),
        ("loop", "cannot be written: Too many levels of symbolic links"),
        ("n" * 300, "cannot be written: File name too long"),
        ("n" * 250, "cannot be written: File name too long"),
        ("a\0b", "cannot be written: .*null"),
        ("/proc/nothing", "cannot be written"),
    ],
)
def test_what_is_no_place_for_a_file_is_refused_before_the_work(
    name: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UserError, match=why):
        check_file(name)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder", "loop"]
    assert (tmp_path / "file").read_text() == "mine"


@contextmanager
def filled(out: Path) -> Iterator[Path]:
    check_folder(out)
    with new_folder(out) as part:
        (part / "config.json").write_text("{}")
        (part / "weights").write_text("w")
        yield part


def test_a_folder_appears_when_it_is_complete(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (tmp_path / "out.part").mkdir()
    (tmp_path / "out.part" / "precious").write_text("mine")
    with filled(out) as part:
        assert not out.exists() and part.parent == tmp_path
    assert sorted(os.listdir(out)) == ["config.json", "weights"]
    assert stat.S_IMODE(out.stat().st_mode) == 0o777 & ~outputs.UMASK
    assert (tmp_path / "out.part" / "precious").read_text() == "mine"
    assert sorted(os.listdir(tmp_path)) == ["out", "out.part"]


def test_an_empty_folder_stays_the_same_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also the one that somebody is in, or that a link leads to."""
    here, linked, link = tmp_path / "here", tmp_path / "linked", tmp_path / "link"
    here.mkdir(mode=0o750)
    linked.mkdir()
    link.symlink_to(linked)
    monkeypatch.chdir(here)
    before = here.stat().st_ino
    with filled(Path(".")):
        assert not Path("config.json").exists()
    with filled(link):
        pass
    assert here.stat().st_ino == before and stat.S_IMODE(here.stat().st_mode) == 0o750
    assert sorted(os.listdir(".")) == sorted(os.listdir(linked)) == ["config.json", "weights"]
    assert link.is_symlink()


def test_a_link_to_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "target")
    with filled(link):
        pass
    assert link.is_symlink() and sorted(os.listdir(link)) == ["config.json", "weights"]


@pytest.mark.parametrize("there", [False, True])
def test_what_fails_leaves_nothing_behind(there: bool, tmp_path: Path) -> None:
    out = tmp_path / "out"
    if there:
        out.mkdir()
    with pytest.raises(ZeroDivisionError), filled(out):
        raise ZeroDivisionError
    assert (os.listdir(tmp_path), os.path.isdir(out)) == (["out"] if there else [], there)
    assert not there or os.listdir(out) == []


@pytest.mark.parametrize("there", [False, True])
def test_two_writers_of_one_folder(there: bool, tmp_path: Path) -> None:
    """The first to be complete has it, and keeps it whole."""
    out = tmp_path / "out"
    if there:
        out.mkdir()
    with pytest.raises(UserError, match=r"Another program wrote '.*' meanwhile"), filled(out):
        out.mkdir(exist_ok=True)
        (out / "theirs").write_text("theirs")
    assert os.listdir(out) == ["theirs"] and os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("there", [False, True])
def test_the_second_of_two_runs_is_told_so(there: bool, tmp_path: Path) -> None:
    out = tmp_path / "out"
    if there:
        out.mkdir()
    with pytest.raises(UserError, match="Another program wrote"), filled(out):
        with new_folder(out) as second:
            (second / "config.json").write_text("the second")
        assert (out / "config.json").read_text() == "the second"
    assert os.listdir(out) == ["config.json"] and os.listdir(tmp_path) == ["out"]
    assert (out / "config.json").read_text() == "the second"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("file", "exists and is not an empty folder"),
        ("full", "exists and is not an empty folder"),
        ("link", "exists and is not an empty folder"),
        ("/dev/null", "exists and is not an empty folder"),
        ("file/x", "cannot be written: Not a directory"),
        ("missing/x", "cannot be written: there is no folder '.*missing'"),
        ("loop", "cannot be written: Too many levels"),
        ("n" * 300, "cannot be written: File name too long"),
        ("a\0b", "cannot be written: .*null"),
        ("/proc/nothing", "cannot be written"),
    ],
)
def test_what_is_no_place_for_a_folder_is_refused_before_the_work(
    name: str, why: str, tmp_path: Path
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to("full")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UserError, match=why):
        check_folder(tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == ["file", "full", "link", "loop"]


def test_a_folder_that_takes_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may write anywhere, so the refusal is made up."""

    def refuse(**_: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(outputs.tempfile, "TemporaryFile", refuse)
    (tmp_path / "empty").mkdir()
    for check, name in ((check_folder, "new"), (check_folder, "empty"), (check_file, "x.json")):
        with pytest.raises(UserError, match="cannot be written: Permission denied"):
            check(tmp_path / name if check is check_folder else str(tmp_path / name))


def test_a_disk_that_is_too_small(tmp_path: Path) -> None:
    check_folder(tmp_path / "out", 1)
    with pytest.raises(UserError, match=r"it takes .*, and .* are free there\. Make room"):
        check_folder(tmp_path / "out", 2**60)
