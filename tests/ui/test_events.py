"""Every event of the page, called as Gradio calls it but without a browser: with values that no
control can have, with errors, and with what succeeds after them."""

from __future__ import annotations

import asyncio
import json
import math
import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("gradio")

import gradio as gr

from lwq_ui.core.config import Config
from lwq_ui.core.cost import model_cost
from lwq_ui.core.curves import THREE_LEVELS, Curve, curves
from lwq_ui.core.errors import UserError
from lwq_ui.core.memory import PRUNED, UNTOUCHED
from lwq_ui.core.orderings import ORDERINGS, SCORERS
from lwq_ui.core.schema import Evaluation, LayerSpec, Metric, ModelInfo, Scores, WeightSpec
from lwq_ui.core.settings import Settings
from lwq_ui.engine.quantizers import QUANTIZERS, Quantizer, quantizer_named
from lwq_ui.ui import events
from lwq_ui.ui.blocks import UNREADABLE
from lwq_ui.ui.events import Answer
from lwq_ui.ui.page import Page
from lwq_ui.ui.panels.budget import bar_value, table_of
from lwq_ui.ui.panels.paper import VIEWS
from lwq_ui.ui.panels.sweep import THREE, subject
from lwq_ui.ui.plans import count_text, sweep_plan
from lwq_ui.ui.restoring import LARGEST_SEED, restore_config, restore_split
from lwq_ui.ui.server import Server
from lwq_ui.ui.session import Forecast, ModelChoice, Session
from lwq_ui.ui.situation import Controls, Situation
from lwq_ui.ui.values import check

ANN = SimpleNamespace(session_hash="ann")
LAYERS = 8


def model(layers: int = LAYERS) -> ModelInfo:
    weights = tuple(WeightSpec(f"{i}.weight", 256, 256) for i in range(4))
    numel = layers * 4 * 256 * 256
    names = ("somebody/small", None, "f" * 64, "LlamaForCausalLM", "bfloat16")
    specs = (LayerSpec(weights, 512, cached=64),) * layers
    return ModelInfo(*names, numel, 2 * numel, 0, 128, specs)


