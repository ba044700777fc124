"""Makes assets/cache: what the page shows of the demo model the moment it opens. Run it after a
change of the demo model, the scorers, the tasks or the pinned libraries:

    python assets/make_cache.py
"""
# ruff: noqa: E402

import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from lwq_ui.core.allocation import Split
from lwq_ui.core.choice import Choice
from lwq_ui.core.curves import alike, all_splits, curves, levels_between
from lwq_ui.core.memory import UNTOUCHED
from lwq_ui.core.orderings import SCORERS
from lwq_ui.core.run import Run
from lwq_ui.core.schema import Scores
from lwq_ui.core.settings import Settings
from lwq_ui.core.store import Store
from lwq_ui.core.writing import Prompt, splits_to_read
from lwq_ui.engine import jobs
from lwq_ui.engine.models.loading import LoadedModel
from lwq_ui.engine.quantizers import DEFAULT_QUANTIZER, QUANTIZERS
from lwq_ui.engine.tasks import tasks
from lwq_ui.engine.texts import shipped_calibration
from lwq_ui.ui.situation import QUICK

# The paper's figure 2 for the demo model: every split of these, on these tasks.
ORDERINGS = ["lim", "zd", "sensitivity", "reverse-lim", "reverse-zd", "random"]
TASKS = ["perplexity", "minimal_pairs"]
SHIPPED = ("info", "scores", "evaluations", "texts")  # not banks, which are as large as the model


def main() -> None:
    settings = Settings.from_environment()
    with tempfile.TemporaryDirectory() as folder:

        def progress(what: str, share: float | None) -> None:
            print(f"\r\x1b[K{what} {share or 0:.0%}", end="", file=sys.stderr, flush=True)

        run = Run(settings, Store(Path(folder)), progress)
        loaded = jobs.load("demo", "cpu", "auto", run)
        text = shipped_calibration(settings)
        scores = jobs.score(loaded, list(SCORERS), text, run)
        splits = [(level,) * loaded.info.num_layers for level in (UNTOUCHED, 8, 4, 2)]
        for limit in (QUICK, None):
            measurement = jobs.Measurement(splits, DEFAULT_QUANTIZER, list(tasks(settings)), limit)
            jobs.evaluate(loaded, measurement, run)
        values = {name: s.values for name, s in scores.items()}
        lines = curves(ORDERINGS, values, loaded.info.num_layers, (4, 2))
        jobs.evaluate(loaded, jobs.Measurement(all_splits(lines), DEFAULT_QUANTIZER, TASKS), run)
        # Tables 2 and 3: LIM's splits with every quantizer, beside all layers alike. Both ends come
        # with the levels between, so that no other level has to be calibrated.
        for quantizer in QUANTIZERS.values():
            n, (high, low) = loaded.info.num_layers, quantizer.pairs[0]
            between = levels_between(quantizer.levels, high, low)
            lines = [*curves(["lim"], values, n, (high, low)), alike(between, n)]
            untouched: list[Split] = [(UNTOUCHED,) * n]
            splits = untouched + all_splits(lines)
            jobs.evaluate(loaded, jobs.Measurement(splits, quantizer, TASKS), run)
        write_usual_texts(loaded, scores, run)
        shutil.rmtree(settings.shipped, ignore_errors=True)
        for kind in SHIPPED:
            shutil.copytree(Path(folder, kind), settings.shipped / kind)
    print(file=sys.stderr)


def write_usual_texts(loaded: LoadedModel, scores: Mapping[str, Scores], run: Run) -> None:
    """Writes what "Write something" shows at once: the usual prompt at the slider's middle."""
    levels = DEFAULT_QUANTIZER.pairs[0]
    split = Choice(loaded.info, DEFAULT_QUANTIZER, levels, scores=scores).split
    untouched: Split = (UNTOUCHED,) * loaded.info.num_layers
    for one in (untouched, *splits_to_read(DEFAULT_QUANTIZER, levels, split)):
        for _ in jobs.generate(loaded, one, DEFAULT_QUANTIZER, Prompt(), run):
            pass


if __name__ == "__main__":
    main()
