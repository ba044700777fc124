"""Does it matter here? What was measured of the splits that every ordering, or every quantizer,
makes of one budget, and of mixes beside one level in every layer: paired, item by item."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape

from ..core.allocation import Split, breakpoints
from ..core.comparison import Estimate, estimate, larger_than_noise, mean_of, noise_limit
from ..core.curves import levels_between
from ..core.errors import UserError
from ..core.memory import average_bits, format_gib
from ..core.metrics import metric_spec
from ..core.orderings import ORDERINGS, ordering_title, rank_layers
from ..core.schema import Evaluation
from ..engine.quantizers import DEFAULT, QUANTIZERS, model_cost, quantizer_named
from .selection import Selection, ready
from .state import Session
from .wording import better, figure, metric_title, quantizer_title

Measured = Mapping[tuple[Split, str], Evaluation]  # by split and quantizer


@dataclass(frozen=True)
class Contender:
    """What one ordering or quantizer makes of the budget. `random`: one of the orders that nothing
    ranks."""

    title: str
    split: Split
    bytes: int
    random: bool = False
    quantizer: str = DEFAULT

    @property
    def told(self) -> str:
        return f"{average_bits(self.split):.2f} bits on average, {format_gib(self.bytes)}"


@dataclass(frozen=True)
class Row:
    """A split beside the chosen one. `value` is None where it was not measured, `difference` (to
    the chosen one) where its items cannot be paired. `told` stands small below the title."""

    title: str
    value: Estimate | None
    difference: Estimate | None
    same: bool
    told: str = ""


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
            every += [(o.name, seed) for seed in o.seeds]
    found = []
    for name, seed in dict.fromkeys((n, s if n == "random" else 0) for n, s in every):
        split = replace(selection, ordering=name, seed=seed).split(session)
        title = ordering_title(name, seed)
        size = cost.total(split)
        found.append(Contender(title, split, size, name == "random", selection.quantizer))
    return found


def quantizer_contenders(
    session: Session, selection: Selection
) -> tuple[list[Contender], list[str]]:
    """What the chosen ordering makes with every quantizer of the bytes that its split takes with
    the chosen one, which comes first; and a sentence for each that cannot. Sensitivity is the
    chosen quantizer's. Raises UserError where the budget is too small."""
    info, _ = ready(session)
    values, n = selection.values(session), info.num_layers
    ranked = rank_layers(selection.ordering, values, n, selection.seed)
    split = selection.split(session)
    size = model_cost(info, selection.quantizer).total(split)
    title = quantizer_title(selection.quantizer)
    found = [Contender(title, split, size, quantizer=selection.quantizer)]
    left_out = []
    for q in QUANTIZERS.values():
        if q.name == selection.quantizer:
            continue
        if why := lacking(q.name, selection.levels):
            left_out.append(why)
            continue
        try:
            table = breakpoints(model_cost(info, q.name), selection.levels, ranked, selection.pins)
            position = table.position(size)
        except UserError as e:
            left_out.append(f"{quantizer_title(q.name)} is left out. {e}")
            continue
        title = quantizer_title(q.name)
        its = table.split(position)
        found.append(Contender(title, its, table.bytes[position], quantizer=q.name))
    return found, left_out


def lacking(quantizer: str, levels: Iterable[float]) -> str:
    """Why a quantizer cannot have part in something at these levels; empty where it can."""
    without = set(levels) - set(quantizer_named(quantizer).levels)
    bits = " and ".join(f"{level:g}" for level in sorted(without, reverse=True))
    return f"{quantizer_title(quantizer)} is left out: it has no {bits} bits." if without else ""


def alike_contenders(session: Session, selection: Selection) -> list[tuple[Contender, Contender]]:
    """For each level between the high and the low one: all layers at it, and the largest mix of
    high and low by the chosen ordering that has no more average bits and takes no more bytes
    (paper, table 3). Pins are left aside. Raises UserError where there is no level in between."""
    info, _ = ready(session)
    chosen, (high, low) = quantizer_named(selection.quantizer), selection.levels
    inner = levels_between(chosen.levels, high, low)[1:-1]
    if not inner:
        raise UserError(nothing_between(selection))
    n, cost = info.num_layers, model_cost(info, selection.quantizer)
    ranked = rank_layers(selection.ordering, selection.values(session), n, selection.seed)
    table = breakpoints(cost, selection.levels, ranked)
    title = ordering_title(selection.ordering, selection.seed)
    found = []
    for level in inner:
        fixed = (level,) * n
        size = cost.total(fixed)
        position = min(table.position(size), table.position_for_average_bits(level))
        found.append(
            (
                Contender(chosen.level_title(level), fixed, size, quantizer=chosen.name),
                Contender(
                    title, table.split(position), table.bytes[position], quantizer=chosen.name
                ),
            )
        )
    return found


