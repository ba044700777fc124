"""What a user can ask for, as plain functions. Each takes a progress callback and a stop event,
checks both at least once per layer or batch, and raises UserError or Stopped. The command line
calls them directly; the page runs them in a worker thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event
from typing import Any

from safetensors import SafetensorError

from ..core.allocation import Split, whole
from ..core.budget import Workload, default_context
from ..core.config import EXPORTS, Config
from ..core.errors import Stopped, Unexplained, UserError
from ..core.memory import UNTOUCHED
from ..core.orderings import SCORERS
from ..core.outputs import check_folder, new_folder, unwritable
from ..core.schema import UNQUANTIZED, Evaluation, ModelInfo, Scores
from ..core.settings import Settings
from ..core.store import Key, Store
from ..failures import logged, unexpected
from . import models, records
from .bank import Bank, Packing
from .configs import check_fingerprint, other_weights
from .devices import Fit, local_devices, what_fits
from .evaluation import Task, task_named
from .models import LoadedModel
from .names import zd_by_name
from .packing import packing_cost
from .peak import peak_memory
from .quantizers import DEFAULT, Quantizer, model_cost, quantizer_named
from .scorers import LAYER_SCORERS, layer_scores, sensitivity
from .sources import Progress, Source, find, part_of
from .survey import Rider
from .sweep import Rehearsal, Rehearsed, Sweep
from .texts import Text, cut_short, tokenize


def stored_info(
    source: Source, dtype: str, store: Store, progress: Progress, stop: Event
) -> ModelInfo | None:
    """What the store knows of these files, which are read for it where they were not before."""
    if not source.is_hashed():
        progress("Reading the weights once, to know them again", None)
        source.fingerprint(stop)
    return records.known_info(source, dtype, store)


def describe(
    model_id: str, dtype: str, settings: Settings, store: Store, progress: Progress, stop: Event
) -> ModelInfo:
    """What a model is, without loading or downloading its weights."""
    source = find(model_id, settings, progress, stop, weights=False)
    known = stored_info(source, dtype, store, progress, stop)
    if known is None:
        headers = source.headers(progress, stop) if source.has_weights else None
        progress("Reading the config", None)
        known = models.describe(source, dtype, headers)
        store.write(records.info_key(source.fingerprint(), dtype), known.to_json())
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


def look(
    model_id: str, dtype: str, settings: Settings, store: Store, progress: Progress, stop: Event
) -> Looked:
    """A model's figures from its config and the headers of its checkpoint: nothing is loaded, and
    of one on the Hub no weights are downloaded. Raises UserError where names, shapes or files of
    the checkpoint do not fit together."""
    source = find(model_id, settings, progress, stop, weights=False)
    headers = source.headers(progress, stop)
    progress("Reading the config", None)
    info = models.describe(source, dtype, headers, None if source.is_hashed() else "")
    device = models.resolve_device("auto")
    usage = Workload(default_context(info))
    devices = what_fits(info, DEFAULT, local_devices(), usage) if info.token_bytes else []
    return Looked(
        info,
        source.download_bytes,
        not models.fits(info, device),
        devices,
    )


def load(
    model_id: str,
    device: str,
    dtype: str,
    settings: Settings,
    store: Store,
    progress: Progress,
    stop: Event,
) -> LoadedModel:
    source = find(model_id, settings, progress, stop)
    return load_source(source, device, dtype, store, progress, stop)


def load_for(
    config: Config,
    model_id: str | None,
    device: str,
    settings: Settings,
    store: Store,
    progress: Progress,
    stop: Event,
) -> LoadedModel:
    """The model that a config was made of, from `model_id` or else from where the config says.
    Raises UserError where its files are others, before they are loaded."""
    try:
        named = config.model_id if model_id is None else model_id
        source = find(named, settings, progress, stop)
    except UserError as e:
        if model_id is not None:
            raise
        raise UserError(
            f"{e} The config names '{config.model_id}': if its files lie elsewhere, say where with "
            "--model."
        ) from e
    stored_info(source, config.dtype, store, progress, stop)
    if source.fingerprint() != config.fingerprint:
        raise other_weights(source.model_id)
    loaded = load_source(source, device, config.dtype, store, progress, stop)
    check_fingerprint(config, loaded.info)
    return loaded


def load_source(
    source: Source, device: str, dtype: str, store: Store, progress: Progress, stop: Event
) -> LoadedModel:
    known = stored_info(source, dtype, store, progress, stop)
    try:
        loaded = models.load(source, device, dtype, progress, stop, known=known)
    except BaseException:
        models.release_memory()
        raise
    if loaded.info != known:
        key = records.info_key(loaded.info.fingerprint, dtype)
        store.write(key, loaded.info.to_json())
    return loaded


def score(
    loaded: LoadedModel,
    scorers: Sequence[str],
    text: Text,
    store: Store,
    progress: Progress,
    stop: Event,
    max_tokens: int | None = None,
    quantizer: str = DEFAULT,
    low: float = 2,
) -> dict[str, Scores]:
    """Scores of every scorer asked for, from the store or computed and stored. `quantizer` and the
    `low` level are for scorers that measure a level."""
    for name in scorers:
        if name not in SCORERS:
            raise UserError(f"There is no scorer '{name}'. Choose from: {', '.join(SCORERS)}.")
    chosen, low = quantizer_named(quantizer), whole(low)
    found: dict[str, Scores] = {}

    def keep(name: str, values: Sequence[float], sequences: Sequence[Any], seconds: float) -> None:
        spec = SCORERS[name]
        of_text = sequences if spec.needs_text else []
        found[name] = Scores(
            scorer=name,
            values=tuple(values),
            calibration=text.name if spec.needs_text else None,
            documents=len(of_text),
            tokens=sum(map(len, of_text)),
            seconds=round(seconds, 3),
            quantizer=chosen.name if spec.measures_level else None,
            level=low if spec.measures_level else None,
            cut=cut_short(loaded, text.documents[: len(of_text)]),
            unused_bytes=text.unused_bytes if spec.needs_text else 0,
        )
        store.write(key_of(name), found[name].to_json())

    def key_of(name: str) -> Key:
        return records.scores_key(loaded.info, name, text, max_tokens, chosen, low)

    def tokens(most: int | None) -> list[list[int]]:
        return tokenize(loaded, text, most=most)

    missing = []
    for name in dict.fromkeys(scorers):
        if stored := store.read(key_of(name), Scores.from_json):
            found[name] = stored
            if SCORERS[name].needs_text:  # the file may have grown at its end
                found[name] = replace(stored, unused_bytes=text.unused_bytes)
        else:
            missing.append(name)
    if quick := [name for name in missing if name in LAYER_SCORERS]:
        sequences = tokens(max_tokens) if any(SCORERS[name].needs_text for name in quick) else []
        also: list[Rider] = []
        if loaded.streamed and sequences and not chosen.calibrated:  # every layer is read anyway
            also.append(Packing(bank_of(loaded, chosen.name, store), chosen.pairs[0]))
        path = records.pass_path([key_of(name) for name in quick], loaded.device, store)
        store.passes.evict(path)
        scored = layer_scores(loaded, quick, sequences, progress, stop, also, path)
        for name, (values, seconds) in scored.items():
            keep(name, values, sequences, seconds)
    if "sensitivity" in missing:
        bank = bank_of(loaded, chosen.name, store)
        sequences = tokens(max_tokens or SCORERS["sensitivity"].max_tokens)
        began = time.perf_counter()
        values = sensitivity(bank, low, sequences, progress, stop)
        keep("sensitivity", values, sequences, time.perf_counter() - began)
    return {name: found[name] for name in scorers}


def zd_alone(
    model_id: str, settings: Settings, progress: Progress, stop: Event
) -> tuple[Source, list[float]]:
    """ZD of a model that transformers cannot build, by the names in its checkpoint."""
    source = find(model_id, settings, progress, stop)
    headers = source.headers(progress, stop)
    if headers is None:
        raise UserError(f"'{model_id}' has no safetensors files, which name its layers.")
    return source, zd_by_name(headers, source.folder, model_id, progress, stop)


@dataclass(frozen=True)
class Evaluated:
    """Evaluations in the order of tasks, then splits; `computed` of them were not in the store.
    `failures` has a sentence for everything that could not be measured. `peak_bytes` is the most
    memory that the whole program used meanwhile (see peak.py), None where all was in the store."""

    evaluations: list[Evaluation]
    computed: int
    failures: tuple[str, ...] = ()
    peak_bytes: int | None = None


def evaluate(
    loaded: LoadedModel,
    splits: Sequence[Split],
    quantizer: str,
    tasks: Sequence[str],
    limit: int | None,
    settings: Settings,
    store: Store,
    progress: Progress,
    stop: Event,
    partial: Callable[[list[Evaluation], bool], None] | None = None,
    early: bool = True,
) -> Evaluated:
    """Every split on every task. What the store lacks is measured, a task's splits in one walk;
    what a walk has scored is kept as it goes, and a task's results as soon as it is done. Nothing
    that fails keeps the others from being measured, or what is known from being returned:
    UserError only where nothing is known.

    `partial(evaluations, whole)` gets every evaluation as it becomes known: `whole` where it is
    in the store; before that, where `early`, on a part of the items, where the task can go on from
    there."""
    chosen = quantizer_named(quantizer)
    splits = [tuple(map(whole, split)) for split in splits]
    tasks = list(dict.fromkeys(tasks))
    known: dict[tuple[str, Split], Evaluation] = {}
    missing: list[tuple[Task, list[Split]]] = []
    failures: dict[str, str] = {}
    for name in tasks:
        try:
            task = task_named(name, settings)
            found = stored_evaluations(loaded, splits, chosen, task, limit, store)
        except BaseException as e:
            failures[name] = sentence(e, store)
            continue
        known |= {(name, split): e for split, e in found.items()}
        if left := [split for split in dict.fromkeys(splits) if split not in found]:
            missing.append((task, left))
    if partial and known:
        partial(list(known.values()), True)
    computed = 0
    with peak_memory(loaded.device) as peak:
        if missing:
            bank = bank_of(loaded, chosen.name, store)
            try:
                bank.fill([split for _, left in missing for split in left], progress, stop)
            except BaseException as e:
                failures |= dict.fromkeys((task.name for task, _ in missing), sentence(e, store))
                missing = []
        for t, (task, left) in enumerate(missing):
            stages = [(limit, 0.0, 1.0)]
            if partial and early and (first := task.first_items(limit)):
                stages = [(first, 0.0, 0.25), (limit, 0.25, 1.0)]
            began = time.perf_counter()
            try:
                for items, start, end in stages:
                    told = part_of(progress, (t + start) / len(missing), (t + end) / len(missing))
                    journal = records.journal_folder(loaded.info, task, chosen, store)
                    store.journals.evict(journal)
                    results = task.measure(Sweep(bank, left, told, stop, journal), items)
                    evaluations = [
                        Evaluation(
                            task=task.name,
                            split=split,
                            quantizer=UNQUANTIZED if set(split) == {UNTOUCHED} else chosen.name,
                            metrics=result.metrics,
                            items=result.items,
                            limit=task.limited(limit),
                            seconds=round((time.perf_counter() - began) / len(left), 3),
                        )
                        for split, result in zip(left, results, strict=True)
                    ]
                    if partial and items != limit:
                        partial(evaluations, False)
                for evaluation in evaluations:
                    split = evaluation.split
                    key = records.evaluation_key(loaded.info, task, split, chosen, limit)
                    store.write(key, evaluation.to_json())
                    known[task.name, split] = evaluation
            except BaseException as e:
                failures[task.name] = sentence(e, store)
                continue
            computed += len(evaluations)
            if partial:
                partial(evaluations, True)
    if failures and not known:
        raise UserError(" ".join(dict.fromkeys(failures.values())))
    done = [known[t, split] for t in tasks for split in splits if (t, split) in known]
    reasons = tuple(dict.fromkeys(failures.values()))
    return Evaluated(done, computed, reasons, peak.bytes if missing else None)


def sentence(error: BaseException, store: Store) -> str:
    """What to say of an error that ends only a part of the work; what ends all of it is raised."""
    if isinstance(error, Stopped | KeyboardInterrupt | SystemExit | GeneratorExit):
        raise error
    models.release_memory()
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


def forecast(
    loaded: LoadedModel,
    splits: Sequence[Split],
    quantizer: str,
    tasks: Sequence[str],
    limit: int | None,
    settings: Settings,
    store: Store,
    progress: Progress,
    stop: Event,
) -> Forecast:
    """The same as `evaluate` would be asked, timed on a sample of the work. Tasks that cannot be
    measured are among the unknown."""
    chosen = quantizer_named(quantizer)
    splits = [tuple(map(whole, split)) for split in splits]
    seconds, count, unknown = 0.0, 0, []
    asked: set[Split] = set()
    for name in dict.fromkeys(tasks):
        try:
            task = task_named(name, settings)
            found = stored_evaluations(loaded, splits, chosen, task, limit, store)
            left = [split for split in dict.fromkeys(splits) if split not in found]
            if not left:
                continue
            count += len(left)
            asked |= set(left)
            bank = bank_of(loaded, quantizer, store)
            journal = records.journal_folder(loaded.info, task, chosen, store)
            task.measure(Rehearsal(bank, left, progress, stop, journal), limit)
        except Rehearsed as e:
            if e.seconds is None:
                unknown.append(name)
            else:
                seconds += e.seconds
        except Stopped:
            raise
        except Exception:  # said when it is measured
            unknown.append(name)
    calibrating = 0.0
    if chosen.calibrated:  # the others' packing is part of what is timed
        calibrating = packing_cost(loaded.info, quantizer, asked, store, loaded.device).seconds
    return Forecast(seconds + calibrating, calibrating, count, tuple(unknown))


def stored_evaluations(
    loaded: LoadedModel,
    splits: Sequence[Split],
    quantizer: Quantizer,
    task: Task,
    limit: int | None,
    store: Store,
) -> dict[Split, Evaluation]:
    """Those of `splits` whose results are in the store."""
    found = {}
    for split in dict.fromkeys(splits):
        key = records.evaluation_key(loaded.info, task, split, quantizer, limit)
        if stored := store.read(key, Evaluation.from_json):
            found[split] = records.with_short_name(stored)
    return found


def bank_of(loaded: LoadedModel, quantizer: str, store: Store) -> Bank:
    """The one bank of a loaded model and a quantizer, shared by everybody who uses the model."""
    chosen = quantizer_named(quantizer)
    if chosen.name not in loaded.banks:
        folder = records.bank_folder(loaded.info, chosen, store)
        loaded.banks[chosen.name] = Bank(loaded, chosen, folder, store.banks)
    return loaded.banks[chosen.name]


@dataclass(frozen=True)
class Truth:
    """Bytes of a model at a split: by formula, and of the tensors that there are."""

    estimated: int
    measured: int


def truth(loaded: LoadedModel, split: Split, quantizer: str, store: Store) -> Truth:
    """Packs what the split lacks. Raises UserError where the disk is full."""
    measured = bank_of(loaded, quantizer, store).measured_bytes(split)
    return Truth(model_cost(loaded.info, quantizer).total(split), measured)


def generate(
    loaded: LoadedModel,
    split: Split,
    quantizer: str,
    prompt: str,
    seed: int,
    max_tokens: int,
    store: Store,
    progress: Progress,
    stop: Event,
) -> Iterator[tuple[str, str]]:
    """What the unquantized and the quantized model write so far, as either goes on. An unquantized
    model that is streamed does not fit into memory and writes nothing."""
    from .generation import fitted, write_on

    loaded.walk.source.check_unchanged()
    tokens, most = fitted(loaded, prompt, max_tokens)
    bank = bank_of(loaded, quantizer, store)
    bank.fill([split], progress, stop)
    quantized = bank.compose(split)
    progress("Writing", None)
    writing = [quantized] if loaded.streamed else [loaded.model, quantized]
    for texts in write_on(writing, loaded, tokens, seed, most, stop):
        yield "" if loaded.streamed else texts[0], texts[-1]
    if stop.is_set():
        raise Stopped


def quantize(
    loaded: LoadedModel,
    config: Config,
    out: Path,
    store: Store,
    progress: Progress,
    stop: Event,
) -> Path:
    """Writes the quantized model as a folder that another program loads by itself (which, says the
    quantizer). The folder appears only when it is complete."""
    check_fingerprint(config, loaded.info)
    split = config.bits_per_layer
    bank = bank_of(loaded, config.quantizer["name"], store)
    check_folder(out, model_cost(loaded.info, bank.quantizer.name).total(split))
    bank.quantizer.check_write(bank, split)
    bank.fill([split], progress, stop)
    progress("Writing the model", None)
    try:
        with new_folder(out) as part:
            bank.quantizer.write(bank, split, part)
            (part / "lwq.json").write_text(EXPORTS["json"](config), encoding="utf-8")
            loaded.walk.source.check_unchanged()
            if stop.is_set():
                raise Stopped
    except (OSError, SafetensorError) as e:  # safetensors' own error is no OSError
        raise unwritable(out, e) from e
    return out
