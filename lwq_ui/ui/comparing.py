"""Does the order matter here? What every ordering's split of one budget was measured at, paired."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape

from ..core.allocation import Split
from ..core.comparison import Estimate, estimate, larger_than_noise, mean_of, noise_limit
from ..core.curves import RANDOM_SEEDS
from ..core.memory import format_gib
from ..core.metrics import metric_spec
from ..core.orderings import ORDERINGS, ordering_title
from ..core.schema import Evaluation
from ..engine.quantizers import model_cost
from .selection import Selection, ready
from .state import Session
from .wording import better, figure, metric_title


@dataclass(frozen=True)
class Contender:
    """What one ordering makes of the budget. `random`: one of the orders that nothing ranks."""

    title: str
    split: Split
    bytes: int
    random: bool


@dataclass(frozen=True)
class Row:
    """A split beside the chosen one. `value` is None where it was not measured, `difference` (to
    the chosen one) where its items cannot be paired."""

    title: str
    value: Estimate | None
    difference: Estimate | None
    same: bool


def contenders(session: Session, selection: Selection) -> list[Contender]:
    """The chosen ordering first, then every other one that could spend the same budget on the same
    pins. Raises UserError where the budget is too small."""
    info, _ = ready(session)
    scores = selection.scores(session)
    cost = model_cost(info, selection.quantizer)
    every = [(selection.ordering, selection.seed)]
    for o in ORDERINGS.values():
        known = o.scorer is None or o.scorer in scores
        if known and not o.prunes and o.name != "block-influence":  # which ranks as LIM
            every += [(o.name, seed) for seed in (RANDOM_SEEDS if o.name == "random" else (0,))]
    found = []
    for name, seed in dict.fromkeys((n, s if n == "random" else 0) for n, s in every):
        split = replace(selection, ordering=name, seed=seed).split(session)
        title = ordering_title(name, seed)
        found.append(Contender(title, split, cost.total(split), name == "random"))
    return found


def panel(
    every: Sequence[Contender],
    evaluations: Iterable[Evaluation],
    chosen: str,
    titles: Mapping[str, str],
) -> str:
    """HTML: who is better by more than noise, in words and as a table. `evaluations` are of one
    quantizer and number of items, `chosen` is the "task/metric" to compare by."""
    task, metric = chosen.split("/", 1)
    measured = {e.split: e for e in evaluations if e.task == task and metric in e.metrics}
    first, *others = every
    name = metric_title(task, metric, titles)
    if len({c.split for c in every}) == 1:
        return told("At this budget every order gives the same split: there is nothing to compare.")
    if first.split not in measured:
        return told(f"The split that {first.title} gives is not measured on “{name}” yet.")
    base = estimate(measured[first.split], metric)
    if base is None:
        return told(f"“{name}” is no mean over items: splits cannot be compared item by item.")
    if base.n < 2:
        return told("One item is too few to tell a difference from noise.")
    rows = [row(c, first, base, measured, metric) for c in others]
    paired = {r.title: r.value for r in rows if r.value and r.difference}
    random = [e for c in every if c.random and (e := base if c is first else paired.get(c.title))]
    mean = mean_of(random) if len(random) > 1 else None
    if mean:
        rows.append(Row(f"Random (mean of {len(random)})", mean, mean.minus(base), False))
    rivals = {} if first.random else {first.title: base}
    if "LIM" in paired and paired["LIM"] is not base:
        rivals["LIM"] = paired["LIM"]
    comparisons = sum(r.difference is not None and not r.same for r in rows)
    comparisons += bool(mean) and first.title != "LIM" and "LIM" in rivals
    words = [
        against_random(title, value, mean, random, name, metric, comparisons)
        for title, value in rivals.items()
        if mean
    ]
    words.append(escape(in_words(first.title, rows, metric, comparisons)))
    if missing := [r.title for r in rows if r.value is None]:
        words.append(escape(f"Not measured yet: {', '.join(missing)}."))
    note = f"{base.n:,} items, the same for every split, compared item by item; ± standard error. "
    note += sizes(every)
    if comparisons:
        note += (
            f" A difference counts as larger than noise from {noise_limit(comparisons):.1f} of its "
            f"standard errors on: that way all {comparisons} comparisons hold together with 95 %."
        )
    return "".join(f"<p>{w}</p>" for w in words) + table(
        first.title, base, rows, name, metric, comparisons, note
    )


def row(
    c: Contender,
    first: Contender,
    base: Estimate,
    measured: Mapping[Split, Evaluation],
    metric: str,
) -> Row:
    if c.split == first.split:
        return Row(c.title, base, base.minus(base), True)
    value = estimate(measured[c.split], metric) if c.split in measured else None
    paired = value is not None and value.n == base.n
    return Row(c.title, value, value.minus(base) if value and paired else None, False)


def against_random(
    title: str,
    value: Estimate,
    mean: Estimate,
    each: Sequence[Estimate],
    name: str,
    metric: str,
    comparisons: int,
) -> str:
    difference = value.minus(mean)
    sign = 1 if metric_spec(metric).larger_is_better else -1
    ahead = sum(sign * (value.value - e.value) > 0 for e in each)
    noisy = not larger_than_noise(difference, comparisons)
    if noisy:
        verdict = f"{title} does not beat random here by more than noise."
    elif sign * difference.value > 0:
        verdict = f"{title} beats random here."
    else:
        verdict = f"{title} does not beat random here: it is worse."
    size = "not larger" if noisy else "larger"
    return (
        f"<b>{escape(verdict)}</b> {escape(name)} {figure(value.value, 4)} against "
        f"{figure(mean.value, 4)}, the mean of {len(each)} random orders: the difference of "
        f"{signed(difference)} is {size} than noise. Taken one by one, it is better than {ahead} "
        f"of the {len(each)}."
    )


def in_words(title: str, rows: Sequence[Row], metric: str, comparisons: int) -> str:
    sign = 1 if metric_spec(metric).larger_is_better else -1
    groups: dict[str, list[str]] = {"better": [], "worse": [], "noise": [], "same": []}
    for r in rows:
        if r.same:
            groups["same"].append(r.title)
        elif r.difference is None:
            continue
        elif not larger_than_noise(r.difference, comparisons):
            groups["noise"].append(r.title)
        else:
            behind = sign * r.difference.value < 0
            groups["better" if behind else "worse"].append(r.title)
    sentences = {
        "better": f"By more than noise, {title} is better than",
        "worse": f"By more than noise, {title} is worse than",
        "noise": "No difference larger than noise:",
        "same": "The very same split:",
    }
    said = [f"{sentences[k]} {', '.join(names)}." for k, names in groups.items() if names]
    return " ".join(said)


def sizes(every: Sequence[Contender]) -> str:
    found = [c.bytes for c in every]
    least, most = min(found), max(found)
    if least == most:
        return f"Every split takes the same {format_gib(most)} ({most:,} bytes)."
    share = (most - least) / most
    return f"The splits take up to {format_gib(most)} and differ by at most {share:.2%}."


def table(
    title: str,
    base: Estimate,
    rows: Sequence[Row],
    name: str,
    metric: str,
    comparisons: int,
    note: str,
) -> str:
    sign = 1 if metric_spec(metric).larger_is_better else -1
    body = [
        f"<tr class='current'><td>{escape(title)}</td><td>{shown(base)}</td><td></td><td></td></tr>"
    ]
    for r in rows:
        difference, verdict = "–", "–"
        if r.same:
            difference, verdict = "0", "the same split"
        elif r.difference is not None:
            difference, verdict = signed(r.difference), "no"
            if larger_than_noise(r.difference, comparisons):
                verdict = "yes, better" if sign * r.difference.value > 0 else "yes, worse"
        value = shown(r.value) if r.value else "not measured"
        body.append(
            f"<tr><td>{escape(r.title)}</td><td>{value}</td>"
            f"<td>{difference}</td><td>{verdict}</td></tr>"
        )
    return (
        f"<table><caption>{note}</caption><thead><tr><th scope='col'>Order of importance</th>"
        f"<th scope='col'>{escape(name)}<small>{better(metric)}</small></th>"
        f"<th scope='col'>Difference to {escape(title)}</th>"
        f"<th scope='col'>Larger than noise?</th></tr></thead>"
        f"<tbody>{''.join(body)}</tbody></table>"
    )


def shown(value: Estimate) -> str:
    return f"{figure(value.value, 4)}<small>± {figure(value.stderr, 2)}</small>"


def signed(difference: Estimate) -> str:
    sign = "−" if difference.value < 0 else "+"
    return f"{sign}{figure(abs(difference.value), 2)} ± {figure(difference.stderr, 2)}"


def told(sentence: str) -> str:
    return f"<p>{escape(sentence)}</p>"
