from __future__ import annotations

import csv
import io
import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from statistics import stdev

import made_up
import pytest

from lwq_ui.core.allocation import Split
from lwq_ui.core.curves import alike, curves
from lwq_ui.core.memory import LayerCost, ModelCost, average_bits, format_gib
from lwq_ui.core.orderings import ALIKE, ORDERINGS
from lwq_ui.core.schema import Evaluation, Metric
from lwq_ui.ui.charts import (
    INK,
    MARKS,
    STYLES,
    Other,
    results_csv,
    results_figure,
    split_lines,
)
from lwq_ui.ui.tables import results_table
from lwq_ui.ui.wording import figure, metric_choices

N, MIB = 8, 2**20
TITLES = {"perplexity": "Perplexity and divergence", "minimal_pairs": "Grammar pairs"}
SMALL = made_up.model_cost(N)
SMALLS = made_up.costs(N)


def evaluation(split, task="perplexity", quantizer="quanto", **metrics) -> Evaluation:
    return Evaluation(task, tuple(split), quantizer, metrics, {}, None, 1.0)


def mixed(high: int) -> list[int]:
    return [4] * high + [2] * (N - high)


@pytest.fixture
def evaluations() -> list[Evaluation]:
    return [
        evaluation([16] * N, quantizer="none", perplexity=Metric(11.5, 0.2, 4000)),
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


def draw(evaluations, chosen="perplexity/perplexity", curves=(), costs=SMALLS, **options):
    drawn = results_figure(evaluations, chosen, TITLES, curves, costs, **options)
    json.dumps(drawn, allow_nan=False)
    return drawn


def kept_sentences(evaluations, chosen, curves, costs, *beside, **options):
    options |= dict(zip(("other", "model"), beside, strict=False))
    return draw(evaluations, chosen, curves, costs, **options)["sentences"]


def traces(drawn):
    return {trace.get("name", trace["uid"]): trace for trace in drawn["data"]}


def notes(drawn, axis="bits"):
    return [note["text"] for note in drawn["axes"][axis]["annotations"]]


# ---- splits on no line


def test_each_kind_of_split_has_its_own_symbol(evaluations):
    shown = traces(draw(evaluations))
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


def test_choices_are_what_was_measured_in_the_order_of_the_tasks(evaluations):
    assert metric_choices(reversed(evaluations), TITLES) == [
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


def test_axis_titles_say_what_is_better(evaluations):
    drawn = draw(evaluations)
    assert drawn["layout"]["yaxis"]["title"]["text"] == "Perplexity (lower is better)"
    titles = [axis["xaxis"]["title"]["text"] for axis in drawn["axes"].values()]
    assert titles == ["Average bits per layer", "Size of the model, MiB"]
    drawn = draw(evaluations, "minimal_pairs/acc")
    text = "Grammar pairs: accuracy (higher is better)"
    assert drawn["layout"]["yaxis"]["title"]["text"] == text
    assert [trace["meta"]["bits"] for trace in drawn["data"]] == [[3.25]]


def test_unquantized_stands_after_a_break_labelled_16(evaluations):
    drawn = draw(evaluations)
    (place,) = traces(drawn)["unquantized"]["meta"]["bits"]
    axis = drawn["axes"]["bits"]["xaxis"]
    assert 4 < place < 6 and axis["ticktext"][axis["tickvals"].index(place)] == "16"
    assert "average bits 16.00" in traces(drawn)["unquantized"]["text"][0]
    (place,) = traces(drawn)["unquantized"]["meta"]["size"]
    axis = drawn["axes"]["size"]["xaxis"]
    size = SMALL.total([16] * N) / MIB
    assert place < size and axis["ticktext"][axis["tickvals"].index(place)] == f"{size:.3g}"
    assert drawn["axes"]["size"]["reach"] < place
    assert draw(evaluations[:1])["data"][0]["meta"]["bits"] == [16]


def test_the_split_measured_last_is_ringed(evaluations):
    ring = traces(draw(evaluations, current=tuple(mixed(5))))["measured last"]
    assert (ring["meta"]["bits"], ring["y"]) == ([3.25], [14.0])
    assert "measured last" not in traces(draw(evaluations, current=tuple(mixed(6))))


def test_an_error_that_is_not_known_is_not_written():
    one = [evaluation(mixed(5), perplexity=Metric(14.0, None, 1))]
    (trace,) = draw(one)["data"]
    assert "±" not in trace["text"][0]
    assert "±" not in results_table(one, TITLES).split("</caption>")[1]


def test_no_results_is_a_figure_too():
    drawn = draw([], current=(4, 2))
    assert drawn["data"] == drawn["keys"] == [] and drawn["caption"] == ""


# ---- lines


ALL = made_up.all_curves()
COST, COSTS = made_up.model_cost(), made_up.costs()
PPL, KL, ACC = "perplexity/perplexity", "perplexity/kl_divergence", "minimal_pairs/acc"


def curves_of(*orderings):
    return [c for c in ALL if c.ordering in orderings]


def test_every_ordering_has_one_line_colour_and_symbol():
    drawn = draw(made_up.sweep(ALL), ACC, ALL, COSTS)
    lines = [t for t in drawn["data"] if t["mode"] == "lines+markers"]
    assert {t["name"] for t in lines} == {
        *(o.title for o in ORDERINGS.values() if o.name not in ("lim", "block-influence")),
        "LIM = Block influence",
    }
    assert len({t["line"]["color"] for t in lines}) == len(lines)
    assert len({t["marker"]["symbol"][0] for t in lines}) == len(lines)
    lim = traces(drawn)["LIM = Block influence"]
    assert lines[-1] is lim and drawn["keys"][0] == lim["uid"]  # on top, and named first
    assert lim["customdata"] == [list(s) for s in ALL[0].splits]
    assert lim["meta"]["bits"] == [average_bits(s) for s in ALL[0].splits]
    assert lim["meta"]["size"] == [COST.total(s) / MIB for s in ALL[0].splits]
    assert [t["name"] for t in drawn["data"] if t["mode"] == "markers"] == [
        "unquantized",
        "all 8-bit",
    ]
    assert "<b>LIM = Block influence</b>" in lim["text"][9]
    assert "± 0.058" in lim["text"][9] and "n = 60" in lim["text"][9]


def luminance(colour: str) -> float:
    parts = (int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5))
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("ground", ["#ffffff", "#1e293b"])
def test_colours_are_seen_on_the_light_and_the_dark_page(ground):
    for _, colour in [*STYLES.values(), *MARKS.values(), ("", INK)]:
        dark, light = sorted([luminance(colour), luminance(ground)])
        assert (light + 0.05) / (dark + 0.05) >= 3
    assert set(STYLES) == {*ORDERINGS, ALIKE} - {"block-influence"}  # which LIM's line stands for


def sweep_of_items(*orderings):
    found = made_up.sweep(curves_of(*orderings))
    return [made_up.with_items(e) for e in found if e.task == "minimal_pairs"]


def test_bands_are_the_errors_of_differences_on_the_same_items():
    found = sweep_of_items("lim", "zd", "random")
    drawn = draw(found, ACC, ALL, COSTS)
    bands = {t["meta"]["of"]: t for t in drawn["data"] if "of" in t["meta"]}
    shown = {of for of, t in bands.items() if t["meta"]["shown"]}
    assert set(bands) == {"quanto-lim", "quanto-zd", "quanto-random"}
    assert shown == {"quanto-lim", "quanto-random"}
    lim, band = traces(drawn)["LIM = Block influence"], bands["quanto-lim"]
    items = {e.split: e.items["acc"] for e in found}
    errors = []
    for split in curves_of("lim")[0].splits:
        apart = [a - b for a, b in zip(items[split], items[(16,) * 24], strict=True)]
        errors.append(stdev(apart) / math.sqrt(60))
    up, down = band["y"][:25], band["y"][:24:-1]
    assert up == pytest.approx([v + e for v, e in zip(lim["y"], errors, strict=True)])
    assert down == pytest.approx([v - e for v, e in zip(lim["y"], errors, strict=True)])
    assert max(errors[:8]) < 0.04 < 0.07  # less than the value's own
    assert band["meta"]["bits"] == lim["meta"]["bits"] + lim["meta"]["bits"][::-1]
    assert "difference to the unquantized model, on the same items" in drawn["caption"]
    assert "± 0.07" in lim["text"][3]


def test_the_chosen_orders_band_shows():
    drawn = draw(sweep_of_items("lim", "zd"), ACC, ALL, COSTS, ordering="zd")
    bands = {t["meta"]["of"]: t for t in drawn["data"] if "of" in t["meta"]}
    assert [of for of, t in bands.items() if t["meta"]["shown"]] == ["quanto-zd"]
    assert "Band of ZD:" in drawn["caption"]


def test_no_band_without_items_in_common():
    drawn = draw(made_up.sweep(curves_of("lim", "random")), ACC, ALL, COSTS)
    assert [t["meta"]["of"] for t in drawn["data"] if "of" in t["meta"]] == ["quanto-random"]
    found = [
        replace(e, items={"acc": e.items["acc"][:15]}, metrics={"acc": Metric(1.0, 0.0, 15)})
        if e.split == curves_of("lim")[0].splits[9]
        else e
        for e in sweep_of_items("lim")
    ]
    (band,) = [t for t in draw(found, ACC, ALL, COSTS)["data"] if "of" in t["meta"]]
    assert band["y"].count(None) == 1 and len(band["y"]) == 2 * 24 + 1  # open, not of width 0


def test_random_orders_are_a_mean_with_their_deviation():
    drawn = draw(made_up.sweep(curves_of("random")), PPL, ALL, COSTS)
    line = traces(drawn)["Random"]
    values = {
        e.split: e.metrics["perplexity"].value
        for e in made_up.sweep(curves_of("random"))
        if e.task == "perplexity"
    }
    each = [values[c.splits[7]] for c in curves_of("random")]
    assert line["y"][7] == pytest.approx(sum(each) / 3)
    assert "mean of 3 orders" in line["text"][7]
    assert line["customdata"][7] == list(curves_of("random")[0].splits[7])
    assert "Random: mean and standard deviation of 3 orders" in drawn["caption"]


def test_guides_at_uniform_levels_and_where_most_is_kept():
    found = sweep_of_items("lim", "zd")
    drawn = draw(found, ACC, ALL, COSTS)
    assert notes(drawn)[0] == "16, 8 and 4 bits"
    text = notes(drawn)[-1]
    assert re.fullmatch(r"90 % kept:<br>about \d\.\d–\d\.\d bits", text)
    assert notes(drawn, "size")[-1].endswith("MiB")
    band = drawn["axes"]["bits"]["shapes"][-1]
    assert band["type"] == "rect" and band["yref"] == "paper" and band["x0"] < band["x1"]
    low, high = map(float, re.findall(r"\d\.\d", text))
    assert low <= band["x0"] < band["x1"] <= high
    # the curve itself crosses 90 % inside
    lim = traces(drawn)["LIM = Block influence"]
    bits = [x for x, y in zip(lim["meta"]["bits"], lim["y"], strict=True) if y < 0.9 * lim["y"][0]]
    assert low <= bits[0] <= high
    said = next(s for s in drawn["sentences"] if s.startswith("LIM"))
    first = lim["y"][0]
    assert said == (
        f"LIM = Block influence: 90 % of the 4-bit score ({0.9 * first:.3g} of {first:.3g}) is "
        f"kept down to about {low}–{high} bits"
    )
    assert not any("kept" in text for text in notes(draw(made_up.sweep(ALL), KL, ALL, COSTS)))


def test_a_score_that_cannot_fall_is_not_praised():
    """Chance keeps all of chance."""
    flat = [replace(e, metrics={"acc": Metric(0.5, 0.07, 60)}) for e in sweep_of_items("lim")]
    flat = [replace(e, items={"acc": [1.0, 0.0] * 30}) for e in flat]
    (said,) = draw(flat, ACC, ALL, COSTS)["sentences"]
    assert said.endswith(
        "the 4-bit score (0.5) falls by no more than noise everywhere down to 2 bits"
    )


@pytest.mark.parametrize("steps", [(0, 12, 24), (0, 5, 6, 7, 24), (0, 1, 2, 3, 4, 24)])
def test_scattered_splits_are_points_and_no_sentence(steps):
    splits = curves_of("lim")[0].splits
    found = [e for e in sweep_of_items("lim") if e.split in {splits[k] for k in steps}]
    drawn = draw(found, ACC, ALL, COSTS)
    assert not any(t["mode"].startswith("lines") for t in drawn["data"])
    assert drawn["sentences"] == [] and "%" not in "".join(notes(drawn))
    singles = traces(drawn)["LIM, single splits"]
    assert singles["marker"]["color"] == STYLES["lim"][1]
    assert singles["customdata"] == [list(splits[k]) for k in reversed(steps[1:-1])]


def test_a_line_is_open_where_nothing_was_measured():
    splits = curves_of("lim")[0].splits
    missing = {*splits[8:11]}
    found = [e for e in sweep_of_items("lim") if e.split not in missing]
    drawn = draw(found, ACC, ALL, COSTS)
    lim = traces(drawn)["LIM = Block influence"]
    assert lim["y"][8] is None and None not in lim["y"][:8] + lim["y"][9:]
    assert lim["customdata"][9] == list(splits[11]) and lim["meta"]["bits"][8] is None
    assert (
        len({len(lim[k]) for k in ("y", "text", "customdata")} | {len(lim["marker"]["symbol"])})
        == 1
    )
    assert "Where a line is broken, nothing was measured." in drawn["caption"]
    # what is kept may end in the gap: nothing is said that would need it
    assert all("everywhere" not in s for s in drawn["sentences"])


def test_every_fourth_step_is_a_line_that_was_swept():
    coarse = made_up.all_curves(orderings=["lim"])[0].splits[::4]
    found = [e for e in sweep_of_items("lim") if e.split in coarse or len({*e.split}) == 1]
    lim = traces(draw(found, ACC, ALL, COSTS))["LIM = Block influence"]
    assert len(lim["y"]) == 7 and None not in lim["y"]


def test_what_coincides_with_a_forgotten_order_is_no_line():
    """LIM was scored anew on another text: its old splits lie on new lines here and there."""
    old = made_up.scores()
    new = {**old, "lim": old["lim"][::-1]}
    every = curves(list(ORDERINGS), new, 24, (4, 2))
    drawn = draw(sweep_of_items("lim"), ACC, every, COSTS)
    assert [t["name"] for t in drawn["data"] if t["mode"].startswith("lines")] == []
    assert drawn["sentences"] == []
    (others,) = [t for t in drawn["data"] if t["uid"] == "others"]
    assert others["meta"]["off"] and "error_y" not in others


def test_other_levels_are_off_and_an_empty_chart_says_so():
    eight = made_up.all_curves((8, 2))
    found = sweep_of_items("lim", "zd")
    drawn = draw(found, ACC, eight, COSTS)
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
    drawn = draw(found, ACC, three, COSTS)
    assert list(drawn["axes"]) == ["raised"] and list(traces(drawn)) == ["all 4-bit"]
    said = notes(drawn, "raised")[-1].replace("<br>", " ")
    assert said.startswith("No mix of 8, 4 and 2 bits by") and said.endswith("items. Press Sweep.")
    drawn = draw(found, ACC, three, COSTS | {"spqr": COSTS["quanto"]}, quantizer="spqr")
    said = notes(drawn, "raised")[-1].replace("<br>", " ").replace("- ", "-")
    assert said == "SpQR-like has no 8, 4 and 2 bits. Choose another quantizer."


def test_the_split_measured_last_is_always_seen():
    found = sweep_of_items("lim")
    last = (4, 2) * 12
    found.append(made_up.with_items(made_up.evaluate(last)[1]))
    (trace,) = [t for t in draw(found, ACC, ALL, COSTS)["data"] if t["uid"] == "others"]
    assert trace["customdata"] == [list(last)]
    shown = traces(draw(found, ACC, ALL, COSTS, current=last))
    assert shown["in no order"]["customdata"] == [list(last)] and "measured last" in shown


def test_other_numbers_of_items_are_never_one_line():
    splits = curves_of("lim")[0].splits
    all_items = [replace(e, limit=None) for e in sweep_of_items("lim") if e.split in splits[::2]]
    quick = [e for e in sweep_of_items("lim") if e.split in splits[1::2]]
    drawn = draw(all_items + quick, ACC, ALL, COSTS)
    lines = [t for t in drawn["data"] if t["mode"].startswith("lines") and "of" not in t["meta"]]
    assert [t["name"] for t in lines] == ["LIM = Block influence, all items"]
    assert [s for s in lines[0]["customdata"] if s] == [list(s) for s in splits[::2]]


def test_a_split_of_several_orders_is_labelled_with_all():
    splits = curves_of("lim")[0].splits
    orders = {splits[3]: "LIM = ZD = Random 0"}
    drawn = draw(sweep_of_items("lim"), ACC, ALL, COSTS, orders=orders)
    assert "one split: LIM = ZD = Random 0" in traces(drawn)["LIM = Block influence"]["text"][3]


def test_labels_of_levels_stand_apart_or_share_a_line():
    drawn = draw(made_up.sweep(curves_of("lim")), PPL, ALL, COSTS)
    assert notes(drawn)[:2] == ["16 and 8 bits", "4 bits"]
    heights = [n["y"] for n in drawn["axes"]["bits"]["annotations"][:2]]
    assert heights[1] > heights[0] and heights[1] == pytest.approx(math.log10(47.81), abs=0.01)


def test_exploding_figures_get_a_logarithmic_axis():
    found = made_up.sweep(curves_of("lim"))
    assert draw(found, PPL, ALL, COSTS)["layout"]["yaxis"]["type"] == "log"
    assert "type" not in draw(found, ACC, ALL, COSTS)["layout"]["yaxis"]
    drawn = draw(found, KL, ALL, COSTS)
    assert "unquantized" not in traces(drawn)  # its divergence is 0
    assert "Values of 0" in drawn["caption"]


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
    assert kept_sentences(made_up.sweep(three), PPL, three, COSTS) == []


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


@pytest.mark.parametrize("levels", [(3.785, 3.657), (3.945, 3.657), (4, 2), (8, 2), (8, 4)])
@pytest.mark.parametrize("n", [1, 2, 4, 24])
def test_two_levels_are_drawn_against_bits_however_near_they_are(levels, n):
    """Where leaving out one layer is more than the low level saves, pruning has one split only."""
    every = curves([*ORDERINGS], made_up.scores(n), n, levels)
    assert not any(c.constant for c in every)
    layer = LayerCost(1000, {16: 2000, **{level: int(125 * level) for level in levels}}, 10)
    cost = ModelCost((layer,) * n, 10**6)
    found = [evaluation([16] * n, quantizer="none", perplexity=Metric(30, 0.2, 60))]
    found += [evaluation(s, perplexity=Metric(40, 0.2, 60)) for s in every[0].splits]
    drawn = draw(found, curves=every, costs={"quanto": cost, "none": cost})
    assert list(drawn["axes"]) == ["bits", "size"]


def test_sizes_after_the_break_are_told_apart():
    """All layers alike at levels a fraction of a bit apart, beside a pair below them."""
    every = curves(["lim"], made_up.scores(N), N, (3.785, 3.657))
    levels = (3.945, 3.913, 3.881, 3.785, 3.657)
    packed = {16: 2 * MIB, **{level: int(MIB * level / 8) for level in levels}}
    cost = ModelCost((LayerCost(MIB, packed, 0),) * N, 8 * MIB)
    found = [evaluation(s, perplexity=Metric(40, 0.2, 60)) for s in every[0].splits]
    found += [evaluation([level] * N, perplexity=Metric(39, 0.2, 60)) for level in levels[:3]]
    found.append(evaluation([16] * N, quantizer="none", perplexity=Metric(38, 0.2, 60)))
    drawn = draw(found, curves=every, costs={"quanto": cost, "none": cost})
    ticks = drawn["axes"]["size"]["xaxis"]["ticktext"]
    after = ticks[ticks.index("…") + 1 :]
    assert after == ["11.88", "11.91", "11.94", "24"]


def test_a_second_model_is_thin_named_and_not_to_be_clicked():
    large, theirs = made_up.costs(40, 1280), made_up.all_curves((4, 2), ["lim"], 40)
    mine = made_up.all_curves((8, 4), ["lim"])
    other = Other("large", made_up.sweep(theirs, 40), theirs, large)
    found = made_up.sweep(mine)
    drawn = draw(found, ACC, mine, COSTS, axis="size", other=other, model="small")
    shown = traces(drawn)
    assert drawn["axis"] == "size"
    assert shown["small, LIM"]["line"]["dash"] == "solid"
    assert shown["large, LIM"]["line"]["dash"] == "solid"  # a dash is a quantizer
    assert shown["large, LIM"]["marker"]["size"] < shown["small, LIM"]["marker"]["size"]
    assert shown["large, LIM"]["meta"]["size"][0] == large["none"].total((4,) * 40) / MIB
    assert "customdata" in shown["small, LIM"] and "customdata" not in shown["large, LIM"]
    assert notes(drawn)[0].startswith("small: ")
    assert notes(drawn, "size")[-2:] == ["<b>small</b>", "<b>large</b>"]
    sentences = kept_sentences(found, ACC, mine, COSTS, other, "small")
    assert len(sentences) == 2 and all(re.search("[MG]iB", s) for s in sentences)
    assert any(s.startswith("small, LIM: 90 % of the 8-bit score") for s in sentences)
    rows = list(csv.DictReader(io.StringIO(drawn["csv"])))
    assert {row["model"] for row in rows} == {"small", "large"}


def test_quantizers_are_told_apart():
    lim, lim_splits = curves_of("lim"), curves_of("lim")[0].splits
    found = made_up.sweep(lim)
    found += [e for s in lim[0].splits[:9] for e in made_up.evaluate(s, quantizer="quanto-hqq")]
    shown = traces(draw(found, ACC, ALL, COSTS))
    first, hqq = (shown[f"LIM = Block influence, Quanto, {name}"] for name in ("Max", "HQQ"))
    assert (first["line"]["dash"], hqq["line"]["dash"]) == ("solid", "dash")
    assert first["line"]["color"] == hqq["line"]["color"] == STYLES["lim"][1]
    assert first["marker"]["symbol"][0] == hqq["marker"]["symbol"][0]  # the order's
    assert set(first["meta"]["quantizers"]) == {"quanto"}
    assert hqq["meta"]["quantizers"] == ["quanto-hqq"] * 9
    sizes = [COSTS["quanto-hqq"].total(s) / MIB for s in lim_splits[:9]]
    assert hqq["meta"]["size"] == sizes != first["meta"]["size"][:9]
    assert format_gib(COSTS["quanto-hqq"].total(lim_splits[4])) in hqq["text"][4]
    assert "<b>LIM = Block influence, Quanto, HQQ</b>" in hqq["text"][4]
    told = kept_sentences(found, ACC, ALL, COSTS)
    assert any(s.startswith("LIM = Block influence, Quanto, Max: 90 % of") for s in told)
    rows = list(csv.DictReader(io.StringIO(results_csv(found, ACC, ALL, COSTS))))
    of = {(r["quantizer"], r["bits"]): int(r["bytes"]) for r in rows}
    bits = " ".join(map(str, lim_splits[4]))
    assert of["quanto-hqq", bits] == of["quanto", bits] + 24 * 10**6
    swapped = traces(draw(found, ACC, ALL, COSTS, quantizer="quanto-hqq"))
    for name, trace in swapped.items():  # whichever is chosen
        if "line" in trace and trace["mode"] != "lines":
            assert trace["line"]["dash"] == shown[name]["line"]["dash"]
            assert trace["line"]["color"] == shown[name]["line"]["color"]
    off = {t["name"]: t["meta"]["off"] for t in draw(found, ACC, ALL, COSTS, beside=set())["data"]}
    assert off["LIM = Block influence, Quanto, HQQ"] and not off["LIM = Block influence"]
    one = made_up.evaluate(lim[0].splits[5], quantizer="quanto-hqq")  # too few for a line
    assert traces(draw(made_up.sweep(lim) + one, ACC, ALL, COSTS))["1 other splits"]["meta"]["off"]
    # what another quantizer has at other levels is not in the way
    far = made_up.evaluate((8,) * 24, quantizer="quanto-hqq")
    (eight,) = [
        t for t in draw(found + far, ACC, ALL, COSTS)["data"] if t.get("name") == "all 8-bit"
    ]
    assert eight["meta"]["quantizers"] == ["quanto"]


def test_four_quantizers_and_five_orders_are_told_apart():
    names = ["quanto", "quanto-hqq", "quanto:group=64", "quanto-hqq:group=32"]
    costs = dict.fromkeys(["none", *names], COST)
    orders = curves_of("lim", "zd", "reverse-zd", "reverse-lim", "random")
    splits = curves_of("lim")[0].splits[::4]
    found = made_up.sweep(orders)
    found += [e for name in names[1:] for s in splits for e in made_up.evaluate(s, quantizer=name)]
    lines = [t for t in draw(found, ACC, orders, costs)["data"] if t["mode"] == "lines+markers"]
    assert len(lines) == 5 + 3
    # without any colour, too: by symbol and dashes
    assert len({(t["marker"]["symbol"][0], t["line"]["dash"]) for t in lines}) == 8
    assert len({t["line"]["color"] for t in lines}) == 5  # the orders
    assert {t["name"] for t in lines if t["line"]["dash"] != "solid"} == {
        "LIM, Quanto, HQQ", "LIM, Quanto, Max, groups of 64", "LIM, Quanto, HQQ, groups of 32",
    }  # fmt: skip


def test_all_layers_alike_are_a_line_of_their_own():
    lim = made_up.all_curves((8, 2), ["lim"])
    every = [*lim, alike([8, 4, 2], 24)]
    found = made_up.sweep(lim)
    drawn = draw(found, ACC, every, COSTS)
    line = traces(drawn)["All layers alike"]
    assert line["meta"]["bits"] == [8, 4, 2] and line["marker"]["symbol"] == ["hexagon"] * 3
    assert not any("alike" in s for s in kept_sentences(found, ACC, every, COSTS))
    assert "All layers alike" not in traces(draw(found, ACC, lim, COSTS))
    rows = csv.DictReader(io.StringIO(drawn["csv"]))
    assert {r["bits"]: r["ordering"] for r in rows}[" ".join("4" * 24)] == "alike"


def test_levels_that_are_fractions_are_written_as_such():
    assert split_lines((3.945,) * 2 + (3.657,)) == ("bits 2 × 3.945, 1 × 3.657",)
    split = (3.945,) * N
    costs = dict.fromkeys(["none", "quanto"], ModelCost((LayerCost(9, {3.945: 5}, 1),) * N, 7))
    one = [evaluation(split, perplexity=Metric(12.0, 0.2, 4000))]
    (trace,) = draw(one, curves=[], costs=costs)["data"]
    assert trace["name"] == "one level" and "all 3.945-bit" in trace["text"][0]


def test_a_running_sweep_says_how_far_it_is():
    lim = curves_of("lim")[0]
    found = made_up.evaluations(lim.splits[::2]) + made_up.evaluations(lim.splits[1::2], 15)
    drawn = draw(found, ACC, ALL, COSTS)
    line = traces(drawn)["LIM = Block influence"]
    assert line["marker"]["symbol"][:4] == ["circle", "circle-open"] * 2
    assert "n = 15 of 60 so far" in line["text"][1] and "so far" not in line["text"][0]
    assert "Hollow points rest on 15 of 60 items so far." in drawn["caption"]


def test_sentences_are_sorted_and_speak_of_a_perplexity_as_one():
    found = made_up.sweep(ALL)
    sentences = kept_sentences(found, PPL, ALL, COSTS)
    assert len(sentences) == 10
    ends = [float(re.search(r"about .*?(\d\.\d)(?= bits)", s)[1]) for s in sentences]
    assert all(a <= b for a, b in pairwise(ends))
    assert any(
        s.startswith("ZD: perplexity is at most 11 % worse than the 4-bit one (47.8) down to about")
        for s in sentences
    )
    assert kept_sentences(found, KL, ALL, COSTS) == []
    assert kept_sentences([], ACC, ALL, COSTS) == []
    without_start = [e for e in found if set(e.split) != {4}]
    assert kept_sentences(without_start, ACC, ALL, COSTS) == []


def test_a_split_in_a_small_box():
    assert split_lines((4,) * 10 + (2,) * 14) == ("bits 10 × 4, 14 × 2",)
    assert split_lines((4, 2) * 12) == ("bits 4242424242 4242424242 4242",)
    long = split_lines((4, 2) * 40)
    assert len(long) == 3 and "".join(long).replace(" ", "") == "bits" + "42" * 40
    many = split_lines((16, 2) * 12)
    assert all(len(line) < 55 for line in many) and "1 × 16, 1 × 2" in many[0]


# ---- CSV


def test_the_csv_has_every_evaluation_of_the_metric():
    found = made_up.sweep(curves_of("lim", "random"))
    rows = list(csv.DictReader(io.StringIO(results_csv(found, ACC, ALL, COSTS))))
    assert len(rows) == len([e for e in found if e.task == "minimal_pairs"])
    assert rows[0] | {"value": "", "stderr": ""} == {
        "model": "",
        "ordering": "",
        "seed": "",
        "average_bits": "16.0",
        "bytes": str(COST.total((16,) * 24)),
        "bits": " ".join(["16"] * 24),
        "metric": ACC,
        "value": "",
        "stderr": "",
        "n": "60",
        "limit": "60",
        "quantizer": "none",
    }
    by_split = {tuple(map(int, row["bits"].split())): row for row in rows}
    lim = by_split[curves_of("lim")[0].splits[7]]
    assert (lim["ordering"], lim["seed"]) == ("lim block-influence", "")
    chance = by_split[curves_of("random")[1].splits[7]]
    assert (chance["ordering"], chance["seed"]) == ("random", "1")
    ends: Split = (4,) * 24
    assert by_split[ends]["seed"] == "0 1 2" and "zd" in by_split[ends]["ordering"]


# ---- the table


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
    assert sorted(r[0] for r in rows if "3.25" in r[0]) == [
        "3.25 bitsQuanto, HQQ",
        "3.25 bitsQuanto, Max",
    ]
    assert "unquantized" in [r[0] for r in rows]  # by none of them
    marked = Cells(results_table([*evaluations, other], TITLES, tuple(mixed(5)), {}, "quanto-hqq"))
    assert [r[0] for r, m in zip(marked.rows, marked.marks, strict=True) if m] == [
        "3.25 bitsQuanto, HQQ"
    ]


def test_splits_of_the_same_average_are_told_apart_and_stand_together(evaluations):
    other = evaluation(mixed(5)[::-1], perplexity=Metric(16.0, 0.3, 4000))
    orders = {tuple(mixed(5)): "LIM", other.split: "Last <layers>"}
    text = results_table([*evaluations, other], TITLES, None, orders)
    rows = Cells(text).rows
    assert [r[0] for r in rows if "3.25" in r[0]] == ["3.25 bitsLIM", "3.25 bitsLast <layers>"]
    assert text.count("<tbody>") == 5
    assert "title='4 4 4 4 4 2 2 2'" in text and "<layers>" not in text
    drawn = results_figure([*evaluations, other], PPL, TITLES, [], SMALLS, orders=orders)
    texts = "".join(traces(drawn)["in no order"]["text"])
    assert "<b>3.25 bits</b>, Quanto, Max<br>LIM<br>" in texts and "<layers>" not in texts


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


def test_drawing_needs_no_plotly_in_python():
    code = "import sys, lwq_ui.ui.charts, lwq_ui.ui.curvechart; sys.exit('plotly' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
