"""Levels that give weights back as they were: these were rounded to the very same values before.

Nothing of such a level's quality is the quantizer's merit, so that it is marked wherever it stands.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from .allocation import Split
from .cost import QuantizerSpec
from .memory import UNTOUCHED
from .origin import GRIDS
from .schema import ModelInfo

LOSSLESS = "lossless by construction"


def given_back(info: ModelInfo, quantizer: QuantizerSpec) -> frozenset[float]:
    """Returns the levels at which the quantizer gives all weights back as the model's file has
    them. It codes them alike; only the number format rounds."""
    if (grid := GRIDS.get(info.grid or "")) is None:
        return frozenset()
    columns = {w.columns for layer in info.layers for w in layer.weights}
    return frozenset(
        level
        for level in quantizer.levels
        if all(quantizer.grid(width, level) == grid for width in columns)
    )


@dataclass(frozen=True)
class GivenBack:
    """The levels that only give weights back, by quantizers' names, and these quantizers' titles.
    The weights come from a file of the type `kind` and are in the number format `dtype`."""

    levels: Mapping[str, frozenset[float]] = field(default_factory=dict)
    titles: Mapping[str, str] = field(default_factory=dict)
    kind: str = ""
    dtype: str = ""

    @staticmethod
    def by(info: ModelInfo, quantizers: Iterable[QuantizerSpec]) -> GivenBack:
        levels = {q: back for q in quantizers if (back := given_back(info, q))}
        return GivenBack(
            {q.name: back for q, back in levels.items()},
            {q.name: q.title for q in levels},
            info.grid or "",
            info.dtype,
        )

    def layers(self, quantizer: str, split: Split) -> int:
        """Returns how many layers of a split only get their weights back."""
        levels = self.levels.get(quantizer, ())
        return sum(level in levels for level in split)

    def is_whole(self, quantizer: str, split: Split) -> bool:
        """Whether that is so of all layers that the quantizer has packed."""
        packed = [level for level in split if level != UNTOUCHED]
        return bool(packed) and self.layers(quantizer, split) == len(packed)

    def sentence(self, packed: Iterable[tuple[str, Iterable[float]]]) -> str:
        """Says which levels of these (quantizer, levels) only give weights back; empty where none
        does. Quantizers are named where there are several."""
        if not self.levels:
            return ""
        used: dict[str, set[float]] = {}
        for name, levels in packed:
            used.setdefault(name, set()).update(levels)
        back = {name: levels & self.levels.get(name, set()) for name, levels in used.items()}
        given = sorted(set().union(*back.values()))
        if not given:
            return ""
        titles = "; ".join(self.titles[name] for name, levels in back.items() if levels)
        by = f" by {titles}" if len(used) > 1 else ""
        rounded = "" if self.dtype == "float32" else f", but for rounding in {self.dtype}"
        return (
            f"{' and '.join(f'{level:g}' for level in given)} bits{by} give the {self.kind} "
            f"file's weights back{rounded}: {LOSSLESS}, no merit of the quantizer."
        )


NOTHING_BACK = GivenBack()


def origin_of(
    info: ModelInfo,
    quantizers: Iterable[QuantizerSpec],
    packed: Iterable[tuple[str, Iterable[float]]],
) -> str:
    """Says where a model's weights come from, and what of (quantizer, levels) that explains."""
    back = GivenBack.by(info, quantizers)
    return " ".join(filter(None, [info.origin.sentence, back.sentence(packed)]))
