"""What each quantizer costs on a model, and what it is worth: the time to pack every layer at the
high and the low level of its usual pair, the bytes that takes, and the perplexity of the held-out
passages with LIM's order at five averages.

    python -m benchmarks.quantizers [--model demo] [--quantizer NAME ...] [--device cpu]
                                    [--items N] [--json FILE]

Each quantizer starts with an empty bank. CPU seconds count all threads, and those of GPTQ's own
process, whose start (importing GPTQModel and reading the model) is part of the time.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.report import arguments, report
from lwq_ui.core.allocation import Split
from lwq_ui.core.cost import model_cost
from lwq_ui.core.curves import curve
from lwq_ui.core.memory import UNTOUCHED, average_bits
from lwq_ui.core.run import Run
from lwq_ui.core.settings import Settings
from lwq_ui.core.store import Store
from lwq_ui.engine import jobs
from lwq_ui.engine.banks.packing_cost import packing_cost
from lwq_ui.engine.models.loading import LoadedModel
from lwq_ui.engine.quantizers import DEFAULT_QUANTIZER, QUANTIZERS, Quantizer, quantizer_named
from lwq_ui.engine.texts import shipped_calibration

STEPS = 4  # between all-high and all-low


def cpu_seconds() -> float:
    t = os.times()
    return t.user + t.system + t.children_user + t.children_system


class Bench:
    def __init__(self, loaded: LoadedModel, run: Run, items: int | None):
        self.loaded, self.run, self.items = loaded, run, items
        text = shipped_calibration(run.settings)
        self.lim = jobs.score(loaded, ["lim"], text, run)["lim"].values

    def perplexity(self, splits: list[Split], quantizer: Quantizer) -> list[float]:
        measurement = jobs.Measurement(splits, quantizer, ["perplexity"], self.items)
        done = jobs.evaluate(self.loaded, measurement, self.run)
        return [e.metrics["perplexity"].value for e in done.evaluations]

    def row(self, quantizer: Quantizer) -> dict[str, Any]:
        info = self.loaded.info
        n, pair = info.num_layers, quantizer.pairs[0]
        ends: list[Split] = [(level,) * n for level in pair]
        ahead = packing_cost(info, quantizer, ends, self.run.store, self.loaded.device)
        wall, cpu = time.perf_counter(), cpu_seconds()
        jobs.bank_of(self.loaded, quantizer, self.run.store).fill(ends, self.run)
        wall, cpu = time.perf_counter() - wall, cpu_seconds() - cpu
        splits = list(curve("lim", {"lim": self.lim}, n, pair).splits[:: max(1, n // STEPS)])
        values = self.perplexity(splits, quantizer)
        cost = model_cost(info, quantizer)
        found: dict[str, Any] = {
            "quantizer": quantizer.name,
            "levels": quantizer.pair_title(pair),
            "wall s": round(wall, 1),
            "CPU s": round(cpu, 1),
            "forecast s": round(ahead.seconds, 1),
            "bank MiB": round(ahead.bytes / 2**20, 2),
            "low MiB": round((cost.total(ends[1]) - cost.rest_bytes) / 2**20, 2),
        }
        for step, (split, value) in enumerate(zip(splits, values, strict=True)):
            found[f"{100 - 100 * step // STEPS} % high"] = round(value, 2)
            found[f"bits {step}"] = round(average_bits(split), 3)
        return found


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quantizer", action="append", help="default: every family")
    parser.add_argument("--items", type=int, help="passages (default: all)")
    args = parser.parse_args()
    settings = Settings.from_environment()
    with tempfile.TemporaryDirectory() as folder:
        run = Run(settings, Store(Path(folder)))
        loaded = jobs.load(args.model, args.device, "auto", run)
        bench = Bench(loaded, run, args.items)
        untouched = bench.perplexity([(UNTOUCHED,) * loaded.info.num_layers], DEFAULT_QUANTIZER)[0]
        rows = [bench.row(quantizer_named(q)) for q in args.quantizer or QUANTIZERS]
    report(
        f"{args.model}: perplexity by quantizer, LIM's order; unquantized {untouched:.2f}",
        rows,
        args.json,
        untouched=untouched,
    )


if __name__ == "__main__":
    main()
