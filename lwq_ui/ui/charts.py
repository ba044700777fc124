"""Measured results: curves as a Plotly figure, in sentences and as CSV.

Nothing is drawn or said of splits that were not measured: lines end at gaps, errors are those of
differences on the same items, and a share that is kept is a range.

The figure is a plain dict, ready for JSON, which curvechart.js draws: nothing imports plotly here.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from html import escape
from itertools import groupby
from textwrap import wrap
from typing import Any

from ..core.allocation import Split
from ..core.comparison import Estimate, estimate, mean_of
from ..core.curves import KEPT, Curve, Kept, Line, Point, kept, measured_lines
from ..core.memory import (
    PRUNED,
    UNTOUCHED,
    ModelCost,
    average_bits,
    format_gib,
    size_digits,
    size_unit,
)
from ..core.metrics import metric_spec
from ..core.orderings import ALIKE, ORDERINGS
from ..core.schema import Evaluation, Metric, split_name
from ..engine.quantizers import DEFAULT, quantizer_named
from .wording import better, figure, lower_first, metric_title, quantizer_title, ranked_quantizers

Figure = dict[str, Any]
Orders = Mapping[Split, str | None]  # the names of the orderings that give a split
Costs = Mapping[str, ModelCost]  # by quantizer, that of every evaluation among them
NO_ORDERS: Orders = {}
ONE, NO_ORDER = "one level", "in no order"
# Name -> symbol, colour, of splits on no line, and of orderings. The colours have a contrast of 3
# or more on the light and the dark page; where they are alike to some eyes, the symbols are not.
MARKS = {
    "unquantized": ("diamond", "#0d9488"),
    "all 8-bit": ("square", "#8b5cf6"),
    "all 4-bit": ("triangle-up", "#6366f1"),
    "all 3-bit": ("pentagon", "#3b82f6"),
    "all 2-bit": ("triangle-down", "#dc5a5a"),
    ONE: ("hexagon", "#8d7d10"),
    NO_ORDER: ("circle", "#7b8494"),
}
INK = "#7b8494"
STYLES = {
    "lim": ("circle", "#d9560a"),
    "zd": ("square", "#2f7fd1"),
    "sensitivity": ("star", "#098968"),
    "reverse-lim": ("triangle-down", "#d94362"),
    "reverse-zd": ("triangle-up", "#9f74f9"),
    "random": ("x", INK),
    "first": ("triangle-left", "#f047ab"),
    "last": ("triangle-right", "#f920e3"),
    "prune-from-top": ("cross", "#318d0a"),
    "prune-by-lim": ("diamond", "#9e3cf6"),
    ALIKE: ("hexagon", "#8d7d10"),
}
# A colour is always the same order and a dash always the same quantizer, whichever is chosen.
DASHES = {
    "quanto": "solid",
    "quanto-hqq": "dash",
    "quanto-clip": "dot",
    "gptq": "dashdot",
    "spqr": "longdash",
}
OTHER_DASHES = ("longdashdot", "12px,3px,2px,3px,2px,3px", "2px,8px", "8px,8px", "16px,4px,4px,4px")
FONT = "Source Sans Pro, system-ui, sans-serif"
GRID = "rgba(128,136,152,.28)"
HEIGHT, TOP, BOTTOM = 380, 30, 52  # pixels: the whole, above the axes, below them
COLUMNS = (
    *("model", "ordering", "seed", "average_bits", "bytes", "bits"),
    *("metric", "value", "stderr", "n", "limit", "quantizer"),
)
LOG_FROM = 20.0  # where the largest value is so many times the smallest, the axis is logarithmic
NO_SHARE = {"kl_divergence"}  # close to 0 with all layers high: a share of that says nothing


@dataclass(frozen=True)
class Other:
    """A second model on the same chart."""

    title: str
    evaluations: Sequence[Evaluation]
    curves: Sequence[Curve]
    costs: Costs


@dataclass(frozen=True)
class Drawn:
    """A line as the chart names it. `theirs`: it is the second model's. `reach` is how far its band
    reaches at each point, None where that is not known."""

    line: Line
    title: str
    cost: ModelCost
    theirs: bool
    symbol: str
    colour: str
    dash: str
    reach: tuple[float | None, ...]

    @property
    def ordering(self) -> str:
        return self.line.orderings[0]

    @property
    def uid(self) -> str:
        """Survives updates, so that a line that the user has hidden stays hidden."""
        return "-".join(["theirs"] * self.theirs + [self.line.quantizer, self.ordering])


class Paired:
    """Estimates of one metric: made once for each evaluation, and compared on the same items."""

    def __init__(self, evaluations: Sequence[Evaluation], metric: str) -> None:
        self.metric = metric
        self.made: dict[int, Estimate | None] = {}  # by the evaluation's id: it has no hash
        self.untouched = {e.limit: e for e in evaluations if set(e.split) == {UNTOUCHED}}

    def one(self, e: Evaluation) -> Estimate | None:
        if id(e) not in self.made:
            self.made[id(e)] = estimate(e, self.metric)
        return self.made[id(e)]

    def at(self, point: Point) -> Estimate | None:
        """Of a mean over orders, their mean. None where the items do not say."""
        each = [made for e in point.evaluations if (made := self.one(e))]
        if len(each) < len(point.evaluations) or len({made.n for made in each}) > 1:
            return None
        return each[0] if len(each) == 1 else mean_of(each)

    def reach(self, line: Line) -> tuple[float | None, ...]:
        """The standard error of each point's difference to the unquantized model, or, without one,
        to all layers high. Of random orders the deviation between them, as in the paper."""
        if line.orderings[0] == "random" and len(line.curves) > 1:
            return tuple(drawable(p.spread) for p in line.points)
        first = self.untouched.get(line.limit)
        base = self.one(first) if first else self.at(line.points[0]) if line.from_all_high else None
        if base is None:
            return (None,) * len(line.points)
        return tuple(self.error(self.at(p), base) for p in line.points)

    def differ(self, a: Point, b: Point) -> bool:
        """By more than two standard errors of the difference, or where that is not known."""
        one, other = self.at(a), self.at(b)
        error = self.error(one, other) if other else None
        return not (one and other and error is not None) or (
            abs(one.value - other.value) > 2 * error
        )

    def error(self, value: Estimate | None, base: Estimate) -> float | None:
        """Of their difference; None where they cannot be paired, or are of one item."""
        if value is None or value.n != base.n or base.n < 2:
            return None
        return value.minus(base).stderr


def of_metric(evaluations: Sequence[Evaluation], chosen: str) -> list[Evaluation]:
    task, _, metric = chosen.partition("/")
    return [e for e in evaluations if e.task == task and metric in e.metrics]


def drawn_lines(
    evaluations: Sequence[Evaluation],
    chosen: str,
    curves: Sequence[Curve],
    costs: Costs,
    other: Other | None,
    model: str,
    quantizer: str,
    paired: Mapping[bool, Paired],
    beside: set[str] | None,
) -> list[Drawn]:
    """The lines of the chosen `quantizer` first. It is named where lines of others, of which all or
    those of `beside` show at once, stand beside it."""
    metric = chosen.partition("/")[2]
    lines = [
        (line, costs[line.quantizer], model if other else "", False)
        for line in measured_lines(of_metric(evaluations, chosen), metric, curves)
    ]
    if other:
        measured = measured_lines(of_metric(other.evaluations, chosen), metric, other.curves)
        lines += [(line, other.costs[line.quantizer], other.title, True) for line in measured]
    names = {line.quantizer for line, *_ in lines}
    ranked = [quantizer, *ranked_quantizers(names - {quantizer})]
    dashes = dashes_of(ranked)
    others = names - {quantizer}
    unnamed = set() if (others if beside is None else others & beside) else {quantizer}
    limits = {e.limit for e in of_metric(evaluations, chosen)}
    lines.sort(key=lambda one: (one[3], ranked.index(one[0].quantizer)))
    drawn = []
    for line, cost, name, theirs in lines:
        by = quantizer_title(line.quantizer) if line.quantizer not in unnamed else ""
        items = f"{line.limit or 'all'} items" if len(limits) > 1 else ""
        symbol, colour = STYLES.get(line.orderings[0], ("circle", INK))
        title = ", ".join(filter(None, [name, line.title, by, items]))
        dash, reach = dashes[line.quantizer], paired[theirs].reach(line)
        drawn.append(Drawn(line, title, cost, theirs, symbol, colour, dash, reach))
    return drawn


def dashes_of(quantizers: Iterable[str]) -> dict[str, str]:
    """Those with options of their own take what is left over, in their order."""
    others = sorted(name for name in quantizers if name not in DASHES)
    rest = {name: OTHER_DASHES[k % len(OTHER_DASHES)] for k, name in enumerate(others)}
    return {**DASHES, **rest}


# ---- how far down 90 % is kept


def margins(
    drawn: Drawn, metric: str, paired: Paired, most: int
) -> list[tuple[Point, float, float]]:
    """How far each point, from all layers high to the first gap, is on the good side of 90 % of the
    first one's value, and the standard error of that. Of a figure of which less is better, keeping
    90 % means at most 1 / 0.9 of it. Empty unless the line begins with all layers at the high level
    and was measured on all items, and for ALIKE, which has no splits in between."""
    line = drawn.line
    if metric in NO_SHARE or line.curves[0].constant or not line.from_all_high:
        return []
    points = line.stretches[0]
    if drawn.ordering == ALIKE or any(p.metric.n != most for p in points):
        return []
    larger = metric_spec(metric).larger_is_better
    factor = KEPT if larger else 1 / KEPT
    first, base = points[0].metric, paired.at(points[0])
    bound = base.times(factor) if base else None
    found = []
    for p in points:
        margin = (p.metric.value - first.value * factor) * (1 if larger else -1)
        error = paired.error(paired.at(p), bound) if bound else None
        if error is None:  # as if they had no items in common
            error = math.hypot(drawable(p.metric.stderr), factor * drawable(first.stderr))
        found.append((p, margin, error))
    return found


def kept_of(drawn: Drawn, found: Sequence[tuple[Point, float, float]], sizes: bool) -> Kept | None:
    """In average bits or bytes, from the line's margins."""
    place = drawn.cost.total if sizes else average_bits
    return kept([(float(place(p.split)), margin, error) for p, margin, error in found])


