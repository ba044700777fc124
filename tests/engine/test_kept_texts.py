"""Quantizers that calibrate on the user's own text: their names, keys, banks and configs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch

from lwq_ui.core.choice import Choice
from lwq_ui.core.errors import UserError
from lwq_ui.core.run import Run
from lwq_ui.core.settings import Settings
from lwq_ui.core.store import Store
from lwq_ui.engine import jobs, kept_texts, records
from lwq_ui.engine.banks.files import bank_folder
from lwq_ui.engine.banks.packing_cost import why_not_packed
from lwq_ui.engine.configs import quantizer_of, read_config
from lwq_ui.engine.exports import CONFIG_EXPORTS
from lwq_ui.engine.kept_texts import keep_text, kept_text
from lwq_ui.engine.models.loading import LoadedModel
from lwq_ui.engine.quantizers import Quantizer, quantizer_named
from lwq_ui.engine.quantizers.spqr_calibration import pack_layers
from lwq_ui.engine.tasks import task_named
from lwq_ui.engine.texts import Text, shipped_calibration, tokenize

SETTINGS = Settings(cache=Path("unused"))
SHIPPED = shipped_calibration(SETTINGS)
OWN = Text("my own.txt", tuple(d[300:900] for d in SHIPPED.documents[:4]))
CHAT = replace(OWN, chat=True)
HIGH, LOW = 3.945, 3.657
SPLIT = (HIGH, LOW, HIGH, LOW)
SMALL = "spqr:documents=3,tokens=24"
FIFTY = "53e95867791e02694b8f9ac49f0a01c93e9cea26903f68afb0a88bc48734a4ab"
SIXTEEN = "ba006c8f5553ef59691144d59b42e1fe1a7524b49fa7e0590f77011396d17880"


@pytest.fixture
def loaded(folder_of: Callable[..., Path]) -> LoadedModel:
    return tiny.load(folder_of("llama"))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return replace(tiny.run(), store=Store(tmp_path / "cache"))


@pytest.fixture(autouse=True)
def another_process() -> Iterator[Callable[[], None]]:
    """another_process() forgets the texts that this one was given."""
    kept_texts._given.clear()
    yield kept_texts._given.clear


def test_the_shipped_text_as_turns_is_at_hand_in_any_cache(run: Run) -> None:
    turns = replace(SHIPPED, chat=True)
    reference = keep_text(turns, run.store)
    assert reference.startswith("shipped calibration text as chat turns~50~")
    assert not run.store.root.exists()
    assert kept_text(reference, run.store) == turns
    chosen, plain = quantizer_named(f"spqr:documents=3,text={reference}"), quantizer_named("spqr")
    assert chosen.missing_text(run.store) == ""
    assert chosen != plain and chosen.to_json()["options"]["documents"] == 3
    assert chosen.to_json()["options"]["text"] != plain.to_json()["options"]["text"]


def test_the_shipped_text_leaves_names_and_keys_as_they_were(run: Run) -> None:
    reference = keep_text(SHIPPED, run.store)
    assert reference == "" and not run.store.root.exists()
    for name, text, documents, tokens in (
        ("gptq", FIFTY, 50, 512),
        ("gptq:group=32,documents=16,tokens=256", SIXTEEN, 16, 256),
        ("spqr", FIFTY, 50, 512),
    ):
        chosen = quantizer_named(name).on_text(reference)
        options = chosen.to_json()["options"]
        assert chosen.to_json()["name"] == chosen.name == name and "text" not in chosen.title
        assert [options[k] for k in ("text", "documents", "tokens")] == [text, documents, tokens]
    expected = {"text": FIFTY, "documents": 50, "tokens": 512}
    assert quantizer_named("spqr").to_json() == {
        "name": "spqr",
        "group_size": 16,
        "options": expected,
    }
    assert quantizer_named("quanto").on_text("a~1~0123456789abcdef").name == "quanto"


def test_a_reference_names_the_text_its_documents_and_its_digest(run: Run) -> None:
    reference = keep_text(OWN, run.store)
    assert reference == f"my own.txt~4~{OWN.digest[:16]}"
    on = quantizer_named("gptq:group=32").on_text(reference)
    assert on.name == f"gptq:group=32,text={reference}" and on != quantizer_named("gptq:group=32")
    assert on.title == "GPTQ, groups of 32, calibrated on my own.txt"
    assert quantizer_named(f"gptq:text={reference},group=32") == on == quantizer_named(on.name)
    assert on.to_json()["options"]["text"] == OWN.digest[:16]
    assert on.to_json()["options"]["documents"] == 4  # of the 50 that it would take
    assert on.on_text("").name == "gptq:group=32"
    assert keep_text(CHAT, run.store) != reference
    for name in ("a,b=c:d~e (1).txt", "x" * 200, "\udcff", ",", "tab\t\n"):
        odd = keep_text(replace(OWN, name=name), run.store)
        quantizer = quantizer_named("spqr").on_text(odd)
        assert quantizer_named(quantizer.name) == quantizer
        quantizer.name.encode()


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("gptq:text=my.txt", "text=my.txt is not possible for GPTQ: it takes the reference"),
        ("spqr:text=a~0~0123456789abcdef", "takes the reference"),
        ("gptq:text=a~1~0123456789abcdef,text=b~1~0123456789abcdef", "two values of text"),
        ("quanto:text=a~1~0123456789abcdef", "has no option 'text'"),
    ],
)
def test_what_is_no_reference_is_said(name: str, why: str) -> None:
    with pytest.raises(UserError, match=why):
        quantizer_named(name)


def test_a_text_is_kept_under_its_digest(run: Run, another_process: Callable[[], None]) -> None:
    reference = keep_text(replace(CHAT, unused_bytes=9), run.store)
    another_process()
    text = kept_text(reference, run.store)
    assert text is not None and (text.digest, text.chat) == (CHAT.digest, True)
    assert text.documents == OWN.documents
    assert kept_text(reference, Store(run.store.root / "elsewhere")) is None
    (path,) = (run.store.root / "texts").rglob("*.json")
    path.write_text(path.read_text().replace("the", "hte"))  # its checksum says so
    another_process()
    assert kept_text(reference, run.store) is None


def test_a_cache_that_cannot_be_written_keeps_it_for_the_process(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = Store(tmp_path / "file" / "cache")
    assert kept_text(keep_text(OWN, store), store) == OWN


def test_no_more_texts_are_in_memory_than_there_is_room_for(run: Run) -> None:
    texts = [Text("x", (f"Document {i}.",)) for i in range(kept_texts.MOST_GIVEN + 2)]
    references = [keep_text(text, run.store) for text in texts]
    assert len(kept_texts._given) == kept_texts.MOST_GIVEN
    assert [kept_text(reference, run.store) for reference in references] == texts  # from the disk
    assert len(kept_texts._given) == kept_texts.MOST_GIVEN


Packed = dict[tuple[int, str, str], torch.Tensor]  # by layer, weight and part


def packed(quantizer: Quantizer, loaded: LoadedModel, run: Run) -> Packed:
    bank = jobs.bank_of(loaded, quantizer, run.store)
    bank.fill([SPLIT], run)
    return {
        (i, name, part): tensor
        for i, level in enumerate(SPLIT)
        for name, weight in bank.packed(i, level, run).items()
        for part, tensor in quantizer.tensors(weight).items()
    }


def test_layers_are_packed_by_that_text_and_kept_apart(loaded: LoadedModel, run: Run) -> None:
    shipped = quantizer_named(SMALL)
    own = shipped.on_text(keep_text(OWN, run.store))
    task = task_named("endings", SETTINGS)
    places = [
        {
            bank_folder(loaded.info, q, run.store),
            records.journal_folder(loaded.info, task, q, run.store),
            records.evaluation_key(loaded.info, task, SPLIT, q, 2).path,
            records.scores_key(loaded.info, "sensitivity", OWN, None, q, LOW).path,
        }
        for q in (shipped, own, shipped.on_text(keep_text(CHAT, run.store)))
    ]
    assert len(set.union(*places)) == 12
    ours, theirs = packed(own, loaded, run), packed(shipped, loaded, run)
    assert any(not torch.equal(theirs[place], tensor) for place, tensor in ours.items())
    sequences = tokenize(loaded, replace(OWN, documents=OWN.documents[:3]), 24)
    with closing(pack_layers(loaded, list(enumerate(SPLIT)), sequences, run, None)) as layers:
        direct = {
            (i, name, part): tensor
            for i, _, weights in layers
            for name, weight in weights.items()
            for part, tensor in weight.tensors.items()
        }
    assert direct.keys() == ours.keys()
    assert all(torch.equal(direct[place], tensor) for place, tensor in ours.items())


def test_results_name_the_text_and_do_not_mix(loaded: LoadedModel, run: Run) -> None:
    shipped = quantizer_named(SMALL)
    own = shipped.on_text(keep_text(OWN, run.store))
    for quantizer, computed in ((shipped, 1), (own, 1), (own, 0)):
        measurement = jobs.Measurement([SPLIT], quantizer, ["endings"], 3)
        done = jobs.evaluate(loaded, measurement, run)
        assert done.computed == computed
        assert [e.quantizer for e in done.evaluations] == [quantizer.name]
    assert "my own.txt" in own.name


def test_a_config_goes_round_and_says_where_its_text_is_missing(
    loaded: LoadedModel, run: Run, tmp_path: Path, another_process: Callable[[], None]
) -> None:
    own = quantizer_named(SMALL).on_text(keep_text(OWN, run.store))
    choice = Choice(loaded.info, own, (HIGH, LOW), "first")
    config = choice.with_budget(choice.cost.total((HIGH, HIGH, LOW, LOW))).config()
    path = tmp_path / "config.json"
    path.write_text(CONFIG_EXPORTS["json"].text(config))
    again = read_config(path)
    assert quantizer_of(again) == own and again.quantizer == config.quantizer
    assert again.quantizer["options"]["text"] == OWN.digest[:16]

    another_process()
    elsewhere = replace(run, store=Store(tmp_path / "elsewhere"))
    said = "The text 'my own.txt', which SpQR-like .* calibrates on, is not in this cache: name its"
    measurement = jobs.Measurement([config.bits_per_layer], quantizer_of(again), ["endings"], 2)
    with pytest.raises(UserError, match=said):
        jobs.evaluate(loaded, measurement, elsewhere)
    loaded.banks.clear()
    assert said.split(",")[0] in why_not_packed(loaded.info, own, [SPLIT], elsewhere.store)
    packed(own, loaded, run)  # the file of the user may be gone by now
    (run.store.root / "texts").rename(run.store.root / "gone")
    another_process()
    loaded.banks.clear()
    assert why_not_packed(loaded.info, own, [SPLIT], run.store) == ""
    packed(own, loaded, run)  # all that is packed needs no text
    loaded.banks.clear()
    keep_text(replace(OWN, name="other name.txt"), elsewhere.store)
    packed(own, loaded, elsewhere)
