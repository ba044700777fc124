"""lm-eval's metrics of one split, with standard errors and a number per item."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import lm_eval.api.metrics
import lm_eval.api.task
import lm_eval.utils
import numpy as np
from lm_eval.evaluator_utils import _compute_task_aggregations

from ...core.errors import UserError
from ...core.run import Run
from ...core.schema import Metric
from ...core.usability import ACCURACIES, CHANCE
from .base import Measured
from .lm_eval_errors import too_large

BOOTSTRAP = 1000  # resamples, for metrics whose standard error has no formula
WEIGHTED = (lm_eval.api.metrics.weighted_perplexity, lm_eval.api.metrics.bits_per_byte)


def results_of(loaded: dict[str, Any], name: str, run: Run) -> Measured:
    """Returns metrics from the answers in the requests, as the second half of lm-eval's `evaluate`
    does.

    It makes no copies and hashes of samples, and decodes documents once. Raises UserError where no
    metric is a number, or one is too large.
    """
    tables: dict[str, dict[str, Any]] = {}
    values: dict[str, list[Any]] = defaultdict(list)  # "metric,filter" -> one per document
    weighted, guesses = set(), list[float]()
    for part_name, part in loaded["tasks"].items():
        run.check()
        part.apply_filters()
        documents = defaultdict(list)
        for request in part.instances:
            documents[request.doc_id].append(request)
        guesses += guesses_of(part, documents.values())
        raw: dict[tuple[str, str], list[Any]] = defaultdict(list)
        for kind in part.instances[0].filtered_resps:
            for requests in documents.values():
                requests.sort(key=lambda r: r.idx)
                answers = [request.filtered_resps[kind] for request in requests]
                for metric, value in part.process_results(requests[0].doc, answers).items():
                    raw[metric, kind].append(value)
        metrics, count = _compute_task_aggregations(part, raw, BOOTSTRAP)
        tables[part_name] = {"sample_len": count, **metrics}
        for (metric, kind), per_document in raw.items():
            values[f"{metric},{kind}"] += per_document
            if part.aggregation().get(metric) in WEIGHTED:
                weighted.add(f"{metric},{kind}")
    group = loaded["groups"].get(name)
    table = group.aggregate(tables) if group else next(iter(tables.values()))
    keys = [key for key in values if is_number(table.get(key))]
    if not keys:
        raise UserError(f"The task '{name}' gives no metric that is a number.")
    one_filter = len({key.partition(",")[2] for key in keys}) == 1
    results: dict[str, Metric] = {}
    items: dict[str, list[float]] = {}
    for key in keys:
        metric, _, kind = key.partition(",")
        error: Any = table.get(f"{metric}_stderr,{kind}")
        count = table["sample_count"][key] if group else len(values[key])
        title = metric if one_filter else f"{metric} ({kind})"
        error = float(error) if is_number(error) else None
        if not all(math.isfinite(v) for v in (table[key], error or 0.0)):
            raise UserError(too_large(name))
        results[title] = Metric(float(table[key]), error, count)
        items |= items_of(title, values[key], key in weighted)
        if len(guesses) == count and metric in ACCURACIES:
            items[CHANCE] = guesses
    return Measured(results, items)


def guesses_of(part: Any, documents: Iterable[Sequence[Any]]) -> list[float]:
    """Returns how often guessing is right, for each document of a part with choices; nothing of
    another part. `documents` are their requests, one for each choice."""
    if part.OUTPUT_TYPE != "multiple_choice":
        return []
    # Mutual information takes a second request for each choice.
    each = 2 if "acc_mutual_info" in part.aggregation() else 1
    return [each / len(requests) for requests in documents]


def items_of(title: str, values: Sequence[Any], weighted: bool) -> dict[str, list[float]]:
    """Returns the numbers per document that a metric comes from.

    Returns nothing where they are no numbers, as the pair of answers behind an F1 score.
    """
    if weighted:
        logs, weights = zip(*values, strict=True)
        return {title: list(map(float, logs)), f"{title}_weight": list(map(float, weights))}
    return {title: [float(v) for v in values]} if all(map(is_number, values)) else {}


def is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number | np.bool_)
