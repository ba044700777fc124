"""The model's panel: naming, looking at, loading and scoring a model."""

from __future__ import annotations

import shutil

import gguf_models
import pytest

from lwq_ui.core.errors import UserError

pytest.importorskip("gradio")

from page import (
    WAIT,
    choose,
    core_split,
    load_model,
    measure_only,
    open_tab,
    pick,
    pin,
    read_pins,
    read_results,
    read_split,
    read_texts,
    save_llama,
    settle,
    wait_for_alert,
    wait_for_status,
    wait_until,
)

from lwq_ui.core.writing import Prompt

pytestmark = pytest.mark.browser


def test_models_that_cannot_be_loaded(world, page, tiny, tmp_path):
    from transformers import BertConfig, BertForMaskedLM

    empty, bert, cut = (tmp_path / name for name in ("no weights", "bert", "cut"))
    empty.mkdir()
    shutil.copy(tiny / "config.json", empty)
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    BertForMaskedLM(BertConfig(**size, intermediate_size=16, vocab_size=50)).save_pretrained(bert)
    shutil.copytree(tiny, cut)
    weights = cut / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    for name, part in (
        (empty, "has no weights"),
        (tmp_path / "nowhere", "There is no folder"),
        ("", "Name a model"),
        (bert, "not a causal language model"),
        (cut, "cut short"),
    ):
        load_model(page, name)
        page.wait_for_function(
            "text => document.querySelector('#error [role=alert]')?.innerText.includes(text)",
            arg=part,
            timeout=WAIT,
        )
        wait_for_alert(page)
    assert page.inner_text("#card b") == "demo"
    assert read_split(page) == core_split(world, 12)[0]
    measure_only(page, "Grammar pairs")
    page.click("#evaluate")
    wait_for_status(page, "^Measured")


def test_the_model_field_offers_what_it_knows_and_takes_anything(world, page, monkeypatch):
    from lwq_ui.engine import jobs
    from lwq_ui.engine.checkpoints.search import Answer, FoundModel
    from lwq_ui.ui.components import modelfield

    def search(text):
        models = {
            "": (FoundModel("demo", on_disk=True),),
            "smollm9 tiny": (FoundModel("someone/SmolLM9-tiny", 0.01),),
        }
        return Answer(models.get(text, ()), "" if text in models else "Nobody answers.")

    def describe(model_id, *args):
        raise UserError(f"Asked for {model_id}.")

    monkeypatch.setattr(modelfield, "search", search)
    monkeypatch.setattr(jobs, "describe", describe)
    field, offered = page.locator("#model input"), page.locator("#model [role=option]")
    field.click()
    assert offered.count() > 20 and "demo" in offered.first.inner_text()
    assert offered.filter(has_text="Qwen/Qwen3-8B-Base").inner_text().endswith("8.2 B")
    field.fill("smollm9 tiny")
    offered.filter(has_text="someone/SmolLM9-tiny").wait_for()
    assert offered.count() == 1
    field.press("ArrowDown")
    field.press("Enter")  # picks; the next Enter would load
    assert field.input_value() == "someone/SmolLM9-tiny" and not offered.first.is_visible()
    assert not world.worker.busy

    field.fill("Qwen/Qwen3-8B")  # how another one begins, too
    page.get_by_text("Nobody answers.").wait_for()
    assert offered.count() == 1 and "Qwen3-8B-Base" in offered.inner_text()
    field.press("Enter")
    assert wait_for_alert(page) == "Asked for Qwen/Qwen3-8B."


