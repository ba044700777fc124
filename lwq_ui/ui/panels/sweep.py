"""A sweep of the splits between all layers high and all layers low."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import gradio as gr

from ...core.duration import duration
from ...core.errors import UserError
from ...core.orderings import ALIKE, ALIKE_TITLE, ORDERINGS
from ...engine.quantizers import QUANTIZERS
from ..loading import loaded_model
from ..measuring import Measuring, named_part
from ..plans import count_text, feasible, lacking_level_scorers, sweep_plan
from ..session import Forecast
from ..situation import Situation
from ..strip import Updates, Values
from ..templates import lines_html
from ..wording import plain_title
from ..worker import Job
from .base import Panel
from .paper import VIEWS

PAIR, THREE = "pair", "three"  # the levels of a sweep: the chosen two, or the paper's three


class SweepPanel(Panel):
    name = "sweep"

    def build(self) -> None:
        self.orderings = gr.CheckboxGroup(
            [*((o.title, o.name) for o in ORDERINGS.values()), (ALIKE_TITLE, ALIKE)],
            value=list(VIEWS["figure2"].orderings),
            label="Orders",
            elem_id="orderings",
        )
        self.also = gr.Dropdown(
            [(plain_title(q), family) for family, q in QUANTIZERS.items()],
            value=[],
            multiselect=True,
            label="Also with",
            info="other quantizers, beside the chosen one",
            elem_id="also",
        )
        with gr.Row(equal_height=True):
            self.levels = gr.Radio(
                [("High and low, as chosen", PAIR), ("Three: 8 / 4 / 2", THREE)],
                value=PAIR,
                label="Levels",
                elem_id="sweep-levels",
                min_width=260,
            )
            self.stride = gr.Radio(
                [("All", 1), ("Every 2nd", 2), ("Every 4th", 4)],
                value=4,
                label="Points of each line",
                elem_id="every",
                min_width=260,
            )
        with gr.Row(equal_height=True):
            self.sweep = gr.Button("Sweep", variant="primary", elem_id="sweep", size="md", scale=2)
            self.how_long = gr.Button("How long?", elem_id="how-long", size="md", scale=1)
        self.forecast = gr.HTML(elem_id="forecast")
        self.inputs = {self.orderings, self.also, self.levels, self.stride}
        self.starters = [self.sweep, self.how_long]

    def read(self, v: Values) -> Mapping[str, Any]:
        return {
            "orderings": tuple(v[self.orderings]),
            "also": tuple(v[self.also]),
            "three_levels": v[self.levels] == THREE,
            "stride": v[self.stride],
        }

    def set_controls(self, s: Situation) -> Updates:
        now, said = s.controls, s.said
        shown: Updates = {}
        if now.orderings != said.orderings:
            shown[self.orderings] = list(now.orderings)
        if now.also != said.also:
            shown[self.also] = list(now.also)
        if now.three_levels != said.three_levels:
            shown[self.levels] = THREE if now.three_levels else PAIR
        return shown

    def draw(self, s: Situation) -> Updates:
        """Returns how much there is to sweep, and how long it takes where that was asked for."""
        try:
            text = count_text(s, self.server.store)
        except UserError as e:
            return {self.forecast: lines_html(str(e))}
        forecast = s.session.forecast
        if forecast and forecast.subject == subject(s, text):
            text += f" {forecast.text}"
        return {self.forecast: lines_html(text)}

    def wire(self) -> None:
        self.events.on([self.orderings.input, self.also.input, self.levels.input])
        self.events.on(self.stride.input, draws=["sweep"])
        self.events.job(self.sweep.click, self.measure)
        self.events.job(self.how_long.click, self.ask_how_long)

    def measure(self, s: Situation, user: str) -> Iterator[Updates]:
        names, count = s.controls.orderings, len(sweep_plan(s).splits)
        bits = "/".join(f"{level:g}" for level in s.sweep_levels)
        name = f"{len(names)} order{'s' * (len(names) > 1)}, {bits} bits"
        name += f", {count} quantizers" * (count > 1)
        scorers = lacking_level_scorers(s)
        measuring = Measuring(self.events, s, user, sweep_plan, name, level_scorers=scorers)
        yield from measuring.run()

    def ask_how_long(self, s: Situation, user: str) -> Iterator[Updates]:
        """Says how long a sweep would take, timed on a sample of the work."""
        tasks = s.chosen_tasks()
        plan = feasible(s, sweep_plan(s), tasks, self.server.store)

        def work(job: Job) -> Any:
            from ...engine import jobs

            loaded = loaded_model(self.server, s.session, user, job)
            forecasts, chat = [], s.session.chat
            for k, (quantizer, splits) in enumerate(plan.splits.items()):
                measurement = jobs.Measurement(splits, quantizer, tasks, s.controls.limit, chat)
                part = named_part(job.run, quantizer, k, len(plan.splits))
                forecasts.append(jobs.forecast(loaded, measurement, part))
            return jobs.Forecast.of_all(forecasts)

        forecast = yield from self.events.follow(user, work)
        sentences = []
        if forecast.seconds:
            calibrating = ""
            if forecast.calibrating:
                calibrating = f", of which calibrating takes {duration(forecast.calibrating)}"
            sentences.append(
                f"That takes {duration(forecast.seconds)} on this machine{calibrating}."
            )
        if forecast.unknown:
            sentences.append(f"Not known before it starts: {', '.join(forecast.unknown)}.")
        about = subject(s, count_text(s, self.server.store))
        session = replace(s.session, forecast=Forecast(about, " ".join(sentences)))
        yield {self.strip.session: session} | self.strip.idle(user, "Ready.")


def subject(s: Situation, text: str) -> Any:
    """Returns what a forecast is said of, to compare with: the plan, and what is known of it."""
    return sweep_plan(s), s.chosen_tasks(), s.controls.limit, text
