"""What the page does. Handlers are functions of their inputs; jobs run in the worker and are
followed by polling, so that every handler alone writes what it answers for."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from ..core.allocation import LEVEL_PAIRS, Split
from ..core.errors import Stopped, UserError
from ..core.export import EXPORTS
from ..core.export.json_config import import_json
from ..core.memory import UNTOUCHED
from ..core.orderings import ORDERINGS, SCORERS
from ..core.schema import Config, ModelInfo, Scores, split_name
from ..engine.quantizers import quantizer_named
from ..engine.texts import PG19 as PG19_TEXT
from ..engine.texts import Text, calibration_text
from . import charts
from .layout import OWN, PG19, QUICK, Parts, card_html, scored_html, status_html
from .selection import Selection, from_config, ready
from .state import Choice, Page, Session
from .worker import Job

if TYPE_CHECKING:
    from ..engine.models import LoadedModel

POLL_SECONDS = 0.2
Values = dict[Any, Any]  # component -> value, as Gradio hands a set of inputs over
Updates = dict[Any, Any]
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
    shown = {p.metric, p.quick}
    with p.demo:
        p.demo.load(do.open, split | shown, anything, **JOB)
        p.demo.unload(do.close)
        p.stop.click(do.stop, **LIVE)

        gr.on([p.levels.input, p.quantizer.input], do.fresh_table, split, p.bar, **LIVE)
        p.bar.pin(do.new_table, split, p.bar, **LIVE)  # an event because heatmap.js names it
        gr.on([p.ordering.input, p.seed.input], do.new_table, split, p.bar, **LIVE)
        gr.on(
            [p.metric.input, p.quick.input], do.show_results, {p.session, *shown}, anything, **LIVE
        )
        p.ordering.change(lambda o: gr.update(visible=o == "random"), p.ordering, p.seed, **LIVE)
        p.text.change(lambda t: gr.update(visible=t == OWN), p.text, p.own_text, **LIVE)

        text = {p.text, p.own_text}
        model = {p.model, p.device, p.dtype}
        gr.on(
            [p.load.click, p.model.submit], do.load, split | shown | text | model, anything, **JOB
        )
        p.score.click(do.score, split | text, anything, **JOB)
        p.evaluate.click(do.evaluate, split | shown | {p.tasks}, anything, **JOB)
        p.write.click(do.write, split | {p.prompt, p.write_seed, p.length}, anything, **JOB)
        p.config.upload(do.load_config, split | shown | {p.config}, anything, **JOB)
        # A DownloadButton downloads what it held when it was clicked: fill a hidden one first.
        p.export.click(do.export, split, anything, **LIVE).success(
            None,
            p.file,
            js="file => file && setTimeout(() => document.querySelector('#file').click(), 50)",
        )


class Handlers:
    def __init__(self, parts: Parts, page: Page):
        self.parts = parts
        self.page = page

    # ---- a browser comes and goes

    def open(self, v: Values, request: gr.Request) -> Iterator[Updates]:
        """The demo model's scores stand on the page already where they ship with the program. Its
        weights are loaded now, so that the first evaluation need not wait for them."""
        p, page = self.parts, self.page
        session: Session = v[p.session]
        if session.info:
            yield self.results(session, v)
        text = page.shipped_text
        work = self.load_and_score(request, session.choice, lambda: text)
        job = yield from self.follow(request, work)
        if job:
            if not session.info:
                info, text, scores = job.result
                session = page.with_model(session, info, scores)
                yield self.show_model(session, self.selection(v), v)
            yield self.idle("The demo model is ready. Drag the memory budget.")

    def close(self, request: gr.Request) -> None:
        self.page.worker.stop(user(request))
        self.page.shelf.leave(user(request))

    def stop(self, request: gr.Request) -> None:
        self.page.worker.stop(user(request))

    # ---- jobs

    def load(self, v: Values, request: gr.Request) -> Iterator[Updates]:
        """Loads and scores. Where either fails, the session keeps the model it had."""
        p = self.parts
        choice = Choice(v[p.model].strip(), v[p.device], v[p.dtype])
        work = self.load_and_score(request, choice, lambda: self.text_of(v))
        job = yield from self.follow(request, work)
        if job:
            info, text, scores = job.result
            session = self.page.with_model(Session(choice, text=text), info, scores)
            selection = replace(self.selection(v), budget=None, pins={})
            yield self.show_model(session, selection, v) | self.idle(
                f"{info.model_id} is loaded and scored."
            )

    def score(self, v: Values, request: gr.Request) -> Iterator[Updates]:
        session: Session = v[self.parts.session]

        def work(job: Job) -> tuple[Text, dict[str, Scores]]:
            text = self.text_of(v)
            return text, self.score_with(self.model_of(session, request, job), text, job)

        job = yield from self.follow(request, work)
        if job:
            text, scores = job.result
            session = replace(session, text=text, scores=scores)
            yield {
                self.parts.session: session,
                self.parts.scored: scored_html(scores),
                self.parts.bar: gr.update(table=self.selection(v).table(session)),
            } | self.idle(f"Scored on {text.name}.")

    def evaluate(self, v: Values, request: gr.Request) -> Iterator[Updates]:
        p, page = self.parts, self.page
        session, selection = v[p.session], self.selection(v)
        try:
            split = selection.split(session)
            if not v[p.tasks]:
                raise UserError("Choose at least one thing to measure.")
        except UserError as e:
            yield self.failed(e)
            return
        n, (high, low) = len(split), selection.levels
        compared = [(UNTOUCHED,) * n, (high,) * n, (low,) * n]
        limit = QUICK if v[p.quick] == "quick" else None
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

        job = yield from self.follow(request, work)
        if job:
            session = session.with_evaluations(job.result.evaluations)
            name = split_name(split)
            told = (
                f"Measured ({name}) in {time.perf_counter() - began:.0f} s."
                if job.result.computed
                else f"Measured before ({name}): answered from the cache."
            )
            yield {p.session: session} | self.results(session, v, split) | self.idle(told)

    def write(self, v: Values, request: gr.Request) -> Iterator[Updates]:
        p, page = self.parts, self.page
        session, selection = v[p.session], self.selection(v)
        try:
            split = selection.split(session)
        except UserError as e:
            yield self.failed(e)
            return

        def work(job: Job) -> None:
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

        def written(job: Job) -> Updates:
            if job.partial is None:
                return {}
            original, quantized = job.partial
            return {p.original: v[p.prompt] + original, p.quantized: v[p.prompt] + quantized}

        label = f"Quantized: {split_name(split)}"
        yield {p.original: "", p.quantized: gr.update(value="", label=label)}
        job = yield from self.follow(request, work, written)
        if job:
            yield written(job) | self.idle("Written.")

    def load_config(self, v: Values, request: gr.Request) -> Iterator[Updates]:
        """Brings model, pins, order and budget back."""
        p = self.parts
        session: Session = v[p.session]
        try:
            config = self.read_config(v[p.config])
        except UserError as e:
            yield self.failed(e)
            return
        info = session.info
        if info is None or (info.fingerprint, info.dtype) != (config.fingerprint, config.dtype):
            choice = Choice(config.model_id, "auto", config.dtype)
            text = self.page.shipped_text
            work = self.load_and_score(request, choice, lambda: text, config.fingerprint)
            job = yield from self.follow(request, work)
            if not job:
                return
            info, text, scores = job.result
            session = self.page.with_model(Session(choice, text=text), info, scores)
        session, selection, told = from_config(session, config)
        high, low = selection.levels
        yield (
            self.show_model(session, selection, v)
            | self.idle(told)
            | {
                p.model: session.choice.model_id,
                p.levels: f"{high},{low}",
                p.ordering: selection.ordering,
                p.seed: gr.update(value=selection.seed, visible=selection.ordering == "random"),
                p.quantizer: selection.quantizer,
            }
        )

    def follow(
        self,
        request: gr.Request,
        work: Callable[[Job], Any],
        partial: Callable[[Job], Updates] = lambda job: {},
    ) -> Generator[Updates, None, Job | None]:
        """Submits a job and shows how far it is until it ends. Returns it, or None where it was
        stopped or failed, which is then on the page."""
        p, worker = self.parts, self.page.worker
        try:
            job = worker.submit(user(request), work)
        except UserError as e:
            yield {p.status: status_html(str(e), failed=True)}
            return None
        busy = {button: gr.update(interactive=False) for button in p.starters}
        yield busy | {p.stop: gr.update(interactive=True)}
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
                if (line, job.partial) != shown:
                    shown = (line, job.partial)
                    yield {p.status: line} | partial(job)
        finally:  # a closed browser ends here, on the event loop: this must return at once
            job.stop.set()
        if job.error is None:
            return job
        if isinstance(job.error, Stopped):
            yield self.idle("Stopped. What was already computed is kept.")
        else:
            yield self.failed(job.error)
        return None

    def load_and_score(
        self,
        request: gr.Request,
        choice: Choice,
        text_of: Callable[[], Text],
        fingerprint: str | None = None,
    ) -> Callable[[Job], tuple[ModelInfo, Text, dict[str, Scores]]]:
        def work(job: Job) -> tuple[ModelInfo, Text, dict[str, Scores]]:
            text = text_of()
            loaded = self.page.shelf.load(choice, self.page, job)
            if fingerprint not in (None, loaded.info.fingerprint):
                raise UserError(
                    f"The config was made for other weights than those of '{choice.model_id}': "
                    "their fingerprints differ."
                )
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
        return self.bar(v[self.parts.session], replace(self.selection(v), budget=None, pins={}))

    def new_table(self, v: Values) -> Any:
        """Another order, or other pins. The budget is the browser's: the user may be dragging."""
        try:
            return gr.update(table=self.selection(v).table(v[self.parts.session]))
        except UserError as e:
            raise gr.Error(str(e)) from e

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

    def show_results(self, v: Values) -> Updates:
        return self.results(v[self.parts.session], v)

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

    def bar(self, session: Session, selection: Selection) -> Any:
        return gr.update(
            value=selection.value(session), table=selection.table(session), visible=True
        )

    def results(self, session: Session, v: Values, current: Split | None = None) -> Updates:
        """The chart and the table of what was measured on as many items as chosen."""
        p = self.parts
        quick = v[p.quick] == "quick"
        shown = [
            e
            for e in session.evaluations
            if e.limit == (QUICK if quick and self.page.tasks[e.task].size > QUICK else None)
        ]
        titles = {name: task.title for name, task in self.page.tasks.items()}
        choices = charts.metric_choices(shown, titles)
        if not choices:
            hidden = gr.update(visible="hidden")
            return {p.metric: hidden, p.chart: hidden, p.results: charts.NOTHING_YET}
        chosen = v[p.metric] if v[p.metric] in [value for _, value in choices] else choices[0][1]
        figure = charts.results_figure(shown, chosen, titles, current)
        return {
            p.metric: gr.update(choices=choices, value=chosen, visible=True),
            p.chart: gr.update(value=figure, visible=True),
            p.results: charts.results_table(shown, titles, current),
        }

    def idle(self, told: str) -> Updates:
        p = self.parts
        return {button: gr.update(interactive=True) for button in p.starters} | {
            p.status: status_html(told),
            p.stop: gr.update(interactive=False),
        }

    def failed(self, error: BaseException) -> Updates:
        told = str(error)
        if not isinstance(error, UserError):
            told = f"Something went wrong ({type(error).__name__}: {error}). The log says where."
        return self.idle("") | {self.parts.status: status_html(told, failed=True)}

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


def user(request: gr.Request) -> str:
    return request.session_hash or ""
