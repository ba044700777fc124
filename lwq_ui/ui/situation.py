"""What one event of the page rests on: the session, and what the controls say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..core.allocation import Split
from ..core.built_in import BUILT_IN
from ..core.choice import Choice
from ..core.config import Config
from ..core.curves import THREE_LEVELS
from ..core.errors import UserError
from ..core.lossless import GivenBack
from ..core.memory import UNTOUCHED
from ..core.orderings import DEFAULT_ORDERING, ORDERINGS, SCORERS
from ..core.schema import UNQUANTIZED, Evaluation, ModelInfo, Scores
from ..core.usability import Usability
from ..engine.quantizers import DEFAULT_QUANTIZER, Quantizer, quantizer_named, quantizers_of
from ..engine.tasks.base import Task
from ..engine.tasks.presets import expand
from .session import Level, ModelChoice, OtherModel, Session
from .target import MemoryControls, Target
from .wording import metric_choices

if TYPE_CHECKING:
    from ..engine.devices import Device

QUICK = 60  # items of each task in a quick evaluation
BY_ORDER, BY_QUANTIZER = "orders", "quantizers"  # what is compared, beside ALIKE
SHIPPED, OWN, PG19 = "Shipped", "My file", "PG19"  # texts to calibrate on


@dataclass(frozen=True)
class Controls:
    """What the page's controls say. Every panel reads its own.

    `own_text` is the path of the user's file, where they chose one to calibrate on. `chat` asks for
    the chat template; the session says whether it is used. `budget` None
    stands for what the card leaves for weights, and without a card for the middle of
    the slider's range. `quantizer_error` says why what is typed is no quantizer; the `quantizer` is
    then that of the family's usual options. `tasks` are those of the program, `other_tasks` what
    was typed beside them. `calibration` refers to the text that quantizers calibrate on (see
    kept_texts.py), as `quantizer` does where it calibrates. The sweep's orderings, its other
    quantizers' families, whether it has `three_levels` and its `stride` belong together. `axis` is
    the one that a view of the paper asks for. A model `beside` the page's is drawn, too;
    `beside_key` is its entry in the list.
    """

    model: ModelChoice = field(default_factory=ModelChoice)
    text: str = SHIPPED
    own_text: str | None = None
    chat: bool = False
    quantizer: Quantizer = DEFAULT_QUANTIZER
    quantizer_error: str = ""
    calibration: str = ""
    levels: tuple[float, float] = (4, 2)
    ordering: str = DEFAULT_ORDERING
    seed: int = 0
    budget: int | None = None
    pins: Mapping[int, float] = field(default_factory=dict)
    memory: MemoryControls = field(default_factory=MemoryControls)
    tasks: tuple[str, ...] = ()
    other_tasks: tuple[str, ...] = ()
    limit: int | None = QUICK
    orderings: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    three_levels: bool = False
    stride: int = 4
    compared: str = BY_ORDER
    metric: str | None = None
    axis: str = "bits"
    beside: OtherModel | None = None
    beside_key: str = ""


@dataclass(frozen=True)
class Situation:
    """A session and its controls. Everything that follows from them is computed once.

    The page shall show `controls`. Its controls say what `said` has, where that is another thing.
    `values` has the raw value of every component that was read. `tasks` are the program's own, by
    name. `devices` are this machine's, as far as a job has looked at them.
    """

    session: Session
    controls: Controls = Controls()
    said: Controls = None  # type: ignore[assignment]  # the controls, unless another is given
    values: Mapping[Any, Any] = field(default_factory=dict)
    tasks: Mapping[str, Task] = field(default_factory=dict)
    devices: Sequence[Device] = ()

    def __post_init__(self) -> None:
        said = self.said or self.controls
        # Pins of another model are no choice of this one's: the browser may still send them.
        object.__setattr__(self, "said", replace(said, pins=possible_pins(self.session, said)))
        object.__setattr__(self, "controls", possible(self.session, self.controls))

    def changed(self, **controls: Any) -> Situation:
        """Returns the situation that the page shall show instead."""
        return replace(self, controls=replace(self.controls, **controls))

    # ---- the split

    @property
    def info(self) -> ModelInfo:
        """Raises UserError while there is no model."""
        if self.session.info is None:
            raise UserError("The model is still being loaded.")
        return self.session.info

    @property
    def quantizer(self) -> Quantizer:
        """Raises UserError where what is typed is none."""
        if self.controls.quantizer_error:
            raise UserError(self.controls.quantizer_error)
        return self.controls.quantizer

    @cached_property
    def choice(self) -> Choice:
        """What is asked for, without its budget."""
        c, info = self.controls, self.info
        scores = self.session.scores_at((c.quantizer, c.levels[1]))
        return Choice(info, c.quantizer, c.levels, c.ordering, c.seed, scores, c.pins)

    @property
    def scores(self) -> Mapping[str, Scores]:
        """Those of the model, and those measured at the quantizer's low level, by scorer."""
        return self.choice.scores

    @cached_property
    def target(self) -> Target | None:
        """The card that the model shall fit into; None without one, or where it cannot be read."""
        try:
            return self.controls.memory.target(self.devices)
        except UserError:  # MemoryPanel says it
            return None

    @cached_property
    def budget(self) -> int:
        """Bytes. Raises UserError where the order's scores are missing or a pin is impossible."""
        if self.controls.budget is not None:
            return self.controls.budget
        choice = self.choice
        if self.target is None or self.target.card(choice.info) is None:
            return choice.spent
        sizes = choice.table.bytes
        try:
            budget = self.target.weights_budget(choice.info, sizes[0])
        except UserError:
            budget = sizes[0]  # drawn, so that one sees what it lacks
        return min(budget, max(choice.cost.span(choice.levels)[1], sizes[-1]))

    @cached_property
    def position(self) -> int:
        """Of the slider in the choice's table. Raises UserError where the budget is too small."""
        return self.choice.with_budget(self.budget).position

    @property
    def split(self) -> Split:
        """Raises UserError where the budget is too small."""
        return self.choice.with_budget(self.budget).split

    def config(self) -> Config:
        """Raises UserError where the budget is too small."""
        return self.choice.with_budget(self.budget).config(self.session.evaluations)

    # ---- the sweep

    @property
    def sweep_levels(self) -> tuple[float, ...]:
        """The levels of the sweep's curves."""
        return THREE_LEVELS if self.controls.three_levels else self.controls.levels

    @property
    def sweep_level(self) -> Level:
        """The level whose scores count for the sweep. Raises as `quantizer` does."""
        return self.quantizer, self.sweep_levels[-1]

    def chosen_tasks(self) -> list[str]:
        """Returns their names. Raises UserError where there is none."""
        names = expand([*self.controls.tasks, *self.controls.other_tasks])
        if not names:
            raise UserError("Choose at least one thing to measure.")
        return names

    # ---- the results

    @cached_property
    def results(self) -> list[Evaluation]:
        """What was measured on as many items as chosen, in the form of prompts that is chosen."""
        return self.as_chosen(self.session.evaluations)

    @cached_property
    def results_so_far(self) -> list[Evaluation]:
        """The results, and early ones, which rest on a part of the items."""
        return self.as_chosen((*self.session.evaluations, *self.session.early))

    @cached_property
    def own_results(self) -> list[Evaluation]:
        """The results of the chosen quantizer and of the unquantized model."""
        names = {self.controls.quantizer.name, UNQUANTIZED}
        return [e for e in self.results if e.quantizer in names]

    @cached_property
    def given_back(self) -> GivenBack:
        """What the chosen quantizer and those of the results only give back."""
        quantizers = {self.controls.quantizer, *quantizers_of(self.results_so_far)}
        return GivenBack.by(self.info, sorted(quantizers, key=lambda q: q.name))

    def origin_of(self, evaluations: Iterable[Evaluation]) -> str:
        """Says what the model's weights were before, and which of these results that explains."""
        packed = {(e.quantizer, e.split) for e in evaluations if e.quantizer != UNQUANTIZED}
        sentences = self.info.origin.sentence, self.given_back.sentence(sorted(packed))
        return " ".join(filter(None, sentences))

    @cached_property
    def titles(self) -> dict[str, str]:
        """The title of every task: the program's own, and those that were measured."""
        own = {name: task.title for name, task in self.tasks.items()}
        return own | {e.task: e.task for e in self.results_so_far if e.task not in own}

    @cached_property
    def usability(self) -> Usability:
        """What is lost and what is usable, on however many items it was measured."""
        return Usability(self.with_chosen_prompts(self.session.evaluations), self.titles)

    def as_chosen(self, evaluations: Iterable[Evaluation]) -> list[Evaluation]:
        """Returns those on as many items as chosen, with prompts as the session has them."""
        limit, tasks = self.controls.limit, self.tasks
        limits = {name: task.limited(limit) for name, task in tasks.items()}
        chosen = self.with_chosen_prompts(evaluations)
        return [e for e in chosen if e.limit == limits.get(e.task, limit)]

    def with_chosen_prompts(self, evaluations: Iterable[Evaluation]) -> list[Evaluation]:
        """Returns those whose prompts are as the session has them."""
        chat = self.session.chat
        prompts = {name: chat and task.prompted for name, task in self.tasks.items()}
        return [e for e in evaluations if e.chat_template == prompts.get(e.task, chat)]

    def metric_choices(self, evaluations: Iterable[Evaluation]) -> list[tuple[str, str]]:
        """Returns (label, "task/metric") of what was measured."""
        return metric_choices(evaluations, self.titles)

    def metric_among(self, evaluations: Sequence[Evaluation]) -> str | None:
        """Returns the "task/metric" of the chart, or else the first that was measured; None where
        nothing was."""
        measured = [value for _, value in self.metric_choices(evaluations)]
        return (
            self.controls.metric if self.controls.metric in measured else next(iter(measured), None)
        )

    def measured(self, quantizer: Quantizer) -> set[tuple[str, Split]]:
        """Returns (task, split) of everything that the quantizer was measured at."""
        names = {quantizer.name, UNQUANTIZED}
        return {(e.task, e.split) for e in self.results if e.quantizer in names}