def kept_sentences(
    lines: Sequence[tuple[Drawn, Sequence[tuple[Point, float, float]]]],
    metric: str,
    sizes: bool,
    paired: Mapping[bool, Paired],
) -> list[str]:
    """How far down each line, with its margins, keeps 90 % of what it begins with, the best first.
    Beside a second model in bytes, since the bits of two models do not compare."""
    spec = metric_spec(metric)
    said = []
    for drawn, found in lines:
        end = kept_of(drawn, found, sizes)
        if end is None:
            continue
        points = drawn.line.stretches[0]
        first, last = points[0], points[-1]
        if end.high is None and not drawn.line.complete:  # what follows the gap is not known
            continue
        high, value = f"{first.split[0]:g}", first.metric.value
        if spec.larger_is_better:
            text = f"90 % of the {high}-bit score ({figure(KEPT * value, 3)} of {figure(value, 3)})"
            text += " is kept"
        else:
            text = f"{lower_first(spec.title)} is at most {1 / KEPT - 1:.0%} worse than the "
            text = text.replace("%", " %") + f"{high}-bit one ({figure(value, 3)})"
        if end.high is None:
            x = drawn.cost.total(last.split) if sizes else average_bits(last.split)
            down = f"everywhere down to {format_gib(x) if sizes else f'{x:g} bits'}"
            if spec.larger_is_better and not paired[drawn.theirs].differ(first, last):
                # Chance keeps 90 % of chance.
                text = f"the {high}-bit score ({figure(value, 3)}) falls by no more than noise"
        else:
            down = f"down to {reach_text(end, sizes)}"
        rank = (end.high or 0, end.low or 0)
        said.append((rank, f"{drawn.title}: {text} {down}"))
    return [text for _, text in sorted(said)]


