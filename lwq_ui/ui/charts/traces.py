"""The traces of a figure. A trace has its x on every axis in `meta`, and its y and texts beside."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from ...core.lines import Point
from ...core.schema import Evaluation
from .axes import placed
from .drawing import Drawing
from .lines import DrawnLine
from .point_texts import line_texts, single_text
from .singles import Group, groups_of
from .styles import INK, Look

Trace = dict[str, Any]
HOVER = "%{text}<extra></extra>"
OTHERS = "others"  # uid of the single splits that are hidden at first


def make_traces(drawing: Drawing) -> list[Trace]:
    """Returns bands below lines, the primary line above the others, and single splits on top. A
    trace whose meta is `off` is hidden until the user asks for it."""
    visible = {d.uid for d in drawing.visible}
    off = {d.uid for d in drawing.lines if d.uid not in visible} | {OTHERS}
    traces = [line_band(drawing, d) for d in drawing.lines]
    on_top = sorted(drawing.lines, key=lambda d: d is drawing.primary)
    traces += [line_trace(drawing, d) for d in on_top]
    groups = list(groups_of(drawing.singles))
    if others := drawing.others:
        groups.append(Group(OTHERS, f"{len(others)} other splits", Look("circle", INK), others))
    traces += [group_trace(drawing, group) for group in groups]
    traces.append(ring_trace(drawing))
    drawn = [trace for trace in traces if trace]
    for trace in drawn:
        trace["meta"]["off"] = trace["uid"] in off
    return drawn


def line_trace(drawing: Drawing, d: DrawnLine) -> Trace:
    """Returns a solid line from point to point of a stretch. A gap, of which nothing is known,
    stays open."""
    points: list[Point | None] = []
    for stretch in d.line.stretches:
        points += [*([None] if points else []), *stretch]
    points = [p for p in points if p is None or drawing.scale.has(p.metric.value)]
    present = [p for p in points if p is not None]
    places = placed(drawing.axes, [(p.split, d.size(p), p.step) for p in present])
    width = 1.25 if d.theirs else 3 if d is drawing.primary else 1.75
    symbol, colour = d.look
    trace = {
        "type": "scatter",
        "uid": d.uid,
        "name": d.title,
        "mode": "lines+markers",
        "y": with_gaps(points, [drawing.scale.place(p.metric.value) for p in present]),
        "line": {"color": colour, "width": width, "dash": d.dash},
        "marker": {
            "color": colour,
            # Small enough to see the dashes between; the second model's are smaller still.
            "size": 4 if d.theirs else 7 if d.dash == "solid" else 5,
            # Hollow points rest on fewer items so far.
            "symbol": [symbol + "-open" * bool(p and p.metric.n < drawing.most) for p in points],
        },
        "text": with_gaps(points, line_texts(drawing, d, present)),
        "hovertemplate": HOVER,
        "meta": {
            **{name: with_gaps(points, xs) for name, xs in places.items()},
            "quantizers": [d.quantizer] * len(points),
        },
    }
    if not d.theirs:  # another model's split is none of this one's
        trace["customdata"] = with_gaps(points, [list(p.split) for p in present])
    return trace


def with_gaps(points: Sequence[Point | None], values: Sequence[Any]) -> list[Any]:
    """Returns one value for each point, None for each gap."""
    rest = iter(values)
    return [None if p is None else next(rest) for p in points]


def line_band(drawing: Drawing, d: DrawnLine) -> Trace:
    """Returns the band around a line. Most bands are `shown` only while the pointer is on their
    line: eight at once hide the lines."""
    if not any(d.reach):
        return {}
    scale, axes = drawing.scale, drawing.axes
    reaches = dict(zip((p.step for p in d.points), d.reach, strict=True))
    edges: list[float | None] = []
    places: dict[str, list[float | None]] = {name: [] for name in axes}

    def has_place(p: Point) -> bool:
        return reaches[p.step] is not None and scale.has(p.metric.value)

    for stretch in d.line.stretches:
        for placeable, run in groupby(stretch, has_place):
            if not placeable:
                continue
            points = list(run)
            up = [p.metric.value + (reaches[p.step] or 0.0) for p in points]
            down = [scale.clamped(p.metric.value - (reaches[p.step] or 0.0)) for p in points]
            gap = [None] * bool(edges)
            edges += [*gap, *map(scale.place, [*up, *down[::-1]])]
            run_places = placed(axes, [(p.split, d.size(p), p.step) for p in points])
            for name, xs in run_places.items():
                places[name] += [*gap, *xs, *xs[::-1]]
    red, green, blue = (int(d.look.colour[k : k + 2], 16) for k in (1, 3, 5))
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
        "meta": places | {"of": d.uid, "shown": d is drawing.primary or d.seeded},
    }


def group_trace(drawing: Drawing, group: Group) -> Trace:
    """Returns the points of single splits, without bars: their errors are in the texts."""
    metric, shown = drawing.metric, on_scale(drawing, group.evaluations)
    if not shown:
        return {}
    shown = sorted(shown, key=lambda e: sum(e.split))
    symbol, colour = group.look
    return {
        "type": "scatter",
        "uid": group.uid,
        "name": group.name,
        "mode": "markers",
        "y": [drawing.scale.place(drawing.value(e)) for e in shown],
        "marker": {
            "symbol": [symbol + "-open" * (e.metrics[metric].n < drawing.most) for e in shown],
            "size": 6 if group.uid == OTHERS else 10,
            "color": colour,
        },
        "text": [single_text(drawing, e) for e in shown],
        "hovertemplate": HOVER,
        "customdata": [list(e.split) for e in shown],
        "meta": places_of(drawing, shown) | {"quantizers": [e.quantizer for e in shown]},
    }


def ring_trace(drawing: Drawing) -> Trace:
    """Returns a ring around the split that was measured last. There is none where layers are
    counted: few splits have a place there."""
    shown = on_scale(drawing, drawing.last)
    if not shown or drawing.data.raised:
        return {}
    return {
        "type": "scatter",
        "uid": "measured-last",
        "name": "measured last",
        "mode": "markers",
        "y": [drawing.scale.place(drawing.value(e)) for e in shown],
        "marker": {"symbol": "circle-open", "size": 19, "color": INK, "line": {"width": 2}},
        "hoverinfo": "skip",
        "meta": places_of(drawing, shown),
    }


def on_scale(drawing: Drawing, evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    return [e for e in evaluations if drawing.scale.has(drawing.value(e))]


def places_of(drawing: Drawing, evaluations: Sequence[Evaluation]) -> dict[str, Any]:
    size, steps = drawing.data.model.size, drawing.singles.steps
    splits = [(e.split, size(e.quantizer, e.split), steps.get(e.split, 0)) for e in evaluations]
    return {**placed(drawing.axes, splits)}