def session(layers: int = LAYERS) -> Session:
    known = {
        name: Scores(name, tuple(-(i % 5) / layers for i in range(layers)), "text", 1, 1, 0.0)
        for name in ("lim", "zd")
    }
    some = ((UNTOUCHED,) * layers, (4,) * layers, (2,) * layers, (4, 2) * (layers // 2))
    measured = tuple(
        Evaluation(
            "minimal_pairs",
            split,
            "none" if UNTOUCHED in split else "quanto",
            {"acc": Metric(0.5, 0.05, 60)},
            {"acc": [0.0, 1.0] * 30},
            60,
            1.0,
        )
        for split in some
    )
    return Session(ModelChoice("somebody/small"), model(layers), scores=known, evaluations=measured)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The page's events, and a value of every control that is possible."""
    server = Server(Settings(cache=tmp_path_factory.mktemp("cache")))
    page = Page(server)
    parts = SimpleNamespace(strip=page.events.strip, **page.events.panels)
    controls = {c for fn in page.demo.fns.values() for c in fn.inputs}
    v = {c: "" if isinstance(c, gr.Textbox) else None for c in controls}  # as a browser sends it
    v |= {c: c.value for c in controls if getattr(c, "value", None) is not None}
    v[parts.strip.session] = session()
    v[parts.budget.bar] = bar_value(Situation(session()))
    v[parts.quantizer.drawn] = "quanto"
    v[parts.other.other] = ""
    v[parts.results.metric] = "minimal_pairs/acc"
    server.worker.submit = lambda user, work: (_ for _ in ()).throw(UserError("It would start."))
    fns = [*page.demo.fns.values()]
    return SimpleNamespace(server=server, page=page, parts=parts, values=v, fns=fns)


OWN_LOOP = ThreadPoolExecutor(1)  # Playwright's runs in the tests' own thread


def sent(world, fn, values) -> str:
    """What a user reads after the event; empty where that is nothing."""
    given = [values.get(c) for c in fn.inputs]
    try:
        reading = world.page.demo.preprocess_data(fn, given, None)
        read = OWN_LOOP.submit(asyncio.run, reading).result()
    except gr.Error as e:
        return e.message
    # Gradio hands the server's own states over, whatever the browser sent.
    read = [
        value if isinstance(c, gr.State) else r
        for c, value, r in zip(fn.inputs, given, read, strict=True)
    ]
    every = fn.fn(dict(zip(fn.inputs, read, strict=True)), ANN)
    shown = {}
    for updates in [every] if isinstance(every, dict) else every:
        assert set(updates) <= set(fn.outputs)
        shown |= updates
    return shown.get(world.parts.strip.error) or ""


def answered(world):
    """The events that take what controls say."""
    return [fn for fn in world.fns if fn.inputs_as_dict]


HOSTILE = [
    None,
    "",
    "x",
    "4",
    "4,4",
    "nan,nan",
    "quanto:group=²",
    "\ud800",
    -1,
    1e30,
    math.nan,
    math.inf,
    True,
    [],
    [5],
    ["\ud800"],
    [[]],
    {},
    {"budget": 10**400, "pins": {}},
    {"budget": 1, "pins": {"-1": 4}},
    {"budget": 10**7, "pins": {"0": 1e999}},
    {"split": [], "quantizer": "quanto"},
    {"split": [4] * LAYERS, "quantizer": "quanto:group=²"},
    {"split": [4] * LAYERS, "quantizer": "\ud800"},
]


def test_no_value_is_a_traceback(world, monkeypatch):
    """Of every control, each in one of the events that read it."""
    failures = []
    monkeypatch.setattr(
        events, "unexpected", lambda e, cache: failures.append(repr(e)) or UserError("Something.")
    )
    readers: dict[Any, list[Any]] = {}
    for fn in answered(world):
        for component in fn.inputs:
            if not isinstance(component, gr.State):
                readers.setdefault(component, []).append(fn)
    rng = random.Random(1)
    for component, reading in readers.items():
        for value in HOSTILE:
            fn = rng.choice(reading)
            sent(world, fn, {**world.values, component: value}).encode()
            assert not failures, (fn.fn, component, value, failures)
    assert len(readers) > 30


def test_possible_values_are_possible(world):
    check(world.values)
    p = world.parts
    check(
        {
            p.order.seed: -3,
            p.tasks.others: ["piqa"],
            p.memory.context: "8k",
            p.quantizer.levels: "3.945,3.657",
        }
    )
    for component, value in (
        (p.order.seed, 2 * LARGEST_SEED),
        (p.write.seed, 1e30),
        (p.write.length, 1000),
        (p.write.prompt, None),
        (p.tasks.others, [5]),
        (p.order.ordering, "prune-by-lim"),
        (p.model.model, "\ud800"),
        (p.quantizer.levels, "x"),
        (p.tasks.tasks, None),
    ):
        with pytest.raises(UserError, match=r"^[A-Z'].*\.$"):
            check({component: value})


def test_what_gradio_cannot_read_is_one_sentence(world):
    (fn,) = [f for f in answered(world) if f.targets == [(world.parts.sweep.sweep._id, "click")]]
    assert sent(world, fn, {**world.values, world.parts.order.seed: "x"}) == UNREADABLE
    assert sent(world, fn, {**world.values, world.parts.tasks.tasks: None}) == UNREADABLE


# ---- how long an error stays


@pytest.fixture
def do(world):
    """The events of a page on which no job of anybody runs."""
    yield world.page.events
    for user in ("ann", "bob"):
        world.page.events.strip.forget(user)


def fail(s):
    raise UserError("It failed.")


def test_an_error_ends_with_the_next_choice_that_succeeds(world, do):
    p, v = world.parts, world.values
    fails, works = do.answer(fail), do.answer(lambda s: None)
    assert "It failed." in fails(v, ANN)[p.strip.error]
    follows = do.answer(lambda s: None, chosen=False)
    assert follows(v, ANN) == {p.strip.error: gr.skip()}  # nobody chose that
    assert works(v, ANN) == {p.strip.error: ""}
    assert 'role="alert"' in do.answer(lambda s: 1 / 0)(v, ANN)[p.strip.error]


def test_a_success_that_began_before_an_error_leaves_it(world, do):
    """Events answer in any order: a slow one must not take away what failed meanwhile."""
    p, v = world.parts, world.values

    def slow(s):
        do.answer(fail)(v, ANN)
        return Answer(updates={p.sweep.forecast: "counted"}, drawn=False)

    assert do.answer(slow)(v, ANN) == {p.sweep.forecast: "counted"}
    bob = SimpleNamespace(session_hash="bob")
    assert do.answer(slow)(v, bob)[p.strip.error] == ""  # another's


def test_an_event_that_began_earlier_draws_over_no_later_one(world, do):
    """A slow answer holds what the controls said when it began. What it sets is shown all the
    same."""
    p, v = world.parts, world.values
    later = {**v, p.compare.versus: "quantizers"}
    redraw = do.answer(lambda s: Answer(), ["compare", "sizes"])

    def slow(s, **controls):
        assert p.compare.comparison in do.answer(lambda s: Answer(), ["compare"])(later, ANN)
        return Answer(s.changed(**controls).controls if controls else None)

    shown = do.answer(slow, ["compare", "sizes"])(v, ANN)
    assert p.compare.comparison not in shown and p.sizes.sizes in shown
    bob = SimpleNamespace(session_hash="bob")
    assert p.compare.comparison in do.answer(slow, ["compare"])(v, bob)  # another's page
    assert p.compare.comparison in do.answer(partial(slow, seed=3), ["compare"])(v, ANN)
    assert p.compare.comparison in redraw(v, ANN)


def test_a_job_neither_hides_an_error_nor_takes_its_place(world, do, monkeypatch):
    p, v = world.parts, world.values
    assert p.strip.status in do.strip.fail(UserError("It failed."), "ann")
    monkeypatch.setattr(world.server.worker, "job_of", lambda user: object())
    assert list(do.strip.fail(UserError("It failed."), "ann")) == [p.strip.error]
    assert list(do.answer(fail)(v, ANN)) == [p.strip.error]
    said = Answer(message="said", drawn=False)
    assert list(do.answer(lambda s: said, chosen=False)(v, ANN)) == [p.strip.error]


def start(do, handler, v):
    """Everything that a job shows before it would start."""
    shown = {}
    for updates in do.guarded(handler)(v, ANN):
        shown |= updates
    return shown


def test_a_job_begins_without_the_last_error(world, do):
    p = world.parts
    do.answer(fail)(world.values, ANN)
    first, *_, last = do.guarded(p.sweep.measure)(world.values, ANN)
    assert first == {p.strip.error: ""} and "It would start." in last[p.strip.error]


def test_a_view_that_lacks_a_model_says_so_once(world, do, monkeypatch):
    p, v = world.parts, world.values
    monkeypatch.setattr(world.server, "other_models", lambda info: [])
    shown = do.answer(partial(p.paper.show, VIEWS["figure3"]))(v, ANN)
    assert "No other model" in shown[p.strip.error] and shown[p.sweep.orderings] == ["lim"]
    shown = do.answer(partial(p.paper.show, VIEWS["figure4"]))(v, ANN)
    assert shown[p.strip.error] == ""


def test_an_export_that_fails_downloads_nothing(world, tmp_path):
    p = world.parts
    (fn,) = [f for f in answered(world) if p.config.file in f.outputs and len(f.outputs) == 3]
    bad = {**world.values, p.budget.bar: {"budget": 1, "pins": {}}}
    shown = fn.fn(bad, ANN)
    assert shown[p.config.file] is None and "too small" in shown[p.strip.error]
    first, second = (fn.fn(world.values, ANN)[p.config.file] for _ in range(2))
    assert first == second and Config.from_json(json.loads(Path(first).read_text()))


# ---- what a forecast is worth


def test_a_forecast_holds_until_a_job_starts(world, do):
    p = world.parts
    v = {**world.values, p.tasks.tasks: ["minimal_pairs"]}
    s = do.situation(v)
    about = subject(s, count_text(s, world.server.store))
    v[p.strip.session] = replace(session(), forecast=Forecast(about, "That takes a minute."))
    assert "That takes a minute." in do.draw(do.situation(v), ["sweep"])[p.sweep.forecast]
    other = do.situation({**v, p.tasks.tasks: ["last_word"]})
    assert "takes" not in do.draw(other, ["sweep"])[p.sweep.forecast]
    for measure in (p.evaluate.measure, p.sweep.measure, p.compare.measure):
        shown = start(do, measure, v)
        assert shown[p.strip.session].forecast is None and shown[p.strip.redraw]
        drawn = do.draw(do.situation({**v, p.strip.session: shown[p.strip.session]}), ["sweep"])
        assert "splits" in drawn[p.sweep.forecast] and "takes" not in drawn[p.sweep.forecast]


def test_a_sweep_shows_what_it_measures(world, do):
    """Of two tasks, the one that is complete already stays off the chart."""
    p = world.parts
    one = session()
    limit = world.server.tasks["last_word"].limited(60)
    other = tuple(replace(e, task="last_word", limit=limit) for e in one.evaluations)
    both = replace(one, evaluations=(*one.evaluations, *other))
    v = {**world.values, p.strip.session: both, p.sweep.orderings: ["lim"]}
    v |= {p.tasks.tasks: ["minimal_pairs", "last_word"], p.results.metric: "minimal_pairs/acc"}
    (splits,) = sweep_plan(do.situation(v)).splits.values()
    more = [replace(one.evaluations[1], split=split) for split in splits]
    full = replace(both, evaluations=(*both.evaluations, *more))
    started = start(do, p.sweep.measure, {**v, p.strip.session: full})[p.strip.session]
    assert started.wanted.controls == {"metric": "last_word/acc"}
    drawn = do.draw(do.situation({**v, p.strip.session: started}))
    assert drawn[p.results.metric]["value"] == "last_word/acc"
    # what is on the chart is being measured
    assert start(do, p.sweep.measure, v)[p.strip.session].wanted is None


def test_what_a_job_wants_of_the_controls_is_set_once(world, do):
    """Afterwards they are the user's again."""
    p, v = world.parts, world.values
    wanting = {**v, p.strip.session: session().wanting(three_levels=True, ordering="zd")}
    shown = do.answer(lambda s: Answer())(wanting, ANN)
    assert shown[p.sweep.levels] == THREE and shown[p.order.ordering]["value"] == "zd"
    shown = do.answer(lambda s: Answer())({**wanting, p.strip.applied: shown[p.strip.applied]}, ANN)
    assert p.sweep.levels not in shown and "value" not in shown[p.order.ordering]


# ---- what a click on the chart loads


@cache
def charted() -> list[tuple[Quantizer, tuple[float, ...], Curve]]:
    """(quantizer, levels, curve) of all that a chart can draw."""
    known = {name: s.values for name, s in session().scores.items()}
    known |= {name: known["zd"] for name in SCORERS if name not in known}
    found = []
    for q in QUANTIZERS.values():
        triples = [THREE_LEVELS] if set(THREE_LEVELS) <= set(q.levels) else []
        for levels in (*q.pairs, *triples):
            names = [o.name for o in ORDERINGS.values() if len(levels) == 2 or not o.prunes]
            found += [(q, levels, c) for c in curves(names, known, LAYERS, levels)]
        alike = tuple((level,) * LAYERS for level in (UNTOUCHED, *q.levels))
        found.append((q, q.pairs[0], Curve("alike", 0, alike)))
    return found


PINS = {0: 8, 3: 2, 5: 4}
HELD = [
    Controls(),
    Controls(levels=(8, 4)),
    Controls(levels=(8, 2), ordering="random", seed=3),
    Controls(pins=PINS),
    Controls(levels=(8, 4), ordering="reverse-zd", pins={1: 4}),
    Controls(ordering="sensitivity"),  # whose scores nobody measured
]


@pytest.mark.parametrize("present", HELD)
def test_every_point_of_every_chart_is_loaded_exactly_or_refused_in_a_sentence(present):
    s, tried = session(), 0
    for q, split in dict.fromkeys((q, each) for q, _, c in charted() for each in c.splits):
        try:
            loaded, _ = restore_split(Situation(s, replace(present, quantizer=q)), split)
        except UserError as e:
            assert {PRUNED, UNTOUCHED} & set(split), (q.name, split, e)
            continue
        tried += 1
        now = Situation(s, loaded)
        assert now.controls == loaded and now.split == split, (q.name, split)
        assert tried % 9 or json.loads(table_of(now))["base"]  # what the page draws of it
    assert tried > 200


def test_a_click_keeps_pins_that_hold():
    s = Situation(session(), Controls(pins={2: 2, 6: 4}))
    points = s.choice.table
    for k in range(len(points.bytes)):
        loaded, message = restore_split(s, points.split(k))
        assert Situation(session(), loaded).split == points.split(k)
        assert loaded.pins == s.controls.pins and "LIM" in message


def test_a_split_of_another_model_is_refused():
    for split in ((), (4,), (4,) * (LAYERS + 1)):
        with pytest.raises(UserError, match="layers"):
            restore_split(Situation(session()), split)


def config(split, levels=(4, 2), **changed) -> Config:
    s = session()
    cost = model_cost(s.info, quantizer_named("quanto"))
    total = cost.total(split)
    return Config(
        **{
            "model_id": s.info.model_id,
            "revision": None,
            "fingerprint": s.info.fingerprint,
            "dtype": s.info.dtype,
            "num_layers": LAYERS,
            "levels": levels,
            "bits_per_layer": split,
            "pinned": {},
            "ordering": {"name": "first", "seed": 0, "scores": None, "calibration": None},
            "quantizer": quantizer_named("quanto").to_json(),
            "bytes": {"layers": cost.layer_bytes(split), "rest": 0, "total": total},
            "budget_bytes": total,
            "evaluations": (),
            "versions": {},
            **changed,
        }
    )


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"budget_bytes": 0},
        {"budget_bytes": 10**40},
        {"ordering": {"name": "sensitivity", "seed": 0, "scores": None, "calibration": None}},
        {"ordering": {"name": "random", "seed": 5, "scores": None, "calibration": None}},
    ],
)
def test_every_config_comes_back_exactly(changed):
    for _, levels, curve in charted():
        for split in curve.splits[:3]:
            if set(split) <= {8, 4, 2} and levels in quantizer_named("quanto").pairs:
                pins = {i: level for i, level in enumerate(split) if level not in levels}
                given = config(split, levels, pinned=pins, **changed)
                s, controls, _ = restore_config(Situation(session()), given)
                now = Situation(s, controls)
                assert now.controls == controls and now.split == split and now.budget < 2**63
                table_of(now)


