"""Choosing the quantizer: its name, what packing takes, and both on the page, with a made-up
quantizer whose levels are fractions and another whose package is absent."""

from __future__ import annotations

import json
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from lwq_ui.core.errors import UserError
from lwq_ui.core.memory import format_gib
from lwq_ui.core.schema import LayerSpec, ModelInfo, Scores, WeightSpec
from lwq_ui.core.settings import Settings
from lwq_ui.core.store import Store
from lwq_ui.engine import records
from lwq_ui.engine.banks.files import bank_folder, packed_path
from lwq_ui.engine.banks.packing_cost import packing_cost
from lwq_ui.engine.quantizers import QUANTIZERS, quantizer_named

pytest.importorskip("gradio")

from made_up import Absent, Outliers, Shrunk
from page import WAIT, export, load_config, measure_only, pick, settle

import app
from lwq_ui.ui.page import Page
from lwq_ui.ui.panels.budget import BudgetPanel, bar_value
from lwq_ui.ui.panels.config import ConfigPanel
from lwq_ui.ui.panels.quantizer import QuantizerPanel, packing_text, quantizer_typed
from lwq_ui.ui.panels.sweep import SweepPanel
from lwq_ui.ui.restoring import at_same_place, restore_split
from lwq_ui.ui.server import Server
from lwq_ui.ui.session import ModelChoice, Session
from lwq_ui.ui.situation import Controls, Situation
from lwq_ui.ui.target import OWN_SIZE, MemoryControls

ANN = SimpleNamespace(session_hash="ann")
N = 8
HIGH, MIDDLE, LOW = Outliers.levels
ABSENT = Absent().missing()


@contextmanager
def made_up_quantizers():
    with pytest.MonkeyPatch.context() as patch:
        for quantizer in (Outliers(), Shrunk(), Absent()):
            patch.setitem(QUANTIZERS, quantizer.family, quantizer)
        yield


@pytest.fixture
def known():
    with made_up_quantizers():
        yield


def model(width: int = 256) -> ModelInfo:
    weights = tuple(WeightSpec(f"{i}.weight", width, width) for i in range(4))
    layers = (LayerSpec(weights, 2 * width, cached=64),) * N
    numel = N * 4 * width * width
    names = ("somebody/small", None, "f" * 64, "LlamaForCausalLM", "bfloat16")
    return ModelInfo(*names, numel, 2 * numel, 0, 128, layers)


def session() -> Session:
    lim = Scores("lim", tuple(-i / N for i in range(N)), "text", 1, 1, 0.0)
    return Session(ModelChoice("somebody/small"), model(), scores={"lim": lim})


# ---- what the controls say


def test_what_is_typed_makes_the_canonical_name(known):
    usual = {"group": 64, "documents": 50, "tokens": 512}
    assert quantizer_typed("outliers", usual).name == "outliers"
    assert quantizer_typed("quanto", {**usual, "group": 128}).name == "quanto"
    chosen = quantizer_typed("outliers", {**usual, "group": "32", "tokens": 128.0})
    assert chosen == quantizer_named("outliers:tokens=128,group=32")
    assert chosen.name == "outliers:group=32,tokens=128"
    for key, wrong in (("documents", 0), ("tokens", None), ("group", "48"), ("documents", "ten")):
        with pytest.raises(UserError, match=r"^(Documents|Tokens|Group).*: choose .*\.$"):
            quantizer_typed("outliers", {**usual, key: wrong})
    shrunk = {"kind": "never", "share": 0.125}
    assert quantizer_typed("shrinking", shrunk).name == "shrinking:kind=never,share=0.125"
    for key, wrong in (("kind", 64), ("share", None), ("share", 1.5)):
        with pytest.raises(UserError, match=r"^(Kind|Share): choose (one of evenly|a number from)"):
            quantizer_typed("shrinking", {**shrunk, key: wrong})


def situation(**controls) -> Situation:
    return Situation(session(), Controls(**controls))


