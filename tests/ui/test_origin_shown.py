"""Where weights come from stands beside every figure of the model."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from typing import Any

import made_up
from charting import ACC, ALL, COSTS, PPL, SIX, SMALLS, TITLES, chart_data, draw, notes
from test_comparison_panel import EVERY, outcome, situation
from test_modelcard import INFO

from lwq_ui.core.lossless import GivenBack
from lwq_ui.core.origin import Origin
from lwq_ui.core.schema import Evaluation, Metric
from lwq_ui.core.writing import Prompt, Written
from lwq_ui.engine.jobs import Looked
from lwq_ui.engine.quantizers import quantizer_named
from lwq_ui.ui.bar.table import bar_table
from lwq_ui.ui.charts import ModelResults, results_figure
from lwq_ui.ui.charts.results_csv import results_csv
from lwq_ui.ui.comparison.html import alike_html, comparison_html
from lwq_ui.ui.modelcard import loaded_card, looked_card
from lwq_ui.ui.panels.budget import table_of
from lwq_ui.ui.panels.quantizer import back_text
from lwq_ui.ui.panels.write import Texts, texts_html
from lwq_ui.ui.situation import Situation
from lwq_ui.ui.tables import results_table

SENTENCE = "Weights come from a Q4_1 file."


def of_file(s: Situation) -> Situation:
    """The same situation of a model from a Q4_1 file."""
    return replace(s, session=replace(s.session, info=replace(s.info, quantized_as="Q4_1")))


def test_the_card_says_it_and_what_the_reference_is() -> None:
    before = replace(INFO, quantized_as="Q4_1")
    for card in (loaded_card(before), looked_card(Looked(before, 0, False, []), None)):
        assert f"<p>{SENTENCE} The reference is that file, not the model it was made" in card
    assert "Weights come from" not in loaded_card(INFO)


def test_the_chart_says_it_on_the_page_and_in_the_picture() -> None:
    data = chart_data(SIX)
    figure = results_figure(replace(data, model=replace(data.model, origin=Origin("Q4_1"))))
    assert figure["caption"].startswith(SENTENCE) and figure["subtitle"] == SENTENCE
    assert draw(SIX)["subtitle"] == "" and "Weights" not in draw(SIX)["caption"]


def test_of_two_models_the_chart_says_whose_it_is() -> None:
    curves = [c for c in ALL if c.ordering == "lim"]
    other = ModelResults("<large>", made_up.sweep(curves), curves, COSTS, Origin("Q8_0"))
    figure = draw(made_up.sweep(curves), PPL, curves, COSTS, "small", other=other)
    assert figure["caption"].startswith("<large>: weights come from a Q8_0 file.")
    assert figure["subtitle"] == "&lt;large&gt;: weights come from a Q8_0 file."  # Plotly's HTML


def test_the_csv_says_it_of_every_row() -> None:
    data = chart_data(made_up.sweep(ALL), ACC, ALL, COSTS)
    data = replace(data, model=replace(data.model, origin=Origin("Q4_1")))
    rows = list(csv.DictReader(io.StringIO(results_csv(data))))
    assert rows and {row["weights_from"] for row in rows} == {"Q4_1"}


def test_the_results_and_the_comparisons_say_it() -> None:
    assert f"{SENTENCE} ± standard error" in results_table(SIX, TITLES, origin=SENTENCE)
    measured, titles = outcome(lim=0.5, reverse_lim=0.6), {"pairs": "Grammar pairs"}
    html = comparison_html(EVERY[:2], measured, "pairs/acc", titles, origin=SENTENCE)
    assert f"{SENTENCE}</caption>" in html
    pairs = [(EVERY[1], EVERY[0])]
    html = alike_html(pairs, measured, "pairs/acc", titles, (4, 2), origin=SENTENCE)
    assert f"{SENTENCE}</caption>" in html


def test_texts_and_the_budget_bar_say_it() -> None:
    s = of_file(situation())
    splits = ((16,) * 6, (4,) * 6)
    texts = Texts(Prompt(), splits, {splits[0]: Written(" there was.", 9)})
    assert SENTENCE in texts_html(s, texts) and SENTENCE not in texts_html(situation(), texts)
    assert json.loads(bar_table(s.choice))["origin"] == SENTENCE
    assert json.loads(bar_table(situation().choice))["origin"] == ""


# ---- levels that only give the file's weights back

BACK = GivenBack.by(
    replace(situation().info, quantized_as="Q4_1", grid="Q4_1"),
    [quantizer_named("quanto:group=32")],
)
MERIT = "lossless by construction, no merit of the quantizer."


def by_groups(e: Evaluation) -> Evaluation:
    return e if e.quantizer == "none" else replace(e, quantizer="quanto:group=32")


def on_grid(**controls: Any) -> Situation:
    """A model of the very blocks that groups of 32 span."""
    s = of_file(situation(quantizer=quantizer_named("quanto:group=32"), **controls))
    info = replace(s.info, grid="Q4_1")
    measured = tuple(by_groups(perplexity((level,) * 6, 30 / level)) for level in (4, 2))
    return replace(s, session=replace(s.session, info=info, evaluations=measured))


def perplexity(split: tuple[int, ...], value: float) -> Evaluation:
    metrics = {"perplexity": Metric(value, 0.1, 60)}
    return Evaluation("perplexity", split, "quanto", metrics, {}, 60, 1.0)


def test_the_chart_marks_the_level_its_points_and_the_caption() -> None:
    costs = SMALLS | {"quanto:group=32": SMALLS["quanto"]}
    data = chart_data([*map(by_groups, SIX)], costs=costs, quantizer="quanto:group=32")
    figure = results_figure(replace(data, model=replace(data.model, given_back=BACK)))
    assert MERIT in figure["caption"]
    assert "16 and 4 bits (4: lossless by construction)" in notes(figure)
    marked = {
        tuple(split)
        for trace in figure["data"]
        for split, text in zip(trace.get("customdata", ()), trace.get("text", ()), strict=False)
        if "lossless by construction" in text
    }
    assert marked == {(4,) * 8}
    rows = list(csv.DictReader(io.StringIO(figure["csv"])))
    assert [row["lossless_layers"] for row in rows] == ["0", "8", "5", "2", "0"]
    plain = results_figure(data)
    assert "lossless" not in json.dumps({k: v for k, v in plain.items() if k != "csv"})


def test_the_table_marks_the_split_and_says_why() -> None:
    html = results_table([*map(by_groups, SIX)], TITLES, origin=SENTENCE, given_back=BACK)
    (marked,) = (row for row in html.split("<tr") if "lossless by construction" in row)
    assert "all 4-bit" in marked
    assert "lossless" not in results_table(SIX, TITLES, given_back=BACK)  # by another quantizer


def test_texts_of_such_a_split_are_marked() -> None:
    splits = ((16,) * 6, (4,) * 6, (4, 4, 4, 2, 2, 2))
    html = texts_html(on_grid(), Texts(Prompt(), splits, {}))
    marked = [part for part in html.split("<section") if "Lossless by construction." in part]
    assert len(marked) == 1 and "All 4-bit" in marked[0]


def test_the_page_marks_it_beside_the_levels_and_the_budget() -> None:
    s = on_grid()
    assert back_text(s).startswith("4 bits give the Q4_1 file's weights back, but for rounding")
    assert MERIT in s.origin_of(s.results)
    table = json.loads(table_of(s))
    assert MERIT in table["origin"]
    marks = [text["expected_how"].partition(";")[0] for text in table["texts"]]
    assert marks[-1] == "lossless by construction" and not any("loss" in m for m in marks[1:-1])
    assert back_text(on_grid(levels=(8, 2))) == ""
    assert "lossless" not in table_of(on_grid(levels=(8, 2)))
    plain = of_file(situation())
    assert back_text(plain) == "" and "lossless" not in table_of(plain)
