"""The figures of a text are those of the text alone, whatever is computed with it or before it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from lm_eval.api.instance import Instance

from lwq_ui.engine.banks.bank import Bank
from lwq_ui.engine.batches.request import Request
from lwq_ui.engine.models.loading import LoadedModel
from lwq_ui.engine.models.prefix_sharing import leak
from lwq_ui.engine.models.walk import LayerWalk
from lwq_ui.engine.scorers import pass_scores
from lwq_ui.engine.sweeps.sweep import Sweep
from lwq_ui.engine.tasks.lm_eval_model import SweepLM

SMALL = {"num_hidden_layers": 2, "max_position_embeddings": 128}
LONG = {
    **SMALL,
    "original_max_position_embeddings": 64,
    "rope_scaling": {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0] * 8,
        "long_factor": [4.0] * 8,
        "original_max_position_embeddings": 64,
    },
}
DYNAMIC = {
    **SMALL,
    "max_position_embeddings": 40,
    "rope_scaling": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0},
}
LENGTHS = (66, 63, 60, 75, 70, 64, 65, 30, 75)
STATES: dict[str, dict[str, Any]] = {
    "mamba2": {
        "vocab_size": tiny.VOCABULARY,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "state_size": 8,
        "num_heads": 8,
        "head_dim": 16,
        "n_groups": 1,
        "chunk_size": 16,
    },
    "falcon_h1": {
        **tiny.BASE,
        "num_hidden_layers": 2,
        "mamba_d_ssm": 128,
        "mamba_n_heads": 8,
        "mamba_d_head": 16,
        "mamba_d_state": 8,
        "mamba_chunk_size": 16,
    },
    "lfm2": {
        **tiny.BASE,
        "num_hidden_layers": 2,
        "layer_types": ["conv", "full_attention"],
    },
}


@pytest.fixture(params=["longrope", "dynamic"])
def by_length(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], LoadedModel]:
    """Makes a model whose rotary embeddings follow from the longest row of a batch; afresh, since
    one that has met a long row may remember it."""
    name, config = {"longrope": ("phi3", LONG), "dynamic": ("llama", DYNAMIC)}[request.param]
    folder = tiny.save(tiny.build(name, **config), tmp_path / "model")
    return lambda: tiny.load(folder)


def alone(make: Callable[[], LoadedModel], tokens: list[int]) -> torch.Tensor:
    """Log-probabilities of all but the first token, by a model that has met nothing else."""
    logp = tiny.logits(make().model, tokens[:-1]).log_softmax(-1)
    return logp.gather(1, torch.tensor(tokens[1:])[:, None]).sum()


def log_likelihoods(loaded: LoadedModel, sequences: list[list[int]]) -> list[float]:
    split = (16,) * loaded.info.num_layers
    sweep = Sweep(Bank(loaded, tiny.QUANTO), [split], tiny.run())
    return sweep.score([Request(s[:-1], s[1:]) for s in sequences], "").logprob[:, 0].tolist()


def test_log_likelihoods_where_positions_follow_from_the_batch(
    by_length: Callable[[], LoadedModel],
) -> None:
    sequences = tiny.documents(*LENGTHS)
    expected = [alone(by_length, s).item() for s in sequences]
    loaded = by_length()
    assert log_likelihoods(loaded, sequences) == pytest.approx(expected, abs=1e-3)
    assert log_likelihoods(loaded, sequences[::-1]) == pytest.approx(expected[::-1], abs=1e-3)


def test_texts_of_two_kinds_share_no_row(by_length: Callable[[], LoadedModel]) -> None:
    """A short one and its continuation beyond the boundary, and branches on both sides of it."""
    whole, other = tiny.documents(80, 80)
    sequences = [whole[:50], whole[:62], whole, whole[:50] + other[:10], whole[:50] + other[:30]]
    expected = [alone(by_length, s).item() for s in sequences]
    assert log_likelihoods(by_length(), sequences) == pytest.approx(expected, abs=1e-3)


def test_a_text_of_one_token(by_length: Callable[[], LoadedModel]) -> None:
    """Such as a word that is scored after nothing but the token that begins texts."""
    sequences = [[7, 9], *tiny.documents(75, 2, 30)]
    expected = [alone(by_length, s).item() for s in sequences]
    loaded = by_length()
    assert log_likelihoods(loaded, sequences) == pytest.approx(expected, abs=1e-3)
    assert log_likelihoods(loaded, sequences[:1]) == pytest.approx(expected[:1], abs=1e-3)
    assert len(pass_scores(loaded, ["lim"], [[7], *sequences], tiny.run())["lim"][0]) == 2


def test_lim_where_positions_follow_from_the_batch(by_length: Callable[[], LoadedModel]) -> None:
    sequences = tiny.documents(*LENGTHS)
    together = pass_scores(by_length(), ["lim"], sequences, tiny.run())["lim"][0]
    weighed = [0.0] * len(together)
    for s in sequences:
        own = pass_scores(by_length(), ["lim"], [s], tiny.run())["lim"][0]
        weighed = [a + b * len(s) / sum(LENGTHS) for a, b in zip(weighed, own, strict=True)]
    assert together == pytest.approx(weighed, abs=1e-6)


def written(loaded: LoadedModel, texts: list[str]) -> list[str]:
    split = (16,) * loaded.info.num_layers
    sweep = Sweep(Bank(loaded, tiny.QUANTO), [split], tiny.run())
    lm = SweepLM(sweep, "writing")
    asked = [
        Instance("generate_until", {}, (text, {"until": [], "max_gen_toks": 40}), i)
        for i, text in enumerate(texts)
    ]
    lm.fit(asked)
    return lm.generate_until(asked)


@pytest.mark.parametrize("by_length", ["longrope"], indirect=True)
def test_what_is_written_where_positions_follow_from_the_batch(
    by_length: Callable[[], LoadedModel],
) -> None:
    """A longer text that passes the boundary does not change how the others go on."""
    loaded = by_length()
    texts = [loaded.tokenizer.decode(s) for s in tiny.documents(38, 24, 18)]
    assert len(loaded.tokenizer(texts[0])["input_ids"]) < 64
    expected = [written(by_length(), [text])[0] for text in texts]
    assert written(loaded, texts) == expected
    assert written(loaded, texts[::-1]) == expected[::-1]


def test_other_models_have_rows_of_one_kind(loaded_of: Callable[..., LoadedModel]) -> None:
    """So their batches are as large as before."""
    for name in tiny.LAYERS:
        assert len(set(loaded_of(name).walk.kinds([2, 16, 64, 100, 128]))) == 1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", STATES)
def test_texts_with_a_common_beginning_where_layers_keep_a_state(name: str, dtype: str) -> None:
    model = tiny.build(name, dtype, **STATES[name])
    walk = LayerWalk(model)
    assert walk.keeps_state
    assert not walk.shares_prefixes


@pytest.mark.parametrize("name", STATES)
def test_answers_to_one_question_where_layers_keep_a_state(name: str, tmp_path: Path) -> None:
    loaded = tiny.load(tiny.save(tiny.build(name, **STATES[name]), tmp_path / "model"))
    context, *answers = tiny.documents(20, 6, 6, 6)
    sequences = [context + answer for answer in answers]
    expected = [alone(lambda: loaded, s).item() for s in sequences]
    assert log_likelihoods(loaded, sequences) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("name", ["llama", "gpt2", "mixtral"])
def test_a_leak_between_branches_is_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However small: a state may matter little on the texts of the check, and much on others."""
    walk = LayerWalk(tiny.build(name))
    assert leak(walk) == 0
    step = LayerWalk.step

    def leaking(self: LayerWalk, i: int, hidden: Any, calls: Any, weights: Any = None) -> Any:
        return step(self, i, hidden, calls, weights) + 1e-6 * hidden.cumsum(1)

    monkeypatch.setattr(LayerWalk, "step", leaking)
    assert leak(walk) > 0
    assert not walk.shares_prefixes