def test_the_field_offers_the_models_that_a_name_may_mean(page, tmp_path):
    """Two files that are no models: which one is asked for shows in the refusal."""
    for name, size in (("large.gguf", 3000), ("small.gguf", 2000)):
        (tmp_path / name).write_bytes(bytes(size))
    small, large = (str(tmp_path / name) for name in ("small.gguf", "large.gguf"))
    field, offered = page.locator("#model input"), page.locator("#model [role=option]")
    for press in ("#look", "#load", "#load"):  # the list opens each time
        field.fill(str(tmp_path))
        field.press("Escape")
        page.click(press)
        assert "holds several models: small.gguf" in wait_for_alert(page)
        settle(page)
        offered.filter(has_text="small.gguf").wait_for()
        assert offered.all_inner_texts() == [f"{small}\n2.0 KiB", f"{large}\n2.9 KiB"]
        below = field.bounding_box()["y"] + field.bounding_box()["height"]
        assert page.locator("#model .offers").bounding_box()["y"] >= below
        field.press("Escape")
        page.click("#head")
        field.click()  # it offers them as long as it holds that name
        assert offered.count() == 2
    field.press("ArrowDown")
    field.press("ArrowDown")
    field.press("Enter")
    assert field.input_value() == large
    page.click("#load")
    page.wait_for_function(
        "() => document.querySelector('#error').innerText.includes('no GGUF file')", timeout=WAIT
    )
    assert "large.gguf" in wait_for_alert(page)
    field.fill("gp")
    page.wait_for_function("() => document.querySelectorAll('#model [role=option]').length !== 2")


def test_a_gguf_file_is_looked_at_and_loaded(world, page, tmp_path):
    path = gguf_models.write(gguf_models.build("llama"), tmp_path / "model.gguf", "Q4_1")
    page.fill("#model input", str(path))
    page.press("#model input", "Escape")
    page.click("#look")
    card = page.locator("#card")
    card.get_by_text("Looked at, not loaded").wait_for(timeout=WAIT)
    assert "Q4_1" in card.inner_text() and "Weights come from a Q4_1 file." in card.inner_text()
    page.click("#load")
    card.get_by_text("Loaded", exact=True).wait_for(timeout=WAIT)
    assert "LlamaForCausalLM" in card.inner_text()
    settle(page)
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(path.read_bytes()[:-100])
    page.fill("#model input", str(cut))
    page.press("#model input", "Escape")
    page.click("#load")
    assert "cut.gguf' is cut short or damaged" in wait_for_alert(page)
    assert "model.gguf" in card.inner_text()  # what was loaded stays


def look(page, name) -> None:
    page.fill("#model input", str(name))
    page.press("#model input", "Escape")
    page.click("#look")


def test_a_look_says_what_a_model_is_and_loads_nothing(world, page, tiny, tmp_path, monkeypatch):
    from lwq_ui.engine import jobs

    monkeypatch.setattr(jobs, "load", None)
    look(page, tiny)
    wait_for_status(page, "Nothing was loaded")
    card = page.inner_text("#card")
    assert str(tiny) in card and "Looked at, not loaded" in card
    assert "nothing, it is on this disk" in card and "The bars still show demo." in card
    assert "fits untouched" in card and "the smallest" in card
    assert len(read_split(page)) == 24
    wait_until(lambda: {m.info.num_layers for m in world.shelf.models()} == {24})
    look(page, tmp_path / "nowhere")
    assert "There is no folder" in wait_for_alert(page)
    settle(page)
    assert page.inner_text("#card") == card
    look(page, "demo")
    wait_for_status(page, "^demo .* Nothing was loaded")
    assert page.inner_text("#card span") == "Loaded"


def test_a_model_that_does_not_fit_is_read_layer_by_layer(world, page, monkeypatch, tmp_path):
    from lwq_ui.engine.models import loading as models
    from lwq_ui.ui.modelcard import TOO_LARGE

    monkeypatch.setattr(models, "fits", lambda *args: False)
    load_model(page, save_llama(tmp_path / "large", layers=4, seed=9))
    wait_for_status(page, "is loaded and scored")
    card = page.inner_text("#card")
    assert "read from the disk one by one" in card and "Memory" not in card
    open_tab(page, "Write something")
    page.locator("#length input[type=number]").fill("10")
    page.locator("#length input[type=number]").press("Tab")
    page.click("#write")
    wait_for_status(page, "^Written")
    texts = read_texts(page)
    assert texts[0] == TOO_LARGE and len(texts) == 4
    assert all(text.startswith(PROMPT) and len(text) > len(PROMPT) for text in texts[1:])
    assert page.locator("#texts mark").count() == 0  # there is nothing to differ from


