"""What the chart shows of a situation."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ..core.cost import model_cost
from ..core.curves import Curve, alike, all_splits, curves, levels_between
from ..core.lossless import GivenBack
from ..core.memory import ModelCost
from ..core.orderings import ALIKE, DEFAULT_ORDERING, ORDERINGS
from ..core.schema import UNQUANTIZED, Evaluation, ModelInfo
from ..engine.quantizers import Quantizer, quantizers_of
from .charts import ChartData, ModelResults, Orders
from .session import OtherModel
from .situation import Situation


def chart_data(s: Situation, metric: str, orders: Orders) -> ChartData:
    """Returns what a chart of a "task/metric" is made of."""
    results, chosen = s.results_so_far, s.controls.quantizer
    quantizers = {chosen, *quantizers_of(results)}
    beside = s.controls.beside
    return ChartData(
        model=ModelResults(
            short_name(s.info),
            results,
            drawable(s, quantizers),
            costs_of(s.info, chosen, results),
            s.info.origin,
            s.given_back,
        ),
        chosen=metric,
        titles=s.titles,
        quantizer=chosen.name,
        ordering=s.controls.ordering,
        axis=s.controls.axis,
        current=s.session.measured,
        orders=orders,
        other=other_results(beside, s) if beside else None,
        beside=None if s.controls.also else set(),
    )


def drawable(s: Situation, quantizers: Iterable[Quantizer]) -> list[Curve]:
    """Returns the curve of every ordering whose scores are known: what a chart may draw.

    Orderings that rank as another one are there only where the sweep asks for them. So are all
    layers alike, at the levels that each of the `quantizers` has between the high and the low one.
    Three levels keep the average, so that what prunes has no place beside them.
    """
    levels, swept, n = s.sweep_levels, s.controls.orderings, s.info.num_layers
    rankable = [
        o.name
        for o in ORDERINGS.values()
        if (o.scorer is None or o.scorer in s.choice.values)
        and (o.ranks_as is None or o.name in swept)
        and not (o.prunes and len(levels) == 3)
    ]
    lines = curves(rankable, s.choice.values, n, levels)
    if ALIKE in swept and len(levels) == 2:
        for q in sorted(quantizers, key=lambda q: q.name):
            if between := levels_between(q.levels, *levels):
                lines.append(alike(between, n, q.name))
    return lines


def other_results(beside: OtherModel, s: Situation) -> ModelResults:
    """Returns the second model by the usual ordering, at the pair of levels of which most was
    measured: in the paper it is another pair than the first model's."""
    quantizer, results = s.controls.quantizer, s.as_chosen(beside.evaluations)
    values = {name: scores.values for name, scores in beside.scores.items()}
    scored = ORDERINGS[DEFAULT_ORDERING].scorer in values
    names, n = [DEFAULT_ORDERING] if scored else [], beside.info.num_layers
    measured = {e.split for e in results}
    lines = max(
        (curves(names, values, n, pair) for pair in quantizer.pairs),
        key=lambda lines: len(measured.intersection(all_splits(lines))),
    )
    costs = costs_of(beside.info, quantizer, results)
    back = GivenBack.by(beside.info, {quantizer, *quantizers_of(results)})
    return ModelResults(short_name(beside.info), results, lines, costs, beside.info.origin, back)


def costs_of(
    info: ModelInfo, quantizer: Quantizer, evaluations: Iterable[Evaluation]
) -> dict[str, ModelCost]:
    """Returns the costs by quantizer; the unquantized model has the same bytes for all."""
    costs = {q.name: model_cost(info, q) for q in {quantizer, *quantizers_of(evaluations)}}
    return costs | {UNQUANTIZED: costs[quantizer.name]}


def short_name(info: ModelInfo) -> str:
    """Returns 'Llama-2-7b-hf', of whatever organisation or folder."""
    return Path(info.model_id).name
