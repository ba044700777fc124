"""Files and folders that the user names for a result.

They are checked before the work starts. Nothing is deleted or replaced but what this program made
or was asked to write.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import UserError, reason
from .memory import format_gib
from .store import UMASK, write_atomically

LAST = "config.json"  # without this file no program takes a folder for a model
MOST_NAME = 240  # bytes of a new file's name; the temporary file's name is longer

# These errors mean that a folder takes no new file. The file itself may still be writable.
IN_PLACE = (errno.EACCES, errno.EPERM, errno.EBUSY, errno.EROFS, errno.ENAMETOOLONG)


def unwritable(path: str | Path, error: BaseException) -> UserError:
    return UserError(f"'{path}' cannot be written: {reason(error)}. Choose another place.")


def kind_of(path: str | Path) -> int | None:
    """Returns the type bits of a file, through links; None where there is no file. Raises
    OSError."""
    try:
        return stat.S_IFMT(os.stat(path).st_mode)
    except FileNotFoundError:
        return None


def check_file(path: str) -> None:
    """Raises UserError where a result cannot be written to this file."""
    if not Path(path).name or path.endswith(("/", os.sep)):
        raise UserError(f"'{path}' is not the name of a file.")
    try:
        kind, real = kind_of(path), Path(os.path.realpath(path))
        if kind == stat.S_IFDIR:
            raise UserError(f"'{path}' is a folder. Name a file in it.")
        if kind not in (None, stat.S_IFREG, stat.S_IFIFO, stat.S_IFCHR):
            raise UserError(f"'{path}' is neither a file nor a pipe. Choose another place.")
        if kind is None:
            if len(os.fsencode(real.name)) > MOST_NAME:
                raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
            check_takes_files(existing(real.parent))
        elif kind == stat.S_IFREG:
            real.open("ab").close()
        elif not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except (OSError, ValueError) as e:  # ValueError: a null character
        raise unwritable(path, e) from e


def write_file(path: str, content: bytes) -> None:
    """Writes a file, through links. Replaces a regular file as a whole and keeps its permissions;
    writes into anything else. Makes missing folders. Raises OSError."""
    real = Path(os.path.realpath(path))
    kind = kind_of(path)
    if kind not in (None, stat.S_IFREG) or (kind and real.stat().st_nlink > 1):
        write_in_place(path, content)
        return
    mode = stat.S_IMODE(real.stat().st_mode) if kind else None
    try:
        write_atomically(real, content)
    except OSError as e:
        if kind is None or e.errno not in IN_PLACE:
            raise
        write_in_place(path, content)
        return
    if mode is not None:
        real.chmod(mode)


def write_in_place(path: str, content: bytes) -> None:
    """Raises OSError, also where a pipe has no reader: waiting for one could take forever."""
    handle = os.open(path, os.O_WRONLY | os.O_TRUNC | getattr(os, "O_NONBLOCK", 0))
    with open(handle, "wb", buffering=0) as file:
        os.set_blocking(handle, True)
        while content:
            content = content[file.write(content) :]


def check_folder(out: Path, needed: int = 0) -> None:
    """Raises UserError where no folder of `needed` bytes can be written to `out`."""
    try:
        kind, real = kind_of(out), Path(os.path.realpath(out))
        if kind == stat.S_IFDIR and not any(real.iterdir()):
            place = real
        elif kind is not None:
            raise UserError(f"'{out}' exists and is not an empty folder. Choose another one.")
        elif real.parent.exists():
            place = real.parent
        else:
            raise UserError(
                f"'{out}' cannot be written: there is no folder '{real.parent}'. Make it first."
            )
        check_takes_files(place)
        free = shutil.disk_usage(place).free
    except (OSError, ValueError) as e:
        raise unwritable(out, e) from e
    if needed > free:
        raise UserError(
            f"'{out}' cannot be written: it takes {format_gib(needed)}, and {format_gib(free)} are "
            "free there. Make room, or choose a folder on a larger disk."
        )


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Yields a folder to write into, which becomes `out` when all of it is written. Where `out` is
    an empty folder, it stays and gets the files.

    Raises OSError, and UserError where somebody put something else there meanwhile.
    """
    real = Path(os.path.realpath(out))
    exists = real.is_dir()
    place = real if exists else real.parent
    prefix = f".{real.name[:50]}."
    part = Path(tempfile.mkdtemp(prefix=prefix, dir=place))
    try:
        part.chmod(0o777 & ~UMASK)  # mkdtemp's 0700 would keep the folder private
        yield part
        entries = os.listdir(real) if exists else {real.name} & set(os.listdir(place))
        if any(not name.startswith(prefix) for name in entries):
            raise UserError(f"Another program wrote '{out}' meanwhile. Choose another folder.")
        if exists:
            for file in sorted(part.iterdir(), key=lambda p: p.name == LAST):
                file.rename(real / file.name)
        else:
            part.rename(real)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def existing(folder: Path) -> Path:
    """Returns the folder, or the nearest one above it that exists."""
    return next(p for p in (folder, *folder.parents) if p.exists())


def check_takes_files(folder: Path) -> None:
    """Raises OSError where a folder takes no new file. Permissions alone do not show that: the file
    system may be read-only, or one without files."""
    with tempfile.TemporaryFile(dir=folder):
        pass
