"""What is lost can be read: the original's text beside three splits', from the cache or written."""

from __future__ import annotations

import pytest

from lwq_ui.core.memory import UNTOUCHED
from lwq_ui.core.writing import Prompt, first_difference
from lwq_ui.engine import records
from lwq_ui.engine.quantizers import quantizer_named

pytest.importorskip("gradio")

from page import (
    RANGE,
    WAIT,
    open_tab,
    read_split,
    read_texts,
    settle,
    to_position,
    wait_for_job,
    wait_for_status,
)

pytestmark = pytest.mark.browser
N = 24
USUAL = Prompt()
CONTRAST = """mark => {
  const style = getComputedStyle(mark);
  const light = (colour) => colour.match(/[\\d.]+/g).slice(0, 3)
    .map(c => c / 255).map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const [a, b] = [style.color, style.backgroundColor].map(light).sort((x, y) => y - x);
  return [(a + 0.05) / (b + 0.05), style.textDecorationLine];
}"""


def ask(page, prompt: str | None = None, seed: int | None = None, tokens: int | None = None):
    fields = {"#prompt textarea": prompt, "#write-seed input": seed}
    fields["#length input[type=number]"] = tokens
    for place, value in fields.items():
        if value is not None:
            page.locator(place).fill(str(value))
            page.locator(place).press("Tab")
    settle(page)


def write(page) -> list[str]:
    page.click("#write")
    wait_for_job(page, ".")
    wait_for_status(page, "^Written")
    return read_texts(page)


def read_titles(page) -> list[str]:
    return page.locator("#texts h4").all_inner_texts()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_usual_texts_stand_there_at_once(world, visit, scheme):
    page = visit(color_scheme=scheme)
    open_tab(page, "Write something")
    assert read_titles(page) == ["Original", "All 4-bit", "3.00 bits, the slider's", "All 2-bit"]
    texts = read_texts(page)
    splits = [(UNTOUCHED,) * N, (4,) * N, read_split(page), (2,) * N]
    quanto, shipped = quantizer_named("quanto"), world.page.settings.shipped
    for split, text in zip(splits, texts, strict=True):
        key = records.text_key(world.info, split, quanto, USUAL)
        stored = records.written_text(world.info, split, quanto, USUAL, world.page.store)
        assert (shipped / key.path).is_file() and text == USUAL.text + stored.text
    original = texts[0][len(USUAL.text) :]
    marks = page.locator("#texts mark")
    for text, mark in zip(texts[1:], marks.all(), strict=True):
        written = text[len(USUAL.text) :]
        assert mark.text_content() == written[first_difference(original, written) :] != ""
        contrast, line = mark.evaluate(CONTRAST)
        assert contrast >= 4.5 and line == "underline"
    assert "first word that differs" in page.inner_text("#texts .tinted")


def test_texts_grow_are_kept_and_the_same_seed_writes_the_same(world, visit):
    page = visit()
    open_tab(page, "Write something")
    ask(page, seed=7, tokens=40)
    assert read_texts(page) == ["Not written yet."] * 4
    page.click("#write")
    page.wait_for_function(  # it grows while the job still runs
        "n => document.querySelector('#status progress') && "
        "document.querySelector('#text-0 p').textContent.length > n + 20",
        arg=len(USUAL.text),
        timeout=WAIT,
    )
    early = read_texts(page)[0]
    wait_for_status(page, "^Written")
    first = read_texts(page)
    assert first[0].startswith(early[:-8]) and len(set(first)) == 4
    assert all(text.startswith(USUAL.text) for text in first)

    ask(page, seed=8)
    assert read_texts(page) == ["Not written yet."] * 4
    assert all(a != b for a, b in zip(first, write(page), strict=True))
    ask(page, seed=7)
    assert read_texts(page) == first  # nothing was pressed

    page.locator(RANGE).press("ArrowRight")
    page.wait_for_function("document.querySelectorAll('#texts h4')[2].innerText.startsWith('3.08')")
    assert read_texts(page) == [*first[:2], "Not written yet.", first[3]]
    to_position(page, 0)
    page.wait_for_function("document.querySelectorAll('#texts h4')[1].innerText === 'All 8-bit'")
    titles = read_titles(page)
    assert titles == ["Original", "All 8-bit", "All 4-bit", "All 2-bit, the slider's"]

    again = visit()  # another browser, at the usual split
    open_tab(again, "Write something")
    ask(again, seed=7, tokens=40)
    assert read_texts(again) == first


def test_what_was_written_when_it_is_stopped_stays(page):
    open_tab(page, "Write something")
    ask(page, prompt='<b>Stop</b> & "go"', tokens=400)
    page.click("#write")
    page.wait_for_function(
        "document.querySelector('#text-0 p').textContent.length > 60", timeout=WAIT
    )
    page.click("#stop")
    wait_for_status(page, "^Stopped")
    original, *others = read_texts(page)
    assert original.startswith('<b>Stop</b> & "go"') and len(original) > 60
    assert others == ["Not written yet."] * 3
    assert page.locator("#texts b").count() == 0
