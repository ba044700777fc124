"""Figures against references written the obvious way, and against lm-eval's own model class."""

from __future__ import annotations

import importlib.util
import json
import math
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
import yaml
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM

from lwq_ui.core.errors import Stopped, UserError
from lwq_ui.core.schema import Metric
from lwq_ui.core.settings import ROOT, Settings
from lwq_ui.engine.banks.bank import Bank
from lwq_ui.engine.banks.composing import compose
from lwq_ui.engine.models.loading import LoadedModel
from lwq_ui.engine.sweeps.sweep import Sweep
from lwq_ui.engine.tasks import lm_eval_registry, task_named, tasks
from lwq_ui.engine.tasks.base import Measured
from lwq_ui.engine.tasks.lm_eval_results import BOOTSTRAP
from lwq_ui.engine.tasks.perplexity import Passages, per_token
from lwq_ui.engine.texts import Text, shipped_calibration

SPLITS = [(2, 4, 16, 8), (16,) * 4, (4,) * 4]
HARNESS = ("endings", "last_word", "minimal_pairs")
SETTINGS = Settings(cache=Path("unused"))


def measure(name: str, bank: Bank, splits: Any, limit: int | None) -> list[Measured]:
    return task_named(name, SETTINGS).measure(Sweep(bank, splits, tiny.run()), limit)


@pytest.fixture(scope="module")
def bank(loaded_of: Callable[..., LoadedModel]) -> Bank:
    loaded = loaded_of("llama", max_position_embeddings=512)
    return Bank(loaded, tiny.QUANTO)


def ratio(sums: Sequence[float], tokens: Sequence[int]) -> tuple[float, float]:
    """Mean per token, and its standard error with documents as the units."""
    n, mean = len(sums), sum(sums) / sum(tokens)
    residuals = [s - mean * t for s, t in zip(sums, tokens, strict=True)]
    variance = sum(r * r for r in residuals) / (n - 1)
    return mean, math.sqrt(variance / n) / (sum(tokens) / n)


def test_passages_equal_the_float64_reference(bank: Bank) -> None:
    whole = shipped_calibration(SETTINGS).documents
    documents = tuple(d[: 150 * (i + 1)] for i, d in enumerate(whole[:5]))
    task = Passages(Text("x", (*documents, whole[5])))
    n = 5
    tokenizer, model = bank.loaded.tokenizer, bank.loaded.model
    texts = [tokenizer(d)["input_ids"][:512] for d in documents]
    measured = task.measure(Sweep(bank, SPLITS, tiny.run()), n)
    for split, got in zip(SPLITS, measured, strict=True):
        composed = compose(bank, split, tiny.run())
        losses, divergences, same, tokens = [], [], [], []
        for ids in texts:
            logp = tiny.logits(composed, ids)[:-1].double().log_softmax(-1)
            ref = tiny.logits(model, ids)[:-1].double().log_softmax(-1)
            losses.append(-sum(logp[i, t].item() for i, t in enumerate(ids[1:])))
            divergences.append((ref.exp() * (ref - logp)).sum().item())
            same.append((logp.argmax(-1) == ref.argmax(-1)).sum().item())
            tokens.append(len(ids) - 1)
        nats, error = ratio(losses, tokens)
        perplexity = got.metrics["perplexity"]
        assert perplexity.value == pytest.approx(math.exp(nats), rel=1e-4)
        assert perplexity.stderr == pytest.approx(math.exp(nats) * error, rel=1e-3)
        for name, sums in (("kl_divergence", divergences), ("top1_agreement", same)):
            mean, error = ratio(sums, tokens)
            assert got.metrics[name].value == pytest.approx(mean, rel=1e-3, abs=1e-6)
            assert got.metrics[name].stderr == pytest.approx(error, rel=5e-3, abs=1e-6)
        assert {m.n for m in got.metrics.values()} == {n}
        assert got.items["tokens"] == tokens
        assert got.items["negative_log_likelihood"] == pytest.approx(losses, rel=1e-4)
        assert got.items["kl_divergence"] == pytest.approx(divergences, rel=1e-3, abs=1e-5)
        assert got.items["top1_agreement"] == same
        if split == (16,) * 4:
            assert got.metrics["kl_divergence"] == Metric(0.0, 0.0, n)
            assert got.metrics["top1_agreement"] == Metric(1.0, 0.0, n)
        else:
            assert got.metrics["kl_divergence"].value > 1e-3
            assert got.metrics["top1_agreement"].value < 1