def nothing_between(selection: Selection) -> str:
    chosen, (high, low) = quantizer_named(selection.quantizer), selection.levels
    told = f"{quantizer_title(chosen.name)} has no level between {high:g} and {low:g} bits"
    told += ", which all layers could have."
    others = [p for p in chosen.pairs if len(levels_between(chosen.levels, *p)) > 2]
    if others:
        told += f" Choose {chosen.pair_title(others[0])} as the high and the low level."
    return told


def by_metric(evaluations: Iterable[Evaluation], task: str, metric: str) -> Measured:
    return {
        (e.split, e.quantizer): e for e in evaluations if e.task == task and metric in e.metrics
    }


def panel(
    every: Sequence[Contender],
    evaluations: Iterable[Evaluation],
    chosen: str,
    titles: Mapping[str, str],
    left_out: Sequence[str] = (),
) -> str:
    """HTML: who is better by more than noise, in words and as a table. `every` has orders of one
    quantizer, or one order by several, the chosen one first; `evaluations` are of one number of
    items, `chosen` is the "task/metric" to compare by."""
    task, metric = chosen.split("/", 1)
    measured = by_metric(evaluations, task, metric)
    first, *others = every
    name = metric_title(task, metric, titles)
    quantizers = len({c.quantizer for c in every}) > 1
    if not others:
        return told(" ".join(["There is no other quantizer to compare with.", *left_out]))
    if len({(c.split, c.quantizer) for c in every}) == 1:
        return told("At this budget every order gives the same split: there is nothing to compare.")
    if (first.split, first.quantizer) not in measured:
        return told(f"The split that {first.title} gives is not measured on “{name}” yet.")
    base = estimate(measured[first.split, first.quantizer], metric)
    if base is None:
        return told(f"“{name}” is no mean over items: splits cannot be compared item by item.")
    if base.n < 2:
        return told("One item is too few to tell a difference from noise.")
    rows = [row(c, first, base, measured, metric, c.told if quantizers else "") for c in others]
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
    if lacks := [r.title for r in rows if r.value is None]:
        words.append(escape(f"Not measured yet: {listed(lacks)}."))
    words += map(escape, left_out)
    note = f"{base.n:,} items, the same for every split, compared item by item; ± standard error "
    note += "of the difference. "
    note += sizes(every) + beyond_noise(comparisons)
    head = "Quantizer" if quantizers else "Order of importance"
    top = Row(first.title, base, None, True, first.told if quantizers else "")
    return "".join(f"<p>{w}</p>" for w in words) + table(
        head, top, rows, name, metric, comparisons, note
    )


def beyond_noise(comparisons: int) -> str:
    if not comparisons:
        return ""
    together = "the one comparison holds"
    if comparisons > 1:
        together = f"all {comparisons} comparisons hold together"
    return (
        f" A difference counts as larger than noise from {noise_limit(comparisons):.1f} of its "
        f"standard errors on: that way {together} with 95 %."
    )


def alike_panel(
    pairs: Sequence[tuple[Contender, Contender]],
    evaluations: Iterable[Evaluation],
    chosen: str,
    titles: Mapping[str, str],
    levels: Sequence[float],
) -> str:
    """HTML: the mixes of the high and the low level beside one level in every layer."""
    task, metric = chosen.split("/", 1)
    measured = by_metric(evaluations, task, metric)
    name, order = metric_title(task, metric, titles), pairs[0][1].title
    mix_of = " and ".join(f"{level:g}" for level in levels)
    rows, lacks, items = [], [], set()
    for fixed, mix in pairs:
        found = [measured.get((c.split, c.quantizer)) for c in (fixed, mix)]
        one, ours = (estimate(e, metric) if e else None for e in found)
        if any(e and not made for e, made in zip(found, (one, ours), strict=True)):
            return told(f"“{name}” is no mean over items: splits cannot be compared item by item.")
        if one is None or ours is None:
            lacks.append(fixed.title)
        difference = one.minus(ours) if one and ours and one.n == ours.n > 1 else None
        items |= {e.n for e in (one, ours) if e}
        rows.append((fixed, mix, ours, Row(fixed.title, one, difference, False)))
    if not any(row.difference for *_, row in rows):
        return told(f"No level in between is measured on “{name}” yet, with a mix to compare.")
    comparisons = sum(row.difference is not None for *_, row in rows)
    title = f"the mix of {mix_of} bits by {order}"
    words = [in_words(title, [row for *_, row in rows], metric, comparisons, "all layers at")]
    if lacks:
        words.append(f"Not measured yet: {listed(lacks)}.")
    body = []
    for fixed, mix, ours, row in rows:
        apart, how = "–", "–"
        if row.difference and ours and row.value:  # whose difference is the fixed one's
            difference = ours.minus(row.value)
            apart, how = signed(difference), verdict(difference, metric, comparisons)
        body.append(
            f"<tr><td>{escape(fixed.title)}<small>{fixed.told}</small></td>"
            f"<td>{shown(row.value) if row.value else 'not measured'}</td>"
            f"<td>{shown(ours) if ours else 'not measured'}<small>{mix.told}</small></td>"
            f"<td>{apart}</td><td>{how}</td></tr>"
        )
    note = (
        f"{', '.join(f'{n:,}' for n in sorted(items))} items, compared item by item; ± standard "
        "error of the difference. A mix has at most as many bits on average, and takes at most as "
        "many bytes, as the one level beside it; with all layers at the high or the low level both "
        "are the same."
    )
    heads = (
        ("All layers at", ""),
        (name, better(metric)),
        (f"Mix by {order}", better(metric)),
        ("Difference of the mix", ""),
        ("Larger than noise?", ""),
    )
    head = "".join(
        f"<th scope='col'>{escape(text)}{f'<small>{which}</small>' * bool(which)}</th>"
        for text, which in heads
    )
    return "".join(f"<p>{escape(w)}</p>" for w in words) + (
        f"<table><caption>{note}{beyond_noise(comparisons)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(body)}</tbody></table>"
    )


