"""The table of results below the chart, and how figures are written."""

from __future__ import annotations

import math
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from charting import SIX, TITLES, draw, evaluation, mixed, traces

from lwq_ui.core.schema import Metric
from lwq_ui.ui.tables import results_table
from lwq_ui.ui.wording import figure, metric_choices


def test_choices_are_what_was_measured_in_the_order_of_the_tasks():
    assert metric_choices(reversed(SIX), TITLES) == [
        ("Perplexity", "perplexity/perplexity"),
        ("Top-1 agreement", "perplexity/top1_agreement"),
        ("Grammar pairs: accuracy", "minimal_pairs/acc"),
    ]
    assert metric_choices([], TITLES) == []
    odd = [evaluation(mixed(1), "minimal_pairs", **{"f1": Metric(1, 0, 1)})]
    odd += [evaluation(mixed(1), "minimal_pairs", **{"exact_match (strict)": Metric(1, 0, 1)})]
    assert [label for label, _ in metric_choices(odd, TITLES)] == [
        "Grammar pairs: F1",
        "Grammar pairs: exact match (strict)",
    ]


def test_an_error_that_is_not_known_is_not_written():
    one = [evaluation(mixed(5), perplexity=Metric(14.0, None, 1))]
    (trace,) = draw(one)["data"]
    assert "±" not in trace["text"][0]
    assert "±" not in results_table(one, TITLES).split("</caption>")[1]


class Cells(HTMLParser):
    """The texts of a table's cells, row by row, and the class of every row."""

    def __init__(self, text: str):
        super().__init__()
        self.rows: list[list[str]] = []
        self.marks: list[str | None] = []
        self.open = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.rows.append([])
            self.marks.append(dict(attrs).get("class"))
        elif tag in ("th", "td"):
            self.rows[-1].append("")
            self.open = True

    def handle_endtag(self, tag):
        self.open = self.open and tag not in ("th", "td")

    def handle_data(self, data):
        if self.open:
            self.rows[-1][-1] += data


def test_the_table_has_a_row_per_split_and_a_column_per_metric():
    cells = Cells(results_table(SIX, TITLES, tuple(mixed(2))))
    assert cells.rows[0] == [
        "Split",
        "Average bits",
        "Perplexitylower is better",
        "Top-1 agreementhigher is better",
        "Grammar pairs: accuracyhigher is better",
    ]
    assert [row[:2] for row in cells.rows[1:]] == [
        ["unquantized", "16.00"],
        ["all 4-bit", "4.00"],
        ["3.25 bits", "3.25"],
        ["2.50 bits", "2.50"],
        ["all 2-bit", "2.00"],
    ]
    assert cells.rows[3][2:] == ["14± 0.3, n 4,000", "0.8n 4,000", "0.61± 0.02, n 500"]
    assert cells.rows[1][3:] == ["–", "–"]
    assert cells.marks == [None] * 4 + ["current", None]


def test_the_same_split_by_another_quantizer_is_another_row():
    other = evaluation(mixed(5), quantizer="quanto-hqq", perplexity=Metric(13.0, 0.3, 4000))
    rows = Cells(results_table([*SIX, other], TITLES)).rows
    assert sorted(r[0] for r in rows if "3.25" in r[0]) == [
        "3.25 bitsQuanto, HQQ",
        "3.25 bitsQuanto, Max",
    ]
    assert "unquantized" in [r[0] for r in rows]  # by none of them
    marked = Cells(results_table([*SIX, other], TITLES, tuple(mixed(5)), {}, "quanto-hqq"))
    assert [r[0] for r, m in zip(marked.rows, marked.marks, strict=True) if m] == [
        "3.25 bitsQuanto, HQQ"
    ]


def test_splits_of_the_same_average_are_told_apart_and_stand_together():
    other = evaluation(mixed(5)[::-1], perplexity=Metric(16.0, 0.3, 4000))
    orders = {tuple(mixed(5)): "LIM", other.split: "Last <layers>"}
    text = results_table([*SIX, other], TITLES, None, orders)
    rows = Cells(text).rows
    assert [r[0] for r in rows if "3.25" in r[0]] == ["3.25 bitsLIM", "3.25 bitsLast <layers>"]
    assert text.count("<tbody>") == 5
    assert 'title="4 4 4 4 4 2 2 2"' in text and "<layers>" not in text
    drawn = draw([*SIX, other], orders=orders)
    texts = "".join(traces(drawn)["in no order"]["text"])
    assert "<b>3.25 bits</b>, Quanto, Max<br>LIM<br>" in texts and "<layers>" not in texts


def test_the_table_says_that_a_quick_evaluation_is_quick():
    assert "quick" not in results_table(SIX, TITLES)
    quick = [replace(e, limit=60) for e in SIX]
    assert "A quick evaluation: at most 60 items each." in results_table(quick, TITLES)


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (1115.4, 2, "1,115"),
        (3164.6, 4, "3,165"),
        (0.8833, 4, "0.8833"),
        (41.48, 2, "41"),
        (123.4, 2, "123"),
        (2.34e-6, 2, "2.3e-06"),
        (0.0, 2, "0"),
        (math.exp(700), 4, "1.014e+304"),
    ],
)
def test_large_numbers_are_written_in_full(value, digits, text):
    assert figure(value, digits) == text
