"""Makes assets/cache: what the page shows of the program's own models the moment it opens. Run it
after a change of a model, the scorers, the tasks or the pinned libraries:

    python assets/make_cache.py --model demo
    python assets/make_cache.py --model smollm2

What the cache of this machine has is not measured again, so that it can be stopped and started
again. It works in the folder that LWQ_CACHE_DIR names: an empty one measures everything anew. What
is finished ships at once.
"""
# ruff: noqa: E402

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from lwq_ui.core.allocation import Split
from lwq_ui.core.built_in import BUILT_IN, DEMO, SMOLLM2
from lwq_ui.core.choice import Choice
from lwq_ui.core.curves import Curve, alike, all_splits, curves, levels_between
from lwq_ui.core.errors import UserError
from lwq_ui.core.memory import UNTOUCHED
from lwq_ui.core.orderings import ORDERINGS, QUICK_SCORERS, SCORERS
from lwq_ui.core.run import Run
from lwq_ui.core.schema import Evaluation, ModelInfo, Scores
from lwq_ui.core.settings import Settings
from lwq_ui.core.store import Key, Store, as_it_is
from lwq_ui.core.usability import Usability
from lwq_ui.core.writing import Prompt, splits_to_read
from lwq_ui.engine import jobs, records
from lwq_ui.engine.models.loading import LoadedModel
from lwq_ui.engine.quantizers import QUANTIZERS, Quantizer, quantizer_named
from lwq_ui.engine.tasks import tasks
from lwq_ui.engine.texts import shipped_calibration
from lwq_ui.ui.situation import QUICK

T = TypeVar("T")

TASKS = ("perplexity", "minimal_pairs")  # of every line
SHIPPED = ("info", "scores", "evaluations", "texts")  # not banks, which are as large as the model
LEVELS = (UNTOUCHED, 8, 4, 2)  # of all layers alike, on all tasks, by the opening quantizer


@dataclass(frozen=True)
class Lines:
    """Curves to measure: every `stride`-th split of `orderings`, by a quantizer between two levels.
    `between` adds all layers alike at the quantizer's levels from the high to the low one."""

    quantizer: str
    levels: tuple[float, float]
    orderings: tuple[str, ...] = ("lim",)
    stride: int = 1
    between: bool = False

    def curves(self, values: Mapping[str, Sequence[float]], n: int) -> list[Curve]:
        lines = curves(self.orderings, values, n, self.levels, self.stride)
        if self.between:
            levels = quantizer_named(self.quantizer).levels
            lines.append(alike(levels_between(levels, *self.levels), n))
        return lines


# Figure 2. Then tables 2 and 3: LIM's splits with every quantizer, beside all layers alike. Both
# ends come with the levels between, so that no other level has to be calibrated.
FIGURE_2 = ("lim", "zd", "sensitivity", "reverse-lim", "reverse-zd", "random")
ALL = (*FIGURE_2, "first", "last")
PLANS: dict[str, tuple[Lines, ...]] = {
    DEMO: (
        Lines("quanto", (4, 2), FIGURE_2),
        *(Lines(q.name, q.pairs[0], between=True) for q in QUANTIZERS.values()),
    ),
    SMOLLM2: (
        Lines("quanto", (8, 4), ALL, stride=4),
        Lines("quanto", (4, 2), ALL, stride=4),
        Lines("quanto-clip", (8, 4), ("lim", "random"), stride=4),
        Lines("gptq", (4, 3), ("lim", "random"), stride=4),
    ),
}