def reach_text(end: Kept, sizes: bool) -> str:
    """'about 3.2–3.4 bits': rounded outwards, since a figure with an error is not known closer."""
    high = end.high or 0.0
    unit_name, unit, digits = "bits", 1, 1
    if sizes:
        unit_name, unit = size_unit(high)
        digits = size_digits(high)
    step = 10.0**-digits
    top = math.ceil(high / unit / step - 1e-9) * step
    if end.low is None:
        return f"about {top:.{digits}f} {unit_name} or lower"
    bottom = math.floor(end.low / unit / step + 1e-9) * step
    if f"{bottom:.{digits}f}" == f"{top:.{digits}f}":
        return f"about {top:.{digits}f} {unit_name}"
    return f"about {bottom:.{digits}f}–{top:.{digits}f} {unit_name}"


# ---- the figure


def results_figure(
    evaluations: Sequence[Evaluation],
    chosen: str,
    titles: Mapping[str, str],
    curves: Sequence[Curve],
    costs: Costs,
    axis: str = "bits",
    current: Split | None = None,
    orders: Orders = NO_ORDERS,
    other: Other | None = None,
    model: str = "",
    quantizer: str = DEFAULT,
    ordering: str = "lim",
    beside: set[str] | None = None,
) -> Figure:
    """The `chosen` "task/metric" over average bits ("bits") and over bytes ("size"), as {data,
    keys, axes, axis, layout, title, caption, sentences, name, csv}. A trace has its places on every
    axis and its points' quantizers in `meta`, and their splits in `customdata`; one whose meta is
    `off` is hidden until it is asked for. `axes` are the parts of the layout that differ, and
    `axis` is the one to begin with. Curves of three levels have one average all along (paper,
    appendix A.2): then the one axis, "raised", counts the layers that were raised.

    The chart has splits of the levels that `curves` have, and all uniform ones; what else was
    measured is `off`. So are lines of quantizers that are neither the chosen one nor `beside` it,
    None for all. `ordering` is the chosen one, whose band shows at once. `current`, the split that
    was measured last, is ringed. `model` names the shown model beside the `other` one. Every line
    and point has the bytes of its own quantizer; `quantizer` is the chosen one, whose uniform
    splits are the horizontal lines.
    """
    task, _, metric = chosen.partition("/")
    found = of_metric(evaluations, chosen)
    paired = {False: Paired(found, metric)}
    if other:
        paired[True] = Paired(of_metric(other.evaluations, chosen), metric)
    lines = drawn_lines(evaluations, chosen, curves, costs, other, model, quantizer, paired, beside)
    raised = any(c.constant for c in curves)
    lines = [d for d in lines if d.line.curves[0].constant == raised]
    on_lines = {
        (e.split, e.quantizer, e.limit)
        for d in lines
        if not d.theirs
        for point in d.line.points
        for e in point.evaluations
    }
    singles = [e for e in found if (e.split, e.quantizer, e.limit) not in on_lines]
    own = {quantizer, "none"}
    steps: dict[Split, int] = {}
    if raised:  # the one axis has a place for these only
        steps = {split: k for c in curves if c.constant for k, split in enumerate(c.splits)}
        singles = [e for e in singles if e.split in steps and e.quantizer in own]
    uniform = [e for e in singles if len(set(e.split)) == 1 and e.quantizer in own]
    mixed = [e for e in singles if len(set(e.split)) > 1]
    by_rank = sorted(curves, key=lambda c: c.ordering != ordering)  # the chosen one first
    orderings_of = {split: c.ordering for c in reversed(by_rank) for split in c.splits}
    levels = {level for c in curves if c.ordering != ALIKE for s in c.splits for level in s}
    placed_singles = [
        e
        for e in mixed
        if e.quantizer in own
        and (e.split == current or not curves or (e.split in orderings_of and levels >= {*e.split}))
    ]
    shown = [*uniform, *placed_singles]
    ends = [s for c in curves[:1] for s in (c.splits[0], c.splits[-1]) if PRUNED not in s]
    axes: dict[str, Axis] = (
        {"raised": raised_axis(curves)}
        if raised
        else make_axes(lines, shown, costs, [(costs[quantizer], s) for s in ends])
    )
    heights = uniform_levels([e for e in found if e.quantizer in own], metric)
    scale = Scale(
        [
            (p.metric.value, reach or 0.0)
            for d in lines
            for p, reach in zip(d.line.points, d.reach, strict=True)
        ]
        + [(e.metrics[metric].value, 0.0) for e in shown]
        + [(value, 0.0) for value in heights.values()],
        metric_spec(metric).larger_is_better,
    )
    most = max(
        [e.metrics[metric].n for e in found] + [p.metric.n for d in lines for p in d.line.points],
        default=0,
    )
    visible = [d for d in lines if d.theirs or beside is None or d.line.quantizer in own | beside]
    off = {d.uid for d in lines if d not in visible} | {"others"}
    # The chosen quantizer's come first.
    primary = next((d for d in visible if ordering in d.line.orderings), next(iter(visible), None))
    traces = [line_band(d, axes, scale, d is primary) for d in lines]
    on_top = sorted(lines, key=lambda d: d is primary)
    traces += [line_trace(d, axes, scale, metric, most, d is primary, orders) for d in on_top]
    for name, uid, (symbol, colour), group in grouped(uniform, placed_singles, orderings_of):
        look = Look(uid, name, symbol, colour)
        traces.append(single_trace(look, group, axes, scale, metric, most, orders, costs, steps))
    if rest := [e for e in mixed if e not in placed_singles]:
        rest = within(rest, axes, scale, metric, costs)
        look = Look("others", f"{len(rest)} other splits", "circle", INK)
        traces.append(single_trace(look, rest, axes, scale, metric, most, orders, costs, steps))
    last = [e for e in found if e.split == current and e.quantizer in own]
    traces.append(ring_trace(last, axes, scale, metric, costs))
    traces = [trace for trace in traces if trace]
    for trace in traces:
        trace["meta"]["off"] = trace["uid"] in off
    title = metric_title(task, metric, titles)
    measured_here = any(d.line.quantizer == quantizer and not d.theirs for d in lines)
    notice = "" if measured_here or placed_singles else nothing_at(curves, quantizer)
    named = {False: model, True: other.title} if other else {}
    of = [(d, margins(d, metric, paired[d.theirs], most)) for d in visible]
    ranges = {
        name: kept_of(d, found_of, name == "size")
        for d, found_of in of
        if d is primary
        for name in axes
    }
    layouts = {
        name: its_axis.layout()
        | guides(
            its_axis, scale, heights, ranges.get(name), metric, f"{model}: " * bool(other), notice
        )
        | {"reach": its_axis.high, "unit": its_axis.unit}  # beyond its reach is the break
        for name, its_axis in axes.items()
    }
    for name in axes:
        layouts[name]["annotations"] += name_models(lines, named, axes, scale, name)
    return {
        "data": traces,
        # The legend names the lines in their own order, however they are laid over each other.
        "keys": [d.uid for d in lines] + [t["uid"] for t in traces if t["mode"] == "markers"],
        "axes": layouts,
        "axis": "raised" if raised else axis,
        "layout": base_layout(title, better(metric), scale),
        "title": title,
        "caption": caption(visible, primary, scale, most, found, [*shown, *rest], metric),
        "sentences": kept_sentences(of, metric, bool(other), paired),
        "name": f"lwq-{task}-{metric}".replace(" ", "-"),
        "csv": results_csv(evaluations, chosen, curves, costs, other, model),
    }


