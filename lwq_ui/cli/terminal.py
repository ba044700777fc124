"""Standard output and standard error: progress, warnings, and where a result goes."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import tempfile
from typing import Any, TextIO

from ..core.errors import reason
from ..core.outputs import write_file
from ..core.store import dumps

ERASE = "\r\x1b[K"  # to the start of the line, and nothing after it
PACKAGE = __name__.partition(".")[0]


class Terminal:
    """Shows progress on standard error: one line that is rewritten, or a line per step where
    standard error is a file."""

    def __init__(self) -> None:
        self.last = ""

    def __call__(self, what: str, done: float | None) -> None:
        share = "" if done is None else f" {done:4.0%}"
        with contextlib.suppress(OSError):  # a closed terminal ends no work
            if sys.stderr.isatty():
                sys.stderr.write(f"{ERASE}{what}{share}")
            elif what != self.last:
                sys.stderr.write(f"{what}\n")
            self.last = what
            sys.stderr.flush()


def erase_progress() -> None:
    with contextlib.suppress(OSError):
        if sys.stderr.isatty():
            sys.stderr.write(ERASE)


def print_note(text: str) -> None:
    """Writes a line to standard error, where the progress stands."""
    erase_progress()
    print(text, file=sys.stderr)


class Warnings(logging.Handler):
    """Writes this program's warnings to standard error, once. What libraries do with their logs
    does not matter."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)

    def emit(self, record: logging.LogRecord) -> None:
        print_note(self.format(record))

    def __enter__(self) -> None:
        log = logging.getLogger(PACKAGE)
        log.addHandler(self)
        log.propagate = False

    def __exit__(self, *_: object) -> None:
        log = logging.getLogger(PACKAGE)
        log.removeHandler(self)
        log.propagate = True


def deliver(target: str | None, data: Any, text: str) -> list[str]:
    """Writes the JSON result into `target` and the text to standard output. For "-" the JSON goes
    to standard output, and the text nowhere.

    A result that cannot be written to its place is written elsewhere. Returns a sentence for each.
    """
    result, sentences = dumps(data) + "\n", []
    shown = text + "\n"
    if target == "-" or (target and is_stream(target, sys.stdout)):
        shown = result
    elif target:
        try:
            write_file(target, result.encode("utf-8", "backslashreplace"))
        except OSError as e:
            shown = result
            sentences.append(
                f"'{target}' cannot be written: {reason(e)}. Its content went to standard output."
            )
    try:
        if shown is result and isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8")  # what JSON is written in
        sys.stdout.write(shown)
        sys.stdout.flush()
    except OSError as e:
        discard(sys.stdout)
        handle, kept = tempfile.mkstemp(prefix="lwq-", suffix=".json")
        with open(handle, "wb") as file:
            file.write(result.encode("utf-8", "backslashreplace"))
        sentences.append(
            f"Standard output cannot be written: {reason(e)}. The result is in '{kept}'."
        )
    return sentences


def make_printable() -> None:
    """Lets any text be printed, whatever the encoding, and also where there is no stream."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by the shell
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  (it stays open)
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def is_stream(path: str, stream: TextIO) -> bool:
    """Whether the path names what the stream writes to, as /dev/stdout does."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(stream.fileno()))
    except (OSError, ValueError):
        return False


def discard(stream: TextIO) -> None:
    """Points a broken stream at nothing, so that Python does not fail again when it ends."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
