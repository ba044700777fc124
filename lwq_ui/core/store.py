"""The disk cache. Costly results (scores, banks, evaluations) meet cheap ones only here.

A content key finds an entry: a hash of what was done, to which model, with which parameters, data
and library versions. Entries are JSON files that a person can read:
`<root>/<kind>/<fingerprint>/<key>.json`. Writes are atomic, so no process ever sees half a file.
Two processes that write the same key write the same content, and the last one stays.

A cache that cannot be written or read keeps nobody from a result. That is logged once, and what is
not stored is computed.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from .diskspace import DEFAULT_LIMIT, INTERIM_LIMIT, DiskSpace, set_aside, without_strays
from .errors import UserError

T = TypeVar("T")

log = logging.getLogger(__name__)

LIBRARIES = ("torch", "transformers", "optimum-quanto", "lm-eval")  # results depend on these

UMASK = os.umask(0)
os.umask(UMASK)


def canonical(value: Any) -> bytes:
    """Returns JSON that is the same for equal values. Raises ValueError for NaN and infinity, which
    are not JSON."""
    value = json.loads(json.dumps(value, allow_nan=False))  # keys become text before sorting
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def digest(value: Any) -> str:
    return hashlib.sha256(canonical(value)).hexdigest()


def versions(*packages: str) -> dict[str, str]:
    """Returns installed versions without build tags: torch's CPU and CUDA builds share results."""
    return {name: installed(name) for name in packages}


@functools.cache  # reading it takes a millisecond, and the page makes many keys
def installed(package: str) -> str:
    return importlib.metadata.version(package).split("+")[0]


@dataclass(frozen=True)
class Key:
    """What identifies an entry. `parts` holds parameters, data and versions, as JSON."""

    kind: str
    fingerprint: str
    parts: Mapping[str, Any]

    @property
    def digest(self) -> str:
        return digest([self.kind, self.fingerprint, self.parts])

    @property
    def path(self) -> Path:
        return Path(self.kind, self.fingerprint[:16], f"{self.digest[:32]}.json")


def as_it_is(value: Any) -> Any:
    return value


class Store:
    """A cache in two folders. Entries are written to `root`. `shipped`, the read-only cache that
    comes with the program, is read where `root` has no entry.

    Packed layers may take `bank_limit` bytes. Journals of sweeps and interrupted passes may take
    INTERIM_LIMIT each.
    """

    def __init__(self, root: Path, shipped: Path | None = None, bank_limit: int = DEFAULT_LIMIT):
        self.root = root
        self.banks = DiskSpace(root / "banks", bank_limit)
        self.journals = DiskSpace(root / "journals", INTERIM_LIMIT)
        self.passes = DiskSpace(root / "passes", INTERIM_LIMIT)
        self.roots = [root] + ([shipped] if shipped else [])
        _troubles.setdefault(root, set())

    def read(self, key: Key, reader: Callable[[Any], T] = as_it_is) -> T | None:
        """Returns the stored value, which `reader` makes from JSON, or None where there is none.

        A damaged file is reported, set aside, and counts as absent. So does a value that the reader
        refuses with a ValueError, since another version of this program wrote it.
        """
        for root in self.roots:
            entry = self._load(root / key.path)
            if entry is not None and entry["key"] == json.loads(canonical(key.parts)):
                try:
                    return reader(entry["value"])
                except (ValueError, UserError) as e:
                    passed_over(root / key.path, e)
        return None

    def write(self, key: Key, value: Any) -> Path:
        """Stores a value, if the cache can be written. Returns the path of its file."""
        path = self.root / key.path
        entry = {
            "kind": key.kind,
            "fingerprint": key.fingerprint,
            "key": key.parts,
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "sha256": digest(value),
            "value": value,
        }
        keep(path, (dumps(entry) + "\n").encode())
        return path

    def find(
        self, kind: str, fingerprint: str, reader: Callable[[Any], T] = as_it_is
    ) -> Iterator[tuple[dict[str, Any], T]]:
        """Yields every (key parts, value) of one kind for one model, oldest first. Damaged and
        refused values are left out, as by `read`."""
        entries: dict[str, dict[str, Any]] = {}
        for root in self.roots:
            for path in listed(root / kind / fingerprint[:16]):
                if path.name not in entries and (entry := self._load(path)):
                    entries[path.name] = entry
        for name, entry in sorted(entries.items(), key=lambda e: e[1]["created"]):
            if entry["fingerprint"] == fingerprint:
                try:
                    value = reader(entry["value"])
                except (ValueError, UserError) as e:
                    passed_over(Path(kind, fingerprint[:16], name), e)
                    continue
                yield entry["key"], value

    def fingerprints(self, kind: str) -> set[str]:
        """Returns the fingerprints of all models that have entries of this kind."""
        folders = (folder for root in self.roots for folder in listed(root / kind, "*"))
        entries = (filter(None, map(self._load, listed(folder))) for folder in folders)
        return {entry["fingerprint"] for inside in entries for entry in islice(inside, 1)}

    def _load(self, path: Path) -> dict[str, Any] | None:
        try:
            content = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as e:
            report_once(path, "read", "What it holds is computed again", e)
            return None
        try:
            entry = json.loads(content.decode("utf-8"))
            if entry["sha256"] != digest(entry["value"]):
                raise ValueError("its checksum does not match its content")
            if not isinstance(entry["created"], str):
                raise ValueError("its date is not text")
            if not isinstance(entry["key"], dict):
                raise ValueError("its key is not an object")
            if Key(entry["kind"], entry["fingerprint"], entry["key"]).path.name != path.name:
                raise ValueError("its name does not match its key")
            return {k: entry[k] for k in ("fingerprint", "key", "created", "value")}
        except (ValueError, KeyError, TypeError, RecursionError) as e:
            log.warning(
                "The cache file %s is damaged (%s); it is set aside and recomputed.", path, e
            )
        try:
            set_aside(path)
        except OSError as e:  # a shipped cache may be read-only: the entry is passed over
            log.warning("The damaged file could not be moved: %s", e)
        return None