class Remembering(Store):
    """A store that remembers what was asked of it: that is what ships."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings.cache, bank_limit=settings.bank_limit)
        self.used: set[Path] = set()

    def read(self, key: Key, reader: Callable[[Any], T] = as_it_is) -> T | None:
        value = super().read(key, reader)
        if value is not None:
            self.used.add(key.path)
        return value

    def write(self, key: Key, value: Any) -> Path:
        self.used.add(key.path)
        return super().write(key, value)


def main() -> None:
    parser = argparse.ArgumentParser(description="Makes assets/cache of one model.")
    parser.add_argument("--model", choices=PLANS, required=True)
    name = parser.parse_args().model

    def progress(what: str, share: float | None) -> None:
        print(f"\r\x1b[K{what} {share or 0:.0%}", end="", file=sys.stderr, flush=True)

    settings = Settings.from_environment()
    run = Run(settings, Remembering(settings), progress)
    try:
        make(name, run)
    except KeyboardInterrupt:
        raise SystemExit("\nStopped. The same command goes on from here.") from None
    except UserError as e:
        raise SystemExit(f"\n{e}") from None
    print(file=sys.stderr)


def make(name: str, run: Run, plan: Sequence[Lines] | None = None) -> None:
    """Measures what is missing, and ships each part when it is finished. At the end it removes what
    shipped of the model before."""
    plan = PLANS[name] if plan is None else plan
    loaded = jobs.load(name, "cpu", "auto", run)
    key = records.info_key(loaded.info.fingerprint, "auto")
    if run.store.read(key, ModelInfo.from_json) != loaded.info:  # described under another name
        run.store.write(key, loaded.info.to_json())
    opening = BUILT_IN[name]
    quantizer = quantizer_named(opening.quantizer)
    scores = scores_at(loaded, (quantizer, opening.levels[1]), run)
    ship(run)
    alike_splits: list[Split] = [(level,) * loaded.info.num_layers for level in LEVELS]
    evaluations: list[Evaluation] = []
    for limit in (QUICK, None):
        everything = list(tasks(run.settings))
        evaluations += measure(loaded, alike_splits, quantizer, everything, limit, run)
    for lines in plan:
        evaluations += measure_lines(loaded, lines, run)
    write_usual_texts(loaded, opening.levels, quantizer, scores, evaluations, run)
    remove_old(name, loaded, run)


def scores_at(
    loaded: LoadedModel, level: tuple[Quantizer, float], run: Run
) -> Mapping[str, Scores]:
    """Returns all scores, those that measure a level at this one."""
    text, (quantizer, low) = shipped_calibration(run.settings), level
    return jobs.score(loaded, list(SCORERS), text, run, quantizer=quantizer, low=low)


def measure(
    loaded: LoadedModel,
    splits: Sequence[Split],
    quantizer: Quantizer,
    names: Sequence[str],
    limit: int | None,
    run: Run,
) -> list[Evaluation]:
    """Returns the evaluations, which ship by then. Raises SystemExit where one cannot be had."""
    measurement = jobs.Measurement(splits, quantizer, names, limit)
    evaluated = jobs.evaluate(loaded, measurement, run)
    ship(run)
    if evaluated.failures:
        raise SystemExit("\n" + " ".join(evaluated.failures))
    return evaluated.evaluations


def measure_lines(loaded: LoadedModel, lines: Lines, run: Run) -> list[Evaluation]:
    quantizer, n = quantizer_named(lines.quantizer), loaded.info.num_layers
    needed = {ORDERINGS[name].scorer for name in lines.orderings}
    if needed <= {None, *QUICK_SCORERS}:
        scores = jobs.score(loaded, QUICK_SCORERS, shipped_calibration(run.settings), run)
    else:
        scores = scores_at(loaded, (quantizer, lines.levels[1]), run)
    values = {name: s.values for name, s in scores.items()}
    untouched: list[Split] = [(UNTOUCHED,) * n]
    splits = untouched + all_splits(lines.curves(values, n))
    return measure(loaded, splits, quantizer, TASKS, None, run)


def write_usual_texts(
    loaded: LoadedModel,
    levels: tuple[float, float],
    quantizer: Quantizer,
    scores: Mapping[str, Scores],
    evaluations: Iterable[Evaluation],
    run: Run,
) -> None:
    """Writes what "Write something" shows at once: the usual prompt at the slider's middle."""
    split = Choice(loaded.info, quantizer, levels, scores=scores).split
    untouched: Split = (UNTOUCHED,) * loaded.info.num_layers
    usability = Usability(evaluations)
    for one in (untouched, *splits_to_read(quantizer, levels, split, usability)):
        for _ in jobs.generate(loaded, one, quantizer, Prompt(), run):
            pass
    ship(run)


def ship(run: Run) -> None:
    """Copies what was asked for so far."""
    for path in used(run):
        target = run.settings.shipped / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(run.store.root / path, target)


def used(run: Run) -> list[Path]:
    assert isinstance(run.store, Remembering)
    return sorted(path for path in run.store.used if path.parts[0] in SHIPPED)


def remove_old(name: str, loaded: LoadedModel, run: Run) -> None:
    """Removes what shipped of the model and was not asked for now: it is of other files, or of an
    earlier plan."""
    shipped, asked_for = run.settings.shipped, set(used(run))
    own = {loaded.info.fingerprint[:16]}
    for path in shipped.glob("info/*/*.json"):
        if json.loads(path.read_bytes())["value"]["model_id"] == name:
            own.add(path.parent.name)
    for kind in SHIPPED:
        for folder in (shipped / kind / fingerprint for fingerprint in own):
            for path in folder.glob("*.json"):
                if path.relative_to(shipped) not in asked_for:
                    path.unlink()
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


if __name__ == "__main__":
    main()
