"""What a sweep has scored so far, on disk.

A sweep that is killed loses the shard that it was walking. A later sweep with more requests or more
splits computes only what is new.
"""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...core.allocation import Split
from ...core.diskspace import mark_used, set_aside
from ...core.store import keep
from ..batches.request import Request

log = logging.getLogger(__name__)

MOST_FILES = 32  # of a journal, before they are merged
FIELDS = ("logprob", "greedy", "divergence", "agreement")


@dataclass(frozen=True)
class Scored:
    """What requests score under each split: arrays of [requests, splits].

    Log-probabilities and divergences are sums over a request's targets, in nats.
    """

    logprob: np.ndarray
    greedy: np.ndarray  # whether every target is the most likely token
    divergence: np.ndarray  # KL(unquantized || split)
    agreement: np.ndarray  # targets where the most likely token is the unquantized model's

    @classmethod
    def empty(cls, requests: int, splits: int) -> Scored:
        shape = (requests, splits)
        return cls(np.zeros(shape), np.ones(shape, bool), np.zeros(shape), np.zeros(shape))

    def put(self, rows: Sequence[int], columns: Sequence[int], other: Scored) -> None:
        for name in FIELDS:
            getattr(self, name)[np.ix_(rows, columns)] = getattr(other, name)

    def take(self, rows: Sequence[int], columns: Sequence[int]) -> Scored:
        return Scored(*(getattr(self, name)[np.ix_(rows, columns)] for name in FIELDS))


def digest(request: Request) -> bytes:
    """Returns 16 bytes that stand for the request."""
    tokens, targets = (np.asarray(x, np.int64) for x in (request.tokens, request.targets))
    content = len(tokens).to_bytes(8, "little") + tokens.tobytes() + targets.tobytes()
    return hashlib.sha256(content).digest()[:16]


@dataclass(frozen=True)
class Shard:
    """The content of one file. `diverging` says that it was scored with divergence."""

    digests: list[bytes]
    splits: list[Split]
    scored: Scored
    diverging: bool


class Journal:
    """A folder of .npz files, one for each shard of a sweep.

    All of them are of one model, one quantizer and one device. Where they are many, reading merges
    them into few. Without a folder nothing is kept.
    """

    def __init__(self, folder: Path | None):
        self.folder = folder

    def write(
        self, digests: Sequence[bytes], splits: Sequence[Split], scored: Scored, divergence: bool
    ) -> None:
        """Keeps what these requests score under these splits, unless the disk is full."""
        self._write(Shard(list(digests), list(splits), scored, divergence))

    def read(
        self, digests: Sequence[bytes], splits: Sequence[Split], divergence: bool
    ) -> tuple[Scored, np.ndarray]:
        """Returns what is kept, and where it is: a bool array [requests, splits].

        A sweep that asks for divergence gets only what was scored with it.
        """
        shards = self._shards()
        if len(shards) > MOST_FILES:
            self._merge(shards)
        usable = [shard for shard in shards.values() if shard.diverging or not divergence]
        return gather(usable, digests, splits)

    def _shards(self) -> dict[Path, Shard]:
        """Returns those of all sound files, in the order of their names."""
        shards: dict[Path, Shard] = {}
        read: set[Path] = set()
        # Another process may merge files into a new one between the listing and the reading.
        while self.folder and (new := set(self.folder.glob("*.npz")) - read):
            read |= new
            shards |= {path: shard for path in new if (shard := self._load(path))}
        return {path: shards[path] for path in sorted(shards)}

    def _merge(self, shards: Mapping[Path, Shard]) -> None:
        """Writes what many files hold into few, and deletes the many."""
        for diverging in (False, True):
            old = {path: s for path, s in shards.items() if s.diverging == diverging}
            if not old:
                continue
            digests = list(dict.fromkeys(d for s in old.values() for d in s.digests))
            splits = list(dict.fromkeys(split for s in old.values() for split in s.splits))
            scored, kept = gather(old.values(), digests, splits)
            written = []
            for mask in np.unique(kept, axis=0):  # requests of which the same splits are kept
                rows = np.flatnonzero((kept == mask).all(axis=1)).tolist()
                columns = np.flatnonzero(mask).tolist()
                part = [digests[r] for r in rows], [splits[c] for c in columns]
                written.append(self._write(Shard(*part, scored.take(rows, columns), diverging)))
            if all(written):
                for path in old.keys() - set(written):
                    with suppress(OSError):
                        path.unlink()

    def _write(self, shard: Shard) -> Path | None:
        """Returns the file, None where it cannot be written."""
        if self.folder is None:
            return None
        arrays = {name: getattr(shard.scored, name) for name in FIELDS}
        requests = np.frombuffer(b"".join(shard.digests), np.uint8).reshape(-1, 16)
        content = io.BytesIO()
        np.savez(
            content,
            requests=requests,
            splits=shard.splits,
            diverging=shard.diverging,
            folder=self.folder.name,
            **arrays,
        )
        named = (shard.digests, shard.splits, shard.diverging)
        name = hashlib.sha256(repr(named).encode()).hexdigest()[:32]
        path = self.folder / f"{name}.npz"
        return path if keep(path, content.getvalue()) else None

    def _load(self, path: Path) -> Shard | None:
        """Returns a file's content, None where it is gone or damaged. Sets a damaged one aside."""
        try:
            with np.load(path, allow_pickle=False) as file:  # checks every array's checksum
                arrays = dict(file)
            if str(arrays["folder"]) != path.parent.name:  # named after model, quantizer, task
                raise ValueError("it was written for another place")
            digests = [row.tobytes() for row in arrays["requests"]]
            splits = [tuple(split) for split in arrays["splits"].tolist()]
            scored = Scored(*(arrays[name] for name in FIELDS))
            for name in FIELDS:
                if arrays[name].shape != (len(digests), len(splits)):
                    raise ValueError(f"{name} has the shape {arrays[name].shape}")
            mark_used(path)
            return Shard(digests, splits, scored, bool(arrays["diverging"]))
        except FileNotFoundError:  # merged or evicted by another process
            return None
        except Exception as e:  # zipfile, zlib and NumPy raise a dozen kinds for damaged bytes
            log.warning("Damaged journal file %s (%s): set aside, scored again.", path, e)
            with suppress(OSError):
                set_aside(path)
            return None


def gather(
    shards: Iterable[Shard], digests: Sequence[bytes], splits: Sequence[Split]
) -> tuple[Scored, np.ndarray]:
    """Returns what shards hold of these requests and splits, and where: a bool array [requests,
    splits]. Later shards take precedence."""
    scored = Scored.empty(len(digests), len(splits))
    kept = np.zeros((len(digests), len(splits)), bool)
    rows = {d: r for r, d in enumerate(digests)}
    columns = {split: c for c, split in enumerate(splits)}
    for shard in shards:
        from_rows = [r for r, d in enumerate(shard.digests) if d in rows]
        from_columns = [c for c, split in enumerate(shard.splits) if split in columns]
        to_rows = [rows[shard.digests[r]] for r in from_rows]
        to_columns = [columns[shard.splits[c]] for c in from_columns]
        scored.put(to_rows, to_columns, shard.scored.take(from_rows, from_columns))
        kept[np.ix_(to_rows, to_columns)] = True
    return scored, kept
