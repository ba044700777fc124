"""What the page does. Handlers are functions of their inputs; jobs run in the worker and are
followed by polling, so that every handler alone writes what it answers for."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from ..core.allocation import LEVEL_PAIRS
from ..core.errors import Stopped, UserError
from ..core.export import EXPORTS
from ..core.export.json_config import import_json
from ..core.memory import UNTOUCHED
from ..core.orderings import ORDERINGS, SCORERS
from ..core.schema import Config, ModelInfo, Scores, split_name
from ..engine.configs import check_fingerprint
from ..engine.quantizers import quantizer_named
from ..engine.texts import PG19 as PG19_TEXT
from ..engine.texts import Text, calibration_text
from . import charts
from .layout import OWN, PG19, QUICK, Parts, card_html, scored_html, status_html
from .selection import Selection, from_config, order_of, ready
from .state import Choice, Page, Session
from .worker import Job, unexpected

if TYPE_CHECKING:
    from ..engine.models import LoadedModel

POLL_SECONDS = 0.2
Values = dict[Any, Any]  # component -> value, as Gradio hands a set of inputs over
Updates = dict[Any, Any]
Handler = Callable[["Handlers", Values, gr.Request], Iterator[Updates]]
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


def wire(p: Parts, page: Page) -> None:
    do = Handlers(p, page)
    anything = [component for component in vars(p).values() if component is not p.demo]
    split: set[Any] = {p.session, p.bar, p.levels, p.ordering, p.seed, p.quantizer}
    shown = {p.session, p.metric, p.quick, p.seed}
    text = {p.text, p.own_text}
    model = {p.model, p.device, p.dtype}
    with p.demo:
        p.demo.load(do.open, split | shown, anything, **JOB)
        p.demo.unload(do.close)
        p.stop.click(do.stop, **LIVE)

        p.levels.input(do.fresh_table, split, p.bar, **LIVE)
        p.bar.pin(do.new_table, split, p.bar, **LIVE)  # an event because heatmap.js names it
        order = [p.ordering.input, p.seed.input, p.quantizer.input]
        gr.on(order, do.new_table, split, p.bar, **LIVE)
        gr.on([p.metric.input, p.quick.input], do.show_results, shown, anything, **LIVE)
        p.ordering.change(lambda o: gr.update(visible=o == "random"), p.ordering, p.seed, **LIVE)
        p.text.change(lambda t: gr.update(visible=t == OWN), p.text, p.own_text, **LIVE)

        loaded = gr.on(
            [p.load.click, p.model.submit], do.load, split | shown | text | model, anything, **JOB
        )
        scored = p.score.click(do.score, split | text, anything, **JOB)
        evaluated = p.evaluate.click(do.evaluate, split | {p.quick, p.tasks}, anything, **JOB)
        p.write.click(do.write, split | {p.prompt, p.write_seed, p.length}, anything, **JOB)
        # What was chosen while a job ran is not among the inputs it began with.
        for job in (loaded, scored):
            job.then(do.refresh, split, p.bar, **LIVE)
        loaded.then(do.show_results, shown, anything, **LIVE)
        evaluated.then(do.show_measured, shown | {p.tasks}, anything, **LIVE)

        p.config.upload(do.load_config, split | shown | {p.config}, anything, **JOB)
        # A DownloadButton downloads what it held when it was clicked: fill a hidden one first.
        p.export.click(do.export, split, anything, **LIVE).success(
            None,
            p.file,
            js="file => file && setTimeout(() => document.querySelector('#file').click(), 50)",
        )


def safely(handler: Handler) -> Handler:
    """Whatever ends a handler early is one sentence in the status line."""

    @wraps(handler)
    def run(self: Handlers, v: Values, request: gr.Request) -> Iterator[Updates]:
        try:
            yield from handler(self, v, request)
        except Stopped:
            yield self.idle(request, "Stopped. What was already computed is kept.")
        except UserError as e:
            yield self.buttons(request) | self.failed(e)
        except Exception as e:
            yield self.buttons(request) | self.failed(unexpected(e))

    return run


class Handlers:
    def __init__(self, parts: Parts, page: Page):
        self.parts = parts
        self.page = page
        self.titles = {name: task.title for name, task in page.tasks.items()}

    # ---- a browser comes and goes

    @safely
    def open(self, v: Values, request: gr.Request) -> Iterator[Updates]:
        """The demo model's scores stand on the page already where they ship with the program. Its
        weights are loaded now, so that the first evaluation need not wait for them; but nobody who
        has asked for nothing yet waits for another one's job."""
        p, page = self.parts, self.page
        session: Session = v[p.session]
        told = "The demo model is ready. Drag the memory budget."
        if session.info:
            # Measured since the program started, by this browser before it was reloaded for one.
            session = page.with_model(session, *ready(session))
            yield {p.session: session} | self.results(session, v)
            page.shelf.come(user(request))
            if page.shelf.join(user(request), session.choice) or page.worker.busy:
                yield self.idle(request, told)
                return
        text = page.shipped_text
        work = self.load_and_score(request, session.choice, lambda: text)
        info, text, scores = yield from self.follow(request, work)
        if not session.info:
            session = page.with_model(session, info, scores)
            selection = self.selection(v)
            yield self.show_model(session, selection, v) | self.controls(selection)
        yield self.idle(request, told)

    def close(self, request: gr.Request) -> None:
        self.page.worker.stop(user(request))
        self.page.shelf.leave(user(request))

    def stop(self, request: gr.Request) -> None:
        self.page.worker.stop(user(request))

    # ---- jobs

    @safely
    def load(self, v: Values, request: gr.Request) -> Iterator[Updates]:
        """Loads and scores. Where either fails, the session keeps the model it had."""
        p = self.parts
        choice = Choice(v[p.model].strip(), v[p.device], v[p.dtype])
        work = self.load_and_score(request, choice, lambda: self.text_of(v))
        info, text, scores = yield from self.follow(request, work)
        session = self.page.with_model(Session(choice, text=text), info, scores)
        selection = replace(self.selection(v), budget=None, pins={})
        told = f"{info.model_id} is loaded and scored."
        yield self.show_model(session, selection, v) | self.idle(request, told)

    @safely
    def score(self, v: Values, request: gr.Request) -> Iterator[Updates]:
        session: Session = v[self.parts.session]

        def work(job: Job) -> tuple[Text, dict[str, Scores]]:
            text = self.text_of(v)
            return text, self.score_with(self.model_of(session, request, job), text, job)

        text, scores = yield from self.follow(request, work)
        session = replace(session, text=text, scores=scores)
        yield {
            self.parts.session: session,
            self.parts.scored: scored_html(scores),
        } | self.idle(request, f"Scored on {text.name}.")

    @safely
    def evaluate(self, v: Values, request: gr.Request) -> Iterator[Updates]:
        p, page = self.parts, self.page
        session, selection = v[p.session], self.selection(v)
        split = selection.split(session)
        if not v[p.tasks]:
            raise UserError("Choose at least one thing to measure.")
        n, (high, low) = len(split), selection.levels
        compared = [(UNTOUCHED,) * n, (high,) * n, (low,) * n]
        limit = limit_of(v[p.quick])
        began = time.perf_counter()

        def work(job: Job) -> Any:
            from ..engine import jobs

            return jobs.evaluate(
                self.model_of(session, request, job),
                list(dict.fromkeys([split, *compared])),
                selection.quantizer,
                v[p.tasks],
                limit,
                page.settings,
                page.store,
                job.progress,
                job.stop,
            )

        done = yield from self.follow(request, work)
        name = split_name(split)
        told = (
            f"Measured ({name}) in {time.perf_counter() - began:.0f} s."
            if done.computed
            else f"Measured before ({name}): answered from the cache."
        )
        session = session.with_evaluations(done.evaluations, split)
        yield {p.session: session} | self.idle(request, told)

    @safely
    def write(self, v: Values, request: gr.Request) -> Iterator[Updates]:
        p, page = self.parts, self.page
        session, selection = v[p.session], self.selection(v)
        split = selection.split(session)

        def work(job: Job) -> tuple[str, str]:
            from ..engine import jobs

            for texts in jobs.generate(
                self.model_of(session, request, job),
                split,
                selection.quantizer,
                v[p.prompt],
                int(v[p.write_seed] or 0),
                int(v[p.length]),
                page.store,
                job.progress,
                job.stop,
            ):
                job.partial = texts
            return job.partial

        def written(texts: tuple[str, str] | None) -> Updates:
            original, quantized = texts or ("", "")
            return {p.original: v[p.prompt] + original, p.quantized: v[p.prompt] + quantized}

        label = f"Quantized: {split_name(split)}"
        yield {p.original: "", p.quantized: gr.update(value="", label=label)}
        texts = yield from self.follow(request, work, written)
        yield written(texts) | self.idle(request, "Written.")

    @safely
    def load_config(self, v: Values, request: gr.Request) -> Iterator[Updates]:
        """Brings model, pins, order and budget back."""
        p = self.parts
        session: Session = v[p.session]
        config = self.read_config(v[p.config])
        info = session.info
        if info is None or (info.fingerprint, info.dtype) != (config.fingerprint, config.dtype):
            choice = Choice(config.model_id, "auto", config.dtype)
            text = self.page.shipped_text
            work = self.load_and_score(request, choice, lambda: text, config)
            info, text, scores = yield from self.follow(request, work)
            session = self.page.with_model(Session(choice, text=text), info, scores)
        session, selection, told = from_config(session, config)
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
        p, worker = self.parts, self.page.worker
        self.page.shelf.come(user(request))
        job = worker.submit(user(request), work)
        yield self.buttons(request)
        shown: Any = None
        try:
            while not job.done.wait(POLL_SECONDS):
                if ahead := worker.ahead_of(job):
                    jobs = "1 job is" if ahead == 1 else f"{ahead} jobs are"
                    line = status_html(f"Waiting: {jobs} before yours.", running=True)
                elif job.stop.is_set():
                    line = status_html("Stopping", running=True)
                else:
                    line = status_html(job.what, share=job.share, running=True)
                texts = job.partial
                if (line, texts) != shown:
                    shown = (line, texts)
                    yield {p.status: line} | (partial(texts) if texts else {})
        finally:  # a closed browser ends here, on the event loop: this must return at once
            job.stop.set()
        if job.error:
            raise job.error
        return job.result

    def load_and_score(
        self,
        request: gr.Request,
        choice: Choice,
        text_of: Callable[[], Text],
        config: Config | None = None,
    ) -> Callable[[Job], tuple[ModelInfo, Text, dict[str, Scores]]]:
        def work(job: Job) -> tuple[ModelInfo, Text, dict[str, Scores]]:
            text = text_of()
            loaded = self.page.shelf.load(choice, self.page, job)
            if config:
                check_fingerprint(config, loaded.info)
            scores = self.score_with(loaded, text, job)
            self.page.shelf.assign(user(request), choice, loaded)
            return loaded.info, text, scores

        return work

    def score_with(self, loaded: LoadedModel, text: Text, job: Job) -> dict[str, Scores]:
        from ..engine import jobs

        return jobs.score(loaded, list(SCORERS), text, self.page.store, job.progress, job.stop)

    # ---- at once

    def fresh_table(self, v: Values) -> Any:
        """Other levels have another range of bytes: the budget goes back to its middle."""
        session: Session = v[self.parts.session]
        if session.info is None:
            return gr.skip()
        return self.bar(session, replace(self.selection(v), budget=None, pins={}))

    def new_table(self, v: Values) -> Any:
        """Another order, or other pins. The budget is the browser's: the user may be dragging."""
        session: Session = v[self.parts.session]
        if session.info is None:
            return gr.skip()
        return gr.update(table=self.selection(v).table(session))

    def export(self, v: Values) -> Updates:
        p = self.parts
        try:
            config = self.selection(v).config(v[p.session])
        except UserError as e:
            return self.failed(e) | {p.file: None}
        average = sum(config.bits_per_layer) / config.num_layers
        name = f"lwq-{Path(config.model_id).name}-{average:.2f}bit.json"
        path = Path(tempfile.mkdtemp(prefix="lwq_"), name)
        path.write_text(EXPORTS["json"](config), encoding="utf-8")
        return {p.file: str(path)}

    def refresh(self, v: Values) -> Any:
        """The session's scores with what the controls say now."""
        session: Session = v[self.parts.session]
        if session.info is None:
            return gr.skip()
        try:
            self.selection(v).split(session)
        except UserError:  # levels chosen meanwhile, for which the budget is too small
            return self.fresh_table(v)
        return self.new_table(v)

    def show_results(self, v: Values) -> Updates:
        return self.results(v[self.parts.session], v)

    def show_measured(self, v: Values) -> Updates:
        """After an evaluation the chart shows something that was just measured."""
        metric, tasks = self.parts.metric, v[self.parts.tasks]
        if tasks and (v[metric] or "").split("/")[0] not in tasks:
            session: Session = v[self.parts.session]
            measured = [e for e in session.evaluations if e.task == tasks[0]]
            if choices := charts.metric_choices(measured, self.titles):
                v = {**v, metric: choices[0][1]}
        return self.show_results(v)

    # ---- what stands on the page

    def show_model(self, session: Session, selection: Selection, v: Values) -> Updates:
        p = self.parts
        info, scores = ready(session)
        return {
            p.session: session,
            p.card: card_html(info),
            p.scored: scored_html(scores),
            p.bar: self.bar(session, selection),
        } | self.results(session, v)

    def controls(self, selection: Selection) -> Updates:
        """The controls that say the same as the bar."""
        p, (high, low) = self.parts, selection.levels
        return {
            p.levels: f"{high},{low}",
            p.ordering: selection.ordering,
            p.seed: gr.update(value=selection.seed, visible=selection.ordering == "random"),
            p.quantizer: selection.quantizer,
        }

    def bar(self, session: Session, selection: Selection) -> Any:
        return gr.update(
            value=selection.value(session), table=selection.table(session), visible=True
        )

    def results(self, session: Session, v: Values) -> Updates:
        """The chart and the table of what was measured on as many items as chosen."""
        p = self.parts
        limit = limit_of(v[p.quick])
        shown = [
            e for e in session.evaluations if e.limit == self.page.tasks[e.task].limited(limit)
        ]
        choices = charts.metric_choices(shown, self.titles)
        if not choices:
            hidden = gr.update(visible="hidden")
            return {p.metric: hidden, p.chart: hidden, p.results: charts.NOTHING_YET}
        chosen = v[p.metric] if v[p.metric] in [value for _, value in choices] else choices[0][1]
        scores, seed = session.scores or {}, int(v[p.seed] or 0)
        orders = {e.split: order_of(e.split, scores, seed) for e in shown}
        figure = charts.results_figure(shown, chosen, self.titles, session.measured, orders)
        return {
            p.metric: gr.update(choices=choices, value=chosen, visible=True),
            p.chart: gr.update(value=figure, visible=True),
            p.results: charts.results_table(shown, self.titles, session.measured, orders),
        }

    def buttons(self, request: gr.Request) -> Updates:
        """Those that start a job while the user has none, and Stop while they have one."""
        p, busy = self.parts, self.page.worker.job_of(user(request)) is not None
        starters = {button: gr.update(interactive=not busy) for button in p.starters}
        return starters | {p.stop: gr.update(interactive=busy)}

    def idle(self, request: gr.Request, told: str) -> Updates:
        return self.buttons(request) | {self.parts.status: status_html(told)}

    def failed(self, error: UserError) -> Updates:
        return {self.parts.status: status_html(str(error), failed=True)}

    # ---- pieces

    def selection(self, v: Values) -> Selection:
        p = self.parts
        high, low = v[p.levels].split(",")
        bar = v[p.bar]
        return Selection(
            levels=(int(high), int(low)),
            ordering=v[p.ordering],
            seed=int(v[p.seed] or 0),
            quantizer=v[p.quantizer],
            budget=bar["budget"] if bar else None,
            pins=bar["pins"] if bar else {},
        )

    def model_of(self, session: Session, request: gr.Request, job: Job) -> LoadedModel:
        loaded = self.page.shelf.load(session.choice, self.page, job)
        self.page.shelf.assign(user(request), session.choice, loaded)
        return loaded

    def text_of(self, v: Values) -> Text:
        p = self.parts
        if v[p.text] == OWN and not v[p.own_text]:
            raise UserError("Choose a .txt file to calibrate on, or use the shipped text.")
        chosen = {OWN: v[p.own_text], PG19: PG19_TEXT}.get(v[p.text])
        return calibration_text(chosen, self.page.settings)

    def read_config(self, path: str) -> Config:
        try:
            config = import_json(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as e:
            raise UserError("The file cannot be read as text. Choose a config (JSON).") from e
        quantizer_named(config.quantizer["name"])
        if config.ordering["name"] not in ORDERINGS:
            raise UserError(
                f"Config field 'ordering' names '{config.ordering['name']}', unknown here."
            )
        if config.levels not in LEVEL_PAIRS:
            raise UserError(
                f"Config field 'levels' is {list(config.levels)}, which the page has not."
            )
        return config


def limit_of(quick: str) -> int | None:
    return QUICK if quick == "quick" else None


def user(request: gr.Request) -> str:
    return request.session_hash or ""
