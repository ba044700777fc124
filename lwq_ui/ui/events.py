"""What the page does. Handlers are functions of their inputs; jobs run in the worker and are
followed by polling, so that every handler alone writes what it answers for."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.processing_utils import save_bytes_to_cache

from ..core.allocation import Split
from ..core.config import Config
from ..core.duration import duration
from ..core.errors import Stopped, UserError
from ..core.memory import GIB, UNTOUCHED
from ..core.orderings import ORDERINGS, QUICK_SCORERS
from ..core.run import Run
from ..core.schema import Evaluation, ModelInfo, Scores, split_name
from ..engine.configs import check_fingerprint, quantizer_of, read_config
from ..engine.exports import CONFIG_EXPORTS
from ..engine.quantizers import QUANTIZERS, Quantizer, quantizer_named
from ..engine.texts import PG19 as PG19_TEXT
from ..engine.texts import Text, calibration_text
from .layout import BY_ORDER, BY_QUANTIZER, MEASURE, OWN, PG19, Parts
from .modelcard import TOO_LARGE, disk_html, loaded_card, looked_card, scored_html, truth_html
from .paper_views import PAIR, VIEWS
from .quantizerpanel import levels_of
from .selection import from_config, from_split, ready
from .server import Server
from .session import Level, ModelChoice, OtherModel, Session
from .shown import Plan, Shown, Updates, Values, is_measured, limit_of, model_key
from .status import error_html, status_html
from .templates import lines_html
from .values import check
from .wording import plain_title
from .worker import Job, unexpected

if TYPE_CHECKING:
    from ..engine.jobs import Looked
    from ..engine.models.loading import LoadedModel

POLL_SECONDS = 0.2
Handler = Callable[["Handlers", Values, gr.Request], Iterator[Updates]]
Live = Callable[[Values], Updates]
LIVE: dict[str, Any] = {
    "queue": False,
    "show_progress": "hidden",
    "trigger_mode": "always_last",
    "api_visibility": "private",
}
# Waiting for the device is done in the worker's line, where Stop reaches it.
JOB: dict[str, Any] = {
    "show_progress": "hidden",
    "concurrency_limit": None,
    "api_visibility": "private",
}


def wire(p: Parts, server: Server) -> None:
    do = Handlers(p, server)
    anything = [c for c in vars(p).values() if isinstance(c, gr.blocks.Block) and c is not p.demo]
    anything += p.options.values()
    packer: list[Any] = [p.quantizer, *p.options.values()]
    card: list[Any] = [p.into, p.own_size, p.context, p.batch, p.cache]
    split: set[Any] = {p.session, p.bar, p.levels, p.ordering, p.seed, *packer, *card}
    measured = split | {p.quick, p.tasks, p.others}
    swept = measured | {p.orderings, p.also, p.sweep_levels, p.every}
    shown = split | {p.drawn, p.metric, p.quick, p.orderings, p.sweep_levels, p.axis, p.beside}
    shown |= {p.versus, p.also}
    text = {p.text, p.own_text}
    model = {p.model, p.device, p.dtype}

    def at_once(event: Any, handler: Live, inputs: set[Any], outputs: Any, **more: Any) -> Any:
        """`event` is one, a list of several, or what follows another event."""
        events = partial(gr.on, event) if isinstance(event, list) else event
        shows = list(dict.fromkeys([*outputs, p.status, p.error]))
        return events(do.at_once(handler, **more), inputs, shows, **LIVE)

    with p.demo:
        opened = p.demo.load(do.open, shown, anything, **JOB)
        p.demo.unload(do.close)
        p.stop.click(do.stop, None, p.error, **LIVE)

        at_once(p.levels.input, do.fresh_table, shown, anything)
        changed = [c.input for c in packer]
        gr.on(changed, None, js="() => document.body.classList.add('stale')")
        named = at_once(changed, do.another_quantizer, shown, anything)
        named.then(None, js="() => document.body.classList.remove('stale')")
        at_once(named.then, do.count_splits, swept, [p.forecast], chosen=False)
        order = [p.ordering.input, p.seed.input]
        ordered = at_once(order, do.new_table, shown, [p.bar, p.left, p.comparison, p.sizes])
        at_once(ordered.then, do.show_results, shown, anything, chosen=False)  # the order's band
        fitted = [p.into, p.bar, p.left, p.use, p.own_size, p.fitted]
        at_once([c.input for c in card], do.fit, shown | {p.fitted}, fitted)
        # `pin` and `select` are events because heatmap.js and curvechart.js name them.
        at_once(p.bar.pin, do.new_table, shown, [p.bar, p.left, p.comparison, p.sizes])
        at_once(p.bar.change, do.compare_again, shown, [p.comparison], chosen=False)
        at_once([p.quick.input, p.orderings.input, p.also.input], do.show_results, shown, anything)
        follows = [p.metric.change, p.sweep_levels.change, p.redraw.change]
        at_once(follows, do.show_results, shown, anything, chosen=False)
        p.ordering.change(lambda o: gr.update(visible=o == "random"), p.ordering, p.seed, **LIVE)
        p.text.change(lambda t: gr.update(visible=t == OWN), p.text, p.own_text, **LIVE)
        clicked = at_once(p.chart.select, do.load_split, shown | {p.chart}, anything)
        at_once(clicked.then, do.count_splits, swept, [p.forecast], chosen=False)
        at_once(p.other.change, do.draw_other, shown | {p.other}, anything, chosen=False)
        for name, button in p.views.items():
            given = shown | {p.other, p.tasks, p.others}
            viewed = at_once(button.click, partial(do.view, name), given, anything)
            drawn = at_once(viewed.then, do.show_results, shown, anything, chosen=False)
            at_once(drawn.then, do.count_splits, swept, [p.forecast], chosen=False)
        at_once(p.versus.input, do.versus, shown, [p.compare, p.comparison])
        choices: list[Any] = [p.orderings, p.sweep_levels, p.every, p.tasks, p.others, p.quick]
        counted = [c.change for c in [*choices, p.also, p.levels, p.redraw]]
        at_once(counted, do.count_splits, swept, [p.forecast], chosen=False)
        # What these change is answered above, whoever changed it; here the user did.
        answered = (p.metric, p.other, p.sweep_levels, p.every, p.tasks, p.others, p.also)
        at_once([c.input for c in answered], lambda v: {}, {p.session}, [])
        at_once(p.bar.settle, lambda v: {}, {p.session}, [])

        loaded = gr.on(
            [p.load.click, p.model.submit], do.load, shown | text | model, anything, **JOB
        )
        p.look.click(do.look, {p.session, p.model, p.dtype}, anything, **JOB)
        scored = p.score.click(do.score, split | text, anything, **JOB)
        sensed = p.measure.click(do.measure_sensitivity, split, anything, **JOB)
        evaluated = p.evaluate.click(do.evaluate, swept | {p.metric}, anything, **JOB)
        ran = p.sweep.click(do.sweep, swept | {p.metric}, anything, **JOB)
        compared = p.compare.click(do.compare, swept | {p.metric, p.versus}, anything, **JOB)
        p.how_long.click(do.how_long, swept, anything, **JOB)
        wrote = p.write.click(do.write, split | {p.prompt, p.write_seed, p.length}, anything, **JOB)
        imported = p.config.upload(do.load_config, shown | {p.config}, anything, **JOB)
        # What was chosen while a job ran is not among the inputs it began with.
        for job in (opened, loaded, scored, sensed, evaluated, ran, compared, imported, wrote):
            ended = at_once(job.then, do.refresh, shown, anything, chosen=False)
            ended = at_once(ended.then, do.count_splits, swept, [p.forecast], chosen=False)
            at_once(ended.then, do.disk, {p.session}, [p.disk], chosen=False)
        cleared = at_once(p.clear_disk.click, do.clear_disk, {p.session}, [p.disk])
        packed = at_once(cleared.then, do.what_packing_takes, shown, [p.packing], chosen=False)
        at_once(packed.then, do.count_splits, swept, [p.forecast], chosen=False)

        # A DownloadButton downloads what it held when it was clicked: fill a hidden one first.
        exported = at_once(p.export.click, do.export, split, [p.file], failing={p.file: None})
        exported.success(
            None,
            p.file,
            js="file => file && setTimeout(() => document.querySelector('#file').click(), 50)",
        )


def safely(handler: Handler) -> Handler:
    """Whatever ends a handler early is one sentence: the error line holds the last one. What
    failed before the job is over with it."""

    @wraps(handler)
    def run(self: Handlers, v: Values, request: gr.Request) -> Iterator[Updates]:
        self.failures.pop(user(request), None)
        yield {self.parts.error: ""}
        try:
            check(v)
            yield from handler(self, v, request)
        except Stopped:
            yield self.idle(request, "Stopped. What was packed and measured by then is kept.")
        except UserError as e:
            yield self.buttons(request) | self.failed(e, request)
        except (GeneratorExit, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as e:  # a tokenizer's panic is no Exception
            error = unexpected(e, self.server.settings.cache)
            yield self.buttons(request) | self.failed(error, request)

    return run


class Handlers(Shown):
    def __init__(self, parts: Parts, server: Server):
        super().__init__(parts, server)
        self.failures: dict[str, float] = {}  # user -> when what stands in the error line failed

    def at_once(
        self, handler: Live, chosen: bool = True, failing: Updates | None = None
    ) -> Callable[[Values, gr.Request], Updates]:
        """Guards what answers without a job. A user who has `chosen` something that succeeds is
        over with what failed before it; what only follows from something else leaves the error.
        `failing` is shown together with an error."""
        p = self.parts

        def run(v: Values, request: gr.Request) -> Updates:
            began = time.monotonic()
            try:
                check(v)
                shown = handler(v)
            except UserError as e:
                return self.failed(e, request) | (failing or {})
            except Exception as e:
                error = unexpected(e, self.server.settings.cache)
                return self.failed(error, request) | (failing or {})
            if p.error in shown:  # it did what it could
                self.failures[user(request)] = time.monotonic()
                shown = {p.status: status_html("")} | shown
            if self.server.worker.job_of(user(request)):
                shown = {c: update for c, update in shown.items() if c is not p.status}
            if chosen and self.failures.get(user(request), began) <= began:
                self.failures.pop(user(request), None)
                shown = {p.error: ""} | shown
            return shown or {p.error: gr.skip()}

        return run

    # ---- a browser comes and goes

    @safely
    def open(self, v: Values, request: gr.Request) -> Iterator[Updates]:
        """The demo model's scores stand on the page already where they ship with the program. Its
        weights are loaded now, so that the first evaluation need not wait for them; but nobody who
        has asked for nothing yet waits for another one's job."""
        p, server = self.parts, self.server
        session: Session = v[p.session]
        told = "The demo model is ready. Drag the memory budget."
        if session.info:
            # Measured since the program started, by this browser before it was reloaded for one.
            session = server.with_model(session, *ready(session))
            shown = self.everything(session, self.selection(v), v)
            yield {p.session: session} | self.cards() | self.other_models(session) | shown
            server.shelf.come(user(request))
            if server.shelf.join(user(request), session.choice) or server.worker.busy:
                yield self.idle(request, told)
                return
        text = server.shipped_text
        work = self.load_and_score(request, session.choice, lambda: text)
        info, streamed, text, scores = yield from self.follow(request, work)
        session = replace(session, streamed=streamed)
        yield {p.session: session, p.card: loaded_card(info, streamed)}
        if not session.info:
            session = server.with_model(session, info, scores)
            selection = self.selection(v)
            yield self.show_model(session, selection, v) | self.controls(selection)
        yield self.cards() | self.idle(request, told)

    def close(self, request: gr.Request) -> None:
        self.server.worker.stop(user(request))
        self.server.shelf.leave(user(request))
        self.failures.pop(user(request), None)

    def stop(self, request: gr.Request) -> str:
        self.server.worker.stop(user(request))
        return ""  # of the error line

    # ---- jobs

    @safely
    def load(self, v: Values, request: gr.Request) -> Iterator[Updates]:
        """Loads and scores. Where either fails, the session keeps the model it had."""
        p = self.parts
        choice = ModelChoice(v[p.model].strip(), v[p.device], v[p.dtype])
        work = self.load_and_score(request, choice, lambda: self.text_of(v))
        info, streamed, text, scores = yield from self.follow(request, work)
        session = self.server.with_model(
            Session(choice, text=text, streamed=streamed), info, scores
        )
        selection = replace(self.selection(v), budget=None, pins={})
        told = f"{info.model_id} is loaded and scored."
        yield self.show_model(session, selection, v) | self.idle(request, told)

    @safely
    def look(self, v: Values, request: gr.Request) -> Iterator[Updates]:
        """Says what a model is. Nothing is loaded; the session keeps the model it has."""
        p = self.parts

        def work(job: Job) -> Looked:
            from ..engine import jobs

            return jobs.look(v[p.model], v[p.dtype], job.run)

        looked = yield from self.follow(request, work)
        told = f"{looked.info.model_id} is described on its card. Nothing was loaded."
        yield {p.card: looked_card(looked, v[p.session].info)} | self.idle(request, told)

    @safely
    def score(self, v: Values, request: gr.Request) -> Iterator[Updates]:
        session: Session = v[self.parts.session]

        def work(job: Job) -> tuple[Text, dict[str, Scores]]:
            text = self.text_of(v)
            return text, self.score_with(self.model_of(session, request, job), text, job)

        text, scores = yield from self.follow(request, work)
        info, _ = ready(session)
        sensitivity = self.server.known_sensitivity(info, text)
        session = replace(session, text=text, scores=scores, sensitivity=sensitivity)
        yield {
            self.parts.session: session,
            self.parts.scored: scored_html(info, self.selection(v).scores(session)),
        } | self.idle(request, f"Scored on {text.name}.")

    @safely
    def measure_sensitivity(self, v: Values, request: gr.Request) -> Iterator[Updates]:
        """Of the chosen quantizer's low level, on the text that the other scores came from."""
        session, selection = v[self.parts.session], self.selection(v)
        level = (self.quantizer(v), selection.levels[1])
        low = (level[1],) * ready(session)[0].num_layers
        if level not in session.sensitivity and (why := self.unpackable(session, level[0], [low])):
            raise UserError(why)

        def work(job: Job) -> Scores:
            return self.sensitivity(self.model_of(session, request, job), session, level, job)

        scores = yield from self.follow(request, work)
        session = replace(session, sensitivity={**session.sensitivity, level: scores})
        title = level[0].level_title(level[1])
        told = f"Sensitivity at {title} is measured: it can now be the order, too."
        yield {
            self.parts.session: session,
            self.parts.scored: scored_html(ready(session)[0], selection.scores(session)),
        } | self.idle(request, told)

    @safely
    def evaluate(self, v: Values, request: gr.Request) -> Iterator[Updates]:
        session, selection = v[self.parts.session], self.selection(v)
        split = selection.split(session)
        compared = [(level,) * len(split) for level in (UNTOUCHED, *selection.levels)]
        told = {} if split == session.measured else {self.parts.truth: ""}
        session = replace(session, measured=split)
        yield {self.parts.sweep_levels: PAIR} | told  # three levels' chart has no place for it
        plan = Plan({selection.quantizer: [split, *compared]})
        yield from self.measure(
            session, v, request, lambda known: plan, split_name(split), weighed=split
        )

    @safely
    def sweep(self, v: Values, request: gr.Request) -> Iterator[Updates]:
        session = v[self.parts.session]
        names, many = v[self.parts.orderings], len(self.planned(session, v).splits)
        levels, level = self.sweep_levels(v)
        bits = "/".join(f"{b:g}" for b in levels)
        lacking = any(map(is_measured, names)) and level not in session.sensitivity
        yield from self.measure(
            session,
            v,
            request,
            lambda known: self.planned(known, v),
            f"{len(names)} order{'s' * (len(names) > 1)}, {bits} bits"
            + f", {many} quantizers" * (many > 1),
            level if lacking else None,
        )

    @safely
    def compare(self, v: Values, request: gr.Request) -> Iterator[Updates]:
        session = v[self.parts.session]
        plan = self.contest(session, v)
        yield {self.parts.sweep_levels: PAIR}
        names = {BY_ORDER: "every order here", BY_QUANTIZER: "every quantizer here"}
        told = names.get(v[self.parts.versus], "all layers alike and mixes")
        yield from self.measure(session, v, request, lambda known: plan, told)

    def measure(
        self,
        session: Session,
        v: Values,
        request: gr.Request,
        plan_of: Callable[[Session], Plan],
        name: str,
        sensitivity: Level | None = None,
        weighed: Split | None = None,
    ) -> Iterator[Updates]:
        """Measures splits on the chosen tasks, quantizer after quantizer, after the `sensitivity`
        of a level where they need it, and what the `weighed` one really takes. Results are shown as
        they become known, and kept whatever ends the job."""
        p, server = self.parts, self.server
        tasks = self.tasks(v)
        quantizer, limit = self.quantizer(v), limit_of(v[p.quick])
        known, began = session, time.perf_counter()
        plan = self.feasible(session, v, plan_of(session), tasks)
        low = (sensitivity[1],) * ready(session)[0].num_layers if sensitivity else None
        if low and (why := self.unpackable(session, quantizer, [low])):
            raise UserError(why)
        one_split = weighed is not None
        if weighed and self.unpackable(session, quantizer, [weighed]):
            weighed = None
        # What the chart does not show yet of a sweep, it shows as that is measured.
        lacking = [
            task
            for task in tasks
            if any(
                self.lacking(session, v, one, every, [task]) for one, every in plan.splits.items()
            )
        ]
        drawn = (v[p.metric] or "").split("/")[0]
        focus = {} if one_split or drawn in lacking else self.focus(session, v, lacking[:1])
        drawn = lacking[0] if focus else drawn
        # A forecast is of what was to do before this job, on a machine that did nothing else.
        yield {p.forecast: lines_html(self.counted(session, v))} | focus

        def work(job: Job) -> Any:
            nonlocal known
            from ..engine import jobs

            loaded = self.model_of(session, request, job)
            if sensitivity:
                scores = self.sensitivity(loaded, session, sensitivity, job)
                found = {**known.sensitivity, sensitivity: scores}
                known = replace(known, sensitivity=found)

            def became_known(new: list[Evaluation], whole: bool) -> None:
                nonlocal known
                known = (
                    known.with_evaluations(new) if whole else known.with_evaluations([], early=new)
                )
                job.partial = known, next((e.task for e in new if e.task in lacking), "")

            whole, each = plan_of(known).splits, []
            failures: list[str] = []
            for k, one in enumerate(plan.splits):
                splits = list(dict.fromkeys(whole[one]))
                measurement = jobs.Measurement(splits, one, tasks, limit)
                part = named_part(job.run, one, k, len(plan.splits))
                try:
                    each.append(jobs.evaluate(loaded, measurement, part, became_known))
                except UserError as e:  # the others can be measured all the same
                    if len(plan.splits) == 1:
                        raise
                    failures.append(f"{plain_title(one)}: {e}")
            if not each:
                raise UserError(" ".join(failures))
            done = jobs.Evaluated(
                [e for one in each for e in one.evaluations],
                sum(one.computed for one in each),
                tuple(dict.fromkeys([f for one in each for f in one.failures] + failures)),
                max((one.peak_bytes or 0 for one in each), default=0) or None,
            )
            # What was answered from the cache is packed only where that takes seconds.
            if not weighed or not (done.computed or loaded.info.total_bytes < GIB):
                return done, None
            jobs.bank_of(loaded, quantizer, server.store).fill([weighed], job.run)
            return done, jobs.truth(loaded, weighed, quantizer, job.run)

        def told_early(partial: tuple[Session, str]) -> Updates:
            nonlocal drawn
            so_far, task = partial
            updates = {p.session: so_far, p.redraw: time.time()}
            if task not in ("", drawn) and not (one_split and drawn in tasks):
                updates |= self.focus(so_far, v, [task])
                drawn = task
            return updates

        try:
            done, truth = yield from self.follow(request, work, told_early)
        except (Stopped, UserError):
            yield {p.session: known}
            raise
        known = known.with_evaluations(done.evaluations)
        took = time.perf_counter() - began
        told = (
            f"Measured ({name}) in {took:.0f} s."
            if done.computed
            else (f"Measured before ({name}): answered from the cache.")
        )
        told = " ".join([told, *plan.left_out])
        updates = {p.session: known} | ({} if drawn in tasks else self.focus(known, v, tasks))
        if truth:
            updates[p.truth] = truth_html(truth, done.peak_bytes)
        if done.failures:
            updates |= self.failed(UserError(" ".join(done.failures)), request)
        yield updates | self.idle(request, told)

    @safely
    def how_long(self, v: Values, request: gr.Request) -> Iterator[Updates]:
        p = self.parts
        session: Session = v[p.session]
        tasks = self.tasks(v)
        plan = self.feasible(session, v, self.planned(session, v), tasks)

        def work(job: Job) -> Any:
            from ..engine import jobs

            loaded = self.model_of(session, request, job)
            each = [
                jobs.forecast(
                    loaded,
                    jobs.Measurement(splits, q, tasks, limit_of(v[p.quick])),
                    named_part(job.run, q, k, len(plan.splits)),
                )
                for k, (q, splits) in enumerate(plan.splits.items())
            ]
            return jobs.Forecast.of_all(each)

        found = yield from self.follow(request, work)
        parts = [self.counted(session, v)]
        if found.seconds:
            calibrating = ""
            if found.calibrating:
                calibrating = f", of which calibrating takes {duration(found.calibrating)}"
            parts.append(f"That takes {duration(found.seconds)} on this machine{calibrating}.")
        if found.unknown:
            parts.append(f"Not known before it starts: {', '.join(found.unknown)}.")
        yield {p.forecast: lines_html(" ".join(parts))} | self.idle(request, "Ready.")

    @safely
    def write(self, v: Values, request: gr.Request) -> Iterator[Updates]:
        p = self.parts
        session, selection = v[p.session], self.selection(v)
        quantizer, split = self.quantizer(v), selection.split(session)
        if why := self.unpackable(session, quantizer, [split]):
            raise UserError(why)
        length = room = int(v[p.length])

        def work(job: Job) -> tuple[str, str]:
            nonlocal room
            from ..engine import jobs
            from ..engine.generation import fit_prompt

            loaded, begun = self.model_of(session, request, job), v[p.prompt]
            room = fit_prompt(loaded, begun, length)[1]
            for original, quantized in jobs.generate(
                loaded,
                split,
                quantizer,
                begun,
                int(v[p.write_seed] or 0),
                length,
                job.run,
            ):
                there = TOO_LARGE if loaded.streamed else begun + original
                job.partial = there, begun + quantized
            return job.partial or (begun, begun)

        def written(texts: tuple[str, str]) -> Updates:
            return dict(zip((p.original, p.quantized), texts, strict=True))

        label = f"Quantized: {split_name(split)}"
        yield {p.original: "", p.quantized: gr.update(value="", label=label)}
        texts = yield from self.follow(request, work, written)
        less = f" {room} tokens, for with the prompt this model has no room for more."
        yield written(texts) | self.idle(request, "Written." + less * (room < length))

    @safely
    def load_config(self, v: Values, request: gr.Request) -> Iterator[Updates]:
        """Brings model, pins, order and budget back."""
        p = self.parts
        session: Session = v[p.session]
        config = self.read_config(v[p.config])
        info = session.info
        if info is None or (info.fingerprint, info.dtype) != (config.fingerprint, config.dtype):
            choice = ModelChoice(config.model_id, "auto", config.dtype)
            text = self.server.shipped_text
            work = self.load_and_score(request, choice, lambda: text, config)
            info, streamed, text, scores = yield from self.follow(request, work)
            session = self.server.with_model(
                Session(choice, text=text, streamed=streamed), info, scores
            )
        check_fingerprint(config, ready(session)[0])
        session, selection, told = from_config(session, config)
        selection = replace(selection, target=self.selection(v).target)
        choice = session.choice
        model = {p.model: choice.model_id, p.device: choice.device, p.dtype: choice.dtype}
        shown = self.show_model(session, selection, v) | self.controls(selection) | model
        yield shown | self.idle(request, told)

    def follow(
        self,
        request: gr.Request,
        work: Callable[[Job], Any],
        partial: Callable[[Any], Updates] = lambda partial: {},
    ) -> Generator[Updates, None, Any]:
        """Submits a job and shows how far it is until it ends. Returns its result or raises its
        error."""
        p, worker = self.parts, self.server.worker
        self.server.shelf.come(user(request))
        job = worker.submit(user(request), work)
        yield self.buttons(request)
        pace, shown, told = Pace(), "", None
        try:
            while not job.done.wait(POLL_SECONDS):
                if ahead := worker.ahead_of(job):
                    jobs = "1 job is" if ahead == 1 else f"{ahead} jobs are"
                    line = status_html(f"Waiting: {jobs} before yours.", running=True)
                elif job.run.stop.is_set():
                    line = status_html("Stopping", running=True)
                else:
                    left = pace.left(job.share, time.monotonic())
                    line = status_html(job.what, share=job.share, left=left, running=True)
                known = job.partial
                if line != shown or known is not told:
                    updates = partial(known) if known is not told else {}
                    shown, told = line, known
                    yield {p.status: line} | updates
        finally:  # a closed browser ends here, on the event loop: this must return at once
            job.run.stop.set()
        if job.error:
            raise job.error
        return job.result

    def load_and_score(
        self,
        request: gr.Request,
        choice: ModelChoice,
        text_of: Callable[[], Text],
        config: Config | None = None,
    ) -> Callable[[Job], tuple[ModelInfo, bool, Text, dict[str, Scores]]]:
        def work(job: Job) -> tuple[ModelInfo, bool, Text, dict[str, Scores]]:
            from ..engine.devices import local_devices

            text = text_of()
            try:
                loaded = self.server.shelf.load(choice, job.run)
            except UserError as e:
                if config is None:
                    raise
                raise UserError(
                    f"{e} The config names '{config.model_id}': if its files lie elsewhere, load "
                    "them before the config."
                ) from e
            self.server.devices = local_devices()
            if config:
                check_fingerprint(config, loaded.info)
            scores = self.score_with(loaded, text, job)
            self.server.shelf.assign(user(request), choice, loaded)
            return loaded.info, loaded.streamed, text, scores

        return work

    def score_with(self, loaded: LoadedModel, text: Text, job: Job) -> dict[str, Scores]:
        from ..engine import jobs

        return jobs.score(loaded, QUICK_SCORERS, text, job.run)

    def sensitivity(self, loaded: LoadedModel, session: Session, level: Level, job: Job) -> Scores:
        from ..engine import jobs

        text = session.text or self.server.shipped_text
        quantizer, low = level
        scores = jobs.score(loaded, ["sensitivity"], text, job.run, quantizer=quantizer, low=low)
        return scores["sensitivity"]

    # ---- at once

    def fresh_table(self, v: Values) -> Updates:
        """Other levels have another range of bytes: the budget goes back to its middle."""
        session: Session = v[self.parts.session]
        if session.info is None:
            return {}
        selection = replace(self.selection(v), budget=None, pins={})
        return self.everything(session, selection, v, {"value": selection.value(session)})

    def fit(self, v: Values) -> Updates:
        """Another card or use: the slider goes to the split that fits. A list that is left as it
        was makes an event, too, and must not take back what was dragged meanwhile."""
        p, now = self.parts, self.controls_of_memory(v)
        shown = {p.fitted: now}
        if now == v[p.fitted]:
            return shown
        shown |= self.asked(v) | self.cards()  # whoever loads a model looks at the devices again
        session: Session = v[p.session]
        if session.info is None:
            return shown
        selection = replace(self.selection(v), budget=None)
        target = selection.target
        fits = target is not None and target.card(session.info) is not None
        thumb = {"value": selection.value(session)} if fits else None
        return shown | self.bar(session, selection, v, thumb)

    def another_quantizer(self, v: Values) -> Updates:
        """Another quantizer, or another choice of its options. The pair of levels stays where it
        has that one, and so does the place of the slider."""
        p = self.parts
        session: Session = v[p.session]
        shown: Updates = {}
        if another := v[p.quantizer] != v[p.drawn].partition(":")[0]:
            v = {**v, **self.options_kept(v)}
        selection = self.selection(v)
        if another:
            shown |= self.controls_of_quantizer(selection)
        try:
            shown[p.drawn] = self.quantizer(v).name
        except UserError as e:
            return {p.packing: error_html(str(e))}
        if session.info is None:
            return shown
        if selection.quantizer.name == v[p.drawn]:  # a list that is left as it was, too
            return {p.packing: self.packing(session, selection, v)}
        bar, levels = v[p.bar], levels_of(v[p.levels])
        drawn, pins = quantizer_named(v[p.drawn]), bar["pins"] if bar else {}
        before = replace(selection, quantizer=drawn, levels=levels, pins=pins)
        selection = selection.following(session, before)
        value = selection.value(session)
        thumb = {"value": value} if value != bar else None
        return shown | self.everything(session, selection, v, thumb)

    def what_packing_takes(self, v: Values) -> Updates:
        packing = self.packing(v[self.parts.session], self.selection(v), v)
        return {self.parts.packing: packing}

    def new_table(self, v: Values) -> Updates:
        """Another order, or other pins. The budget is the browser's: the user may be dragging."""
        session: Session = v[self.parts.session]
        if session.info is None:
            return {}
        selection = self.selection(v)
        return self.bar(session, selection, v) | self.comparison(session, selection, v)

    def compare_again(self, v: Values) -> Updates:
        session: Session = v[self.parts.session]
        return self.comparison(session, self.selection(v), v) if session.info else {}

    def versus(self, v: Values) -> Updates:
        """Other things to compare: what the button measures changes with them."""
        p = self.parts
        return {p.compare: MEASURE[v[p.versus]]} | self.compare_again(v)

    def load_split(self, v: Values) -> Updates:
        """A click on a point of the chart: that split, and the quantizer that it was packed by."""
        p, clicked = self.parts, v[self.parts.chart]
        session: Session = v[p.session]
        if clicked is None:
            raise UserError("Click a point of the chart to load its split.")
        selection = self.selection(v)
        if clicked["quantizer"] != "none":
            selection = replace(selection, quantizer=quantizer_named(clicked["quantizer"]))
        selection, told = from_split(session, selection, tuple(clicked["split"]))
        value = {"value": selection.value(session)}
        shown = self.everything(session, selection, v, value) | self.controls(selection)
        return shown | {p.status: status_html(told)}

    def view(self, name: str, v: Values) -> Updates:
        """A figure or table of the paper: sets the sweep and the chart, and measures nothing."""
        p, chosen = self.parts, VIEWS[name]
        session: Session = v[p.session]
        others = self.server.other_models(ready(session)[0]) if chosen.other_model else []
        selection = self.selection(v)
        viewed = chosen.of(selection)
        also = [
            family
            for family, q in QUANTIZERS.items()
            if chosen.also and {*viewed.levels} <= {*q.levels} and q != viewed.quantizer
        ]
        updates = {
            p.orderings: list(chosen.orderings),
            p.also: also,
            p.sweep_levels: chosen.levels,
            p.axis: chosen.axis,
        }
        if chosen.task:
            updates[p.tasks] = [chosen.task]
            updates |= self.focus(session, v, [chosen.task])
        if viewed != selection:
            now = {c: value for c, value in updates.items() if not isinstance(value, dict)}
            shown = {**v, **now, p.beside: None}
            thumb = {"value": viewed.value(session)}
            updates = (
                self.everything(session, viewed, shown, thumb) | self.controls(viewed) | updates
            )
        if not chosen.other_model:
            return updates | {p.other: "", p.beside: None}
        if not others:
            told = (
                "No other model is measured yet. Load one, sweep it, and load this one again: "
                "then both can be drawn."
            )
            return updates | {p.error: error_html(told)}
        # Loaded here, too: what is drawn next must not depend on which event comes first.
        key = v[p.other] or model_key(others[0])
        return updates | {p.other: key, p.beside: self.beside(v[p.session], key)}

    def draw_other(self, v: Values) -> Updates:
        """Another model's stored results, from the store once."""
        p = self.parts
        beside = self.beside(v[p.session], v[p.other])
        return {p.beside: beside} | self.show_results({**v, p.beside: beside})

    def beside(self, session: Session, key: str) -> OtherModel | None:
        if session.info is None:
            return None
        every = self.server.other_models(session.info)
        return next((self.server.other_model(m) for m in every if model_key(m) == key), None)

    def count_splits(self, v: Values) -> Updates:
        """How much there is to sweep, before anything is computed."""
        return {self.parts.forecast: lines_html(self.counted(v[self.parts.session], v))}

    def counted(self, session: Session, v: Values) -> str:
        p = self.parts
        if session.info is None:
            return ""
        try:
            tasks = self.tasks(v)
            plan = self.feasible(session, v, self.planned(session, v), tasks)
        except UserError as e:
            return str(e)
        untouched = (UNTOUCHED,) * session.info.num_layers
        count, done = 0, 0
        for k, (q, splits) in enumerate(plan.splits.items()):
            there = self.known(session, v, q)
            new = [split for split in splits if k == 0 or split != untouched]
            count += len(new)
            done += sum((task, split) in there for task in tasks for split in new)
        on = f"{len(tasks)} task{'s' * (len(tasks) > 1)}"
        by = f" by {len(plan.splits)} quantizers" * (len(plan.splits) > 1)
        told = f"{count} splits{by} on {on}."
        every = count * len(tasks)
        if done:
            told += (
                f" {done if done < every else 'All'} of these {every} figures are known already."
            )
        level = self.sweep_levels(v)[1]
        if any(map(is_measured, v[p.orderings])) and level not in session.sensitivity:
            title = level[0].level_title(level[1])
            told += f" Sensitivity at {title} is measured first."
        return " ".join([told, *plan.left_out])

    def disk(self, v: Values) -> Updates:
        return {self.parts.disk: disk_html(self.server.store.banks, self.server.shelf.banks())}

    def clear_disk(self, v: Values) -> Updates:
        self.server.store.banks.clear(self.server.shelf.banks())
        return self.disk(v)

    def export(self, v: Values) -> Updates:
        p = self.parts
        self.quantizer(v)
        config = self.selection(v).config(v[p.session])
        average = sum(config.bits_per_layer) / config.num_layers
        name = f"lwq-{Path(config.model_id).name}-{average:.2f}bit.json"
        content = CONFIG_EXPORTS["json"].text(config).encode()
        # Into the folder that Gradio serves from: a file beside it would be copied there, and stay.
        return {p.file: save_bytes_to_cache(content, name, p.file.GRADIO_CACHE)}

    def refresh(self, v: Values) -> Updates:
        """The session's results with what the controls say now."""
        session: Session = v[self.parts.session]
        if session.info is None:
            return {}
        try:
            self.selection(v).split(session)
        except UserError:  # levels chosen meanwhile, for which the budget is too small
            return self.fresh_table(v)
        return self.everything(session, self.selection(v), v)

    def show_results(self, v: Values) -> Updates:
        session: Session = v[self.parts.session]
        return self.everything(session, self.selection(v), v) if session.info else {}

    def buttons(self, request: gr.Request) -> Updates:
        """Those that start a job while the user has none, and Stop while they have one."""
        p, busy = self.parts, self.server.worker.job_of(user(request)) is not None
        starters = {button: gr.update(interactive=not busy) for button in p.starters}
        return starters | {p.stop: gr.update(interactive=busy)}

    def idle(self, request: gr.Request, told: str) -> Updates:
        return self.buttons(request) | {self.parts.status: status_html(told)}

    def failed(self, error: UserError, request: gr.Request) -> Updates:
        """Stands in the status line's place, but below it while a job of the user runs."""
        p, name = self.parts, user(request)
        self.failures[name] = time.monotonic()
        shown = {p.error: error_html(str(error))}
        return shown if self.server.worker.job_of(name) else shown | {p.status: status_html("")}

    # ---- pieces

    def model_of(self, session: Session, request: gr.Request, job: Job) -> LoadedModel:
        loaded = self.server.shelf.load(session.choice, job.run)
        if session.info and loaded.info.fingerprint != session.info.fingerprint:
            raise UserError(
                f"The files of '{loaded.info.model_id}' have changed since it was loaded. Press "
                "Load: its scores and figures are of other weights."
            )
        self.server.shelf.assign(user(request), session.choice, loaded)
        return loaded

    def text_of(self, v: Values) -> Text:
        p = self.parts
        if v[p.text] == OWN and not v[p.own_text]:
            raise UserError("Choose a .txt file to calibrate on, or use the shipped text.")
        chosen = {OWN: v[p.own_text], PG19: PG19_TEXT}.get(v[p.text])
        return calibration_text(chosen, self.server.settings)

    def read_config(self, path: str | None) -> Config:
        if path is None:
            raise UserError("Choose a config (JSON) to load.")
        config = read_config(path)
        chosen = quantizer_of(config)
        ordering = ORDERINGS.get(config.ordering["name"])
        if ordering is None or ordering.prunes:
            raise UserError(
                f"Config field 'ordering' names '{config.ordering['name']}', unknown here."
            )
        if config.levels not in chosen.pairs:
            pairs = " or ".join(chosen.pair_title(pair) for pair in chosen.pairs)
            raise UserError(
                f"Config field 'levels' is {list(config.levels)}; {chosen.title} has {pairs}."
            )
        return config


def named_part(run: Run, quantizer: Quantizer, k: int, total: int) -> Run:
    """The part of a run that is the k-th of `total` quantizers. One alone needs no name."""
    if total == 1:
        return run
    part, title = run.part(k / total, (k + 1) / total), plain_title(quantizer)
    return replace(part, progress=lambda what, share: part.progress(f"{title}: {what}", share))


class Pace:
    """How long a job still takes, from how far it came in the time that it took so far. A job of
    several parts starts anew with each."""

    def __init__(self) -> None:
        self.began: tuple[float, float] | None = None
        self.last = 0.0

    def left(self, share: float | None, now: float) -> str:
        """Nothing while there is too little to tell from."""
        if share is None:
            self.began = None
            return ""
        if self.began is None or share < self.last:
            self.began = share, now
        self.last = share
        done, took = share - self.began[0], now - self.began[1]
        if took < 3 or done < 0.02 or share > 0.99:
            return ""
        return f"{duration((1 - share) * took / done)} left"


def user(request: gr.Request) -> str:
    return request.session_hash or ""
