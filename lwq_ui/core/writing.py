"""Texts that models write on from a prompt: which splits are read side by side, and from where on
one text differs from another."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from typing import Any

from .allocation import Split
from .cost import QuantizerSpec
from .typed import typed
from .usability import Usability

WORD = re.compile(r"\S+")
SPLITS_READ = 3  # beside the original


@dataclass(frozen=True)
class Prompt:
    """What is asked: to go on from `text` by at most `tokens`, with random numbers of `seed`. With
    `chat` it is the user's turn in the chat template, and the model answers."""

    text: str = "The old house stood at the end of the lane, and"
    seed: int = 1
    tokens: int = 80
    chat: bool = False


@dataclass(frozen=True)
class Written:
    """What a model wrote, without the prompt. `room` is how many tokens the model had room for,
    with the prompt."""

    text: str
    room: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(data: Any) -> Written:
        """Raises ValueError where this is not a Written as `to_json` writes it."""
        return typed(Written, data)


def splits_to_read(
    quantizer: QuantizerSpec,
    levels: tuple[float, float],
    split: Split,
    usability: Usability | None = None,
) -> list[Split]:
    """Returns three splits at which a loss can be read, most bits first.

    They are the `split`, and two of one level in all layers: the low level, and the next one below
    it. Where one of these is missing or is the split itself, it is the high level, or else the
    highest of the others. One that was measured to be lost comes after all others: nobody reads how
    much is lost from a text without sense.
    """
    high, low = levels
    below = [level for level in sorted(quantizer.levels, reverse=True) if level < low]
    others = sorted({*quantizer.levels} - {high, low, *below[:1]}, reverse=True)
    uniform = [(level,) * len(split) for level in (low, *below[:1], high, *others)]
    if usability:
        uniform.sort(key=lambda one: usability.lost(quantizer.name, one) is not None)
    distinct = list(dict.fromkeys([split, *uniform]))[:SPLITS_READ]
    return sorted(distinct, key=lambda one: -sum(one))


def first_difference(original: str, text: str, finished: bool = True) -> int:
    """Returns where the first word of `text` begins that the original does not have in its place.

    White space makes no difference. Where all words agree it is the text's length. A last word that
    is not `finished` differs only where it cannot become the original's.
    """
    pairs: Sequence[tuple[re.Match[str] | None, re.Match[str] | None]]
    pairs = list(zip_longest(WORD.finditer(original), WORD.finditer(text)))
    for theirs, ours in pairs:
        if ours is None:
            break
        word = ours.group()
        growing = not finished and ours.end() == len(text)
        if theirs is None or not (
            word == theirs.group() or (growing and theirs.group().startswith(word))
        ):
            return ours.start()
    return len(text)
