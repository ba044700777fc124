"""Scoring the layers of a model."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from ...core.allocation import whole
from ...core.errors import UserError
from ...core.orderings import SCORERS
from ...core.run import Run
from ...core.schema import ModelInfo, Scores
from ...core.store import Key, Store
from .. import records
from ..banks.bank import Packing
from ..chat import check_template
from ..checkpoints.finding import find
from ..checkpoints.source import Source
from ..layer_pass import Rider
from ..models.loading import LoadedModel
from ..quantizers import DEFAULT_QUANTIZER, Quantizer
from ..scorers import level_scores, pass_scores
from ..scorers.zd_by_name import zd_by_name
from ..texts import Text, cut_short, tokenize
from .banks import bank_of


@dataclass(frozen=True)
class Basis:
    """What scores are computed from.

    That is a text of at most `max_tokens` tokens, or all of it. For scorers that measure a level it
    is also the quantizer and its `low` level in bits.
    """

    text: Text
    max_tokens: int | None
    quantizer: Quantizer
    low: float

    def key(self, info: ModelInfo, name: str) -> Key:
        return records.scores_key(info, name, self.text, self.max_tokens, self.quantizer, self.low)

    def scores(
        self,
        loaded: LoadedModel,
        name: str,
        values: Sequence[float],
        sequences: Sequence[Sequence[int]],
        seconds: float,
    ) -> Scores:
        """Returns the record of what a scorer computed from `sequences` of token ids."""
        spec, text = SCORERS[name], self.text
        used = sequences if spec.needs_text else []
        return Scores(
            scorer=name,
            values=tuple(values),
            calibration=text.title if spec.needs_text else None,
            documents=len(used),
            tokens=sum(map(len, used)),
            seconds=round(seconds, 3),
            quantizer=self.quantizer.name if spec.measures_level else None,
            level=self.low if spec.measures_level else None,
            cut=cut_short(loaded, replace(text, documents=text.documents[: len(used)])),
            unused_bytes=text.unused_bytes if spec.needs_text else 0,
        )


def score(
    loaded: LoadedModel,
    scorers: Sequence[str],
    text: Text,
    run: Run,
    max_tokens: int | None = None,
    quantizer: Quantizer = DEFAULT_QUANTIZER,
    low: float = 2,
) -> dict[str, Scores]:
    """Returns the scores of all these scorers, from the store or computed and stored.

    `quantizer` and the `low` level in bits are for scorers that measure a level. Raises UserError
    for an unknown scorer, and for a text of turns where there is no chat template.
    """
    for name in scorers:
        if name not in SCORERS:
            raise UserError(f"There is no scorer '{name}'. Choose from: {', '.join(SCORERS)}.")
    if text.chat:
        check_template(loaded)
    basis = Basis(text, max_tokens, quantizer, whole(low))
    keys = {name: basis.key(loaded.info, name) for name in scorers}
    scores = stored_scores(keys, text, run.store)
    missing = [name for name in keys if name not in scores]
    for computed in compute(loaded, missing, basis, run):
        scores[computed.scorer] = computed
        run.store.write(keys[computed.scorer], computed.to_json())
    return {name: scores[name] for name in scorers}


def stored_scores(keys: Mapping[str, Key], text: Text, store: Store) -> dict[str, Scores]:
    """Returns those of the scores that the store has. `keys` and the result are by scorer."""
    scores = {}
    for name, key in keys.items():
        if stored := store.read(key, Scores.from_json):
            if SCORERS[name].needs_text:  # the file may have grown at its end
                stored = replace(stored, unused_bytes=text.unused_bytes)
            scores[name] = stored
    return scores


def compute(loaded: LoadedModel, names: Sequence[str], basis: Basis, run: Run) -> Iterator[Scores]:
    """Yields the scores as they are computed: in one pass those that can share it, then each that
    measures a level."""
    if quick := [name for name in names if not SCORERS[name].measures_level]:
        yield from compute_in_one_pass(loaded, quick, basis, run)
    for name in names:
        if SCORERS[name].measures_level:
            most = basis.max_tokens or SCORERS[name].max_tokens
            sequences = tokenize(loaded, basis.text, most=most)
            began = time.perf_counter()
            bank = bank_of(loaded, basis.quantizer, run.store)
            values = level_scores(bank, name, basis.low, sequences, run)
            yield basis.scores(loaded, name, values, sequences, time.perf_counter() - began)


def compute_in_one_pass(
    loaded: LoadedModel, names: Sequence[str], basis: Basis, run: Run
) -> Iterator[Scores]:
    """Yields the scores of scorers that only look at each layer."""
    needs_text = any(SCORERS[name].needs_text for name in names)
    sequences = tokenize(loaded, basis.text, most=basis.max_tokens) if needs_text else []
    keys = [basis.key(loaded.info, name) for name in names]
    path = records.pass_path(keys, loaded.device, run.store)
    run.store.passes.evict(path)
    also: list[Rider] = []
    quantizer = basis.quantizer
    if loaded.streamed and sequences and not quantizer.calibrated:  # every layer is read anyway
        also.append(Packing(bank_of(loaded, quantizer, run.store), quantizer.pairs[0], run))
    scored = pass_scores(loaded, names, sequences, run, also, path)
    for name, (values, seconds) in scored.items():
        yield basis.scores(loaded, name, values, sequences, seconds)


def zd_alone(model_id: str, run: Run) -> tuple[Source, list[float]]:
    """Returns ZD of a model that transformers cannot build, by the names in its checkpoint.

    Raises UserError where the checkpoint has no safetensors files.
    """
    source = find(model_id, run)
    headers = source.headers(run)
    if headers is None:
        raise UserError(f"'{model_id}' has no safetensors files, which name its layers.")
    return source, zd_by_name(headers, source.folder, model_id, run)
