"""What a user can ask for, as plain functions of a `Run`.

Each reports its progress and checks for a stop at least once per layer or batch, and raises
UserError or Stopped. The command line calls them directly; the page runs them in a worker thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from ..core.allocation import Split, whole
from ..core.budget import Workload, default_context
from ..core.config import Config, format_config
from ..core.cost import model_cost
from ..core.errors import Stopped, Unexplained, UserError
from ..core.memory import UNTOUCHED
from ..core.orderings import SCORERS
from ..core.outputs import check_folder, new_folder, unwritable
from ..core.run import Run
from ..core.schema import UNQUANTIZED, Evaluation, ModelInfo, Scores
from ..core.store import Store
from ..failures import logged, unexpected
from . import records
from .banks.bank import Bank, Packing
from .banks.files import bank_folder
from .banks.packing_cost import packing_cost
from .checkpoints.source import Source, find
from .configs import check_fingerprint, other_weights, quantizer_of
from .devices import local_devices, release_memory, resolve_device
from .exports import model_export
from .fit import Fit, what_fits
from .layer_pass import Rider
from .models import description, loading
from .models.loading import LoadedModel
from .peak import peak_memory
from .quantizers import DEFAULT_QUANTIZER, Quantizer
from .scorers import level_scores, pass_scores
from .scorers.zd_by_name import zd_by_name
from .sweeps.sweep import Sweep
from .tasks import task_named
from .tasks.base import Task
from .texts import Text, cut_short, tokenize


def stored_info(source: Source, dtype: str, run: Run) -> ModelInfo | None:
    """What the store knows of these files, which are read for it where they were not before."""
    if not source.is_hashed():
        run.progress("Reading the weights once, to know them again", None)
        source.fingerprint(run)
    return records.known_info(source, dtype, run.store)


def describe(model_id: str, dtype: str, run: Run) -> ModelInfo:
    """What a model is, without loading or downloading its weights."""
    source = find(model_id, run, weights=False)
    known = stored_info(source, dtype, run)
    if known is None:
        headers = source.headers(run) if source.has_weights else None
        run.progress("Reading the config", None)
        known = description.describe(source, dtype, headers)
        run.store.write(records.info_key(source.fingerprint(), dtype), known.to_json())
    return known


@dataclass(frozen=True)
class Looked:
    """What is known of a model before it is loaded. `info.fingerprint` is empty where large files
    would have to be read for it; `download_bytes` is 0 for a model on this disk, None where the Hub
    could not be asked; `streamed` says that it does not fit into this machine's memory as a whole,
    `devices` what of it does, empty where it is not known what the model keeps of a token."""

    info: ModelInfo
    download_bytes: int | None
    streamed: bool
    devices: list[Fit]


def look(model_id: str, dtype: str, run: Run) -> Looked:
    """A model's figures from its config and the headers of its checkpoint: nothing is loaded, and
    of one on the Hub no weights are downloaded. Raises UserError where names, shapes or files of
    the checkpoint do not fit together."""
    source = find(model_id, run, weights=False)
    headers = source.headers(run)
    run.progress("Reading the config", None)
    info = description.describe(source, dtype, headers, None if source.is_hashed() else "")
    device = resolve_device("auto")
    usage = Workload(default_context(info))
    devices = what_fits(info, DEFAULT_QUANTIZER, local_devices(), usage) if info.token_bytes else []
    return Looked(
        info,
        source.download_bytes,
        not loading.fits(info, device),
        devices,
    )


def load(
    model_id: str,
    device: str,
    dtype: str,
    run: Run,
) -> LoadedModel:
    source = find(model_id, run)
    return load_source(source, device, dtype, run)


def load_for(
    config: Config,
    model_id: str | None,
    device: str,
    run: Run,
) -> LoadedModel:
    """The model that a config was made of, from `model_id` or else from where the config says.
    Raises UserError where its files are others, before they are loaded."""
    try:
        named = config.model_id if model_id is None else model_id
        source = find(named, run)
    except UserError as e:
        if model_id is not None:
            raise
        raise UserError(
            f"{e} The config names '{config.model_id}': if its files lie elsewhere, say where with "
            "--model."
        ) from e
    stored_info(source, config.dtype, run)
    if source.fingerprint() != config.fingerprint:
        raise other_weights(source.model_id)
    loaded = load_source(source, device, config.dtype, run)
    check_fingerprint(config, loaded.info)
    return loaded


def load_source(source: Source, device: str, dtype: str, run: Run) -> LoadedModel:
    known = stored_info(source, dtype, run)
    try:
        loaded = loading.load(source, device, dtype, run, known=known)
    except BaseException:
        release_memory()
        raise
    if loaded.info != known:
        key = records.info_key(loaded.info.fingerprint, dtype)
        run.store.write(key, loaded.info.to_json())
    return loaded


def score(
    loaded: LoadedModel,
    scorers: Sequence[str],
    text: Text,
    run: Run,
    max_tokens: int | None = None,
    quantizer: Quantizer = DEFAULT_QUANTIZER,
    low: float = 2,
) -> dict[str, Scores]:
    """Returns the scores of every scorer, from the store or computed and stored. `quantizer` and
    the `low` level are for scorers that measure a level. Raises UserError for an unknown scorer."""
    for name in scorers:
        if name not in SCORERS:
            raise UserError(f"There is no scorer '{name}'. Choose from: {', '.join(SCORERS)}.")
    low = whole(low)
    keys = {
        name: records.scores_key(loaded.info, name, text, max_tokens, quantizer, low)
        for name in scorers
    }
    scores: dict[str, Scores] = {}
    for name, key in keys.items():
        if stored := run.store.read(key, Scores.from_json):
            if SCORERS[name].needs_text:  # the file may have grown at its end
                stored = replace(stored, unused_bytes=text.unused_bytes)
            scores[name] = stored

    def keep(name: str, values: Sequence[float], sequences: Sequence[Any], seconds: float) -> None:
        spec = SCORERS[name]
        used = sequences if spec.needs_text else []
        scores[name] = Scores(
            scorer=name,
            values=tuple(values),
            calibration=text.name if spec.needs_text else None,
            documents=len(used),
            tokens=sum(map(len, used)),
            seconds=round(seconds, 3),
            quantizer=quantizer.name if spec.measures_level else None,
            level=low if spec.measures_level else None,
            cut=cut_short(loaded, text.documents[: len(used)]),
            unused_bytes=text.unused_bytes if spec.needs_text else 0,
        )
        run.store.write(keys[name], scores[name].to_json())

    missing = [name for name in keys if name not in scores]
    if quick := [name for name in missing if not SCORERS[name].measures_level]:
        needs_text = any(SCORERS[name].needs_text for name in quick)
        sequences = tokenize(loaded, text, most=max_tokens) if needs_text else []
        path = records.pass_path([keys[name] for name in quick], loaded.device, run.store)
        run.store.passes.evict(path)
        also: list[Rider] = []
        if loaded.streamed and sequences and not quantizer.calibrated:  # every layer is read anyway
            also.append(Packing(bank_of(loaded, quantizer, run.store), quantizer.pairs[0], run))
        scored = pass_scores(loaded, quick, sequences, run, also, path)
        for name, (values, seconds) in scored.items():
            keep(name, values, sequences, seconds)
    for name in missing:
        if SCORERS[name].measures_level:
            sequences = tokenize(loaded, text, most=max_tokens or SCORERS[name].max_tokens)
            began = time.perf_counter()
            bank = bank_of(loaded, quantizer, run.store)
            values = level_scores(bank, name, low, sequences, run)
            keep(name, values, sequences, time.perf_counter() - began)
    return {name: scores[name] for name in scorers}


def zd_alone(model_id: str, run: Run) -> tuple[Source, list[float]]:
    """ZD of a model that transformers cannot build, by the names in its checkpoint."""
    source = find(model_id, run)
    headers = source.headers(run)
    if headers is None:
        raise UserError(f"'{model_id}' has no safetensors files, which name its layers.")
    return source, zd_by_name(headers, source.folder, model_id, run)


@dataclass(frozen=True)
class Evaluated:
    """Evaluations in the order of tasks, then splits; `computed` of them were not in the store.
    `failures` has a sentence for everything that could not be measured. `peak_bytes` is the most
    memory that the whole program used meanwhile (see peak.py), None where all was in the store."""

    evaluations: list[Evaluation]
    computed: int
    failures: tuple[str, ...] = ()
    peak_bytes: int | None = None


@dataclass(frozen=True)
class Measurement:
    """What is measured: `splits` of a quantizer on `tasks` by name, each on at most `limit` items,
    all of them where it is None."""

    splits: Sequence[Split]
    quantizer: Quantizer
    tasks: Sequence[str]
    limit: int | None = None

    def __post_init__(self) -> None:
        """Makes levels what the store's keys have, and names each task once."""
        splits = tuple(tuple(map(whole, split)) for split in self.splits)
        object.__setattr__(self, "splits", splits)
        object.__setattr__(self, "tasks", tuple(dict.fromkeys(self.tasks)))

    def stored(self, info: ModelInfo, task: Task, store: Store) -> dict[Split, Evaluation]:
        """Returns those of a task that are in the store, by split."""
        evaluations = {}
        for split in dict.fromkeys(self.splits):
            key = records.evaluation_key(info, task, split, self.quantizer, self.limit)
            if stored := store.read(key, Evaluation.from_json):
                evaluations[split] = records.with_short_name(stored)
        return evaluations


