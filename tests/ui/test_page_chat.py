"""The chat template's switch: where it is shown, and that results of two settings never mix."""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("gradio")

from charting import SIX, draw
from page import (
    choose,
    load_model,
    measure_only,
    open_tab,
    pick,
    read_results,
    read_texts,
    save_llama,
    settle,
    somebody_computes,
    wait_for_alert,
    wait_for_job,
    wait_for_status,
)

from lwq_ui.core.schema import Evaluation, Metric
from lwq_ui.core.settings import Settings
from lwq_ui.engine.texts import Text
from lwq_ui.ui.server import Server
from lwq_ui.ui.session import ModelChoice, Session
from lwq_ui.ui.situation import Controls, Situation
from lwq_ui.ui.tables import results_table

TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>\n{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>\n{% endif %}"
)
SWITCH = "#chat-template input"
NOTE = "Prompts are in the model's chat template"


# ---- without a browser


def evaluation(task: str, value: float, chat: bool) -> Evaluation:
    metric = {"acc": Metric(value, 0.1, 9)}
    return Evaluation(task, (4, 4), "quanto", metric, {"acc": [value] * 9}, None, 0.1, chat)


def test_results_of_two_settings_never_mix(tmp_path):
    tasks = Server(Settings(cache=tmp_path)).tasks
    plain = [evaluation(name, 0.25, False) for name in ("perplexity", "endings", "piqa")]
    chat = [evaluation(name, 0.75, True) for name in ("endings", "piqa")]
    for text, shown in (
        (None, plain),
        (Text("t", ("a",)), plain),
        (Text("t", ("a",), chat=True), [plain[0], *chat]),  # running text has no prompt
    ):
        session = Session(ModelChoice(), text=text).with_evaluations([*plain, *chat])
        assert len(session.evaluations) == 5  # neither replaces the other
        s = Situation(session, Controls(limit=None), tasks=tasks)
        assert s.results == s.results_so_far == shown
        early = replace(session, evaluations=(), early=(*plain, *chat))
        assert replace(s, session=early).results_so_far == shown


def test_captions_say_what_prompts_are_in():
    titles = {"endings": "Story endings"}
    for chat in (False, True):
        some = [replace(e, chat_template=chat) for e in SIX]
        assert (NOTE in results_table(some, titles)) == chat
        assert draw(some)["caption"] == (f"{NOTE}." if chat else "")


# ---- in a browser


@pytest.fixture(scope="module")
def chatting(tmp_path_factory):
    folder = save_llama(tmp_path_factory.mktemp("models") / "chatting", layers=4, seed=41)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


@pytest.mark.browser
def test_a_model_with_a_template_is_measured_with_and_without_it(page, chatting):
    assert page.locator("#chat-template").is_hidden()  # the demo model has none
    load_model(page, chatting)
    wait_for_status(page, "is loaded and scored")
    page.wait_for_selector("#chat-template", state="visible")
    assert not page.is_checked(SWITCH)
    measure_only(page, "Story endings", "Perplexity and divergence")
    page.click("#evaluate")
    wait_for_status(page, "^Measured")
    plain = read_results(page)
    lim = page.inner_text("#scored")
    assert NOTE not in page.inner_text("#results caption") and plain

    page.click(SWITCH)
    said = "Scored on shipped calibration text, as chat turns."
    assert wait_for_status(page, "^Scored") == said
    assert "as chat turns" in page.inner_text("#scored") != lim
    assert page.is_checked(SWITCH)
    # Of the figures before, only those of running text are left.
    assert "Story endings" not in page.inner_text("#results")
    page.click("#evaluate")
    wait_for_status(page, "^Measured .* in ")
    assert NOTE in page.inner_text("#results caption")
    chat = read_results(page)
    assert chat != plain

    page.click(SWITCH)
    assert wait_for_status(page, "^Scored") == "Scored on shipped calibration text."
    assert read_results(page) == plain and page.inner_text("#scored") == lim
    page.click(SWITCH)
    wait_for_status(page, "^Scored")
    assert read_results(page) == chat


@pytest.mark.browser
def test_quantizers_calibrate_on_turns_too(page, chatting):
    load_model(page, chatting)
    wait_for_status(page, "is loaded and scored")
    pick(page, "#quantizer", "SpQR-like (3 bits, outliers)")
    settle(page)
    assert "50 documents of the shipped text" in page.inner_text("#packing")
    page.click(SWITCH)
    wait_for_status(page, "^Scored")
    turns = "50 documents of shipped calibration text as chat turns"
    assert turns in page.inner_text("#packing")
    page.click(SWITCH)
    wait_for_status(page, "^Scored")
    assert "50 documents of the shipped text" in page.inner_text("#packing")


@pytest.mark.browser
def test_all_models_answer_in_the_template(page, chatting):
    load_model(page, chatting)
    wait_for_status(page, "is loaded and scored")
    page.click(SWITCH)
    wait_for_status(page, "^Scored")
    open_tab(page, "Write something")
    assert "All models answer this" in page.inner_text("[role=tabpanel]:visible")
    page.fill("#prompt textarea", "Who sees the river?")
    page.click("#write")
    wait_for_status(page, "^Written")
    answers = read_texts(page)
    assert len(answers) == 4 and not any("Who sees" in text for text in answers)
    page.click(SWITCH)
    wait_for_status(page, "^Scored")
    page.click("#write")
    wait_for_status(page, "^Written")
    assert all(text.startswith("Who sees the river?") for text in read_texts(page))


@pytest.mark.browser
def test_a_switch_that_fails_or_is_stopped_goes_back(world, page, chatting, monkeypatch):
    from lwq_ui.engine import jobs

    load_model(page, chatting)
    wait_for_status(page, "is loaded and scored")
    with somebody_computes(world):
        page.click(SWITCH)
        wait_for_job(page, "Waiting")
        assert page.is_disabled(SWITCH)
        page.click("#stop")
        wait_for_status(page, "^Stopped")
    settle(page)
    assert not page.is_checked(SWITCH) and page.is_enabled(SWITCH)

    def fail(*args):
        raise RuntimeError("boom")

    with monkeypatch.context() as patch:
        patch.setattr(jobs, "score", fail)
        page.click(SWITCH)
        assert "boom" in wait_for_alert(page)
    settle(page)
    assert not page.is_checked(SWITCH)


@pytest.mark.browser
def test_a_model_without_a_template_is_read_as_plain_text(page, chatting, tiny):
    load_model(page, chatting)
    wait_for_status(page, "is loaded and scored")
    page.click(SWITCH)
    wait_for_status(page, "^Scored")
    load_model(page, tiny)
    wait_for_status(page, "is loaded and scored")
    assert page.locator("#chat-template").is_hidden()
    assert "as chat turns" not in page.inner_text("#scored")
    load_model(page, chatting)
    wait_for_status(page, "is loaded and scored")
    page.wait_for_selector("#chat-template", state="visible")
    assert not page.is_checked(SWITCH)
    choose(page, "#quick", "All items")
    settle(page)
    assert not page.is_checked(SWITCH)
