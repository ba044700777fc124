"""Texts to calibrate and to measure on. This file imports no torch."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import Stopped, UserError
from ..core.settings import Settings
from ..failures import is_panic
from .chat import user_turn

if TYPE_CHECKING:
    from .models.loading import LoadedModel

MAX_DOCUMENTS = 50  # paper section 3.1
MAX_TOKENS = 512  # of one document
WORDS = 400  # of one document cut from a longer text
WORD = 6  # characters of ASCII, the space included
MOST_READ = 2**22  # characters of one file: many times what 50 documents take
DOCUMENT_READ = 20_000  # characters of a file that is one document: MAX_TOKENS take fewer
PG19 = "pg19"

# A long text is cut at the first of these that fits: blank lines, lines, sentences, spaces.
CUTS = tuple(
    map(
        re.compile,
        (
            r"\n[^\S\n]*\n\s*",
            r"[\n\f\v\x85\u2028\u2029]\s*",
            r"[.!?…][\"'”’»)\]]*\s+|[。！？｡।॥။།][”’」』）】]*\s*",
            r"\s+",
        ),
    )
)
NO_SPACE = re.compile(r"\S")


@dataclass(frozen=True)
class Text:
    """Documents, each of them one sequence. `unused_bytes` of their source are in no document.

    With `chat`, each document is a user's turn in the chat template of the model.
    """

    name: str
    documents: tuple[str, ...]
    unused_bytes: int = 0
    chat: bool = False

    @cached_property
    def digest(self) -> str:
        """Tells texts apart by what tokens they make of one model."""
        plain = hashlib.sha256("\0".join(self.documents).encode()).hexdigest()
        return hashlib.sha256(f"user turns {plain}".encode()).hexdigest() if self.chat else plain

    @property
    def title(self) -> str:
        """The name that results carry."""
        return f"{self.name}, as chat turns" if self.chat else self.name


def shipped_calibration(settings: Settings) -> Text:
    return read_calibration(settings.assets)


def read_calibration(assets: Path) -> Text:
    return read_folder(assets / "calibration", "shipped calibration text")


def held_out_passages(settings: Settings) -> Text:
    """Returns the passages that nothing is calibrated on."""
    return read_folder(settings.assets / "passages", "held-out passages", most=None)


def read_folder(folder: Path, name: str, most: int | None = MAX_DOCUMENTS) -> Text:
    """Returns the first `most` .txt files, each of them one document. Raises UserError for none."""
    paths = sorted(folder.glob("*.txt"))
    if not paths:
        raise UserError(f"The folder '{folder}' has no .txt files.")
    documents = tuple(read(path, DOCUMENT_READ) for path in paths[:most])
    used = sum(len(d.encode()) for d in documents if len(d) == DOCUMENT_READ)
    cut = [path for path, d in zip(paths, documents, strict=False) if len(d) == DOCUMENT_READ]
    whole = sum(path.stat().st_size for path in [*cut, *paths[len(documents) :]])
    return Text(name, documents, max(0, whole - used))


def read(path: Path, most: int = MOST_READ) -> str:
    """Returns the first `most` characters of a text in UTF-8, with or without a byte order mark.

    Raises UserError for anything else.
    """
    try:
        if not (path.is_file() or path.is_dir()) and path.exists():
            raise UserError(f"'{path}' is neither a file nor a folder.")  # a pipe would wait
        with path.open(encoding="utf-8-sig") as file:
            text = file.read(most)
    except UnicodeDecodeError as e:
        raise not_text(path) from e
    except OSError as e:
        raise UserError(f"'{path}' cannot be read: {e.strerror}.") from e
    if "\0" in text:  # UTF-16 without a byte order mark is valid UTF-8 where it holds English
        raise not_text(path)
    return text


def not_text(path: Path) -> UserError:
    return UserError(f"'{path.name}' is not UTF-8 text.")


def calibration_text(choice: str | None, settings: Settings, chat: bool = False) -> Text:
    """Returns the shipped text (None), PG19 ('pg19'), or the user's file or folder of .txt files.

    With `chat`, its documents are turns of a user. Raises UserError where there is none.
    """
    return replace(plain_text(choice, settings), chat=chat)


def plain_text(choice: str | None, settings: Settings) -> Text:
    """Returns what `calibration_text` does, without turns."""
    if choice is None:
        return shipped_calibration(settings)
    if choice == PG19:
        return pg19()
    try:
        path = Path(choice).expanduser()
        is_folder, is_file = path.is_dir(), path.is_file()
    except (OSError, RuntimeError, ValueError):  # no permission, no such user, no possible name
        is_folder = is_file = False
    if is_folder and choice:  # Path("") is the present folder
        return read_folder(path, path.name or str(path.absolute()))
    if not is_file:
        raise UserError(f"There is no text file '{choice}'.")
    content = read(path)
    spans = list(zip(range(MAX_DOCUMENTS), document_spans(content), strict=False))
    if not spans:
        raise UserError(f"'{path.name}' holds no text.")
    documents = tuple(content[start:end].strip() for _, (start, end) in spans)
    end = spans[-1][1][1]
    unused = len(content[end:].strip().encode())
    if len(content) == MOST_READ:
        unused = max(unused, path.stat().st_size - len(content[:end].encode()))
    return Text(path.name, documents, unused)


def document_spans(text: str) -> Iterator[tuple[int, int]]:
    """Yields start and end of each document that a long text is cut into.

    They leave out only white space. A document is worth WORDS words at most. It ends at the best of
    the CUTS in its second half.
    """
    start = 0
    while match := NO_SPACE.search(text, start):
        start = match.start()
        end = words_end(text, start)
        if end < len(text):
            for pattern in CUTS:
                if cuts := [m.end() for m in pattern.finditer(text, (start + end) // 2, end)]:
                    end = cuts[-1]
                    break
        yield start, end
        start = end


def words_end(text: str, start: int) -> int:
    """Returns where WORDS words from `start` on end, in any script.

    A word is WORD characters of ASCII, or fewer others, by what tokenizers make of them. A
    character of three bytes in UTF-8 (Chinese, Japanese, Thai, Hindi) takes about as many tokens as
    an English word. One of two bytes (Russian, Arabic) takes twice as many as one of ASCII. Words
    that white space separates are WORDS at most, too.
    """
    worth = words = 0
    between = True
    for at in range(start, min(len(text), start + WORDS * WORD)):
        char = text[at]
        worth += 1 if char < "\x80" else 2 if char < "\u0800" else WORD
        words += between and not char.isspace()
        between = char.isspace()
        if words > WORDS or worth > WORDS * WORD:
            return at
    return min(len(text), start + WORDS * WORD)


def pg19() -> Text:
    """Returns the first 50 books of PG19's test part, the paper's calibration text.

    Raises UserError without a network.
    """
    try:
        import datasets

        rows = datasets.load_dataset("emozilla/pg19", split="test", streaming=True)
        documents = tuple(row["text"][:DOCUMENT_READ] for row in rows.take(MAX_DOCUMENTS))
    except Exception as e:  # datasets raises a dozen kinds for "no network"
        raise UserError(
            "PG19 cannot be downloaded: check the network, or use the shipped calibration text."
        ) from e
    return Text("PG19", documents)


def tokenize(
    loaded: LoadedModel, text: Text, longest: int = MAX_TOKENS, most: int | None = None
) -> list[list[int]]:
    """Returns each document as one sequence, as the tokenizer makes it by default, or as a turn.

    A sequence is cut at `longest` tokens, or what the model takes. `most` bounds the tokens of all
    documents together. Raises UserError where the model has no embedding for a token, or nothing is
    left. Raises it too as `user_turn` does.
    """
    sequences: list[list[int]] = []
    left = most
    longest = loaded.max_tokens(longest)
    if longest < 2:
        raise UserError(
            f"'{loaded.info.model_id}' takes one token at a time, says its config: its layers see "
            "no text. Choose another model."
        )
    if most is not None and most < 2:
        raise UserError("One token is no text: choose 2 tokens at least.")
    for document in text.documents:
        if not text.chat:
            ids = token_ids(loaded, document, truncation=True, max_length=longest)
        elif document.strip():
            ids = user_turn(loaded, document, longest)
        else:
            continue
        ids = ids if left is None else ids[:left]
        if len(ids) > 1:
            check_tokens(ids, loaded)
            sequences.append(ids)
        if left is not None:
            left -= len(ids)
            if left <= 1:
                break
    if not sequences:
        raise UserError(
            f"'{text.name}' is too short: the tokenizer of '{loaded.info.model_id}' makes no two "
            "tokens of any document. Choose a longer text, or another model."
        )
    return sequences


def cut_short(loaded: LoadedModel, text: Text) -> int:
    """Returns how many documents have more tokens than `tokenize` takes of one."""
    longest = loaded.max_tokens(MAX_TOKENS)
    lengths = (
        len(user_turn(loaded, d) if text.chat else token_ids(loaded, d, verbose=False))
        for d in text.documents
    )
    return sum(length > longest for length in lengths)


def token_ids(loaded: LoadedModel, text: str, **options: Any) -> list[int]:
    """Returns the tokens that the tokenizer makes by default. Raises UserError where it fails."""
    with tokenizing(loaded):
        return loaded.tokenizer(text, **options)["input_ids"]


@contextmanager
def tokenizing(loaded: LoadedModel) -> Iterator[None]:
    """Raises UserError for what a tokenizer raises inside: its files may hold anything."""
    try:
        yield
    except (UserError, Stopped):
        raise
    except BaseException as e:
        if not (isinstance(e, Exception) or is_panic(e)):
            raise
        raise UserError(
            f"The tokenizer of '{loaded.info.model_id}' fails on a text ({type(e).__name__}: {e}). "
            "Its files may be damaged: choose another copy of the model."
        ) from e


def check_tokens(ids: Sequence[int], loaded: LoadedModel) -> None:
    """Raises UserError for a token that the model has no embedding for."""
    rows = embeddings(loaded.model)
    if ids and max(ids) >= rows:
        token = max(ids)
        raise UserError(
            f"The tokenizer of '{loaded.info.model_id}' makes token {token} "
            f"({loaded.tokenizer.convert_ids_to_tokens(token)!r}) of a text, and the model has "
            f"embeddings for {rows} tokens only. Choose a model with its own tokenizer, or a text "
            "without this token."
        )


def first_token(loaded: LoadedModel) -> int | None:
    """Returns the token that begins a text, by lm-eval's rule.

    That is the tokenizer's beginning of text, or its end of text. Where it has neither, the
    config's follow. Returns None where the model has none of them.
    """
    config = loaded.model.config.get_text_config(decoder=True)
    for owner in (loaded.tokenizer, config):
        for name in ("bos_token_id", "eos_token_id"):
            token = getattr(owner, name, None)
            token = token[0] if isinstance(token, list) and token else token
            if isinstance(token, int) and 0 <= token < embeddings(loaded.model):
                return token
    return None


def embeddings(model: Any) -> int:
    """Returns the number of tokens that a model has an embedding for."""
    return model.get_input_embeddings().weight.shape[0]
