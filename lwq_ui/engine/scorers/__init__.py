"""Scorers: one number per layer. A new one is a class here (or a file beside this one), an entry
in LAYER_SCORERS, and its spec in core/orderings.py. Those are computed in one pass over the layers,
all at once; sensitivity, which measures, takes a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...core.run import Run
from ..layer_pass import Rider, survey
from ..models.loading import LoadedModel
from .base import LayerScorer
from .lim import LIM
from .zd import ZD

LAYER_SCORERS: dict[str, type[LayerScorer]] = {"lim": LIM, "zd": ZD}


def layer_scores(
    loaded: LoadedModel,
    names: Sequence[str],
    sequences: Sequence[Sequence[int]],
    run: Run,
    also: Sequence[Rider] = (),
    path: Path | None = None,
) -> dict[str, tuple[list[float], float]]:
    """Name -> a score per layer and the seconds they took, of all scorers in one pass, on which
    others may ride `also`. `sequences` are token ids, one list per document, for those that need
    text; `path` is where a pass that ends early is kept."""
    riders = [LAYER_SCORERS[name]() for name in names]
    done = survey(loaded, [*riders, *also], sequences, run, path)
    return {
        name: ([v for v in done.values[r] if v is not None], done.seconds[r])
        for r, name in enumerate(names)
    }
