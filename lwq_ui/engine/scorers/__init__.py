"""Scorers: one number per layer.

To add one, write a file here and its spec in core/orderings.py. Both have the scorer's name: `lim`
is computed by lim.py. The file's `SCORER` is its class: a `PassScorer`, which looks at each layer
in one pass, or a `LevelScorer`, which measures a level. The spec of the latter says
`measures_level=True`.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from ...core.run import Run
from ..banks.bank import Bank
from ..layer_pass import Rider, run_pass
from ..models.loading import LoadedModel
from .base import LevelScorer, PassScorer


def scorer_of(name: str, kind: type[Any]) -> Any:
    """Returns a new scorer of this name. Raises TypeError where it is of another kind."""
    scorer = import_module(f"{__name__}.{name.replace('-', '_')}").SCORER()
    if not isinstance(scorer, kind):
        raise TypeError(f"the scorer '{name}' is no {kind.__name__}")
    return scorer


def pass_scores(
    loaded: LoadedModel,
    names: Sequence[str],
    sequences: Sequence[Sequence[int]],
    run: Run,
    also: Sequence[Rider] = (),
    path: Path | None = None,
) -> dict[str, tuple[list[float], float]]:
    """Returns name -> (a score per layer, seconds), from one pass for all `PassScorer`s named.

    `sequences` are token ids, one list per document, for the scorers that need text. The riders
    `also` share the pass. `path` is where a pass that ends early is kept.
    """
    riders = [scorer_of(name, PassScorer) for name in names]
    record = run_pass(loaded, [*riders, *also], sequences, run, path)
    return {
        name: ([v for v in record.values[r] if v is not None], record.seconds[r])
        for r, name in enumerate(names)
    }


def level_scores(
    bank: Bank, name: str, level: float, sequences: Sequence[Sequence[int]], run: Run
) -> list[float]:
    """Returns a score per layer from the `LevelScorer` of this name."""
    scorer: LevelScorer = scorer_of(name, LevelScorer)
    return scorer.scores(bank, level, sequences, run)
