"""The result of a command, also where a part of its work failed or was stopped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from ..core.errors import Stopped, UnknownArchitecture, UserError
from ..core.run import Run
from ..failures import unexpected

T = TypeVar("T")


@dataclass(frozen=True)
class Result:
    """`data` is written as JSON, `text` is for people. `failures` has a sentence for each part of
    the work that failed. `stopped` says that the user ended it."""

    data: Any
    text: str
    failures: tuple[str, ...] = ()
    stopped: bool = False


class Parts:
    """The parts of a command's work. One that fails or is stopped leaves the others' results."""

    def __init__(self, run: Run):
        self.run = run
        self.failures: dict[str, None] = {}  # each sentence once, in their order
        self.stopped = False

    def attempt(self, otherwise: T, work: Callable[..., T], *arguments: Any) -> T:
        """Returns what the work returns, or `otherwise` where it fails. Once the user has stopped
        one part, the later ones do not start."""
        if self.stopped:
            return otherwise
        try:
            return work(*arguments)
        except Stopped:
            self.stopped = True
        except (UnknownArchitecture, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as e:
            error = e if isinstance(e, UserError) else unexpected(e, self.run.settings.cache)
            self.failures[str(error)] = None
        return otherwise

    def result(self, data: Any, text: str) -> Result:
        return Result(data, text, tuple(self.failures), self.stopped)

    def check(self, results: Any) -> None:
        """Raises what ended the work where there are no results at all."""
        if not results and self.stopped:
            raise Stopped
        if not results and self.failures:
            raise UserError(" ".join(self.failures))
