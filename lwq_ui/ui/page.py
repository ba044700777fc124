"""Where everything stands on the page."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import gradio as gr

from ..core.orderings import ORDERINGS
from ..engine.quantizers import QUANTIZERS
from .blocks import Blocks
from .events import Events
from .panels.base import Panel
from .panels.budget import BudgetPanel
from .panels.calibration import CalibrationPanel
from .panels.chat import ChatPanel
from .panels.compare import ComparePanel
from .panels.config import ConfigPanel
from .panels.disk import DiskPanel
from .panels.evaluate import EvaluatePanel
from .panels.memory import MemoryPanel
from .panels.model import ModelPanel
from .panels.opening import Opening
from .panels.order import OrderPanel
from .panels.other import OtherModelPanel
from .panels.paper import PaperPanel
from .panels.quantizer import QuantizerPanel
from .panels.results import ResultsPanel
from .panels.sizes import SizesPanel
from .panels.sweep import SweepPanel
from .panels.tasks import TasksPanel
from .panels.write import WritePanel
from .server import Server
from .situation import Controls, Situation, first_controls
from .templates import render

P = TypeVar("P", bound=Panel)


class Page:
    """The page of one server: its components, panel by panel, and its events."""

    def __init__(self, server: Server):
        self.events = Events(server)
        with Blocks(title="LWQ Explorer", analytics_enabled=False, fill_width=True) as self.demo:
            self.events.demo = self.demo
            self.events.strip.build(opening_situation(server))
            self.build(Opening)
            with gr.Row(equal_height=False, elem_id="columns"):
                with gr.Column(scale=1, min_width=290):
                    self.build(ModelPanel)
                    self.build(CalibrationPanel)
                    self.build(ChatPanel)
                    with gr.Group():
                        self.build(QuantizerPanel)
                        self.build(OrderPanel)
                    self.build(MemoryPanel)
                    self.build(DiskPanel)
                with gr.Column(scale=3, min_width=320):
                    self.build(BudgetPanel)
                    with gr.Tabs():
                        with gr.Tab("Evaluate", id="evaluate"):
                            self.build_evaluate()
                        with gr.Tab("Write something", id="write"):
                            self.build(WritePanel)
                        with gr.Tab("Config", id="config"):
                            self.build(ConfigPanel)
                        with gr.Tab("What it means", id="meaning"):
                            gr.Markdown(meaning(), elem_id="meaning")
            for panel in self.panels:
                panel.wire()
            self.events.wire()

    def build_evaluate(self) -> None:
        self.build(TasksPanel)
        with gr.Tabs(elem_id="ways"):
            with gr.Tab("This split", id="split"):
                self.build(EvaluatePanel)
            with gr.Tab("Sweep", id="sweep"):
                self.build(PaperPanel)
                self.build(SweepPanel)
                self.build(OtherModelPanel)
            with gr.Tab("Does it matter?", id="matter"):
                self.build(ComparePanel)
        self.build(ResultsPanel)
        self.build(SizesPanel)

    def build(self, kind: type[P]) -> P:
        """Builds a panel where Gradio is in the layout."""
        panel = kind(self.events)
        panel.build()
        self.events.panels[panel.name] = panel
        self.events.strip.starters += panel.starters
        return panel

    def panel(self, kind: type[P]) -> P:
        """Returns the page's panel of a kind."""
        panel = self.events.panels[kind.name]
        assert isinstance(panel, kind)
        return panel

    @property
    def panels(self) -> Iterable[Panel]:
        return self.events.panels.values()


def opening_situation(server: Server) -> Situation:
    """Returns what the page opens with: a model, and the controls that suit it."""
    session = server.opening_session()
    controls = Controls(model=session.choice, **first_controls(session.choice.model_id))
    return Situation(session, controls)


def meaning() -> str:
    """Returns what the page's terms mean, as Markdown."""
    return render("meaning.md", orderings=ORDERINGS.values(), quantizers=QUANTIZERS.values())
