"""Does the order matter here? Sentences and figures for outcomes that are known beforehand."""

from __future__ import annotations

import random
import re

import pytest

pytest.importorskip("gradio")

from lwq_ui.core.allocation import breakpoints
from lwq_ui.core.comparison import estimate
from lwq_ui.core.cost import model_cost
from lwq_ui.core.errors import UserError
from lwq_ui.core.memory import average_bits
from lwq_ui.core.orderings import rank_layers
from lwq_ui.core.schema import Evaluation, LayerSpec, Metric, ModelInfo, Scores, WeightSpec
from lwq_ui.engine.quantizers import QUANTIZERS, quantizer_named
from lwq_ui.ui.comparison.contenders import (
    Contender,
    alike_contenders,
    order_contenders,
    quantizer_contenders,
)
from lwq_ui.ui.comparison.html import alike_html, comparison_html
from lwq_ui.ui.session import ModelChoice, Session
from lwq_ui.ui.situation import Controls, Situation

N = 6
TITLES = {"perplexity": "Perplexity and divergence", "pairs": "Grammar pairs"}
SPLITS = {
    "LIM": (4, 4, 4, 2, 2, 2),
    "Reverse LIM": (2, 2, 2, 4, 4, 4),
    "Random 0": (4, 2, 4, 2, 4, 2),
    "Random 1": (2, 4, 2, 4, 2, 4),
    "Random 2": (4, 2, 2, 4, 4, 2),
}


def contender(title, split=None):
    return Contender(title, split or SPLITS[title], 1000, title.startswith("Random"))


EVERY = [contender(title) for title in SPLITS]


def measured(split, chance, items=400, seed=0, task="pairs", quantizer="quanto"):
    """Items are right with `chance`, the same items for every split: which ones are hard is shared,
    as it is between splits of one model."""
    hard = random.Random(seed)
    values = [float(hard.random() < chance) for _ in range(items)]
    share = sum(values) / items
    return Evaluation(
        task, split, quantizer, {"acc": Metric(share, 0.1, items)}, {"acc": values}, 60, 1.0
    )


def outcome(**chances):
    names = {title.lower().replace(" ", "_"): title for title in SPLITS}
    return [measured(SPLITS[names[name]], chance) for name, chance in chances.items()]


ALIKE = {"reverse_lim": 0.5, "random_0": 0.5, "random_1": 0.5, "random_2": 0.5}


def words(html):
    return re.sub(r"\s+", " ", re.sub("<[^>]+>", " ", html))


def rows(html):
    cells = re.findall(
        r"<tr[^>]*><td>(.*?)</td><td>(.*?)</td><td>(.*?)</td><td>(.*?)</td></tr>", html
    )
    return {cell[0]: cell[1:] for cell in cells}


def test_an_order_that_beats_random():
    html = comparison_html(EVERY, outcome(lim=0.9, **ALIKE), "pairs/acc", TITLES)
    told = words(html)
    assert "LIM beats random here." in told and "is larger than noise" in told
    assert "better than 3 of the 3" in told
    assert "By more than noise, LIM is better than Reverse LIM, Random 0" in told
    assert "400 items" in told and "the same 1,000 bytes (1,000 bytes)" in told
    assert rows(html)["Reverse LIM"][2] == "yes, worse"
    assert rows(html)["Reverse LIM"][1].startswith("−0.4 ±")
    assert rows(html)["Random (mean of 3)"][2] == "yes, worse"


def test_an_order_that_does_not_beat_random():
    alike = {**ALIKE, "random_0": 0.49, "random_1": 0.5, "random_2": 0.51}
    told = words(comparison_html(EVERY, outcome(lim=0.5, **alike), "pairs/acc", TITLES))
    assert "LIM does not beat random here by more than noise." in told
    assert "is not larger than noise" in told
    assert "No difference larger than noise: Reverse LIM, Random 0, Random 1, Random 2" in told


