"""What a chart says: guides, sentences, hover texts and CSV."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace
from itertools import pairwise

import made_up
from charting import (
    ACC,
    ALL,
    COST,
    COSTS,
    KL,
    LIM,
    PPL,
    chart_data,
    curves_of,
    draw,
    notes,
    sweep_of_items,
    traces,
)

from lwq_ui.core.allocation import Split
from lwq_ui.core.orderings import ORDERINGS
from lwq_ui.core.schema import Metric
from lwq_ui.ui.charts.point_texts import split_lines
from lwq_ui.ui.charts.results_csv import results_csv


def test_guides_at_uniform_levels_and_where_most_is_kept():
    measured = sweep_of_items("lim", "zd")
    drawn = draw(measured, ACC, ALL, COSTS)
    assert notes(drawn)[0] == "16, 8 and 4 bits"
    text = notes(drawn)[-1]
    assert re.fullmatch(r"90 % kept:<br>about \d\.\d–\d\.\d bits", text)
    assert notes(drawn, "size")[-1].endswith("MiB")
    band = drawn["axes"]["bits"]["shapes"][-1]
    assert band["type"] == "rect" and band["yref"] == "paper" and band["x0"] < band["x1"]
    low, high = map(float, re.findall(r"\d\.\d", text))
    assert low <= band["x0"] < band["x1"] <= high
    # the curve itself crosses 90 % inside
    lim = traces(drawn)[LIM]
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


def test_a_split_of_several_orders_is_labelled_with_all():
    splits = curves_of("lim")[0].splits
    orders = {splits[3]: "LIM = ZD = Random 0"}
    drawn = draw(sweep_of_items("lim"), ACC, ALL, COSTS, orders=orders)
    assert "one split: LIM = ZD = Random 0" in traces(drawn)[LIM]["text"][3]


def test_a_running_sweep_says_how_far_it_is():
    lim = curves_of("lim")[0]
    measured = made_up.evaluations(lim.splits[::2]) + made_up.evaluations(lim.splits[1::2], 15)
    drawn = draw(measured, ACC, ALL, COSTS)
    line = traces(drawn)[LIM]
    assert line["marker"]["symbol"][:4] == ["circle", "circle-open"] * 2
    assert "n = 15 of 60 so far" in line["text"][1] and "so far" not in line["text"][0]
    assert "Hollow points rest on 15 of 60 items so far." in drawn["caption"]


def test_sentences_are_sorted_and_speak_of_a_perplexity_as_one():
    measured = made_up.sweep(ALL)
    sentences = draw(measured, PPL, ALL, COSTS)["sentences"]
    assert len(sentences) == len(ORDERINGS) - 1  # block influence shares a line with LIM
    ends = [float(re.search(r"about .*?(\d\.\d)(?= bits)", s)[1]) for s in sentences]
    assert all(a <= b for a, b in pairwise(ends))
    assert any(
        s.startswith("ZD: perplexity is at most 11 % worse than the 4-bit one (47.8) down to about")
        for s in sentences
    )
    assert draw(measured, KL, ALL, COSTS)["sentences"] == []
    assert draw([], ACC, ALL, COSTS)["sentences"] == []
    without_start = [e for e in measured if set(e.split) != {4}]
    assert draw(without_start, ACC, ALL, COSTS)["sentences"] == []


def test_a_split_in_a_small_box():
    assert split_lines((4,) * 10 + (2,) * 14) == ("bits 10 × 4, 14 × 2",)
    assert split_lines((4, 2) * 12) == ("bits 4242424242 4242424242 4242",)
    long = split_lines((4, 2) * 40)
    assert len(long) == 3 and "".join(long).replace(" ", "") == "bits" + "42" * 40
    many = split_lines((16, 2) * 12)
    assert all(len(line) < 55 for line in many) and "1 × 16, 1 × 2" in many[0]


def test_the_csv_has_every_evaluation_of_the_metric():
    measured = made_up.sweep(curves_of("lim", "random"))
    rows = list(csv.DictReader(io.StringIO(results_csv(chart_data(measured, ACC, ALL, COSTS)))))
    assert len(rows) == len([e for e in measured if e.task == "minimal_pairs"])
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
        "prompts": "",
        "weights_from": "",
        "lossless_layers": "0",
    }
    by_split = {tuple(map(int, row["bits"].split())): row for row in rows}
    lim = by_split[curves_of("lim")[0].splits[7]]
    assert (lim["ordering"], lim["seed"]) == ("lim block-influence", "")
    chance = by_split[curves_of("random")[1].splits[7]]
    assert (chance["ordering"], chance["seed"]) == ("random", "1")
    ends: Split = (4,) * 24
    assert by_split[ends]["seed"] == "0 1 2" and "zd" in by_split[ends]["ordering"]
