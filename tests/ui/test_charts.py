from __future__ import annotations

import subprocess
import sys

import pytest

from lwq_ui.core.schema import Evaluation, Metric
from lwq_ui.ui.charts import METRICS, RESULT_COLUMNS, results_figure, results_rows

N = 8


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


def test_each_kind_of_split_has_its_own_symbol(evaluations):
    shown = traces(results_figure(evaluations, "perplexity", "perplexity", None))
    assert set(shown) == {"unquantized", "all 4-bit", "all 2-bit", "mixed levels"}
    assert len({trace.marker.symbol for trace in shown.values()}) == 4
    points = shown["mixed levels"]
    assert (list(points.x), list(points.y)) == ([2.5, 3.25], [20.0, 14.0])
    assert list(points.error_y.array) == [0.5, 0.3]
    for part in ("3.25 bits", "14 ± 0.3", "n = 4,000", "quanto"):
        assert part in points.text[1]


def test_axis_titles_say_what_is_better(evaluations):
    figure = results_figure(evaluations, "perplexity", "perplexity", None)
    assert figure.layout.yaxis.title.text == "Perplexity (lower is better)"
    assert figure.layout.xaxis.title.text == "Average bits per layer"
    figure = results_figure(evaluations, "acc", "minimal_pairs", None)
    assert figure.layout.yaxis.title.text == "Minimal pairs: accuracy (higher is better)"
    assert [list(trace.x) for trace in figure.data] == [[3.25]]
    assert all(spec.axis.endswith("is better)") for spec in METRICS.values())


def test_unquantized_stands_after_a_break_labelled_16(evaluations):
    figure = results_figure(evaluations, "perplexity", "perplexity", None)
    (place,) = traces(figure)["unquantized"].x
    axis = figure.layout.xaxis
    assert 4 < place < 6 and axis.ticktext[axis.tickvals.index(place)] == "16"
    assert "average bits 16.00" in traces(figure)["unquantized"].text[0]
    alone = results_figure(evaluations[:1], "perplexity", "perplexity", None)
    assert list(alone.data[0].x) == [16]


def test_the_current_split_is_ringed_or_announced(evaluations):
    figure = results_figure(evaluations, "perplexity", "perplexity", tuple(mixed(5)))
    ring = traces(figure)["current split"]
    assert (list(ring.x), list(ring.y)) == ([3.25], [14.0])
    figure = results_figure(evaluations, "perplexity", "perplexity", tuple(mixed(6)))
    assert "current split" not in traces(figure)
    assert [s.x0 for s in figure.layout.shapes if s.x0 == s.x1] == [3.5]


def test_a_missing_standard_error_draws_no_bar(evaluations):
    figure = results_figure(evaluations, "top1_agreement", "perplexity", None)
    assert not figure.data[0].error_y.visible
    assert "±" not in figure.data[0].text[0]


def test_no_results_is_a_figure_too():
    figure = results_figure([], "perplexity", "perplexity", (4, 2))
    assert figure.layout.annotations[0].text == "No results yet" and not figure.data


def test_rows_hold_every_metric_of_every_split(evaluations):
    rows = results_rows(evaluations)
    assert len(rows) == 7 and all(len(row) == len(RESULT_COLUMNS) for row in rows)
    assert rows[0] == [
        "unquantized", 16.0, "Held-out text", "Perplexity", 11.5, 0.2, 4000, "quanto",
    ]  # fmt: skip
    assert rows[-1][2:6] == ["Minimal pairs", "Accuracy", 0.61, 0.02]


def test_plotly_is_imported_only_to_draw():
    code = "import sys, lwq_ui.ui.charts; sys.exit('plotly' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
