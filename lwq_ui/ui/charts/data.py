"""What a chart is made of: what was measured of one model or two, and what the page asks for."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from ...core.allocation import Split
from ...core.curves import Curve
from ...core.lossless import NOTHING_BACK, GivenBack
from ...core.memory import PRUNED, ModelCost
from ...core.orderings import ALIKE, DEFAULT_ORDERING
from ...core.origin import NEVER_QUANTIZED, Origin
from ...core.schema import UNQUANTIZED, Evaluation
from ...core.usability import ACCURACIES, chance_of, lost_from
from ...engine.quantizers import DEFAULT_QUANTIZER

Orders = Mapping[Split, str | None]  # split -> the names of the orderings that give it
Costs = Mapping[str, ModelCost]  # quantizer -> bytes; UNQUANTIZED is one of the keys
NO_ORDERS: Orders = {}


@dataclass(frozen=True)
class ModelResults:
    """One model's measurements, the curves that they may lie on, and the bytes of its layers.
    `costs` has every quantizer of the evaluations. `origin` says what its weights were before, and
    `given_back` which levels of these quantizers only give them back."""

    title: str
    evaluations: Sequence[Evaluation]
    curves: Sequence[Curve]
    costs: Costs
    origin: Origin = NEVER_QUANTIZED
    given_back: GivenBack = NOTHING_BACK
    _sizes: dict[tuple[str, Split], int] = field(default_factory=dict, repr=False, compare=False)

    def size(self, quantizer: str, split: Split) -> int:
        """Returns the bytes of the whole model. A drawing needs those of a split five times."""
        key = quantizer, split
        if key not in self._sizes:
            self._sizes[key] = self.costs[quantizer].total(split)
        return self._sizes[key]

    def of_metric(self, chosen: str) -> list[Evaluation]:
        """Returns the evaluations that have the `chosen` "task/metric"."""
        task, _, metric = chosen.partition("/")
        return [e for e in self.evaluations if e.task == task and metric in e.metrics]


@dataclass(frozen=True)
class ChartData:
    """What a chart shows of `model`, and of the `other` one beside it.

    `chosen` is a "task/metric"; `titles` name the tasks. `quantizer` and `ordering` are the chosen
    ones: their uniform splits are the horizontal lines, and their band shows at once. Lines of
    other quantizers are hidden at first unless they are in `beside`, which is None for all.
    `current`, the split that was measured last, is ringed. `axis` is the first one to show.
    """

    model: ModelResults
    chosen: str
    titles: Mapping[str, str]
    quantizer: str = DEFAULT_QUANTIZER.name
    ordering: str = DEFAULT_ORDERING
    axis: str = "bits"
    current: Split | None = None
    orders: Orders = field(default_factory=dict)
    other: ModelResults | None = None
    beside: Collection[str] | None = None

    @property
    def task(self) -> str:
        return self.chosen.partition("/")[0]

    @property
    def metric(self) -> str:
        return self.chosen.partition("/")[2]

    @property
    def models(self) -> list[ModelResults]:
        return [self.model, self.other] if self.other else [self.model]

    @property
    def own(self) -> set[str]:
        """The chosen quantizer, and that of the unquantized model, which belongs to all."""
        return {self.quantizer, UNQUANTIZED}

    @cached_property
    def evaluations(self) -> list[Evaluation]:
        """The model's own of the chosen metric."""
        return self.model.of_metric(self.chosen)

    @cached_property
    def lost_from(self) -> float | None:
        """The perplexity from which on a split is beyond use; None where nobody can say."""
        return lost_from(self.evaluations, self.metric)

    @cached_property
    def chance(self) -> float | None:
        """How often guessing is right; None of no accuracy, and where no evaluation says so."""
        if self.metric not in ACCURACIES:
            return None
        chances = (chance_of(e) for e in self.evaluations)
        return next((chance for chance in chances if chance is not None), None)

    def is_lost(self, e: Evaluation) -> bool:
        return self.lost_from is not None and e.metrics[self.metric].value >= self.lost_from

    @cached_property
    def raised(self) -> bool:
        """Whether the average of the curves is constant, as that of three levels is (appendix A.2).
        The axis then counts the layers that were raised."""
        return any(c.constant for c in self.model.curves)

    @cached_property
    def levels(self) -> set[float]:
        """Every level that an ordering's curve has, PRUNED among them."""
        ordered = [c for c in self.model.curves if c.ordering != ALIKE]
        return {level for c in ordered for split in c.splits for level in split}

    @property
    def ends(self) -> list[Split]:
        """All layers high and all low: both are on the axes whatever was measured."""
        return [
            split
            for c in self.model.curves[:1]
            for split in (c.splits[0], c.splits[-1])
            if PRUNED not in split
        ]