def nothing_at(curves: Sequence[Curve], quantizer: str) -> str:
    """Said on a chart without a split of the levels that are asked for."""
    levels = {level for c in curves if c.ordering != ALIKE for s in c.splits for level in s}
    if len(levels := levels - {PRUNED}) < 2:
        return ""
    title, bits = quantizer_title(quantizer), levels_listed(levels)
    if lacking := levels - set(quantizer_named(quantizer).levels):
        return f"{title} has no {levels_listed(lacking)} bits. Choose another quantizer."
    # What is evaluated alone has two levels.
    way = "Press Sweep." if len(levels) > 2 else "Press Sweep, or Quantize and evaluate."
    return f"No mix of {bits} bits by {title} is measured yet on this many items. {way}"


def levels_listed(levels: Iterable[float]) -> str:
    """'8, 4 and 2'."""
    *others, low = (f"{level:g}" for level in sorted(levels, reverse=True))
    return f"{', '.join(others)} and {low}" if others else low


def grouped(
    uniform: Sequence[Evaluation], mixed: Sequence[Evaluation], orderings_of: Mapping[Split, str]
) -> Iterable[tuple[str, str, tuple[str, str], list[Evaluation]]]:
    """Single splits as (name, uid, look, evaluations): uniform ones by level, others by the first
    ordering that gives them."""
    for name, look in MARKS.items():
        if group := [e for e in uniform if mark(e.split) == name]:
            yield name, name.replace(" ", "-"), look, group
    for order, look in STYLES.items():
        if group := [e for e in mixed if orderings_of.get(e.split) == order]:
            yield f"{ORDERINGS[order].title}, single splits", f"single-{order}", look, group
    if group := [e for e in mixed if e.split not in orderings_of]:
        yield NO_ORDER, "no-order", MARKS[NO_ORDER], group


def name_models(
    lines: Sequence[Drawn],
    named: Mapping[bool, str],
    axes: Mapping[str, Axis],
    scale: Scale,
    axis: str,
) -> list[Figure]:
    """Two models' lines have the same colours: each name stands at its first line's beginning."""
    notes = []
    for theirs, name in named.items():
        line = next((d for d in lines if d.theirs == theirs), None)
        if line is None or not scale.has(line.line.points[0].metric.value):
            continue
        first = line.line.points[0]
        (x,) = placed(axes, [(line.cost, first.split, first.step)])[axis]
        place = {"x": x, "y": scale.at(first.metric.value), "xanchor": "right"}
        notes.append(note(f"<b>{escape(name)}</b>", place | {"yanchor": "bottom", "yshift": 6}))
    return notes


def within(
    rest: Sequence[Evaluation],
    axes: Mapping[str, Axis],
    scale: Scale,
    metric: str,
    costs: Costs,
) -> list[Evaluation]:
    """Those that have a place on what is drawn: beyond it lies a break, or the edge."""
    bits, size = axes["bits"], axes["size"]
    return [
        e
        for e in rest
        if bits.low <= average_bits(e.split) <= bits.high
        and size.low <= costs[e.quantizer].total(e.split) / size.unit <= size.high
        and scale.has(value := e.metrics[metric].value)
        and scale.low <= scale.at(value) <= scale.high
    ]


