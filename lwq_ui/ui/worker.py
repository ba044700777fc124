"""One job at a time on the device, first come first served, in a thread of its own.

Gradio's `cancels=` would free its queue while the old step still computes; here a job ends when its
function has returned, and only then does the next one start.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .. import failures
from ..core.errors import Stopped, UserError
from ..core.run import Run
from ..core.settings import Settings
from ..core.store import Store

log = logging.getLogger(__name__)


class Job:
    """What a user asked for. `work(job)` runs in the worker thread as `job.run`, and may set
    `job.partial` on the way to its result."""

    def __init__(self, user: str, work: Callable[[Job], Any], settings: Settings, store: Store):
        self.user = user
        self.work = work
        self.run = Run(settings, store, self.report)
        self.done = threading.Event()
        self.what = "Starting"
        self.share: float | None = None
        self.partial: Any = None
        self.result: Any = None
        self.error: Stopped | UserError | None = None

    def report(self, what: str, share: float | None) -> None:
        self.what, self.share = what, share

    def perform(self) -> None:
        """Does the work. The cache's folder gets the log of errors that nobody foresaw."""
        try:
            self.run.check()
            self.result = self.work(self)
        except (Stopped, UserError) as e:
            e.__cause__ = e.__context__ = None  # their frames would keep the job's tensors
            self.error = e.with_traceback(None)
        except BaseException as e:  # SystemExit too: the thread serves everybody
            self.error = unexpected(e, self.run.settings.cache)


def unexpected(error: BaseException, cache: Path) -> UserError:
    """What a user reads where the program is at fault. Beside the log file, the terminal shows the
    traceback: whoever runs the page for others sees no more than that."""
    log.error("Something went wrong", exc_info=error)
    return failures.unexpected(error, cache)


class Worker:
    """The line of jobs. A user has at most one of them. `clean_up` runs after each."""

    def __init__(self, settings: Settings, store: Store, clean_up: Callable[[], None]) -> None:
        self._settings = settings
        self._store = store
        self._clean_up = clean_up
        self._line: deque[Job] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def submit(self, user: str, work: Callable[[Job], Any]) -> Job:
        job = Job(user, work, self._settings, self._store)
        with self._changed:
            if self.job_of(user):
                raise UserError("Something of yours is still running. Stop it or wait for it.")
            self._line.append(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, daemon=True, name="lwq-jobs")
                self._thread.start()
            self._changed.notify()
        return job

    @property
    def busy(self) -> bool:
        return bool(self._line)

    def job_of(self, user: str) -> Job | None:
        return next((job for job in list(self._line) if job.user == user), None)

    def ahead_of(self, job: Job) -> int:
        """How many jobs run or wait before this one."""
        line = list(self._line)
        return line.index(job) if job in line else 0

    def stop(self, user: str) -> None:
        """A waiting job ends at once; a running one at its next layer or batch."""
        with self._changed:
            job = self.job_of(user)
            if job is None:
                return
            job.run.stop.set()
            if self._line[0] is not job:
                self._line.remove(job)
                job.error = Stopped()
                job.done.set()

    def _serve(self) -> None:
        while True:
            with self._changed:
                while not self._line:
                    self._changed.wait()
                job = self._line[0]
            job.perform()
            try:
                self._clean_up()
            except Exception:
                log.exception("Memory could not be freed")
            with self._changed:
                self._line.popleft()
            job.done.set()
