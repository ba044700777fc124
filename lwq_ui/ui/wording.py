"""How metrics and their values read on the page."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from ..core.cost import QuantizerSpec
from ..core.metrics import metric_spec
from ..core.schema import Evaluation
from ..engine.quantizers import QUANTIZERS, quantizer_named


def metric_choices(
    evaluations: Iterable[Evaluation], titles: Mapping[str, str]
) -> list[tuple[str, str]]:
    """Returns (label, "task/metric") of everything that was measured, in the order of `titles`."""
    measured = dict.fromkeys((e.task, metric) for e in evaluations for metric in e.metrics)
    return [
        (metric_title(task, metric, titles), f"{task}/{metric}")
        for name in titles
        for task, metric in measured
        if task == name
    ]


def metric_title(task: str, metric: str, titles: Mapping[str, str]) -> str:
    """Returns 'Perplexity', but 'Story endings: accuracy': the page's main task is not named."""
    title = metric_spec(metric).title
    return title if task == "perplexity" else f"{titles[task]}: {lower_first(title)}"


def lower_first(title: str) -> str:
    """Returns 'accuracy' for 'Accuracy'; 'F1' and 'KL divergence' stay as they are."""
    return title[0].lower() + title[1:] if title[1:2].islower() else title


def better(metric: str) -> str:
    return f"{'higher' if metric_spec(metric).larger_is_better else 'lower'} is better"


def figure(value: float, digits: int) -> str:
    """Returns significant digits; large numbers in full, since 1.1e+03 is hard to read."""
    return f"{value:,.0f}" if 10 ** min(digits, 3) <= abs(value) < 1e7 else f"{value:.{digits}g}"


def plain_title(quantizer: QuantizerSpec) -> str:
    """Returns the title without its brackets: 'Quanto, Max, groups of 64'."""
    return re.sub(r" \([^)]*\)", "", quantizer.title)


def quantizer_title(name: str) -> str:
    """Returns the plain title of the quantizer that an evaluation names."""
    return plain_title(quantizer_named(name))


def ranked_quantizers(names: Iterable[str]) -> list[str]:
    """Returns the names as they are offered, each family's usual options first."""
    families = list(QUANTIZERS)
    return sorted(names, key=lambda name: (families.index(name.partition(":")[0]), name))


def level_title(chosen: QuantizerSpec, level: float) -> str:
    """Returns '4 bits' or '1 % outliers (3.945 bits)'. A pin can be at any level."""
    return chosen.level_title(level) if level in chosen.levels else f"{level:g} bits"


def short_title(chosen: QuantizerSpec, level: float) -> str:
    """Returns '4' or '1 %', as the choice of levels has it."""
    both = chosen.pair_title((level, level)) if level in chosen.levels else f"{level:g}"
    return both.partition(" / ")[0]


def with_bits(chosen: QuantizerSpec, level: float, what: str = "") -> str:
    """Returns '4-bit layers', or what else the quantizer's levels are: '1 % outliers', '1 %'."""
    if isinstance(level, int):
        return f"{level}-bit{what}"
    return level_title(chosen, level).partition(" (")[0] if what else short_title(chosen, level)