def uniform_levels(found: Sequence[Evaluation], metric: str) -> dict[int, float]:
    """16, 8 and 4 bits in all layers, as far as measured: level -> value."""
    values = {e.split[0]: e.metrics[metric].value for e in found if len(set(e.split)) == 1}
    return {level: values[level] for level in (16, 8, 4) if level in values}


class Axis:
    """Places along x, in `unit` bytes where they are sizes. `far` are uniform splits, value ->
    tick: those beyond everything else (16 and 8 bits beside 4 to 2) would squeeze the rest into a
    corner and stand after a break."""

    def __init__(
        self, title: str, values: Iterable[float], far: Mapping[float, str], unit: int = 1
    ) -> None:
        near = sorted(values) or sorted(far)
        self.title, self.unit = title, unit
        self.far = {v: far[v] for v in sorted(far) if v > near[-1]} if near else {}
        near = sorted([*near, *(far.keys() - self.far.keys())]) or [0.0, 1.0]
        self.low, self.high = near[0], near[-1]
        self.step = nice_step(self.high - self.low or abs(self.high) or 1.0)
        if self.far:
            self.low = math.floor(self.low / self.step + 1e-9) * self.step
            self.high = math.ceil(self.high / self.step - 1e-9) * self.step
        self.gap = max(self.step / 2, (self.high - self.low) / 9)

    def place(self, value: float) -> float:
        if value in self.far:
            return self.high + self.gap * (1.5 + list(self.far).index(value))
        return value

    @property
    def end(self) -> float:
        return self.place(max(self.far)) if self.far else self.high

    def layout(self) -> dict[str, Any]:
        end = self.end
        pad = max(end - self.low, self.step) / 24
        axis: dict[str, Any] = {
            "title": {"text": self.title, "font": {"size": 13}},
            "range": [self.low - pad, end + pad],
            "tickangle": 0,
            "zeroline": False,
            "gridcolor": GRID,
        }
        if self.far:
            count = round((self.high - self.low) / self.step)
            ticks = [self.low + self.step * i for i in range(count + 1)]
            axis["tickvals"] = [*ticks, self.high + self.gap * 0.75, *map(self.place, self.far)]
            axis["ticktext"] = [*(f"{v:.6g}" for v in ticks), "…", *self.far.values()]
        return {"xaxis": axis}


def nice_step(span: float) -> float:
    """1, 2 or 5 times a power of ten: four to ten of them make the span."""
    power = 10.0 ** math.floor(math.log10(span / 4))
    return next(f * power for f in (5, 2, 1) if f * power <= span / 4 * (1 + 1e-9))


def make_axes(
    lines: Sequence[Drawn],
    singles: Sequence[Evaluation],
    costs: Costs,
    ends: Sequence[tuple[ModelCost, Split]],
) -> dict[str, Axis]:
    """`ends` are on the axes whatever was measured."""
    uniform = [
        e for e in singles if len(set(e.split)) == 1 and (lines or set(e.split) == {UNTOUCHED})
    ]
    far = {e.split for e in uniform}
    places = [(d.cost, p.split) for d in lines for p in d.line.points]
    places += [(costs[e.quantizer], e.split) for e in singles if e.split not in far]
    places += ends
    near = [its_cost.total(split) for its_cost, split in places]
    beyond = {costs[e.quantizer].total(e.split) for e in uniform}
    name, unit = size_unit(max(near or beyond or [0]))
    digits = 3 if len({f"{size / unit:.3g}" for size in beyond}) == len(beyond) else 4
    return {
        "bits": Axis(
            "Average bits per layer",
            [average_bits(split) for _, split in places],
            {average_bits(split): f"{split[0]:g}" for split in far},
        ),
        "size": Axis(
            f"Size of the model, {name}",
            [size / unit for size in near],
            {size / unit: f"{size / unit:.{digits}g}" for size in beyond},
            unit,
        ),
    }


def raised_axis(curves: Sequence[Curve]) -> Axis:
    *_, least = (c for c in curves if c.constant)
    levels = sorted(set(least.splits[-1]))
    title = f"Layers raised to {levels[-1]} bits (twice as many are lowered to {levels[0]})"
    return Axis(title, [float(k) for k in range(len(least.splits))], {})


def placed(
    axes: Mapping[str, Axis], splits: Sequence[tuple[ModelCost, Split, int]]
) -> dict[str, list[float]]:
    """Where (its cost, split, step) stand on every axis."""
    values = {
        "bits": lambda axis: [average_bits(split) for _, split, _ in splits],
        "size": lambda axis: [cost.total(split) / axis.unit for cost, split, _ in splits],
        "raised": lambda axis: [float(step) for *_, step in splits],
    }
    return {name: [axis.place(v) for v in values[name](axis)] for name, axis in axes.items()}


