"""Says who is better by more than noise: in sentences, and as a table below them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ...core.allocation import Split
from ...core.comparison import Estimate, estimate, larger_than_noise, mean_of, noise_limit
from ...core.errors import UserError
from ...core.memory import format_gib
from ...core.metrics import metric_spec
from ...core.orderings import DEFAULT_ORDERING, ORDERINGS
from ...core.schema import Evaluation
from ..templates import paragraphs_html, render
from ..wording import better, figure, metric_title
from .contenders import Contender

Sentence = tuple[str, str]  # (in bold, the rest)
Cell = tuple[str, str]  # (text, small remark below it)
UNMEASURED = "not measured"


@dataclass(frozen=True)
class Row:
    """A split beside the chosen one.

    `value` is None where it is not measured. `difference` is None where its items cannot be paired
    with those of the chosen split. `same` means that it is that very split.
    """

    title: str
    value: Estimate | None
    difference: Estimate | None
    same: bool = False
    remark: str = ""


@dataclass(frozen=True)
class Judge:
    """Says what differences of a metric mean, where so many comparisons must hold together."""

    metric: str
    comparisons: int

    def gain(self, difference: Estimate) -> float:
        """Returns the size of the difference; it is positive for an improvement."""
        return difference.value if metric_spec(self.metric).larger_is_better else -difference.value

    def is_noise(self, difference: Estimate) -> bool:
        return not larger_than_noise(difference, self.comparisons)

    def verdict(self, difference: Estimate) -> str:
        if self.is_noise(difference):
            return "no"
        return "yes, better" if self.gain(difference) > 0 else "yes, worse"

    def limit_text(self) -> str:
        """Returns how many standard errors make a difference, as a sentence."""
        if not self.comparisons:
            return ""
        together = "the one comparison holds"
        if self.comparisons > 1:
            together = f"all {self.comparisons} comparisons hold together"
        return (
            "A difference counts as larger than noise from "
            f"{noise_limit(self.comparisons):.1f} of its standard errors on: that way {together} "
            "with 95 %."
        )


class Measured:
    """The evaluations of one "task/metric", by the split and quantizer of a contender. `origin` is
    the sentence on what the model's weights were before."""

    def __init__(
        self,
        evaluations: Iterable[Evaluation],
        chosen: str,
        titles: Mapping[str, str],
        origin: str = "",
    ) -> None:
        self.origin = origin
        task, self.metric = chosen.split("/", 1)
        self.title = metric_title(task, self.metric, titles)
        self.evaluations: dict[tuple[Split, str], Evaluation] = {
            (e.split, e.quantizer): e
            for e in evaluations
            if e.task == task and self.metric in e.metrics
        }

    def estimate(self, contender: Contender) -> Estimate | None:
        """Returns None where the contender is not measured. Raises UserError where the metric is
        not a mean over items, which could be paired."""
        evaluation = self.evaluations.get((contender.split, contender.quantizer.name))
        if evaluation is None:
            return None
        value = estimate(evaluation, self.metric)
        if value is None:
            raise UserError(
                f"“{self.title}” is no mean over items: splits cannot be compared item by item."
            )
        return value


def comparison_html(
    contenders: Sequence[Contender],
    evaluations: Iterable[Evaluation],
    chosen: str,
    titles: Mapping[str, str],
    notes: Sequence[str] = (),
    origin: str = "",
) -> str:
    """Returns the contenders beside the first one, which is the chosen one: several orders of one
    quantizer, or one order by several.

    `evaluations` are of one number of items. `chosen` is the "task/metric" to compare by. `titles`
    are those of the tasks. `notes` has a sentence for everything that could not take part, or that
    needs a remark.
    `origin` says what the model's weights were before.
    """
    measured = Measured(evaluations, chosen, titles, origin)
    try:
        return compared_html(contenders, measured, notes)
    except UserError as e:
        return paragraphs_html(str(e))


