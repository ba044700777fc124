"""Colours, symbols and dashes. A colour is always the same ordering and a dash always the same
quantizer, whichever is chosen.

The colours have a contrast of 3 or more on the light and on the dark page. Where two are alike to
some eyes, their symbols are not.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ...core.allocation import Split
from ...core.orderings import ALIKE, ORDERINGS
from ...core.schema import split_name
from ...engine.quantizers import QUANTIZERS


class Look(NamedTuple):
    """A symbol of Plotly's, which curvechart.js draws in the legend too, and a colour."""

    symbol: str
    colour: str


INK = "#7b8494"
GRID = "rgba(128,136,152,.28)"
SHADE = "rgba(128,136,152,.2)"
RUIN = "rgba(220,90,90,.12)"
FONT = "Source Sans Pro, system-ui, sans-serif"
ONE_LEVEL, NO_ORDER = "one level", "in no order"
# What lies on no line: the names of uniform splits, ONE_LEVEL for other levels, and NO_ORDER.
MARKS = {
    "unquantized": Look("diamond", "#0d9488"),
    "all 8-bit": Look("square", "#8b5cf6"),
    "all 4-bit": Look("triangle-up", "#6366f1"),
    "all 3-bit": Look("pentagon", "#3b82f6"),
    "all 2-bit": Look("triangle-down", "#dc5a5a"),
    ONE_LEVEL: Look("hexagon", "#8d7d10"),
    NO_ORDER: Look("circle", INK),
}
# These orderings keep their looks from version to version. `look_of` makes up those of others.
LOOKS = {
    "lim": Look("circle", "#d9560a"),
    "zd": Look("square", "#2f7fd1"),
    "sensitivity": Look("star", "#098968"),
    "reverse-lim": Look("triangle-down", "#d94362"),
    "reverse-zd": Look("triangle-up", "#9f74f9"),
    "random": Look("x", INK),
    "first": Look("triangle-left", "#f047ab"),
    "last": Look("triangle-right", "#f920e3"),
    "prune-from-top": Look("cross", "#318d0a"),
    "prune-by-lim": Look("diamond", "#9e3cf6"),
    ALIKE: Look("hexagon", "#8d7d10"),
}
# One for each quantizer in the order of QUANTIZERS; what is left is for those with other options.
DASHES = (
    *("solid", "dash", "dot", "dashdot", "longdash", "longdashdot"),
    *("12px,3px,2px,3px,2px,3px", "2px,8px", "8px,8px", "16px,4px,4px,4px"),
)


def look_of(ordering: str) -> Look:
    """Returns an ordering's look. One that ranks as another has the other's. A new one gets the
    symbol of one and the colour of the next, so that every pair stays different."""
    if ordering in LOOKS:
        return LOOKS[ordering]
    if (same := ORDERINGS[ordering].ranks_as) is not None:
        return look_of(same)
    new = [o.name for o in ORDERINGS.values() if o.ranks_as is None and o.name not in LOOKS]
    looks, k = list(LOOKS.values()), new.index(ordering)
    shift = 1 + k // len(looks)
    return Look(looks[k % len(looks)].symbol, looks[(k + shift) % len(looks)].colour)


def dashes_of(quantizers: Iterable[str]) -> dict[str, str]:
    """Returns the dash of each quantizer and of all in QUANTIZERS. Those with options of their own
    take what is left over, in their order."""
    offered = {name: DASHES[k % len(DASHES)] for k, name in enumerate(QUANTIZERS)}
    left = DASHES[len(QUANTIZERS) :] or DASHES
    others = sorted(name for name in quantizers if name not in offered)
    return offered | {name: left[k % len(left)] for k, name in enumerate(others)}


def mark_of(split: Split) -> str:
    """Returns the name in MARKS of a uniform split."""
    name = split_name(split)
    return name if name in MARKS else ONE_LEVEL