class Scale:
    """The y axis, from (value, reach) pairs. Perplexity and divergence explode towards 2 bits: then
    it is logarithmic, and has no place for values of 0."""

    def __init__(self, spans: Sequence[tuple[float, float]], larger_is_better: bool) -> None:
        finite = [(v, r) for v, r in spans if math.isfinite(v)]
        positive = [v for v, _ in finite if v > 0]
        spread = max(positive) / min(positive) if positive else 1.0
        self.log = not larger_is_better and spread > LOG_FROM
        shown = [(v, r) for v, r in finite if v > 0 or not self.log]
        self.left_out = len(finite) - len(shown)
        lows, highs = [v - r for v, r in shown] or [0.0], [v + r for v, r in shown] or [1.0]
        if self.log:
            lows = [max(low, 0.7 * min(positive)) for low in lows]
        low, high = self.at(min(lows)), self.at(max(highs))
        pad = (high - low) / 16 or abs(high) / 16 or 1.0
        self.low, self.high = low - pad, high + pad

    def at(self, value: float) -> float:
        """As a layout counts: the exponent on a logarithmic axis."""
        return math.log10(value) if self.log else value

    def has(self, value: float) -> bool:
        return math.isfinite(value) and (value > 0 or not self.log)

    def clamped(self, value: float) -> float:
        return max(value, 10**self.low) if self.log else value

    def pixels(self, value: float) -> float:
        return (self.at(value) - self.low) / (self.high - self.low) * (HEIGHT - TOP - BOTTOM)

    def layout(self) -> dict[str, Any]:
        if not self.log:
            return {"range": [self.low, self.high]}
        powers = range(math.floor(self.low), math.ceil(self.high) + 1)
        powers = powers[:: math.ceil(len(powers) / 8)]
        factors = (1, 2, 5) if self.high - self.low < 3 else (1,)
        ticks = [factor * 10.0**power for power in powers for factor in factors]
        return {
            "type": "log",
            "range": [self.low, self.high],
            "tickvals": ticks,
            "ticktext": [figure(tick, 3) for tick in ticks],
        }


def drawable(error: float | None) -> float:
    return error or 0.0


def line_trace(
    d: Drawn,
    axes: Mapping[str, Axis],
    scale: Scale,
    metric: str,
    most: int,
    primary: bool,
    orders: Orders,
) -> Figure:
    """Solid from point to point of a stretch; a gap, of which nothing is known, is left open."""
    points: list[Point | None] = []
    for stretch in d.line.stretches:
        points += [*([None] if points else []), *stretch]
    points = [p for p in points if p is None or scale.has(p.metric.value)]
    there = [p for p in points if p is not None]
    places = placed(axes, [(d.cost, p.split, p.step) for p in there])
    trace = {
        "type": "scatter",
        "uid": d.uid,
        "name": d.title,
        "mode": "lines+markers",
        "y": with_gaps(points, [p.metric.value for p in there]),
        "line": {
            "color": d.colour,
            "width": 1.25 if d.theirs else 3 if primary else 1.75,
            "dash": d.dash,
        },
        "marker": {
            "color": d.colour,
            # small enough to see the dashes between; the second model's are smaller still
            "size": 4 if d.theirs else 7 if d.dash == "solid" else 5,
            # Hollow: measured on fewer items so far.
            "symbol": [d.symbol + "-open" * bool(p and p.metric.n < most) for p in points],
        },
        "text": with_gaps(points, [point_text(d, p, metric, most, orders) for p in there]),
        "hovertemplate": "%{text}<extra></extra>",
        "meta": {
            **{name: with_gaps(points, xs) for name, xs in places.items()},
            "quantizers": [d.line.quantizer] * len(points),
        },
    }
    if not d.theirs:  # another model's split is none of this one's
        trace["customdata"] = with_gaps(points, [list(p.split) for p in there])
    return trace


def with_gaps(points: Sequence[Point | None], values: Sequence[Any]) -> list[Any]:
    """One value for each point, None for each gap."""
    rest = iter(values)
    return [None if p is None else next(rest) for p in points]


def line_band(d: Drawn, axes: Mapping[str, Axis], scale: Scale, primary: bool) -> Figure:
    """`shown` all the time, or only while the pointer is on its line: eight at once hide the
    lines."""
    if not any(d.reach):
        return {}
    reaches = dict(zip((p.step for p in d.line.points), d.reach, strict=True))
    edges: list[float | None] = []
    places: dict[str, list[float | None]] = {name: [] for name in axes}

    def known(p: Point) -> bool:
        return reaches[p.step] is not None and scale.has(p.metric.value)

    pieces = [(there, list(run)) for s in d.line.stretches for there, run in groupby(s, known)]
    for points in (run for there, run in pieces if there):
        up = [p.metric.value + (reaches[p.step] or 0.0) for p in points]
        down = [scale.clamped(p.metric.value - (reaches[p.step] or 0.0)) for p in points]
        gap = [None] * bool(edges)
        edges += [*gap, *up, *down[::-1]]
        for name, xs in placed(axes, [(d.cost, p.split, p.step) for p in points]).items():
            places[name] += [*gap, *xs, *xs[::-1]]
    red, green, blue = (int(d.colour[k : k + 2], 16) for k in (1, 3, 5))
    return {
        "type": "scatter",
        "uid": f"{d.uid}-band",
        "mode": "lines",
        "y": edges,
        "fill": "toself",
        "fillcolor": f"rgba({red},{green},{blue},.2)",
        "line": {"width": 0},
        "hoverinfo": "skip",
        "showlegend": False,
        "meta": places | {"of": d.uid, "shown": primary or d.ordering == "random"},
    }


@dataclass(frozen=True)
class Look:
    uid: str
    name: str
    symbol: str
    colour: str


def single_trace(
    look: Look,
    group: Sequence[Evaluation],
    axes: Mapping[str, Axis],
    scale: Scale,
    metric: str,
    most: int,
    orders: Orders,
    costs: Costs,
    steps: Mapping[Split, int],
) -> Figure:
    """Splits that lie on no line, without bars: their errors are in the texts. `steps` are their
    places where layers are counted."""
    group = [e for e in group if scale.has(e.metrics[metric].value)]
    if not group:
        return {}
    group = sorted(group, key=lambda e: sum(e.split))
    places: dict[str, list[Any]] = {
        **placed(axes, [(costs[e.quantizer], e.split, steps.get(e.split, 0)) for e in group])
    }
    return {
        "type": "scatter",
        "uid": look.uid,
        "name": look.name,
        "mode": "markers",
        "y": [e.metrics[metric].value for e in group],
        "marker": {
            "symbol": [look.symbol + "-open" * (e.metrics[metric].n < most) for e in group],
            "size": 6 if look.uid == "others" else 10,
            "color": look.colour,
        },
        "text": [single_text(e, metric, most, orders, costs) for e in group],
        "hovertemplate": "%{text}<extra></extra>",
        "customdata": [list(e.split) for e in group],
        "meta": places | {"quantizers": [e.quantizer for e in group]},
    }


