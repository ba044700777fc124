"""The whole figure: a plain dict, ready for JSON, which curvechart.js draws. Nothing imports plotly
here."""

from __future__ import annotations

from html import escape
from typing import Any

from ..wording import better, metric_title
from .axes import BOTTOM, HEIGHT, TOP
from .captions import caption, origins
from .data import ChartData
from .drawing import Drawing
from .guides import axis_layout
from .kept import kept_of, kept_sentences, margins_of
from .results_csv import results_csv
from .styles import FONT, GRID, INK
from .traces import make_traces

Figure = dict[str, Any]


def results_figure(data: ChartData) -> Figure:
    """Returns {data, keys, axes, axis, layout, title, subtitle, caption, sentences, name, csv}.

    The chart has splits of the levels that the curves have, and all uniform ones. What else was
    measured is `off`: hidden at first. A trace has its x on every axis and its points' quantizers
    in `meta`, and their splits in `customdata`. `axes` are the parts of the layout that differ:
    average bits ("bits") and bytes ("size"), or the layers raised ("raised"). `axis` is the one to
    begin with. Every line and point has the bytes of its own quantizer.
    """
    drawing = Drawing(data)
    traces = make_traces(drawing)
    margins = [(d, margins_of(drawing, d)) for d in drawing.visible]
    ranges = {
        name: kept_of(d, line_margins, name == "size")
        for d, line_margins in margins
        if d is drawing.primary
        for name in drawing.axes
    }
    title = metric_title(data.task, data.metric, data.titles)
    return {
        "data": traces,
        # The legend names the lines in their own order, however they are laid over each other.
        "keys": [d.uid for d in drawing.lines]
        + [t["uid"] for t in traces if t["mode"] == "markers"],
        "axes": {name: axis_layout(drawing, name, ranges.get(name)) for name in drawing.axes},
        "axis": "raised" if data.raised else data.axis,
        "layout": base_layout(drawing, title),
        "title": title,
        "subtitle": escape(" ".join(origins(drawing))),
        "caption": caption(drawing),
        "sentences": kept_sentences(drawing, margins),
        "name": f"lwq-{data.task}-{data.metric}".replace(" ", "-"),
        "csv": results_csv(data),
    }


def base_layout(drawing: Drawing, title: str) -> dict[str, Any]:
    """Returns the parts of Plotly's layout that all axes share."""
    long = len(title) > 28  # two lines then: the axis is no longer than that
    text = f"{title}{'<br>' if long else ' '}({better(drawing.metric)})"
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
            "title": {"text": text, "font": {"size": 13}},
            "zeroline": False,
            "gridcolor": GRID,
            **drawing.scale.layout(),
        },
    }
