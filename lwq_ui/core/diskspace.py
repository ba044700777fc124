"""How much of the disk costly interim files take, and which of them go when it is too much: packed
layers, journals of sweeps, and passes that were cut off.

Files are marked as used by their time of modification. Two processes may work on the same folders:
a file that is gone is made again by whoever needs it, and one that is mapped into memory stays
readable after its deletion (where the system forbids that deletion, the file stays).
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from .errors import UserError
from .memory import GIB, format_gib

DEFAULT_LIMIT = 64 * GIB  # of packed layers
INTERIM_LIMIT = 2 * GIB  # of journals, and of passes

FINISHED = re.compile(r"(layer|next|pass)\b.*\.safetensors|[0-9a-f]{32}\.(npz|safetensors)")
"""Names of the files that are counted and deleted. Others are being written, or are not ours."""

STRAY = re.compile(
    r"\..+\.(json|npz|safetensors)\.[a-z0-9_]{8}|([0-9a-f]{32}|(layer|next|pass)-.+)\.damaged"
)
"""Names of what a killed process was writing, and of damaged files that were set aside."""

STRAY_SECONDS = 24 * 3600  # after which nobody is still writing it, or looking at the damage
RECOUNT_SECONDS = 30


@dataclass(frozen=True)
class Usage:
    """The files of one model. `model` is how its fingerprint starts, `last_used` in seconds since
    1970."""

    model: str
    bytes: int
    last_used: float


@dataclass(frozen=True)
class File:
    path: Path
    model: str
    bytes: int
    last_used: float

    def is_in(self, keep: Collection[Path]) -> bool:
        return self.path in keep or self.path.parent in keep


@dataclass
class DiskSpace:
    """Files in `<root>/<model>/`, or one folder deeper, which may take `limit` bytes together.

    Whoever writes many files asks for room again and again. So the folders are listed at most every
    RECOUNT_SECONDS; in between, the sum counts what this process writes and deletes."""

    root: Path
    limit: int = DEFAULT_LIMIT
    _counted: float = field(default=-float("inf"), init=False, repr=False, compare=False)
    _total: int = field(default=0, init=False, repr=False, compare=False)
    _oldest: dict[Path, File] = field(default_factory=dict, init=False, repr=False, compare=False)

    def usage(self) -> list[Usage]:
        """The model used last comes first."""
        models: dict[str, list[File]] = {}
        for file in self._files():
            models.setdefault(file.model, []).append(file)
        usages = [
            Usage(model, sum(f.bytes for f in files), max(f.last_used for f in files))
            for model, files in models.items()
        ]
        return sorted(usages, key=lambda u: u.last_used, reverse=True)

    def total(self) -> int:
        return sum(file.bytes for file in self._files())

    def evict(self, keep: Path, written: int = 0) -> None:
        """Deletes the files used least recently until all fit, but never `keep`, a file or a
        folder. `written` bytes were added to it since the last call."""
        self._total += written
        self._recount()
        for file in list(self._oldest.values()):
            if self._total <= self.limit:
                return
            self._give_up(file, keep)

    def make_room(self, needed: int, keep: Path) -> None:
        """Sees to it that so many bytes can be written, if need be by deleting what was used least
        recently, of any folder but `keep`. Raises UserError where the disk stays too full."""
        if self.free() >= needed:
            return
        self._recount()
        for file in list(self._oldest.values()):
            self._give_up(file, keep)
            if self.free() >= needed:
                return
        raise UserError(
            f"A packed layer takes {format_gib(needed)} of disk space, and "
            f"{format_gib(self.free())} are free where '{self.root}' is. Delete something there, "
            "or set LWQ_CACHE_DIR to a folder on another disk."
        )

    def clear(self, keep: Collection[Path]) -> int:
        """Deletes every file but those in these folders, which are in use -> bytes deleted."""
        self._counted = -float("inf")
        return sum(delete(file) for file in list(self._files()) if not file.is_in(keep))

    def free(self) -> int:
        """Bytes; where the disk cannot be asked there is room, and writing shows what is wrong."""
        there = next((f for f in (self.root, *self.root.parents) if os.path.exists(f)), Path.cwd())
        try:
            return shutil.disk_usage(there).free
        except OSError:
            return sys.maxsize

    def _recount(self) -> None:
        if time.monotonic() - self._counted < RECOUNT_SECONDS:
            return
        files = sorted(self._files(), key=lambda f: f.last_used)
        self._oldest = {file.path: file for file in files}
        self._total = sum(file.bytes for file in files)
        self._counted = time.monotonic()

    def _give_up(self, file: File, keep: Path) -> None:
        """Deletes a file, unless it is to be kept or was used since the folders were listed."""
        if file.is_in({keep}):
            return
        self._oldest.pop(file.path, None)
        with suppress(OSError):
            if file.path.stat().st_mtime == file.last_used:
                self._total -= delete(file)

    def _files(self) -> Iterator[File]:
        """The finished ones. Old strays are removed on the way."""
        for model in folders_in(without_strays(self.root)):
            inside = without_strays(model)
            for entry in (*inside, *(e for f in folders_in(inside) for e in without_strays(f))):
                if FINISHED.fullmatch(entry.name):
                    with suppress(OSError):  # gone meanwhile
                        if entry.is_file(follow_symlinks=False):
                            stat = entry.stat(follow_symlinks=False)
                            path = Path(entry.path)
                            yield File(path, model.name, stat.st_size, stat.st_mtime)


def without_strays(folder: Path) -> list[os.DirEntry[str]]:
    """What is in a folder of the cache; nothing where there is none, or none that can be read.
    Removes what killed processes left there, and damaged files that were set aside, once they are
    old."""
    left = []
    try:
        with os.scandir(folder) as found:
            for entry in found:
                if not (STRAY.fullmatch(entry.name) and is_old(entry) and removed(entry)):
                    left.append(entry)
    except OSError:
        pass
    return left


def is_old(entry: os.DirEntry[str]) -> bool:
    try:
        return time.time() - entry.stat(follow_symlinks=False).st_mtime > STRAY_SECONDS
    except OSError:
        return False


def removed(entry: os.DirEntry[str]) -> bool:
    try:
        os.unlink(entry)
    except OSError:  # a folder, or not ours
        return False
    return True


def folders_in(entries: list[os.DirEntry[str]]) -> list[Path]:
    return [Path(e.path) for e in entries if os.path.isdir(e.path)]


def set_aside(path: Path) -> None:
    """Keeps a damaged file beside its place, for a day at least. Raises OSError."""
    aside = path.with_suffix(".damaged")
    path.replace(aside)
    mark_used(aside)


def mark_used(path: Path) -> None:
    with suppress(OSError):  # it may be gone, or not ours
        os.utime(path)


def delete(file: File) -> int:
    """Bytes that this gave back. Its folder stays: another process may be about to write there."""
    try:
        file.path.unlink()
    except OSError:
        return 0
    return file.bytes
