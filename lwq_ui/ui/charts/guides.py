"""What stands behind the lines: the paper's dotted levels and its grey band, names and a notice."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from textwrap import wrap
from typing import Any

from ...core.interpolation import KEPT, Kept
from ...core.lossless import LOSSLESS
from ...core.memory import PRUNED
from ...core.usability import LOST
from ...engine.quantizers import quantizer_named
from ..wording import quantizer_title
from .axes import Axis, Scale, placed
from .data import ChartData
from .drawing import Drawing
from .kept import percent_worse, reach_text
from .styles import INK, RUIN, SHADE

Item = dict[str, Any]  # a shape or an annotation of Plotly's
LABEL, DOTS = 15, 3  # pixels: labels nearer than this share a line, and dotted lines are one


def axis_layout(drawing: Drawing, name: str, end: Kept | None) -> dict[str, Any]:
    """Returns the parts of the layout that belong to one axis. `end` is the range in which the
    primary line loses its 90 %. Beyond `reach` lies the break."""
    axis = drawing.axes[name]
    shapes, notes = level_lines(drawing)
    if notice := notice_of(drawing):
        # It stands beside the slider's middle, in lines that fit on a phone.
        place = {"xref": "paper", "yref": "paper", "x": 0.03, "xanchor": "left", "y": 0.6}
        notes.append(note("<br>".join(wrap(notice, 26)), place | {"font": {"size": 15}}))
    if end and end.high is not None:
        shape, label = kept_band(axis, end, end.high, drawing.spec.larger_is_better)
        shapes.append(shape)
        notes.append(label)
    notes += model_names(drawing, name)
    for items, more in zip((shapes, notes), chance_line(drawing), strict=True):
        items += more
    if drawing.scale.lost_from is not None:
        shape, label = ruins(drawing.scale, drawing.scale.lost_from)
        shapes.append(shape)
        notes.append(label)
    return {
        "xaxis": axis.layout(),
        "shapes": shapes,
        "annotations": notes,
        "reach": axis.high,
        "unit": axis.unit,
    }


def level_lines(drawing: Drawing) -> tuple[list[Item], list[Item]]:
    """Returns dotted lines at the values of all layers at one level, and their labels. Levels that
    would be written over each other share a label."""
    scale, shapes = drawing.scale, []
    labels: list[tuple[float, list[float]]] = []
    drawn_at = -math.inf
    for value, level in sorted((v, level) for level, v in drawing.guides.items() if scale.has(v)):
        if scale.pixels(value) - drawn_at > DOTS:  # dots between dots would be a solid line
            drawn_at = scale.pixels(value)
            y = scale.place(value)
            ends = {"xref": "paper", "x0": 0, "x1": 1, "y0": y, "y1": y}
            line = {"color": INK, "width": 1.25, "dash": "dot"}
            shapes.append({"type": "line", "layer": "below", "line": line, **ends})
        if labels and scale.pixels(value) - scale.pixels(labels[-1][0]) < LABEL:
            labels[-1] = (value, [*labels[-1][1], level])
        else:
            labels.append((value, [level]))
    owner = f"{drawing.data.model.title}: " if drawing.data.other else ""
    place = {"xref": "paper", "x": 0.004, "xanchor": "left", "yanchor": "bottom"}
    notes = [
        note(
            f"{owner}{listed(levels)} bits{mark_of(drawing, levels)}",
            place | {"y": scale.at(value)},
        )
        for value, levels in labels
    ]
    return shapes, notes


def mark_of(drawing: Drawing, levels: Sequence[float]) -> str:
    """Returns ' (lossless by construction)', with the level where that is one of several."""
    data = drawing.data
    back = [level for level in levels if data.model.given_back.layers(data.quantizer, (level,))]
    if not back:
        return ""
    return f" ({f'{listed(back)}: ' * (len(levels) > 1)}{LOSSLESS})"


def chance_line(drawing: Drawing) -> tuple[list[Item], list[Item]]:
    """Returns a dotted line where guessing is, and its label; nothing where it is far below."""
    scale, chance = drawing.scale, drawing.data.chance
    if chance is None or not scale.low <= chance <= scale.high:
        return [], []
    line = {"color": INK, "width": 1.25, "dash": "dot"}
    ends = {"xref": "paper", "x0": 0, "x1": 1, "y0": chance, "y1": chance}
    place = {"xref": "paper", "x": 0.996, "xanchor": "right", "y": chance, "yanchor": "bottom"}
    return [{"type": "line", "layer": "below", "line": line, **ends}], [note("chance", place)]


def ruins(scale: Scale, lost_from: float) -> tuple[Item, Item]:
    """Returns the shade behind values that are beyond use, and its label."""
    shape = {
        "type": "rect",
        "layer": "below",
        "xref": "paper",
        **{"x0": 0, "x1": 1, "y0": scale.place(lost_from), "y1": 10**scale.high},
        "fillcolor": RUIN,
        "line": {"width": 0},
    }
    place = {"xref": "paper", "x": 0.996, "xanchor": "right", "y": scale.at(lost_from)}
    # Below the shade on the right, where more bits are, lines are far below.
    text = f"↑ lost: {LOST:g} times the original's"
    return shape, note(text, place | {"yanchor": "top"})


def kept_band(axis: Axis, end: Kept, high: float, larger_is_better: bool) -> tuple[Item, Item]:
    """Returns the grey band in which the 90 % end, and its label."""
    x0 = axis.low if end.low is None else end.low / axis.unit
    x1 = high / axis.unit
    shape = {
        "type": "rect",
        "layer": "below",
        "yref": "paper",
        **{"x0": x0, "x1": x1, "y0": 0, "y1": 1},
        "fillcolor": SHADE,
        "line": {"color": INK, "width": 0.5},
    }
    kept = f"{100 * KEPT:g} % kept" if larger_is_better else f"{percent_worse()} worse"
    text = f"{kept}:<br>{reach_text(end, sizes=axis.unit > 1)}"
    # Where good values are up, curves come from the upper right; else from the lower right.
    y, yanchor = (0, "bottom") if larger_is_better else (1, "top")
    right = x0 + x1 < axis.low + axis.end
    side = {"x": x1, "xanchor": "left"} if right else {"x": x0, "xanchor": "right"}
    place = {"yref": "paper", "y": y, "yanchor": yanchor} | side | {"align": side["xanchor"]}
    return shape, note(text, place)


def model_names(drawing: Drawing, axis: str) -> list[Item]:
    """Returns the names of two models, each where its first line begins: their lines have the same
    colours."""
    data, notes = drawing.data, []
    if not data.other:
        return []
    for model in data.models:
        d = next((d for d in drawing.lines if d.model is model), None)
        if d is None or not drawing.scale.has(d.points[0].metric.value):
            continue
        first = d.points[0]
        (x,) = placed(drawing.axes, [(first.split, d.size(first), first.step)])[axis]
        place = {"x": x, "y": drawing.scale.at(first.metric.value), "xanchor": "right"}
        place |= {"yanchor": "bottom", "yshift": 6}
        notes.append(note(f"<b>{escape(model.title)}</b>", place))
    return notes


def note(text: str, place: Item) -> Item:
    font = {"size": 12, "color": INK}
    return {"text": text, "showarrow": False, **place, "font": font | place.get("font", {})}


def notice_of(drawing: Drawing) -> str:
    """Returns what a chart without a split of the chosen levels and quantizer says."""
    data = drawing.data
    measured = any(d.quantizer == data.quantizer and not d.theirs for d in drawing.lines)
    return "" if measured or drawing.singles.mixed else nothing_measured(data)


def nothing_measured(data: ChartData) -> str:
    levels = data.levels - {PRUNED}
    if len(levels) < 2:
        return ""
    title = quantizer_title(data.quantizer)
    if lacking := levels.difference(quantizer_named(data.quantizer).levels):
        return f"{title} has no {listed(lacking)} bits. Choose another quantizer."
    # What is evaluated alone has two levels.
    way = "Press Sweep." if len(levels) > 2 else "Press Sweep, or Quantize and evaluate."
    return f"No mix of {listed(levels)} bits by {title} is measured yet on this many items. {way}"


def listed(levels: Iterable[float]) -> str:
    """Returns '8, 4 and 2'."""
    *others, low = (f"{level:g}" for level in sorted(levels, reverse=True))
    return f"{', '.join(others)} and {low}" if others else low