def compared_html(contenders: Sequence[Contender], measured: Measured, notes: Sequence[str]) -> str:
    """Raises UserError where there is nothing to compare."""
    first, *others = contenders
    base = base_of(contenders, measured, notes)
    by_quantizer = len({c.quantizer for c in contenders}) > 1
    rows = [row_of(c, first, base, measured, by_quantizer) for c in others]
    judged = {r.title: r.value for r in rows if r.value and r.difference}
    seeded = [base] if first.seeded else []
    seeded += [judged[c.title] for c in others if c.seeded and c.title in judged]
    mean = mean_of(seeded) if len(seeded) > 1 else None
    rivals = {} if first.seeded else {first.title: base}
    usual = ORDERINGS[DEFAULT_ORDERING].title  # judged too where another order is chosen
    if usual in judged and judged[usual] is not base:
        rivals[usual] = judged[usual]
    comparisons = sum(r.difference is not None and not r.same for r in rows)
    if mean:
        rows.append(Row(f"Random (mean of {len(seeded)})", mean, mean.minus(base)))
        comparisons += 1 + (first.title != usual and usual in rivals)
    judge = Judge(measured.metric, comparisons)
    sentences = [
        against_random(title, value, mean, seeded, measured.title, judge)
        for title, value in rivals.items()
        if mean
    ]
    sentences.append(("", in_words(first.title, rows, judge)))
    if missing := [r.title for r in rows if r.value is None]:
        sentences.append(("", f"Not measured yet: {listed(missing)}."))
    sentences += [("", sentence) for sentence in notes]
    note = (
        f"{base.n:,} items, the same for every split, compared item by item; ± standard error of "
        f"the difference. {sizes(contenders)} {judge.limit_text()} {measured.origin}"
    )
    heads = [
        ("Quantizer" if by_quantizer else "Order of importance", ""),
        (measured.title, better(measured.metric)),
        (f"Difference to {first.title}", ""),
        ("Larger than noise?", ""),
    ]
    own = [(first.title, first.size_text if by_quantizer else ""), (value_text(base), "")]
    cells = [[*own, ("", ""), ("", "")], *(cells_of(row, judge) for row in rows)]
    return table_html(sentences, note, heads, cells, mark_first=True)


def base_of(contenders: Sequence[Contender], measured: Measured, notes: Sequence[str]) -> Estimate:
    """Returns the figure of the chosen split. Raises UserError where nothing can be compared with
    it."""
    first, *others = contenders
    if not others:
        raise UserError(" ".join(["There is no other quantizer to compare with.", *notes]))
    if len({(c.split, c.quantizer) for c in contenders}) == 1:
        raise UserError(
            "At this budget every order gives the same split: there is nothing to compare."
        )
    base = measured.estimate(first)
    if base is None:
        raise UserError(
            f"The split that {first.title} gives is not measured on “{measured.title}” yet."
        )
    if base.n < 2:
        raise UserError("One item is too few to tell a difference from noise.")
    return base


def row_of(
    contender: Contender,
    first: Contender,
    base: Estimate,
    measured: Measured,
    by_quantizer: bool,
) -> Row:
    remark = contender.size_text if by_quantizer else ""
    if (contender.split, contender.quantizer) == (first.split, first.quantizer):
        return Row(contender.title, base, base.minus(base), same=True, remark=remark)
    value = measured.estimate(contender)
    return Row(contender.title, value, paired_difference(value, base), remark=remark)


def paired_difference(value: Estimate | None, other: Estimate | None) -> Estimate | None:
    """Returns `value` minus `other`; None where one is not measured, or their items differ."""
    return value.minus(other) if value and other and value.n == other.n > 1 else None


def cells_of(row: Row, judge: Judge) -> list[Cell]:
    difference, verdict = "–", "–"
    if row.same:
        difference, verdict = "0", "the same split"
    elif row.difference is not None:
        difference, verdict = difference_text(row.difference), judge.verdict(row.difference)
    return [(row.title, row.remark), (value_text(row.value), ""), (difference, ""), (verdict, "")]


def alike_html(
    pairs: Sequence[tuple[Contender, Contender]],
    evaluations: Iterable[Evaluation],
    chosen: str,
    titles: Mapping[str, str],
    levels: Sequence[float],
    origin: str = "",
) -> str:
    """Returns mixes of the high and the low level beside one level in every layer.

    `pairs` are (one level, mix); the other parameters are those of `comparison_html`.
    """
    measured = Measured(evaluations, chosen, titles, origin)
    try:
        return compared_alike_html(pairs, measured, levels)
    except UserError as e:
        return paragraphs_html(str(e))


