"""How the page answers: an event reads the controls, and what it changes is drawn once."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

import gradio as gr

from ..core.errors import Stopped, UserError
from .following import follow
from .server import Server
from .session import Session
from .situation import Controls, Situation
from .status import status_html
from .strip import Strip, Updates, Values
from .turns import Turns
from .values import check
from .worker import Job, unexpected

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


@dataclass(frozen=True)
class Answer:
    """What an event changes: the `session` and the `controls` that the page shall show, and
    `updates` of the panel's own components. An answer that is not `drawn` is no more than these. A
    `message` stands in the status line. A `warning` says what could not be done, while the rest
    was."""

    controls: Controls | None = None
    session: Session | None = None
    updates: Updates = field(default_factory=dict)
    message: str = ""
    warning: str = ""
    drawn: bool = True


class DrawnPanel(Protocol):
    """What the page's drawing needs of a panel; see panels/base.py."""

    inputs: set[Any]

    @property
    def components(self) -> list[Any]: ...
    def read(self, v: Values) -> Any: ...
    def set_controls(self, s: Situation) -> Updates: ...
    def draw(self, s: Situation) -> Updates: ...
    def draw_after_job(self, s: Situation) -> Updates: ...


Handler = Callable[[Situation], Answer | None]  # None where nothing is to be drawn
JobHandler = Callable[[Situation, str], Iterator[Updates]]  # of a user
Draws = Sequence[str] | None  # names of panels; None for all