def first_controls(model_id: str) -> dict[str, Any]:
    """Returns the quantizer and the levels that a model of the program's own is shown with first,
    as fields of Controls. Any other model takes those that the page has."""
    if (model := BUILT_IN.get(model_id)) is None:
        return {}
    quantizer = quantizer_named(model.quantizer)
    return {"quantizer": quantizer, "quantizer_error": "", "levels": model.levels}


def possible(session: Session, controls: Controls) -> Controls:
    """Returns the controls with what the quantizer and the model can have.

    An order by a score that is not measured at the chosen levels gives way to the usual one. Levels
    that the quantizer lacks give way to its usual ones. Pins that are impossible are dropped.
    """
    quantizer = controls.quantizer.on_text(controls.calibration)
    if quantizer != controls.quantizer:
        controls = replace(controls, quantizer=quantizer)
    if controls.levels not in quantizer.pairs:
        controls = replace(controls, levels=quantizer.pairs[0])
    if session.info is None:
        return controls
    scorer = SCORERS.get(ORDERINGS[controls.ordering].scorer or "")
    scores = session.scores_at((quantizer, controls.levels[1]))
    if scorer and scorer.measures_level and scorer.name not in scores:
        controls = replace(controls, ordering=DEFAULT_ORDERING)
    return replace(controls, pins=possible_pins(session, controls))


def possible_pins(session: Session, controls: Controls) -> Mapping[int, float]:
    """Returns the pins; none where the quantizer or the model cannot have one of them."""
    if session.info is None:
        return controls.pins
    levels, layers = {*controls.quantizer.levels, UNTOUCHED}, range(session.info.num_layers)
    impossible = any(i not in layers or b not in levels for i, b in controls.pins.items())
    return {} if impossible else controls.pins
