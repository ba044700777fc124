"""Which splits are read side by side, and where a text leaves the original."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from lwq_ui.core.memory import UNTOUCHED
from lwq_ui.core.schema import UNQUANTIZED, Evaluation, Metric
from lwq_ui.core.usability import Usability
from lwq_ui.core.writing import Written, first_difference, splits_to_read
from lwq_ui.engine.quantizers import quantizer_named

N = 4
SEEN = 'the house was old.\n\n"Who?" he said'


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        (SEEN, ""),
        ("", ""),
        ("the house was old.", ""),  # it ended earlier
        ("the house was older than", "older than"),
        ("the house was old, but", "old, but"),
        ("the house", ""),
        ("the hou", "hou"),
        ("the  house\nwas new", "new"),
        ("The house was old.", "The house was old."),
        (" the house", ""),
        ('the house was old.\n\n"Who" he', '"Who" he'),
        (f"{SEEN} nothing", "nothing"),
        (f"{SEEN}, and", "said, and"),
        ("the <b>house</b>", "<b>house</b>"),
        ("the haus 家 was", "haus 家 was"),
    ],
)
def test_the_first_word_that_differs(text: str, rest: str) -> None:
    at = first_difference(SEEN, text)
    assert text[at:] == rest
    assert 0 <= at <= len(text)


def test_a_word_that_still_grows_differs_once_it_must() -> None:
    assert [first_difference("a house", t, finished=False) for t in ("a", "a ho", "a house")] == [
        *(1, 4, 7)
    ]
    assert first_difference("a house", "a hut", finished=False) == 2
    assert first_difference("a house", "a ho was", finished=False) == 2  # it grows no more
    assert first_difference("a", "a ho", finished=False) == 2
    assert first_difference("", "new", finished=False) == 0


def read(
    quantizer: str,
    levels: tuple[float, float],
    split: tuple[float, ...],
    perplexities: Mapping[float, float] = {},
) -> list[str]:
    """Returns the splits to read. `perplexities` were measured with all layers at a level."""
    evaluations = [
        Evaluation(
            "perplexity",
            (level,) * N,
            UNQUANTIZED if level == UNTOUCHED else quantizer,
            {"perplexity": Metric(value, 0.1, 9)},
            {},
            None,
            1.0,
        )
        for level, value in perplexities.items()
    ]
    splits = splits_to_read(quantizer_named(quantizer), levels, split, Usability(evaluations))
    assert len(splits) == len(set(splits)) == 3
    assert [sum(s) for s in splits] == sorted(map(sum, splits), reverse=True)
    return ["mix" if len(set(s)) > 1 else f"{s[0]:g}" for s in splits]


def test_the_splits_to_read() -> None:
    mix, high = (4, 4, 2, 2), (8, 8, 4, 4)
    assert read("quanto", (4, 2), mix) == ["4", "mix", "2"]
    assert read("quanto", (8, 4), high) == ["mix", "4", "2"]
    assert read("quanto", (8, 2), (8, 8, 2, 2)) == ["8", "mix", "2"]
    assert read("quanto", (4, 2), (4,) * N) == ["8", "4", "2"]
    assert read("quanto", (4, 2), (2,) * N) == ["8", "4", "2"]
    assert read("gptq", (8, 4), high) == ["mix", "4", "3"]
    assert read("gptq", (8, 4), (4,) * N) == ["8", "4", "3"]
    assert read("spqr", (3.945, 3.657), (3.945, 3.945, 3.657, 3.657)) == ["3.945", "mix", "3.657"]


def test_what_is_lost_is_read_where_nothing_else_is_left() -> None:
    """Nobody reads how much is lost from a text without sense."""
    measured: dict[float, float] = {UNTOUCHED: 40, 8: 40, 4: 60, 2: 1e6}
    high = (8, 8, 4, 4)
    assert read("quanto", (8, 4), high, measured) == ["8", "mix", "4"]
    assert read("quanto", (8, 4), (4,) * N, measured) == ["8", "4", "2"]
    assert read("quanto", (4, 2), (4, 4, 2, 2), measured) == ["8", "4", "mix"]
    assert read("gptq", (8, 4), high, {**measured, 3: 70}) == ["mix", "4", "3"]
    assert read("gptq", (8, 4), high, {**measured, 3: 1000}) == ["8", "mix", "4"]
    assert read("quanto", (8, 4), high, {**measured, 2: 300}) == ["mix", "4", "2"]  # 7.5 times


def test_a_written_text_is_read_again_whole() -> None:
    written = Written("on <b>\n", 80)
    assert Written.from_json(written.to_json()) == written
    with pytest.raises(ValueError, match="room"):
        Written.from_json({"text": "on"})
