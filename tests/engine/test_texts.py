"""Own texts in any script and encoding: what a document is, and what is said to be left out."""

from __future__ import annotations

import codecs
import json
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny

from lwq_ui.core.errors import UserError
from lwq_ui.core.run import Run
from lwq_ui.core.settings import Settings
from lwq_ui.engine import jobs, texts
from lwq_ui.engine.banks.bank import Bank
from lwq_ui.engine.models.loading import LoadedModel
from lwq_ui.engine.sweeps.sweep import Sweep
from lwq_ui.engine.tasks import task_named
from lwq_ui.engine.texts import (
    MAX_DOCUMENTS,
    MAX_TOKENS,
    Text,
    calibration_text,
    cut_short,
    shipped_calibration,
    tokenize,
)

SETTINGS = Settings(cache=Path("unused"))
ENGLISH = "The old man opened the door quietly and looked at the river behind his house. "
RUSSIAN = "Старик тихо открыл дверь и посмотрел на реку за своим домом. "
CHINESE = "老人轻轻地打开了门，望着屋后的河流。"
JAPANESE = "老人は静かにドアを開け、家の裏の川を眺めた。"
THAI = "ชายชราเปิดประตูเงียบๆแล้วมองไปที่แม่น้ำหลังบ้าน"
HINDI = "बूढ़े आदमी ने चुपचाप दरवाजा खोला और घर के पीछे नदी की ओर देखा। "

