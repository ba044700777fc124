"""The user's own task files on the page."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

pytest.importorskip("gradio")

from page import READY, link_few_results, measure_only, read_results, settle, wait_for_status

from lwq_ui.core.settings import Settings

pytestmark = pytest.mark.browser

YAML = """task: rivers
dataset_path: json
dataset_kwargs: {data_files: {test: rivers.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{context}}"
doc_to_target: 0
doc_to_choice: "{{[good, bad]}}"
metric_list: [{metric: acc}]
metadata: {title: Rivers <b>}
"""
ROW = '{"context": "The river runs", "good": "down to the sea.", "bad": "table the of."}\n'


@pytest.fixture
def own(tmp_path, chrome):
    """The page of a server that was started with a folder of two files, one of them wrong."""
    import app

    folder = tmp_path / "mine & <i>"
    folder.mkdir()
    (folder / "rivers.yaml").write_text(YAML)
    (folder / "rivers.jsonl").write_text(ROW * 3)
    (folder / "wrong.yaml").write_text(YAML + "process_docs: !function a.b\n")
    (tmp_path / "assets").mkdir()
    assets = link_few_results(tmp_path / "assets")
    settings = Settings(cache=tmp_path / "cache", assets=assets, tasks=folder)
    demo, _ = app.launch(settings, server_name="127.0.0.1", prevent_thread_lock=True, quiet=True)
    yield SimpleNamespace(url=demo.local_url, folder=folder)
    demo.close(verbose=False)


def test_a_folder_s_tasks_stand_on_the_page_and_are_measured(own, open_page):
    page = open_page(own.url, viewport={"width": 1280, "height": 900})
    wait_for_status(page, READY)
    settle(page)
    labels = page.locator("#tasks label").all_inner_texts()
    assert labels[-2:] == ["Grammar pairs", "Rivers <b>"]
    assert page.locator("#own-tasks p").all_inner_texts() == [
        f"From the folder '{own.folder}': Rivers <b>."
    ]
    assert page.locator("#own-tasks [role=alert]").all_inner_texts() == [
        "The task file 'wrong.yaml' names a Python function, line 11: write it as a Jinja "
        "template, since code that comes with a task is not run."
    ]
    measure_only(page, "Rivers <b>")
    page.click("#evaluate")
    wait_for_status(page, "^Measured")
    page.wait_for_selector("#results tr.current")
    assert "Rivers <b>" in page.inner_text("#results")
    assert read_results(page)
