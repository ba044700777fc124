"""All N+1 splits of the LIM ordering, measured on held-out text (perplexity) and on a
multiple-choice task:

    python -m benchmarks.sweep [--limit 12] [--stock-every 12] [--stock-batch 1] [--json FILE]

ours                     one walk for all splits, from an empty bank
bank and stock lm-eval   layers picked from our bank, then stock lm-eval, split after split
quantize and stock ...   the model loaded, quantized with optimum-quanto and run by stock lm-eval,
                         split after split: the usual way

Each runs in a process of its own, one after the other, with the same items, and the ratios are of
CPU seconds: how many times more the other way takes. The clock starts when the model is loaded and
the libraries are imported. lm-eval's own batch size is 1; larger ones suit it better. "largest
difference" is that of any metric of any split from our way's: rounding, where batches have other
shapes (relative for perplexity; an item's worth or two for accuracy). Stock lm-eval computes
log-probabilities in float32 here: in bfloat16, as it does by itself, they are off by up to 0.8.

All of it takes minutes, because two things are cut. The other ways take the same time for every
split: they run every 12th of ours, and their seconds are scaled to all (`--stock-every 1` runs them
all). And every way measures only the first 12 passages and 12 questions (`--limit 240` takes them
all). Nothing is scaled for that: packing, which ours does within its time, weighs more.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

from benchmarks.report import arguments, report
from lwq_ui.core.run import Run
from lwq_ui.engine.banks.composing import compose

WAYS = ("ours", "bank and stock lm-eval", "quantize and stock lm-eval")
PASSAGES = {
    "task": "held_out_passages",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "passages.jsonl"}},
    "test_split": "test",
    "output_type": "loglikelihood_rolling",
    "num_fewshot": 0,
    "doc_to_text": "",
    "doc_to_target": "{{text}}",
    "metric_list": [
        {"metric": m, "aggregation": "weighted_perplexity", "higher_is_better": False}
        for m in ("word_perplexity", "byte_perplexity")
    ],
    "metadata": {"version": 1.0, "title": "Held-out text"},
}
Metrics = dict[str, float]


def task_files(folder: Path) -> list[Path]:
    """Both tasks as lm-eval's YAML, which all ways read."""
    import yaml

    from lwq_ui.core.settings import Settings
    from lwq_ui.engine.texts import held_out_passages

    settings = Settings.from_environment()
    rows = [json.dumps({"text": t}) for t in held_out_passages(settings).documents]
    (folder / "passages.jsonl").write_text("\n".join(rows), encoding="utf-8")
    passages = folder / "passages.yaml"
    passages.write_text(yaml.safe_dump(PASSAGES), encoding="utf-8")
    return [passages, settings.assets / "tasks" / "endings.yaml"]


def run_ours(loaded: Any, splits: Any, files: Any, options: Any, run: Run) -> list[Metrics]:
    from lwq_ui.engine.banks.bank import Bank
    from lwq_ui.engine.quantizers import quantizer_named
    from lwq_ui.engine.sweeps.sweep import Sweep
    from lwq_ui.engine.tasks.lm_eval_tasks import Harness

    bank = Bank(loaded, quantizer_named("quanto"))
    found: list[Metrics] = [{} for _ in splits]
    for file in files:
        sweep = Sweep(bank, splits, run, run.store.root / file.stem)
        for metrics, measured in zip(
            found, Harness(file).measure(sweep, options.limit), strict=True
        ):
            metrics |= {name: m.value for name, m in measured.metrics.items()}
    return found


def run_bank(loaded: Any, splits: Any, files: Any, options: Any, run: Run) -> list[Metrics]:
    from lwq_ui.engine.banks.bank import Bank
    from lwq_ui.engine.quantizers import quantizer_named

    bank = Bank(loaded, quantizer_named("quanto"))
    return [stock(compose(bank, s, run), loaded.tokenizer, files, options) for s in splits]


def run_quantize(loaded: Any, splits: Any, files: Any, options: Any, run: Run) -> list[Metrics]:
    from optimum.quanto import freeze, qint2, qint4, quantize
    from transformers import AutoModelForCausalLM

    qtypes = {4: qint4, 2: qint2}
    found = []
    for split in splits:
        model = AutoModelForCausalLM.from_pretrained(
            loaded.model.config._name_or_path, dtype=loaded.model.dtype
        ).to(loaded.device)
        for layer, level in zip(model.model.layers, split, strict=True):
            quantize(layer, weights=qtypes[level])
            freeze(layer)
        found.append(stock(model, loaded.tokenizer, files, options))
    return found


