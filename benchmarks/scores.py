"""What the scorers cost on the demo model, next to the cheapest things that touch the same data.

    python -m benchmarks.scores [--repeats 5] [--threads N] [--json FILE]

LIM  against one plain forward pass of the same model, in the same batches, that gives one row of
     logits per sequence: LIM needs the layers and not the head.
ZD   against one `sum` of every weight matrix, in the weights' dtype and in float32. A sum in
     bfloat16 is rounded to three digits at its end; float32 is what a sum to compute with takes.

Ours and the alternative take turns; seconds are medians over the turns, ratios medians of the
ratios of each turn. CPU seconds count all threads.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from benchmarks.report import arguments, report
from lwq_ui.core.run import Run
from lwq_ui.core.settings import Settings
from lwq_ui.core.store import Store
from lwq_ui.engine.batches.padded import batch_tokens, batches
from lwq_ui.engine.checkpoints.finding import find
from lwq_ui.engine.models import loading
from lwq_ui.engine.models.layers import layer_weights
from lwq_ui.engine.models.loading import LoadedModel
from lwq_ui.engine.scorers import pass_scores
from lwq_ui.engine.texts import shipped_calibration, tokenize

Work = Callable[[], Any]


def timed(work: Work, times: int) -> tuple[float, float]:
    """Wall and CPU seconds of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(times):
        work()
    return (time.perf_counter() - wall) / times, (time.process_time() - cpu) / times


def take_turns(
    works: dict[str, Work], repeats: int, times: int
) -> dict[str, list[tuple[float, float]]]:
    """Wall and CPU seconds of every turn, after one call of each that does not count."""
    for work in works.values():
        work()
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            found[name].append(timed(work, times))
    return found


def medians(turns: Sequence[tuple[float, float]]) -> tuple[float, float]:
    return statistics.median(w for w, _ in turns), statistics.median(c for _, c in turns)


def rows_for(loaded: LoadedModel, run: Run, repeats: int) -> list[dict[str, Any]]:
    text = shipped_calibration(run.settings)
    sequences = tokenize(loaded, text)
    tensors = [
        b.tensors(loaded.device)[0]
        for b in batches(sequences, batch_tokens(loaded.info, loaded.device))
    ]
    matrices = [w.matrix() for layer in loaded.walk.layers for w in layer_weights(layer)]

    @torch.no_grad()
    def forward() -> None:
        for ids in tensors:
            loaded.model(input_ids=ids, use_cache=False, logits_to_keep=1)

    def score(name: str) -> Work:
        return lambda: pass_scores(loaded, [name], sequences, run)

    def total(dtype: torch.dtype | None) -> Work:
        return lambda: [matrix.sum(dtype=dtype).item() for matrix in matrices]

    lim = {"LIM": score("lim"), "plain forward pass": forward}
    sums = {"ZD": score("zd"), "sum": total(None), "sum in float32": total(torch.float32)}
    rows = []
    for works, bound, times in ((lim, 1.15, 1), (sums, 4.0, 5)):
        seconds = take_turns(works, repeats if times == 1 else 5 * repeats, times)
        ours, *others = works
        for other in others:
            if other == "sum in float32" and loaded.info.dtype == "float32":
                continue
            pairs = zip(seconds[ours], seconds[other], strict=True)
            wall, cpu = medians([(a[0] / b[0], a[1] / b[1]) for a, b in pairs])
            mine, theirs = medians(seconds[ours]), medians(seconds[other])
            rows.append(
                {
                    "ours": ours,
                    "dtype": loaded.info.dtype,
                    "against": other,
                    "ours wall s": mine[0],
                    "other wall s": theirs[0],
                    "wall ratio": wall,
                    "ours CPU s": mine[1],
                    "other CPU s": theirs[1],
                    "CPU ratio": cpu,
                    "at most": bound,
                }
            )
    return rows


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, help="torch's own choice by default")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda", "mps"))
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    settings = Settings.from_environment()
    run = Run(settings, Store(settings.cache))
    source = find("demo", run)
    rows = []
    for dtype in ("bfloat16", "float32"):
        loaded = loading.load(source, options.device, dtype, run)
        rows += rows_for(loaded, run, options.repeats)
    threads = torch.get_num_threads()
    report(f"scores: the demo model on {options.device}, {threads} threads", rows, options.json)


if __name__ == "__main__":
    main()