Partial = Callable[[list[Evaluation], bool], None]
"""Called with evaluations as they become known, and whether they are on all items asked for."""


def evaluate(
    loaded: LoadedModel,
    measurement: Measurement,
    run: Run,
    partial: Partial | None = None,
    early: bool = True,
) -> Evaluated:
    """Evaluates every split on every task, and measures what the store lacks.

    A task's splits are measured in one walk. What a walk has scored is kept as it goes, and a
    task's results as soon as it is done. What fails keeps nothing else from being measured: raises
    UserError only where there is no evaluation at all.

    `partial` is called where `early` also on a part of a task's items, if the task can go on from
    there."""
    store, evaluations, missing, failures = run.store, *look_up(loaded, measurement, run)
    if partial and evaluations:
        partial(list(evaluations.values()), True)
    computed = 0
    with peak_memory(loaded.device) as peak:
        if missing:
            bank = bank_of(loaded, measurement.quantizer, store)
            try:
                bank.fill([split for _, splits in missing for split in splits], run)
            except BaseException as e:
                failures |= dict.fromkeys((task.name for task, _ in missing), sentence(e, store))
                missing = []
        for t, (task, splits) in enumerate(missing):
            part = run.part(t / len(missing), (t + 1) / len(missing))
            try:
                one = replace(measurement, splits=splits)
                measured = measure(bank, one, task, part, partial if early else None)
                for result in measured:
                    key = records.evaluation_key(
                        loaded.info, task, result.split, bank.quantizer, measurement.limit
                    )
                    store.write(key, result.to_json())
                    evaluations[task.name, result.split] = result
            except BaseException as e:
                failures[task.name] = sentence(e, store)
                continue
            computed += len(measured)
            if partial:
                partial(measured, True)
    if failures and not evaluations:
        raise UserError(" ".join(dict.fromkeys(failures.values())))
    return Evaluated(
        [
            evaluations[task, split]
            for task in measurement.tasks
            for split in measurement.splits
            if (task, split) in evaluations
        ],
        computed,
        tuple(dict.fromkeys(failures.values())),
        peak.bytes if missing else None,
    )


