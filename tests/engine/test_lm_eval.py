"""lm-eval's own task definitions over rows made here, against stock HFLM in its `evaluate`."""

from __future__ import annotations

import gc
import json
import random
import weakref
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

import datasets
import huggingface_hub
import jinja2
import lm_eval.api.metrics
import lm_eval.api.task
import lm_eval.tasks
import pytest
import tiny
import torch
from lm_eval.api.model import LM
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from lwq_ui.core.errors import Stopped, UserError
from lwq_ui.core.run import Run
from lwq_ui.core.settings import Settings
from lwq_ui.core.store import Store
from lwq_ui.engine import jobs
from lwq_ui.engine.banks.bank import Bank
from lwq_ui.engine.banks.composing import compose
from lwq_ui.engine.models.loading import LoadedModel
from lwq_ui.engine.sweeps.sweep import Sweep
from lwq_ui.engine.tasks import (
    lm_eval_loading,
    lm_eval_model,
    lm_eval_registry,
    lm_eval_results,
    task_named,
    tasks,
)
from lwq_ui.engine.tasks.base import Measured
from lwq_ui.engine.tasks.lm_eval_errors import explain
from lwq_ui.engine.tasks.lm_eval_loading import load_registered
from lwq_ui.engine.tasks.lm_eval_model import MOST_ROWS, SEED, SweepLM
from lwq_ui.engine.tasks.lm_eval_overrides import IN_PROCESS
from lwq_ui.engine.tasks.lm_eval_results import BOOTSTRAP, results_of
from lwq_ui.engine.tasks.lm_eval_tasks import Registered
from lwq_ui.engine.tasks.presets import PRESETS, expand

SETTINGS = Settings(cache=Path("unused"))
SPLITS = [(2, 4, 16, 8), (16,) * 4, (4,) * 4]
FOLDERS = ("arc", "gsm8k", "hellaswag", "lambada", "mmlu/default", "nq_open", "piqa", "wikitext")
SCORED = ("hellaswag", "winogrande", "piqa", "arc_easy", "lambada_openai", "wikitext", "two_mmlu")
LIMIT = 6
TEXT = (
    "the a river old house walks sees green quietly under bread letter never and but seven winter "
    "music child opens door far away because stone light tomorrow asks answer small garden"
)
WORDS = TEXT.split(" ")


def rows_of(path: str, name: str | None, n: int = 8) -> list[dict[str, Any]]:
    """What the data set `path` (configuration `name`) looks like, made up."""
    rng = random.Random(f"{path} {name}")

    def text(least: int, most: int) -> str:
        return " ".join(rng.choices(WORDS, k=rng.randint(least, most)))

    def row() -> dict[str, Any]:
        match path.rpartition("/")[2]:
            case "hellaswag":
                endings = [text(2, 9) + "." for _ in range(4)]
                keys = {"activity_label": "Walking", "ctx_a": text(4, 9) + ".", "ctx_b": text(1, 3)}
                return {**keys, "endings": endings, "label": str(rng.randrange(4))}
            case "winogrande":
                options = {"option1": text(1, 2), "option2": text(1, 2)}
                answer = rng.choice("12")
                return {**options, "sentence": f"{text(3, 6)} _ {text(2, 5)}.", "answer": answer}
            case "piqa":
                both = {"sol1": text(2, 8), "sol2": text(2, 8)}
                return {**both, "goal": text(3, 9), "label": rng.randrange(2)}
            case "ai2_arc":
                choices = {"text": [text(1, 5) for _ in range(4)], "label": list("ABCD")}
                return {"question": text(5, 9), "choices": choices, "answerKey": rng.choice("ABCD")}
            case "lambada_openai":
                return {"text": text(8, rng.choice((20, 900)))}  # longer than the model takes
            case "wikitext_document_level":
                return {"page": f" = {text(1, 2)} = \n {text(5, 900)} , {text(3, 9)} . \n"}
            case "gsm8k":
                return {"question": text(5, 9), "answer": f"{text(3, 5)}\n#### {rng.randrange(9)}"}
            case "nq_open":
                return {"question": text(4, 8), "answer": [text(1, 2), text(1, 2)]}
            case "mmlu":
                choices = [text(1, 4) for _ in range(4)]
                return {"question": text(5, 9), "choices": choices, "answer": rng.randrange(4)}
        raise AssertionError(path)

    return [row() for _ in range(n)]


@pytest.fixture(scope="module")
def definitions(tmp_path_factory: pytest.TempPathFactory) -> TaskManager:
    """The folders of lm-eval's registry that are needed here (all of them take seconds to read)
    and a small group of two of mmlu's tasks."""
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "two.yaml").write_text(
        "group: two_mmlu\ntask: [mmlu_astronomy, mmlu_virology]\n"
        "aggregate_metric_list: [{metric: acc, weight_by_size: true}]\nmetadata: {version: 1}\n"
    )
    root = Path(lm_eval.tasks.__file__).parent
    paths = [root / f for f in (*FOLDERS, "winogrande")]
    return TaskManager(include_defaults=False, include_path=[*paths, folder])


