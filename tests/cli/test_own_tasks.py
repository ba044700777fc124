"""`--tasks FOLDER` and LWQ_TASKS: the user's own task files on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from demo import Run

YAML = """task: rivers
dataset_path: json
dataset_kwargs: {data_files: {test: rivers.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{context}}"
doc_to_target: 0
doc_to_choice: "{{[good, bad]}}"
metric_list: [{metric: acc}]
"""
ROW = '{"context": "The river runs", "good": "down to the sea.", "bad": "table the of."}\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "rivers.yaml").write_text(YAML)
    (folder / "rivers.jsonl").write_text(ROW * 3)
    return folder


def test_a_folder_s_tasks_are_measured_and_named_in_configs(
    folder: Path, config: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = ("--tasks", str(folder))
    measured = run("evaluate", str(config), "--task", "rivers", *named)
    assert measured["metrics"]["acc"]["n"] == 3
    split = ("split", "demo", "--ordering", "first", "--low-layers", "3")

    def own(*arguments: str) -> list[Any]:
        """What other tests have measured of the split stands beside it."""
        return [e for e in run(*arguments)["evaluations"] if e["task"] == "rivers"]

    (evaluation,) = own(*split, *named)
    assert own(*split) == []
    monkeypatch.setenv("LWQ_TASKS", str(folder))
    assert own(*split) == [evaluation]
    swept = ("sweep", "demo", "--ordering", "first", "--every", "99", "--task", "rivers")
    assert {p["metrics"]["acc"]["n"] for p in run(*swept)["points"]} == {3}


def test_a_file_that_is_wrong_keeps_nothing_else_from_being_measured(
    folder: Path, config: Path, run: Run, failing: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    (folder / "wrong.yaml").write_text(YAML + "process_docs: !function a.b\n")
    from lwq_ui.cli import main

    arguments = ["evaluate", str(config), "--tasks", str(folder), "--task"]
    assert main([*arguments, "rivers"]) == 0
    sentence = "The task file 'wrong.yaml' names a Python function, line 10: "
    assert sentence in capfd.readouterr().err
    assert failing(*arguments, "wrong").startswith(sentence)


def test_a_folder_that_is_none_is_said(failing: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    split = ("split", "demo", "--ordering", "first", "--low-layers", "3")
    for name in ("nowhere", "", "a\0b", __file__):
        assert failing(*split, "--tasks", name) == f"--tasks is wrong: there is no folder '{name}'."
    for name, why in (("nowhere", "there is no folder"), ("~nobody-here/x", "home directory")):
        monkeypatch.setenv("LWQ_TASKS", name)
        said = failing("info", "demo")
        assert said.startswith("The environment variable LWQ_TASKS is wrong: ") and why in said
    monkeypatch.setenv("LWQ_TASKS", "")