SHAPES = {
    "English, paragraphs": (ENGLISH * 4 + "\n\n") * 450,
    "English, one line": ENGLISH * 1500,
    "Russian, lines": (RUSSIAN * 3 + "\n") * 500,
    "Chinese, paragraphs": (CHINESE * 10 + "\n\n") * 300,
    "Chinese, one line": CHINESE * 3000,
    "Japanese, lines": (JAPANESE * 3 + "\n") * 800,
    "Thai, one line": THAI * 1200,
    "Hindi, one line": HINDI * 1000,
    "words one a line": "\n".join(random.Random(0).choices(ENGLISH.split(), k=60_000)),
    "no space at all": "abcdefghij" * 20_000,
    "digits": "7 " * 60_000,
    "carriage returns": (ENGLISH * 4 + "\r\n\r\n") * 450,
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_long_text_of_any_script_makes_50_documents_and_loses_nothing(
    shape: str, tmp_path: Path
) -> None:
    path = tmp_path / "own.txt"
    path.write_text(SHAPES[shape], encoding="utf-8", newline="")
    text = calibration_text(str(path), SETTINGS)
    assert len(text.documents) == MAX_DOCUMENTS
    whole = "".join(SHAPES[shape].split())
    used = "".join("".join(text.documents).split())
    assert whole.startswith(used)
    assert text.unused_bytes >= len(whole[len(used) :].encode()) > 0
    for document in text.documents:
        assert len(document.split()) <= texts.WORDS
        assert len(document) <= texts.WORDS * texts.WORD
        assert len(document.encode()) >= texts.WORDS * 2 / 2  # at least half of what it may be


def test_every_character_of_a_text_that_is_not_too_long_is_in_a_document(tmp_path: Path) -> None:
    content = (CHINESE * 7 + "\n") * 20 + (ENGLISH * 9 + "\n\n") * 10 + THAI * 40
    path = tmp_path / "own.txt"
    path.write_text(content, encoding="utf-8")
    text = calibration_text(str(path), SETTINGS)
    assert "".join("".join(text.documents).split()) == "".join(content.split())
    assert text.unused_bytes == 0
    assert 10 < len(text.documents) < MAX_DOCUMENTS


def test_a_document_ends_at_the_best_boundary(tmp_path: Path) -> None:
    def ends(content: str) -> list[str]:
        path = tmp_path / "own.txt"
        path.write_text(content, encoding="utf-8")
        return [d[-20:] for d in calibration_text(str(path), SETTINGS).documents]

    paragraph = ENGLISH * 5 + "End of it"
    assert set(ends((paragraph + "\n\n") * 30)) == {paragraph[-20:]}
    line = ENGLISH * 5 + "end of a line"
    assert set(ends((line + "\n") * 30)) == {line[-20:]}
    assert {e[-1] for e in ends(CHINESE * 300)} == {"。"}
    assert {e[-1] for e in ends(ENGLISH * 300)} == {"."}
    assert {e[-5:] for e in ends("seven " * 3000)} == {"seven"}


def test_a_chinese_text_is_scored_on_all_documents(
    loaded_of: Callable[..., LoadedModel], tmp_path: Path, run: Run
) -> None:
    """On commit 60eb633: 1 document, 512 tokens."""
    loaded = loaded_of("llama")
    path = tmp_path / "own.txt"
    path.write_text(CHINESE * 60, encoding="utf-8")
    text = calibration_text(str(path), SETTINGS)
    scores = jobs.score(loaded, ["lim"], text, run)["lim"]
    assert scores.documents == len(text.documents) > 1
    assert scores.tokens == 128 * scores.documents  # the tiny model has 128 positions
    assert scores.cut == scores.documents
    assert scores.text_used.endswith(f"({scores.documents} cut short)")
    with path.open("a", encoding="utf-8") as file:  # of a known text only the end is new
        file.write(CHINESE * 3000)
    longer = calibration_text(str(path), SETTINGS)
    assert longer.unused_bytes > 0
    used = jobs.score(loaded, ["lim"], longer, run)["lim"].text_used
    assert f"{longer.unused_bytes:,} bytes of the text not used" in used


def test_the_shipped_text_is_what_the_shipped_scores_were_computed_on() -> None:
    text = shipped_calibration(SETTINGS)
    assert len(text.documents) == MAX_DOCUMENTS and text.unused_bytes == 0
    assert text.digest.startswith("53e95867791e0269")


@pytest.mark.parametrize("folder", [False, True])
def test_a_byte_order_mark_is_no_text(folder: bool, tmp_path: Path) -> None:
    documents = []
    for name, start in (("plain", b""), ("marked", codecs.BOM_UTF8)):
        path = tmp_path / name / "own.txt"
        path.parent.mkdir()
        path.write_bytes(start + (ENGLISH + "\r\n\f" + CHINESE).encode())
        chosen = path.parent if folder else path
        documents.append(calibration_text(str(chosen), SETTINGS).documents)
    assert documents[0] == documents[1]
    assert documents[0][0].startswith("The") and "\r" not in documents[0][0]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1"])
def test_another_encoding_is_refused(encoding: str, tmp_path: Path) -> None:
    """UTF-16 without a byte order mark is valid UTF-8 with a NUL after every letter."""
    path = tmp_path / "own.txt"
    path.write_bytes((ENGLISH + "é").encode(encoding))
    with pytest.raises(UserError, match=r"'own.txt' is not UTF-8 text."):
        calibration_text(str(path), SETTINGS)


@pytest.mark.parametrize("choice", ["~no-such-user/x.txt", "a\0b", "/dev/null", "nowhere.txt"])
def test_what_is_no_file_is_said(choice: str) -> None:
    with pytest.raises(UserError, match="There is no text file"):
        calibration_text(choice, SETTINGS)


def test_a_huge_file_is_read_in_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "MOST_READ", 200_000)
    path = tmp_path / "own.txt"
    path.write_text(ENGLISH * 20_000, encoding="utf-8")
    text = calibration_text(str(path), SETTINGS)
    assert len(text.documents) == MAX_DOCUMENTS
    used = sum(len(d) for d in text.documents)
    assert text.unused_bytes == pytest.approx(path.stat().st_size - used, abs=MAX_DOCUMENTS * 2)


def test_a_folder_of_long_files_says_what_it_leaves_out(tmp_path: Path) -> None:
    for i in range(52):
        (tmp_path / f"{i:02}.txt").write_text(ENGLISH * 300, encoding="utf-8")
    text = calibration_text(str(tmp_path), SETTINGS)
    size = len(ENGLISH) * 300
    assert len(text.documents) == MAX_DOCUMENTS
    assert text.unused_bytes == 52 * size - MAX_DOCUMENTS * texts.DOCUMENT_READ


