"""Lines and bands: colours, symbols, dashes, names and gaps."""

from __future__ import annotations

import csv
import io
import math
import re
import subprocess
import sys
from dataclasses import replace
from statistics import stdev

import made_up
import pytest
from charting import (
    ACC,
    ALL,
    COST,
    COSTS,
    LIM,
    MIB,
    PPL,
    chart_data,
    curves_of,
    draw,
    notes,
    sweep_of_items,
    traces,
)

from lwq_ui.core.curves import alike
from lwq_ui.core.memory import average_bits, format_gib
from lwq_ui.core.orderings import ALIKE, ORDERINGS
from lwq_ui.core.schema import Metric
from lwq_ui.engine.quantizers import QUANTIZERS
from lwq_ui.ui.charts import ModelResults
from lwq_ui.ui.charts.results_csv import results_csv
from lwq_ui.ui.charts.styles import INK, LOOKS, MARKS, dashes_of, look_of


def test_every_ordering_has_one_line_colour_and_symbol():
    drawn = draw(made_up.sweep(ALL), ACC, ALL, COSTS)
    lines = [t for t in drawn["data"] if t["mode"] == "lines+markers"]
    assert {t["name"] for t in lines} == {
        *(o.title for o in ORDERINGS.values() if o.name not in ("lim", "block-influence")),
        LIM,
    }
    looks = {(t["line"]["color"], t["marker"]["symbol"][0]) for t in lines}
    assert len(looks) == len(lines)
    lim = traces(drawn)[LIM]
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
    for _, colour in [*LOOKS.values(), *MARKS.values(), ("", INK)]:
        dark, light = sorted([luminance(colour), luminance(ground)])
        assert (light + 0.05) / (dark + 0.05) >= 3


def test_orderings_that_are_no_others_look_different():
    names = [ALIKE, *(o.name for o in ORDERINGS.values() if o.ranks_as is None)]
    assert len({look_of(name) for name in names}) == len(names)
    assert len({look.symbol for look in LOOKS.values()}) == len(LOOKS)
    assert len({look.colour for look in LOOKS.values()}) == len(LOOKS)
    assert look_of("block-influence") == look_of("lim")  # which is one line with it


def test_a_new_ordering_or_quantizer_needs_no_style_of_its_own(monkeypatch):
    names = [f"new-{k}" for k in range(30)]
    for name in names:
        monkeypatch.setitem(ORDERINGS, name, replace(ORDERINGS["first"], name=name, title=name))
    looks = [look_of(name) for name in (*LOOKS, *names)]
    assert len(set(looks)) == len(looks)
    assert {look.colour for look in looks} == {look.colour for look in LOOKS.values()}
    before = dashes_of([])
    for name in ("new", "newer"):
        monkeypatch.setitem(QUANTIZERS, name, QUANTIZERS["quanto"])
    dashes = dashes_of(["quanto:group=32"])
    assert len(set(dashes.values())) == len(dashes) == len(before) + 3
    assert before.items() <= dashes.items()


def test_single_splits_of_the_chosen_order_are_shown_where_it_ranks_as_another():
    """Block influence is one line with LIM, and its single splits look like LIM's."""
    splits = curves_of("lim")[0].splits
    few = [e for e in sweep_of_items("lim") if e.split in {splits[k] for k in (0, 12, 24)}]
    drawn = draw(few, ACC, ALL, COSTS, ordering="block-influence")
    trace = traces(drawn)["Block influence (ranks as LIM), single splits"]
    assert trace["customdata"] == [list(splits[12])]
    assert trace["marker"]["color"] == LOOKS["lim"].colour


def test_bands_are_the_errors_of_differences_on_the_same_items():
    measured = sweep_of_items("lim", "zd", "random")
    drawn = draw(measured, ACC, ALL, COSTS)
    bands = {t["meta"]["of"]: t for t in drawn["data"] if "of" in t["meta"]}
    shown = {of for of, t in bands.items() if t["meta"]["shown"]}
    assert set(bands) == {"quanto-lim", "quanto-zd", "quanto-random"}
    assert shown == {"quanto-lim", "quanto-random"}
    lim, band = traces(drawn)[LIM], bands["quanto-lim"]
    items = {e.split: e.items["acc"] for e in measured}
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
    measured = [
        replace(e, items={"acc": e.items["acc"][:15]}, metrics={"acc": Metric(1.0, 0.0, 15)})
        if e.split == curves_of("lim")[0].splits[9]
        else e
        for e in sweep_of_items("lim")
    ]
    (band,) = [t for t in draw(measured, ACC, ALL, COSTS)["data"] if "of" in t["meta"]]
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


