"""What a sweep has scored so far, on disk: a sweep that is killed loses what it was just walking,
and a later one with more requests, or more splits, computes only these."""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..core.allocation import Split
from ..core.store import write_atomically
from .rows import Request

log = logging.getLogger(__name__)

FIELDS = ("logprob", "greedy", "divergence", "agreement")


@dataclass(frozen=True)
class Scored:
    """What requests score under each split; every array is [requests, splits]. Log-probabilities
    and divergences are sums over a request's targets, in nats."""

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
    """16 bytes that stand for the request."""
    tokens, targets = (np.asarray(x, np.int64) for x in (request.tokens, request.targets))
    content = len(tokens).to_bytes(8, "little") + tokens.tobytes() + targets.tobytes()
    return hashlib.sha256(content).digest()[:16]


class Journal:
    """A folder of .npz files, one for each shard of a sweep. All of them are of one model, one
    quantizer and one device. Without a folder nothing is kept."""

    def __init__(self, folder: Path | None):
        self.folder = folder

    def write(
        self, digests: Sequence[bytes], splits: Sequence[Split], scored: Scored, divergence: bool
    ) -> None:
        if self.folder is None:
            return
        arrays = {name: getattr(scored, name) for name in FIELDS}
        requests = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 16)
        content = io.BytesIO()
        np.savez(content, requests=requests, splits=splits, diverging=divergence, **arrays)
        name = hashlib.sha256(repr((digests, splits, divergence)).encode()).hexdigest()[:32]
        write_atomically(self.folder / f"{name}.npz", content.getvalue())

    def read(
        self, digests: Sequence[bytes], splits: Sequence[Split], divergence: bool
    ) -> tuple[Scored, np.ndarray]:
        """What is known, and where it is: a bool array [requests, splits]. Only what was scored
        with divergence serves a sweep that asks for it."""
        scored = Scored.empty(len(digests), len(splits))
        known = np.zeros((len(digests), len(splits)), bool)
        rows = {d: r for r, d in enumerate(digests)}
        columns = {split: c for c, split in enumerate(splits)}
        for path in sorted(self.folder.glob("*.npz")) if self.folder else ():
            entry = self._load(path)
            if entry is None or (divergence and not entry[3]):
                continue
            theirs, their_splits, their_scored, _ = entry
            from_rows = [r for r, d in enumerate(theirs) if d in rows]
            from_columns = [c for c, split in enumerate(their_splits) if split in columns]
            to_rows = [rows[theirs[r]] for r in from_rows]
            to_columns = [columns[their_splits[c]] for c in from_columns]
            scored.put(to_rows, to_columns, their_scored.take(from_rows, from_columns))
            known[np.ix_(to_rows, to_columns)] = True
        return scored, known

    def _load(self, path: Path) -> tuple[list[bytes], list[Split], Scored, bool] | None:
        try:
            with np.load(path, allow_pickle=False) as file:  # checks every array's checksum
                arrays = dict(file)
            digests = [row.tobytes() for row in arrays["requests"]]
            splits = [tuple(split) for split in arrays["splits"].tolist()]
            scored = Scored(*(arrays[name] for name in FIELDS))
            for name in FIELDS:
                if arrays[name].shape != (len(digests), len(splits)):
                    raise ValueError(f"{name} has the shape {arrays[name].shape}")
            return digests, splits, scored, bool(arrays["diverging"])
        except Exception as e:
            log.warning("Damaged journal file %s (%s): set aside, scored again.", path, e)
            path.replace(path.with_suffix(".damaged"))
            return None
