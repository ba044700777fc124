"""Task files of lm-eval: those of a user's folder, and what is wrong with one."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
from lm_eval.tasks import TaskManager

from lwq_ui.core.errors import UserError
from lwq_ui.core.schema import ModelInfo
from lwq_ui.core.settings import Settings
from lwq_ui.core.store import Store
from lwq_ui.engine import jobs
from lwq_ui.engine.banks.bank import Bank
from lwq_ui.engine.models.loading import LoadedModel
from lwq_ui.engine.quantizers import DEFAULT_QUANTIZER
from lwq_ui.engine.records import evaluation_key, journal_folder, known_evaluations
from lwq_ui.engine.sweeps.sweep import Sweep
from lwq_ui.engine.tasks import own_tasks, task_named, tasks
from lwq_ui.engine.tasks.lm_eval_model import SEED
from lwq_ui.engine.tasks.lm_eval_tasks import Harness

SHIPPED = Settings(cache=Path("unused"))
SPLIT = (2, 4, 16, 8)
YAML = """task: own
dataset_path: json
dataset_kwargs:
  data_files: {test: own.jsonl}
test_split: test
output_type: multiple_choice
doc_to_text: "{{context}}"
doc_to_target: label
doc_to_choice: endings
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
metadata: {version: 1.0, title: Own}
"""
ROW = '{"context": "a\u2028river", "endings": ["the\u0085old", "house"], "label": 1}\n'


@pytest.fixture(scope="module")
def bank(loaded_of: Callable[..., LoadedModel]) -> Bank:
    return Bank(loaded_of("llama", max_position_embeddings=512), tiny.QUANTO)


def write(folder: Path, files: Mapping[str, str]) -> Settings:
    """Writes the files of a user's folder. Returns settings that name it."""
    for name, content in files.items():
        path = folder / "own" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8", newline="")
    return replace(SHIPPED, cache=folder / "cache", tasks=folder / "own")


@pytest.mark.parametrize("data", [ROW * 2, "\ufeff" + ROW * 2, ROW + "\r\n \n" + ROW.strip()])
def test_any_jsonl_is_read(data: str, bank: Bank, tmp_path: Path) -> None:
    task = task_named("own", write(tmp_path, {"own.yaml": "\ufeff" + YAML, "own.jsonl": data}))
    (got,) = task.measure(Sweep(bank, [SPLIT], tiny.run()), None)
    assert got.metrics["acc"].n == task.size == 2


@pytest.mark.parametrize(
    "definition, data, said",
    [
        (YAML, ROW + "\n{bad\n", "Line 3 of 'own.jsonl' is not a JSON object: write one"),
        (YAML, ROW + "[1]\n", "Line 2 of 'own.jsonl' is not a JSON object"),
        (YAML, "[" * 100_000, "Line 1 of 'own.jsonl' is not a JSON object"),
        (YAML, "\n", "'own.jsonl' has no items: write"),
        (YAML, None, "'own.yaml' names the data file 'own.jsonl', which is not there: put it"),
        (YAML.replace("task: own\n", ""), ROW, "'own.yaml' has no text at 'task': write one"),
        (YAML.replace("  data_files", "  files"), ROW, "at 'dataset_kwargs: data_files': write"),
        (YAML.replace("path: json", "path: me/own"), ROW, "takes its data from 'me/own': save it"),
        (
            YAML.replace("split: test", "split: dev"),
            ROW,
            "has 'test_split: dev', and data files for test only: name one of these",
        ),
        (YAML.replace("test_split: test\n", ""), ROW, "has neither 'test_split' nor 'validation"),
        (YAML + "broken: [\n", ROW, "'own.yaml' cannot be read, line 14: "),
        (YAML + "x: 2026-13-13\n", ROW, "'own.yaml' cannot be read: month must be in 1..12: "),
        (YAML + "x: !function a.b\n", ROW, "names a Python function, line 13: write it as a Jinja"),
        (YAML + "class: a.b\n", ROW, "names the Python class 'a.b': write it as a Jinja"),
        (YAML + "group: g\n", ROW, "defines a group of tasks: choose its tasks one by one"),
        (YAML.replace("task: own", "task: [a, b]"), ROW, "defines a group of tasks: choose"),
        (YAML + "include: nowhere.yaml\n", ROW, "includes 'nowhere.yaml', which is no file: "),
        (YAML + "include: own.yaml\n", ROW, "includes itself: take"),
        ("- a\n", ROW, "'own.yaml' does not map names to values: write"),
        (YAML.replace("task: own", "task: endings"), ROW, "'endings', which another file or the"),
        (YAML, ROW.replace("endings", "choices"), "The task 'own' cannot be measured: "),
        (YAML.replace("{{context}}", "{{context"), ROW, "The task 'own' cannot be measured: "),
        (
            YAML.replace("multiple_choice", "loglikelihood")
            .replace("{{context}}", "")
            .replace("label", "endings"),
            ROW,
            "The task 'Own' makes a prompt or an answer that is no text but ",
        ),
    ],
)
def test_a_task_file_that_is_wrong_is_named(
    definition: str, data: str | None, said: str, bank: Bank, tmp_path: Path
) -> None:
    """The same in the program's own folder and in a user's, and the others are there."""
    good = {
        "good.yaml": YAML.replace("own", "good").replace("Own", "Good"),
        "good.jsonl": ROW,
    }
    files = {**good, "own.yaml": definition} | ({} if data is None else {"own.jsonl": data})
    settings = write(tmp_path, files)
    shipped = SHIPPED
    if "endings'" not in said:
        assets = tmp_path / "assets"
        shutil.copytree(SHIPPED.assets / "passages", assets / "passages")
        shutil.copytree(tmp_path / "own", assets / "tasks")
        shipped = Settings(cache=tmp_path / "cache", assets=assets)
    for some in (settings, shipped)[: 1 + (shipped is not SHIPPED)]:
        assert {"perplexity", "good"} <= {*tasks(some)}
        with pytest.raises(UserError) as refused:
            task_named("own", some).measure(Sweep(bank, [SPLIT], tiny.run()), None)
        assert said in str(refused.value) and "\n" not in str(refused.value)
        assert task_named("good", some).size == 1


