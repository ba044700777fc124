"""Where splits stand along both axes."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import made_up
import pytest
from charting import (
    ACC,
    ALL,
    COST,
    COSTS,
    KL,
    MIB,
    PPL,
    SIX,
    SMALL,
    N,
    curves_of,
    draw,
    evaluation,
    notes,
    traces,
)

from lwq_ui.core.curves import curves
from lwq_ui.core.memory import LayerCost, ModelCost
from lwq_ui.core.orderings import ORDERINGS
from lwq_ui.core.schema import Metric
from lwq_ui.ui.charts.axes import BOTTOM, HEIGHT, TICKS, TOP, Scale


def test_axis_titles_say_what_is_better():
    drawn = draw(SIX)
    assert drawn["layout"]["yaxis"]["title"]["text"] == "Perplexity (lower is better)"
    titles = [axis["xaxis"]["title"]["text"] for axis in drawn["axes"].values()]
    assert titles == ["Average bits per layer", "Size of the model, MiB"]
    drawn = draw(SIX, "minimal_pairs/acc")
    text = "Grammar pairs: accuracy (higher is better)"
    assert drawn["layout"]["yaxis"]["title"]["text"] == text
    assert [trace["meta"]["bits"] for trace in drawn["data"]] == [[3.25]]


def test_unquantized_stands_after_a_break_labelled_16():
    drawn = draw(SIX)
    (place,) = traces(drawn)["unquantized"]["meta"]["bits"]
    axis = drawn["axes"]["bits"]["xaxis"]
    assert 4 < place < 6 and axis["ticktext"][axis["tickvals"].index(place)] == "16"
    assert "average bits 16.00" in traces(drawn)["unquantized"]["text"][0]
    (place,) = traces(drawn)["unquantized"]["meta"]["size"]
    axis = drawn["axes"]["size"]["xaxis"]
    size = SMALL.total([16] * N) / MIB
    assert place < size and axis["ticktext"][axis["tickvals"].index(place)] == f"{size:.3g}"
    assert drawn["axes"]["size"]["reach"] < place
    assert draw(SIX[:1])["data"][0]["meta"]["bits"] == [16]


def test_labels_of_levels_stand_apart_or_share_a_line():
    drawn = draw(made_up.sweep(curves_of("lim")), PPL, ALL, COSTS)
    assert notes(drawn)[:2] == ["16 and 8 bits", "4 bits"]
    heights = [n["y"] for n in drawn["axes"]["bits"]["annotations"][:2]]
    assert heights[1] > heights[0] and heights[1] == pytest.approx(math.log10(47.81), abs=0.01)


def test_exploding_figures_get_a_logarithmic_axis():
    measured = made_up.sweep(curves_of("lim"))
    assert draw(measured, PPL, ALL, COSTS)["layout"]["yaxis"]["type"] == "log"
    assert "type" not in draw(measured, ACC, ALL, COSTS)["layout"]["yaxis"]
    drawn = draw(measured, KL, ALL, COSTS)
    assert "unquantized" not in traces(drawn)  # its divergence is 0
    assert "Values of 0" in drawn["caption"]


def collapse(*values):
    """All layers at 16, 4 and 2 bits and mixes in between, with these perplexities."""
    splits = [[16] * N, [4] * N, *([4] * k + [2] * (N - k) for k in (5, 2)), [2] * N]
    return [
        evaluation(s, quantizer="none" if s[0] == 16 else "quanto", perplexity=Metric(v, 1.0, 32))
        for s, v in zip(splits, values, strict=True)
    ]


def test_an_axis_to_a_million_is_readable_where_the_model_is():
    scale = Scale([(v, 1.0) for v in (37.7, 53.5, 752, 65_000, 1.1e6)], False, 377.0)
    layout = scale.layout()
    assert layout["type"] == "log"
    assert layout["ticktext"] == ["50", "100", "200", "1k", "10k", "100k", "1M"]
    heights = [scale.pixels(v) for v in (37.7, 53.5, 377.0, 752, 65_000, 1.1e6)]
    assert heights == sorted(heights)
    whole = HEIGHT - TOP - BOTTOM
    assert heights[2] - heights[0] > 0.6 * whole  # uncompressed they would have a fifth
    assert heights[1] - heights[0] > 25 and heights[-1] - heights[2] > 0.2 * whole
    for value in (37.7, 1000.0, 1e6):  # what Plotly draws stands where it is counted to stand
        assert math.log10(scale.place(value)) == pytest.approx(scale.at(value))
        assert scale.value_at(scale.at(value)) == pytest.approx(value)
    gaps = [b - a for a, b in pairwise(map(scale.pixels, scale.ticks()))]
    assert min(gaps) >= TICKS


@pytest.mark.parametrize("worst", [376.0, 380.0, 1e5, 1e12, 1e250])
def test_any_collapse_has_ticks(worst):
    scale = Scale([(37.7, 1.0), (worst, 1.0)], False, 377.0)
    assert scale.log == (worst > 377)
    ticks = scale.ticks() if scale.log else [1, 2, 3]
    assert 3 <= len(ticks) <= 17 and ticks == sorted(set(ticks))
    if scale.slope == 1:
        assert scale.place(worst) == pytest.approx(worst)


def test_the_chart_shades_what_is_lost():
    lines = made_up.all_curves((4, 2), ["first"], N)
    drawn = draw(collapse(37.7, 53.5, 80, 752, 1.1e6), curves=lines)
    (shade,) = (s for s in drawn["axes"]["bits"]["shapes"] if s["type"] == "rect")
    assert shade["y0"] == pytest.approx(377)
    assert "↑ lost: 10 times the original's" in notes(drawn)
    assert "The axis is compressed where splits are lost." in drawn["caption"]
    (text,) = (t for trace in drawn["data"] for t in trace["text"] if "752" in t)
    assert "lost: 20 times the original's" in text
    fine = draw(collapse(37.7, 53.5, 80, 100, 376), curves=lines)
    assert "lost" not in str(fine["axes"]) and "type" not in fine["layout"]["yaxis"]
    # Without the original nobody can say.
    bare = draw(collapse(37.7, 53.5, 80, 752, 1.1e6)[1:], curves=lines)
    assert "lost" not in str(bare["axes"]) + bare["caption"]


def test_a_ruin_of_other_levels_leaves_the_room_to_the_others():
    """All layers at 2 bits were measured; the chart is of 8 and 4."""
    lines = made_up.all_curves((8, 4), ["first"], N)
    measured = [
        evaluation(s, perplexity=Metric(38.0 + k, 1.0, 32)) for k, s in enumerate(lines[0].splits)
    ]
    measured += [e for e in collapse(37.7, 46.0, 80, 752, 1.1e6) if set(e.split) <= {16, 2}]
    drawn = draw(measured, curves=lines)
    assert "type" not in drawn["layout"]["yaxis"] and "all 2-bit" not in traces(drawn)
    assert drawn["axes"]["bits"]["xaxis"]["range"][0] > 3.5
    usable = [*measured[:-1], evaluation([2] * N, perplexity=Metric(60.0, 1.0, 32))]
    assert "all 2-bit" in traces(draw(usable, curves=lines))


def test_guessing_has_a_line_where_accuracies_come_near_it():
    def of(low):
        return [
            replace(
                evaluation([level] * N, task="minimal_pairs", acc=Metric(value, 0.02, 2)),
                items={"acc": [1.0, 0.0], "chance": [0.5, 0.5]},
            )
            for level, value in ((4, 0.8), (2, low))
        ]

    assert "chance" in notes(draw(of(0.49), ACC)) and "chance" not in notes(draw(of(0.7), ACC))
    assert "chance" not in notes(draw([replace(e, items={}) for e in of(0.49)], ACC))


def test_pruning_shares_the_axis():
    drawn = draw(made_up.sweep(curves_of("lim", "prune-by-lim")), ACC, ALL, COSTS)
    pruned = traces(drawn)["Prune by LIM"]
    assert pruned["meta"]["bits"] == [4 * (24 - k) / 24 for k in range(13)]
    assert pruned["customdata"][3].count(0) == 3
    assert pruned["meta"]["size"][3] == COST.total(tuple(pruned["customdata"][3])) / MIB


def test_three_levels_are_drawn_against_the_layers_raised():
    three = made_up.all_curves((8, 4, 2), ["lim", "random"])
    drawn = draw(made_up.sweep(three), PPL, three, COSTS)
    assert (list(drawn["axes"]), drawn["axis"]) == (["raised"], "raised")
    assert traces(drawn)["LIM"]["meta"]["raised"] == [float(k) for k in range(9)]
    title = drawn["axes"]["raised"]["xaxis"]["title"]["text"]
    assert title == "Layers raised to 8 bits (twice as many are lowered to 2)"
    assert notes(drawn, "raised") == ["16, 8 and 4 bits"]
    assert draw(made_up.sweep(three), PPL, three, COSTS)["sentences"] == []


@pytest.mark.parametrize("levels", [(3.785, 3.657), (3.945, 3.657), (4, 2), (8, 2), (8, 4)])
@pytest.mark.parametrize("n", [1, 2, 4, 24])
def test_two_levels_are_drawn_against_bits_however_near_they_are(levels, n):
    """Where leaving out one layer is more than the low level saves, pruning has one split only."""
    all_curves = curves([*ORDERINGS], made_up.scores(n), n, levels)
    assert not any(c.constant for c in all_curves)
    layer = LayerCost(1000, {16: 2000, **{level: int(125 * level) for level in levels}}, 10)
    cost = ModelCost((layer,) * n, 10**6)
    measured = [evaluation([16] * n, quantizer="none", perplexity=Metric(30, 0.2, 60))]
    measured += [evaluation(s, perplexity=Metric(40, 0.2, 60)) for s in all_curves[0].splits]
    drawn = draw(measured, curves=all_curves, costs={"quanto": cost, "none": cost})
    assert list(drawn["axes"]) == ["bits", "size"]


def test_sizes_after_the_break_are_told_apart():
    """All layers alike at levels a fraction of a bit apart, beside a pair below them."""
    all_curves = curves(["lim"], made_up.scores(N), N, (3.785, 3.657))
    levels = (3.945, 3.913, 3.881, 3.785, 3.657)
    packed = {16: 2 * MIB, **{level: int(MIB * level / 8) for level in levels}}
    cost = ModelCost((LayerCost(MIB, packed, 0),) * N, 8 * MIB)
    measured = [evaluation(s, perplexity=Metric(40, 0.2, 60)) for s in all_curves[0].splits]
    measured += [evaluation([level] * N, perplexity=Metric(39, 0.2, 60)) for level in levels[:3]]
    measured.append(evaluation([16] * N, quantizer="none", perplexity=Metric(38, 0.2, 60)))
    drawn = draw(measured, curves=all_curves, costs={"quanto": cost, "none": cost})
    ticks = drawn["axes"]["size"]["xaxis"]["ticktext"]
    after = ticks[ticks.index("…") + 1 :]
    assert after == ["11.88", "11.91", "11.94", "24"]
