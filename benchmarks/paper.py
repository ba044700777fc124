"""The paper's findings on a model, one by one, with paired errors.

    python -m benchmarks.paper smollm2 [--items N] [--points 9] [--quantizer NAME --levels 8,4]
                               [--task NAME ... --tasks FOLDER] [--only a b c] [--json FILE]

For each quantizer and pair of levels it measures the curves of all orders, and then compares each
order with the mean of three random ones on the same items. Everything is stored in the cache as it
is measured: a run that was stopped goes on where it was, and one that is complete takes seconds.

What is compared: (a) orders with random ones, and how many layers may go down; (b) LIM with random
orders where the quantizer itself is dynamic (SpQR-like); (c) quantizing with pruning, and two
levels with three. Finding (d), larger models lose less, takes several models: run it on each.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.report import arguments, report
from lwq_ui.core.allocation import Split, whole
from lwq_ui.core.comparison import (
    PASSAGES,
    Estimate,
    estimate,
    larger_than_noise,
    mean_of,
    rank_correlation,
    ratio_of,
)
from lwq_ui.core.curves import THREE_LEVELS, Curve, curves
from lwq_ui.core.memory import UNTOUCHED, average_bits
from lwq_ui.core.orderings import ORDERINGS, SCORERS
from lwq_ui.core.run import Run
from lwq_ui.core.schema import Evaluation
from lwq_ui.core.settings import Settings
from lwq_ui.core.store import Store
from lwq_ui.engine import jobs
from lwq_ui.engine.quantizers import Quantizer, quantizer_named
from lwq_ui.engine.texts import shipped_calibration

Pair = tuple[float, float]

ORDERS = ("lim", "zd", "reverse-zd", "sensitivity", "reverse-lim", "random", "first", "last")
PAIRS: tuple[tuple[str, Pair], ...] = (
    ("quanto", (8, 4)),
    ("quanto", (4, 2)),
    ("gptq", (4, 3)),
    ("gptq", (4, 2)),
    ("quanto-clip", (4, 2)),
    ("gptq", (8, 4)),
    ("quanto-clip", (8, 4)),
)
NEAR = 1.1  # a perplexity up to this many times that of all layers at the high level is near it


@dataclass(frozen=True)
class Measured:
    """A metric of every split: its value, and an estimate whose differences can be compared.

    For a perplexity these are of its logarithm, so that a difference is a ratio.
    """

    metric: str
    values: Mapping[Split, float]
    estimates: Mapping[Split, Estimate]


class Bench:
    def __init__(self, args: Any, run: Run):
        self.run = run
        self.items, self.points = args.items, args.points
        self.tasks = args.task or ["perplexity"]
        self.loaded = jobs.load(args.model, args.device, "auto", run)
        self.layers = self.loaded.info.num_layers
        self.text = shipped_calibration(run.settings)

    def curves(
        self, orders: Sequence[str], quantizer: Quantizer, levels: Sequence[float]
    ) -> list[Curve]:
        values = {}
        for name in dict.fromkeys(s for o in orders if (s := ORDERINGS[o].scorer)):
            scored = jobs.score(
                self.loaded, [name], self.text, self.run, quantizer=quantizer, low=levels[-1]
            )
            values |= {scorer: s.values for scorer, s in scored.items()}
        self.scores = values
        return curves(orders, values, self.layers, levels, -(-self.layers // (self.points - 1)))

    def measure(self, splits: Sequence[Split], quantizer: Quantizer) -> list[Measured]:
        """Returns the main metric of each task."""
        measurement = jobs.Measurement(
            list(dict.fromkeys(splits)), quantizer, self.tasks, self.items
        )
        done = jobs.evaluate(self.loaded, measurement, self.run)
        by_task: dict[str, list[Evaluation]] = {}
        for e in done.evaluations:
            by_task.setdefault(e.task, []).append(e)
        return [measured(some) for some in by_task.values()]


def measured(evaluations: Sequence[Evaluation]) -> Measured:
    names = evaluations[0].metrics
    metric = next(m for m in ("perplexity", "acc_norm", "acc", *names) if m in names)
    estimates = {}
    for e in evaluations:
        if metric == "perplexity" and "tokens" in e.items:
            estimates[e.split] = ratio_of(e.items[PASSAGES[metric]], e.items["tokens"])
        elif (own := estimate(e, metric)) is not None:
            estimates[e.split] = own
    values = {e.split: e.metrics[metric].value for e in evaluations}
    return Measured(f"{evaluations[0].task} {metric}", values, estimates)


def order_rows(lines: Sequence[Curve], result: Measured) -> list[dict[str, Any]]:
    """Returns a row for each order: its values by average bits, and which of them differ from those
    of random orders by more than noise: better (+), worse (-)."""
    randoms = [curve for curve in lines if curve.ordering == "random"]
    others = [curve for curve in lines if curve.ordering != "random"]
    steps = range(len(lines[0].splits))
    comparisons = len(others) * (len(steps) - 2)
    sign = -1 if "perplexity" in result.metric else 1
    rows = []
    for curve in [*others, *randoms]:
        row: dict[str, Any] = {"order": curve.title}
        for step in steps:
            split = curve.splits[step]
            mark = ""
            if curve in others and 0 < step < len(steps) - 1:
                chance = mean_of([result.estimates[c.splits[step]] for c in randoms])
                difference = result.estimates[split].minus(chance)
                if larger_than_noise(difference, comparisons):
                    mark = "+" if difference.value * sign > 0 else "-"
            row[f"{average_bits(split):.2f}"] = f"{result.values[split]:,.4g}{mark}"
        rows.append(row)
    return rows


def layers_near(curve: Curve, result: Measured, low: float) -> str:
    """Returns which share of the layers goes down before a perplexity leaves that of all layers at
    the high level, by the points that were measured."""
    first = result.values[curve.splits[0]]
    near = 0
    for split in curve.splits:
        if result.values[split] > NEAR * first:
            break
        near = sum(level == low for level in split)
    return f"{near / len(curve.splits[0]):.0%}"


def finding_a(bench: Bench, quantizer: Quantizer, levels: Pair, out: Any) -> None:
    lines = bench.curves(ORDERS, quantizer, levels)
    untouched: Split = (UNTOUCHED,) * bench.layers
    splits = [untouched, *(split for curve in lines for split in curve.splits)]
    correlations = {
        name: round(rank_correlation(importance(name, values), bench.scores["sensitivity"]), 2)
        for name, values in bench.scores.items()
        if name != "sensitivity"
    }
    for result in bench.measure(splits, quantizer):
        rows = order_rows(lines, result)
        if "perplexity" in result.metric:
            for row, curve in zip(rows, sorted_curves(lines), strict=True):
                row[f"within {NEAR - 1:.0%}"] = layers_near(curve, result, levels[-1])
        title = (
            f"(a) {quantizer.title}, {quantizer.pair_title(levels)}: {result.metric} by average "
            f"bits, untouched {result.values[untouched]:,.4g}; +/-: better or worse than random by "
            f"more than noise; rank correlation with sensitivity: {correlations}"
        )
        out(title, rows)


def importance(scorer: str, values: Sequence[float]) -> list[float]:
    """Returns scores of which the larger are of the more important layers."""
    sign = 1 if SCORERS[scorer].larger_is_important else -1
    return [sign * value for value in values]


def sorted_curves(lines: Sequence[Curve]) -> list[Curve]:
    return sorted(lines, key=lambda curve: curve.ordering == "random")


def finding_b(bench: Bench, out: Any) -> None:
    quantizer = quantizer_named("spqr")
    levels = quantizer.pairs[0]
    lines = bench.curves(("lim", "zd", "random"), quantizer, levels)
    for result in bench.measure([s for c in lines for s in c.splits], quantizer):
        out(
            f"(b) {quantizer.title}, {quantizer.pair_title(levels)}: {result.metric} by average "
            "bits; +/-: better or worse than random by more than noise",
            order_rows(lines, result),
        )


def finding_c(bench: Bench, levels: Pair, out: Any) -> None:
    """Pruning k layers saves as much as giving some others the low level; both at equal bits."""
    quantizer = quantizer_named("quanto")
    quantized, *pruned = bench.curves(("lim", "prune-by-lim", "prune-from-top"), quantizer, levels)
    high, low = levels
    pairs = []
    for curve in pruned:
        for split in curve.splits:
            downs = round((high - average_bits(split)) * bench.layers / (high - low))
            at_low = next((s for s in quantized.splits if sum(x == low for x in s) == downs), None)
            if at_low is not None and downs:
                pairs.append((curve.title, split, at_low))
    results = bench.measure([s for _, *both in pairs for s in both], quantizer)
    for result in results:
        rows = [
            {
                "pruned": title,
                "bits": round(average_bits(at_low), 2),
                "quantized": result.values[at_low],
                "left out": result.values[split],
            }
            | difference_cells(result, at_low, split, len(pairs))
            for title, split, at_low in pairs
        ]
        out(f"(c) LIM's layers at {low:g} bits, or left out, {result.metric}", rows)


def three_levels(bench: Bench, out: Any) -> None:
    quantizer = quantizer_named("quanto")
    (curve,) = bench.curves(("lim",), quantizer, THREE_LEVELS)
    for result in bench.measure(curve.splits, quantizer):
        rows = [
            {
                "8 bits": split.count(8),
                "4 bits": split.count(4),
                "2 bits": split.count(2),
                result.metric: result.values[split],
            }
            | difference_cells(result, curve.splits[0], split, len(curve.splits) - 1)
            for split in curve.splits
        ]
        out("(c) of the introduction: three levels, LIM's order, 4 bits on average", rows)


def difference_cells(
    result: Measured, base: Split, other: Split, comparisons: int
) -> dict[str, Any]:
    """Returns the paired difference of two splits; of a perplexity that of its logarithm."""
    if base == other:
        return {"difference": "", "error": "", "beyond noise": ""}
    difference = result.estimates[other].minus(result.estimates[base])
    return {
        "difference": round(difference.value, 3),
        "error": round(difference.stderr, 3),
        "beyond noise": "yes" if larger_than_noise(difference, comparisons) else "no",
    }


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("model")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--items", type=int, help="items of each task (default: all)")
    parser.add_argument("--points", type=int, default=9, help="of each curve (default: 9)")
    parser.add_argument("--quantizer", help="with --levels: this pair alone")
    parser.add_argument("--levels", help="such as 8,4")
    parser.add_argument("--task", action="append", help="default: perplexity")
    parser.add_argument("--tasks", metavar="FOLDER", help="your own lm-eval task files")
    parser.add_argument("--only", nargs="+", choices=["a", "b", "c"], default=["a", "b", "c"])
    args = parser.parse_args()
    settings = Settings.from_environment(args.tasks)

    def progress(what: str, share: float | None) -> None:
        print(f"\r\x1b[K{what}", end="", file=sys.stderr, flush=True)

    run = Run(settings, Store(settings.cache), progress)
    bench = Bench(args, run)
    tables: list[dict[str, Any]] = []

    def out(title: str, rows: list[dict[str, Any]]) -> None:
        print("\r\x1b[K", end="", file=sys.stderr)
        report(title, rows)
        print(flush=True)
        tables.append({"title": title, "rows": rows})

    pairs = PAIRS
    if args.quantizer:
        high, low = (whole(float(level)) for level in args.levels.split(","))
        pairs = ((args.quantizer, (high, low)),)
    if "a" in args.only:
        for name, levels in pairs:
            finding_a(bench, quantizer_named(name), levels, out)
    if "b" in args.only:
        finding_b(bench, out)
    if "c" in args.only:
        finding_c(bench, (8, 4), out)
        finding_c(bench, (4, 2), out)
        three_levels(bench, out)
    if args.json:
        titles = [{"table": table["title"]} for table in tables]
        report(args.model, titles, args.json, tables=tables)


if __name__ == "__main__":
    main()