@pytest.mark.parametrize("kind", ["adds", "has", "lacks"])
def test_a_text_begins_as_the_tokenizer_begins_it(
    kind: str, folder_of: Callable[..., Path], tmp_path: Path
) -> None:
    """With its beginning-of-text token once where the tokenizer adds it, else without; by a sum
    made by hand over the plain forward pass."""
    folder = shutil.copytree(folder_of("llama", max_position_embeddings=512), tmp_path / "model")
    tokens = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    bos = "<|endoftext|>"
    if kind == "adds":
        post = tokens["post_processor"]
        post["single"].insert(0, {"SpecialToken": {"id": bos, "type_id": 0}})
        post["special_tokens"] = {bos: {"id": bos, "ids": [0], "tokens": [bos]}}
    if kind == "lacks":
        config = {k: v for k, v in config.items() if not k.endswith("_token")}
    (folder / "tokenizer.json").write_text(json.dumps(tokens), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    loaded = tiny.load(folder)
    document = shipped_calibration(SETTINGS).documents[0][:300]
    bank = Bank(loaded, tiny.QUANTO)
    task = Passages(Text("x", (document,)))
    (got,) = task.measure(Sweep(bank, [(16,) * 4], tiny.run()), None)
    bare = loaded.tokenizer(document, add_special_tokens=False)["input_ids"]
    ids = [0, *bare] if kind == "adds" else bare
    logp = tiny.logits(loaded.model, ids)[:-1].double().log_softmax(-1)
    nats = -sum(logp[i, t].item() for i, t in enumerate(ids[1:])) / (len(ids) - 1)
    assert got.items["tokens"] == [len(bare) if kind == "adds" else len(bare) - 1]
    assert got.metrics["perplexity"].value == pytest.approx(math.exp(nats), rel=1e-4)


def test_the_standard_error_is_that_of_many_samples() -> None:
    """Documents drawn again and again: the spread of the means is what the formula says."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(50, 400, (4000, 40), generator=generator).double()
    rate = 3 + 0.5 * torch.randn(4000, 40, generator=generator, dtype=torch.float64)
    sums = tokens * rate
    means = sums.sum(1) / tokens.sum(1)
    errors = [per_token(sums[i].tolist(), tokens[i].tolist()).stderr or 0.0 for i in range(400)]
    assert sum(errors) / 400 == pytest.approx(means.std().item(), rel=0.05)


def test_one_passage_has_no_standard_error(bank: Bank) -> None:
    (got,) = measure("perplexity", bank, [SPLITS[0]], 1)
    assert [(m.stderr, m.n) for m in got.metrics.values()] == [(None, 1)] * 3


def test_a_model_that_knows_nothing_has_a_finite_perplexity() -> None:
    assert per_token([5000.0, 4000.0], [2, 2]).value == 2250
    assert math.isfinite(math.exp(min(2250, 700.0)))


class Stock:
    """lm-eval's own evaluation with its own HFLM, on a model composed for one split."""

    def __init__(self, bank: Bank, split: tuple[int, ...], name: str, limit: int):
        lm = HFLM(
            pretrained=compose(bank, split, tiny.run()),
            tokenizer=bank.loaded.tokenizer,
            batch_size=8,
            softmax_dtype="float32",
        )
        task = task_named(name, SETTINGS)
        report = evaluate(lm, task.load(), limit=limit, bootstrap_iters=BOOTSTRAP, log_samples=True)
        self.results = report["results"][name]
        self.samples = report["samples"][name]


@pytest.mark.parametrize("name", HARNESS)
def test_tasks_equal_stock_hflm(name: str, bank: Bank) -> None:
    limit = 30
    splits = SPLITS[:2]
    for split, got in zip(splits, measure(name, bank, splits, limit), strict=True):
        stock = Stock(bank, split, name, limit)
        config = yaml.safe_load((ROOT / f"assets/tasks/{name}.yaml").read_text())
        assert list(got.metrics) == [m["metric"] for m in config["metric_list"]]
        for metric, value in got.metrics.items():
            assert value.value == pytest.approx(stock.results[f"{metric},none"], rel=1e-4)
            error = stock.results[f"{metric}_stderr,none"]
            assert value.stderr == pytest.approx(error, rel=1e-3)
            assert value.n == len(stock.samples) == limit
            items = [float(s[metric]) for s in stock.samples]
            assert got.items[metric] == pytest.approx(items, rel=1e-4)
            assert len(set(items)) > 1 or metric == "acc"


def test_the_demo_model_too(demo: LoadedModel) -> None:
    """In the dtype it ships in, where a batch's shape may turn a near tie."""
    bank = Bank(demo, tiny.QUANTO)
    split = (4,) * 12 + (2,) * 12
    limit = 20
    got = measure("minimal_pairs", bank, [split], limit)[0]
    stock = Stock(bank, split, "minimal_pairs", limit)
    items = [float(s["acc"]) for s in stock.samples]
    assert sum(a != b for a, b in zip(got.items["acc"], items, strict=True)) <= 2
    assert 0.4 < got.metrics["acc"].value < 0.95
    assert got.metrics["acc"].stderr > 0


@pytest.mark.parametrize("name", ["perplexity", *HARNESS])
def test_a_limit_takes_the_first_items(name: str, bank: Bank) -> None:
    task = task_named(name, SETTINGS)
    few, more = (measure(name, bank, [SPLITS[0]], n)[0] for n in (3, 6))
    for metric, value in few.metrics.items():
        assert value.n == 3
        assert more.metrics[metric].n == 6
    for key, items in few.items.items():
        assert items == pytest.approx(more.items[key][:3], rel=1e-4)
    assert task.size > 6


def test_a_split_measures_the_same_alone_and_among_others(bank: Bank) -> None:
    for name in ("last_word", "endings"):
        alone = measure(name, bank, [SPLITS[2]], 4)[0]
        among = measure(name, bank, SPLITS, 4)[2]
        for key, items in alone.items.items():
            assert among.items[key] == pytest.approx(items, rel=1e-5, abs=1e-6)


def test_a_stop_ends_a_task(bank: Bank) -> None:
    for name in ("perplexity", "minimal_pairs"):
        stop = Event()
        with pytest.raises(Stopped):
            sweep = Sweep(
                bank, SPLITS, tiny.run(progress=lambda what, done, stop=stop: stop.set(), stop=stop)
            )
            task_named(name, SETTINGS).measure(sweep, 10)


def test_an_unknown_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lm_eval_registry, "registry", lambda: SimpleNamespace(task_index={}))
    names = ", ".join(tasks(SETTINGS))
    message = rf"no task 'ending' \(close to it: endings\). Choose one of: {names}; or"
    with pytest.raises(UserError, match=message):
        task_named("ending", SETTINGS)