def test_the_slider_keeps_its_place_with_another_quantizer(known):
    start = situation(quantizer=quantizer_named("quanto:group=64"))
    before = start.changed(budget=start.choice.table.bytes[5] + 7)
    after = at_same_place(before.changed(quantizer=quantizer_named("quanto:group=32")), before)
    assert Situation(session(), after).split == before.split
    assert after.budget > before.budget
    same = before.changed(quantizer=quantizer_named("quanto-hqq:group=64"))
    assert at_same_place(same, before) == same.controls
    other = before.changed(quantizer=quantizer_named("outliers"), levels=(HIGH, LOW), pins={})
    split = Situation(session(), at_same_place(other, before)).split
    assert split.count(HIGH) in (N // 2, N // 2 - 1)
    narrow = situation(quantizer=quantizer_named("quanto:group=32"), budget=before.budget)
    fits = narrow.changed(quantizer=Controls().quantizer, memory=MemoryControls(OWN_SIZE, 1024))
    assert at_same_place(fits, narrow).budget is None


def test_a_split_of_another_quantizers_levels_is_refused(known):
    chosen = situation(quantizer=quantizer_named("outliers"), levels=(HIGH, LOW))
    with pytest.raises(UserError, match="has no 4 bits"):
        restore_split(chosen, (4,) * N)


def test_sensitivity_of_chosen_options_is_found_again(known, tmp_path):
    page, info = Server(Settings(cache=tmp_path)), model()
    for name, level in (("quanto:group=64", 2), ("outliers", LOW), ("gone", 2)):
        quantizer = quantizer_named("quanto" if name == "gone" else name)
        key = records.scores_key(info, "sensitivity", page.shipped_text, None, quantizer, level)
        scores = Scores("sensitivity", (1.0,) * N, "text", 1, 1, 0.0, name, level)
        page.store.write(key, scores.to_json())
    found = page.known_level_scores(info, page.shipped_text)
    assert {(q.name, level) for q, level in found} == {("quanto:group=64", 2), ("outliers", LOW)}


# ---- what packing takes


def pack(store: Store, name: str, level: float, layers: range) -> None:
    folder = bank_folder(model(), quantizer_named(name), store)
    folder.mkdir(parents=True, exist_ok=True)
    for layer in layers:
        packed_path(folder, layer, level).touch()


def test_what_packing_takes_is_told_before_and_after(known, tmp_path):
    store = Store(tmp_path)

    def told(name, levels=(4, 2)):
        return packing_text(model(), quantizer_named(name), levels, store, "cpu")

    cost = packing_cost(model(), quantizer_named("quanto"), [(4,) * N, (2,) * N], store)
    both = format_gib(cost.bytes)
    assert told("quanto") == (
        f"Packing all 8 layers at 4 bits and at 2 bits: a moment, {both} on disk."
    )
    calibrated = told("outliers:documents=16,tokens=4096", (HIGH, LOW))
    assert calibrated.startswith(
        "Packing all 8 layers at 1 % outliers and at 0.1 % outliers: about 30 s, once, "
    )
    assert calibrated.endswith(
        "Calibrates on 16 documents of the shipped text, 2,048 tokens at most: once per level, "
        "then every split is at hand."
    )
    pack(store, "quanto", 4, range(N))
    pack(store, "quanto", 2, range(2))
    assert told("quanto").startswith("62 % is packed, the rest: a moment, ")
    pack(store, "quanto", 2, range(N))
    assert told("quanto") == "Packed already: every split is at hand at once."
    assert told("absent") == ABSENT
    for level in (4, 2):
        pack(store, "absent", level, range(N))
    assert told("absent") == "Packed already: every split is at hand at once."


def test_the_controls_make_the_whole_name_or_say_why_not(known, tmp_path):
    page = Page(Server(Settings(cache=tmp_path)))
    p, do, bar = page.panel(QuantizerPanel), page.events, page.panel(BudgetPanel).bar
    v = {c: getattr(c, "value", None) for c in do.inputs} | {do.strip.session: session()}
    v[bar] = bar_value(Situation(session()))
    group, documents = p.options["group"], p.options["documents"]

    def choose(**typed):
        return do.answer(p.other_quantizer)({**v, **by_component(typed)}, ANN)

    def by_component(typed):
        return {p.options.get(key) or getattr(p, key): value for key, value in typed.items()}

    shown = choose(group=32)
    chosen = do.situation({**v, group: 32}).controls.quantizer
    assert shown[p.drawn] == "quanto:group=32" == chosen.name
    assert shown[bar]["value"]["budget"] > v[bar]["budget"]
    assert group not in shown  # the user may be typing

    shown = choose(quantizer="outliers", documents=16)
    assert shown[p.drawn] == "outliers:documents=16"  # 128 is no group size of it
    assert shown[group]["value"] == 64 and shown[documents]["visible"]
    assert shown[p.levels]["value"] == f"{HIGH},{LOW}"
    assert json.loads(shown[bar]["table"])["names"][str(LOW)] == "0.1 % outliers (3.657 bits)"
    v |= by_component({"quantizer": "outliers", "documents": 16})
    back = choose(quantizer="quanto", drawn="outliers")
    assert not back[documents]["visible"] and back[p.levels]["value"] == "4,2"

    kind, share = p.options["kind"], p.options["share"]
    shown = choose(quantizer="shrinking", drawn="quanto", kind="never", share=0.125)
    assert shown[p.drawn] == "shrinking:kind=never,share=0.125"
    assert shown[kind]["choices"] == ["evenly", "never"] and shown[kind]["value"] == "never"
    assert shown[share]["precision"] is None and shown[share]["value"] == 0.125

    wrong = {"drawn": "outliers", "documents": 0, "group": 64}
    shown = choose(**wrong)
    assert "Documents: choose a whole number" in shown[p.packing] and bar not in shown
    s = do.situation({**v, **by_component(wrong)})
    sweep, config = page.panel(SweepPanel), page.panel(ConfigPanel)
    assert sweep.draw(s)[sweep.forecast].startswith("Documents: choose")
    with pytest.raises(UserError, match="Documents: choose"):
        config.write(s)


# ---- the page


@pytest.fixture(scope="module")
def world(chrome, tmp_path_factory):
    settings = Settings(cache=tmp_path_factory.mktemp("cache"))
    with made_up_quantizers():
        options = {"server_name": "127.0.0.1", "prevent_thread_lock": True, "quiet": True}
        demo, page = app.launch(settings, **options)
        page.url = demo.local_url
        yield page
        demo.close(verbose=False)


@pytest.fixture
def page(world, open_page):
    def visit(**options):
        page = open_page(world.url, **{"viewport": {"width": 1280, "height": 900}, **options})
        shows(page, "#status .idle span", "is ready")
        settle(page)
        return page

    return visit


def shows(page, selector: str, text: str) -> None:
    page.wait_for_function(
        "([at, text]) => document.querySelector(at)?.innerText.includes(text)",
        arg=[selector, text],
        timeout=WAIT,
    )


def choose_outliers(page) -> None:
    pick(page, "#quantizer", "Made-up outliers")
    page.locator("#option-documents input").wait_for()
    shows(page, "#bar .legend", "1 % outliers")


@pytest.mark.browser
def test_options_levels_and_fractions_on_the_page(world, page):
    page = page(viewport={"width": 390, "height": 844})
    shows(page, "#packing", "Packing all 24 layers at 4 bits and at 2 bits: ")
    assert not page.locator("#option-documents").is_visible()
    assert page.locator("#option-group").is_visible()
    choose_outliers(page)
    shows(page, "#levels", "0.1 %")
    shows(page, "#packing", "Calibrates on 50 documents of the shipped text, 25,600 tokens at most")
    assert page.locator("#levels input:checked").input_value() == f"{HIGH},{LOW}"
    assert page.locator("#option-group input").input_value() == "64"

    assert page.inner_text("#bar [data-text=average]") == "3.801"
    assert page.inner_text("#bar [data-text=saving_title]") == "Saving vs all 1 %"
    assert page.inner_text("#bar .ticks span:last-child b") == "3.94 bits"
    cell = page.locator("#bar [data-scorer=lim] [data-layer='0']")
    assert cell.get_attribute("aria-label").endswith(", 1 % outliers (3.945 bits)")
    assert cell.locator(".up").inner_text() == "1"
    cell.hover()
    shows(page, "#bar .tip", "1 % outliers (3.945 bits)")
    page.locator("#bar .range").press("Home")
    valuetext = page.locator("#bar .range").get_attribute("aria-valuetext")
    assert "0 layers at 1 % outliers" in valuetext
    page.locator("#every-size button").first.click()
    shows(page, "#sizes th", "At 0.1 % outliers")
    shows(page, "#scored", "Sensitivity at these bits: not measured")

    page.locator("#levels label").filter(has_text="0.5 %").click()
    shows(page, "#bar .legend", "0.5 % outliers")
    shows(page, "#packing", "at 1 % outliers and at 0.5 % outliers")
    page.fill("#option-documents input", "16")
    shows(page, "#packing", "Calibrates on 16 documents of the shipped text, 8,192 tokens at most")
    page.fill("#option-documents input", "51")
    shows(page, "#packing [role=alert]", "Documents: choose a whole number from 1 to 50.")
    page.click("#evaluate")
    shows(page, "#error [role=alert]", "Documents: choose a whole number from 1 to 50.")
    assert page.evaluate("document.querySelector('.gradio-container').scrollWidth <= innerWidth")

    pick(page, "#quantizer", "Made-up package")
    shows(page, "#packing", ABSENT)
    shows(page, "#bar .legend", "4-bit layer")
    measure_only(page, "Grammar pairs")
    page.wait_for_selector("#error [role=alert]", state="detached")  # what was chosen since works
    page.click("#evaluate")
    shows(page, "#error [role=alert]", ABSENT)
    assert not world.worker.busy


@pytest.mark.browser
def test_a_word_and_a_fraction_are_chosen_on_the_page(page):
    page = page()
    assert not page.locator("#option-share").is_visible()
    pick(page, "#quantizer", "Made-up shrinking")
    page.locator("#option-share input").wait_for()
    pick(page, "#option-kind", "never")
    page.fill("#option-share input", "2")
    shows(page, "#packing [role=alert]", "Share: choose a number from 0 to 1.")
    page.fill("#option-share input", "0.125")
    page.wait_for_selector("#packing [role=alert]", state="detached")
    settle(page)
    _, config = export(page)
    assert config["quantizer"]["name"] == "shrinking:kind=never,share=0.125"
    other = {**config, "quantizer": {"name": "shrinking:share=0.0625"}}
    load_config(page, other)
    shows(page, "#status .idle span", "The config is loaded.")
    settle(page)
    assert page.locator("#option-share input").input_value() == "0.0625"
    assert page.locator("#option-kind input").input_value() == "evenly"


@pytest.mark.browser
def test_packing_is_followed_stopped_and_gone_on_with(world, page, monkeypatch):
    one, two = page(), page()
    monkeypatch.setattr(Outliers, "pause", 0.1)
    choose_outliers(one)
    measure_only(one, "Grammar pairs")
    one.fill("#option-tokens input", "64")
    shows(one, "#packing", "3,200 tokens at most")
    pick(one, "#option-group", "32")
    one.click("#evaluate")
    one.wait_for_function(
        "/Made-up outliers at .*: layer [1-9]+ of 24/"
        ".test(document.querySelector('#status').innerText)",
        timeout=WAIT,
    )
    one.click("#stop")
    shows(one, "#status .idle span", "Stopped. What was packed and measured by then is kept.")
    shows(one, "#packing", "% is packed, the rest: ")
    monkeypatch.setattr(Outliers, "pause", 0.0)
    one.click("#evaluate")
    shows(one, "#status .idle span", "Measured (3.")
    shows(one, "#packing", "Packed already: every split is at hand at once.")
    shows(one, "#truth", "estimated")
    assert one.locator("#truth .wrong").count() == 0

    _, config = export(one)
    assert config["quantizer"]["name"] == "outliers:group=32,tokens=64"
    assert config["levels"] == [HIGH, LOW] and len(config["evaluations"]) == 1

    for field, wrong in (
        ("quantizer", {**config, "quantizer": {"name": "outliers:documents=99"}}),
        ("quantizer", {**config, "quantizer": {"name": "nobody"}}),
        ("levels", {**config, "quantizer": {"name": "quanto"}}),
    ):
        load_config(two, wrong)
        shows(two, "#error [role=alert]", f"Config field '{field}'")
        two.evaluate("document.querySelector('#error [role=alert]').remove()")
    load_config(two, config)
    shows(two, "#status .idle span", "The config is loaded.")
    shows(two, "#packing", "Packed already")
    shows(two, "#bar .legend", "0.1 % outliers")
    assert two.locator("#quantizer input").input_value() == "Made-up outliers"
    for key, value in (("group", "32"), ("documents", "50"), ("tokens", "64")):
        assert two.locator(f"#option-{key} input").input_value() == value
    assert two.locator("#levels input:checked").input_value() == f"{HIGH},{LOW}"
    shown = two.locator("#bar [data-scorer=lim] .cell").evaluate_all(
        "cells => cells.map(c => +c.dataset.bits)"
    )
    assert shown == config["bits_per_layer"]