def test_an_order_that_is_worse_than_random():
    told = words(comparison_html(EVERY, outcome(lim=0.2, **ALIKE), "pairs/acc", TITLES))
    assert "LIM does not beat random here: it is worse." in told
    assert "better than 0 of the 3" in told
    assert "By more than noise, LIM is worse than" in told


def test_of_perplexity_less_is_better():
    def perplexity(split, nats):
        tokens = [10.0] * 30
        losses = [10 * nats + (i % 3) for i in range(30)]
        kl = Metric(sum(losses) / sum(tokens), 0.01, 30)
        items = {"tokens": tokens, "kl_divergence": losses}
        return Evaluation("perplexity", split, "quanto", {"kl_divergence": kl}, items, 60, 1.0)

    every = [perplexity(split, 3.0) for title, split in SPLITS.items() if title != "LIM"]
    html = comparison_html(
        EVERY, [perplexity(SPLITS["LIM"], 2.0), *every], "perplexity/kl_divergence", TITLES
    )
    assert "LIM beats random here." in html and "lower is better" in html
    assert rows(html)["Reverse LIM"][2] == "yes, worse"


def test_lim_is_judged_too_where_another_order_is_chosen():
    every = sorted(EVERY, key=lambda c: c.title != "Reverse LIM")
    told = words(
        comparison_html(
            every, outcome(lim=0.5, **{**ALIKE, "reverse_lim": 0.9}), "pairs/acc", TITLES
        )
    )
    assert "Reverse LIM beats random here." in told
    assert "LIM does not beat random here by more than noise." in told
    chosen = sorted(EVERY, key=lambda c: c.title != "Random 1")
    told = words(comparison_html(chosen, outcome(lim=0.9, **ALIKE), "pairs/acc", TITLES))
    assert "LIM beats random here." in told and "Random 1 beats" not in told


def test_what_cannot_be_compared_is_said():
    assert "is not measured on “Grammar pairs: accuracy” yet" in comparison_html(
        EVERY, [], "pairs/acc", TITLES
    )
    same = [contender("LIM"), contender("Reverse LIM", SPLITS["LIM"])]
    assert "every order gives the same split" in comparison_html(same, [], "pairs/acc", TITLES)
    some = comparison_html(EVERY, outcome(lim=0.5, random_0=0.6), "pairs/acc", TITLES)
    assert "Not measured yet: Reverse LIM, Random 1, Random 2." in words(some)
    assert "beat random" not in some  # one random order says nothing
    (lim, *rest) = outcome(lim=0.5, **ALIKE)
    median = Evaluation(
        "pairs", lim.split, "quanto", {"acc": Metric(0.9, 0.1, 400)}, lim.items, 60, 1
    )
    assert "cannot be compared item by item" in comparison_html(
        EVERY, [median, *rest], "pairs/acc", TITLES
    )
    single = [measured(e.split, 0.5, items=1) for e in (lim, *rest)]
    assert "One item is too few" in comparison_html(EVERY, single, "pairs/acc", TITLES)


def test_splits_of_other_sizes_say_so():
    larger = [EVERY[0], Contender("Reverse LIM", SPLITS["Reverse LIM"], 1010, False)]
    told = words(comparison_html(larger, outcome(lim=0.5, reverse_lim=0.6), "pairs/acc", TITLES))
    assert "differ by at most 0.99%" in told


def situation(known=None, **controls) -> Situation:
    layer = LayerSpec((WeightSpec("w", 64, 128),), 0)
    info = ModelInfo("m", None, "f" * 64, "Llama", "bfloat16", 1, 1000, 100, None, (layer,) * N)
    lim = Scores("lim", tuple(float(N - i) for i in range(N)), "text", 1, 1, 0.1)
    session = Session(ModelChoice("m"), info, None, {"lim": lim}, known or {})
    return Situation(session, Controls(**controls))


