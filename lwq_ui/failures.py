"""Unexpected errors: one sentence for the user, the details in a log file that it names."""

from __future__ import annotations

import errno
import functools
import importlib.metadata
import os
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .core.errors import UserError, first_line

LOG = "lwq.log"
MOST_LOG = 2**20  # bytes of the log file; its older half goes first
MOST_ENTRY = 2**16  # characters of one error, whose end says the most
PACKAGES = ("torch", "transformers", "lm-eval", "gradio", "optimum-quanto", "gptqmodel")

# Words in the errors of torch's allocators, the C++ library and the operating system. oneDNN has no
# error of its own for it.
NO_MEMORY = (
    *("out of memory", "not enough memory", "allocate memory", "bad_alloc", "bad allocation"),
    *("defaultcpuallocator", "could not create a primitive", "std::length_error"),
)


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on any device. It needs no torch: the error's name is enough."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno == errno.ENOMEM
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = text_of(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in NO_MEMORY)


def is_panic(error: BaseException) -> bool:
    """Whether a library written in Rust gave up, such as tokenizers. Its panic is no Exception."""
    return not isinstance(error, Exception) and type(error).__name__ == "PanicException"


@contextmanager
def refusing(sentence: Callable[[str], str]) -> Iterator[None]:
    """Raises UserError with the sentence on the cause for every failure within, a panic included. A
    UserError passes."""
    try:
        yield
    except UserError:
        raise
    except BaseException as e:
        if not (isinstance(e, Exception) or is_panic(e)):
            raise
        raise UserError(sentence(first_line(e))) from e


def unexpected(error: BaseException, cache: Path) -> UserError:
    """Returns what the user reads about an error that nobody foresaw. Its traceback goes to lwq.log
    in `cache`, or to a temporary file where that cannot be written."""
    details = logged(error, cache)
    if out_of_memory(error):
        return UserError(
            "The memory is not enough. Close other programs, or choose a smaller model, a smaller "
            f"number format, fewer tokens or another device. {details}"
        )
    text = (text_of(error).strip().splitlines() or [""])[0][:200].rstrip(".")
    kind = type(error).__name__ + (f": {text}" if text else "")
    return UserError(f"Something went wrong ({kind}). {details}")


def logged(error: BaseException, cache: Path) -> str:
    """Writes the error to the log. Returns a sentence that names the file."""
    log = write_log(error, cache)
    return f"The details are in '{log}'." if log else "No log could be written."


def text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # an error whose own text fails
        return ""


def write_log(error: BaseException, cache: Path) -> Path | None:
    """Appends the error to the log. Returns the file, or None where none can be written."""
    trace = "".join(traceback.format_exception(error))[-MOST_ENTRY:]
    entry = (
        f"==== {time.strftime('%Y-%m-%d %H:%M:%S %z')}\n"
        f"Command: {' '.join(sys.argv)[:1000]}\n"
        f"Versions: Python {platform.python_version()} on {platform.platform()}, {installed()}\n"
        f"{trace}\n"
    ).encode("utf-8", "backslashreplace")
    for log in (lambda: cache / LOG, temporary_log):
        try:
            path = log()
            path.parent.mkdir(parents=True, exist_ok=True)
            append(path, entry)
            return path
        except (OSError, ValueError):  # ValueError: a path with a null character
            continue
    return None


@functools.cache
def temporary_log() -> Path:
    """Makes one file for this process: a fixed name could be another user's link."""
    handle, name = tempfile.mkstemp(prefix="lwq-", suffix=".log")
    os.close(handle)
    return Path(name)


def append(path: Path, entry: bytes) -> None:
    if path.exists() and path.stat().st_size + len(entry) > MOST_LOG:
        path.write_bytes(path.read_bytes()[-MOST_LOG // 2 :])
    with path.open("ab") as file:
        file.write(entry)


def installed() -> str:
    versions = []
    for package in PACKAGES:
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return ", ".join(versions)
