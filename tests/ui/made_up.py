"""A model and measurements that look like real ones: perplexity explodes and accuracy falls towards
2 bits, sooner where an ordering lowers important layers."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from lwq_ui.core.allocation import Split
from lwq_ui.core.curves import Curve, all_splits, curves
from lwq_ui.core.errors import Stopped
from lwq_ui.core.memory import LayerCost, ModelCost, affine_bytes, symmetric_bytes
from lwq_ui.core.orderings import ORDERINGS, SCORERS, rank_layers
from lwq_ui.core.run import Run
from lwq_ui.core.schema import Evaluation, Metric, ModelInfo, WeightSpec
from lwq_ui.engine.quantizers import Machine, Option
from lwq_ui.engine.quantizers.calibrated import TEXT_OPTIONS, Calibrated, PackedLayers
from lwq_ui.engine.quantizers.quanto import Quanto

if TYPE_CHECKING:
    from torch import Tensor

    from lwq_ui.engine.models.loading import LoadedModel

N = 24
TITLES = {"perplexity": "Perplexity and divergence", "minimal_pairs": "Grammar pairs"}
DAMAGE = {16: 0.0, 8: 0.02, 4: 0.25, 2: 3.2, 0: 4.0}  # of a layer of mean importance
TWO_LEVELS = [name for name, o in ORDERINGS.items() if not o.prunes]


def model_cost(n: int = N, width: int = 1024) -> ModelCost:
    shapes = [(width, width)] * 4 + [(3 * width, width)] * 2 + [(width, 3 * width)]
    weights = sum(rows * columns for rows, columns in shapes)
    packed = {16: 2 * weights, 8: sum(symmetric_bytes(*s, 2) for s in shapes)}
    packed |= {bits: sum(affine_bytes(*s, bits, 2) for s in shapes) for bits in (4, 2)}
    return ModelCost((LayerCost(weights, packed, 4 * width),) * n, 2 * 8192 * width)


def costs(n: int = N, width: int = 1024) -> dict[str, ModelCost]:
    """By quantizer: HQQ's layers are made a little larger, so that the two can be told apart."""
    plain = model_cost(n, width)
    larger = [replace(layer, other_bytes=layer.other_bytes + 10**6) for layer in plain.layers]
    return {"none": plain, "quanto": plain, "quanto-hqq": replace(plain, layers=tuple(larger))}


def scores(n: int = N) -> dict[str, list[float]]:
    """LIM agrees with the sensitivity well, ZD a little; of ZD less is more important. Any other
    scorer's are random."""
    rng = random.Random(n)
    true = [math.exp(-i / 3) + 0.6 * math.exp((i - n + 1) / 2) + 0.2 for i in range(n)]
    shipped = {
        "lim": [-0.9 + 0.3 * t + 0.08 * rng.random() for t in true],
        "zd": [0.15 - 0.01 * t + 0.012 * rng.random() for t in true],
        "sensitivity": [0.02 * t for t in true],
    }
    return {name: shipped.get(name) or [rng.random() for _ in range(n)] for name in SCORERS}


def all_curves(
    levels: Sequence[int] = (4, 2), orderings: Sequence[str] | None = None, n: int = N
) -> list[Curve]:
    return curves(list(ORDERINGS) if orderings is None else orderings, scores(n), n, levels)


def evaluate(split: Split, items: int = 60, quantizer: str = "quanto") -> list[Evaluation]:
    """On so many of 60 items."""
    true = scores(len(split))["sensitivity"]
    noise = random.Random(str(split))
    harm = sum(DAMAGE[level] * t for level, t in zip(split, true, strict=True)) / sum(true)
    harm += 0.03 * noise.gauss(0, 1) * (harm > 0.1)
    perplexity, error = 38 * math.exp(max(0, harm)), 1.2 * math.exp(max(0, harm))
    accuracy = 0.5 + 0.38 * math.exp(-((max(0, harm) / 1.6) ** 2))
    unquantized = set(split) == {16}
    divergence = 0.0 if unquantized else 0.35 * max(0.01, harm) ** 1.5
    quantizer = "none" if unquantized else quantizer
    found = [
        (
            "perplexity",
            {
                "perplexity": Metric(perplexity, error, items),
                "kl_divergence": Metric(divergence, 0.05 * divergence, items),
                "top1_agreement": Metric(math.exp(-divergence), 0.01 * (harm > 0), items),
            },
        ),
        ("minimal_pairs", {"acc": Metric(accuracy, math.sqrt(0.2 / items), items)}),
    ]
    return [Evaluation(task, split, quantizer, m, {}, 60, 1.0) for task, m in found]


