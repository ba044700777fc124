"""A job is followed by polling, so that its handler alone writes what it answers for."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from typing import Any

from ..core.duration import duration
from .status import status_html
from .strip import Strip, Updates
from .worker import Job

POLL_SECONDS = 0.2


def follow(
    strip: Strip,
    user: str,
    work: Callable[[Job], Any],
    partial: Callable[[Any], Updates] = lambda partial: {},
) -> Generator[Updates, None, Any]:
    """Submits a job, and yields how far it is until it ends, with what `partial` makes of its
    partial results. Returns the job's result, or raises its error."""
    worker = strip.server.worker
    strip.server.shelf.come(user)
    job = worker.submit(user, work)
    yield strip.buttons(user)
    pace, shown, drawn = Pace(), "", None
    try:
        while not job.done.wait(POLL_SECONDS):
            line, present = status_line(job, worker.ahead_of(job), pace), job.partial
            if line != shown or present is not drawn:
                updates = partial(present) if present is not drawn else {}
                shown, drawn = line, present
                yield {strip.status: line} | updates
    finally:  # a closed browser ends here, on the event loop: this must return at once
        job.run.stop.set()
    if job.error:
        raise job.error
    return job.result


def status_line(job: Job, ahead: int, pace: Pace) -> str:
    """Returns the status line of a job with `ahead` others before it, as HTML."""
    if ahead:
        jobs = "1 job is" if ahead == 1 else f"{ahead} jobs are"
        return status_html(f"Waiting: {jobs} before yours.", running=True)
    if job.run.stop.is_set():
        return status_html("Stopping", running=True)
    left = pace.left(job.share, time.monotonic())
    return status_html(job.what, share=job.share, left=left, running=True)


class Pace:
    """How long a job still takes, from how far it came in the time that it took so far. A job of
    several parts starts anew with each."""

    def __init__(self) -> None:
        self.began: tuple[float, float] | None = None
        self.last = 0.0

    def left(self, share: float | None, now: float) -> str:
        """Returns nothing while there is too little to tell from."""
        if share is None:
            self.began = None
            return ""
        if self.began is None or share < self.last:
            self.began = share, now
        self.last = share
        done, took = share - self.began[0], now - self.began[1]
        if took < 3 or done < 0.02 or share > 0.99:
            return ""
        return f"{duration((1 - share) * took / done)} left"
