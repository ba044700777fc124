"""Hashes of files. Those of a model's files name its results."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

from ...core.run import Run
from ...core.store import Key, Store, digest

LARGE = 2**30  # bytes of a file that takes seconds to hash


class FileHashes:
    """The sha256 of files.

    This process reads each file once. Where there is a store, this machine reads a file of more
    than `large` bytes once. Large files of the Hub's cache are named by their hash, and a wheel
    lists those of its files.
    """

    def __init__(self, large: int = LARGE):
        self.large = large
        self._hashes: dict[str, str] = {}

    def get(self, path: Path, store: Store | None = None, run: Run | None = None) -> str:
        """Returns the hash of a file's content. Raises OSError and Stopped."""
        real = path.resolve()
        if stored := self.without_reading(real, store):
            return stored
        key, content = content_key(real), hashlib.sha256()
        with real.open("rb") as file:
            while block := file.read(2**22):
                if run:
                    run.check()
                content.update(block)
        self._hashes[key.digest] = content.hexdigest()
        if store and real.stat().st_size > self.large:
            store.write(key, content.hexdigest())
        return content.hexdigest()

    def take(self, path: Path, content: str) -> None:
        """Takes a file's hash from who delivered the file, so that it need not be read."""
        self._hashes[content_key(path.resolve()).digest] = content

    def without_reading(self, real: Path, store: Store | None) -> str | None:
        """Returns the hash of a file that need not be read for it, links resolved, or None."""
        if re.fullmatch("[0-9a-f]{64}", real.name):
            return real.name
        key = content_key(real)
        return self._hashes.get(key.digest) or (store.read(key, checked_hash) if store else None)

    def is_quick(self, path: Path, store: Store | None) -> bool:
        """Whether a file's hash can be had without reading much."""
        return path.stat().st_size <= self.large or bool(
            self.without_reading(path.resolve(), store)
        )


HASHES = FileHashes()
"""All users of this process share these, since a file is the same for each of them."""


def checked_hash(value: Any) -> str:
    """Raises ValueError for what is no sha256."""
    if not (isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value)):
        raise ValueError("it is no sha256")
    return value


def content_key(real: Path) -> Key:
    """Returns a key that changes with the file's content."""
    size, changed, inode_changed, inode = stamp(real)
    parts = {"bytes": size, "changed": [changed, inode_changed], "inode": inode}
    return Key("hashes", digest(str(real)), parts)


def stamp(path: Path) -> tuple[int, int, int, int]:
    """Returns numbers that change with the file's content. A copy may bring an older file's time of
    change along. The inode and the time of the inode's change belong to this file alone."""
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino
