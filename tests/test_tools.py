"""tools/: how the demo model is trained and measured, and that what ships is what the card says."""

import json
import lzma
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from tests.engine import tiny
from tools import measure_demo_model as measure
from tools import train_demo_model as training

CONTEXT = 32


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Two small files of made-up books."""
    chance = random.Random(0)
    words = ["the", "a", "old", "grey", "sea", "ship", "king", "dog", "went", "came", "by", "sat"]
    for name, count in (("train", 30), ("valid", 20)):
        with lzma.open(tmp_path / f"books.{name}.txt.xz", "wt", encoding="utf-8") as file:
            for _ in range(count):
                file.write(" ".join(chance.choices(words, k=400)) + ".\n\n“Yes”, he said.\n")
                file.write("<|endoftext|>\n")
    return tmp_path


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A model that trains in a second, without a compiler; signals as they were afterwards."""
    shape = {**training.SHAPE, "vocab_size": 300, "hidden_size": 32, "intermediate_size": 48}
    shape |= {"num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": CONTEXT}
    monkeypatch.setattr(training, "SHAPE", shape)
    monkeypatch.setattr(training, "CONTEXT", CONTEXT)
    monkeypatch.setattr(training, "HELD_OUT", 8)
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    with torch.compiler.set_stance("force_eager"):
        yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def train(corpus: Path, run: Path, *more: str) -> None:
    given = [
        str(corpus),
        str(run),
        "--batch",
        "4",
        "--rows",
        "2",
        "--every",
        "5",
        "--device",
        "cpu",
    ]
    training.train(training.arguments([*given, "--tokens", str(4 * CONTEXT * 12), *more]))


def weights(run: Path) -> dict[str, torch.Tensor]:
    return AutoModelForCausalLM.from_pretrained(run / "model").state_dict()


def test_attention_in_blocks_is_causal_attention() -> None:
    torch.manual_seed(0)
    tokens = 2 * training.QUERIES + 17
    query, key, value = torch.randn(3, 2, 4, tokens, 16, dtype=torch.float64).unbind()
    got, _ = training.causal_attention(None, query, key, value, None, scaling=0.25)
    expected = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=0.25)
    torch.testing.assert_close(got, expected.transpose(1, 2), rtol=1e-5, atol=1e-6)


def test_an_epoch_takes_every_window_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "CONTEXT", CONTEXT)
    tokens = np.arange(50 * CONTEXT, dtype=np.uint16)
    steps = (len(tokens) - 1 - CONTEXT) // CONTEXT // 4
    epochs = [
        [training.batch(tokens, e * steps + s, 4, seed=1) for s in range(steps)] for e in range(2)
    ]
    for epoch in epochs:
        rows = torch.cat(epoch)
        assert rows.shape == (steps * 4, CONTEXT + 1)
        assert (rows.diff(dim=1) == 1).all()
        assert (rows[:, 0].sort().values.diff() == CONTEXT).all()
    assert not torch.equal(epochs[0][0], epochs[1][0])
    assert torch.equal(epochs[1][3], training.batch(tokens, steps + 3, 4, seed=1))


def test_the_learning_rate_rises_and_falls_to_nearly_nothing() -> None:
    rates = [training.learning_rate(step, 1000) for step in range(1000)]
    assert rates[0] == 0.05 and max(rates) == rates[19] == 1
    assert rates[19:] == sorted(rates[19:], reverse=True)
    assert 0 < rates[-1] < 0.002


def test_a_run_that_was_ended_goes_on_to_the_same_weights(
    corpus: Path, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(corpus, corpus / "whole")
    batch = training.batch

    def ending(tokens: np.ndarray, step: int, *rest: int) -> torch.Tensor:
        if step == 7:
            os.kill(os.getpid(), signal.SIGTERM)
        return batch(tokens, step, *rest)

    monkeypatch.setattr(training, "batch", ending)
    with pytest.raises(SystemExit, match="Ended at step 8 of 12"):
        train(corpus, corpus / "ended")
    assert not (corpus / "ended/model").exists()
    monkeypatch.setattr(training, "batch", batch)
    train(corpus, corpus / "ended")
    whole, ended = weights(corpus / "whole"), weights(corpus / "ended")
    assert all(torch.equal(whole[name], ended[name]) for name in whole)

    def curve(run: str) -> list[list[str]]:
        lines = (corpus / run / "log.csv").read_text().splitlines()
        return [line.split(",")[:2] + line.split(",")[3:5] for line in lines]

    assert curve("ended") == curve("whole")
    assert [line[0] for line in curve("whole")] == ["step", "5", "10", "12"]


def test_another_run_does_not_go_on_from_this_checkpoint(corpus: Path, small: None) -> None:
    train(corpus, corpus / "run")
    with pytest.raises(SystemExit, match="another run"):
        train(corpus, corpus / "run", "--seed", "1")


def test_it_learns_and_starts_from_a_model(corpus: Path, small: None) -> None:
    train(corpus, corpus / "first", "--tokens", str(4 * CONTEXT * 40))
    train(corpus, corpus / "second", "--start", str(corpus / "first/model"))
    first, second = (
        [float(line.split(",")[3]) for line in (corpus / run / "log.csv").read_text().split()[1:]]
        for run in ("first", "second")
    )
    assert first[-1] < 0.8 * np.log(300)
    assert second[-1] < first[-1]
    tokenizers = [AutoTokenizer.from_pretrained(corpus / r / "model") for r in ("first", "second")]
    assert tokenizers[0].get_vocab() == tokenizers[1].get_vocab()


def test_the_held_out_loss_is_the_models_own(corpus: Path, small: None) -> None:
    train(corpus, corpus / "run")
    model = AutoModelForCausalLM.from_pretrained(corpus / "run/model", dtype=torch.float32)
    valid = np.fromfile(corpus / "run/valid.u16", dtype=np.uint16)[: 8 * CONTEXT + 1]
    ids = torch.from_numpy(valid.astype(np.int64))
    rows = torch.stack([ids[i * CONTEXT :][: CONTEXT + 1] for i in range(8)])
    with torch.no_grad():
        logits = model(rows[:, :-1]).logits
    expected = F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten()).item()
    last = (corpus / "run/log.csv").read_text().splitlines()[-1]
    assert float(last.split(",")[3]) == pytest.approx(expected, abs=0.02)  # bfloat16 in training