def listed(folder: Path, pattern: str = "*.json") -> list[Path]:
    """Returns what lies in a folder, nothing where it cannot be read."""
    try:
        return list(folder.glob(pattern))
    except OSError as e:
        report_once(folder, "read", "What it holds is computed again", e)
        return []


_troubles: dict[Path, set[str]] = {}  # root of each cache in use -> what was reported to fail


def keep(path: Path, content: bytes) -> bool:
    """Writes a file of a cache. Returns whether that worked. A result that cannot be kept is still
    a result, so a failure is logged, once for each cache."""
    tidy(path.parent)
    try:
        write_atomically(path, content)
    except OSError as e:
        report_once(path, "written", "Results are given, but not kept", e)
        return False
    return True


@functools.cache
def tidy(folder: Path) -> None:
    """Removes strays, once for each folder that this process writes to."""
    without_strays(folder)


def report_once(path: Path, doing: str, effect: str, error: OSError) -> None:
    """Warns that a cache cannot be read or written, at the first file that shows it."""
    root = next((folder for folder in path.parents if folder in _troubles), path.parent)
    reported = _troubles.setdefault(root, set())
    if doing not in reported:
        reported.add(doing)
        log.warning(
            "The cache folder %s cannot be %s (%s: %s). %s. Make room there, give this program "
            "access, or set LWQ_CACHE_DIR to another folder.",
            root,
            doing,
            error.strerror or error,
            path,
            effect,
        )


def passed_over(path: Path, cause: Exception) -> None:
    log.info("The cache file %s is of another version (%s); it is passed over.", path, cause)


def dumps(value: Any) -> str:
    """Returns indented JSON whose lists of numbers stay on one line, for people and for diffs.
    Raises ValueError for NaN and infinity, which are not JSON."""
    return _dumps(value, "")


def _dumps(value: Any, indent: str) -> str:
    inner = indent + "  "
    if isinstance(value, Mapping) and value:
        rows = (f"{inner}{json.dumps(str(k))}: {_dumps(v, inner)}" for k, v in value.items())
        return "{\n" + ",\n".join(rows) + f"\n{indent}}}"
    if isinstance(value, list | tuple) and any(
        isinstance(v, list | tuple | Mapping) for v in value
    ):
        return "[\n" + ",\n".join(inner + _dumps(v, inner) for v in value) + f"\n{indent}]"
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file as a whole. Raises OSError; the file is then as it was before."""
    try:
        _write(path, content)
    except FileNotFoundError:  # somebody deleted the folder meanwhile
        _write(path, content)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        os.chmod(temporary, 0o666 & ~UMASK)  # mkstemp's 0600 would keep a shared cache private
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
