"""Texts to calibrate and to measure on. No torch here."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..core.errors import UserError
from ..settings import Settings

MAX_DOCUMENTS = 50  # paper section 3.1
MAX_TOKENS = 512  # of one document
WORDS = 400  # of one document cut from a longer text
PG19 = "pg19"


@dataclass(frozen=True)
class Text:
    """Documents, each of them one sequence."""

    name: str
    documents: tuple[str, ...]

    @cached_property
    def digest(self) -> str:
        return hashlib.sha256("\0".join(self.documents).encode()).hexdigest()


def shipped_calibration(settings: Settings) -> Text:
    return read_folder(settings.assets / "calibration", "shipped calibration text")


def held_out_passages(settings: Settings) -> Text:
    """Never calibrated on."""
    return read_folder(settings.assets / "passages", "held-out passages")


def read_folder(folder: Path, name: str) -> Text:
    documents = tuple(read(path) for path in sorted(folder.glob("*.txt")))
    if not documents:
        raise UserError(f"The folder '{folder}' has no .txt files.")
    return Text(name, documents)


def read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as e:
        raise UserError(f"'{path.name}' is not UTF-8 text.") from e
    except OSError as e:
        raise UserError(f"'{path}' cannot be read: {e.strerror}.") from e


def calibration_text(choice: str | None, settings: Settings) -> Text:
    """The shipped text (None), PG19 ('pg19'), or the user's own file or folder of .txt files."""
    if choice is None:
        return shipped_calibration(settings)
    if choice == PG19:
        return pg19()
    path = Path(choice).expanduser()
    if path.is_dir():
        text = read_folder(path, path.name)
        return Text(text.name, text.documents[:MAX_DOCUMENTS])
    if not path.exists():
        raise UserError(f"There is no text file '{choice}'.")
    documents = documents_in(read(path))
    if not documents:
        raise UserError(f"'{path.name}' holds no text.")
    return Text(path.name, documents)


def documents_in(text: str) -> tuple[str, ...]:
    """A long text as documents of about 400 words, cut at blank lines where there are any."""
    documents: list[str] = []
    words = 0
    for paragraph in (p.strip() for p in text.split("\n\n")):
        if not paragraph:
            continue
        for piece in pieces(paragraph):
            if documents and words < WORDS:
                documents[-1] += "\n\n" + piece
            else:
                documents.append(piece)
                words = 0
            words += len(piece.split())
        if len(documents) > MAX_DOCUMENTS:
            break
    return tuple(documents[:MAX_DOCUMENTS])


def pieces(paragraph: str) -> Iterable[str]:
    words = paragraph.split(" ")
    if len(words) <= 2 * WORDS:
        return [paragraph]
    return (" ".join(words[i : i + WORDS]) for i in range(0, len(words), WORDS))


def pg19() -> Text:
    """The first 50 books of PG19's test part, the paper's calibration text. Needs the network."""
    try:
        import datasets

        rows = datasets.load_dataset("emozilla/pg19", split="test", streaming=True)
        documents = tuple(row["text"][:20_000] for row in rows.take(MAX_DOCUMENTS))
    except Exception as e:  # datasets raises a dozen kinds for "no network"
        raise UserError(
            "PG19 cannot be downloaded: check the network, or use the shipped calibration text."
        ) from e
    return Text("PG19", documents)


def tokenize(tokenizer: Any, text: Text, longest: int, most: int | None = None) -> list[list[int]]:
    """Every document as one sequence, tokenized as the tokenizer does by default and cut at
    `longest`; `most` bounds the tokens of all documents together."""
    sequences: list[list[int]] = []
    left = most
    for document in text.documents:
        ids = tokenizer(document, truncation=True, max_length=longest)["input_ids"]
        ids = ids if left is None else ids[:left]
        if len(ids) > 1:
            sequences.append(ids)
        if left is not None:
            left -= len(ids)
            if left <= 1:
                break
    if not sequences:
        raise UserError(f"'{text.name}' is too short: it has no two tokens to compute with.")
    return sequences
