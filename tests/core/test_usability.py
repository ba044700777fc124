"""What is lost, what is usable and what to try instead: from made-up evaluations only."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from lwq_ui.core.schema import UNQUANTIZED, Evaluation, Metric
from lwq_ui.core.usability import Usability, lost_from, rounded, times
from lwq_ui.engine.quantizers import quantizer_named

N = 4
QUANTO, GROUPS, GPTQ, SPQR = map(quantizer_named, ("quanto", "quanto:group=32", "gptq", "spqr"))
LOST = "At 2 bits this model is lost: perplexity 1,890 is 50 times the original's "
LOST += "(10 times or more is beyond use)."


def perplexity(split: Any, value: float, quantizer: str = "quanto", **more: Any) -> Evaluation:
    split = (split,) * N if isinstance(split, int | float) else tuple(split)
    name = UNQUANTIZED if set(split) == {16} else quantizer
    metrics = {"perplexity": Metric(value, 1.0, more.pop("n", 32))}
    return Evaluation("perplexity", split, name, metrics, {}, more.pop("limit", None), 1.0)


def accuracy(split: int, value: float, error: float = 0.02, chance: float = 0.5) -> Evaluation:
    name = UNQUANTIZED if split == 16 else "quanto"
    metrics = {"acc": Metric(value, error, 4)}
    items = {"acc": [1.0, 0.0, 1.0, 1.0], "chance": [chance] * 4}
    return Evaluation("pairs", (split,) * N, name, metrics, items, None, 1.0)


ORIGINAL = perplexity(16, 37.8)
RUINS = [ORIGINAL, perplexity(2, 1890.0), perplexity(4, 53.0), perplexity(8, 38.0)]


def of_levels(evaluations: list[Evaluation], *levels: float, quantizer: Any = QUANTO) -> str:
    usability = Usability(evaluations, {"pairs": "Grammar pairs"})
    return usability.of_levels(quantizer, levels or (4, 2), N, [QUANTO, GROUPS, GPTQ])


def test_a_lost_level_is_said_with_what_was_measured_to_be_usable() -> None:
    assert of_levels(RUINS) == f"{LOST} Try 8 / 4 (1.4 times)."
    better = [*RUINS, perplexity(2, 70.0, "quanto:group=32")]
    assert of_levels(better) == f"{LOST} Try 8 / 4 (1.4 times), or groups of 32 (1.9 times)."
    best = [*better, perplexity(2, 41.0, "gptq")]
    assert of_levels(best) == f"{LOST} Try 8 / 4 (1.4 times), or GPTQ (1.1 times)."
    assert of_levels(best, 8, 4) == ""
    assert of_levels(best, 4, 2, quantizer=GPTQ) == ""


def test_nothing_is_said_of_what_was_not_measured() -> None:
    assert of_levels([]) == of_levels([ORIGINAL]) == of_levels(RUINS[1:]) == ""
    assert of_levels([ORIGINAL, RUINS[2]]) == ""
    assert of_levels([ORIGINAL, RUINS[1]]) == LOST  # nothing else was measured to try
    # Other items' original is no measure, nor are other quantizers' ruins.
    assert of_levels([perplexity(16, 37.8, limit=8), RUINS[1]]) == ""
    assert of_levels([ORIGINAL, perplexity(2, 1890.0, "gptq")]) == ""
    # Nor is an original that was asked in another form.
    assert of_levels([replace(ORIGINAL, chat_template=True), RUINS[1]]) == ""


def test_the_next_usable_level_is_tried() -> None:
    """Of GPTQ's pairs with 3 bits below, the first; 4 bits where 3 are not usable."""
    gptq = [
        ORIGINAL,
        *(perplexity(b, v, "gptq") for b, v in ((2, 1890.0), (3, 60.0), (4, 40.0))),
    ]
    assert of_levels(gptq, quantizer=GPTQ) == f"{LOST} Try 4 / 3 (1.6 times)."
    gptq[2] = perplexity(3, 100.0, "gptq")
    assert of_levels(gptq, quantizer=GPTQ) == f"{LOST} Try 8 / 4 (1.1 times)."


def test_a_task_that_the_original_guesses_keeps_nothing_from_being_usable() -> None:
    guessed = [accuracy(16, 0.52), accuracy(4, 0.49), accuracy(2, 0.5)]
    assert of_levels([*RUINS, *guessed]) == f"{LOST} Try 8 / 4 (1.4 times)."
    known = [accuracy(16, 0.7), accuracy(4, 0.58), accuracy(2, 0.58)]  # more than half is gone
    assert of_levels([*RUINS, *known]) == LOST


def test_the_highest_lost_level_is_said() -> None:
    both = [ORIGINAL, perplexity(4, 400.0), perplexity(2, 1e6)]
    assert of_levels(both).startswith("At 4 bits this model is lost: perplexity 400 is 11 times")
    usability = Usability([ORIGINAL, perplexity(3.657, 400.0, "spqr")])
    assert "At 0.1 % outliers (3.657 bits) this" in usability.of_levels(SPQR, SPQR.pairs[0], N)


