"""Measuring quantized models on tasks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from ...core.allocation import Split, whole
from ...core.errors import Stopped, Unexplained, UserError
from ...core.memory import UNTOUCHED
from ...core.run import Run
from ...core.schema import UNQUANTIZED, Evaluation, ModelInfo
from ...core.settings import Settings
from ...core.store import Store
from ...failures import logged, unexpected
from .. import records
from ..banks.bank import Bank
from ..chat import check_template
from ..devices import release_memory
from ..models.loading import LoadedModel
from ..peak import peak_memory
from ..quantizers import Quantizer
from ..sweeps.sweep import Sweep
from ..tasks import task_named
from ..tasks.base import Task
from .banks import bank_of

Missing = list[tuple[Task, list[Split]]]  # what is still to measure

Partial = Callable[[list[Evaluation], bool], None]
"""Called with evaluations as they become known, and whether they are on all items asked for."""


@dataclass(frozen=True)
class Measurement:
    """What is measured: `splits` of a quantizer on `tasks` by name, each on at most `limit` items,
    all of them where it is None. With `chat_template`, prompts are in that of the model."""

    splits: Sequence[Split]
    quantizer: Quantizer
    tasks: Sequence[str]
    limit: int | None = None
    chat_template: bool = False

    def __post_init__(self) -> None:
        """Makes levels what the store's keys have, and names each task once."""
        splits = tuple(tuple(map(whole, split)) for split in self.splits)
        object.__setattr__(self, "splits", splits)
        object.__setattr__(self, "tasks", tuple(dict.fromkeys(self.tasks)))

    def task(self, name: str, settings: Settings) -> Task:
        """Returns one of the tasks. Raises UserError where it cannot be had."""
        task = task_named(name, settings)
        return task.with_chat_template() if self.chat_template else task

    def stored(self, info: ModelInfo, task: Task, store: Store) -> dict[Split, Evaluation]:
        """Returns those evaluations on a task that are in the store, by split."""
        evaluations = {}
        for split in dict.fromkeys(self.splits):
            key = records.evaluation_key(info, task, split, self.quantizer, self.limit)
            if stored := store.read(key, Evaluation.from_json):
                evaluations[split] = records.with_short_name(stored)
        return evaluations


@dataclass(frozen=True)
class Evaluated:
    """Evaluations in the order of tasks, then splits; `computed` of them were not in the store.

    `failures` has a sentence for everything that could not be measured. `peak_bytes` is the most
    memory that the whole program used meanwhile (see peak.py), None where nothing was computed.
    """

    evaluations: list[Evaluation]
    computed: int
    failures: tuple[str, ...] = ()
    peak_bytes: int | None = None


def evaluate(
    loaded: LoadedModel,
    measurement: Measurement,
    run: Run,
    partial: Partial | None = None,
    early: bool = True,
) -> Evaluated:
    """Returns the evaluations of all splits on all tasks, and measures what the store lacks.

    All splits of a task are measured in one walk. What a walk has scored is kept as it goes, and a
    task's results as soon as it is done. A failure keeps nothing else from being measured. Raises
    UserError only where there is no evaluation at all.

    Where a chat template is asked for and there is none, nothing is measured.

    `partial` is called where `early` also on a part of a task's items, if the task can go on from
    there.
    """
    if measurement.chat_template:
        check_template(loaded)
    evaluations, missing, failures = look_up(loaded, measurement, run)
    if partial and evaluations:
        partial(list(evaluations.values()), True)
    computed = 0
    with peak_memory(loaded.device) as peak:
        shown_early = partial if early else None
        for new in compute(loaded, measurement, missing, failures, run, shown_early):
            evaluations |= {(e.task, e.split): e for e in new}
            computed += len(new)
            if partial:
                partial(new, True)
    sentences = tuple(dict.fromkeys(failures.values()))
    if sentences and not evaluations:
        raise UserError(" ".join(sentences))
    in_order = [(task, split) for task in measurement.tasks for split in measurement.splits]
    return Evaluated(
        [evaluations[place] for place in in_order if place in evaluations],
        computed,
        sentences,
        peak.bytes if computed else None,
    )


def look_up(
    loaded: LoadedModel, measurement: Measurement, run: Run
) -> tuple[dict[tuple[str, Split], Evaluation], Missing, dict[str, str]]:
    """Returns the stored evaluations, what is missing, and failures.

    The evaluations are by task and split. What is missing are tasks with the splits that they lack.
    The failures are a sentence for each task that cannot be had, by its name.
    """
    evaluations: dict[tuple[str, Split], Evaluation] = {}
    missing: Missing = []
    failures: dict[str, str] = {}
    for name in measurement.tasks:
        try:
            task = measurement.task(name, run.settings)
            stored = measurement.stored(loaded.info, task, run.store)
        except BaseException as e:
            failures[name] = sentence(e, run.store)
            continue
        evaluations |= {(name, split): e for split, e in stored.items()}
        if left := [split for split in dict.fromkeys(measurement.splits) if split not in stored]:
            missing.append((task, left))
    return evaluations, missing, failures


def compute(
    loaded: LoadedModel,
    measurement: Measurement,
    missing: Missing,
    failures: dict[str, str],
    run: Run,
    early: Partial | None,
) -> Iterator[list[Evaluation]]:
    """Measures what is missing, stores it, and yields it task by task. Adds a sentence to
    `failures` for each task that fails."""
    if not missing:
        return
    bank = bank_of(loaded, measurement.quantizer, run.store)
    try:
        bank.fill([split for _, splits in missing for split in splits], run)
    except BaseException as e:
        failures |= dict.fromkeys((task.name for task, _ in missing), sentence(e, run.store))
        return
    for t, (task, splits) in enumerate(missing):
        part = run.part(t / len(missing), (t + 1) / len(missing))
        try:
            evaluations = measure(bank, replace(measurement, splits=splits), task, part, early)
            for measured in evaluations:
                key = records.evaluation_key(
                    loaded.info, task, measured.split, bank.quantizer, measurement.limit
                )
                run.store.write(key, measured.to_json())
        except BaseException as e:
            failures[task.name] = sentence(e, run.store)
            continue
        yield evaluations


def measure(
    bank: Bank, measurement: Measurement, task: Task, run: Run, early: Partial | None
) -> list[Evaluation]:
    """Measures all splits on one task in one walk. Where the task can go on from a part of its
    items, `early` gets the evaluations on that part."""
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
                chat_template=task.chat_template,
            )
            for split, result in zip(splits, results, strict=True)
        ]
        if early and items != limit:
            early(evaluations, False)
    return evaluations


def sentence(error: BaseException, store: Store) -> str:
    """Returns what a user reads of an error that ends only a part of the work. Raises one that
    ends all of it."""
    if isinstance(error, Stopped | KeyboardInterrupt | SystemExit | GeneratorExit):
        raise error
    release_memory()
    if isinstance(error, Unexplained):
        return f"{error} {logged(error.__cause__ or error, store.root)}"
    return str(error if isinstance(error, UserError) else unexpected(error, store.root))
