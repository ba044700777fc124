"""The line of jobs, without a page."""

from __future__ import annotations

import gc
import threading
import weakref
from pathlib import Path

import pytest

from lwq_ui.core.errors import Stopped, UserError
from lwq_ui.core.settings import Settings
from lwq_ui.core.store import Store
from lwq_ui.ui.worker import Job, Worker, log

SOON = 10  # seconds; what is waited for takes milliseconds


class Held:
    """A job that runs until it is let go, or stopped."""

    def __init__(self) -> None:
        self.running = threading.Event()
        self.go = threading.Event()

    def __call__(self, job: Job) -> str:
        self.running.set()
        while not self.go.wait(0.005):
            job.run.check()
        return "done"


@pytest.fixture
def cleaned() -> list[int]:
    return []


@pytest.fixture
def worker(cleaned: list[int], tmp_path: Path) -> Worker:
    return Worker(Settings(tmp_path), Store(tmp_path), lambda: cleaned.append(len(cleaned)))


def ended(job: Job) -> Job:
    assert job.done.wait(SOON)
    return job


def test_jobs_run_one_at_a_time_in_their_order(worker: Worker, cleaned: list[int]) -> None:
    active: list[str] = []
    order: list[str] = []
    overlapped = []

    def work(job: Job) -> None:
        active.append(job.user)
        order.append(job.user)
        overlapped.append(len(active) > 1)
        threading.Event().wait(0.01)
        active.remove(job.user)

    held = Held()
    first = worker.submit("first", held)
    assert held.running.wait(SOON)
    jobs = [worker.submit(f"user {i}", work) for i in range(5)]
    assert [worker.ahead_of(job) for job in [first, *jobs]] == [0, 1, 2, 3, 4, 5]
    held.go.set()
    for job in jobs:
        ended(job)
    assert order == [f"user {i}" for i in range(5)] and not any(overlapped)
    assert first.result == "done" and len(cleaned) == 6
    assert [worker.ahead_of(job) for job in jobs] == [0] * 5 and not worker.busy


def test_a_user_has_one_job(worker: Worker) -> None:
    held = Held()
    first = worker.submit("ann", held)
    with pytest.raises(UserError, match="still running"):
        worker.submit("ann", Held())
    other = Held()
    second = worker.submit("bob", other)
    with pytest.raises(UserError, match="still running"):
        worker.submit("bob", Held())  # waiting counts
    held.go.set()
    ended(first)
    third = worker.submit("ann", lambda job: 3)
    other.go.set()
    assert (ended(second).result, ended(third).result) == ("done", 3)


def test_stop_ends_a_running_job_and_the_next_one_starts(worker: Worker) -> None:
    held, other = Held(), Held()
    first = worker.submit("ann", held)
    second = worker.submit("bob", other)
    assert held.running.wait(SOON)
    worker.stop("ann")
    assert isinstance(ended(first).error, Stopped) and first.result is None
    assert other.running.wait(SOON) and not second.done.is_set()
    other.go.set()
    assert ended(second).error is None


def test_a_stopped_job_holds_the_device_until_its_function_returns(worker: Worker) -> None:
    running, go = threading.Event(), threading.Event()

    def deaf(job: Job) -> None:
        running.set()
        go.wait(SOON)

    first = worker.submit("ann", deaf)
    second = worker.submit("bob", lambda job: 2)
    assert running.wait(SOON)
    worker.stop("ann")
    assert not second.done.wait(0.1) and worker.job_of("ann") is first
    go.set()
    assert ended(second).result == 2 and worker.job_of("ann") is None


def test_stop_takes_a_waiting_job_out_of_the_line_at_once(worker: Worker) -> None:
    held = Held()
    ran = []
    first = worker.submit("ann", held)
    second = worker.submit("bob", lambda job: ran.append("bob"))
    third = worker.submit("eve", lambda job: ran.append("eve"))
    assert held.running.wait(SOON)
    worker.stop("bob")
    assert second.done.is_set() and isinstance(second.error, Stopped)
    assert not first.run.stop.is_set() and worker.ahead_of(third) == 1
    assert worker.job_of("bob") is None
    held.go.set()
    ended(third)
    assert ran == ["eve"] and first.result == "done"


def test_stop_of_a_user_without_a_job_does_nothing(worker: Worker) -> None:
    held = Held()
    job = worker.submit("ann", held)
    worker.stop("nobody")
    held.go.set()
    assert ended(job).error is None


@pytest.mark.parametrize("raised", [UserError, RuntimeError, SystemExit])
def test_an_error_ends_its_job_alone_and_drops_its_frames(
    worker: Worker, raised, monkeypatch
) -> None:
    monkeypatch.setattr(log, "disabled", True)  # pytest keeps what is logged, frames included

    class Tensor:
        pass

    seen = []

    def work(job: Job) -> None:
        tensor = Tensor()
        seen.append(weakref.ref(tensor))
        try:
            raise ValueError("inner")
        except ValueError as e:
            raise raised from e

    job = ended(worker.submit("ann", work))
    del work
    gc.collect()
    assert isinstance(job.error, UserError) and job.error.__traceback__ is None
    assert seen[0]() is None
    assert ended(worker.submit("ann", lambda job: 1)).result == 1


def test_an_unexpected_error_is_one_sentence_and_logged(
    worker: Worker, caplog, tmp_path: Path
) -> None:
    def work(job: Job) -> None:
        raise RuntimeError("boom.\nand a second line")

    job = ended(worker.submit("ann", work))
    assert str(job.error) == (
        f"Something went wrong (RuntimeError: boom). The details are in '{tmp_path / 'lwq.log'}'."
    )
    assert "in work" in caplog.text  # the traceback
    assert "in work" in (tmp_path / "lwq.log").read_text()


def test_a_failing_clean_up_does_not_end_the_worker(tmp_path: Path) -> None:
    def fail() -> None:
        raise RuntimeError("no memory")

    worker = Worker(Settings(tmp_path), Store(tmp_path), fail)
    assert ended(worker.submit("ann", lambda job: 1)).result == 1
    assert ended(worker.submit("ann", lambda job: 2)).result == 2


def test_progress_and_partial_results_are_seen_from_outside(worker: Worker) -> None:
    held = Held()

    def work(job: Job) -> str:
        job.run.progress("Reading", 0.5)
        job.partial = ("a", "b")
        return held(job)

    job = worker.submit("ann", work)
    assert held.running.wait(SOON)
    assert (job.what, job.share, job.partial) == ("Reading", 0.5, ("a", "b"))
    held.go.set()
    ended(job)