def test_a_seed_that_the_page_cannot_hold_is_refused():
    ordering = {"name": "random", "seed": 10**30, "scores": None, "calibration": None}
    with pytest.raises(UserError, match=r"^Config field 'ordering' is of the seed 10{30};"):
        restore_config(Situation(session()), config((4,) * LAYERS, ordering=ordering))


@pytest.mark.parametrize("before", QUANTIZERS)
@pytest.mark.parametrize("name", VIEWS)
def test_a_view_of_the_paper_can_be_swept_whatever_was_chosen_before(name, before):
    """Figure 5 after table 3: SpQR has no 8, 4 and 2 bits."""
    q, view = QUANTIZERS[before], VIEWS[name]
    viewed = view.controls(Controls(quantizer=q, levels=q.pairs[-1]))
    assert viewed.levels in viewed.quantizer.pairs
    assert not view.three_levels or {*THREE_LEVELS} <= {*viewed.quantizer.levels}


OWN = "mine.txt~3~0123456789abcdef"


def test_the_chosen_text_is_that_of_every_quantizer_that_calibrates():
    s = Situation(session(), Controls(quantizer=QUANTIZERS["spqr"], levels=(3.945, 3.657)))
    assert s.quantizer.name == "spqr"
    scored = s.changed(calibration=OWN)
    assert scored.quantizer.name == f"spqr:text={OWN}"
    assert scored.changed(calibration="").quantizer.name == "spqr"
    assert scored.changed(quantizer=QUANTIZERS["quanto"]).quantizer.name == "quanto"
    swept = s.changed(
        **{"quantizer": QUANTIZERS["quanto"], "levels": (4, 2), "also": ("gptq",)},
        **{"orderings": ("first",), "calibration": OWN},
    )
    assert [q.name for q in sweep_plan(swept).splits] == ["quanto", f"gptq:text={OWN}"]


def test_a_config_brings_its_calibration_text_back():
    own = quantizer_named(f"gptq:text={OWN}")
    cost = model_cost(session().info, own)
    split = (4,) * LAYERS
    sizes = {"layers": cost.layer_bytes(split), "rest": 0, "total": cost.total(split)}
    given = config(split, quantizer=own.to_json(), bytes=sizes, budget_bytes=sizes["total"])
    s, controls, message = restore_config(Situation(session()), given)
    assert (controls.calibration, controls.quantizer) == (OWN, own)
    assert Situation(s, controls).controls == controls and message == "The config is loaded."
    _, controls, _ = restore_config(Situation(s, controls), config(split))
    assert controls.calibration == OWN and controls.quantizer.name == "quanto"
