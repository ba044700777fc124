"""What is scored once is kept: through kills, larger limits, other splits and damaged files."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

from lwq_ui.core import store as store_module
from lwq_ui.engine.banks.bank import Bank
from lwq_ui.engine.batches.request import Request
from lwq_ui.engine.models.loading import LoadedModel
from lwq_ui.engine.quantizers import quantizer_named
from lwq_ui.engine.sweeps.journal import FIELDS, MOST_FILES, Journal, Scored, digest
from lwq_ui.engine.sweeps.sweep import Sweep

SPLITS = [(4, 4, 4, 4), (4, 4, 2, 2), (16, 16, 16, 16), (2, 0, 2, 4)]
MORE = [(2, 2, 2, 2), (4, 0, 4, 8)]


def questions(n: int) -> list[Request]:
    """Each with three endings; and passages."""
    found = []
    for k in range(n):
        context, passage, *endings = tiny.documents(8 + k % 5, 12, 3, 4, 2, seed=k)
        found += [Request((context + e)[:-1], e) for e in endings]
        found.append(Request(passage[:-1], passage[1:]))
    return found


@pytest.fixture
def bank(loaded_of: Callable[..., LoadedModel]) -> Bank:
    return Bank(loaded_of("llama"), tiny.QUANTO)


@pytest.fixture
def steps(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tokens of every step of the walk."""
    walk = bank.loaded.walk
    assert walk.shares_prefixes
    found: list[int] = []
    step = walk.step
    monkeypatch.setattr(
        walk, "step", lambda i, h, *rest: found.append(h[..., 0].numel()) or step(i, h, *rest)
    )
    return found


def score(
    bank: Bank, splits: list[tuple[int, ...]], asked: list[Request], journal: Path | None, div=True
) -> Scored:
    """In several shards."""
    limits = tiny.limits(bank.loaded, batch_tokens=60, operations=3e7)
    return Sweep(bank, splits, tiny.run(), journal, limits).score(asked, "x", divergence=div)


def same(a: Scored, b: Scored) -> bool:
    return all((getattr(a, name) == getattr(b, name)).all() for name in FIELDS)


def close(a: Scored, b: Scored) -> bool:
    return bool(
        np.allclose(a.logprob, b.logprob, rtol=1e-5)
        and np.allclose(a.divergence, b.divergence, rtol=1e-3, atol=1e-4)
        and (a.greedy == b.greedy).all()
        and (a.agreement == b.agreement).all()
    )


KILLED = """
import os, signal, sys
from pathlib import Path
from threading import Event
sys.path.insert(0, {here!r})
import test_journal as t, tiny
from lwq_ui.engine.sweeps import journal
write, left = journal.keep, [{shards}]
def dying(path, content):
    write(path, content)
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    return True
journal.keep = dying
bank = t.Bank(tiny.load(Path({model!r})), tiny.QUANTO)
t.score(bank, t.SPLITS, t.questions(8), Path({folder!r}))
"""


def test_a_killed_sweep_goes_on_and_gives_the_same_numbers(
    bank: Bank, steps: list[int], folder_of: Callable[..., Path], tmp_path: Path
) -> None:
    asked = questions(8)
    undisturbed = score(bank, SPLITS, asked, tmp_path / "whole")
    files = sorted(p.name for p in (tmp_path / "whole").iterdir())
    work = len(steps)
    assert len(files) >= 4
    folder = tmp_path / "killed"
    for shards in (1, 2):  # killed twice
        code = KILLED.format(
            here=str(Path(__file__).parent),
            shards=shards,
            model=str(folder_of("llama")),
            folder=str(folder),
        )
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert run.returncode == -signal.SIGKILL, run.stderr
    assert len(list(folder.iterdir())) == 3
    steps.clear()
    resumed = score(bank, SPLITS, asked, folder)
    assert same(resumed, undisturbed)
    assert sorted(p.name for p in folder.iterdir()) == files
    assert 0 < len(steps) < work
    steps.clear()
    assert same(score(bank, SPLITS, asked, folder), undisturbed)
    assert not steps


