"""What is measured, and on how many items."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr

from ...engine.tasks.folders import TaskFolder
from ...engine.tasks.presets import PRESETS
from ..situation import QUICK, Situation
from ..status import error_html
from ..strip import Updates, Values
from ..templates import paragraphs_html
from .base import Panel

FIRST = ("perplexity", "minimal_pairs")  # what the page opens with


class TasksPanel(Panel):
    name = "tasks"

    def build(self) -> None:
        offered = self.server.tasks
        self.tasks = gr.CheckboxGroup(
            [(task.title, name) for name, task in offered.items()],
            value=[name for name in offered if name in FIRST],
            label="Measure",
            elem_id="tasks",
        )
        if folder := self.server.settings.tasks:
            gr.HTML(own_tasks_html(folder, self.server.own_tasks), elem_id="own-tasks")
        with gr.Row(equal_height=True):
            self.others = gr.Dropdown(
                [(title, name) for name, (title, _) in PRESETS.items()],
                value=[],
                label="Other lm-eval tasks (their data is downloaded)",
                multiselect=True,
                allow_custom_value=True,
                elem_id="others",
                scale=3,
                min_width=260,
            )
            self.quick = gr.Radio(
                [(f"Quick: {QUICK} items", "quick"), ("All items", "all")],
                value="quick",
                label="On how many items of each",
                elem_id="quick",
                scale=2,
                min_width=260,
            )
        self.inputs = {self.tasks, self.others, self.quick}

    def read(self, v: Values) -> Mapping[str, Any]:
        return {
            "tasks": tuple(v[self.tasks]),
            "other_tasks": tuple(name.strip() for name in v[self.others]),
            "limit": QUICK if v[self.quick] == "quick" else None,
        }

    def set_controls(self, s: Situation) -> Updates:
        return {self.tasks: list(s.controls.tasks)} if s.controls.tasks != s.said.tasks else {}

    def wire(self) -> None:
        self.events.on(self.quick.input)
        self.events.on([self.tasks.input, self.others.input], draws=["sweep"])


def own_tasks_html(folder: Path, own: TaskFolder) -> str:
    """Returns which tasks come from the user's folder, and a line for each file that gives none."""
    html = ""
    if own.tasks:
        titles = ", ".join(task.title for task in own.tasks.values())
        html = paragraphs_html(f"From the folder '{folder}': {titles}.")
    return html + "".join(map(error_html, own.errors.values()))
