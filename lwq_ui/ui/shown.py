"""From the session and what the controls say to what stands on the page. Nothing is computed that
takes long, and nothing is remembered."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr

from ..core.allocation import Split
from ..core.cost import model_cost
from ..core.curves import THREE_LEVELS, alike, all_splits, curves, levels_between
from ..core.errors import UserError
from ..core.memory import UNTOUCHED, ModelCost
from ..core.orderings import ALIKE, ORDERINGS, SCORERS
from ..core.schema import Evaluation, ModelInfo
from ..engine.banks.packing_cost import why_not_packed
from ..engine.quantizers import QUANTIZERS, Quantizer, quantizer_named
from ..engine.tasks.presets import expand
from .charts import ChartData, ModelResults, results_figure
from .comparison.contenders import (
    alike_contenders,
    nothing_between,
    order_contenders,
    quantizer_contenders,
    why_left_out,
)
from .comparison.html import alike_html, comparison_html
from .components.curvechart import as_json
from .layout import BY_QUANTIZER, Parts
from .memorypanel import MemoryPanel
from .modelcard import loaded_card, scored_html
from .paper_views import THREE
from .quantizerpanel import QuantizerPanel, levels_of
from .selection import QUICK, Selection, orders_of, ready
from .server import Server
from .session import Level, OtherModel, Session
from .status import error_html
from .tables import NOTHING_YET, results_table
from .target import context_choices, kept_context
from .templates import paragraphs_html
from .wording import metric_choices, plain_title

Values = dict[Any, Any]  # component -> value, as Gradio hands a set of inputs over
Updates = dict[Any, Any]


@dataclass(frozen=True)
class Plan:
    """The splits to measure by quantizer, and a sentence for what is left out."""

    splits: Mapping[Quantizer, list[Split]]
    left_out: tuple[str, ...] = ()


class Shown(MemoryPanel, QuantizerPanel):
    def __init__(self, parts: Parts, server: Server):
        self.parts = parts
        self.server = server

    # ---- what the controls ask for

    def selection(self, v: Values) -> Selection:
        """What the controls say. An order by a sensitivity that is not measured at the chosen
        levels gives way to LIM; levels and pins that the quantizer or the model does not have are
        those of the one before."""
        p = self.parts
        bar = v[p.bar]
        try:
            target = self.target(v)
        except UserError:  # said in the panel
            target = None
        try:
            chosen = self.quantizer(v)
        except UserError:  # said below it
            chosen = QUANTIZERS[v[p.quantizer]]
        levels = levels_of(v[p.levels])
        selection = Selection(
            levels=levels if levels in chosen.pairs else chosen.pairs[0],
            ordering=v[p.ordering],
            seed=int(v[p.seed] or 0),
            quantizer=chosen,
            budget=bar["budget"] if bar else None,
            pins=bar["pins"] if bar else {},
            target=target,
        )
        session: Session = v[p.session]
        if session.info is None:
            return selection
        if is_measured(selection.ordering) and "sensitivity" not in selection.scores(session):
            selection = replace(selection, ordering="lim")
        possible = {*chosen.levels, UNTOUCHED}
        n = session.info.num_layers
        if any(not 0 <= i < n or level not in possible for i, level in selection.pins.items()):
            selection = replace(selection, pins={})
        return selection

    def sweep_levels(self, v: Values) -> tuple[tuple[float, ...], Level]:
        """The levels of the sweep's curves, and the one whose sensitivity counts for them."""
        p = self.parts
        levels = THREE_LEVELS if v[p.sweep_levels] == THREE else self.selection(v).levels
        return levels, (self.quantizer(v), levels[-1])

    def planned(self, session: Session, v: Values) -> Plan:
        """What to sweep with the chosen quantizer and the others asked for, as far as the orders
        are known yet. Raises UserError where there is nothing to sweep."""
        p, chosen = self.parts, self.selection(v)
        info, _ = ready(session)
        levels, level = self.sweep_levels(v)
        values = {name: s.values for name, s in session.scores_at(level).items()}
        if not v[p.orderings]:
            raise UserError("Choose at least one order to sweep.")
        if why := why_left_out(chosen.quantizer, levels):
            raise UserError(f"{why} Choose other levels.")
        ranked = [o for o in v[p.orderings] if o != ALIKE]
        names = [o for o in ranked if ORDERINGS[o].scorer in (None, *values)]
        lines = curves(names, values, info.num_layers, levels, v[p.every])
        every = dict.fromkeys([chosen.quantizer, *(QUANTIZERS[family] for family in v[p.also])])
        plans, left_out, uniform = {}, [], False
        for q in every:
            if why := why_left_out(q, levels):
                left_out.append(why)
                continue
            between = [levels[0], levels[-1]]
            if ALIKE in v[p.orderings] and len(levels) == 2:
                between = levels_between(q.levels, *levels)
                uniform |= len(between) > 2
            # Of a calibrated one every level more would be one more calibration.
            ends = {UNTOUCHED, *levels} if q.calibrated else {UNTOUCHED, 8, 4, 2} & {16, *q.levels}
            of = alike([*ends, *between], info.num_layers)
            plans[q] = list(dict.fromkeys(all_splits([of, *lines])))
        if ALIKE in v[p.orderings] and not uniform:
            why = nothing_between(chosen)
            if not ranked:
                raise UserError(why)
            left_out.append(why)
        return Plan(plans, tuple(left_out))

    def contest(self, session: Session, v: Values) -> Plan:
        """What to measure for “Does it matter?”."""
        selection, versus = self.selection(v), v[self.parts.versus]
        plans: dict[Quantizer, list[Split]] = {}
        left_out: list[str] = []
        if versus == ALIKE:
            pairs = alike_contenders(session, selection)
            every = [c for pair in pairs for c in pair]
        elif versus == BY_QUANTIZER:
            every, left_out = quantizer_contenders(session, selection)
        else:
            every = order_contenders(session, selection)
        for c in every:
            plans.setdefault(c.quantizer, []).append(c.split)
        return Plan(plans, tuple(left_out))

    def tasks(self, v: Values) -> list[str]:
        names = expand([*v[self.parts.tasks], *(name.strip() for name in v[self.parts.others])])
        if not names:
            raise UserError("Choose at least one thing to measure.")
        return names

    def measured(self, evaluations: Iterable[Evaluation], v: Values) -> list[Evaluation]:
        """On as many items as chosen."""
        limit, tasks = limit_of(v[self.parts.quick]), self.server.tasks
        return [
            e
            for e in evaluations
            if e.limit == (tasks[e.task].limited(limit) if e.task in tasks else limit)
        ]

    def known(self, session: Session, v: Values, quantizer: Quantizer) -> set[tuple[str, Split]]:
        """(task, split) of what the quantizer was measured at."""
        of = {quantizer.name, "none"}
        found = self.measured(session.evaluations, v)
        return {(e.task, e.split) for e in found if e.quantizer in of}

    def lacking(
        self,
        session: Session,
        v: Values,
        quantizer: Quantizer,
        splits: Sequence[Split],
        tasks: Sequence[str],
    ) -> list[Split]:
        known = self.known(session, v, quantizer)
        return [split for split in splits if any((task, split) not in known for task in tasks)]

    def unpackable(self, session: Session, quantizer: Quantizer, splits: Sequence[Split]) -> str:
        """Why layers that the splits need cannot be packed here; empty where they can, or are
        packed already."""
        info, _ = ready(session)
        return why_not_packed(info, quantizer, splits, self.server.store)

    def feasible(self, session: Session, v: Values, plan: Plan, tasks: Sequence[str]) -> Plan:
        """Without the quantizers that cannot pack here what is still to measure. Raises UserError
        where the chosen one, which comes first, is among them."""
        splits, left_out = {}, [*plan.left_out]
        for q, every in plan.splits.items():
            lacking = self.lacking(session, v, q, every, tasks)
            if not (why := self.unpackable(session, q, lacking)):
                splits[q] = every
            elif q == next(iter(plan.splits)):
                raise UserError(why)
            else:
                left_out.append(f"{plain_title(q)} is left out. {why}")
        return Plan(splits, tuple(left_out))

    def titles(self, evaluations: Iterable[Evaluation]) -> dict[str, str]:
        shipped = {name: task.title for name, task in self.server.tasks.items()}
        return shipped | {e.task: e.task for e in evaluations if e.task not in shipped}

    def chosen(self, evaluations: Sequence[Evaluation], v: Values) -> str | None:
        """The "task/metric" of the chart, or the first that was measured; None where none was."""
        choices = metric_choices(evaluations, self.titles(evaluations))
        values = [value for _, value in choices]
        chosen: str | None = v[self.parts.metric]
        return chosen if chosen in values else next(iter(values), None)

    def focus(self, session: Session, v: Values, tasks: list[str]) -> Updates:
        """Puts something on the chart that is just being measured."""
        found = self.measured((*session.evaluations, *session.early), v)
        choices = metric_choices(found, self.titles(found))
        first = next((value for _, value in choices if value.split("/")[0] in tasks), None)
        return {self.parts.metric: gr.update(choices=choices, value=first)} if first else {}

    # ---- what stands on the page

    def show_model(self, session: Session, selection: Selection, v: Values) -> Updates:
        p, (info, _) = self.parts, ready(session)
        context = kept_context(v[p.context], v[p.session].info, info)
        if target := selection.target:
            usage = replace(target.usage, context=context)
            selection = replace(selection, target=replace(target, usage=usage))
        return (
            {p.session: session, p.card: loaded_card(info, session.streamed), p.truth: ""}
            | {p.beside: None}
            | {p.context: gr.update(choices=context_choices(info), value=context)}
            | {p.fitted: self.controls_of_memory({**v, p.context: context})}
            | self.cards()
            | self.other_models(session)
            | self.everything(
                session, selection, {**v, p.beside: None}, {"value": selection.value(session)}
            )
        )

    def controls(self, selection: Selection) -> Updates:
        """The controls that say the same as the bar."""
        p = self.parts
        return {
            p.ordering: selection.ordering,
            p.seed: gr.update(value=selection.seed, visible=selection.ordering == "random"),
        } | self.controls_of_quantizer(selection)

    def other_models(self, session: Session) -> Updates:
        every = [
            (f"{m.model_id} ({m.dtype})", model_key(m))
            for m in self.server.other_models(ready(session)[0])
        ]
        visible: Any = True if every else "hidden"
        return {
            self.parts.other: gr.update(choices=[("None", ""), *every], value="", visible=visible)
        }

    def everything(
        self, session: Session, selection: Selection, v: Values, thumb: Updates | None = None
    ) -> Updates:
        """All that scores and results say. `thumb` moves the slider; it stays otherwise."""
        p = self.parts
        scores = selection.scores(session)
        orders = [
            (o.title, o.name)
            for o in ORDERINGS.values()
            if not (
                o.prunes
                or (o.scorer and SCORERS[o.scorer].measures_level and o.scorer not in scores)
            )
        ]
        # An order that holds is left alone: the user may have chosen another one meanwhile.
        holds = selection.ordering == v[p.ordering]
        order: Updates = {} if holds else {"value": selection.ordering}
        return (
            {
                p.scored: scored_html(ready(session)[0], scores),
                p.ordering: gr.update(choices=orders, **order),
                p.sizes: selection.sizes(session),
                p.packing: self.packing(session, selection, v),
            }
            | self.results(session, selection, v)
            | self.bar(session, selection, v, thumb)
            | self.comparison(session, selection, v)
        )

    def bar(
        self, session: Session, selection: Selection, v: Values, thumb: Updates | None = None
    ) -> Updates:
        of = {selection.quantizer.name, "none"}
        known = [e for e in self.measured(session.evaluations, v) if e.quantizer in of]
        chosen = self.chosen(known, v)
        table = selection.table(session, chosen, self.titles(known), known)
        bar = gr.update(table=table, visible=True, **(thumb or {}))
        return {self.parts.bar: bar, self.parts.left: self.left(session, selection, v)}

    def left(self, session: Session, selection: Selection, v: Values) -> str:
        """What the card leaves for the weights, or why that cannot be told."""
        try:
            self.target(v)
        except UserError as e:
            return error_html(str(e))
        return selection.left(session)

    def comparison(self, session: Session, selection: Selection, v: Values) -> Updates:
        known = self.measured(session.evaluations, v)
        chosen = self.chosen(known, v)
        try:
            return {self.parts.comparison: self.compared(session, selection, v, known, chosen)}
        except UserError as e:
            return {self.parts.comparison: paragraphs_html(str(e))}

    def compared(
        self,
        session: Session,
        selection: Selection,
        v: Values,
        known: Sequence[Evaluation],
        chosen: str | None,
    ) -> str:
        versus, titles = v[self.parts.versus], self.titles(known)
        if versus == ALIKE:
            pairs = alike_contenders(session, selection)
            if chosen is None:
                return NOTHING_YET
            return alike_html(pairs, known, chosen, titles, selection.levels)
        left_out: list[str] = []
        if versus == BY_QUANTIZER:
            every, left_out = quantizer_contenders(session, selection)
            there = {(e.split, e.quantizer) for e in known}
            for c in every[1:]:
                if (c.split, c.quantizer.name) in there:
                    continue
                if why := self.unpackable(session, c.quantizer, [c.split]):
                    left_out.append(f"{c.title} is left out. {why}")
                    every.remove(c)
        else:
            every = order_contenders(session, selection)
        if chosen is None:
            return NOTHING_YET
        return comparison_html(every, known, chosen, titles, left_out)

    def results(self, session: Session, selection: Selection, v: Values) -> Updates:
        """The chart and the table of what was measured on as many items as chosen."""
        p = self.parts
        shown = self.measured((*session.evaluations, *session.early), v)
        titles = self.titles(shown)
        choices = metric_choices(shown, titles)
        chosen = self.chosen(shown, v)
        if chosen is None:
            return {
                p.metric: gr.update(choices=[], value=None, visible="hidden"),
                p.chart: gr.update(figure="", visible="hidden"),
                p.kept: "",
                p.results: NOTHING_YET,
            }
        info, _ = ready(session)
        orders = orders_of((e.split for e in shown), selection.values(session), selection.seed)
        levels = THREE_LEVELS if v[p.sweep_levels] == THREE else selection.levels
        quantizers = quantizers_of(shown)
        lines = selection.drawable(session, levels, v[p.orderings], quantizers)
        costs = costs_of(info, shown, selection.quantizer)
        beside: OtherModel | None = v[p.beside]
        other = (
            other_of(beside, selection, self.measured(beside.evaluations, v)) if beside else None
        )
        data = ChartData(
            model=ModelResults(short(info), shown, lines, costs),
            chosen=chosen,
            titles=titles,
            quantizer=selection.quantizer.name,
            ordering=selection.ordering,
            axis=v[p.axis],
            current=session.measured,
            orders=orders,
            other=other,
            beside=None if v[p.also] else set(),
        )
        figure = results_figure(data)
        kept = figure.pop("sentences")
        # A value that holds is left alone: a job may have put another one there meanwhile.
        value = {} if chosen == v[p.metric] else {"value": chosen}
        return {
            p.metric: gr.update(choices=choices, visible=True, **value),
            p.chart: gr.update(figure=as_json(figure), visible=True),
            p.kept: paragraphs_html(*kept),
            p.results: results_table(
                shown, titles, session.measured, orders, selection.quantizer.name
            ),
        }


