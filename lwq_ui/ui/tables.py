"""Tables of splits, one per row: what was measured of them, and what they take."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from urllib.parse import quote

from ..core.allocation import Breakpoints, Split
from ..core.lossless import LOSSLESS, NOTHING_BACK, GivenBack
from ..core.memory import ModelCost, average_bits, format_gib
from ..core.schema import UNQUANTIZED, Evaluation, Metric, split_name
from ..engine.quantizers import DEFAULT_QUANTIZER, Quantizer
from .bar.table import position_texts
from .charts import NO_ORDERS, Orders
from .charts.results_csv import levels_text
from .templates import paragraphs_html, render
from .wording import (
    better,
    figure,
    level_title,
    metric_choices,
    metric_title,
    quantizer_title,
    with_bits,
)

NOTHING_YET = paragraphs_html("Nothing is measured yet on this many items.")


@dataclass(frozen=True)
class Row:
    """A split by one quantizer, with its figures by (task, metric). `remark` tells it apart from
    others of the same average."""

    split: Split
    quantizer: str
    metrics: Mapping[tuple[str, str], Metric]
    remark: str

    @property
    def average(self) -> float:
        return average_bits(self.split)


def results_table(
    evaluations: Sequence[Evaluation],
    titles: Mapping[str, str],
    current: Split | None = None,
    orders: Orders = NO_ORDERS,
    quantizer: str = DEFAULT_QUANTIZER.name,
    origin: str = "",
    given_back: GivenBack = NOTHING_BACK,
) -> str:
    """Returns HTML: one row per split and quantizer, most bits first, and one column per metric.

    Rows of the same average are a group: they are what compares, and `orders` tells them apart.
    `current`, the split that was measured last, is marked for the chosen `quantizer`. Quantizers
    are named where there is another one than the chosen. `origin` says what the model's weights
    were before; splits that only give them back are marked.
    """
    rows = ranked_rows(evaluations, orders, quantizer, given_back)
    columns = [value.split("/", 1) for _, value in metric_choices(evaluations, titles)]
    groups = [
        [
            {
                "current": row.split == current and row.quantizer in (quantizer, UNQUANTIZED),
                "bits": levels_text(row.split),
                "name": split_name(row.split),
                "remark": row.remark,
                "average": f"{row.average:.2f}",
                "cells": [cell(row.metrics.get((task, name))) for task, name in columns],
            }
            for row in group
        ]
        for _, group in groupby(rows, lambda row: row.average)
    ]
    return render(
        "results.html",
        quick=max((e.limit or 0 for e in evaluations), default=0),
        chat=any(e.chat_template for e in evaluations),
        origin=origin,
        columns=[(metric_title(task, name, titles), better(name)) for task, name in columns],
        groups=groups,
    )


def ranked_rows(
    evaluations: Iterable[Evaluation],
    orders: Orders,
    quantizer: str,
    given_back: GivenBack = NOTHING_BACK,
) -> list[Row]:
    """Returns one row for each split and quantizer, most bits first, then by the orders' names."""
    metrics: dict[tuple[Split, str], dict[tuple[str, str], Metric]] = {}
    for e in evaluations:
        measured = metrics.setdefault((e.split, e.quantizer), {})
        measured |= {(e.task, name): metric for name, metric in e.metrics.items()}
    several = not {name for _, name in metrics} <= {quantizer, UNQUANTIZED}
    rows = []
    for (split, name), measured in metrics.items():
        by = quantizer_title(name) if several and name != UNQUANTIZED else ""
        mark = LOSSLESS if given_back.is_whole(name, split) else ""
        remark = ", ".join(filter(None, [orders.get(split), by, mark]))
        rows.append(Row(split, name, measured, remark))
    return sorted(rows, key=lambda row: (-row.average, orders.get(row.split) or ""))


def cell(metric: Metric | None) -> tuple[str, str] | None:
    """Returns a figure, and its error and number of items in words."""
    if metric is None:
        return None
    spread = f"± {figure(metric.stderr, 2)}, " if metric.stderr is not None else ""
    return figure(metric.value, 4), f"{spread}n {metric.n:,}"


def sizes_table(
    cost: ModelCost,
    levels: tuple[float, float],
    points: Breakpoints,
    quantizer: Quantizer = DEFAULT_QUANTIZER,
) -> str:
    """Returns HTML: the paper's table 4, bytes against the number of layers at the low level.

    It has every split that the slider can have, from the largest to the smallest. The browser marks
    the row of the slider's position, by its bytes.
    """
    high, low = levels
    heads = (
        f"At {level_title(quantizer, low)}",
        "Average bits",
        "Layers",
        "Whole model",
        f"Saved vs all {with_bits(quantizer, high)}",
    )
    rows, lines = [], ["low_layers,average_bits,layer_bytes,total_bytes"]
    for k in reversed(range(len(points.bytes))):
        texts, size = position_texts(cost, levels, points, k), points.bytes[k]
        layers = size - cost.rest_bytes
        cells = (texts["low"], texts["average"], format_gib(layers), texts["size"], texts["saving"])
        rows.append((size, cells))
        lines.append(f"{texts['low']},{texts['average']},{layers},{size}")
    return render("sizes.html", heads=heads, rows=rows, csv=quote("\n".join(lines)))
