"""The strip above the page: what runs, what failed, and the button that stops it."""

from __future__ import annotations

import time
from typing import Any

import gradio as gr

from ..core.errors import UserError
from .components.base import read_asset
from .server import Server
from .situation import Situation
from .status import error_html, status_html

Values = dict[Any, Any]  # component -> value, as Gradio hands a set of inputs over
Updates = dict[Any, Any]  # component -> value or gr.update, as Gradio takes them


class Strip:
    """The status line, the error line and Stop, and the states that no panel owns.

    `opened` is what the page opens with. `session` holds what it knows for one browser. `applied`
    is the last `Wanted` of a session that the page was drawn by. A running job changes `redraw`:
    the page is then drawn from what the controls say by that time. `starters` are the controls that
    start a job.
    """

    def __init__(self, server: Server):
        self.server = server
        self.starters: list[Any] = []
        self._failed: dict[str, float] = {}  # user -> when what stands in the error line failed

    def build(self, opened: Situation) -> None:
        self.opened = opened
        self.session = gr.State(opened.session)
        self.applied = gr.State(None)
        self.redraw = gr.Number(0, label="Redraw", visible="hidden", elem_id="redraw")
        with gr.Row(elem_id="strip"):
            gr.HTML("<h1>LWQ Explorer</h1>", elem_id="head")
            with gr.Column(elem_id="messages", min_width=0):
                self.status = gr.HTML(
                    status_html("Ready."), elem_id="status", js_on_load=read_asset("status.js")
                )
                self.error = gr.HTML(elem_id="error")
            self.stop = gr.Button(
                "Stop", size="sm", elem_id="stop", min_width=80, interactive=False
            )

    @property
    def components(self) -> list[Any]:
        return [self.session, self.applied, self.redraw, self.status, self.error, self.stop]

    def is_running(self, user: str) -> bool:
        return self.server.worker.job_of(user) is not None

    def buttons(self, user: str) -> Updates:
        """Returns the starters, which work while the user has no job, and Stop, which does then."""
        busy = self.is_running(user)
        starters = {button: gr.update(interactive=not busy) for button in self.starters}
        return starters | {self.stop: gr.update(interactive=busy)}

    def idle(self, user: str, message: str) -> Updates:
        return self.buttons(user) | {self.status: status_html(message)}

    def fail(self, error: UserError, user: str) -> Updates:
        """Returns the error in the status line's place, but below it while a job of the user
        runs."""
        self._failed[user] = time.monotonic()
        shown: Updates = {self.error: error_html(str(error))}
        return shown if self.is_running(user) else shown | {self.status: status_html("")}

    def succeed(self, user: str, began: float) -> Updates:
        """Returns the error line without what failed before the success `began`. Events answer in
        any order: a slow one must not take away what failed meanwhile."""
        if self._failed.get(user, began) > began:
            return {}
        self.forget(user)
        return {self.error: ""}

    def forget(self, user: str) -> None:
        self._failed.pop(user, None)