def test_a_user_s_tasks_stand_after_the_shipped_ones(tmp_path: Path) -> None:
    untitled = YAML.replace(", title: Own", "").replace("task: own", "task: piqa")
    again = YAML.replace("title: Own", "title: Story endings").replace("task: own", "task: again")
    settings = write(
        tmp_path,
        {"a.yaml": untitled, "b.yaml": again, "own.jsonl": ROW, "c.yml": "no task", "d.txt": "no"},
    )
    assert list(tasks(settings)) == [*tasks(SHIPPED), "piqa", "again"]
    titles = [task.title for task in own_tasks(settings).tasks.values()]
    assert titles == ["piqa", "Story endings (again)"]  # a title stands for one task
    assert isinstance(task_named("piqa", settings), Harness)  # not the registry's
    assert own_tasks(settings).errors == {}
    empty = replace(settings, tasks=tmp_path)
    assert "has no .yaml files: name the one" in own_tasks(empty).errors[tmp_path.name]


BASE = """dataset_path: json
dataset_kwargs:
  data_files: {train: [data/a.jsonl, data/b.jsonl], dev: data/dev.jsonl}
training_split: train
validation_split: dev
output_type: multiple_choice
doc_to_text: "Question: {{goal}}\\nAnswer:"
doc_to_target: label
doc_to_choice: "{{choices}}"
metric_list:
  - {metric: acc}
  - {metric: acc_norm}
num_fewshot: 1
"""
TASK = "include: base.yaml\ntask: goals\ntag: [mine]\nnum_fewshot: 2\n"


def question(i: int) -> str:
    return json.dumps({"goal": f"walk {i}", "choices": [f"a {i}", "the"], "label": i % 2})


FOLDER = {
    "base.yaml": BASE,
    "goals.yaml": TASK,
    "data/a.jsonl": "\n".join(question(i) for i in range(3)),
    "data/b.jsonl": question(3),
    "data/dev.jsonl": "\n".join(question(i) for i in range(10, 17)),
}