def row(
    c: Contender,
    first: Contender,
    base: Estimate,
    measured: Measured,
    metric: str,
    told: str,
) -> Row:
    if (c.split, c.quantizer) == (first.split, first.quantizer):
        return Row(c.title, base, base.minus(base), True, told)
    found = measured.get((c.split, c.quantizer))
    value = estimate(found, metric) if found else None
    paired = value is not None and value.n == base.n
    return Row(c.title, value, value.minus(base) if value and paired else None, False, told)


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


def in_words(
    title: str, rows: Sequence[Row], metric: str, comparisons: int, before: str = ""
) -> str:
    """`before` stands before the titles of the rows."""
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
    said = [
        " ".join(filter(None, [sentences[k], before, f"{listed(names)}."]))
        for k, names in groups.items()
        if names
    ]
    return " ".join(said)


def sizes(every: Sequence[Contender]) -> str:
    found = [c.bytes for c in every]
    least, most = min(found), max(found)
    if least == most:
        return f"Every split takes the same {format_gib(most)} ({most:,} bytes)."
    share = (most - least) / most
    return f"The splits take up to {format_gib(most)} and differ by at most {share:.2%}."


def table(
    head: str,
    first: Row,
    rows: Sequence[Row],
    name: str,
    metric: str,
    comparisons: int,
    note: str,
) -> str:
    value = shown(first.value) if first.value else ""
    body = [f"<tr class='current'><td>{titled(first)}</td><td>{value}</td><td></td><td></td></tr>"]
    for r in rows:
        difference, how = "–", "–"
        if r.same:
            difference, how = "0", "the same split"
        elif r.difference is not None:
            difference, how = signed(r.difference), verdict(r.difference, metric, comparisons)
        value = shown(r.value) if r.value else "not measured"
        body.append(
            f"<tr><td>{titled(r)}</td><td>{value}</td><td>{difference}</td><td>{how}</td></tr>"
        )
    return (
        f"<table><caption>{note}</caption><thead><tr><th scope='col'>{head}</th>"
        f"<th scope='col'>{escape(name)}<small>{better(metric)}</small></th>"
        f"<th scope='col'>Difference to {escape(first.title)}</th>"
        f"<th scope='col'>Larger than noise?</th></tr></thead>"
        f"<tbody>{''.join(body)}</tbody></table>"
    )


def verdict(difference: Estimate, metric: str, comparisons: int) -> str:
    if not larger_than_noise(difference, comparisons):
        return "no"
    sign = 1 if metric_spec(metric).larger_is_better else -1
    return "yes, better" if sign * difference.value > 0 else "yes, worse"


def listed(names: Sequence[str]) -> str:
    """Quantizers' titles have commas of their own: 'Quanto, HQQ; GPTQ'."""
    return ("; " if any("," in name for name in names) else ", ").join(names)


def titled(row: Row) -> str:
    return escape(row.title) + (f"<small>{row.told}</small>" if row.told else "")


def shown(value: Estimate) -> str:
    """Without its own error: what is compared is known much better, item by item."""
    return figure(value.value, 4)


def signed(difference: Estimate) -> str:
    sign = "−" if difference.value < 0 else "+"
    return f"{sign}{figure(abs(difference.value), 2)} ± {figure(difference.stderr, 2)}"


def told(sentence: str) -> str:
    return f"<p>{escape(sentence)}</p>"
