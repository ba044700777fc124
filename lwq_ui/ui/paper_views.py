"""The figures and tables of the paper, as settings of the sweep and the chart."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..core.curves import THREE_LEVELS
from ..core.orderings import ALIKE
from ..engine.quantizers import DEFAULT_QUANTIZER, QUANTIZERS
from .selection import Selection

PAIR, THREE = "pair", "three"  # the levels of a sweep: the chosen two, or the paper's three


@dataclass(frozen=True)
class View:
    """A figure or table of the paper, as settings of the sweep and the chart: with a `quantizer` at
    its usual levels, or at the `pair` of levels, with every quantizer that has them (`also`). A
    chosen quantizer that lacks the levels gives way to the default."""

    title: str
    orderings: tuple[str, ...]
    levels: str = PAIR
    axis: str = "bits"
    other_model: bool = False
    quantizer: str = ""
    pair: tuple[float, float] | None = None
    also: bool = False
    task: str = ""

    def of(self, selection: Selection) -> Selection:
        """With the view's quantizer and levels, where the selection has others."""
        own = quantizer = selection.quantizer
        if self.quantizer not in ("", own.family):
            quantizer = QUANTIZERS[self.quantizer]
        levels = THREE_LEVELS if self.levels == THREE else ()
        if (self.pair and self.pair not in quantizer.pairs) or not {*levels} <= {*quantizer.levels}:
            quantizer = own if own.family == DEFAULT_QUANTIZER.family else DEFAULT_QUANTIZER
        kept = selection.levels if quantizer == own and not self.quantizer else quantizer.pairs[0]
        pair = self.pair or kept
        if (quantizer, pair) == (own, selection.levels):
            return selection
        return replace(selection, quantizer=quantizer, levels=pair, budget=None, pins={})


VIEWS = {
    "figure2": View("Figure 2: orderings", ("lim", "zd", "reverse-zd", "reverse-lim", "random")),
    "figure3": View("Figure 3: larger model, fewer bits", ("lim",), axis="size", other_model=True),
    "figure4": View(
        "Figure 4: prune or quantize", ("lim", "prune-by-lim", "prune-from-top"), axis="size"
    ),
    "figure5": View("Figure 5: three levels", ("lim",), levels=THREE),
    "table2": View("Table 2: quantizers", ("lim",), pair=(4, 2), also=True),
    "table3": View("Table 3: outlier shares", ("lim", ALIKE), quantizer="spqr", task="perplexity"),
}