@pytest.fixture(autouse=True)
def local(
    monkeypatch: pytest.MonkeyPatch, definitions: TaskManager, request: pytest.FixtureRequest
) -> Iterator[dict[str, list[dict[str, Any]]]]:
    """Data sets come from `rows_of`, or from what a test puts here under their path. A test that is
    marked by its name as being about the whole registry has it, and no data."""
    given: dict[str, list[dict[str, Any]]] = {}
    load_registered.cache_clear()

    def load_dataset(path: str, name: str | None = None, **kwargs: Any) -> Any:
        rows = given.get(path) or rows_of(path, name)
        every = {
            k: datasets.Dataset.from_list(rows) for k in ("train", "validation", "test", "dev")
        }
        return datasets.DatasetDict(every)

    if "registry" not in request.node.name:
        monkeypatch.setattr(lm_eval_registry, "registry", lambda: definitions)
        monkeypatch.setattr(lm_eval_loading, "registry", lambda: definitions)
        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    yield given
    load_registered.cache_clear()


@pytest.fixture(scope="module")
def bank_of(loaded_of: Callable[..., LoadedModel]) -> Callable[[str], Bank]:
    def get(model: str) -> Bank:
        loaded = loaded_of(model, max_position_embeddings=512)
        return Bank(loaded, tiny.QUANTO)

    return get


@pytest.fixture(scope="module")
def bank(bank_of: Callable[[str], Bank]) -> Bank:
    return bank_of("llama")


def sweep_of(bank: Bank, splits: Any) -> Sweep:
    return Sweep(bank, splits, tiny.run())


def fresh(name: str, definitions: TaskManager) -> Any:
    """As lm-eval's `simple_evaluate` sets a task up."""
    loaded = definitions.load([name])
    for task in loaded["tasks"].values():
        if task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=SEED)
    return loaded


def stock_hflm(bank: Bank, split: tuple[int, ...], batch_size: int = 8) -> HFLM:
    return HFLM(
        pretrained=compose(bank, split, tiny.run()),
        tokenizer=bank.loaded.tokenizer,
        batch_size=batch_size,
        softmax_dtype="float32",
    )


def report_of(lm: LM, name: str, definitions: TaskManager) -> tuple[Any, list[Any]]:
    """lm-eval's results of a task or a group, and the samples of all its tasks."""
    loaded = fresh(name, definitions)
    report = evaluate(lm, loaded, limit=LIMIT, bootstrap_iters=BOOTSTRAP, log_samples=True)
    return report["results"][name], [s for t in loaded["tasks"] for s in report["samples"][t]]


def assert_equal(got: Measured, report: tuple[Any, list[Any]], rel: float) -> None:
    results, samples = report
    filters = {s["filter"] for s in samples}
    keys = [k for k in results if "," in k and "_stderr" not in k]
    titles = {k: k.partition(",")[0] for k in keys}
    if len(filters) > 1:
        titles = {k: "{} ({})".format(*k.split(",")) for k in keys}
    assert list(got.metrics) == list(titles.values())
    for key, title in titles.items():
        metric, _, kind = key.partition(",")
        found = got.metrics[title]
        assert found.value == pytest.approx(results[key], rel=rel)
        error = results[f"{metric}_stderr,{kind}"]
        assert found.stderr == (None if error == "N/A" else pytest.approx(error, rel=10 * rel))
        values = [s[metric] for s in samples if s["filter"] == kind]
        assert found.n == len(values) > 0
        if isinstance(values[0], tuple):
            weights = [w for _, w in values]
            assert got.items[f"{title}_weight"] == weights
            values = [v for v, _ in values]
        assert got.items[title] == pytest.approx(values, rel=rel)


@pytest.mark.parametrize(
    "model, name",
    [("llama", name) for name in SCORED]
    + [
        (model, name)
        for model in ("qwen2", "gemma3_text", "gpt_neox", "mixtral")
        for name in ("winogrande", "hellaswag", "wikitext")
    ],
)
def test_every_split_equals_stock_hflm(
    model: str, name: str, bank_of: Callable[[str], Bank], definitions: TaskManager
) -> None:
    bank = bank_of(model)
    measured = task_named(name, SETTINGS).measure(sweep_of(bank, SPLITS), LIMIT)
    assert len(measured) == len(SPLITS)
    for split, got in list(zip(SPLITS, measured, strict=True))[: 2 if model == "llama" else 1]:
        assert_equal(got, report_of(stock_hflm(bank, split), name, definitions), rel=1e-4)


