"""`score`: how important each layer is."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..core.errors import UnknownArchitecture, UserError
from ..core.orderings import ORDERINGS, QUICK_SCORERS, SCORERS, rank_layers
from ..core.run import Run
from ..core.schema import ModelInfo, Scores
from ..engine import records
from ..engine.quantizers import Quantizer
from ..engine.texts import calibration_text
from .arguments import (
    CHAT_TEMPLATE,
    DEVICE,
    DTYPE,
    MODEL,
    QUANTIZER,
    TEXT,
    add_command,
    chosen_level,
)
from .calibration import on_chosen_text
from .results import Parts, Result

if TYPE_CHECKING:
    from ..engine.models.loading import LoadedModel

HELP = "how important each layer is"


def add_parser(commands: Any) -> None:
    parents = (MODEL, DEVICE, DTYPE, TEXT, CHAT_TEMPLATE, QUANTIZER)
    parser = add_command(commands, "score", HELP, *parents)
    parser.add_argument("--scorer", action="append", choices=list(SCORERS))
    parser.add_argument(
        "--level", metavar="LEVEL", help="of scorers that measure one (default: the usual low one)"
    )
    parser.set_defaults(execute=execute)


def execute(args: argparse.Namespace, run: Run) -> Result:
    from ..engine import jobs

    quantizer = on_chosen_text(args.quantizer, args, run)
    low = quantizer.pairs[0][1]
    if args.level is not None:
        low = chosen_level(args.level, quantizer)
    try:
        loaded = jobs.load(args.model, args.device, args.dtype, run)
    except UnknownArchitecture as e:
        if args.scorer != ["zd"]:
            raise UserError(f"{e} Its ZD can be had all the same: --scorer zd.") from e
        return score_by_names(args.model, run)
    names = list(dict.fromkeys(args.scorer or QUICK_SCORERS))
    quick = [name for name in names if name in QUICK_SCORERS]  # they share one pass
    parts = Parts(run)
    scores: dict[str, Scores] = {}
    for group in (quick, *([name] for name in names if name not in quick)):
        if group:
            none: dict[str, Scores] = {}
            work = (compute_scores, args, run, loaded, group, quantizer, low)
            scores |= parts.attempt(none, *work)
    parts.check(scores)
    scores = {name: scores[name] for name in names if name in scores}
    orderings = orderings_of(loaded.info, scores)
    data = {
        "model": loaded.info.model_id,
        "fingerprint": loaded.info.fingerprint,
        "weights_from": loaded.info.quantized_as,
        "chat_template": args.chat_template,
        "scores": {name: list(s.values) for name, s in scores.items()},
        "orderings": orderings,
    }
    head = filter(None, [loaded.info.origin.sentence])
    return parts.result(data, "\n".join([*head, *score_lines(scores, orderings)]))


def score_by_names(model_id: str, run: Run) -> Result:
    """Scores a model that transformers cannot build, by the names of its tensors."""
    from ..engine import jobs

    source, values = jobs.zd_alone(model_id, run)
    ranked = rank_layers("zd", {"zd": values}, len(values))
    data = {
        "model": source.model_id,
        "fingerprint": source.fingerprint(),
        "scores": {"zd": values},
        "orderings": {"zd": ranked},
    }
    return Result(data, f"ZD by the names of the tensors, most important first: {ranked}")


def compute_scores(
    args: argparse.Namespace,
    run: Run,
    loaded: LoadedModel,
    scorers: Sequence[str],
    quantizer: Quantizer,
    low: float,
) -> dict[str, Scores]:
    from ..engine import jobs

    text = calibration_text(args.text, run.settings, args.chat_template)
    return jobs.score(loaded, scorers, text, run, args.max_tokens, quantizer, low)


def scores_for(
    args: argparse.Namespace,
    run: Run,
    model: ModelInfo | LoadedModel,
    ordering: str,
    quantizer: Quantizer,
    low: float,
) -> dict[str, Scores]:
    """Returns the scores that the ordering needs: from the store, or computed now. A model that is
    only described is loaded for that."""
    from ..engine import jobs

    scorer = ORDERINGS[ordering].scorer
    if scorer is None:
        return {}
    info = model if isinstance(model, ModelInfo) else model.info
    text = calibration_text(args.text, run.settings, args.chat_template)
    stored = records.known_scores(info, text, run.store, args.max_tokens, quantizer, low)
    if scorer in stored:
        return stored
    if isinstance(model, ModelInfo):
        model = jobs.load(args.model, args.device, args.dtype, run)
    return compute_scores(args, run, model, [scorer], quantizer, low)


def orderings_of(info: ModelInfo, scores: Mapping[str, Scores]) -> dict[str, list[int]]:
    """Returns the layers, most important first, for every ordering that the scores give."""
    values = {name: s.values for name, s in scores.items()}
    return {
        o.name: rank_layers(o.name, values, info.num_layers)
        for o in ORDERINGS.values()
        if o.scorer in scores and not o.prunes
    }


def score_lines(scores: Mapping[str, Scores], orderings: Mapping[str, Sequence[int]]) -> list[str]:
    lines = []
    for name, s in scores.items():
        text = f" on {s.text_used}" if s.calibration else ""
        lines.append(f"{SCORERS[name].title}{text}, most important first: {orderings[name]}")
    return lines