PROMPT = Prompt().text


def test_another_model_and_ones_own_calibration_text(world, page, tiny):
    pin(page, 20)
    before = page.inner_text("#scored")
    load_model(page, tiny)
    wait_for_status(page, "is loaded and scored")
    page.wait_for_function("document.querySelectorAll('#bar .cell').length === 12")
    assert str(tiny) in page.inner_text("#card") and "6" in page.inner_text("#card dl")
    assert page.inner_text("#scored") != before and "50 documents" in page.inner_text("#scored")
    assert read_pins(page) == {} and set(read_split(page)) == {4, 2}
    assert page.locator("#results tbody tr").count() == 0

    labels = "cells => cells.map(c => c.ariaLabel)"
    scores = page.locator("#bar [data-scorer=lim] .cell").evaluate_all(labels)
    choose(page, "#text", "My file")
    page.click("#score")
    assert wait_for_alert(page) == "Choose a .txt file to calibrate on, or use the shipped text."
    page.locator("#own-text input[type=file]").set_input_files(
        {"name": "mine.txt", "mimeType": "text/plain", "buffer": b"A short text of my own. " * 9}
    )
    page.wait_for_selector("#own-text >> text=mine")
    page.click("#score")
    wait_for_status(page, r"^Scored on mine\.txt")
    assert "mine.txt, 1 document, " in page.inner_text("#scored")
    page.wait_for_function(
        "old => JSON.stringify([...document.querySelectorAll('#bar [data-scorer=lim] .cell')]"
        ".map(c => c.ariaLabel)) !== JSON.stringify(old)",
        arg=scores,
    )

    measure_only(page, "Grammar pairs")
    page.click("#evaluate")
    wait_for_status(page, "^Measured")
    page.wait_for_selector("#results tr.current")
    assert len(read_results(page)) == 4

    # What packs by looking at a text takes the same one, and says so.
    pick(page, "#quantizer", "SpQR-like (3 bits, outliers)")
    page.wait_for_function(
        "document.querySelector('#packing').innerText.includes('1 document of mine.txt')"
    )
    page.click("#evaluate")
    wait_for_status(page, "^Measured")
    page.wait_for_function(
        "document.querySelector('#results').innerText.includes('calibrated on mine.txt')"
    )
    choose(page, "#text", "Shipped")
    page.click("#score")
    wait_for_status(page, "^Scored on shipped")
    page.wait_for_function(
        "document.querySelector('#packing').innerText.includes('50 documents of the shipped text')"
    )


def test_sensitivity_is_measured_for_one_level(world, page, tiny):
    load_model(page, tiny)
    wait_for_status(page, "is loaded and scored")
    assert "Sensitivity at these bits: not measured" in page.inner_text("#scored")
    page.click("#measure")
    wait_for_status(page, "^Sensitivity at 2 bits is measured")
    page.wait_for_selector("#bar [data-scorer=sensitivity] .cell")
    assert "Sensitivity at 2 bits: " in page.inner_text("#scored")
    pick(page, "#ordering", "Sensitivity")
    page.wait_for_function("document.querySelector('#bar .by').innerText.includes('Sensitivity')")
    choose(page, "#levels", "8 / 4")
    page.wait_for_function("!document.querySelector('#bar [data-scorer=sensitivity]')")
    page.wait_for_function("document.querySelector('#ordering input').value === 'LIM'")
    choose(page, "#levels", "8 / 2")
    page.wait_for_selector("#bar [data-scorer=sensitivity] .cell")