def test_a_line_is_open_where_nothing_was_measured():
    splits = curves_of("lim")[0].splits
    missing = {*splits[8:11]}
    measured = [e for e in sweep_of_items("lim") if e.split not in missing]
    drawn = draw(measured, ACC, ALL, COSTS)
    lim = traces(drawn)[LIM]
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
    measured = [e for e in sweep_of_items("lim") if e.split in coarse or len({*e.split}) == 1]
    lim = traces(draw(measured, ACC, ALL, COSTS))[LIM]
    assert len(lim["y"]) == 7 and None not in lim["y"]


def test_other_numbers_of_items_are_never_one_line():
    splits = curves_of("lim")[0].splits
    all_items = [replace(e, limit=None) for e in sweep_of_items("lim") if e.split in splits[::2]]
    quick = [e for e in sweep_of_items("lim") if e.split in splits[1::2]]
    drawn = draw(all_items + quick, ACC, ALL, COSTS)
    lines = [t for t in drawn["data"] if t["mode"].startswith("lines") and "of" not in t["meta"]]
    assert [t["name"] for t in lines] == ["LIM = Block influence, all items"]
    assert [s for s in lines[0]["customdata"] if s] == [list(s) for s in splits[::2]]


def test_a_second_model_is_thin_named_and_not_to_be_clicked():
    large, theirs = made_up.costs(40, 1280), made_up.all_curves((4, 2), ["lim"], 40)
    mine = made_up.all_curves((8, 4), ["lim"])
    other = ModelResults("large", made_up.sweep(theirs, 40), theirs, large)
    measured = made_up.sweep(mine)
    drawn = draw(measured, ACC, mine, COSTS, axis="size", other=other, model="small")
    shown = traces(drawn)
    assert drawn["axis"] == "size"
    assert shown["small, LIM"]["line"]["dash"] == "solid"
    assert shown["large, LIM"]["line"]["dash"] == "solid"  # a dash is a quantizer
    assert shown["large, LIM"]["marker"]["size"] < shown["small, LIM"]["marker"]["size"]
    assert shown["large, LIM"]["meta"]["size"][0] == large["none"].total((4,) * 40) / MIB
    assert "customdata" in shown["small, LIM"] and "customdata" not in shown["large, LIM"]
    assert notes(drawn)[0].startswith("small: ")
    assert notes(drawn, "size")[-2:] == ["<b>small</b>", "<b>large</b>"]
    sentences = draw(measured, ACC, mine, COSTS, other=other, model="small")["sentences"]
    assert len(sentences) == 2 and all(re.search("[MG]iB", s) for s in sentences)
    assert any(s.startswith("small, LIM: 90 % of the 8-bit score") for s in sentences)
    rows = list(csv.DictReader(io.StringIO(drawn["csv"])))
    assert {row["model"] for row in rows} == {"small", "large"}


