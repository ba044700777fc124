"""A chart's measurements as CSV."""

from __future__ import annotations

import csv
import io
from functools import lru_cache

from ...core.allocation import Split
from ...core.curves import Curve
from ...core.memory import average_bits
from .data import ChartData

COLUMNS = (
    *("model", "ordering", "seed", "average_bits", "bytes", "bits"),
    *("metric", "value", "stderr", "n", "limit", "quantizer", "prompts"),
    *("weights_from", "lossless_layers"),
)


def results_csv(data: ChartData) -> str:
    """Returns every evaluation of the chosen metric, most bits first. `ordering` names all that
    give the split, and `seed` the random ones among them; both are empty where none does."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for model in data.models:
        curves_of: dict[Split, list[Curve]] = {}
        for c in model.curves:
            for split in dict.fromkeys(c.splits):
                curves_of.setdefault(split, []).append(c)
        for e in sorted(model.of_metric(data.chosen), key=lambda e: -sum(e.split)):
            curves, m = curves_of.get(e.split, []), e.metrics[data.metric]
            writer.writerow(
                [
                    model.title,
                    " ".join(dict.fromkeys(c.ordering for c in curves)),
                    " ".join(str(c.seed) for c in curves if c.seeded),
                    average_bits(e.split),
                    model.size(e.quantizer, e.split),
                    levels_text(e.split),
                    data.chosen,
                    m.value,
                    "" if m.stderr is None else m.stderr,
                    m.n,
                    "" if e.limit is None else e.limit,
                    e.quantizer,
                    "chat template" if e.chat_template else "",
                    model.origin.quantized_as or "",
                    model.given_back.layers(e.quantizer, e.split),
                ]
            )
    return text.getvalue()


@lru_cache(10_000)  # the same few hundred at every change of the page
def levels_text(split: Split) -> str:
    return " ".join(f"{level:g}" for level in split)
