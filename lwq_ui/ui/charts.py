"""Measured results as a Plotly chart and as a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from ..core.allocation import Split
from ..core.memory import average_bits
from ..core.schema import Evaluation, Metric, split_name

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


@dataclass(frozen=True)
class MetricSpec:
    title: str
    larger_is_better: bool


METRICS = {
    "perplexity": MetricSpec("Perplexity", False),
    "kl_divergence": MetricSpec("KL divergence", False),
    "top1_agreement": MetricSpec("Top-1 agreement", True),
    "acc": MetricSpec("Accuracy", True),
    "acc_norm": MetricSpec("Normalized accuracy", True),
}
Orders = Mapping[Split, str | None]  # the name of the ordering that gives a split
NO_ORDERS: Orders = {}
NOTHING_YET = "<p>Nothing is measured yet on this many items.</p>"
MIXED = "mixed levels"
# name -> symbol, colour; the colours have a contrast of 3 or more on white and on near-black
MARKS = {
    "unquantized": ("diamond", "#0d9488"),
    "all 8-bit": ("square", "#8b5cf6"),
    "all 4-bit": ("triangle-up", "#6366f1"),
    "all 3-bit": ("pentagon", "#3b82f6"),
    "all 2-bit": ("triangle-down", "#dc5a5a"),
    MIXED: ("circle", "#d9660a"),
}
INK = "#7b8494"  # on a light and on a dark page: the figure is transparent. page.css sets its text
GRID = "rgba(128,136,152,.28)"


def metric_choices(
    evaluations: Iterable[Evaluation], titles: Mapping[str, str]
) -> list[tuple[str, str]]:
    """(label, "task/metric") of everything that was measured, in the order of `titles`."""
    found = dict.fromkeys((e.task, metric) for e in evaluations for metric in e.metrics)
    return [
        (metric_title(task, metric, titles), f"{task}/{metric}")
        for name in titles
        for task, metric in found
        if task == name
    ]


def metric_title(task: str, metric: str, titles: Mapping[str, str]) -> str:
    """The page's main task is not named: 'Perplexity', but 'Story endings: accuracy'."""
    title = METRICS[metric].title if metric in METRICS else metric
    return title if task == "perplexity" else f"{titles[task]}: {title[0].lower()}{title[1:]}"


def better(metric: str) -> str:
    if metric not in METRICS:
        return ""
    return f"{'higher' if METRICS[metric].larger_is_better else 'lower'} is better"


def results_table(
    evaluations: Sequence[Evaluation],
    titles: Mapping[str, str],
    current: Split | None = None,
    orders: Orders = NO_ORDERS,
) -> str:
    """HTML: one row per split and quantizer, most bits first, and one column per metric. `current`
    is the split that was measured last; `orders` tells splits of the same average apart."""
    columns = [value.split("/") for _, value in metric_choices(evaluations, titles)]
    rows: dict[tuple[Split, str], dict[tuple[str, str], Metric]] = {}
    for e in evaluations:
        cells = rows.setdefault((e.split, e.quantizer), {})
        cells |= {(e.task, name): metric for name, metric in e.metrics.items()}
    head = "".join(
        f"<th scope='col'>{escape(metric_title(task, name, titles))}"
        f"<small>{better(name)}</small></th>"
        for task, name in columns
    )
    body = []
    for (split, quantizer), cells in sorted(rows.items(), key=lambda row: -sum(row[0][0])):
        mark = " class='current'" if split == current else ""
        told = [orders.get(split), None if quantizer in ("none", "quanto") else quantizer]
        by = f"<small>{escape(', '.join(filter(None, told)))}</small>" if any(told) else ""
        bits = " ".join(map(str, split))
        figures = "".join(cell_html(cells.get((task, name))) for task, name in columns)
        body.append(
            f"<tr{mark}><td title='{bits}'>{escape(split_name(split))}{by}</td>"
            f"<td>{average_bits(split):.2f}</td>{figures}</tr>"
        )
    quick = max((e.limit or 0 for e in evaluations), default=0)
    note = f"A quick evaluation: at most {quick} items each. " if quick else ""
    return (
        f"<table><caption>{note}± standard error; n items.</caption>"
        "<thead><tr><th scope='col'>Split</th>"
        f"<th scope='col'>Average bits</th>{head}</tr></thead>"
        f"<tbody>{''.join(body)}</tbody></table>"
    )


def cell_html(metric: Metric | None) -> str:
    if metric is None:
        return "<td>–</td>"
    spread = f"± {figure(metric.stderr, 2)}, " if metric.stderr is not None else ""
    return f"<td>{figure(metric.value, 4)}<small>{spread}n {metric.n:,}</small></td>"


def figure(value: float, digits: int) -> str:
    """Significant digits; large numbers in full, since 1.1e+03 is hard to read."""
    return f"{value:,.0f}" if 10 ** min(digits, 3) <= abs(value) < 1e7 else f"{value:.{digits}g}"