def test_a_group_counts_all_its_tasks(bank: Bank) -> None:
    (got,) = Registered("two_mmlu").measure(sweep_of(bank, SPLITS[:1]), LIMIT)
    assert got.metrics["acc"].n == len(got.items["acc"]) == 2 * LIMIT
    assert got.metrics["acc"].value == pytest.approx(sum(got.items["acc"]) / (2 * LIMIT))
    one = Registered("mmlu_astronomy").measure(sweep_of(bank, SPLITS[:1]), LIMIT)[0]
    assert got.items["acc"][:LIMIT] == one.items["acc"]


@pytest.mark.parametrize(
    ("name", "chance"),
    [
        *(("winogrande", 0.5), ("hellaswag", 0.25), ("two_mmlu", 0.25), ("minimal_pairs", 0.5)),
        *(("endings", 0.25), ("last_word", None), ("wikitext", None)),
    ],
)
def test_how_often_guessing_is_right_is_kept(name: str, chance: float | None, bank: Bank) -> None:
    task = Registered(name) if name == "two_mmlu" else task_named(name, SETTINGS)
    (got,) = task.measure(sweep_of(bank, SPLITS[:1]), LIMIT)
    assert got.items.get("chance") == (chance and [chance] * len(got.items["acc"]))


class Canned(LM):
    """Answers as if a model had given them; other ones for every split."""

    def __init__(self, split: int):
        super().__init__()
        self.rng = random.Random(split)

    def loglikelihood(self, requests: Any, disable_tqdm: bool = True) -> Any:
        return [(-self.rng.expovariate(0.1), self.rng.random() < 0.3) for _ in requests]

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = True) -> Any:
        return [-self.rng.expovariate(0.001) for _ in requests]

    def generate_until(self, requests: Any, disable_tqdm: bool = True) -> Any:
        said = ("so #### 3", "it is 5, or 7", "the answer", " river ")
        return [self.rng.choice(said) for _ in requests]


@pytest.mark.parametrize("name", [*SCORED, "gsm8k", "nq_open"])
def test_metrics_made_again_and_again_equal_a_fresh_evaluation(
    name: str, definitions: TaskManager
) -> None:
    """With the requests of the first split: to the last digit."""
    loaded = fresh(name, definitions)
    asked: dict[str, list[Any]] = {}
    for task in loaded["tasks"].values():
        task.build_all_requests(limit=LIMIT)
        for request in task.instances:
            asked.setdefault(request.request_type, []).append(request)
    seen = []
    for split in range(3):
        lm = Canned(split)
        for kind, requests in asked.items():
            for request, answer in zip(requests, getattr(lm, kind)(requests), strict=True):
                request.resps, request.filtered_resps = [answer], {}
        got = results_of(loaded, name, tiny.run())
        assert_equal(got, report_of(Canned(split), name, definitions), rel=1e-12)
        seen.append(got)
    assert seen[0] != seen[1] or name == "nq_open"


@pytest.mark.parametrize("f", ["perplexity", "median", "matthews_corrcoef"])
def test_the_bootstrap_is_lm_evals(f: str) -> None:
    rng = random.Random(5)
    xs: list[Any] = [-rng.expovariate(1) for _ in range(40)]
    if f == "matthews_corrcoef":
        xs = [(rng.randrange(2), rng.randrange(2)) for _ in range(40)]
    metric = getattr(lm_eval.api.metrics, f)
    draws = lm_eval.api.metrics._bootstrap_internal_no_mp(metric, xs, 100)
    expected = lm_eval.api.metrics.sample_stddev(draws)
    stock = lm_eval.api.metrics.bootstrap_stderr
    with IN_PROCESS:
        assert lm_eval.api.metrics.bootstrap_stderr is not stock
        stderr = lm_eval.api.metrics.stderr_for_metric(metric, 100)
        assert stderr and stderr(xs) == pytest.approx(expected, rel=1e-12)
    assert lm_eval.api.metrics.bootstrap_stderr is stock
    assert expected > 0