def test_every_order_that_can_be_had_competes_at_the_same_budget():
    found = order_contenders(situation())
    titles = [c.title for c in found]
    several = {"Reverse LIM", "Random 0", "Random 1", "Random 2", "First layers", "Last layers"}
    assert titles[0] == "LIM" and several < {*titles} and len({*titles}) == len(titles)
    assert not [t for t in titles if "Prune" in t or "Sensitivity" in t or "influence" in t]
    assert found[0].split == SPLITS["LIM"] and len({c.bytes for c in found}) == 1
    scores = Scores("sensitivity", (0.0, 1.0, 2.0, 3.0, 4.0, 5.0), "t", 1, 1, 0.1)
    known = {(QUANTIZERS["quanto"], 2): {"sensitivity": scores}}
    random_order = situation(known, ordering="random", seed=7)
    titles = [c.title for c in order_contenders(random_order)]
    assert titles[0] == "Random 7" and "Sensitivity" in titles and "Random 2" in titles
    other_levels = order_contenders(situation(known, levels=(8, 4)))
    assert "Sensitivity" not in [c.title for c in other_levels]
    pinned = order_contenders(situation(known, pins={0: 8}))
    assert {c.split[0] for c in pinned} == {8}


# ---- quantizers at the same bytes


class Larger(type(QUANTIZERS["quanto"])):
    """As Quanto, with levels in between and more bytes."""

    family, heading = "larger", "Larger (made up)"
    levels, pairs = (4, 3, 2), ((4, 2),)

    def packed_bytes(self, weight, level, dtype_bytes):
        return 1500 * int(level)


class Other(type(QUANTIZERS["quanto"])):
    family, heading, levels, pairs = "other", "Other", (8, 3), ((8, 3),)


@pytest.fixture
def quantizers(monkeypatch):
    monkeypatch.setitem(QUANTIZERS, "larger", Larger())
    monkeypatch.setitem(QUANTIZERS, "other", Other())
    for name in {*QUANTIZERS} - {"quanto", "quanto-hqq", "larger", "other"}:
        monkeypatch.delitem(QUANTIZERS, name)


def test_every_quantizer_spends_the_same_bytes(quantizers):
    s = situation()
    found, left_out = quantizer_contenders(s)
    assert [c.quantizer.name for c in found] == ["quanto", "quanto-hqq", "larger"]
    assert [c.title for c in found] == ["Quanto, Max", "Quanto, HQQ", "Larger"]
    assert left_out == ["Other is left out: it has no 4 and 2 bits."]
    own, hqq, larger = found
    assert own.split == s.split == hqq.split == SPLITS["LIM"]
    cost = model_cost(s.info, quantizer_named("larger"))
    ranked = rank_layers("lim", s.choice.values, N)
    fits = [s for k in range(N + 1) if cost.total(s := breakpoints(cost, (4, 2), ranked).split(k))
            <= own.bytes]  # fmt: skip
    assert larger.split == fits[-1]
    assert larger.bytes == cost.total(larger.split) <= own.bytes


def test_what_does_not_fit_the_bytes_is_left_out_and_told(quantizers, monkeypatch):
    monkeypatch.setattr(Larger, "packed_bytes", lambda self, w, level, size: 10**6 * int(level))
    found, left_out = quantizer_contenders(situation())
    assert [c.quantizer.name for c in found] == ["quanto", "quanto-hqq"]
    assert left_out[0].startswith("Larger is left out. A budget of") and len(left_out) == 2
    _, left_out = quantizer_contenders(situation(pins={0: 8}))
    assert any("cannot be pinned to 8 bits" in why for why in left_out)


def test_quantizers_are_compared_item_by_item(quantizers):
    found, left_out = quantizer_contenders(situation(quantizer=quantizer_named("quanto:group=64")))
    assert [c.quantizer.name for c in found][:2] == ["quanto:group=64", "quanto"]
    every, left_out = quantizer_contenders(situation())
    own, hqq, larger = every
    known = [
        measured(own.split, 0.5),
        measured(hqq.split, 0.9, quantizer="quanto-hqq"),
        measured(larger.split, 0.5, quantizer="larger"),
        measured(larger.split, 0.1, quantizer="nobody's"),
    ]
    html = comparison_html(every, known, "pairs/acc", TITLES, left_out)
    told = words(html)
    assert "By more than noise, Quanto, Max is worse than Quanto, HQQ." in told
    assert "Other is left out: it has no 4 and 2 bits." in told
    shown = {title.partition("<")[0]: cells for title, cells in rows(html).items()}
    difference = estimate(known[1], "acc").minus(estimate(known[0], "acc"))
    assert shown["Quanto, HQQ"][1].startswith(f"+{difference.value:.2g} ± {difference.stderr:.2g}")
    assert shown["Quanto, HQQ"][2] == "yes, better"
    # by another quantizer the same split is not the very same thing
    assert shown["Larger"][1:] == ("+0 ± 0", "no")
    assert f"{average_bits(larger.split):.2f} bits on average" in html
    some = words(comparison_html(every, known[:1], "pairs/acc", TITLES, left_out))
    assert "Not measured yet: Quanto, HQQ; Larger." in some
    alone = words(comparison_html(every[:1], known, "pairs/acc", TITLES, left_out))
    assert "There is no other quantizer to compare with. Other is left out" in alone


# ---- a mix beside one level in every layer


def test_a_mix_has_at_most_the_bits_and_bytes_of_the_level_in_between(quantizers):
    s = situation(levels=(8, 2), pins={0: 8})
    ((fixed, mix),) = alike_contenders(s)
    assert fixed.split == (4,) * N and fixed.title == "4 bits"
    assert mix.split == (8, 8, 2, 2, 2, 2) and mix.title == "LIM"  # 4 bits on average
    cost = model_cost(s.info, quantizer_named("quanto"))
    assert (fixed.bytes, mix.bytes) == (cost.total(fixed.split), cost.total(mix.split))
    assert mix.bytes <= fixed.bytes
    ((fixed, mix),) = alike_contenders(situation(quantizer=quantizer_named("larger")))
    assert (fixed.split, mix.split) == ((3,) * N, SPLITS["LIM"])
    with pytest.raises(UserError, match=r"Max has no level between 4 and 2 bits.* Choose 8 / 2"):
        alike_contenders(situation())


def test_mixes_are_compared_with_levels_in_between(quantizers):
    pairs = alike_contenders(situation(quantizer=quantizer_named("larger")))

    def told(mix, fixed):
        ((one, ours),) = pairs
        known = [
            measured(one.split, fixed, quantizer="larger"),
            measured(ours.split, mix, quantizer="larger"),
        ]
        html = alike_html(pairs, known, "pairs/acc", TITLES, (4, 2))
        return words(html), re.findall(r"<td>([^<]*)</td>", html)[-2:]

    text, (difference, verdict) = told(0.9, 0.5)
    title = "the mix of 4 and 2 bits by LIM"
    assert f"By more than noise, {title} is better than all layers at 3 bits." in text
    assert difference.startswith("+0.4 ±") and verdict == "yes, better"
    assert "3.00 bits on average" in text and "400 items" in text and "the one comparison" in text
    text, (difference, verdict) = told(0.5, 0.9)
    assert f"By more than noise, {title} is worse than all layers at 3 bits." in text
    assert difference.startswith("−0.4 ±") and verdict == "yes, worse"
    text, (_, verdict) = told(0.5, 0.501)
    assert "No difference larger than noise: all layers at 3 bits." in text and verdict == "no"
    nothing = alike_html(pairs, [], "pairs/acc", TITLES, (4, 2))
    assert "No level in between is measured on “Grammar pairs: accuracy” yet" in nothing
