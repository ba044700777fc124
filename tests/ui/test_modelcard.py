"""What the page says about a model, and what its field offers."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from urllib.parse import unquote

import pytest
from markupsafe import escape

pytest.importorskip("gradio")

from lwq_ui.core.allocation import breakpoints
from lwq_ui.core.built_in import DEMO
from lwq_ui.core.diskspace import DiskSpace
from lwq_ui.core.memory import GIB, format_gib
from lwq_ui.core.orderings import rank_layers
from lwq_ui.core.schema import LayerSpec, ModelInfo, WeightSpec
from lwq_ui.engine.checkpoints.headers import Entry, Headers
from lwq_ui.engine.checkpoints.search import CURATED, Answer, FoundModel
from lwq_ui.engine.devices import Device
from lwq_ui.engine.fit import Fit
from lwq_ui.engine.jobs import Looked, Truth
from lwq_ui.ui.components.modelfield import offers
from lwq_ui.ui.modelcard import (
    STREAMED,
    WILL_STREAM,
    disk_html,
    download,
    in_words,
    loaded_card,
    looked_card,
    reach,
    truth_html,
)
from lwq_ui.ui.tables import sizes_table
from tests.ui import made_up

LAYER = LayerSpec((WeightSpec("w", 256, 128),), other_bytes=64)
INFO = ModelInfo(
    model_id="someone/model",
    revision=None,
    fingerprint="a" * 64,
    architecture="LlamaForCausalLM",
    dtype="bfloat16",
    num_parameters=100_000,
    total_bytes=2 * (2 * 256 * 128 + 64) + 1000,
    rest_bytes=1000,
    max_tokens=None,
    layers=(LAYER, LAYER),
)


def fit(free: int, **needed: int) -> Fit:
    device = Device("A card", "cuda", 0, free, 2 * free)
    return Fit(device, {int(level[1:]): size for level, size in needed.items()})


NEEDS = {"b16": 16 * GIB, "b8": 8 * GIB, "b4": 5 * GIB, "b2": 3 * GIB}


@pytest.mark.parametrize(
    ("free", "words"),
    [
        (20, "fits untouched"),
        (9, "fits from 8 bits down"),
        (5, "fits from 4 bits down"),
        (4, "fits at 2 bits"),
        (2, "does not fit"),
    ],
)
def test_what_fits_in_words(free, words):
    assert in_words(fit(free * GIB, **NEEDS)) == f"{words} ({format_gib(free * GIB)} free)"


def test_the_card_before_and_after_loading():
    looked = Looked(INFO, 3 * GIB, False, [fit(9 * GIB, **NEEDS)])
    card = looked_card(looked, replace(INFO, model_id="demo", fingerprint="b" * 64))
    assert "Looked at, not loaded" in card and "The bars still show demo." in card
    assert f"<dd>{format_gib(3 * GIB)}</dd>" in card and "fits from 8 bits down" in card
    assert f"<dd>{format_gib(INFO.total_bytes)}</dd>" in card  # as the slider's cost sums it up
    assert card.count("<dt>All layers at") == 3 and escape(WILL_STREAM) not in card

    assert "<span>Loaded</span>" in looked_card(looked, INFO)
    unread = replace(looked, info=replace(INFO, fingerprint=""), streamed=True, devices=[])
    assert "<span>Loaded</span>" in looked_card(unread, INFO)
    assert "not loaded" in looked_card(unread, replace(INFO, dtype="float32"))
    card = looked_card(unread, None)
    assert escape(WILL_STREAM) in card and "not known" in card

    entries = {"a": Entry("f", "F32", (2,), 0, 8), "b": Entry("f", "Q4_1", (2, 32), 8, 48)}
    card = looked_card(replace(looked, stored=Headers(entries, {"f": 48})), INFO)
    assert "<dt>In its files</dt><dd>Q4_1 40 bytes, F32 8 bytes</dd>" in "".join(card.split("\n"))

    card = loaded_card(INFO)
    assert "<span>Loaded</span>" in card and "99.9 % of its layers" in card
    assert "memory" not in card
    assert escape(STREAMED) in loaded_card(INFO, streamed=True)


def test_names_of_models_are_no_html():
    assert "<i>" not in loaded_card(replace(INFO, model_id="<i>"))


def test_shares_and_downloads():
    assert [reach(s) for s in (1, 0.9996, 0.5)] == [
        f"{share} % of its layers" for share in ("100.0", "99.9", "50.0")
    ]
    assert download(0).startswith("nothing") and download(None).startswith("not known")


def test_measured_beside_estimated():
    line = truth_html(Truth(GIB, GIB), 2 * GIB)
    assert "1.000 GiB measured, 1.000 GiB estimated." in line and "wrong" not in line
    # not this model's alone: the program and every other model are in it
    assert "the whole program" in line and "used at most 2.000 GiB" in line
    assert "program" not in truth_html(Truth(GIB, GIB), None)
    assert "differ by 1 bytes" in truth_html(Truth(GIB, GIB + 1), None)
    assert "too small" in truth_html(Truth(GIB, GIB + 1), None)


def test_packed_layers_on_disk(tmp_path):
    space = DiskSpace(tmp_path, limit=64 * GIB)
    assert disk_html(space, []) == "Packed layers on disk: 0 bytes of 64.00 GiB, 0 models"
    for model in ("one", "two"):
        (tmp_path / model / "bank").mkdir(parents=True)
        (tmp_path / model / "bank" / "layer-000-4bit.safetensors").write_bytes(b"packed")
    assert disk_html(space, []).endswith("2 models")
    assert disk_html(space, [tmp_path / "one" / "bank"]).endswith("2 models, 1 of them in use")


@pytest.mark.parametrize("pins", [{}, {0: 8, 3: 2}])
def test_every_size_is_the_sliders(pins):
    cost, n = made_up.model_cost(8), 8
    points = breakpoints(cost, (4, 2), rank_layers("lim", made_up.scores(n), n), pins)
    table = sizes_table(cost, (4, 2), points)
    splits = [points.split(k) for k in reversed(range(len(points.bytes)))]
    cells = [re.findall("<td>(.*?)</td>", row) for row in re.findall("<tr data.*?</tr>", table)]
    assert [int(row[0]) for row in cells] == [split.count(2) for split in splits]
    assert [row[1] for row in cells] == [f"{sum(split) / n:.2f}" for split in splits]
    assert [row[2] for row in cells] == [format_gib(cost.layer_bytes(split)) for split in splits]
    assert [row[3] for row in cells] == [format_gib(cost.total(split)) for split in splits]
    marked = [int(size) for size in re.findall('data-bytes="(.*?)"', table)]
    assert marked == [cost.total(split) for split in splits]
    csv = unquote(re.search('charset=utf-8,(.*?)"', table)[1]).splitlines()
    assert csv[1].endswith(f",{cost.layer_bytes(splits[0])},{cost.total(splits[0])}")
    assert len(csv) == 1 + len(splits)


def test_offers_are_each_named_once():
    here = FoundModel("Qwen/Qwen2.5-7B", on_disk=True)
    hub = (FoundModel("someone/Qwen-7B", 7.1), FoundModel("Qwen/Qwen3-8B-Base", 8.2))
    found = json.loads(offers("qwen 7b", Answer((here, hub[0]), "So far.")))
    assert [[m["id"] for m in g["models"]] for g in found["groups"]] == [
        ["Qwen/Qwen2.5-7B"],
        ["someone/Qwen-7B"],
    ]
    assert found["note"] == "So far." and found["asked"] == "qwen 7b"
    found = json.loads(offers("8B-base", Answer(hub[1:])))
    (group,) = found["groups"]
    assert group["models"] == [{"id": "Qwen/Qwen3-8B-Base", "size": "8.2 B", "remark": ""}]
    demo = FoundModel(DEMO, on_disk=True)
    every = json.loads(offers("", Answer((demo,))))
    assert sum(len(g["models"]) for g in every["groups"]) == 1 + len(CURATED)