def look_up(
    loaded: LoadedModel, measurement: Measurement, run: Run
) -> tuple[dict[tuple[str, Split], Evaluation], list[tuple[Task, list[Split]]], dict[str, str]]:
    """Returns what the store has by task and split, the splits that each other task lacks, and a
    sentence for each task that there is not."""
    evaluations: dict[tuple[str, Split], Evaluation] = {}
    missing: list[tuple[Task, list[Split]]] = []
    failures: dict[str, str] = {}
    for name in measurement.tasks:
        try:
            task = task_named(name, run.settings)
            stored = measurement.stored(loaded.info, task, run.store)
        except BaseException as e:
            failures[name] = sentence(e, run.store)
            continue
        evaluations |= {(name, split): e for split, e in stored.items()}
        if left := [split for split in dict.fromkeys(measurement.splits) if split not in stored]:
            missing.append((task, left))
    return evaluations, missing, failures


def measure(
    bank: Bank, measurement: Measurement, task: Task, run: Run, early: Partial | None
) -> list[Evaluation]:
    """Measures all splits on one task in one walk. `early` gets evaluations on a part of the items
    before, where the task can go on from there."""
    splits, limit = measurement.splits, measurement.limit
    stages = [(limit, run)]
    if early and (first := task.first_items(limit)):
        stages = [(first, run.part(0.0, 0.25)), (limit, run.part(0.25, 1.0))]
    began = time.perf_counter()
    for items, part in stages:
        journal = records.journal_folder(bank.loaded.info, task, bank.quantizer, run.store)
        run.store.journals.evict(journal)
        results = task.measure(Sweep(bank, splits, part, journal), items)
        evaluations = [
            Evaluation(
                task=task.name,
                split=split,
                quantizer=UNQUANTIZED if set(split) == {UNTOUCHED} else bank.quantizer.name,
                metrics=result.metrics,
                items=result.items,
                limit=task.limited(limit),
                seconds=round((time.perf_counter() - began) / len(splits), 3),
            )
            for split, result in zip(splits, results, strict=True)
        ]
        if early and items != limit:
            early(evaluations, False)
    return evaluations


def sentence(error: BaseException, store: Store) -> str:
    """What to say of an error that ends only a part of the work; what ends all of it is raised."""
    if isinstance(error, Stopped | KeyboardInterrupt | SystemExit | GeneratorExit):
        raise error
    release_memory()
    if isinstance(error, Unexplained):
        return f"{error} {logged(error.__cause__ or error, store.root)}"
    return str(error if isinstance(error, UserError) else unexpected(error, store.root))


