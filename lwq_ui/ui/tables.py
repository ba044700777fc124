"""Measured results as a table: one row per split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from itertools import groupby

from ..core.allocation import Split
from ..core.memory import average_bits
from ..core.schema import Evaluation, Metric, split_name
from .charts import NO_ORDERS, Orders
from .wording import better, figure, metric_choices, metric_title

NOTHING_YET = "<p>Nothing is measured yet on this many items.</p>"


def results_table(
    evaluations: Sequence[Evaluation],
    titles: Mapping[str, str],
    current: Split | None = None,
    orders: Orders = NO_ORDERS,
) -> str:
    """HTML: one row per split and quantizer, most bits first, and one column per metric. Rows of
    the same average are a group: they are what compares. `current` is the split that was measured
    last; `orders` tells splits of the same average apart."""
    columns = [value.split("/", 1) for _, value in metric_choices(evaluations, titles)]
    rows: dict[tuple[Split, str], dict[tuple[str, str], Metric]] = {}
    for e in evaluations:
        cells = rows.setdefault((e.split, e.quantizer), {})
        cells |= {(e.task, name): metric for name, metric in e.metrics.items()}
    head = "".join(
        f"<th scope='col'>{escape(metric_title(task, name, titles))}"
        f"<small>{better(name)}</small></th>"
        for task, name in columns
    )
    groups = []
    ranked = sorted(rows.items(), key=lambda row: (-sum(row[0][0]), orders.get(row[0][0]) or ""))
    for _, group in groupby(ranked, lambda row: sum(row[0][0])):
        body = []
        for (split, quantizer), cells in group:
            marked = " class='current'" if split == current else ""
            told = [orders.get(split), None if quantizer in ("none", "quanto") else quantizer]
            by = f"<small>{escape(', '.join(filter(None, told)))}</small>" if any(told) else ""
            bits = " ".join(map(str, split))
            figures = "".join(cell_html(cells.get((task, name))) for task, name in columns)
            body.append(
                f"<tr{marked}><td title='{bits}'>{escape(split_name(split))}{by}</td>"
                f"<td>{average_bits(split):.2f}</td>{figures}</tr>"
            )
        groups.append(f"<tbody>{''.join(body)}</tbody>")
    quick = max((e.limit or 0 for e in evaluations), default=0)
    note = f"A quick evaluation: at most {quick} items each. " if quick else ""
    return (
        "<div class='rows' tabindex='0' role='region' aria-label='Results'>"
        f"<table><caption>{note}± standard error; n items.</caption>"
        "<thead><tr><th scope='col'>Split</th>"
        f"<th scope='col'>Average bits</th>{head}</tr></thead>"
        f"{''.join(groups)}</table></div>"
    )


def cell_html(metric: Metric | None) -> str:
    if metric is None:
        return "<td>–</td>"
    spread = f"± {figure(metric.stderr, 2)}, " if metric.stderr is not None else ""
    return f"<td>{figure(metric.value, 4)}<small>{spread}n {metric.n:,}</small></td>"
