"""The disk space of costly interim files: packed layers, journals of sweeps, interrupted passes.
The files that were used least recently go when all of them take too much.

The time of modification says when a file was used. Two processes may work on the same folders. A
deleted file is made again by whoever needs it. A file that is mapped into memory stays readable
after its deletion; where the system forbids deleting it, it stays.
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
"""Names of the files that are counted and deleted. Other files are being written, or belong to
others."""

STRAY = re.compile(
    r"\..+\.(json|npz|safetensors)\.[a-z0-9_]{8}|([0-9a-f]{32}|(layer|next|pass)-.+)\.damaged"
)
"""Names of files that a killed process was writing, and of damaged files that were set aside."""

STRAY_SECONDS = 24 * 3600  # nobody is still writing an older stray, or looking at the damage
RECOUNT_SECONDS = 30


@dataclass(frozen=True)
class DiskUse:
    """What the files of one model take. `model` is how its fingerprint starts; `last_used` is in
    seconds since 1970."""

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
    """The files in `<root>/<model>/`, or one folder deeper, which may take `limit` bytes together.

    Whoever writes many files asks for room again and again. So the folders are listed at most every
    RECOUNT_SECONDS; in between, the sum counts what this process writes and deletes.
    """

    root: Path
    limit: int = DEFAULT_LIMIT
    _counted: float = field(default=-float("inf"), init=False, repr=False, compare=False)
    _total: int = field(default=0, init=False, repr=False, compare=False)
    _oldest: dict[Path, File] = field(default_factory=dict, init=False, repr=False, compare=False)

    def usage(self) -> list[DiskUse]:
        """Returns what each model's files take, the model used last first."""
        models: dict[str, list[File]] = {}
        for file in self._files():
            models.setdefault(file.model, []).append(file)
        usages = [
            DiskUse(model, sum(f.bytes for f in files), max(f.last_used for f in files))
            for model, files in models.items()
        ]
        return sorted(usages, key=lambda u: u.last_used, reverse=True)

    def total(self) -> int:
        return sum(file.bytes for file in self._files())

    def evict(self, keep: Path, written: int = 0) -> None:
        """Deletes the files used least recently until all fit into the limit. Never deletes `keep`,
        a file or a folder, to which `written` bytes were added since the last call."""
        self._total += written
        self._recount()
        for file in list(self._oldest.values()):
            if self._total <= self.limit:
                return
            self._give_up(file, keep)

    def make_room(self, needed: int, keep: Path) -> None:
        """Makes sure that `needed` bytes can be written. If need be, deletes the files used least
        recently, in any folder but `keep`. Raises UserError where the disk stays too full."""
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
        """Deletes every file outside of `keep`, the folders in use. Returns the bytes deleted."""
        self._counted = -float("inf")
        return sum(delete(file) for file in list(self._files()) if not file.is_in(keep))

    def free(self) -> int:
        """Returns the free bytes of the disk."""
        folders = (self.root, *self.root.parents)
        try:
            return shutil.disk_usage(next(filter(os.path.exists, folders), Path.cwd())).free
        except OSError:  # writing shows what is wrong
            return sys.maxsize

    def _recount(self) -> None:
        if time.monotonic() - self._counted < RECOUNT_SECONDS:
            return
        files = sorted(self._files(), key=lambda f: f.last_used)
        self._oldest = {file.path: file for file in files}
        self._total = sum(file.bytes for file in files)
        self._counted = time.monotonic()

    def _give_up(self, file: File, keep: Path) -> None:
        """Deletes a file, unless it is in `keep` or was used since the folders were listed."""
        if file.is_in({keep}):
            return
        self._oldest.pop(file.path, None)
        with suppress(OSError):
            if file.path.stat().st_mtime == file.last_used:
                self._total -= delete(file)

    def _files(self) -> Iterator[File]:
        """Yields the finished files. Removes old strays on the way."""
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
    """Returns the entries of a folder of the cache; none where it cannot be read. Removes old files
    that killed processes left there, and old damaged files that were set aside."""
    kept = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not (STRAY.fullmatch(entry.name) and is_old(entry) and removed(entry)):
                    kept.append(entry)
    except OSError:
        pass
    return kept


def is_old(entry: os.DirEntry[str]) -> bool:
    try:
        return time.time() - entry.stat(follow_symlinks=False).st_mtime > STRAY_SECONDS
    except OSError:
        return False


def removed(entry: os.DirEntry[str]) -> bool:
    try:
        os.unlink(entry)
    except OSError:  # a folder, or somebody else's
        return False
    return True


def folders_in(entries: list[os.DirEntry[str]]) -> list[Path]:
    return [Path(e.path) for e in entries if os.path.isdir(e.path)]


def set_aside(path: Path) -> None:
    """Renames a damaged file, so that people can look at it for a day. Raises OSError."""
    aside = path.with_suffix(".damaged")
    path.replace(aside)
    mark_used(aside)


def mark_used(path: Path) -> None:
    with suppress(OSError):  # it may be gone, or somebody else's
        os.utime(path)


def delete(file: File) -> int:
    """Deletes a file and returns its bytes, or 0 where that fails. Its folder stays: another
    process may be about to write there."""
    try:
        file.path.unlink()
    except OSError:
        return 0
    return file.bytes