def ring_trace(
    measured: Sequence[Evaluation],
    axes: Mapping[str, Axis],
    scale: Scale,
    metric: str,
    costs: Costs,
) -> Figure:
    """Around the split that was measured last. Not where layers are counted: few splits have a
    place there."""
    shown = [e for e in measured if scale.has(e.metrics[metric].value)]
    if not shown or "raised" in axes:
        return {}
    return {
        "type": "scatter",
        "uid": "measured-last",
        "name": "measured last",
        "mode": "markers",
        "y": [e.metrics[metric].value for e in shown],
        "marker": {"symbol": "circle-open", "size": 19, "color": INK, "line": {"width": 2}},
        "hoverinfo": "skip",
        "meta": placed(axes, [(costs[e.quantizer], e.split, 0) for e in shown]),
    }


def mark(split: Split) -> str:
    """Of a uniform split."""
    name = split_name(split)
    return name if name in MARKS else ONE


def guides(
    axis: Axis,
    scale: Scale,
    levels: Mapping[int, float],
    end: Kept | None,
    metric: str,
    model: str,
    notice: str,
) -> dict[str, Any]:
    """The paper's lines: dotted ones at 16, 8 and 4 bits, and a grey band where the 90 % end.
    Levels that would be written over each other share a label."""
    shapes: list[Figure] = []
    notes: list[Figure] = []
    shown = sorted((v, level) for level, v in levels.items() if scale.has(v))
    labels: list[tuple[float, list[int]]] = []
    drawn_at = -math.inf
    for value, level in shown:
        if scale.pixels(value) - drawn_at > 3:  # dots between dots would be a solid line
            drawn_at = scale.pixels(value)
            ends = {"xref": "paper", "x0": 0, "x1": 1, "y0": value, "y1": value}
            shapes.append(guide(ends, dash="dot"))
        if labels and scale.pixels(value) - scale.pixels(labels[-1][0]) < 15:
            labels[-1] = (value, [*labels[-1][1], level])
        else:
            labels.append((value, [level]))
    for value, together in labels:
        *others, last = (str(level) for level in sorted(together, reverse=True))
        text = f"{', '.join(others)} and {last}" if others else last
        place = {"xref": "paper", "x": 0.004, "xanchor": "left", "yanchor": "bottom"}
        notes.append(note(f"{model}{text} bits", place | {"y": scale.at(value)}))
    if notice:  # beside the slider's middle, in lines that fit on a phone
        place = {"xref": "paper", "yref": "paper", "x": 0.03, "xanchor": "left", "y": 0.6}
        notes.append(note("<br>".join(wrap(notice, 26)), place | {"font": {"size": 15}}))
    if end and end.high is not None:
        x0 = axis.low if end.low is None else end.low / axis.unit
        x1 = end.high / axis.unit
        larger = metric_spec(metric).larger_is_better
        shapes.append(
            {
                "type": "rect",
                "layer": "below",
                "yref": "paper",
                **{"x0": x0, "x1": x1, "y0": 0, "y1": 1},
                "fillcolor": "rgba(128,136,152,.2)",
                "line": {"color": INK, "width": 0.5},
            }
        )
        what = (
            f"{100 * KEPT:g} % kept" if larger else f"{1 / KEPT - 1:.0%} worse".replace("%", " %")
        )
        text = f"{what}:<br>{reach_text(end, sizes=axis.unit > 1)}"
        # Where good values are up, curves come from the upper right; else from the lower right.
        right = x0 + x1 < axis.low + axis.end
        place = {"yref": "paper", "y": 0 if larger else 1, "yanchor": "bottom" if larger else "top"}
        side = {"x": x1, "xanchor": "left"} if right else {"x": x0, "xanchor": "right"}
        notes.append(note(text, place | side | {"align": side["xanchor"]}))
    return {"shapes": shapes, "annotations": notes}


def guide(ends: Figure, dash: str = "solid") -> Figure:
    line = {"color": INK, "width": 1.25, "dash": dash}
    return {"type": "line", "layer": "below", "line": line, **ends}


def note(text: str, place: Figure) -> Figure:
    font = {"size": 12, "color": INK}
    return {"text": text, "showarrow": False, **place, "font": font | place.get("font", {})}


def base_layout(title: str, which: str, scale: Scale) -> dict[str, Any]:
    long = len(title) > 28  # two lines then: the axis is no longer than that
    return {
        "height": HEIGHT,
        "margin": {"l": 90 if long else 72, "r": 12, "t": TOP, "b": BOTTOM},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": FONT, "size": 13, "color": INK},
        "showlegend": False,
        "hovermode": "closest",
        "hoverdistance": 12,
        "hoverlabel": {
            "bgcolor": "#0f172a",
            "bordercolor": "#0f172a",
            "font": {"family": FONT, "size": 13, "color": "#f8fafc"},
            "align": "left",
        },
        "yaxis": {
            "title": {"text": f"{title}{'<br>' if long else ' '}({which})", "font": {"size": 13}},
            "zeroline": False,
            "gridcolor": GRID,
            **scale.layout(),
        },
    }


