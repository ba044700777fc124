"""Where weights come from stands beside every figure of the model."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

import made_up
from charting import ACC, ALL, COSTS, PPL, SIX, TITLES, chart_data, draw
from test_comparison_panel import EVERY, outcome, situation
from test_modelcard import INFO

from lwq_ui.core.origin import Origin
from lwq_ui.core.writing import Prompt, Written
from lwq_ui.engine.jobs import Looked
from lwq_ui.ui.bar.table import bar_table
from lwq_ui.ui.charts import ModelResults, results_figure
from lwq_ui.ui.charts.results_csv import results_csv
from lwq_ui.ui.comparison.html import alike_html, comparison_html
from lwq_ui.ui.modelcard import loaded_card, looked_card
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