def with_items(e: Evaluation) -> Evaluation:
    """The same figure as a share of 60 items, the easier ones right: what is hard is the same for
    every split."""
    right = round(60 * e.metrics["acc"].value)
    items = [float(k < right) for k in range(60)]
    return replace(e, metrics={"acc": Metric(right / 60, 0.07, 60)}, items={"acc": items})


def evaluations(splits: Sequence[Split], items: int = 60) -> list[Evaluation]:
    return [e for split in splits for e in evaluate(split, items)]


def sweep(every: Sequence[Curve], n: int = N) -> list[Evaluation]:
    """All of the curves' splits, and those that are always measured to compare with."""
    uniform = [(level,) * n for level in (16, 8, 4, 2)]
    return evaluations(list(dict.fromkeys([*uniform, *all_splits(every)])))


def lim_split(low: int, n: int = N) -> Split:
    ranked = rank_layers("lim", scores(n), n)
    return tuple(2 if layer in ranked[n - low :] else 4 for layer in range(n))


class Outliers(Calibrated):
    """A calibrated quantizer whose levels are fractions. It packs by leaving everything as it is;
    how long that takes is a matter of `pause`."""

    family = "outliers"
    heading = "Made-up outliers"
    meaning = "Leaves everything as it is."
    levels = (3.945, 3.801, 3.657)
    pairs = ((3.945, 3.657), (3.945, 3.801))
    options: ClassVar[Mapping[str, Option]] = {
        "group": Option("Group size", "groups of {}", 64, choices=(64, 32)),
        **TEXT_OPTIONS,
    }
    shares: ClassVar[Mapping[float, str]] = {3.945: "1 %", 3.801: "0.5 %", 3.657: "0.1 %"}
    pause = 0.0

    @property
    def group_size(self) -> int:
        return self.chosen["group"]

    def level_title(self, level: float) -> str:
        return f"{self.shares[level]} outliers ({level:g} bits)"

    def pair_title(self, pair: tuple[float, float]) -> str:
        return " / ".join(self.shares[level] for level in pair)

    def packed_bytes(self, weight: WeightSpec, level: float, dtype_bytes: int) -> int:
        """All of it, and so much more the more bits that differently sized splits come out."""
        return weight.rows * weight.columns * dtype_bytes + self.extra(level)

    def extra(self, level: float) -> int:
        return 64 * self.levels[::-1].index(level) + 64 // self.group_size

    def seconds(
        self, info: ModelInfo, wanted: Sequence[tuple[int, float]], machine: Machine
    ) -> float:
        return 2.0 * len(wanted)

    def calibrate(
        self,
        loaded: LoadedModel,
        wanted: Sequence[tuple[int, float]],
        run: Run,
        folder: Path | None,
    ) -> PackedLayers:
        from lwq_ui.engine.models.layers import layer_weights

        for done, (i, level) in enumerate(wanted):
            if run.stop.wait(type(self).pause):
                raise Stopped
            of = f"layer {i} of {loaded.info.num_layers}"
            run.progress(f"Made-up outliers at {self.level_title(level)}: {of}", done / len(wanted))
            with loaded.walk.source.at_hand(i) as layer:
                packed = {w.name: self.packed(w.matrix(), level) for w in layer_weights(layer)}
            yield i, level, packed

    def packed(self, matrix: Tensor, level: float) -> dict[str, Tensor]:
        return {"all": matrix.detach().clone(), "more": matrix.new_zeros(self.extra(level)).char()}

    def tensors(self, packed: dict[str, Tensor]) -> dict[str, Tensor]:
        return packed

    def restore(self, tensors: dict[str, Tensor], spec: WeightSpec, level: float) -> Any:
        return tensors

    def dense(self, packed: dict[str, Tensor]) -> Tensor:
        return packed["all"]


class Shrunk(Quanto):
    """Has a word and a fraction to choose."""

    family = "shrinking"
    heading = "Made-up shrinking"
    meaning = "Makes weights smaller."
    options: ClassVar[Mapping[str, Option]] = {
        "kind": Option("Kind", "shrunk {}", "evenly", choices=("evenly", "never")),
        "share": Option("Share", "by {}", 0.25, least=0, most=1),
    }

    @property
    def group_size(self) -> int:
        return 64


class Absent(Quanto):
    family = "absent"
    heading = "Made-up package"
    meaning = "Needs a package that is not there."

    def missing(self) -> str:
        return "Made-up package is not installed: install it, or choose another quantizer."