def test_requests_are_built_once_and_tokenized_once(
    bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = {"build": 0, "encode": 0}
    build, encode = lm_eval.api.task.Task.build_all_requests, SweepLM.tok_encode

    def counted_build(*args: Any, **kwargs: Any) -> Any:
        count["build"] += 1
        return build(*args, **kwargs)

    def counted_encode(*args: Any, **kwargs: Any) -> Any:
        count["encode"] += 1
        return encode(*args, **kwargs)

    monkeypatch.setattr(lm_eval.api.task.Task, "build_all_requests", counted_build)
    monkeypatch.setattr(SweepLM, "tok_encode", counted_encode)
    Registered("piqa").measure(sweep_of(bank, SPLITS), LIMIT)
    assert count == {"build": 1, "encode": LIMIT * 2 * 2}  # two choices: context, and both


def test_data_is_read_once(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a forecast, a part of the items, all of them; with the same prompts every time."""
    read = datasets.load_dataset
    times: list[str] = []

    def counted(path: str, *args: Any, **kwargs: Any) -> Any:
        times.append(path)
        return read(path, *args, **kwargs)

    monkeypatch.setattr(datasets, "load_dataset", counted)
    few, more, again = (
        Registered("piqa").measure(sweep_of(bank, SPLITS[:1]), n)[0] for n in (3, 6, 6)
    )
    assert times == ["baber/piqa"]
    assert more == again
    assert few.items["acc"] == more.items["acc"][:3]


@pytest.mark.parametrize(
    "model, name, path",
    [
        ("llama", "gsm8k", "openai/gsm8k"),
        ("llama", "nq_open", "google-research-datasets/nq_open"),
        ("gemma3_text", "nq_open", "google-research-datasets/nq_open"),
    ],
)
def test_generation_equals_stock_hflm(
    model: str,
    name: str,
    path: str,
    bank_of: Callable[[str], Bank],
    definitions: TaskManager,
    local: dict[str, list[dict[str, Any]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Some of the right answers are what the unquantized model says, so that some are met."""
    monkeypatch.setattr(HFLM, "max_gen_toks", 64)  # of both; 256 take long
    bank = bank_of(model)
    rows = rows_of(path, None)
    splits = SPLITS[:2]
    _, samples = report_of(stock_hflm(bank, (16,) * 4), name, definitions)
    for row, sample in list(zip(rows, samples[-LIMIT:], strict=False))[:4]:
        said = sample["filtered_resps"][0]
        row["answer"] = [said, "x"] if name == "nq_open" else f"it is\n#### {said}"
    local[path] = rows
    load_registered.cache_clear()
    measured = task_named(name, SETTINGS).measure(sweep_of(bank, splits), LIMIT)
    for split, got in zip(splits, measured, strict=True):
        assert_equal(got, report_of(stock_hflm(bank, split), name, definitions), rel=1e-9)
    best = [max(m.value for m in got.metrics.values()) for got in measured]
    assert 0 < best[1] < 1
    if name == "gsm8k":
        kinds = ["exact_match (strict-match)", "exact_match (flexible-extract)"]
        assert list(measured[0].metrics) == kinds


def writer(bank: Bank, splits: Any, limit: int) -> tuple[SweepLM, list[Any]]:
    task = load_registered("gsm8k")["tasks"]["gsm8k"]
    task.set_fewshot_seed(seed=SEED)
    task.build_all_requests(limit=limit)
    for request in task.instances:
        request.arguments[1]["max_gen_toks"] = 12
    return SweepLM(sweep_of(bank, splits), "gsm8k"), task.instances


def test_texts_are_stock_hflms(bank: Bank) -> None:
    lm, requests = writer(bank, SPLITS, 5)
    lm.fit(requests)
    texts = []
    for lm.current in range(len(SPLITS)):
        texts.append(lm.generate_until(requests))
        stock = stock_hflm(bank, SPLITS[lm.current], batch_size=2)
        assert texts[-1] == stock.generate_until(requests, disable_tqdm=True)
    assert texts[0] != texts[1] and len(set(texts[1])) > 1
    assert requests[0].args[0].count("Question:") == 6  # five examples, as gsm8k's yaml says


def test_texts_at_a_time_fit_into_memory(bank: Bank) -> None:
    lm, requests = writer(bank, SPLITS, 5)
    longest = max(len(lm.tok_encode(r.args[0])) for r in requests) + 12
    row_bytes = longest * 2 * 4 * 64 * 4  # keys and values, layers, width, float32
    for room, rows in ((3.5 * row_bytes, 3), (row_bytes / 2, 1), (1e12, MOST_ROWS)):
        lm.fit(requests, int(room))
        assert lm.batch_size == rows


def test_one_composed_model_at_a_time(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[weakref.ref[Any]] = []
    compose = lm_eval_model.compose

    def counted(bank: Bank, split: Any, run: Any) -> Any:
        gc.collect()
        assert [ref for ref in alive if ref()] == []
        model = compose(bank, split, run)
        alive.append(weakref.ref(model))
        weight = next(model.model.layers[i].mlp.up_proj.weight for i in range(4) if split[i] == 16)
        own = {p.data_ptr() for p in bank.loaded.model.parameters()}
        assert weight.data_ptr() in own  # no second copy of what is not quantized
        return model

    monkeypatch.setattr(lm_eval_model, "compose", counted)
    lm, requests = writer(bank, SPLITS[:2] * 2, 1)
    lm.fit(requests)
    for lm.current in range(4):
        lm.generate_until(requests)
    assert len(alive) == 4 and lm.model is bank.loaded.model


def test_a_stop_is_heard_while_a_text_is_written(bank: Bank) -> None:
    stop, steps = Event(), []

    def progress(what: str, done: float | None) -> None:
        if done is not None:  # the first batch is about to begin
            stop.set()

    hook = bank.loaded.model.register_forward_hook(lambda *args: steps.append(1))
    try:
        with pytest.raises(Stopped):
            Registered("gsm8k").measure(
                Sweep(bank, SPLITS[:1], tiny.run(progress=progress, stop=stop)), 1
            )
    finally:
        hook.remove()
    assert steps == []  # the first layer heard it


@pytest.mark.parametrize(
    "name, said",
    [("piqa", "computing metrics, split 2 of 2"), ("nq_open", "writing, split 2 of 2")],
)
def test_progress_goes_on_and_names_the_task(name: str, said: str, bank: Bank) -> None:
    told: list[tuple[str, float | None]] = []
    sweep = Sweep(bank, SPLITS[:2], tiny.run(progress=lambda *args: told.append(args)))
    Registered(name).measure(sweep, 2)
    assert all(what.startswith(f"{name}: ") for what, _ in told)
    assert told[-1][0] == f"{name}: {said}"
    shares = [done for _, done in told if done is not None]
    assert shares == sorted(shares) and len(set(shares)) > 1
    assert all(0 <= share <= 1 for share in shares)


def test_a_stop_ends_it_while_data_is_read(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    never, stop = Event(), Event()

    def endless(*args: Any, **kwargs: Any) -> Any:
        stop.set()
        never.wait(10)
        raise OSError

    monkeypatch.setattr(datasets, "load_dataset", endless)
    with pytest.raises(Stopped):
        Registered("piqa").measure(Sweep(bank, SPLITS, tiny.run(stop=stop)), 2)
    never.set()


class Silent(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        pass


@pytest.mark.parametrize("answers", [True, False])
def test_without_a_network_only_the_local_cache_is_asked(
    answers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []
    read = datasets.load_dataset

    def spied(*args: Any, **kwargs: Any) -> Any:
        seen.append(huggingface_hub.is_offline_mode())
        return read(*args, **kwargs)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Silent)
    Thread(target=server.serve_forever, daemon=True).start()
    if not answers:
        server.shutdown()
        server.server_close()  # nobody listens at this port
    monkeypatch.setattr(datasets, "load_dataset", spied)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    load_registered("piqa")
    assert seen == [not answers]
    assert not huggingface_hub.is_offline_mode()
    server.shutdown()
    server.server_close()


def test_what_a_model_writes_cannot_be_forecast(bank: Bank) -> None:
    assert Registered("gsm8k").forecast(sweep_of(bank, SPLITS), 2) is None
    for name in ("piqa", "wikitext"):
        assert 0 < (Registered(name).forecast(sweep_of(bank, SPLITS), 2) or 0) < 60


def test_the_tokenizer_stays_as_it_is(loaded_of: Callable[..., LoadedModel]) -> None:
    loaded = loaded_of("llama", max_position_embeddings=256)
    loaded.tokenizer.pad_token = None
    bank = Bank(loaded, tiny.QUANTO)
    Registered("piqa").measure(sweep_of(bank, SPLITS[:1]), 2)
    assert loaded.tokenizer.pad_token is None


def test_an_empty_document_and_a_long_answer(
    bank: Bank, local: dict[str, list[dict[str, Any]]]
) -> None:
    local["EleutherAI/wikitext_document_level"] = [{"page": "a river"}, {"page": ""}]
    (got,) = Registered("wikitext").measure(sweep_of(bank, SPLITS[:1]), None)
    assert got.items["byte_perplexity"][1] == 0.0 > got.items["byte_perplexity"][0]
    local["baber/piqa"] = [{"goal": "a", "sol1": "river " * 600, "sol2": "b", "label": 0}]
    load_registered.cache_clear()
    with pytest.raises(UserError, match=r"'piqa' has an answer of \d+ tokens.* at most 512"):
        Registered("piqa").measure(sweep_of(bank, SPLITS[:1]), None)


def test_a_model_too_short_for_the_texts(loaded_of: Callable[..., LoadedModel]) -> None:
    bank = Bank(loaded_of("llama", max_position_embeddings=128), tiny.QUANTO)
    with pytest.raises(UserError, match=r"'gsm8k' does not fit this model: .*256.*128"):
        Registered("gsm8k").measure(sweep_of(bank, SPLITS[:1]), 1)


@pytest.mark.parametrize("name", ["humaneval", "picture", "rouge"])
def test_what_is_not_done_is_said(name: str, definitions: TaskManager, bank: Bank) -> None:
    task = fresh("piqa", definitions)["tasks"]["piqa"]
    if name == "humaneval":
        task.UNSAFE_CODE, said = True, "runs code"
    elif name == "picture":
        task.MULTIMODAL, said = True, "sees or hears"
    else:
        task._metric_fn_list, said = {"rouge": None}, "metric 'rouge' .*package 'evaluate'"
    with pytest.raises(UserError, match=said):
        lm_eval_loading.set_up({"tasks": {name: task}, "groups": {}}, name)


class GatedRepoError(OSError):
    """By name, as huggingface_hub's."""


@pytest.mark.parametrize(
    "error, said",
    [
        (ConnectionError("Couldn't reach it"), "check the network, or copy"),
        (TimeoutError(), "check the network, or copy"),
        (ModuleNotFoundError("no", name="math_verify.parser"), "package 'math_verify': install"),
        (RuntimeError("Dataset scripts are no longer supported, but found x.py"), "as a program"),
        (ValueError("requires you to pass trust_remote_code=True"), "as a program"),
        (GatedRepoError("403"), "log in"),
        (datasets.exceptions.DatasetNotFoundError("Dataset 'x' is a gated dataset"), "log in"),
        (datasets.exceptions.DatasetNotFoundError("doesn't exist"), "not on the Hugging Face Hub"),
        (OSError(28, "No space left on device"), "cannot be measured: .*No space left"),
        (ValueError("aggregated wrongly\nat length"), "cannot be measured: aggregated wrongly."),
    ],
)
def test_every_cause_has_its_sentence(
    error: Exception, said: str, bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any, **kwargs: Any) -> Any:
        raise error

    monkeypatch.setattr(datasets, "load_dataset", broken)
    with pytest.raises(UserError, match=said) as raised:
        Registered("piqa").measure(sweep_of(bank, SPLITS), 2)
    text = str(raised.value)
    assert "'piqa'" in text and text.endswith(".") and "\n" not in text
    try:
        raise RuntimeError("outer") from error
    except RuntimeError as outer:
        assert explain("piqa", outer) == text or "cannot be measured" in text


def test_a_package_missed_only_when_metrics_are_computed(
    bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*args: Any) -> Any:
        raise ModuleNotFoundError("No module named 'sacrebleu'", name="sacrebleu")

    monkeypatch.setattr(lm_eval_results, "_compute_task_aggregations", missing)
    with pytest.raises(UserError, match="'piqa' needs the Python package 'sacrebleu': install it"):
        Registered("piqa").measure(sweep_of(bank, SPLITS[:1]), 2)


def test_the_whole_registry_of_lm_eval(bank: Bank) -> None:
    """One test, for reading it takes seconds. There is no network, and no data."""
    every = [name for _, names in PRESETS.values() for name in names]
    assert set(every) <= set(lm_eval_registry.registry().all_tasks)
    for name in ("boolq", "mmlu", "mmlu_astronomy", "lambada_openai", "squad_completion"):
        lm_eval_registry.check_registered(name, tasks(SETTINGS))
    for name in ("hellaswag", "mmlu", "c4"):
        with pytest.raises(UserError, match=rf"data of '{name}' cannot be downloaded: check the n"):
            task_named(name, SETTINGS).measure(sweep_of(bank, SPLITS), 2)
    with pytest.raises(UserError, match=r"no task 'helaswag' \(close to it: hellaswag.*perplexity"):
        task_named("helaswag", SETTINGS)
    with pytest.raises(UserError, match=r"no task '§§§'\. Choose .*any task of lm-eval"):
        task_named("§§§", SETTINGS)
    with pytest.raises(UserError, match=r"'ai2_arc' is several.*: arc_challenge, arc_easy\."):
        task_named("ai2_arc", SETTINGS)
    with pytest.raises(UserError, match=r"'pythia' is several.*lambada_openai"):
        task_named("pythia", SETTINGS)


def test_presets_expand_in_order_and_once() -> None:
    assert expand(["perplexity", "paper-generation", "gsm8k", "x"]) == [
        "perplexity",
        "gsm8k",
        "nq_open",
        "x",
    ]
    assert expand(["mmlu", "paper-classification"]) == [
        "mmlu",
        "winogrande",
        "arc_easy",
        "piqa",
        "hellaswag",
    ]
    assert expand(["perplexity-corpora"]) == ["wikitext", "c4"]
    assert not {*PRESETS} & {*tasks(SETTINGS)}


def test_what_the_cache_knows_of_a_registered_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the registry is read."""
    monkeypatch.setattr(lm_eval_registry, "registry", lambda: pytest.fail("read"))
    a, b = task_named("hellaswag", SETTINGS), task_named("mmlu", SETTINGS)
    assert a.title == "hellaswag" and len(a.data) == 64 and a.data != b.data
    assert [a.limited(n) for n in (None, 3, 10**9)] == [None, 3, 10**9]
    assert a.first_items(100) is None


def test_bfloat16_too(loaded_of: Callable[..., LoadedModel]) -> None:
    loaded = loaded_of("qwen3", "bfloat16", max_position_embeddings=512)
    bank = Bank(loaded, tiny.QUANTO)
    (got,) = Registered("nq_open").measure(sweep_of(bank, SPLITS[:1]), 2)
    assert got.metrics["exact_match"].n == 2
    assert loaded.model.dtype is torch.bfloat16


def without_special_tokens(folder: Path, model: Any) -> LoadedModel:
    """`model` with the demo's vocabulary and a tokenizer that has no special token."""
    tiny.save(model, folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    kept = {k: v for k, v in config.items() if not k.endswith("_token")}
    path.write_text(json.dumps(kept), encoding="utf-8")
    loaded = tiny.load(folder)
    assert loaded.tokenizer.special_tokens_map == {}
    return loaded


OFFLINE_TASKS = ("endings", "last_word", "minimal_pairs")


def test_without_special_tokens_the_configs_begin_a_text(
    tmp_path: Path, loaded_of: Callable[..., LoadedModel]
) -> None:
    """What lm-eval answers with a tokenizer that has the same token itself."""
    usual = loaded_of("llama", max_position_embeddings=512)
    bare = without_special_tokens(tmp_path / "bare", usual.model)
    for name in ("wikitext", "nq_open", *OFFLINE_TASKS):
        pair = [
            task_named(name, SETTINGS).measure(sweep_of(Bank(loaded, tiny.QUANTO), SPLITS[:1]), 2)
            for loaded in (usual, bare)
        ]
        if name != "nq_open":  # writes a special token where the other one is skipped
            assert pair[0] == pair[1]


def test_without_any_special_token_only_what_needs_one_is_refused(tmp_path: Path) -> None:
    model = tiny.build("llama", max_position_embeddings=512)
    for config in (model.config, model.generation_config):
        config.bos_token_id = config.eos_token_id = config.pad_token_id = None
    loaded = without_special_tokens(tmp_path / "bare", model)
    bank = Bank(loaded, tiny.QUANTO)
    for name in (*OFFLINE_TASKS, "wikitext", "piqa", "nq_open"):
        sweep = sweep_of(bank, SPLITS[:2])
        if name in ("minimal_pairs", "wikitext"):
            with pytest.raises(UserError, match="no token that begins a text"):
                task_named(name, SETTINGS).measure(sweep, 2)
        else:
            measured = task_named(name, SETTINGS).measure(sweep, 2)
            assert all(m.value is not None for got in measured for m in got.metrics.values())


def test_one_task_that_fails_leaves_the_others(tmp_path: Path, run: Run) -> None:
    model = tiny.build("llama", max_position_embeddings=512)
    model.config.bos_token_id = model.config.eos_token_id = model.config.pad_token_id = None
    loaded = without_special_tokens(tmp_path / "bare", model)
    done = jobs.evaluate(loaded, jobs.Measurement(SPLITS[:1], tiny.QUANTO, OFFLINE_TASKS, 4), run)
    assert [e.task for e in done.evaluations] == ["endings", "last_word"]
    (failure,) = done.failures
    assert failure.startswith("The task 'Grammar pairs'") and "\n" not in failure


@pytest.mark.parametrize(
    "error, said",
    [
        (TypeError("'int' object is not iterable"), "TypeError: 'int' object is not iterable"),
        (KeyError("label"), "KeyError: 'label'"),
        (IndexError("list index out of range"), "IndexError: list index out of range"),
        (ValueError("bad"), "cannot be measured: bad"),
        (ZeroDivisionError("division by zero"), "ZeroDivisionError: division by zero"),
        (OverflowError("math range error"), "a figure that is too large for a number"),
        (jinja2.UndefinedError("'goal' is undefined"), "'goal' is undefined"),
        (MemoryError(), "too little memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "too little memory"),
    ],
)
@pytest.mark.parametrize("place", ["build_all_requests", "process_results", "aggregation"])
def test_whatever_a_task_raises_is_one_sentence(
    error: Exception, said: str, place: str, bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any, **kwargs: Any) -> Any:
        raise error

    monkeypatch.setattr(lm_eval.api.task.ConfigurableTask, place, broken)
    with pytest.raises(UserError) as refused:
        Registered("piqa").measure(sweep_of(bank, SPLITS[:1]), 2)
    text = str(refused.value)
    assert said in text and "'piqa'" in text and "\n" not in text and text.endswith(".")


def test_the_log_says_where_a_task_failed(
    loaded_of: Callable[..., LoadedModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any, **kwargs: Any) -> Any:
        raise KeyError("label")

    monkeypatch.setattr(lm_eval.api.task.ConfigurableTask, "process_results", broken)
    measurement = jobs.Measurement(SPLITS[:1], tiny.QUANTO, ["perplexity", "endings"], 2)
    done = jobs.evaluate(loaded_of("llama"), measurement, tiny.run(Store(tmp_path)))
    (failure,) = done.failures
    assert failure.endswith(f"KeyError: 'label'. The details are in '{tmp_path / 'lwq.log'}'.")
    assert "process_results" in (tmp_path / "lwq.log").read_text(encoding="utf-8")


def with_padding_beyond(folder: Path, special: bool = True) -> LoadedModel:
    """A tokenizer whose [PAD] is token 4096, and a model with 4096 embeddings."""
    model = tiny.build("llama", max_position_embeddings=512)
    tiny.save(model, folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    added = {**tokenizer["added_tokens"][0], "id": tiny.VOCABULARY, "content": "[PAD]"}
    tokenizer["added_tokens"].append(added)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    if not special:
        config = {k: v for k, v in config.items() if not k.endswith("_token")}
    path.write_text(json.dumps({**config, "pad_token": "[PAD]"}), encoding="utf-8")
    loaded = tiny.load(folder)
    assert loaded.tokenizer.pad_token_id == tiny.VOCABULARY
    return loaded


@pytest.mark.parametrize("special", [True, False])
def test_padding_without_an_embedding_is_not_used(special: bool, tmp_path: Path) -> None:
    """The texts are those of stock HFLM that writes one at a time, where nothing is padded."""
    bank = Bank(with_padding_beyond(tmp_path / "model", special), tiny.QUANTO)
    lm, requests = writer(bank, SPLITS[:1], 5)
    lm.fit(requests)
    assert (lm.batch_size > 1) == special
    texts = lm.generate_until(requests)
    if special:
        stock = stock_hflm(bank, SPLITS[0], batch_size=1)
        assert texts == stock.generate_until(requests, disable_tqdm=True)
    assert len(texts) == 5


def test_a_prompt_that_the_model_has_no_embedding_for(
    tmp_path: Path, local: dict[str, list[dict[str, Any]]]
) -> None:
    bank = Bank(with_padding_beyond(tmp_path / "model"), tiny.QUANTO)
    local["baber/piqa"] = [{"goal": "a [PAD]", "sol1": "river", "sol2": "b", "label": 0}]
    local["google-research-datasets/nq_open"] = [{"question": "[PAD] who", "answer": ["x", "y"]}]
    for name in ("piqa", "nq_open"):
        with pytest.raises(UserError, match=r"token 4096 \('\[PAD\]'\)"):
            Registered(name).measure(sweep_of(bank, SPLITS[:1]), None)


def test_no_text_is_written_from_values_that_are_not_numbers(tmp_path: Path) -> None:
    """All weights are finite, and a layer overflows in float16."""
    model = tiny.build("llama", "float16", max_position_embeddings=512)
    loaded = tiny.load(tiny.save(model, tmp_path / "model"))
    with torch.no_grad():  # loading refuses one that overflows on any text
        for part in ("up_proj", "down_proj"):
            loaded.model.get_submodule(f"model.layers.0.mlp.{part}").weight.mul_(5000)
    assert all(p.isfinite().all() for p in loaded.model.parameters())
    bank = Bank(loaded, tiny.QUANTO)
    with pytest.raises(UserError, match=r"not numbers .* in float16\. Choose bfloat16 or float32"):
        Registered("nq_open").measure(sweep_of(bank, SPLITS[1:2]), 2)


def test_threads_that_overlap_leave_the_switch_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """A download that was stopped goes on in its thread, beside the next one."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(lm_eval_loading, "reachable", lambda: False)
    inside = {name: Event() for name in ("first", "second")}
    goes_on = {name: Event() for name in inside}
    seen: list[bool] = []

    class Index:
        def load(self, names: list[str]) -> Any:
            inside[names[0]].set()
            goes_on[names[0]].wait(10)
            seen.append(huggingface_hub.constants.HF_HUB_OFFLINE)
            return {"tasks": {}, "groups": {}}

    monkeypatch.setattr(lm_eval_loading, "registry", Index)
    threads = [Thread(target=load_registered, args=(name,)) for name in inside]
    for name, thread in zip(inside, threads, strict=True):
        thread.start()
        assert inside[name].wait(10)
    for name, thread in zip(inside, threads, strict=True):  # the first one out leaves one inside
        goes_on[name].set()
        thread.join(10)
    assert seen == [True, True]
    assert not huggingface_hub.constants.HF_HUB_OFFLINE


@pytest.mark.parametrize("name", ["lambada_openai", "wikitext"])
def test_a_perplexity_beyond_all_numbers(name: str, bank: Bank) -> None:
    """exp overflows: of NumPy to infinity, of Python with an error."""
    loaded = lm_eval_loading.load_registered(name)
    for task in loaded["tasks"].values():
        task.set_fewshot_seed(seed=SEED)
        task.build_all_requests(limit=2)
        for request in task.instances:
            log = -1e7
            request.resps = [(log, False) if request.request_type == "loglikelihood" else log]
            request.filtered_resps = {}
    with pytest.raises((UserError, OverflowError)) as refused:
        results_of(loaded, name, tiny.run())
    said = str(refused.value) if refused.type is UserError else explain(name, refused.value)
    assert f"'{name}' gives a figure that is too large for a number" in said
