"""Measures the demo model, or several side by side, for its card.

    python -m tools.measure_demo_model CORPUS BLIMP MODEL [MODEL ...]

CORPUS holds books.valid.txt.xz, BLIMP the pairs of BLiMP, a .jsonl file a set. Prints a table:
cross-entropy on the held-out books, then lm-eval's metrics by its own tasks and prompts, with stock
HFLM in bfloat16. Of two models also how far the second is from the first, item by item.
"""

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import lm_eval.tasks
import numpy as np
import torch
import yaml
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

from lwq_ui.core.settings import Settings
from lwq_ui.engine.tasks import tasks
from lwq_ui.engine.tasks.lm_eval_tasks import Harness
from tools.train_demo_model import CONTEXT, books

WINDOWS = 512


@dataclass(frozen=True)
class Row:
    """A metric with its standard error. `items` are what it is the mean of, if it is a mean."""

    what: str
    value: float
    error: float
    items: np.ndarray | None = None


def mean(what: str, items: Sequence[float], scale: float = 1) -> Row:
    values = np.asarray(items, dtype=np.float64) * scale
    return Row(what, values.mean(), values.std(ddof=1) / math.sqrt(len(values)), values)


@torch.no_grad()
def cross_entropy(model: Any, tokenizer: Any, text: Path) -> list[Row]:
    """Nats per token and per character over the first WINDOWS windows of the context's length, an
    end-of-text token before each; the standard error is over windows."""
    documents = "\n\n".join(books(text))
    ids = tokenizer(documents, return_tensors="pt", verbose=False).input_ids[0]
    windows = ids[: min(WINDOWS, len(ids) // (CONTEXT - 1)) * (CONTEXT - 1)].view(-1, CONTEXT - 1)
    start = torch.tensor([tokenizer.eos_token_id])
    losses = []
    for window in windows:
        logits = model(torch.cat([start, window])[None]).logits[0, :-1].float()
        losses.append(F.cross_entropy(logits, window).item())
    share = windows.numel() / len(tokenizer.decode(windows.flatten()))
    return [
        mean(f"held-out books, nats per token ({windows.numel():,} tokens)", losses),
        mean("held-out books, nats per character", losses, share),
    ]


def blimp(folder: Path) -> list[dict[str, Any]]:
    """lm-eval's own definition of BLiMP's sets, over rows on this disk."""
    template = yaml.safe_load(
        (Path(lm_eval.tasks.__file__).parent / "blimp" / "_template_yaml").read_text()
    )
    found = []
    for path in sorted(folder.glob("*.jsonl")):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        data = datasets.Dataset.from_list(rows)
        found.append(
            {
                **template,
                "task": f"blimp_{path.stem}",
                "dataset_path": None,
                "custom_dataset": lambda data=data, **kwargs: {"train": data},
            }
        )
    return found


def accuracies(model: Any, tokenizer: Any, pairs: Path) -> list[Row]:
    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=64, softmax_dtype="float32")
    sets = evaluate(lm, TaskManager(include_defaults=False).load(blimp(pairs)), bootstrap_iters=0)
    right = [bool(sample["acc"]) for samples in sets["samples"].values() for sample in samples]
    found = [mean(f"BLiMP, accuracy ({len(right):,} pairs of {len(sets['results'])} sets)", right)]
    for task in tasks(Settings.from_environment()).values():
        if not isinstance(task, Harness):
            continue
        report = evaluate(lm, task.load())
        result, samples = report["results"][task.name], report["samples"][task.name]
        for spec in task.definition.config["metric_list"]:
            metric, name = spec["metric"], f"`{task.name}`, {spec['metric']} ({len(samples)} items)"
            if spec["aggregation"] == "mean":
                found.append(mean(name, [sample[metric] for sample in samples]))
            else:
                value, error = result[f"{metric},none"], result[f"{metric}_stderr,none"]
                found.append(Row(name, value, error))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", type=Path)
    parser.add_argument("blimp", type=Path)
    parser.add_argument("model", nargs="+")
    args = parser.parse_args()
    columns = []
    for name in args.model:
        model = AutoModelForCausalLM.from_pretrained(name, dtype=torch.bfloat16).eval()
        tokenizer = AutoTokenizer.from_pretrained(name)
        rows = cross_entropy(model, tokenizer, args.corpus / "books.valid.txt.xz")
        columns.append(rows + accuracies(model, tokenizer, args.blimp))
    paired = ["difference, paired"] * (len(columns) == 2)
    print("| |", " | ".join([*args.model, *paired]), "|")
    print("|---" * (len(columns) + len(paired) + 1) + "|")
    for rows in zip(*columns, strict=True):
        cells = [f"{row.value:.4f} ± {row.error:.4f}" for row in rows]
        if paired:
            first, second = (row.items for row in rows)
            both = first is not None and second is not None
            change = mean("", second - first) if both else None
            cells.append(f"{change.value:+.4f} ± {change.error:.4f}" if change else "")
        print(f"| {rows[0].what} |", " | ".join(cells), "|")


if __name__ == "__main__":
    main()