def test_no_tree_is_deeper_than_what_a_layer_chooses_to_see(
    loaded_of: Callable[..., LoadedModel],
) -> None:
    """Layers that pick the tokens they see pick among the branches of a tree, too, once there are
    more tokens than they pick."""
    name = "doge"
    model = tiny.build(name, **{**tiny.BASE, "keep_window_size": 40, "num_hidden_layers": 2})
    walk = LayerWalk(model)
    assert walk.window == 40
    assert loaded_of("llama").walk.window > 2**30


SINUSOIDS = {"vocab_size": tiny.VOCABULARY, "n_embd": 64, "n_layer": 2, "n_head": 4}


@pytest.mark.parametrize("name", ["gptj", "codegen", "ctrl"])
def test_tables_of_positions_are_exact_where_a_model_is_streamed(name: str, tmp_path: Path) -> None:
    """Constructors would compute them in the number format of the weights."""
    own = {"dff": 96} if name == "ctrl" else {"rotary_dim": 16}
    model = tiny.build(name, "bfloat16", **SINUSOIDS, n_positions=128, **own)
    folder = tiny.save(model, tmp_path / "model")
    whole, streamed = tiny.load(folder).model, tiny.stream(folder).model
    buffers = dict(streamed.named_buffers())
    for path, buffer in whole.named_buffers():
        assert buffer.dtype == buffers[path].dtype
        assert torch.equal(buffer, buffers[path]), path


def test_no_trees_where_positions_follow_from_the_tokens() -> None:
    """Of RoBERTa they begin behind the padding token's number, which may be 0."""
    roberta = {**tiny.BASE, "num_hidden_layers": 2, "is_decoder": True, "pad_token_id": 0}
    assert not LayerWalk(tiny.build("roberta", **roberta)).shares_prefixes
