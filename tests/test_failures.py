"""Errors that nobody foresaw: one sentence, and a log that it names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lwq_ui import failures
from lwq_ui.failures import MOST_LOG, unexpected


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as e:
        return e


class Panic(BaseException):
    """As tokenizers' PanicException: no Exception."""


class Unprintable(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (RuntimeError("boom.\nand a second line"), "Something went wrong (RuntimeError: boom). "),
        (KeyError("x"), "Something went wrong (KeyError: 'x'). "),
        (Panic("no entry found"), "Something went wrong (Panic: no entry found). "),
        (Unprintable(), "Something went wrong (Unprintable). "),
        (AssertionError(), "Something went wrong (AssertionError). "),
    ],
)
def test_the_sentence_and_the_log(error: BaseException, sentence: str, tmp_path: Path) -> None:
    log = tmp_path / "cache" / "lwq.log"
    assert str(unexpected(raised(error), log.parent)) == f"{sentence}The details are in '{log}'."
    content = log.read_text()
    assert "in raised" in content and type(error).__name__ in content
    assert "Command: " in content and "Versions: Python 3." in content and "torch " in content


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("could not create a primitive"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("not enough memory: you tried to allocate 8 bytes"),
    ],
)
def test_too_little_memory_is_told_as_such(error: Exception, tmp_path: Path) -> None:
    sentence = str(unexpected(raised(error), tmp_path))
    assert sentence.startswith("The memory is not enough. Close other programs, or choose")
    assert sentence.endswith(f"The details are in '{tmp_path / 'lwq.log'}'.")


def test_the_log_is_bounded_and_keeps_the_last_errors(tmp_path: Path) -> None:
    for k in range(30):
        unexpected(raised(ValueError(f"number {k} " + "x" * 2 * failures.MOST_ENTRY)), tmp_path)
    unexpected(raised(ValueError("the last")), tmp_path)
    content = (tmp_path / "lwq.log").read_text()
    assert MOST_LOG // 3 < len(content) <= MOST_LOG
    assert "ValueError: the last" in content and "ValueError: number 0 " not in content


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("mine")
    monkeypatch.setattr(failures.tempfile, "tempdir", str(tmp_path))
    failures.temporary_log.cache_clear()
    named = set()
    for cache in (tmp_path / "file", Path("a\0b")):
        sentence = str(unexpected(raised(ValueError("boom")), cache))
        named.add(re.search("The details are in '(.*)'", sentence)[1])  # type: ignore[index]
    (log,) = named
    assert Path(log).parent == tmp_path and Path(log).read_text().count("ValueError: boom") == 2
    assert (tmp_path / "file").read_text() == "mine"
    failures.temporary_log.cache_clear()
    monkeypatch.setattr(failures.tempfile, "tempdir", str(tmp_path / "nowhere"))
    assert str(unexpected(raised(ValueError("boom")), tmp_path / "file")).endswith(
        "No log could be written."
    )
    failures.temporary_log.cache_clear()


def test_text_that_is_no_unicode(tmp_path: Path) -> None:
    unexpected(raised(ValueError("a name \udcff of a file")), tmp_path)
    assert "a name \\udcff of a file" in (tmp_path / "lwq.log").read_text()
