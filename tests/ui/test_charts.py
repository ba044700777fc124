from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from lwq_ui.core.schema import Evaluation, Metric
from lwq_ui.ui.charts import figure, metric_choices, results_figure, results_table

N = 8
TITLES = {"perplexity": "Perplexity and divergence", "minimal_pairs": "Grammar pairs"}


def evaluation(split, task="perplexity", quantizer="quanto", **metrics) -> Evaluation:
    return Evaluation(task, tuple(split), quantizer, metrics, {}, None, 1.0)


def mixed(high: int) -> list[int]:
    return [4] * high + [2] * (N - high)


@pytest.fixture
def evaluations() -> list[Evaluation]:
    return [
        evaluation([16] * N, perplexity=Metric(11.5, 0.2, 4000)),
        evaluation([4] * N, perplexity=Metric(12.1, 0.21, 4000)),
        evaluation([2] * N, perplexity=Metric(30.0, 0.9, 4000)),
        evaluation(mixed(2), perplexity=Metric(20.0, 0.5, 4000)),
        evaluation(
            mixed(5),
            perplexity=Metric(14.0, 0.3, 4000),
            top1_agreement=Metric(0.8, None, 4000),
        ),
        evaluation(mixed(5), task="minimal_pairs", acc=Metric(0.61, 0.02, 500)),
    ]


def traces(figure):
    return {trace.name: trace for trace in figure.data}


def draw(evaluations, chosen="perplexity/perplexity", current=None):
    return results_figure(evaluations, chosen, TITLES, current)


def test_each_kind_of_split_has_its_own_symbol(evaluations):
    shown = traces(draw(evaluations))
    assert set(shown) == {"unquantized", "all 4-bit", "all 2-bit", "mixed levels"}
    assert len({trace.marker.symbol for trace in shown.values()}) == 4
    points = shown["mixed levels"]
    assert (list(points.x), list(points.y)) == ([2.5, 3.25], [20.0, 14.0])
    assert list(points.error_y.array) == [0.5, 0.3]
    for part in ("3.25 bits", "14 ± 0.3", "n = 4,000", "quanto"):
        assert part in points.text[1]


def test_choices_are_what_was_measured_in_the_order_of_the_tasks(evaluations):
    assert metric_choices(reversed(evaluations), TITLES) == [
        ("Perplexity", "perplexity/perplexity"),
        ("Top-1 agreement", "perplexity/top1_agreement"),
        ("Grammar pairs: accuracy", "minimal_pairs/acc"),
    ]
    assert metric_choices([], TITLES) == []


def test_axis_titles_say_what_is_better(evaluations):
    figure = draw(evaluations)
    assert figure.layout.yaxis.title.text == "Perplexity (lower is better)"
    assert figure.layout.xaxis.title.text == "Average bits per layer"
    figure = draw(evaluations, "minimal_pairs/acc")
    assert figure.layout.yaxis.title.text == "Grammar pairs: accuracy (higher is better)"
    assert [list(trace.x) for trace in figure.data] == [[3.25]]


def test_unquantized_stands_after_a_break_labelled_16(evaluations):
    figure = draw(evaluations)
    (place,) = traces(figure)["unquantized"].x
    axis = figure.layout.xaxis
    assert 4 < place < 6 and axis.ticktext[axis.tickvals.index(place)] == "16"
    assert "average bits 16.00" in traces(figure)["unquantized"].text[0]
    assert [s.y0 for s in figure.layout.shapes] == [11.5]  # what to compare with, all along
    alone = draw(evaluations[:1])
    assert list(alone.data[0].x) == [16]


def test_the_split_measured_last_is_ringed(evaluations):
    ring = traces(draw(evaluations, current=tuple(mixed(5))))["measured last"]
    assert (list(ring.x), list(ring.y)) == ([3.25], [14.0])
    assert "measured last" not in traces(draw(evaluations, current=tuple(mixed(6))))


def test_a_missing_standard_error_draws_no_bar(evaluations):
    figure = draw(evaluations, "perplexity/top1_agreement")
    assert not figure.data[0].error_y.visible
    assert "±" not in figure.data[0].text[0]


def test_no_results_is_a_figure_too():
    figure = draw([], current=(4, 2))
    assert figure.layout.annotations[0].text == "No results yet" and not figure.data


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


def test_the_table_has_a_row_per_split_and_a_column_per_metric(evaluations):
    cells = Cells(results_table(evaluations, TITLES, tuple(mixed(2))))
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


def test_the_same_split_by_another_quantizer_is_another_row(evaluations):
    other = evaluation(mixed(5), quantizer="quanto-hqq", perplexity=Metric(13.0, 0.3, 4000))
    rows = Cells(results_table([*evaluations, other], TITLES)).rows
    assert sorted(r[0] for r in rows if "3.25" in r[0]) == ["3.25 bits", "3.25 bitsquanto-hqq"]


def test_splits_of_the_same_average_are_told_apart(evaluations):
    other = evaluation(mixed(5)[::-1], perplexity=Metric(16.0, 0.3, 4000))
    orders = {tuple(mixed(5)): "LIM", other.split: "Last <layers>"}
    text = results_table([*evaluations, other], TITLES, None, orders)
    rows = Cells(text).rows
    assert [r[0] for r in rows if "3.25" in r[0]] == ["3.25 bitsLIM", "3.25 bitsLast <layers>"]
    assert "title='4 4 4 4 4 2 2 2'" in text and "<layers>" not in text
    drawn = results_figure([*evaluations, other], "perplexity/perplexity", TITLES, orders=orders)
    texts = "".join(traces(drawn)["mixed levels"].text)
    assert "<b>3.25 bits</b> LIM<br>" in texts


def test_the_table_says_that_a_quick_evaluation_is_quick(evaluations):
    assert "quick" not in results_table(evaluations, TITLES)
    quick = [replace(e, limit=60) for e in evaluations]
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


def test_plotly_is_imported_only_to_draw():
    code = "import sys, lwq_ui.ui.charts; sys.exit('plotly' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
