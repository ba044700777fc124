"""Measured splits that lie on no line."""

from __future__ import annotations

import made_up
import pytest
from charting import (
    ACC,
    ALL,
    COSTS,
    MIB,
    SIX,
    SMALL,
    N,
    curves_of,
    draw,
    evaluation,
    mixed,
    notes,
    sweep_of_items,
    traces,
)

from lwq_ui.core.curves import curves
from lwq_ui.core.memory import LayerCost, ModelCost, format_gib
from lwq_ui.core.orderings import ORDERINGS
from lwq_ui.core.schema import Metric
from lwq_ui.ui.charts.point_texts import split_lines
from lwq_ui.ui.charts.styles import LOOKS


def test_each_kind_of_split_has_its_own_symbol():
    shown = traces(draw(SIX))
    assert set(shown) == {"unquantized", "all 4-bit", "all 2-bit", "in no order"}
    assert len({trace["marker"]["symbol"][0] for trace in shown.values()}) == 4
    points = shown["in no order"]
    assert (points["meta"]["bits"], points["y"]) == ([2.5, 3.25], [20.0, 14.0])
    assert points["meta"]["size"] == [SMALL.total(mixed(k)) / MIB for k in (2, 5)]
    assert points["customdata"] == [mixed(2), mixed(5)]
    assert "error_y" not in points  # bars of absolute errors would hide every difference
    size = format_gib(SMALL.total(mixed(5)))
    for part in ("3.25 bits", "14 ± 0.3", "n = 4,000", "Quanto, Max", size, "5 × 4, 3 × 2"):
        assert part in points["text"][1]


def test_the_split_measured_last_is_ringed():
    ring = traces(draw(SIX, current=tuple(mixed(5))))["measured last"]
    assert (ring["meta"]["bits"], ring["y"]) == ([3.25], [14.0])
    assert "measured last" not in traces(draw(SIX, current=tuple(mixed(6))))


def test_no_results_is_a_figure_too():
    drawn = draw([], current=(4, 2))
    assert drawn["data"] == drawn["keys"] == [] and drawn["caption"] == ""


@pytest.mark.parametrize("steps", [(0, 12, 24), (0, 5, 6, 7, 24), (0, 1, 2, 3, 4, 24)])
def test_scattered_splits_are_points_and_no_sentence(steps):
    splits = curves_of("lim")[0].splits
    measured = [e for e in sweep_of_items("lim") if e.split in {splits[k] for k in steps}]
    drawn = draw(measured, ACC, ALL, COSTS)
    assert not any(t["mode"].startswith("lines") for t in drawn["data"])
    assert drawn["sentences"] == [] and "%" not in "".join(notes(drawn))
    singles = traces(drawn)["LIM, single splits"]
    assert singles["marker"]["color"] == LOOKS["lim"][1]
    assert singles["customdata"] == [list(splits[k]) for k in reversed(steps[1:-1])]


def test_what_coincides_with_a_forgotten_order_is_no_line():
    """LIM was scored anew on another text: its old splits lie on new lines here and there."""
    old = made_up.scores()
    new = {**old, "lim": old["lim"][::-1]}
    all_curves = curves(list(ORDERINGS), new, 24, (4, 2))
    drawn = draw(sweep_of_items("lim"), ACC, all_curves, COSTS)
    assert [t["name"] for t in drawn["data"] if t["mode"].startswith("lines")] == []
    assert drawn["sentences"] == []
    (others,) = [t for t in drawn["data"] if t["uid"] == "others"]
    assert others["meta"]["off"] and "error_y" not in others


def test_other_levels_are_off_and_an_empty_chart_says_so():
    eight = made_up.all_curves((8, 2))
    measured = sweep_of_items("lim", "zd")
    drawn = draw(measured, ACC, eight, COSTS)
    assert not any(t["mode"].startswith("lines") for t in drawn["data"])
    shown = {t["name"] for t in drawn["data"] if not t["meta"]["off"]}
    assert shown == {"unquantized", "all 8-bit", "all 4-bit", "all 2-bit"}
    (others,) = [t for t in drawn["data"] if t["meta"]["off"]]
    assert others["name"] == f"{len(others['y'])} other splits" and others["uid"] in drawn["keys"]
    said = notes(drawn)[-1].replace("<br>", " ")
    assert said == (
        "No mix of 8 and 2 bits by Quanto, Max is measured yet on this many items. "
        "Press Sweep, or Quantize and evaluate."
    )
    low, high = drawn["axes"]["bits"]["xaxis"]["range"]
    assert low < 2 and high > 8
    three = made_up.all_curves((8, 4, 2), ["lim"])
    drawn = draw(measured, ACC, three, COSTS)
    assert list(drawn["axes"]) == ["raised"] and list(traces(drawn)) == ["all 4-bit"]
    said = notes(drawn, "raised")[-1].replace("<br>", " ")
    assert said.startswith("No mix of 8, 4 and 2 bits by") and said.endswith("items. Press Sweep.")
    drawn = draw(measured, ACC, three, COSTS | {"spqr": COSTS["quanto"]}, quantizer="spqr")
    said = notes(drawn, "raised")[-1].replace("<br>", " ").replace("- ", "-")
    assert said == "SpQR-like has no 8, 4 and 2 bits. Choose another quantizer."


def test_the_split_measured_last_is_always_seen():
    measured = sweep_of_items("lim")
    last = (4, 2) * 12
    measured.append(made_up.with_items(made_up.evaluate(last)[1]))
    (trace,) = [t for t in draw(measured, ACC, ALL, COSTS)["data"] if t["uid"] == "others"]
    assert trace["customdata"] == [list(last)]
    shown = traces(draw(measured, ACC, ALL, COSTS, current=last))
    assert shown["in no order"]["customdata"] == [list(last)] and "measured last" in shown


def test_a_few_splits_of_three_levels_are_points_where_layers_are_counted():
    """Four layers have two splits of three levels: too few for a line, and measured all the
    same."""
    three = made_up.all_curves((8, 4, 2), ["lim", "zd"], 4)
    raised = three[0].splits[1]
    small = made_up.costs(4)
    uniform = [(level,) * 4 for level in (16, 8, 4, 2)]
    drawn = draw(made_up.evaluations([*uniform, raised]), ACC, three, small)
    places = {name: trace["meta"]["raised"] for name, trace in traces(drawn).items()}
    assert places == {"all 4-bit": [0.0], "LIM, single splits": [1.0]}
    assert not any("No mix" in text for text in notes(drawn, "raised"))
    assert traces(drawn)["LIM, single splits"]["customdata"] == [list(raised)]
    early = made_up.evaluations([raised], 8)
    drawn = draw(made_up.evaluations(uniform) + early, ACC, three, small)
    assert drawn["caption"] == "Hollow points rest on 8 of 60 items so far."
    drawn = draw(
        made_up.evaluations(uniform) + made_up.evaluations([(4, 2, 2, 2)], 8), ACC, three, small
    )
    assert drawn["caption"] == ""  # what is not drawn is no hollow point


def test_levels_that_are_fractions_are_written_as_such():
    assert split_lines((3.945,) * 2 + (3.657,)) == ("bits 2 × 3.945, 1 × 3.657",)
    split = (3.945,) * N
    costs = dict.fromkeys(["none", "quanto"], ModelCost((LayerCost(9, {3.945: 5}, 1),) * N, 7))
    one = [evaluation(split, perplexity=Metric(12.0, 0.2, 4000))]
    (trace,) = draw(one, curves=[], costs=costs)["data"]
    assert trace["name"] == "one level" and "all 3.945-bit" in trace["text"][0]