@pytest.fixture(scope="module")
def unlearned() -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """A model of random weights with the demo model's tokenizer."""
    torch.manual_seed(0)
    config = LlamaConfig(**{**tiny.BASE, "max_position_embeddings": 512})
    return LlamaForCausalLM(config).eval(), AutoTokenizer.from_pretrained(tiny.DEMO)


def test_held_out_books_are_measured_as_the_model_itself_would(
    corpus: Path, unlearned: tuple[LlamaForCausalLM, PreTrainedTokenizerFast]
) -> None:
    model, tokenizer = unlearned
    path = corpus / "books.valid.txt.xz"
    written = "\n\n".join(training.books(path))
    tokens, characters = measure.cross_entropy(model, tokenizer, path)
    ids = tokenizer(written, return_tensors="pt", verbose=False).input_ids[0]
    windows = ids[: len(ids) // 511 * 511].view(-1, 511)
    with torch.no_grad():
        rows = torch.cat([torch.zeros(len(windows), 1, dtype=torch.long), windows], 1)
        expected = model(rows, labels=rows).loss.item()
    assert len(windows) > 10
    assert tokens.value == pytest.approx(expected) and 0 < tokens.error < 0.1
    per_character = len(ids) / len(written)
    assert characters.value == pytest.approx(tokens.value * per_character, rel=0.01)


def test_blimp_is_measured_by_the_likelihood_of_sentences(
    tmp_path: Path, unlearned: tuple[LlamaForCausalLM, PreTrainedTokenizerFast]
) -> None:
    model, tokenizer = unlearned
    text = (tiny.DEMO.parent / "tasks/minimal_pairs.jsonl").read_text(encoding="utf-8").splitlines()
    (tmp_path / "first.jsonl").write_text("\n".join(text[:25]), encoding="utf-8")
    (tmp_path / "second.jsonl").write_text("\n".join(text[25:40]), encoding="utf-8")

    def likelihood(sentence: str) -> float:
        row = torch.tensor([[tokenizer.eos_token_id, *tokenizer(" " + sentence).input_ids]])
        with torch.no_grad():
            logs = model(row).logits[0, :-1].log_softmax(-1)
        return logs.gather(1, row[0, 1:, None]).sum().item()

    pairs = [json.loads(line) for line in text[:40]]
    right = sum(likelihood(p["sentence_good"]) > likelihood(p["sentence_bad"]) for p in pairs)
    rows = measure.accuracies(model, tokenizer, tmp_path)
    assert rows[0].what == "BLiMP, accuracy (40 pairs of 2 sets)"
    assert rows[0].value == pytest.approx(right / 40)
    assert {row.what.partition(",")[0] for row in rows[1:]} == {
        "`endings`",
        "`last_word`",
        "`minimal_pairs`",
    }


def test_the_shipped_model_fits_a_repository() -> None:
    config = json.loads((tiny.DEMO / "config.json").read_text())
    assert config["model_type"] == "llama" and config["tie_word_embeddings"]
    assert 24 <= config["num_hidden_layers"] <= 32
    assert config["hidden_size"] % 128 == 0 and config["dtype"] == "bfloat16"
    sizes = [path.stat().st_size for path in tiny.DEMO.iterdir()]
    assert max(sizes) < 10e6 and sum(sizes) < 60e6
    model = AutoModelForCausalLM.from_pretrained(tiny.DEMO)
    assert 20e6 <= sum(p.numel() for p in model.parameters()) <= 30e6