def stock(model: Any, tokenizer: Any, files: Sequence[Path], options: Any) -> Metrics:
    import yaml
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    batch = options.stock_batch
    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch, softmax_dtype="float32")
    metrics: Metrics = {}
    for file in files:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
        data = config["dataset_kwargs"]["data_files"]
        data["test"] = str(file.parent / data["test"])
        tasks = TaskManager(include_defaults=False).load([config])
        results = evaluate(lm, tasks, limit=options.limit, bootstrap_iters=0)["results"]
        for name, value in results[config["task"]].items():
            metric, _, kind = name.partition(",")
            if kind and not metric.endswith("_stderr"):
                metrics[metric] = value
    return metrics


RUN: dict[str, Callable[..., Any]] = dict(
    zip(WAYS, (run_ours, run_bank, run_quantize), strict=True)
)


def measure(way: str, options: argparse.Namespace) -> dict[str, Any]:
    """One way in this process: metrics of every split, CPU and wall seconds, peak memory."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import datasets
    import torch

    import lwq_ui.engine.quantizers.quanto_kernels  # noqa: F401

    # optimum-quanto would compile its unpack kernel for half a minute: the same for all ways
    from lwq_ui.core.curves import curve
    from lwq_ui.core.settings import Settings
    from lwq_ui.core.store import Store
    from lwq_ui.engine import jobs
    from lwq_ui.engine.texts import shipped_calibration

    datasets.disable_progress_bars()
    torch.set_num_threads(options.threads)
    settings = Settings.from_environment()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = Run(settings, Store(folder / "cache", settings.shipped))
        loaded = jobs.load(options.model, options.device, "auto", run)
        text = shipped_calibration(settings)
        lim = jobs.score(loaded, ["lim"], text, run)["lim"].values
        every = curve("lim", {"lim": lim}, len(lim), (4, 2)).splits
        splits = every if way == "ours" else every[:: options.stock_every]
        files = task_files(folder)
        wall, cpu = time.perf_counter(), time.process_time()
        found = RUN[way](loaded, splits, files, options, run)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    scale = len(every) / len(splits)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
        1 if sys.platform == "darwin" else 2**10
    )
    gpu = torch.cuda.max_memory_allocated() / 2**20 if options.device == "cuda" else None
    return {
        "metrics": found,
        "CPU s": cpu * scale,
        "wall s": wall * scale,
        "peak MiB": peak,
        "GPU MiB": gpu,
    }


def in_process(way: str, argv: Sequence[str], out: TextIO) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.sweep", *argv, "--only", way]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    measured = json.loads(done.stdout.splitlines()[-1])
    scaled = f", scaled from {len(measured['metrics'])} splits" if way != WAYS[0] else ""
    cost = f"{measured['CPU s']:.0f} CPU s, {measured['wall s']:.0f} wall s"
    print(f"{way}: {cost}{scaled}", file=out, flush=True)
    return measured


def largest_difference(ours: Sequence[Metrics], other: Sequence[Metrics]) -> str:
    found = {}
    for name in ours[0]:
        pairs = [(a[name], b[name]) for a, b in zip(ours, other, strict=True)]
        relative = "perplexity" in name
        most = max(abs(a - b) / (b if relative else 1) for a, b in pairs)
        found[name] = f"{name} {most:.1e}"
    return ", ".join(found.values())


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--model", default="demo", help="a folder, or demo")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--stock-every", type=int, default=12, metavar="N")
    parser.add_argument("--stock-batch", type=int, default=1, metavar="N")
    parser.add_argument("--limit", type=int, default=12, help="items of each task")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        print(json.dumps(measure(options.only, options)))
        return
    out = sys.stderr if options.json == "-" else sys.stdout
    passed = sys.argv[1:]
    if options.json:
        at = next(i for i, a in enumerate(passed) if a.startswith("--json"))
        del passed[at : at + (1 if "=" in passed[at] else 2)]
    found = {way: in_process(way, passed, out) for way in WAYS}
    ours = found["ours"]
    rows, ratio = [], {}
    for way, m in found.items():
        row: dict[str, Any] = {"way": way}
        row |= {k: m[k] for k in ("CPU s", "wall s", "peak MiB", "GPU MiB") if m[k] is not None}
        row |= {"CPU ratio": m["CPU s"] / ours["CPU s"], "wall ratio": m["wall s"] / ours["wall s"]}
        same = ours["metrics"] if way == "ours" else ours["metrics"][:: options.stock_every]
        row["largest difference"] = largest_difference(same, m["metrics"])
        rows.append(row)
        if way != "ours":
            ratio[way.replace(" ", "_").replace("-", "_")] = row["CPU ratio"]
    count = len(ours["metrics"])
    title = (
        f"sweep: {count} splits, {options.model} on {options.device}, {options.threads} thread(s)"
    )
    title += f", {options.limit} items of each task; stock lm-eval on every "
    title += f"{options.stock_every}th split and scaled, batch size {options.stock_batch}"
    report(title, rows, options.json, ratio=ratio, metrics=ours["metrics"])


if __name__ == "__main__":
    main()