def other_of(
    beside: OtherModel, selection: Selection, evaluations: Sequence[Evaluation]
) -> ModelResults:
    """The second model by LIM, at the pair of levels of which most was measured: in the paper it is
    another pair than the first model's."""
    values = {name: s.values for name, s in beside.scores.items()}
    names = ["lim"] if "lim" in values else []
    measured = {e.split for e in evaluations}
    lines = [
        curves(names, values, beside.info.num_layers, pair) for pair in selection.quantizer.pairs
    ]
    best = max(lines, key=lambda line: len(measured.intersection(all_splits(line))))
    costs = costs_of(beside.info, evaluations, selection.quantizer)
    return ModelResults(short(beside.info), evaluations, best, costs)


def costs_of(
    info: ModelInfo, evaluations: Iterable[Evaluation], quantizer: Quantizer
) -> dict[str, ModelCost]:
    """By the quantizer of every evaluation; the unquantized model has the same bytes for all."""
    costs = {q.name: model_cost(info, q) for q in {quantizer, *quantizers_of(evaluations)}}
    return costs | {"none": costs[quantizer.name]}


def quantizers_of(evaluations: Iterable[Evaluation]) -> set[Quantizer]:
    return {quantizer_named(name) for name in {e.quantizer for e in evaluations} - {"none"}}


def short(info: ModelInfo) -> str:
    """'Llama-2-7b-hf', of whatever organisation or folder."""
    return Path(info.model_id).name


def is_measured(ordering: str) -> bool:
    """Whether its scores exist only where somebody asked for them."""
    scorer = ORDERINGS[ordering].scorer if ordering != ALIKE else None
    return scorer is not None and SCORERS[scorer].measures_level


def model_key(info: ModelInfo) -> str:
    return f"{info.fingerprint} {info.dtype}"


def limit_of(quick: str) -> int | None:
    return QUICK if quick == "quick" else None
