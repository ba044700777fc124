"""What a checkpoint's files contain, as one hash that names its results."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

from ...core.run import Run
from ...core.store import Key, Store, digest

LARGE = 2**30  # bytes of a file that takes seconds to hash


_hashes: dict[str, str] = {}


def file_hash(path: Path, store: Store | None = None, run: Run | None = None) -> str:
    """sha256 of a file's content. The Hub's cache names large files by it; others are read once
    (large ones once on this machine, where there is a store)."""
    real = path.resolve()
    if known := known_hash(real, store):
        return known
    key, content = content_key(real), hashlib.sha256()
    with real.open("rb") as file:
        while block := file.read(2**22):
            if run:
                run.check()
            content.update(block)
    _hashes[key.digest] = content.hexdigest()
    if store and real.stat().st_size > LARGE:
        store.write(key, _hashes[key.digest])
    return _hashes[key.digest]


def known_hash(real: Path, store: Store | None) -> str | None:
    if re.fullmatch("[0-9a-f]{64}", real.name):
        return real.name
    key = content_key(real)
    return _hashes.get(key.digest) or (store.read(key, stored_hash) if store else None)


def stored_hash(value: Any) -> str:
    """Raises ValueError for what is no sha256."""
    if not (isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value)):
        raise ValueError("it is no sha256")
    return value


def content_key(real: Path) -> Key:
    """Changes with the file's content."""
    size, changed, inode_changed, inode = stamp(real)
    parts = {"bytes": size, "changed": [changed, inode_changed], "inode": inode}
    return Key("hashes", digest(str(real)), parts)


def stamp(path: Path) -> tuple[int, int, int, int]:
    """Changes with the file's content. A copy may bring an older file's time of change along; the
    inode and the time of the inode's change belong to this file alone."""
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino
