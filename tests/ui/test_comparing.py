"""Does the order matter here? Sentences and figures for outcomes that are known beforehand."""

from __future__ import annotations

import random
import re

import pytest

pytest.importorskip("gradio")

from lwq_ui.core.schema import Evaluation, LayerSpec, Metric, ModelInfo, Scores, WeightSpec
from lwq_ui.ui.comparing import Contender, contenders, panel
from lwq_ui.ui.selection import Selection
from lwq_ui.ui.state import Choice, Session

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


def measured(split, chance, items=400, seed=0, task="pairs"):
    """Items are right with `chance`, the same items for every split: which ones are hard is shared,
    as it is between splits of one model."""
    hard = random.Random(seed)
    values = [float(hard.random() < chance) for _ in range(items)]
    share = sum(values) / items
    return Evaluation(
        task, split, "quanto", {"acc": Metric(share, 0.1, items)}, {"acc": values}, 60, 1.0
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
    html = panel(EVERY, outcome(lim=0.9, **ALIKE), "pairs/acc", TITLES)
    told = words(html)
    assert "LIM beats random here." in told and "is larger than noise" in told
    assert "better than 3 of the 3" in told
    assert "By more than noise, LIM is better than Reverse LIM, Random 0" in told
    assert "400 items" in told and "the same 0.0000 GiB (1,000 bytes)" in told
    assert rows(html)["Reverse LIM"][2] == "yes, worse"
    assert rows(html)["Reverse LIM"][1].startswith("−0.4 ±")
    assert rows(html)["Random (mean of 3)"][2] == "yes, worse"


def test_an_order_that_does_not_beat_random():
    alike = {**ALIKE, "random_0": 0.49, "random_1": 0.5, "random_2": 0.51}
    told = words(panel(EVERY, outcome(lim=0.5, **alike), "pairs/acc", TITLES))
    assert "LIM does not beat random here by more than noise." in told
    assert "is not larger than noise" in told
    assert "No difference larger than noise: Reverse LIM, Random 0, Random 1, Random 2" in told


def test_an_order_that_is_worse_than_random():
    told = words(panel(EVERY, outcome(lim=0.2, **ALIKE), "pairs/acc", TITLES))
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
    html = panel(
        EVERY, [perplexity(SPLITS["LIM"], 2.0), *every], "perplexity/kl_divergence", TITLES
    )
    assert "LIM beats random here." in html and "lower is better" in html
    assert rows(html)["Reverse LIM"][2] == "yes, worse"


def test_lim_is_judged_too_where_another_order_is_chosen():
    every = sorted(EVERY, key=lambda c: c.title != "Reverse LIM")
    told = words(
        panel(every, outcome(lim=0.5, **{**ALIKE, "reverse_lim": 0.9}), "pairs/acc", TITLES)
    )
    assert "Reverse LIM beats random here." in told
    assert "LIM does not beat random here by more than noise." in told
    chosen = sorted(EVERY, key=lambda c: c.title != "Random 1")
    told = words(panel(chosen, outcome(lim=0.9, **ALIKE), "pairs/acc", TITLES))
    assert "LIM beats random here." in told and "Random 1 beats" not in told


def test_what_cannot_be_compared_is_said():
    assert "is not measured on “Grammar pairs: accuracy” yet" in panel(
        EVERY, [], "pairs/acc", TITLES
    )
    same = [contender("LIM"), contender("Reverse LIM", SPLITS["LIM"])]
    assert "every order gives the same split" in panel(same, [], "pairs/acc", TITLES)
    some = panel(EVERY, outcome(lim=0.5, random_0=0.6), "pairs/acc", TITLES)
    assert "Not measured yet: Reverse LIM, Random 1, Random 2." in words(some)
    assert "beat random" not in some  # one random order says nothing
    (lim, *rest) = outcome(lim=0.5, **ALIKE)
    median = Evaluation(
        "pairs", lim.split, "quanto", {"acc": Metric(0.9, 0.1, 400)}, lim.items, 60, 1
    )
    assert "cannot be compared item by item" in panel(EVERY, [median, *rest], "pairs/acc", TITLES)
    single = [measured(e.split, 0.5, items=1) for e in (lim, *rest)]
    assert "One item is too few" in panel(EVERY, single, "pairs/acc", TITLES)


def test_splits_of_other_sizes_say_so():
    larger = [EVERY[0], Contender("Reverse LIM", SPLITS["Reverse LIM"], 1010, False)]
    told = words(panel(larger, outcome(lim=0.5, reverse_lim=0.6), "pairs/acc", TITLES))
    assert "differ by at most 0.99%" in told


def session(**sensitivity):
    layer = LayerSpec((WeightSpec("w", 64, 128),), 0)
    info = ModelInfo("m", None, "f" * 64, "Llama", "bfloat16", 1, 1000, 100, None, (layer,) * N)
    lim = Scores("lim", tuple(float(N - i) for i in range(N)), "text", 1, 1, 0.1)
    return Session(Choice("m"), info, None, {"lim": lim}, sensitivity.get("known", {}))


def test_every_order_that_can_be_had_competes_at_the_same_budget():
    found = contenders(session(), Selection())
    assert [c.title for c in found] == [
        "LIM", "Reverse LIM", "Random 0", "Random 1", "Random 2", "First layers", "Last layers",
    ]  # fmt: skip
    assert found[0].split == SPLITS["LIM"] and len({c.bytes for c in found}) == 1
    known = {("quanto", 2): Scores("sensitivity", (0.0, 1.0, 2.0, 3.0, 4.0, 5.0), "t", 1, 1, 0.1)}
    measured_too = session(known=known)
    titles = [c.title for c in contenders(measured_too, Selection(ordering="random", seed=7))]
    assert titles[0] == "Random 7" and "Sensitivity" in titles and "Random 2" in titles
    assert "Sensitivity" not in [c.title for c in contenders(measured_too, Selection((8, 4)))]
    pinned = contenders(measured_too, Selection(pins={0: 8}))
    assert {c.split[0] for c in pinned} == {8}
