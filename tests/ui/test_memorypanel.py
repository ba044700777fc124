"""What must it fit into: the panel's words, the budget it sets, and both on the page."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from lwq_ui.core.budget import CARDS, RESERVE, Workload, memory_use, weights_budget
from lwq_ui.core.cost import model_cost
from lwq_ui.core.errors import UserError
from lwq_ui.core.memory import GIB, format_gib, parse_size
from lwq_ui.core.schema import LayerSpec, ModelInfo, Scores, WeightSpec
from lwq_ui.core.settings import Settings
from lwq_ui.engine.devices import Device
from lwq_ui.engine.quantizers import quantizer_named

pytest.importorskip("gradio")

from page import pick, press, settle

from lwq_ui.ui.loading import Arrived
from lwq_ui.ui.page import Page
from lwq_ui.ui.panels.budget import BudgetPanel, bar_value, table_of
from lwq_ui.ui.panels.memory import MemoryPanel
from lwq_ui.ui.server import Server
from lwq_ui.ui.session import ModelChoice, Session
from lwq_ui.ui.situation import Controls, Situation
from lwq_ui.ui.target import (
    NO_CARD,
    OWN_SIZE,
    MemoryControls,
    card_choices,
    context_choices,
    kept_context,
    left_html,
    read_tokens,
    read_usage,
    target,
)

EIGHT = "RTX 3050, 3060 Ti, 4060: 8 GiB"
N, WIDTH = 32, 4096
DEVICES = [
    Device("NVIDIA L4", "cuda", 0, free=21 * GIB, total=22 * GIB),
    Device("NVIDIA L4", "cuda", 1, free=9 * GIB, total=22 * GIB),
    Device("This machine's memory", "cpu", 0, free=10 * GIB, total=16 * GIB),
]


def model(**known) -> ModelInfo:
    """Shaped as an 8B model with grouped keys and values: 8 heads of 128."""
    shapes = [(WIDTH, WIDTH)] * 2 + [(1024, WIDTH)] * 2 + [(14336, WIDTH)] * 3
    weights = tuple(WeightSpec(str(i), rows, columns) for i, (rows, columns) in enumerate(shapes))
    numel = sum(w.rows * w.columns for w in weights)
    return ModelInfo(
        **{
            "model_id": "somebody/8B",
            "revision": None,
            "fingerprint": "f",
            "architecture": "LlamaForCausalLM",
            "dtype": "bfloat16",
            "num_parameters": N * numel,
            "total_bytes": 2 * N * numel + 2 * GIB,
            "rest_bytes": 2 * GIB,
            "max_tokens": 32768,
            "layers": (LayerSpec(weights, 4 * WIDTH, cached=2 * 1024),) * N,
            "vocabulary": 128_000,
            "token_bytes": 100_000,
            "pair_bytes": 0.0,
            **known,
        }
    )


def session(info: ModelInfo | None = None) -> Session:
    lim = Scores("lim", tuple(-i / N for i in range(N)), "text", 1, 1, 0.0)
    return Session(ModelChoice("somebody/8B"), info or model(), scores={"lim": lim})


def on(size: float, info: ModelInfo | None = None, **controls) -> Situation:
    """A card of so many GiB. `controls` are those of the memory, and others."""
    memory = {k: controls.pop(k) for k in ("context", "batch", "cache_dtype") if k in controls}
    card = MemoryControls(OWN_SIZE, size, **memory)
    return Situation(session(info), Controls(memory=card, **controls))


def left(s: Situation) -> str:
    sizes = s.choice.table.bytes
    return left_html(s.target, s.info, sizes[0], sizes[-1])


# ---- the budget


def test_a_card_sets_the_budget_to_what_it_leaves_for_weights():
    chosen, info = on(8), model()
    free = weights_budget(8 * GIB, info, Workload())
    sizes = [model_cost(info, quantizer_named("quanto")).total((bits,) * N) for bits in (2, 4)]
    assert sizes[0] < free < sizes[1]
    assert bar_value(chosen) == {"budget": free, "pins": {}}
    total = model_cost(info, quantizer_named("quanto")).total(chosen.split)
    assert total <= free < total + model_cost(info, quantizer_named("quanto")).layers[0].bytes(4)
    assert chosen.config().budget_bytes == free
    assert left(chosen) == f"{format_gib(free)} are left for the weights."


def test_pins_levels_and_use_count():
    def high(s: Situation) -> int:
        return s.split.count(s.controls.levels[0])

    free = high(on(8))
    pinned = on(8, pins={N - 1: 4, N - 2: 4})
    assert high(pinned) == free and pinned.split[-2:] == (4, 4)
    assert high(on(8, context=16384)) < free < high(on(8, cache_dtype="float8"))
    assert high(on(8, batch=2)) < free
    assert set(on(10, levels=(8, 4)).split) == {8, 4}


def test_more_than_enough_stops_at_the_sliders_end():
    chosen = on(80)
    most = model_cost(model(), quantizer_named("quanto")).total((4,) * N)
    assert chosen.budget == most
    assert left(chosen).endswith(", more than the largest split takes.")


def test_too_little_is_one_sentence_and_still_drawn():
    chosen = on(3)
    smallest = model_cost(model(), quantizer_named("quanto")).total((2,) * N)
    assert chosen.budget == smallest
    assert 'role="alert"' in left(chosen) and "larger card" in left(chosen)
    sent = json.loads(table_of(chosen))
    assert max(sent["card"]["spare"]) < 0 and sent["texts"][0]["fits"].startswith("Over by ")


def test_the_cards_parts_are_sent_with_the_table():
    use = Workload(context=16384, batch=2, cache_dtype="float8")
    sent = json.loads(table_of(on(24, context=16384, batch=2, cache_dtype="float8")))
    beside = memory_use(model(), use, 0)
    assert sent["card"]["title"] == "Card of 24 GiB"
    assert sent["card"]["use"] == "16,384 tokens of context, batch 2"
    assert {part["name"]: part["bytes"] for part in sent["card"]["beside"]} == {
        "cache": beside.cache,
        "activations": beside.activations,
        "reserve": RESERVE,
    }
    assert json.loads(table_of(Situation(session())))["card"] is None


def test_a_model_of_which_too_little_is_known_keeps_its_budget():
    unknown = on(8, model(token_bytes=None))
    assert unknown.budget == Situation(unknown.session).budget
    assert json.loads(table_of(unknown))["card"] is None
    assert "not known" in left(unknown)


# ---- the controls


def test_every_card_of_the_list_can_be_chosen():
    choices = card_choices(DEVICES)
    values = [value for _, value in choices]
    assert values[0] == NO_CARD and values[-1] == OWN_SIZE and len(set(values)) == len(values)
    assert [title for title, _ in choices[1:7]] == [
        "NVIDIA L4 1: 22.00 GiB",
        "NVIDIA L4 1, free at the last load: 21.00 GiB",
        "NVIDIA L4 2: 22.00 GiB",
        "NVIDIA L4 2, free at the last load: 9.000 GiB",
        "This machine's memory: 16.00 GiB",
        "This machine's memory, free at the last load: 10.00 GiB",
    ]
    found = [MemoryControls(value, 11.5).target(DEVICES) for value in values]
    assert found[0] is None
    sizes = [t.size for t in found[1:]]
    assert sizes[:6] == [size * GIB for size in (22, 21, 22, 9, 16, 10)]
    assert sizes[6:] == [*(size for _, size in CARDS), int(11.5 * GIB)]
    assert [t.reserve for t in found[1:]] == [RESERVE] * 4 + [0] * 2 + [RESERVE] * (len(CARDS) + 1)


@pytest.mark.parametrize("size", [None, 0, -8, 10**9])
def test_a_card_of_no_size_is_refused(size):
    with pytest.raises(UserError, match="in GiB"):
        target(OWN_SIZE, size, Workload())


def test_a_context_as_people_type_it():
    assert [read_tokens(t) for t in (8192, "8192", " 8,192", "8k", "8K")] == [8192] * 5
    assert read_tokens("32,768 (its limit)") == 32768
    for typed in (None, "", "many", "nan", "infk"):
        with pytest.raises(UserError, match="number of tokens"):
            read_tokens(typed)
    for context, batch in ((0, 1), (8192, 0), (8192, None), ("1" * 300, 1), (8192, 10**12)):
        with pytest.raises(UserError):
            read_usage(context, batch, "auto")


def test_the_context_stays_within_what_the_model_takes():
    assert context_choices(model(max_tokens=8192)) == [
        ("2,048", 2048),
        ("4,096", 4096),
        ("8,192 (its limit)", 8192),
    ]
    assert context_choices(model(max_tokens=None))[-1] == ("131,072", 131072)
    small, large = model(max_tokens=512), model(max_tokens=131072)
    assert kept_context(8192, None, small) == 512
    assert kept_context(512, small, large) == 8192  # nobody chose the 512
    assert kept_context("16k", large, large) == 16384
    assert kept_context("no number", large, large) == 8192
    beyond = left(on(24, context=65536))
    assert "made for 32,768 tokens of context, not for 65,536" in beyond


def test_another_model_is_fitted_into_the_same_card(tmp_path):
    server = Server(Settings(cache=tmp_path))
    server.devices = DEVICES
    page = Page(server)
    p, do, bar = page.panel(MemoryPanel), page.events, page.panel(BudgetPanel).bar
    v = {c: getattr(c, "value", None) for c in do.inputs} | {p.fitted: None}
    v |= {p.context: 8192, p.into: EIGHT}
    before = do.situation({**v, do.strip.session: session(model(max_tokens=8192))})
    info = model(max_tokens=4096)
    arrived = Arrived(ModelChoice("other"), info, False, None, {}, calibration="")
    other = session(info).wanting(**arrived.controls(before))
    v[do.strip.session] = other
    shown = do.draw(do.situation(v), after_job=True)
    assert shown[p.context]["value"] == 4096
    free = weights_budget(8 * GIB, info, Workload(context=4096))
    most = model_cost(model(), quantizer_named("quanto")).total((4,) * N)
    assert shown[bar]["value"]["budget"] == min(free, most)
    assert shown[p.left].startswith(format_gib(free))
    assert ("NVIDIA L4 1: 22.00 GiB", "cuda 0") in shown[p.into]["choices"]

    v |= {do.strip.applied: shown[do.strip.applied], bar: {"budget": 5 * GIB, "pins": {}}}
    v |= {p.context: 4096, p.fitted: shown[p.fitted]}

    def fit(**controls):
        typed = {**v, **{getattr(p, name): value for name, value in controls.items()}}
        return do.answer(p.fit, ["memory", "budget"])(typed, SimpleNamespace(session_hash="ann"))

    assert fit() == {do.strip.error: ""}  # the slider stays where it was dragged
    assert fit(batch=2)[bar]["value"]["budget"] > 0
    assert "number of tokens" in fit(context="many")[p.left]
    assert "value" not in fit(context="many")[bar]
    server.devices = DEVICES[:1]  # somebody else loaded a model
    gone = fit(into="cuda 1, free at the last load")
    assert "Choose again what it must fit into." in gone[p.left]
    assert "cuda 1" not in [key for _, key in gone[p.into]["choices"]]
    none = fit(into=NO_CARD)
    assert none[p.left] == "" and not none[p.use]["visible"]
    assert "value" not in none[bar] and json.loads(none[bar]["table"])["card"] is None


# ---- the page


def part(page, name: str) -> float:
    """GiB that the legend says."""
    return parse_size(page.inner_text(f"#bar .parts .{name} dd")) / GIB


def shows(page, selector: str, text: str) -> None:
    page.wait_for_function(
        "([at, text]) => document.querySelector(at)?.innerText.includes(text)", arg=[selector, text]
    )


@pytest.mark.browser
def test_a_card_on_the_page(page):
    card, value = page.locator("#bar .card"), "document.querySelector('#bar .range').value"
    before = page.evaluate(value)
    assert not card.is_visible() and not page.locator("#context").is_visible()
    pick(page, "#into", EIGHT)
    card.wait_for()
    assert page.evaluate(value) == page.get_attribute("#bar .range", "max") != before
    shows(page, "#left", "more than the largest split takes")
    cache, weights = part(page, "cache"), part(page, "weights")

    page.fill("#context input", "4k")
    page.press("#context input", "Enter")
    shows(page, "#left", "made for 512 tokens of context, not for 4,096")
    assert part(page, "cache") == pytest.approx(8 * cache, abs=0.0005)

    # a card on which the weights have not all that they could use
    beside = sum(part(page, name) for name in ("cache", "activations", "reserve"))
    pick(page, "#into", "A card of another size")
    size = f"{beside + weights - 0.002:.4f}"
    page.fill("#own-size input", size)
    shows(page, "#bar .card-title", f"Card of {float(size):g} GiB")
    assert "are left for the weights." in page.inner_text("#left")
    page.wait_for_function(
        "weights => parseFloat(document.querySelector('#bar .parts .weights dd').innerText)"
        " < weights",
        arg=1024 * weights,  # in MiB
    )
    assert page.inner_text("#bar .fits").endswith(" free")
    press(page, "End")
    for control in ("#into", "#context", "#cache"):  # looked at and left as they are
        page.focus(f"{control} input")
    settle(page)
    assert part(page, "weights") == weights and page.inner_text("#bar .fits").startswith("Over by")
    page.fill("#own-size input", "0.5")
    page.wait_for_selector("#left [role=alert]")
    assert "larger card" in page.inner_text("#left")
    assert page.inner_text("#bar .fits").startswith("Over by")
    low = page.get_attribute("#bar .range", "min")
    page.wait_for_function(f"{value} === '{low}'")

    pick(page, "#into", "No card: I set the weights myself")
    card.wait_for(state="hidden")
    assert page.evaluate(value) == low
    assert not page.locator("#context").is_visible()

    # this machine's memory was found when the model was loaded; other levels are fitted, too
    page.locator("#into input").click()
    page.get_by_role("option", name="This machine's memory, free at the last load").click()
    page.locator("#bar .card").wait_for()
    assert page.locator("#bar .parts .reserve").count() == 0
    page.locator("#levels label").filter(has_text="8 / 4").click()
    shows(page, "#bar .legend", "8-bit layer")
    assert page.input_value("#bar .range") == page.get_attribute("#bar .range", "max")
    assert page.locator("#bar .card").is_visible()