def with_token_beyond(loaded: LoadedModel, tmp_path: Path) -> LoadedModel:
    """The same model in a folder whose tokenizer has a token [PAD] more than the model."""
    folder = tiny.save(loaded.model, tmp_path / "model")
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    added = {**tokenizer["added_tokens"][0], "id": tiny.VOCABULARY, "content": "[PAD]"}
    tokenizer["added_tokens"].append(added)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    return tiny.load(folder)


def test_a_token_without_an_embedding_is_named(
    loaded_of: Callable[..., LoadedModel], tmp_path: Path
) -> None:
    loaded = with_token_beyond(loaded_of("llama"), tmp_path)
    fine = tokenize(loaded, Text("own", (ENGLISH,)))
    assert len(fine) == 1
    with pytest.raises(UserError) as refused:
        tokenize(loaded, Text("own", (ENGLISH + "[PAD]",)))
    for part in (loaded.info.model_id, "token 4096 ('[PAD]')", "4096 tokens only"):
        assert part in str(refused.value)


def test_documents_cut_at_512_tokens_are_counted(loaded_of: Callable[..., LoadedModel]) -> None:
    loaded = loaded_of("llama", max_position_embeddings=1024)
    long = ENGLISH * 60
    assert cut_short(loaded, Text("own", (long, ENGLISH, long))) == 2
    assert [len(s) for s in tokenize(loaded, Text("own", (long,)))] == [MAX_TOKENS]


@pytest.mark.parametrize(
    "content, said", [("", "holds no text"), (" \n\f\n", "holds no text"), ("a", "too short")]
)
def test_a_text_of_fewer_than_two_tokens(
    content: str, said: str, tmp_path: Path, loaded_of: Callable[..., LoadedModel]
) -> None:
    path = tmp_path / "own.txt"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=said):
        tokenize(loaded_of("llama"), calibration_text(str(path), SETTINGS))


def test_a_tokenizer_without_two_tokens_for_a_text_is_named(
    loaded_of: Callable[..., LoadedModel], tmp_path: Path
) -> None:
    """The text is long enough: the tokenizer makes one unknown token of all of it."""
    folder = tiny.save(loaded_of("llama").model, tmp_path / "model")
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    words = {"type": "WordLevel", "vocab": {"<unknown>": 0}, "unk_token": "<unknown>"}
    tokenizer |= {"model": words, "pre_tokenizer": None, "post_processor": None, "normalizer": None}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    with pytest.raises(UserError, match=r"tokenizer of '.*model' makes no two tokens"):
        tokenize(tiny.load(folder), Text("own", (ENGLISH,)))


def test_no_name_is_not_the_present_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "other.txt").write_text(ENGLISH, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="There is no text file ''"):
        calibration_text("", SETTINGS)
    assert calibration_text(".", SETTINGS).name == str(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes with names are Unix's")
def test_a_pipe_in_a_folder_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(UserError, match=r"'.*pipe\.txt' is neither a file nor a folder"):
        calibration_text(str(tmp_path), SETTINGS)


def test_a_limit_of_one_token_is_not_the_texts_fault(loaded_of: Callable[..., LoadedModel]) -> None:
    text = Text("own", (ENGLISH,))
    with pytest.raises(UserError, match="choose 2 tokens at least"):
        tokenize(loaded_of("llama"), text, most=1)
    with pytest.raises(UserError, match="takes one token at a time"):
        tokenize(loaded_of("llama", max_position_embeddings=1), text)


def test_a_tokenizer_that_panics_is_one_sentence(
    loaded_of: Callable[..., LoadedModel], tmp_path: Path
) -> None:
    """The Rust library's PanicException is no Exception."""
    folder = tiny.save(loaded_of("llama").model, tmp_path / "model")
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    unknown = {"SpecialToken": {"id": "<unknown>", "type_id": 0}}
    tokenizer["post_processor"]["single"].insert(0, unknown)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    loaded = tiny.load(folder)
    with pytest.raises(UserError, match=r"tokenizer of .* fails on a text .* choose another copy"):
        tokenize(loaded, Text("own", (ENGLISH,)))
    with pytest.raises(UserError, match=r"tokenizer of .* fails on a text"):
        sweep = Sweep(Bank(loaded, tiny.QUANTO), [(4,) * 4], tiny.run())
        task_named("endings", SETTINGS).measure(sweep, 2)