@dataclass(frozen=True)
class Forecast:
    """How long an evaluation would take: `seconds` for what can be known before it starts, and the
    tasks of which nothing can (`unknown`). `splits` of all tasks together are still to measure. Of
    the seconds, `calibrating` are for layers that a calibrated quantizer has to pack first."""

    seconds: float
    calibrating: float
    splits: int
    unknown: tuple[str, ...]

    @staticmethod
    def of_all(forecasts: Collection[Forecast]) -> Forecast:
        """Returns the forecast of several evaluations, one after the other."""
        return Forecast(
            sum(f.seconds for f in forecasts),
            sum(f.calibrating for f in forecasts),
            sum(f.splits for f in forecasts),
            tuple(dict.fromkeys(name for f in forecasts for name in f.unknown)),
        )


def forecast(loaded: LoadedModel, measurement: Measurement, run: Run) -> Forecast:
    """Forecasts what `evaluate` would take, timed on a sample of the work. Tasks that cannot be
    measured are among the unknown."""
    quantizer = measurement.quantizer
    seconds, count, unknown = 0.0, 0, []
    lacking: set[Split] = set()
    for name in measurement.tasks:
        try:
            task = task_named(name, run.settings)
            stored = measurement.stored(loaded.info, task, run.store)
            left = [split for split in dict.fromkeys(measurement.splits) if split not in stored]
            if not left:
                continue
            count += len(left)
            lacking |= set(left)
            bank = bank_of(loaded, quantizer, run.store)
            journal = records.journal_folder(loaded.info, task, quantizer, run.store)
            time_needed = task.forecast(Sweep(bank, left, run, journal), measurement.limit)
            if time_needed is None:
                unknown.append(name)
            else:
                seconds += time_needed
        except Stopped:
            raise
        except Exception:  # said when it is measured
            unknown.append(name)
    calibrating = 0.0
    if quantizer.calibrated:  # the others' packing is part of what is timed
        cost = packing_cost(loaded.info, quantizer, lacking, run.store, loaded.device)
        calibrating = cost.seconds
    return Forecast(seconds + calibrating, calibrating, count, tuple(unknown))


def bank_of(loaded: LoadedModel, quantizer: Quantizer, store: Store) -> Bank:
    """The one bank of a loaded model and a quantizer, shared by everybody who uses the model."""
    if quantizer.name not in loaded.banks:
        folder = bank_folder(loaded.info, quantizer, store)
        loaded.banks[quantizer.name] = Bank(loaded, quantizer, folder, store.banks)
    return loaded.banks[quantizer.name]


@dataclass(frozen=True)
class Truth:
    """Bytes of a model at a split: by formula, and of the tensors that there are."""

    estimated: int
    measured: int


def truth(loaded: LoadedModel, split: Split, quantizer: Quantizer, run: Run) -> Truth:
    """Packs what the split lacks. Raises UserError where the disk is full."""
    measured = bank_of(loaded, quantizer, run.store).measured_bytes(split, run)
    return Truth(model_cost(loaded.info, quantizer).total(split), measured)


def generate(
    loaded: LoadedModel,
    split: Split,
    quantizer: Quantizer,
    prompt: str,
    seed: int,
    max_tokens: int,
    run: Run,
) -> Iterator[tuple[str, str]]:
    """What the unquantized and the quantized model write so far, as either goes on. An unquantized
    model that is streamed does not fit into memory and writes nothing."""
    from .generation import fitted, write_on

    loaded.walk.source.check_unchanged()
    tokens, most = fitted(loaded, prompt, max_tokens)
    bank = bank_of(loaded, quantizer, run.store)
    bank.fill([split], run)
    quantized = bank.compose(split, run)
    run.progress("Writing", None)
    writing = [quantized] if loaded.streamed else [loaded.model, quantized]
    for texts in write_on(writing, loaded, tokens, seed, most, run):
        yield "" if loaded.streamed else texts[0], texts[-1]
    run.check()


def quantize(
    loaded: LoadedModel,
    config: Config,
    out: Path,
    run: Run,
) -> Path:
    """Writes the quantized model as a folder that another program loads by itself. Returns the
    folder, which appears only when it is complete. Raises UserError where no program reads what
    the quantizer packs."""
    check_fingerprint(config, loaded.info)
    split = config.bits_per_layer
    bank = bank_of(loaded, quantizer_of(config), run.store)
    check_folder(out, model_cost(loaded.info, bank.quantizer).total(split))
    export = model_export(bank.quantizer)
    export.check(loaded, bank.quantizer, split)
    bank.fill([split], run)
    run.progress("Writing the model", None)
    try:
        with new_folder(out) as part:
            export.write(bank, split, part, run)
            (part / "lwq.json").write_text(format_config(config), encoding="utf-8")
            loaded.walk.source.check_unchanged()
            run.check()
    except (OSError, SafetensorError) as e:  # safetensors' own error is no OSError
        raise unwritable(out, e) from e
    return out