def test_prompts_equal_those_of_lm_eval_on_the_same_folder(
    bank: Bank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """lm-eval reads the folder its own way: relative to where it runs, over a cache of datasets."""
    settings = write(tmp_path, FOLDER)
    task = task_named("goals", settings)
    assert own_tasks(settings).errors == {}  # the base is no task, and no error
    assert task.size == 7

    def prompts(definition: Mapping[str, Any]) -> list[Any]:
        (part,) = definition["tasks"].values()
        part.set_fewshot_seed(seed=SEED)
        part.build_all_requests(rank=0, world_size=1)
        return [(request.doc_id, request.args) for request in part.instances]

    monkeypatch.chdir(tmp_path / "own")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")
    manager = TaskManager(include_path=str(tmp_path / "own"), include_defaults=False)
    expected = prompts(manager.load(["goals"]))
    assert prompts(task.load()) == expected
    assert len(expected) == 14 and "Question: walk" in expected[0][1][0]
    assert expected[0][1][0].count("Question") == 3  # two examples, then its own
    (got,) = task.measure(Sweep(bank, [SPLIT], tiny.run()), None)
    assert got.metrics["acc_norm"].n == 7


def test_a_key_that_the_first_row_lacks_is_read(tmp_path: Path) -> None:
    late = ROW.replace('"label"', '"hint": "green", "label"')
    hinted = YAML.replace("{{context}}", "{{context}} {{hint}}")
    task = task_named("own", write(tmp_path, {"own.yaml": hinted, "own.jsonl": ROW + late}))
    (part,) = task.load()["tasks"].values()
    assert [part.doc_to_text(row).split()[-1] for row in part.test_docs()] == ["None", "green"]


@pytest.mark.parametrize("name", FOLDER)
def test_any_file_that_changes_is_another_task_s_data(name: str, tmp_path: Path) -> None:
    before = task_named("goals", write(tmp_path / "a", FOLDER)).data
    assert task_named("goals", write(tmp_path / "b", FOLDER)).data == before
    content = FOLDER[name] + ("\n" + question(9) if name.endswith("jsonl") else "description: x\n")
    assert task_named("goals", write(tmp_path / "c", {**FOLDER, name: content})).data != before


def test_a_line_that_moves_to_the_next_file_is_a_change(tmp_path: Path) -> None:
    lines = (FOLDER["data/a.jsonl"] + "\n" + FOLDER["data/b.jsonl"]).splitlines(keepends=True)
    moved = {"data/a.jsonl": "".join(lines[:2]), "data/b.jsonl": "".join(lines[2:])}
    kept = {"data/a.jsonl": "".join(lines[:3]), "data/b.jsonl": "".join(lines[3:])}
    a = task_named("goals", write(tmp_path / "a", {**FOLDER, **kept}))
    b = task_named("goals", write(tmp_path / "b", {**FOLDER, **moved}))
    assert a.data != b.data


def test_shipped_tasks_have_the_digest_that_the_shipped_cache_has() -> None:
    folder = SHIPPED.assets / "tasks"
    for name in ("endings", "last_word", "minimal_pairs"):
        files = [(folder / f"{name}{suffix}").read_bytes() for suffix in (".yaml", ".jsonl")]
        digest = hashlib.sha256(b"".join(files)).hexdigest()
        assert task_named(name, SHIPPED).data == digest


def test_files_that_change_under_a_program_are_not_measured_as_before(
    bank: Bank, tmp_path: Path
) -> None:
    settings = write(tmp_path, {"own.yaml": YAML, "own.jsonl": ROW * 2})
    before = task_named("own", settings).data
    write(tmp_path, {"own.jsonl": ROW * 3})
    task = task_named("own", settings)
    assert task.data == before
    with pytest.raises(UserError, match=r"files of the task 'own' have changed .* start the"):
        task.measure(Sweep(bank, [SPLIT], tiny.run()), None)


def test_results_on_other_data_do_not_mix(bank: Bank, tmp_path: Path) -> None:
    """Two folders define the same name. One cache keeps their results apart."""
    info: ModelInfo = bank.loaded.info
    first = write(tmp_path / "a", {"own.yaml": YAML, "own.jsonl": ROW * 2})
    second = write(tmp_path / "b", {"own.yaml": YAML, "own.jsonl": ROW * 3})
    store = Store(tmp_path / "cache")
    a, b = (task_named("own", settings) for settings in (first, second))
    keys = [evaluation_key(info, task, SPLIT, DEFAULT_QUANTIZER, None).path for task in (a, b)]
    assert len({*keys, *(journal_folder(info, t, tiny.QUANTO, store) for t in (a, b))}) == 4
    for settings, n in ((first, 2), (second, 3)):
        run = replace(tiny.run(), settings=settings, store=store)
        measurement = jobs.Measurement([(16,) * 4], DEFAULT_QUANTIZER, ["own"])
        done = jobs.evaluate(bank.loaded, measurement, run)
        assert [e.metrics["acc"].n for e in done.evaluations] == [n]
        assert known_evaluations(info, tasks(settings), store) == done.evaluations