@pytest.mark.parametrize(("value", "lost"), [(377.9, False), (378.0, True), (379.0, True)])
def test_ten_times_the_perplexity_is_lost(value: float, lost: bool) -> None:
    assert bool(of_levels([ORIGINAL, perplexity(2, value)])) == lost


@pytest.mark.parametrize(("value", "usable"), [(75.6, True), (76.0, False)])
def test_twice_the_perplexity_is_usable(value: float, usable: bool) -> None:
    assert ("Try" in of_levels([ORIGINAL, RUINS[1], perplexity(4, value)])) == usable


def test_of_two_evaluations_the_one_on_more_items_counts() -> None:
    few = [perplexity(16, 50.0, limit=8, n=8), perplexity(2, 60.0, limit=8, n=8)]
    assert of_levels([*RUINS, *few]) == of_levels([*few, *RUINS]) == of_levels(RUINS)


def test_accuracy_that_fell_to_chance_is_lost() -> None:
    def of(original: float, value: float, **options: float) -> str:
        return of_levels([accuracy(16, original), accuracy(2, value, **options)])

    assert of(0.88, 0.53) == (
        "At 2 bits this model is lost: accuracy of Grammar pairs 0.53 is within two standard "
        "errors of chance (0.50), the original's is 0.88."
    )
    assert of(0.88, 0.55) == ""  # more than two errors above
    assert of(0.88, 0.4)  # below chance is no better
    assert of(0.53, 0.51) == of(0.53, 0.45, error=0.06) == ""  # it never was above
    assert of(0.75, 0.6, error=0.08) == ""  # on few items: at chance, and at the original's
    assert of(0.88, 0.53, chance=0.25) == ""
    told_twice = [*RUINS, accuracy(16, 0.88), accuracy(2, 0.5), accuracy(4, 0.8)]
    assert of_levels(told_twice) == f"{LOST} Try 8 / 4 (1.4 times)."
    told_twice[-1] = accuracy(4, 0.6)  # a fine perplexity, and half of the accuracy is gone
    assert of_levels(told_twice) == LOST


def test_accuracy_without_its_chance_says_nothing() -> None:
    bare = [
        Evaluation(e.task, e.split, e.quantizer, e.metrics, {}, None, 1.0)
        for e in (accuracy(16, 0.88), accuracy(2, 0.5))
    ]
    assert of_levels(bare) == ""


def of_split(evaluations: list[Evaluation], position: int) -> str:
    splits = [(4,) * k + (2,) * (N - k) for k in range(N + 1)]
    return Usability(evaluations).of_split(QUANTO, splits, position, [QUANTO, GROUPS])


def test_a_lost_split_and_the_nearest_usable_one() -> None:
    mixes = [*RUINS, perplexity((4, 4, 2, 2), 752.0), perplexity((4, 4, 4, 2), 60.0)]
    assert of_split(mixes, 2) == (
        "This split is lost: perplexity 752 is 20 times the original's (10 times or more is beyond "
        "use). The nearest usable one measured has 3.50 bits (1.6 times)."
    )
    assert of_split(mixes, 3) == of_split(mixes, 4) == ""
    assert of_split(mixes, 1) == (
        "The splits on both sides of this one, of 2.00 and 3.00 bits, are lost: already "
        "perplexity 752 is 20 times the original's (10 times or more is beyond use). The nearest "
        "usable one measured has 3.50 bits (1.6 times)."
    )
    # Nobody knows what lies between a lost one and a usable one.
    assert of_split([*RUINS, mixes[4]], 3) == of_split([mixes[0], mixes[4]], 1) == ""


def test_a_lost_split_without_a_usable_one() -> None:
    ruins = [ORIGINAL, perplexity(2, 1890.0), perplexity(4, 400.0), perplexity(8, 38.0)]
    tried = [*ruins, perplexity(2, 41.0, "quanto:group=32")]
    assert of_split(ruins, 0).endswith("(10 times or more is beyond use).")
    assert of_split(tried, 0).endswith("beyond use). Try groups of 32 (1.1 times).")


def test_where_the_chart_says_that_splits_are_lost() -> None:
    assert lost_from(RUINS, "perplexity") == 378.0
    assert lost_from(RUINS, "kl_divergence") is lost_from(RUINS[1:], "perplexity") is None


def test_figures_are_read_easily() -> None:
    assert [times(r) for r in (1, 1.44, 9.94, 9.96, 49.7, 1724, 26525)] == [
        *("1.0", "1.4", "9.9", "10", "50", "1,700", "27,000")
    ]
    assert [rounded(v) for v in (37.72, 752.4, 65012, 1.1e6, 1e200)] == [
        *("37.7", "752", "65,000", "1,100,000", "1e+200")
    ]
