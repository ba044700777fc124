"""The texts that the chart shows when the pointer is on a point."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache
from html import escape
from itertools import groupby
from textwrap import wrap

from ...core.allocation import Split
from ...core.lines import Point
from ...core.lossless import LOSSLESS
from ...core.memory import UNTOUCHED, average_bits, format_gib
from ...core.schema import Evaluation, Metric, split_name
from ...core.usability import LOST, times
from ..wording import figure, quantizer_title
from .drawing import Drawing
from .lines import DrawnLine

WIDTH = 44  # characters of a line in the box


def line_texts(drawing: Drawing, d: DrawnLine, points: Iterable[Point]) -> list[str]:
    """Returns the texts of a line's points, as Plotly's small HTML."""
    by, title = escape(quantizer_title(d.quantizer)), escape(d.title)
    head = f"<b>{title}</b>" if title.endswith(by) else f"<b>{title}</b>, {by}"
    return [point_text(drawing, d, p, head) for p in points]


def point_text(drawing: Drawing, d: DrawnLine, p: Point, head: str) -> str:
    lines = [head, *figures_text(drawing, p.split, p.metric, d.size(p))]
    lines += [LOSSLESS] * d.model.given_back.is_whole(d.quantizer, p.split)
    if len(p.evaluations) > 1:
        values = ", ".join(figure(drawing.value(e), 3) for e in p.evaluations)
        lines += [f"mean of {len(p.evaluations)} orders: {values}", "the first of them:"]
    same = None if d.theirs else drawing.data.orders.get(p.split)
    if same and " = " in same:
        lines += wrapped(f"one split: {same}")
    return "<br>".join([*lines, *split_lines(p.split)])


def single_text(drawing: Drawing, e: Evaluation) -> str:
    """Returns the text of a split on no line."""
    lines = [f"<b>{split_name(e.split)}</b>"]
    if set(e.split) != {UNTOUCHED}:
        lines[0] += f", {escape(quantizer_title(e.quantizer))}"
    lines += wrapped(drawing.data.orders.get(e.split) or "")
    size = drawing.data.model.size(e.quantizer, e.split)
    lines += figures_text(drawing, e.split, e.metrics[drawing.metric], size)
    lines += [LOSSLESS] * drawing.data.model.given_back.is_whole(e.quantizer, e.split)
    return "<br>".join([*lines, *(split_lines(e.split) if len(set(e.split)) > 1 else ())])


def wrapped(text: str) -> list[str]:
    return [escape(line) for line in wrap(text, 48)]


def figures_text(drawing: Drawing, split: Split, value: Metric, size: int) -> list[str]:
    has_error = value.stderr is not None and math.isfinite(value.stderr)
    error = f" ± {figure(value.stderr or 0.0, 2)}" if has_error else ""
    lost = drawing.data.lost_from
    times_worse = []
    if lost is not None and value.value >= lost:
        times_worse = [f"lost: {times(LOST * value.value / lost)} times the original's"]
    so_far = f" of {drawing.most:,} so far" if value.n < drawing.most else ""
    return [
        f"{drawing.spec.title} <b>{figure(value.value, 4)}{error}</b>",
        *times_worse,
        f"n = {value.n:,}{so_far}",
        f"average bits {average_bits(split):.2f}, {format_gib(size)}",
    ]


@lru_cache(10_000)  # the same few hundred at every change of the page
def split_lines(split: Split) -> tuple[str, ...]:
    """Returns a split for a small box: '10 × 4, 14 × 2', or each layer's bits where that is
    shorter."""
    runs = [(level, len(list(same))) for level, same in groupby(split)]
    pieces = [f"{count} × {level:g}" for level, count in runs]
    joint = ", "
    if len(", ".join(pieces)) > WIDTH and max(split) < 10 and all(b == int(b) for b in split):
        digits = "".join(f"{level:g}" for level in split)
        pieces = [digits[k : k + 10] for k in range(0, len(digits), 10)]
        joint = " "
    lines = [f"bits {pieces[0]}"]
    for piece in pieces[1:]:
        if len(lines[-1]) + len(piece) + len(joint) > WIDTH:
            lines.append(piece)
        else:
            lines[-1] += joint + piece
    return tuple(lines)