def test_quantizers_are_told_apart():
    lim, lim_splits = curves_of("lim"), curves_of("lim")[0].splits
    measured = made_up.sweep(lim)
    measured += [e for s in lim[0].splits[:9] for e in made_up.evaluate(s, quantizer="quanto-hqq")]
    shown = traces(draw(measured, ACC, ALL, COSTS))
    first, hqq = (shown[f"LIM = Block influence, Quanto, {name}"] for name in ("Max", "HQQ"))
    assert (first["line"]["dash"], hqq["line"]["dash"]) == ("solid", "dash")
    assert first["line"]["color"] == hqq["line"]["color"] == LOOKS["lim"].colour
    assert first["marker"]["symbol"][0] == hqq["marker"]["symbol"][0]  # the order's
    assert set(first["meta"]["quantizers"]) == {"quanto"}
    assert hqq["meta"]["quantizers"] == ["quanto-hqq"] * 9
    sizes = [COSTS["quanto-hqq"].total(s) / MIB for s in lim_splits[:9]]
    assert hqq["meta"]["size"] == sizes != first["meta"]["size"][:9]
    assert format_gib(COSTS["quanto-hqq"].total(lim_splits[4])) in hqq["text"][4]
    assert "<b>LIM = Block influence, Quanto, HQQ</b>" in hqq["text"][4]
    sentences = draw(measured, ACC, ALL, COSTS)["sentences"]
    assert any(s.startswith("LIM = Block influence, Quanto, Max: 90 % of") for s in sentences)
    rows = list(csv.DictReader(io.StringIO(results_csv(chart_data(measured, ACC, ALL, COSTS)))))
    size_of = {(r["quantizer"], r["bits"]): int(r["bytes"]) for r in rows}
    bits = " ".join(map(str, lim_splits[4]))
    assert size_of["quanto-hqq", bits] == size_of["quanto", bits] + 24 * 10**6
    swapped = traces(draw(measured, ACC, ALL, COSTS, quantizer="quanto-hqq"))
    for name, trace in swapped.items():  # whichever is chosen
        if "line" in trace and trace["mode"] != "lines":
            assert trace["line"]["dash"] == shown[name]["line"]["dash"]
            assert trace["line"]["color"] == shown[name]["line"]["color"]
    off = {
        t["name"]: t["meta"]["off"] for t in draw(measured, ACC, ALL, COSTS, beside=set())["data"]
    }
    assert off["LIM = Block influence, Quanto, HQQ"] and not off[LIM]
    one = made_up.evaluate(lim[0].splits[5], quantizer="quanto-hqq")  # too few for a line
    assert traces(draw(made_up.sweep(lim) + one, ACC, ALL, COSTS))["1 other splits"]["meta"]["off"]
    # what another quantizer has at other levels is not in the way
    far = made_up.evaluate((8,) * 24, quantizer="quanto-hqq")
    (eight,) = [
        t for t in draw(measured + far, ACC, ALL, COSTS)["data"] if t.get("name") == "all 8-bit"
    ]
    assert eight["meta"]["quantizers"] == ["quanto"]


def test_four_quantizers_and_five_orders_are_told_apart():
    names = ["quanto", "quanto-hqq", "quanto:group=64", "quanto-hqq:group=32"]
    costs = dict.fromkeys(["none", *names], COST)
    orders = curves_of("lim", "zd", "reverse-zd", "reverse-lim", "random")
    splits = curves_of("lim")[0].splits[::4]
    measured = made_up.sweep(orders)
    measured += [
        e for name in names[1:] for s in splits for e in made_up.evaluate(s, quantizer=name)
    ]
    lines = [t for t in draw(measured, ACC, orders, costs)["data"] if t["mode"] == "lines+markers"]
    assert len(lines) == 5 + 3
    # without any colour, too: by symbol and dashes
    assert len({(t["marker"]["symbol"][0], t["line"]["dash"]) for t in lines}) == 8
    assert len({t["line"]["color"] for t in lines}) == 5  # the orders
    assert {t["name"] for t in lines if t["line"]["dash"] != "solid"} == {
        "LIM, Quanto, HQQ", "LIM, Quanto, Max, groups of 64", "LIM, Quanto, HQQ, groups of 32",
    }  # fmt: skip


def test_all_layers_alike_are_a_line_of_their_own():
    lim = made_up.all_curves((8, 2), ["lim"])
    all_curves = [*lim, alike([8, 4, 2], 24)]
    measured = made_up.sweep(lim)
    drawn = draw(measured, ACC, all_curves, COSTS)
    line = traces(drawn)["All layers alike"]
    assert line["meta"]["bits"] == [8, 4, 2] and line["marker"]["symbol"] == ["hexagon"] * 3
    assert not any("alike" in s for s in draw(measured, ACC, all_curves, COSTS)["sentences"])
    assert "All layers alike" not in traces(draw(measured, ACC, lim, COSTS))
    rows = csv.DictReader(io.StringIO(drawn["csv"]))
    assert {r["bits"]: r["ordering"] for r in rows}[" ".join("4" * 24)] == "alike"


def test_drawing_needs_no_plotly_in_python():
    modules = "lwq_ui.ui.charts, lwq_ui.ui.components.curvechart"
    code = f"import sys, {modules}; sys.exit('plotly' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