def test_more_requests_and_more_splits_compute_only_these(
    bank: Bank, steps: list[int], tmp_path: Path
) -> None:
    few, many = questions(4), questions(8)
    first = score(bank, SPLITS, few, tmp_path)
    alone = sum(steps)
    steps.clear()
    second = score(bank, SPLITS, many, tmp_path)
    assert same(Scored(*(getattr(second, name)[: len(few)] for name in FIELDS)), first)
    assert sum(steps) < 1.6 * alone  # not the first half again
    steps.clear()
    third = score(bank, [*MORE, *SPLITS], many[::-1], tmp_path)
    assert same(third.take(range(len(many))[::-1], range(2, 6)), second)
    layers = sum(len({s[: i + 1] for s in (*MORE, (16,) * 4) if s[i]}) for i in range(4))
    assert len(steps) % layers == 0
    steps.clear()
    assert close(third, score(bank, [*MORE, *SPLITS], many[::-1], None))
    steps.clear()
    score(bank, [*SPLITS, *MORE], many, tmp_path)
    score(bank, MORE, few, tmp_path, div=False)
    assert not steps


def test_some_splits_of_some_requests_are_known(
    bank: Bank, steps: list[int], tmp_path: Path
) -> None:
    few, many = questions(4), questions(8)
    score(bank, SPLITS, few, tmp_path)
    score(bank, MORE, many[len(few) :], tmp_path)
    found = score(bank, [*SPLITS, *MORE], many, tmp_path)
    steps.clear()
    assert same(found, score(bank, [*SPLITS, *MORE], many, tmp_path))
    assert not steps
    assert close(found, score(bank, [*SPLITS, *MORE], many, None))


def test_what_was_scored_without_divergence_serves_no_call_that_asks_for_it(
    bank: Bank, steps: list[int], tmp_path: Path
) -> None:
    asked = questions(3)
    score(bank, SPLITS, asked, tmp_path, div=False)
    steps.clear()
    found = score(bank, SPLITS, asked, tmp_path)
    assert steps and found.divergence[:, 0].all()
    assert same(found, score(bank, SPLITS, asked, None))


def test_the_same_request_twice_and_the_same_split_twice(bank: Bank, steps: list[int]) -> None:
    asked = questions(2)
    once = score(bank, SPLITS, asked, None)
    work = len(steps)
    twice = score(bank, [*SPLITS, *SPLITS[:2]], [*asked, *asked[:3]], None)
    assert len(steps) == 2 * work
    assert same(twice.take(range(len(asked)), range(4)), once)
    assert same(twice.take(range(len(asked), len(asked) + 3), (4, 5)), once.take(range(3), (0, 1)))


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "other"])
def test_a_damaged_file_is_set_aside_and_its_work_done_again(
    damage: str, bank: Bank, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    asked = questions(8)
    whole = score(bank, SPLITS, asked, tmp_path)
    path = min(tmp_path.iterdir())
    good = path.read_bytes()
    flipped = bytearray(good)
    at = good.index(b"logprob.npy") + 200  # within its numbers
    flipped[at] ^= 1
    wrong = {"cut": good[:-50], "empty": b"", "flipped": bytes(flipped), "other": b"PK\x03\x04" * 9}
    path.write_bytes(wrong[damage])
    with caplog.at_level(logging.WARNING):
        assert same(score(bank, SPLITS, asked, tmp_path), whole)
    assert path.name in caplog.text
    assert path.with_suffix(".damaged").read_bytes() == wrong[damage]
    assert path.exists()


def test_a_file_of_another_model_or_quantizer_is_set_aside(
    bank: Bank, loaded_of: Callable[..., LoadedModel], tmp_path: Path
) -> None:
    """Nothing in it but its folder says what it is of."""
    asked = questions(4)
    other = Bank(loaded_of("llama"), quantizer_named("quanto-hqq"))
    score(other, SPLITS, asked, tmp_path / "other")
    shutil.copytree(tmp_path / "other", tmp_path / "own")
    expected = score(bank, SPLITS, asked, None)
    assert not close(score(other, SPLITS, asked, None), expected)
    assert same(score(bank, SPLITS, asked, tmp_path / "own"), expected)
    assert list((tmp_path / "own").glob("*.damaged"))


def test_a_damaged_file_that_cannot_be_moved_is_passed_over(
    bank: Bank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked = questions(8)
    whole = score(bank, SPLITS, asked, tmp_path)
    path = min(tmp_path.iterdir())
    path.write_bytes(b"PK")

    def refuse(self: Path, target: Path) -> Path:
        raise PermissionError("read-only file system")

    monkeypatch.setattr(Path, "replace", refuse)
    assert same(score(bank, SPLITS, asked, tmp_path), whole)
    assert path.name in caplog.text


@pytest.mark.parametrize("where", ["file", "read-only"])
def test_a_sweep_whose_journal_cannot_be_written_gives_its_numbers(
    where: str, bank: Bank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: list[int]
) -> None:
    folder, asked = tmp_path / "model" / "key", questions(4)
    known = score(bank, SPLITS, asked, tmp_path / "other")
    if where == "file":
        folder.parent.write_bytes(b"")
    else:
        first = score(bank, SPLITS, asked[:8], folder)
        monkeypatch.setattr(store_module.tempfile, "mkstemp", refuse_files)
        steps.clear()
        assert same(score(bank, SPLITS, asked[:8], folder), first) and not steps
    assert close(score(bank, SPLITS, asked, folder), known)


def refuse_files(*_: Any, **__: Any) -> None:
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))


