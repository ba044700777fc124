"""What a panel of the page is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from gradio.blocks import Block

from ..events import Events
from ..situation import Situation
from ..strip import Updates, Values


class Panel:
    """A part of the page: one file with its components, what they say, and what happens to them.

    A new panel is a file in `panels/` and one line in `page.py`, where it stands. It keeps its
    components as attributes, and overrides what it needs of this:

        class Notes(Panel):
            name = "notes"

            def build(self):
                self.text = gr.Textbox(label="Notes")
                self.inputs = {self.text}

            def draw(self, s):
                return {self.text: gr.update(label=f"Notes on {s.info.model_id}")}

    A panel never draws another one. It listens to `input` and `click`, which are the user's. What
    the page sets itself is drawn by the same answer, and a `change` of it would come with other
    controls' old values: Gradio sends it before it has set them all.

    Its events return an `Answer` (see events.py): the session and
    the controls that the page shall show. The page is then drawn once, by all panels that the event
    concerns. Jobs yield the session; the page is drawn when they end.
    """

    name: ClassVar[str]  # by which events say what they draw

    def __init__(self, events: Events):
        self.events = events
        self.strip = events.strip
        self.server = events.server
        self.inputs: set[Any] = set()  # the components whose values every event reads
        self.starters: list[Any] = []  # the controls that start a job

    def build(self) -> None:
        """Makes the components, inside a gr.Blocks."""

    def read(self, v: Values) -> Mapping[str, Any]:
        """Returns what the panel's controls say, by the fields of Controls. Raises nothing: values
        have been checked, and what is typed may stand for an error."""
        return {}

    def set_controls(self, s: Situation) -> Updates:
        """Returns the controls that shall say what `s.controls` has and `s.said` has not. The user
        may be changing all others."""
        return {}

    def draw(self, s: Situation) -> Updates:
        """Returns what the panel shows of a model. Raises UserError for what is impossible."""
        return {}

    def draw_after_job(self, s: Situation) -> Updates:
        """Returns what only a job can have changed."""
        return {}

    def wire(self) -> None:
        """Says which events do what, once all panels are built."""

    @property
    def components(self) -> list[Any]:
        parts = [
            p for c in vars(self).values() for p in (c.values() if isinstance(c, dict) else [c])
        ]
        return [part for part in parts if isinstance(part, Block)]