def caption(
    lines: Sequence[Drawn],
    primary: Drawn | None,
    scale: Scale,
    most: int,
    found: Sequence[Evaluation],
    singles: Sequence[Evaluation],
    metric: str,
) -> str:
    said = []
    if len({d.line.quantizer for d in lines}) > 1:
        said.append("A colour is an order, a dash a quantizer.")
    if primary and primary.ordering != "random" and any(primary.reach):
        same = any(set(e.split) == {UNTOUCHED} for e in found) and not primary.theirs
        to = "the unquantized model" if same else "all layers high"
        said.append(
            f"Band of {primary.title}: ± 1 standard error of the difference to {to}, on the same "
            "items (the others' show on hover)."
        )
    randoms = {len(d.line.curves) for d in lines if d.ordering == "random"}
    if randoms:
        said.append(f"Random: mean and standard deviation of {max(randoms)} orders.")
    if any(not d.line.complete for d in lines):
        said.append("Where a line is broken, nothing was measured.")
    fewest = min((p.metric.n for d in lines for p in d.line.points), default=most)
    fewest = min([fewest, *(e.metrics[metric].n for e in singles)])
    if fewest < most:
        said.append(f"Hollow points rest on {fewest:,} of {most:,} items so far.")
    if scale.left_out:
        said.append("Values of 0 have no place on a logarithmic axis.")
    return " ".join(said)


# ---- texts of points


def point_text(d: Drawn, p: Point, metric: str, most: int, orders: Orders) -> str:
    by = escape(quantizer_title(d.line.quantizer))
    named = escape(d.title)
    head = f"<b>{named}</b>" if named.endswith(by) else f"<b>{named}</b>, {by}"
    lines = [head, *figures_text(p.split, p.metric, metric, most, d.cost)]
    if len(p.evaluations) > 1:
        values = ", ".join(figure(e.metrics[metric].value, 3) for e in p.evaluations)
        lines += [f"mean of {len(p.evaluations)} orders: {values}", "the first of them:"]
    same = None if d.theirs else orders.get(p.split)
    if same and " = " in same:
        lines += wrapped(f"one split: {same}")
    return "<br>".join([*lines, *split_lines(p.split)])


def wrapped(text: str) -> list[str]:
    return [escape(line) for line in wrap(text, 48)]


def single_text(e: Evaluation, metric: str, most: int, orders: Orders, costs: Costs) -> str:
    lines = [f"<b>{split_name(e.split)}</b>"]
    if set(e.split) != {UNTOUCHED}:
        lines[0] += f", {escape(quantizer_title(e.quantizer))}"
    lines += wrapped(orders.get(e.split) or "")
    lines += figures_text(e.split, e.metrics[metric], metric, most, costs[e.quantizer])
    return "<br>".join([*lines, *(split_lines(e.split) if len(set(e.split)) > 1 else ())])


def figures_text(split: Split, value: Metric, metric: str, most: int, cost: ModelCost) -> list[str]:
    error = (
        f" ± {figure(value.stderr, 2)}"
        if value.stderr is not None and math.isfinite(value.stderr)
        else ""
    )
    so_far = f" of {most:,} so far" if value.n < most else ""
    return [
        f"{metric_spec(metric).title} <b>{figure(value.value, 4)}{error}</b>",
        f"n = {value.n:,}{so_far}",
        f"average bits {average_bits(split):.2f}, {format_gib(cost.total(split))}",
    ]


@lru_cache(10_000)  # the same few hundred at every change of the page
def split_lines(split: Split, width: int = 44) -> tuple[str, ...]:
    """A split for a small box: '10 × 4, 14 × 2', or every layer's bits where that is shorter."""
    runs = [(level, len(list(same))) for level, same in groupby(split)]
    pieces = [f"{count} × {level:g}" for level, count in runs]
    if len(", ".join(pieces)) > width and max(split) < 10 and all(map(is_whole, split)):
        digits = "".join(f"{level:g}" for level in split)
        pieces = [digits[k : k + 10] for k in range(0, len(digits), 10)]
        joint = " "
    else:
        joint = ", "
    lines = [f"bits {pieces[0]}"]
    for piece in pieces[1:]:
        if len(lines[-1]) + len(piece) + len(joint) > width:
            lines.append(piece)
        else:
            lines[-1] += joint + piece
    return tuple(lines)


@lru_cache(10_000)
def levels_text(split: Split) -> str:
    return " ".join(f"{level:g}" for level in split)


def is_whole(level: float) -> bool:
    return level == int(level)


def results_csv(
    evaluations: Sequence[Evaluation],
    chosen: str,
    curves: Sequence[Curve],
    costs: Costs,
    other: Other | None = None,
    model: str = "",
) -> str:
    """Every evaluation of the chosen metric, most bits first. `ordering` names all that give the
    split, and `seed` the random ones among them; both are empty where none does."""
    metric = chosen.partition("/")[2]
    models = [(model, evaluations, curves, costs)]
    if other:
        models.append((other.title, other.evaluations, other.curves, other.costs))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for name, its_evaluations, its_curves, its_costs in models:
        places: dict[Split, list[Curve]] = {}
        for c in its_curves:
            for split in dict.fromkeys(c.splits):
                places.setdefault(split, []).append(c)
        for e in sorted(of_metric(its_evaluations, chosen), key=lambda e: -sum(e.split)):
            on, m = places.get(e.split, []), e.metrics[metric]
            writer.writerow(
                [
                    name,
                    " ".join(dict.fromkeys(c.ordering for c in on)),
                    " ".join(str(c.seed) for c in on if c.ordering == "random"),
                    average_bits(e.split),
                    its_costs[e.quantizer].total(e.split),
                    levels_text(e.split),
                    chosen,
                    m.value,
                    "" if m.stderr is None else m.stderr,
                    m.n,
                    "" if e.limit is None else e.limit,
                    e.quantizer,
                ]
            )
    return text.getvalue()
