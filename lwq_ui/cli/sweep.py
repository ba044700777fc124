"""`sweep`: measure every split of an ordering."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..core.allocation import Split
from ..core.cost import model_cost
from ..core.curves import THREE_LEVELS, Curve, alike, all_splits, curves, levels_between
from ..core.duration import duration
from ..core.lossless import GivenBack, origin_of
from ..core.memory import PRUNED, ModelCost, average_bits
from ..core.orderings import ALIKE, ORDERINGS
from ..core.run import Run
from ..core.schema import Evaluation
from ..engine.banks.packing_cost import why_not_packed
from ..engine.quantizers import DEFAULT_QUANTIZER, Quantizer
from ..engine.tasks.presets import expand
from .arguments import (
    CHAT_TEMPLATE,
    DEVICE,
    DTYPE,
    MODEL,
    QUANTIZER_HELP,
    QUANTIZER_NAME,
    TASKS,
    TASKS_FOLDER,
    TEXT,
    add_command,
    chosen_levels,
    level_names,
    positive,
)
from .calibration import on_chosen_text
from .evaluate import measure, metrics_json
from .results import Parts, Result
from .ruins import Ruins
from .score import scores_for
from .terminal import print_note

if TYPE_CHECKING:
    from ..engine.models.loading import LoadedModel

HELP = "measure every split of an ordering"


def add_parser(commands: Any) -> None:
    parents = (MODEL, DEVICE, DTYPE, TEXT, CHAT_TEMPLATE, TASKS, TASKS_FOLDER)
    parser = add_command(commands, "sweep", HELP, *parents)
    parser.add_argument(
        "--quantizer", action="append", help=f"{QUANTIZER_HELP}; one or several", **QUANTIZER_NAME
    )
    parser.add_argument(
        "--ordering",
        action="append",
        choices=[*ORDERINGS, ALIKE],
        required=True,
        help=f"'{ALIKE}': one level in every layer, each that the quantizer has between the two",
    )
    parser.add_argument(
        "--levels",
        type=level_names,
        metavar="HIGH,LOW",
        help="or 8,4,2: one layer up for two down",
    )
    parser.add_argument("--every", type=positive, default=1, metavar="N", help="every N-th split")
    parser.set_defaults(execute=execute)


def execute(args: argparse.Namespace, run: Run) -> Result:
    from ..engine import jobs

    named = args.quantizer or [DEFAULT_QUANTIZER]
    quantizers = list(dict.fromkeys(on_chosen_text(q, args, run) for q in named))
    levels = chosen_levels(args.levels, quantizers, also=[THREE_LEVELS])
    loaded = jobs.load(args.model, args.device, args.dtype, run)
    parts = Parts(run)
    swept = curves_by_quantizer(args, parts, loaded, quantizers, levels)
    splits = {q: all_splits(q_curves) for q, q_curves in swept.items()}
    parts.attempt(None, print_forecast, args, run, loaded, splits)
    ruins = Ruins(loaded.info, run)
    for q in quantizers:
        ruins.print_levels(q, levels)
    points: list[dict[str, Any]] = []
    back = GivenBack.by(loaded.info, quantizers)
    packed = [(q.name, split) for q, some in splits.items() for split in some]
    lines = [origin] if (origin := origin_of(loaded.info, quantizers, packed)) else []
    for q in quantizers:
        if parts.stopped:
            break
        evaluations = measure(args, parts, loaded, splits[q], q)
        ruins.print_levels(q, levels, evaluations)
        metrics = metrics_by_split(evaluations)
        cost = model_cost(loaded.info, q)
        if len(quantizers) > 1:
            lines.append(f"{q.title}:")
        for curve in swept[q]:
            new = curve_points(curve, q, levels[-1], cost, metrics, back)
            lines += [curve.title, *map(point_line, new)]
            points += new
    parts.check(points)
    data = {
        "chat_template": args.chat_template,
        "weights_from": loaded.info.quantized_as,
        "points": points,
    }
    return parts.result(data, "\n".join(lines))


def curves_by_quantizer(
    args: argparse.Namespace,
    parts: Parts,
    loaded: LoadedModel,
    quantizers: Sequence[Quantizer],
    levels: Sequence[float],
) -> dict[Quantizer, list[Curve]]:
    """Scores what the orderings need. Scores of a level are the first quantizer's, so that all
    quantizers have the same splits. An ordering whose scores fail is left out."""
    num_layers, low = loaded.info.num_layers, levels[-1]
    values: dict[str, Sequence[float]] = {}
    ranked = []
    for ordering in dict.fromkeys(args.ordering):
        if ordering == ALIKE:
            continue
        work = (scores_for, args, parts.run, loaded, ordering, quantizers[0], low)
        scores = parts.attempt(None, *work)
        if scores is not None:
            ranked.append(ordering)
            values |= {name: s.values for name, s in scores.items()}
    shared = curves(ranked, values, num_layers, levels, args.every)
    if ALIKE not in args.ordering:
        return dict.fromkeys(quantizers, shared)
    return {
        q: [*shared, alike(levels_between(q.levels, levels[0], low), num_layers)]
        for q in quantizers
    }


def print_forecast(
    args: argparse.Namespace,
    run: Run,
    loaded: LoadedModel,
    splits: Mapping[Quantizer, Sequence[Split]],
) -> None:
    """Says how long the sweep will take, and which quantizer cannot pack. `splits` are by
    quantizer."""
    from ..engine import jobs

    tasks = expand(args.task)
    forecasts = {}
    for q, some in splits.items():
        measurement = jobs.Measurement(some, q, tasks, args.limit, args.chat_template)
        forecasts[q] = jobs.forecast(loaded, measurement, run)
    total = jobs.Forecast.of_all(forecasts.values())
    by = f" by {len(splits)} quantizers" * (len(splits) > 1)
    message = f"{sum(map(len, splits.values()))} splits{by}, "
    message += duration(total.seconds) if total.splits else "all in the cache"
    if total.calibrating:
        message += f", of which calibrating takes {duration(total.calibrating)}"
    if total.unknown:
        message += f"; how long {', '.join(total.unknown)} will take cannot be known before"
    print_note(f"{message}.")
    for q, forecast in forecasts.items():
        why = why_not_packed(loaded.info, q, splits[q], run.store)
        if why and forecast.splits:
            print_note(why)


def metrics_by_split(evaluations: Sequence[Evaluation]) -> dict[Split, dict[str, Any]]:
    by_split: dict[Split, list[Evaluation]] = {}
    for e in evaluations:
        by_split.setdefault(e.split, []).append(e)
    return {split: metrics_json(some, evaluations) for split, some in by_split.items()}


def curve_points(
    curve: Curve,
    quantizer: Quantizer,
    low: float,
    cost: ModelCost,
    metrics: Mapping[Split, dict[str, Any]],
    back: GivenBack,
) -> list[dict[str, Any]]:
    """Returns a point for each split of the curve that has metrics."""
    prunes = curve.ordering != ALIKE and ORDERINGS[curve.ordering].prunes
    return [
        {
            "ordering": curve.ordering,
            "seed": curve.seed,
            "quantizer": quantizer.name,
            "low_layers": split.count(PRUNED if prunes else low),
            "bits": list(split),
            "average_bits": average_bits(split),
            "bytes": cost.total(split),
            "lossless_layers": back.layers(quantizer.name, split),
            "metrics": metrics[split],
        }
        for split in curve.splits
        if metrics.get(split)
    ]


def point_line(point: Mapping[str, Any]) -> str:
    figures = " ".join(f"{name} {m['value']:.4g}" for name, m in point["metrics"].items())
    return f"  {point['average_bits']:.3f} bits  {figures}"
