"""Charts of made-up measurements, and what to look up in them."""

from __future__ import annotations

import json

import made_up

from lwq_ui.core.schema import UNQUANTIZED, Evaluation, Metric
from lwq_ui.ui.charts import ChartData, ModelResults, results_figure

N, MIB = 8, 2**20
TITLES = {"perplexity": "Perplexity and divergence", "minimal_pairs": "Grammar pairs"}
SMALL, SMALLS = made_up.model_cost(N), made_up.costs(N)
ALL = made_up.all_curves()
COST, COSTS = made_up.model_cost(), made_up.costs()
PPL, KL, ACC = "perplexity/perplexity", "perplexity/kl_divergence", "minimal_pairs/acc"
LIM = "LIM = Block influence"


def evaluation(split, task="perplexity", quantizer="quanto", **metrics) -> Evaluation:
    return Evaluation(task, tuple(split), quantizer, metrics, {}, None, 1.0)


def mixed(high: int) -> list[int]:
    return [4] * high + [2] * (N - high)


SIX = (
    evaluation([16] * N, quantizer=UNQUANTIZED, perplexity=Metric(11.5, 0.2, 4000)),
    evaluation([4] * N, perplexity=Metric(12.1, 0.21, 4000)),
    evaluation([2] * N, perplexity=Metric(30.0, 0.9, 4000)),
    evaluation(mixed(2), perplexity=Metric(20.0, 0.5, 4000)),
    evaluation(
        mixed(5), perplexity=Metric(14.0, 0.3, 4000), top1_agreement=Metric(0.8, None, 4000)
    ),
    evaluation(mixed(5), task="minimal_pairs", acc=Metric(0.61, 0.02, 500)),
)


def chart_data(evaluations, chosen=PPL, curves=(), costs=SMALLS, model="", **options) -> ChartData:
    return ChartData(ModelResults(model, evaluations, curves, costs), chosen, TITLES, **options)


def draw(*measured, **options):
    """The figure of `chart_data`, which must be fit for JSON."""
    drawn = results_figure(chart_data(*measured, **options))
    json.dumps(drawn, allow_nan=False)
    return drawn


def curves_of(*orderings):
    return [c for c in ALL if c.ordering in orderings]


def sweep_of_items(*orderings):
    swept = made_up.sweep(curves_of(*orderings))
    return [made_up.with_items(e) for e in swept if e.task == "minimal_pairs"]


def traces(drawn):
    return {trace.get("name", trace["uid"]): trace for trace in drawn["data"]}


def notes(drawn, axis="bits"):
    return [note["text"] for note in drawn["axes"][axis]["annotations"]]