def compared_alike_html(
    pairs: Sequence[tuple[Contender, Contender]], measured: Measured, levels: Sequence[float]
) -> str:
    """Raises UserError where there is nothing to compare."""
    figures = [(measured.estimate(fixed), measured.estimate(mix)) for fixed, mix in pairs]
    rows = [
        Row(fixed.title, value, paired_difference(value, mixed))
        for (fixed, _), (value, mixed) in zip(pairs, figures, strict=True)
    ]
    comparisons = sum(row.difference is not None for row in rows)
    if not comparisons:
        raise UserError(
            f"No level in between is measured on “{measured.title}” yet, with a mix to compare."
        )
    judge = Judge(measured.metric, comparisons)
    order = pairs[0][1].title
    mix_title = f"the mix of {' and '.join(f'{level:g}' for level in levels)} bits by {order}"
    sentences = [("", in_words(mix_title, rows, judge, "all layers at"))]
    missing = [row.title for row, pair in zip(rows, figures, strict=True) if not all(pair)]
    if missing:
        sentences.append(("", f"Not measured yet: {listed(missing)}."))
    numbers = sorted({value.n for pair in figures for value in pair if value})
    note = (
        f"{', '.join(f'{n:,}' for n in numbers)} items, compared item by item; ± standard error of "
        "the difference. A mix has at most as many bits on average, and takes at most as many "
        "bytes, as the one level beside it; with all layers at the high or the low level both are "
        f"the same. {judge.limit_text()} {measured.origin}"
    )
    heads = [
        ("All layers at", ""),
        (measured.title, better(measured.metric)),
        (f"Mix by {order}", better(measured.metric)),
        ("Difference of the mix", ""),
        ("Larger than noise?", ""),
    ]
    cells = [alike_cells(pair, values, judge) for pair, values in zip(pairs, figures, strict=True)]
    return table_html(sentences, note, heads, cells)


def alike_cells(
    pair: tuple[Contender, Contender],
    values: tuple[Estimate | None, Estimate | None],
    judge: Judge,
) -> list[Cell]:
    (fixed, mix), (value, mixed) = pair, values
    difference = paired_difference(mixed, value)
    return [
        (fixed.title, fixed.size_text),
        (value_text(value), ""),
        (value_text(mixed), mix.size_text),
        (difference_text(difference) if difference else "–", ""),
        (judge.verdict(difference) if difference else "–", ""),
    ]


def against_random(
    title: str,
    value: Estimate,
    mean: Estimate,
    each: Sequence[Estimate],
    metric_name: str,
    judge: Judge,
) -> Sentence:
    """Returns whether an order beats the `mean` of the random ones, and how many of `each`."""
    difference = value.minus(mean)
    beaten = sum(judge.gain(value.minus(other)) > 0 for other in each)
    noise = judge.is_noise(difference)
    if noise:
        verdict = f"{title} does not beat random here by more than noise."
    elif judge.gain(difference) > 0:
        verdict = f"{title} beats random here."
    else:
        verdict = f"{title} does not beat random here: it is worse."
    return verdict, (
        f"{metric_name} {value_text(value)} against {value_text(mean)}, the mean of {len(each)} "
        f"random orders: the difference of {difference_text(difference)} is "
        f"{'not larger' if noise else 'larger'} than noise. Taken one by one, it is better than "
        f"{beaten} of the {len(each)}."
    )


def in_words(title: str, rows: Sequence[Row], judge: Judge, before: str = "") -> str:
    """Returns which rows `title` is better than, worse than, or no different from. `before` stands
    before the titles of the rows."""
    starts = {
        "better": f"By more than noise, {title} is better than",
        "worse": f"By more than noise, {title} is worse than",
        "noise": "No difference larger than noise:",
        "same": "The very same split:",
    }
    groups: dict[str, list[str]] = {group: [] for group in starts}
    for row in rows:
        if row.same:
            groups["same"].append(row.title)
        elif row.difference is None:
            continue
        elif judge.is_noise(row.difference):
            groups["noise"].append(row.title)
        else:
            behind = judge.gain(row.difference) < 0
            groups["better" if behind else "worse"].append(row.title)
    return " ".join(
        " ".join(filter(None, [starts[group], before, f"{listed(names)}."]))
        for group, names in groups.items()
        if names
    )


def sizes(contenders: Sequence[Contender]) -> str:
    least, most = min(c.bytes for c in contenders), max(c.bytes for c in contenders)
    if least == most:
        return f"Every split takes the same {format_gib(most)} ({most:,} bytes)."
    share = (most - least) / most
    return f"The splits take up to {format_gib(most)} and differ by at most {share:.2%}."


def listed(names: Sequence[str]) -> str:
    """Quantizers' titles have commas of their own: 'Quanto, HQQ; GPTQ'."""
    return ("; " if any("," in name for name in names) else ", ").join(names)


def value_text(value: Estimate | None) -> str:
    """Without its own error: what is compared is known much better, item by item."""
    return figure(value.value, 4) if value else UNMEASURED


def difference_text(difference: Estimate) -> str:
    sign = "−" if difference.value < 0 else "+"
    return f"{sign}{figure(abs(difference.value), 2)} ± {figure(difference.stderr, 2)}"


def table_html(
    sentences: Sequence[Sentence],
    note: str,
    heads: Sequence[Cell],
    rows: Sequence[Sequence[Cell]],
    mark_first: bool = False,
) -> str:
    return render(
        "comparison.html",
        sentences=sentences,
        note=note.strip(),
        heads=heads,
        rows=rows,
        mark_first=mark_first,
    )
