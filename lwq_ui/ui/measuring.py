"""Measures splits on the chosen tasks, and shows results as they become known."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..core.allocation import Split
from ..core.errors import Stopped, UserError
from ..core.memory import GIB
from ..core.run import Run
from ..core.schema import Evaluation
from ..engine.banks.packing_cost import why_not_packed
from ..engine.quantizers import Quantizer
from .events import Events
from .loading import level_scores, loaded_model
from .plans import Plan, feasible, lacking
from .session import Session, Wanted
from .situation import Situation
from .strip import Updates
from .wording import plain_title
from .worker import Job

if TYPE_CHECKING:
    from ..engine.jobs import Evaluated
    from ..engine.models.loading import LoadedModel


class Measuring:
    """A job that measures what `plan_of` a situation says, quantizer after quantizer.

    The plan may depend on scores of the sweep's level: those of `level_scorers` are measured first.
    What the `weighed` split really takes is measured, too. `name` says in the status line what was
    measured. Results are kept, whatever ends the job.
    """

    def __init__(
        self,
        events: Events,
        s: Situation,
        user: str,
        plan_of: Callable[[Situation], Plan],
        name: str,
        weighed: Split | None = None,
        level_scorers: Sequence[str] = (),
    ):
        self.events, self.s, self.user = events, s, user
        self.plan_of, self.name = plan_of, name
        self.store = events.server.store
        self.tasks = s.chosen_tasks()
        self.plan = feasible(s, plan_of(s), self.tasks, self.store)
        self.level_scorers = level_scorers
        if level_scorers:
            low = (s.sweep_level[1],) * s.info.num_layers
            if why := why_not_packed(s.info, s.quantizer, [low], self.store):
                raise UserError(why)
        self.one_split = weighed is not None
        can_weigh = weighed and not why_not_packed(s.info, s.quantizer, [weighed], self.store)
        self.weighed = weighed if can_weigh else None
        # What the chart does not show yet of a sweep, it shows as that is measured.
        self.lacking = [
            task
            for task in self.tasks
            if any(lacking(s, q, splits, [task]) for q, splits in self.plan.splits.items())
        ]
        self.session = s.session  # with what is known so far; the worker's thread adds to it
        self.wanted = s.session.wanted
        self.drawn = (s.controls.metric or "").split("/")[0]  # the task on the chart

    def run(self, **controls: Any) -> Iterator[Updates]:
        """Yields the session as results become known. `controls` are set at the start."""
        began, strip = time.perf_counter(), self.events.strip
        # A forecast is of what was to do before this job, on a machine that did nothing else.
        self.session = replace(self.session, forecast=None)
        if not self.one_split and self.drawn not in self.lacking:
            controls |= self.focus(self.session, self.lacking[:1])
        self.want(controls)
        yield self.redrawn(self.session)
        try:
            done, truth = yield from self.events.follow(self.user, self.work, self.shown_early)
        except (Stopped, UserError):
            yield {strip.session: replace(self.session, wanted=self.wanted)}
            raise
        session = self.session.with_evaluations(done.evaluations)
        if truth:
            session = replace(session, truth=(truth, done.peak_bytes))
        if self.drawn not in self.tasks:
            self.want(self.focus(session, self.tasks))
        took = time.perf_counter() - began
        message = f"Measured before ({self.name}): answered from the cache."
        if done.computed:
            message = f"Measured ({self.name}) in {took:.0f} s."
        updates: Updates = {strip.session: replace(session, wanted=self.wanted)}
        if done.failures:
            updates |= strip.fail(UserError(" ".join(done.failures)), self.user)
        yield updates | strip.idle(self.user, " ".join([message, *self.plan.left_out]))

    def want(self, controls: dict[str, Any]) -> None:
        """Sets controls when the page is drawn next."""
        if controls:
            self.wanted = Wanted(controls)

    def redrawn(self, session: Session) -> Updates:
        session = replace(session, wanted=self.wanted)
        return {self.events.strip.session: session, self.events.strip.redraw: time.time()}

    def focus(self, session: Session, tasks: list[str]) -> dict[str, str]:
        """Returns the metric that puts one of these tasks on the chart; nothing where none of them
        has a result."""
        s = replace(self.s, session=session)
        values = [value for _, value in s.metric_choices(s.results_so_far)]
        first = next((value for value in values if value.split("/")[0] in tasks), None)
        if first is None:
            return {}
        self.drawn = first.split("/")[0]
        return {"metric": first}

    def shown_early(self, partial: tuple[Session, str]) -> Updates:
        """Returns results so far, with a task on the chart that just got its first."""
        session, task = partial
        if task not in ("", self.drawn) and not (self.one_split and self.drawn in self.tasks):
            self.want(self.focus(session, [task]))
        return self.redrawn(session)

    # ---- in the worker's thread

    def work(self, job: Job) -> tuple[Evaluated, Any]:
        """Returns what was measured, and what the weighed split takes."""
        from ..engine import jobs

        loaded = loaded_model(self.events.server, self.session, self.user, job)
        if self.level_scorers:
            level, text = self.s.sweep_level, self.session.text or self.events.server.shipped_text
            scores = level_scores(loaded, text, level, self.level_scorers, job.run)
            self.session = self.session.with_level_scores(level, scores)
        done = self.measure(loaded, job)
        # What was answered from the cache is packed only where that takes seconds.
        if not self.weighed or not (done.computed or loaded.info.total_bytes < GIB):
            return done, None
        quantizer = self.s.quantizer
        jobs.bank_of(loaded, quantizer, self.store).fill([self.weighed], job.run)
        return done, jobs.truth(loaded, self.weighed, quantizer, job.run)

    def measure(self, loaded: LoadedModel, job: Job) -> Evaluated:
        """Evaluates the plan. Where a quantizer fails, the others are measured all the same."""
        from ..engine import jobs

        splits = self.plan_of(replace(self.s, session=self.session)).splits

        def keep(new: list[Evaluation], whole: bool) -> None:
            finished, early = (new, []) if whole else ([], new)
            self.session = self.session.with_evaluations(finished, early)
            task = next((e.task for e in new if e.task in self.lacking), "")
            job.partial = self.session, task

        evaluated: list[Evaluated] = []
        failures: list[str] = []
        for k, quantizer in enumerate(self.plan.splits):
            distinct = list(dict.fromkeys(splits[quantizer]))
            limit, chat = self.s.controls.limit, self.session.chat
            measurement = jobs.Measurement(distinct, quantizer, self.tasks, limit, chat)
            part = named_part(job.run, quantizer, k, len(self.plan.splits))
            try:
                evaluated.append(jobs.evaluate(loaded, measurement, part, keep))
            except UserError as e:
                if len(self.plan.splits) == 1:
                    raise
                failures.append(f"{plain_title(quantizer)}: {e}")
        if not evaluated:
            raise UserError(" ".join(failures))
        return all_evaluated(evaluated, failures)


def all_evaluated(evaluated: Sequence[Evaluated], failures: Sequence[str]) -> Evaluated:
    """Returns the evaluations of several quantizers, and what failed of others, as one."""
    from ..engine import jobs

    messages = [failure for e in evaluated for failure in e.failures]
    return jobs.Evaluated(
        [evaluation for e in evaluated for evaluation in e.evaluations],
        sum(e.computed for e in evaluated),
        tuple(dict.fromkeys([*messages, *failures])),
        max((e.peak_bytes or 0 for e in evaluated), default=0) or None,
    )


def named_part(run: Run, quantizer: Quantizer, k: int, total: int) -> Run:
    """Returns the part of a run that is the k-th of `total` quantizers. One alone needs no name."""
    if total == 1:
        return run
    part, title = run.part(k / total, (k + 1) / total), plain_title(quantizer)
    return replace(part, progress=lambda what, share: part.progress(f"{title}: {what}", share))