Shards = list[tuple[list[bytes], list[tuple[int, ...]], bool]]


def shards() -> Shards:
    """More than a journal keeps apart: overlapping ones, of several sets of splits."""
    name = [bytes([r]) * 16 for r in range(200)]
    many = [(name[3 * k : 3 * k + 5], SPLITS, True) for k in range(MOST_FILES)]
    few = [(name[3 * k : 3 * k + 3], MORE[:1], True) for k in range(MOST_FILES // 2)]
    plain = [(name[150 + k : 152 + k], SPLITS[:2], False) for k in range(5)]
    return [*many, *few, *plain]


def figures(digests: list[bytes], splits: list[tuple[int, ...]]) -> Scored:
    """The same for a request and a split wherever they occur."""
    value = np.array([[d[0] + hash(s) % 1000 / 7 for s in splits] for d in digests])
    return Scored(value, value > 300, value * 2, value * 3)


def test_many_files_are_merged_into_few_that_hold_the_same(tmp_path: Path) -> None:
    for digests, splits, divergence in shards():
        Journal(tmp_path).write(digests, splits, figures(digests, splits), divergence)
    assert len(list(tmp_path.iterdir())) == len(shards())
    everything = [bytes([r]) * 16 for r in range(200)], [*SPLITS, *MORE]
    before = [Journal(tmp_path).read(*everything, divergence) for divergence in (True, False)]
    assert len(list(tmp_path.iterdir())) <= 4
    after = [Journal(tmp_path).read(*everything, divergence) for divergence in (True, False)]
    for (scored, known), (again, still), divergence in zip(before, after, (1, 0), strict=True):
        expected = np.zeros_like(known)
        for digests, splits, diverging in shards():
            rows = [everything[0].index(d) for d in digests]
            if diverging or not divergence:
                expected[np.ix_(rows, [everything[1].index(s) for s in splits])] = True
        assert (known == expected).all() and (still == expected).all()
        assert (again.logprob == scored.logprob).all()
        right = figures(*everything)
        for name in FIELDS:
            assert (getattr(again, name)[known] == getattr(right, name)[known]).all()


def test_files_that_cannot_be_merged_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for digests, splits, divergence in shards():
        Journal(tmp_path).write(digests, splits, figures(digests, splits), divergence)
    files = sorted(tmp_path.iterdir())
    monkeypatch.setattr(store_module.tempfile, "mkstemp", refuse_files)
    assert Journal(tmp_path).read(shards()[0][0], SPLITS, True)[1].all()
    assert sorted(tmp_path.iterdir()) == files


def test_what_another_process_merges_meanwhile_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = [bytes([r]) * 16 for r in range(9)]
    for digest_ in everything:
        Journal(tmp_path).write([digest_], SPLITS, figures([digest_], SPLITS), True)
    other, load = Journal(tmp_path), Journal._load

    def late(self: Journal, path: Path) -> Any:
        monkeypatch.setattr(Journal, "_load", load)
        other._merge(other._shards())
        return load(self, path)

    monkeypatch.setattr(Journal, "_load", late)
    assert Journal(tmp_path).read(everything, SPLITS, True)[1].all()
    assert len(list(tmp_path.iterdir())) == 1


def test_a_digest_tells_requests_apart() -> None:
    same_flat = [Request([1, 2, 3], [4]), Request([1, 2], [3, 4]), Request((1, 2, 3), (4,))]
    assert digest(same_flat[0]) == digest(same_flat[2]) != digest(same_flat[1])


def test_without_a_folder_nothing_is_kept() -> None:
    journal = Journal(None)
    journal.write([b"x" * 16], [(4,)], Scored.empty(1, 1), False)
    assert not journal.read([b"x" * 16], [(4,)], False)[1].any()