def results_figure(
    evaluations: Sequence[Evaluation],
    chosen: str,
    titles: Mapping[str, str],
    current: Split | None = None,
    orders: Orders = NO_ORDERS,
) -> Figure:
    """The `chosen` "task/metric" against average bits, one point per evaluated split. `current`,
    the split that was measured last, is ringed where it was measured on this task."""
    import plotly.graph_objects as go

    task, metric = chosen.split("/")
    found = [e for e in evaluations if e.task == task and metric in e.metrics]
    axis = BitsAxis(found)
    chart = go.Figure()
    for name, (symbol, colour) in MARKS.items():
        group = sorted((e for e in found if mark(e.split) == name), key=lambda e: sum(e.split))
        if not group:
            continue
        values = [e.metrics[metric] for e in group]
        chart.add_scatter(
            name=name,
            mode="markers",
            x=[axis.place(e.split) for e in group],
            y=[m.value for m in values],
            error_y={
                "type": "data",
                "array": [m.stderr or 0 for m in values],
                "visible": any(m.stderr for m in values),
                "color": colour,
                "thickness": 1.2,
                "width": 4,
            },
            marker={"symbol": symbol, "size": 11, "color": colour},
            text=[hover(e, e.metrics[metric], orders) for e in group],
            hovertemplate="%{text}<extra></extra>",
        )
    measured = [e for e in found if e.split == current]
    if measured:
        chart.add_scatter(
            name="measured last",
            mode="markers",
            x=[axis.place(e.split) for e in measured],
            y=[e.metrics[metric].value for e in measured],
            marker={"symbol": "circle-open", "size": 21, "color": INK, "line": {"width": 2}},
            hoverinfo="skip",
        )
    for e in found:
        if mark(e.split) == "unquantized":
            line = {"color": MARKS["unquantized"][1], "dash": "dot", "width": 1}
            chart.add_hline(e.metrics[metric].value, line=line)
    title = metric_title(task, metric, titles)
    title += f" ({better(metric)})" if better(metric) else ""
    chart.update_layout(
        template="none",
        height=340,
        margin={"l": 72, "r": 16, "t": 40, "b": 56},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "Source Sans Pro, system-ui, sans-serif", "size": 13, "color": INK},
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        showlegend=bool(found),
        hoverlabel={"bgcolor": "#0f172a", "bordercolor": "#0f172a", "font": {"color": "#f8fafc"}},
        xaxis={
            "title": {"text": "Average bits per layer", "font": {"size": 13}},
            "zeroline": False,
            "gridcolor": GRID,
        }
        | axis.layout(),
        yaxis={
            "title": {"text": title, "font": {"size": 13}},
            "zeroline": False,
            "gridcolor": GRID,
            "automargin": True,
        },
    )
    if not found:
        chart.add_annotation(
            text="No results yet", showarrow=False, xref="paper", yref="paper", x=0.5, y=0.5
        )
        chart.update_xaxes(visible=False)
        chart.update_yaxes(visible=False)
    return chart


def mark(split: Split) -> str:
    name = split_name(split)
    return name if name in MARKS else MIXED


def hover(e: Evaluation, metric: Metric, orders: Orders) -> str:
    spread = f" ± {figure(metric.stderr, 2)}" if metric.stderr is not None else ""
    return (
        f"<b>{split_name(e.split)}</b> {orders.get(e.split) or ''}<br>"
        f"average bits {average_bits(e.split):.2f}<br>"
        f"{figure(metric.value, 4)}{spread}<br>n = {metric.n:,}<br>{e.quantizer}"
    )


class BitsAxis:
    """Average bits, with a break before the unquantized model: at its true place, 16, it would
    squeeze all other splits into a corner. Its tick still reads 16."""

    def __init__(self, evaluations: Sequence[Evaluation]) -> None:
        splits = [e.split for e in evaluations]
        quantized = [average_bits(s) for s in splits if mark(s) != "unquantized"]
        self.broken = bool(quantized) and len(quantized) < len(splits)
        self.low, self.high = (min(quantized), max(quantized)) if quantized else (16.0, 16.0)
        self.step = 0.5 if self.high - self.low <= 4 else 1.0
        self.low -= self.low % self.step
        self.high += -self.high % self.step
        self.end = self.high + max(self.step, (self.high - self.low) / 6)

    def place(self, split: Split) -> float:
        bits = average_bits(split)
        return self.end if self.broken and mark(split) == "unquantized" else bits

    def layout(self) -> dict[str, Any]:
        pad = max(self.high - self.low, self.step) / 16
        if not self.broken:
            return {"range": [self.low - pad, self.high + pad]}
        count = round((self.high - self.low) / self.step)
        values = [self.low + self.step * i for i in range(count + 1)]
        return {
            "range": [self.low - pad, self.end + pad],
            "tickvals": [*values, (self.high + self.end) / 2, self.end],
            "ticktext": [*(f"{v:g}" for v in values), "…", "16"],
        }