def test_tasks_are_known_without_torch_and_lm_eval() -> None:
    code = (
        "import sys; from lwq_ui.engine.tasks import task_named; "
        "from lwq_ui.core.settings import Settings; s = Settings.from_environment(); "
        "task_named('endings', s).data; task_named('mmlu', s).data; "
        "assert not {'torch', 'lm_eval'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_tasks_that_ship() -> None:
    shipped = tasks(SETTINGS)
    assert {"perplexity", *HARNESS} <= set(shipped)
    for task in shipped.values():
        assert task.title and len(task.data) == 64
    assert [shipped[name].size for name in HARNESS] == [
        len((ROOT / f"assets/tasks/{name}.jsonl").read_text().splitlines()) for name in HARNESS
    ]


@pytest.mark.parametrize("name", HARNESS)
def test_tasks_are_lm_evals_yaml_with_their_data_beside_them(name: str) -> None:
    config = yaml.safe_load((ROOT / f"assets/tasks/{name}.yaml").read_text())
    assert config["task"] == name
    assert config["dataset_path"] == "json"
    assert config["output_type"] in ("multiple_choice", "loglikelihood")
    data = ROOT / "assets" / "tasks" / config["dataset_kwargs"]["data_files"]["test"]
    rows = [json.loads(line) for line in data.read_text(encoding="utf-8").splitlines()]
    assert len({tuple(sorted(row)) for row in rows}) == 1
    assert len({json.dumps(row) for row in rows}) == len(rows)


def test_lm_eval_reads_the_yaml_files_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(ROOT / "assets/tasks"), include_defaults=False)
    assert set(HARNESS) <= set(manager.all_tasks)


def minimal_pairs() -> Any:
    path = ROOT / "assets" / "tasks" / "minimal_pairs.py"
    spec = importlib.util.spec_from_file_location("minimal_pairs_writer", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_minimal_pairs_are_what_their_writer_writes() -> None:
    text = (ROOT / "assets/tasks/minimal_pairs.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    assert rows == minimal_pairs().pairs()


def test_ten_phenomena_with_fifty_different_pairs_each() -> None:
    rows = minimal_pairs().pairs()
    count = Counter(row["phenomenon"] for row in rows)
    assert len(count) == 10 and min(count.values()) >= 50
    assert len({(r["sentence_good"], r["sentence_bad"]) for r in rows}) == len(rows)
    for row in rows:
        good, bad = row["sentence_good"], row["sentence_bad"]
        assert good != bad
        assert good[0].isupper() and good[-1] in ".?!" and bad[-1] == good[-1]
    # The first few hold some of each: a quick evaluation sees every phenomenon.
    assert len({row["phenomenon"] for row in rows[:10]}) == 10
    # Nothing but grammar gives the answer away: neither sentence is always the longer one.
    longer = sum(len(r["sentence_good"]) > len(r["sentence_bad"]) for r in rows)
    shorter = sum(len(r["sentence_good"]) < len(r["sentence_bad"]) for r in rows)
    assert 0.3 < longer / (longer + shorter) < 0.7


def test_what_is_measured_on_was_never_calibrated_on() -> None:
    task = task_named("perplexity", SETTINGS)
    assert isinstance(task, Passages)
    calibration = shipped_calibration(SETTINGS).documents
    assert not set(task.text.documents) & set(calibration)
    assert len(calibration) == 50


def test_a_text_without_two_tokens_is_refused(bank: Bank) -> None:
    with pytest.raises(UserError, match="too short"):
        sweep = Sweep(bank, [SPLITS[0]], tiny.run())
        Passages(Text("x", ("", "a"))).measure(sweep, None)