class Events:
    """Connects events to handlers, and their answers to what stands on the page."""

    def __init__(self, server: Server):
        self.server = server
        self.strip = Strip(server)
        self.demo: Any = None
        self.turns = Turns()
        self.panels: dict[str, Any] = {}
        self._jobs: list[Any] = []

    @property
    def inputs(self) -> set[Any]:
        states = {self.strip.session, self.strip.applied}
        return states.union(*(panel.inputs for panel in self.panels.values()))

    def situation(self, v: Values) -> Situation:
        """Returns what the controls say. What a job wanted of them goes before, once."""
        session: Session = v[self.strip.session]
        said = Controls(**{k: x for p in self.panels.values() for k, x in p.read(v).items()})
        wanted = session.wanted
        if wanted is None or wanted is v[self.strip.applied]:
            controls = said
        else:
            controls = replace(said, **wanted.controls)
        return Situation(session, controls, said, v, self.server.tasks, self.server.devices)

    def draw(
        self,
        s: Situation,
        draws: Draws = None,
        after_job: bool = False,
        is_newest: Callable[[str], bool] = lambda name: True,
    ) -> Updates:
        """Returns what panels show. Nothing is drawn of a model while there is none. A panel that a
        newer event has drawn meanwhile stays as it is, unless this one sets controls."""
        names = list(self.panels) if draws is None else list(draws)
        drawn: dict[str, Updates] = {}
        for name in names:
            panel: DrawnPanel = self.panels[name]
            drawn[name] = dict(panel.set_controls(s))
            if s.session.info:
                merge(drawn[name], panel.draw(s))
        shown: Updates = {self.strip.applied: s.session.wanted} if draws is None else {}
        for name in names:
            if is_newest(name) or s.controls != s.said:
                merge(shown, drawn[name])
            if after_job:
                merge(shown, self.panels[name].draw_after_job(s))
        return shown

    # ---- at once

    def on(
        self,
        event: Any,
        handler: Handler = lambda s: Answer(),
        draws: Draws = None,
        extra: Iterable[Any] = (),
        chosen: bool = True,
        failing: Updates | None = None,
        outputs: Iterable[Any] = (),
        after_job: bool = False,
    ) -> Any:
        """Answers an event, one of several, or what follows another event, without a job.

        `draws` names the panels that are drawn. `extra` are inputs beside those of all panels,
        `outputs` components of panels that are not drawn. See `answer` for the rest.
        """
        events = partial(gr.on, event) if isinstance(event, list) else event
        names = list(self.panels) if draws is None else draws
        shown = [c for name in names for c in self.panels[name].components]
        shown += [*outputs, self.strip.status, self.strip.error]
        shown += [self.strip.session, self.strip.applied] * (draws is None)
        run = self.answer(handler, draws, chosen, failing, after_job)
        return events(run, self.inputs | set(extra), list(dict.fromkeys(shown)), **LIVE)

    def answer(
        self,
        handler: Handler,
        draws: Draws = None,
        chosen: bool = True,
        failing: Updates | None = None,
        after_job: bool = False,
    ) -> Callable[[Values, gr.Request], Updates]:
        """Guards a handler. A user who has `chosen` something that succeeds is over with what
        failed before it; what only follows from something else leaves the error. `failing` is shown
        together with an error."""
        strip = self.strip

        def run(v: Values, request: gr.Request) -> Updates:
            began, user, turn = time.monotonic(), user_of(request), self.turns.begin()
            draw = partial(
                self.draw,
                draws=draws,
                after_job=after_job,
                is_newest=lambda name: self.turns.is_newest(user, name, turn),
            )
            try:
                check(v)
                s = self.situation(v)
                shown = self._shown(s, handler(s), draw, user)
            except UserError as e:
                return strip.fail(e, user) | (failing or {})
            except Exception as e:
                error = unexpected(e, self.server.settings.cache)
                return strip.fail(error, user) | (failing or {})
            if strip.is_running(user):
                shown.pop(strip.status, None)
            if chosen and strip.error not in shown:
                shown |= strip.succeed(user, began)
            return shown or {strip.error: gr.skip()}

        return run

    def _shown(
        self,
        s: Situation,
        answer: Answer | None,
        draw: Callable[[Situation], Updates],
        user: str,
    ) -> Updates:
        if answer is None:
            return {}
        shown: Updates = {}
        if answer.session is not None:
            s, shown = replace(s, session=answer.session), {self.strip.session: answer.session}
        if answer.controls is not None:
            s = replace(s, controls=answer.controls)
        if answer.drawn:
            merge(shown, draw(s))
        merge(shown, answer.updates)
        if answer.message:
            shown[self.strip.status] = status_html(answer.message)
        if answer.warning:
            shown |= self.strip.fail(UserError(answer.warning), user)
        return shown

    # ---- jobs

    def job(self, event: Any, handler: JobHandler, extra: Iterable[Any] = ()) -> Any:
        """Answers an event, or one of several, with a job. The page is drawn when it ends."""
        events = partial(gr.on, event) if isinstance(event, list) else event
        anything = [
            *self.strip.components,
            *(c for p in self.panels.values() for c in p.components),
        ]
        started = events(self.guarded(handler), self.inputs | set(extra), anything, **JOB)
        self._jobs.append(started)
        return started

    def guarded(self, handler: JobHandler) -> Callable[[Values, gr.Request], Iterator[Updates]]:
        """Whatever ends a handler early is one sentence: the error line holds the last one. What
        failed before the job is over with it."""
        strip = self.strip

        def run(v: Values, request: gr.Request) -> Iterator[Updates]:
            user = user_of(request)
            strip.forget(user)
            yield {strip.error: ""}
            try:
                check(v)
                yield from handler(self.situation(v), user)
            except Stopped:
                yield strip.idle(user, "Stopped. What was packed and measured by then is kept.")
            except UserError as e:
                yield strip.buttons(user) | strip.fail(e, user)
            except (GeneratorExit, KeyboardInterrupt, SystemExit):
                raise
            except BaseException as e:  # a tokenizer's panic is no Exception
                error = unexpected(e, self.server.settings.cache)
                yield strip.buttons(user) | strip.fail(error, user)

        return run

    def follow(
        self,
        user: str,
        work: Callable[[Job], Any],
        partial: Callable[[Any], Updates] = lambda partial: {},
    ) -> Generator[Updates, None, Any]:
        return follow(self.strip, user, work, partial)

    def wire(self) -> None:
        """Draws the page when a job asks for it, and after every job: what was chosen meanwhile is
        not among the inputs that the job began with."""
        strip = self.strip
        self.on(strip.redraw.change, chosen=False)
        strip.stop.click(self.stop, None, strip.error, **LIVE)
        anything = [*strip.components, *(c for p in self.panels.values() for c in p.components)]
        refresh = self.answer(refreshed, chosen=False, after_job=True)
        for job in self._jobs:
            job.then(refresh, self.inputs, anything, **LIVE)

    def stop(self, request: gr.Request) -> str:
        self.server.worker.stop(user_of(request))
        return ""  # of the error line

    def close(self, request: gr.Request) -> None:
        """A browser is gone."""
        self.server.worker.stop(user_of(request))
        self.server.shelf.leave(user_of(request))
        self.strip.forget(user_of(request))
        self.turns.forget(user_of(request))


def refreshed(s: Situation) -> Answer:
    """Draws the session's results with what the controls say now. Levels that were chosen during
    the job may be too large for the budget: it starts anew."""
    if s.session.info is None:
        return Answer()
    try:
        s.split  # noqa: B018
    except UserError:
        return Answer(replace(s.controls, budget=None, pins={}))
    return Answer()


def merge(shown: Updates, more: Updates) -> None:
    """Adds updates. Two of one component are one: one may have its value, the other its choices."""
    for component, update in more.items():
        before = shown.get(component)
        if isinstance(before, dict) and isinstance(update, dict) and "__type__" in before:
            update = {**before, **update}
        shown[component] = update


def user_of(request: gr.Request) -> str:
    return request.session_hash or ""
