"""What the budget bar shows, as Python computes it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from statistics import stdev

import pytest

from lwq_ui.core.allocation import breakpoints
from lwq_ui.core.errors import UserError
from lwq_ui.core.interpolation import Expected
from lwq_ui.core.memory import format_gib
from lwq_ui.core.orderings import rank_layers
from lwq_ui.core.schema import Evaluation, Metric

pytest.importorskip("gradio")

import gradio as gr
from bars import (
    BESIDE,
    choice_of,
    model_cost,
    model_scores,
    small_card,
)

from lwq_ui.ui.bar.expected import expected_at, expected_texts
from lwq_ui.ui.bar.scores import shades
from lwq_ui.ui.bar.table import bar_table
from lwq_ui.ui.components.heatmap import BudgetBar


def sent_to_browser(values, ordering="lim", card=None):
    """What the browser is sent of a model of 24 layers."""
    slider = choice_of(model_cost(24), (4, 2), values, ordering)
    return json.loads(bar_table(slider, card=card))


def test_a_cards_parts_are_what_python_sends():
    sent = sent_to_browser(model_scores(24), card=small_card(12))
    points = breakpoints(model_cost(24), (4, 2), rank_layers("lim", model_scores(24), 24))
    card = sent["card"]
    assert [(part["name"], part["bytes"]) for part in card["beside"]] == [
        ("cache", BESIDE.cache),
        ("activations", BESIDE.activations),
        ("reserve", BESIDE.reserve),
    ]
    for k, (spare, text) in enumerate(zip(card["spare"], sent["texts"], strict=True)):
        assert points.bytes[k] + BESIDE.total + spare == card["size"]
        assert text["fits"].startswith("Over by ") == (spare < 0) == (k > 12)
        assert text["spare_title"] == ("Too much" if spare < 0 else "Free")
        assert text["spare"] == format_gib(abs(spare)) and text["spare"] in text["fits"]
        assert text["weights"] == text["size"]
    machine = replace(small_card(12), beside=replace(BESIDE, reserve=0))
    sent = sent_to_browser(model_scores(24), card=machine)
    assert [part["name"] for part in sent["card"]["beside"]] == ["cache", "activations"]
    plain = sent_to_browser(model_scores(24))
    assert plain["card"] is None and "fits" not in plain["texts"][0]


def test_expected_quality_comes_from_the_splits_of_the_slider():
    points = breakpoints(model_cost(24), (4, 2), rank_layers("lim", model_scores(24), 24))

    def measured(k, value, task="pairs"):
        metrics = {"acc": Metric(value, 0.02, 60)}
        return Evaluation(task, points.split(k), "quanto", metrics, {}, None, 1.0)

    found = [measured(0, 0.5), measured(4, 0.7), measured(2, 0.1, "other")]
    expected = expected_at(points, found, "pairs", "acc")
    assert len(expected) == 25
    assert expected[0] == Expected(0.5, None, True)
    assert expected[2] == Expected(pytest.approx(0.6), None, False)
    assert expected[5:] == [None] * 20
    assert expected_at(points, found, "pairs", "f1") == [None] * 25


def test_scores_are_compared_with_the_sensitivity_in_their_own_direction():
    rising = [float(i) for i in range(24)]
    scores = {"lim": rising, "zd": rising, "sensitivity": [math.exp(v) for v in rising]}
    rows = sent_to_browser(scores)["rows"]
    meanings = {row["name"]: row["meaning"] for row in rows}
    assert list(meanings) == ["lim", "zd", "sensitivity"]
    assert meanings["lim"].endswith(" · rank correlation with sensitivity 1.00")
    assert meanings["zd"].endswith(" · rank correlation with sensitivity −1.00")
    assert "correlation" not in meanings["sensitivity"]
    flat = {"lim": [1.0] * 24, "sensitivity": rising}
    assert "correlation" not in sent_to_browser(flat)["rows"][0]
    (row, _) = sent_to_browser(model_scores(24))["rows"]
    assert "correlation" not in row["meaning"]


def test_value_is_validated():
    bar = BudgetBar()
    assert bar.preprocess({"budget": 5.0, "pins": {"3": 4}}) == {"budget": 5, "pins": {3: 4}}
    assert bar.preprocess({"budget": -1})["budget"] == 0
    assert bar.preprocess(None) is None  # before there is a model
    for bad in ({}, {"budget": "x"}, {"budget": 1, "pins": {"a": 4}}, {"budget": math.inf}):
        with pytest.raises(gr.Error):
            bar.preprocess(bad)
    assert bar.postprocess({"budget": 5, "pins": {3: 4}}) == {"budget": 5, "pins": {"3": 4}}


def test_shade_is_importance_whatever_the_direction():
    for row in sent_to_browser(model_scores(24), "last")["rows"]:
        assert row["order"] == rank_layers(row["name"], model_scores(24), 24)
        assert row["shade"][row["order"][0]] == 1 and row["shade"][row["order"][-1]] == 0
        assert not row["decides"]
    same = sent_to_browser({"lim": [0.5] * 24})
    assert [row["name"] for row in same["rows"]] == ["lim"]
    assert set(same["rows"][0]["shade"]) == {0.5}


def test_shades_are_linear_and_outliers_share_the_end_of_the_scale():
    assert shades([1.0, 2.0, 3.0, 5.0], True) == [0, 0.25, 0.5, 1]
    assert shades([1.0, 2.0, 3.0, 5.0], False) == [1, 0.75, 0.5, 0]
    close = [10.0, 11.0, 12.0, 13.0, 14.0]
    far = shades([*close, 1000.0, 2000.0], True)
    # quartiles of all seven: 11.5 and 507, so the reach ends at 1250.25
    assert far[-1] == 1 and far[0] == 0 and far[-2] == pytest.approx(990 / 1240.25, abs=0.001)
    far = shades([*close, 15.0, 16.0, 17.0, 1000.0, -1000.0], True)
    # quartiles 11.25 and 15.75: everything from 4.5 to 22.5 is told apart
    assert (far[-2], far[-1]) == (1, 0)
    assert far[:5] == [round((v - 4.5) / 18, 3) for v in close]
    assert shades([3.0] * 5, True) == [0.5] * 5
    assert shades([3.0] * 9 + [7.0], True) == [0] * 9 + [1]  # no spread: nothing is cut off


def test_without_scores_the_split_still_shows():
    (row,) = sent_to_browser({}, "first")["rows"]
    assert row["title"] == "Layers" and len(row["shade"]) == 24
    with pytest.raises(UserError):
        sent_to_browser({})


def test_a_fresh_page_starts_in_the_middle():
    cost = model_cost(32)
    least, most = cost.total((2,) * 32), cost.total((4,) * 32)
    assert choice_of(cost, (4, 2), {}).spent == (least + most) // 2


def test_the_expected_error_is_that_of_the_difference_to_the_unquantized_model():
    def at(split, right):
        items = {"acc": [float(k < right) for k in range(40)]}
        quantizer = "none" if set(split) == {16} else "quanto"
        acc = {"acc": Metric(right / 40, 0.08, 40)}
        return Evaluation("pairs", split, quantizer, acc, items, 40, 1.0)

    points = breakpoints(model_cost(24), (4, 2), range(24))
    found = [at((16,) * 24, 36), at(points.split(0), 26), at(points.split(2), 30)]
    first, between, *_ = expected_at(points, found, "pairs", "acc")
    error = stdev([1.0] * 10 + [0.0] * 30) / math.sqrt(40)  # the ten items that only one gets
    assert first == Expected(0.65, pytest.approx(error), True, 0.9)
    assert expected_texts(first) == {
        "expected": "0.65",
        "expected_how": f"measured: −0.25 ± {error:.2g} to unquantized",
    }
    assert expected_texts(between)["expected_how"].startswith("interpolated: −0.2 ± 0.06")
