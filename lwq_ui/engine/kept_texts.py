"""Texts of the user that quantizers calibrate on, kept in the cache under their digests.

Packing goes on later, and also where the user's file is gone. Imports no torch.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import Any

from ..core.settings import ASSETS
from ..core.store import Key, Store
from .texts import Text, read_calibration

SHIPPED = ""  # the reference of the text that comes with the program
DIGITS = 16  # of the digest's 64
REFERENCE = re.compile(rf"([^,:=~()\x00-\x1f]{{1,60}})~([1-9]\d{{0,5}})~([0-9a-f]{{{DIGITS}}})")
MARKS = re.compile(r"[,:=~()\x00-\x1f]+")  # what has a meaning in a quantizer's name or title

MOST_GIVEN = 32  # texts in memory, a megabyte each at most

_given: dict[tuple[Path, str], Text] = {}  # those used last, also where no cache can be written
_lock = Lock()


def keep_text(text: Text, store: Store) -> str:
    """Keeps a text. Returns its reference, as a quantizer's name has it: 'my.txt~3~0f1e…'.

    That is a name for people, the number of documents, and the beginning of the digest. The text
    that ships is SHIPPED.
    """
    if text.digest == read_calibration(ASSETS).digest:
        return SHIPPED
    name = MARKS.sub("", text.title).encode(errors="replace").decode().strip()[:60] or "text"
    digest = text.digest[:DIGITS]
    if kept_text(f"{name}~1~{digest}", store) is None:
        value = {"name": text.name, "documents": list(text.documents), "chat": text.chat}
        store.write(text_key(digest), value)
    remember(store, text)
    return f"{name}~{len(text.documents)}~{digest}"


def kept_text(reference: str, store: Store) -> Text | None:
    """Returns the text of a reference, None where the cache does not have it."""
    digest = split_reference(reference)[2]
    if digest == shipped_turns().digest[:DIGITS]:
        return shipped_turns()
    text = _given.get((store.root, digest)) or store.read(text_key(digest), text_from_json)
    if text:
        remember(store, text)
    return text


def remember(store: Store, text: Text) -> None:
    """Holds the text in memory, as the one that was used last."""
    place = (store.root, text.digest[:DIGITS])
    with _lock:
        _given.pop(place, None)
        _given[place] = text
        while len(_given) > MOST_GIVEN:
            del _given[next(iter(_given))]


@functools.cache
def shipped_turns() -> Text:
    """Returns the text that ships as turns of a user: it need not be kept, either."""
    return replace(read_calibration(ASSETS), chat=True)


def split_reference(reference: str) -> tuple[str, int, str]:
    """Returns a reference's name for people, number of documents, and beginning of the digest.

    Raises ValueError where it is none.
    """
    match = REFERENCE.fullmatch(reference)
    if match is None:
        raise ValueError(f"{reference!r} is no reference to a text")
    return match[1], int(match[2]), match[3]


def text_key(digest: str) -> Key:
    return Key("texts", digest, {})


def text_from_json(data: Mapping[str, Any]) -> Text:
    """Raises ValueError where this is not what `keep_text` writes."""
    try:
        return Text(str(data["name"]), tuple(map(str, data["documents"])), chat=bool(data["chat"]))
    except (KeyError, TypeError) as e:
        raise ValueError("it is not a text") from e
