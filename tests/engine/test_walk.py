"""The walk computes what the model's own forward pass computes, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
from torch import nn

from lwq_ui.core.errors import UserError
from lwq_ui.engine.batches.padded import Batch
from lwq_ui.engine.models.layers import find_layers, layer_weights
from lwq_ui.engine.models.prefix_sharing import tree_error
from lwq_ui.engine.models.walk import LayerWalk

NAMES = sorted(tiny.LAYERS)
LENGTHS = (24, 17, 9)


def padded() -> tuple[torch.Tensor, torch.Tensor]:
    return Batch(tuple(tiny.documents(*LENGTHS)), (0, 1, 2)).tensors("cpu")


@torch.no_grad()
def plain(model: Any, ids: torch.Tensor) -> torch.Tensor:
    return model(input_ids=ids, use_cache=False).logits


@pytest.mark.parametrize("name", NAMES)
def test_the_walk_equals_the_plain_forward_pass_bit_for_bit(name: str) -> None:
    model = tiny.build(name)
    walk = LayerWalk(model)
    ids, real = padded()
    expected = plain(model, ids)
    hidden, calls = walk.head(ids)
    for i in range(len(walk)):
        hidden = walk.step(i, hidden, calls)
    walked = walk.tail(hidden.flatten(0, 1)).reshape(expected.shape)
    assert torch.equal(walked, expected)
    assert walked.std() > 0.01
    # Padding reaches no real token: every row alone gives the same.
    for r, length in enumerate(LENGTHS):
        alone = tiny.logits(model, ids[r, :length].tolist())
        torch.testing.assert_close(walked[r, :length], alone, rtol=1e-4, atol=1e-5)
    assert [int(n) for n in real.sum(1)] == list(LENGTHS)


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "gpt_neox", "mixtral"])
def test_every_step_gives_what_the_layer_gives(name: str) -> None:
    model = tiny.build(name)
    walk = LayerWalk(model)
    tokens = tiny.documents(20)[0]
    states = tiny.layer_states(model, walk.layers, tokens)
    hidden, calls = walk.head(torch.tensor([tokens]))
    for i, (entered, left) in enumerate(states):
        assert torch.equal(hidden[0], entered)
        hidden = walk.step(i, hidden, calls)
        assert torch.equal(hidden[0], left)


@pytest.mark.parametrize("name", ["llama", "gpt2", "mixtral"])
def test_weights_stand_in_for_one_call(name: str) -> None:
    model = tiny.build(name)
    walk = LayerWalk(model)
    ids, _ = padded()
    before = plain(model, ids)
    other = {n: p * 0.5 for n, p in walk.layers[2].named_parameters() if p.ndim > 1}
    hidden, calls = walk.head(ids)
    for i in range(len(walk)):
        hidden = walk.step(i, hidden, calls, other if i == 2 else None)
    walked = walk.tail(hidden.flatten(0, 1)).reshape(before.shape)
    assert torch.equal(plain(model, ids), before)
    walk.layers[2].load_state_dict(other, strict=False)
    assert torch.equal(walked, plain(model, ids))
    assert not torch.equal(walked, before)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", NAMES)
def test_every_architecture_here_takes_trees(name: str, dtype: str) -> None:
    windowed = "sliding_window" in tiny.CONFIGS[name]
    walk = LayerWalk(tiny.build(name, dtype, **({"sliding_window": 64} if windowed else {})))
    content = tiny.state_hash(walk.model)
    assert walk.shares_prefixes, tree_error(walk)
    assert tiny.state_hash(walk.model) == content


def test_a_window_shorter_than_the_check_takes_no_trees() -> None:
    assert not LayerWalk(tiny.build("gemma2")).shares_prefixes


def test_the_tree_check_sees_wrong_masks_and_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    head = LayerWalk.head
    for wrong in (
        lambda self, ids, visible=None, positions=None: head(self, ids),
        lambda self, ids, visible=None, positions=None: head(
            self, ids, visible, None if positions is None else torch.arange(ids.shape[1])[None]
        ),
    ):
        monkeypatch.setattr(LayerWalk, "head", wrong)
        for dtype in ("float32", "bfloat16"):
            assert not LayerWalk(tiny.build("llama", dtype)).shares_prefixes


def test_bfloat16_too() -> None:
    model = tiny.build("llama", "bfloat16")
    walk = LayerWalk(model)
    ids, _ = padded()
    hidden, calls = walk.head(ids)
    for i in range(len(walk)):
        hidden = walk.step(i, hidden, calls)
    expected = plain(model, ids)
    assert torch.equal(walk.tail(hidden.flatten(0, 1)).reshape(expected.shape), expected)


@pytest.mark.parametrize("name", NAMES)
def test_find_layers(name: str) -> None:
    model = tiny.build(name)
    layers = find_layers(model)
    assert layers is model.get_submodule(tiny.LAYERS[name])
    assert len(layers) == 4


def test_as_many_experts_as_layers_are_not_taken_for_layers() -> None:
    model = nn.Module()
    model.experts = nn.ModuleList(nn.Linear(2, 2) for _ in range(4))
    model.blocks = nn.ModuleList(nn.Sequential(nn.Linear(2, 2)) for _ in range(4))
    model._no_split_modules = ["Sequential"]
    model.config = SimpleNamespace(
        get_text_config=lambda decoder: SimpleNamespace(num_hidden_layers=4)
    )
    assert find_layers(model) is model.blocks


def test_a_model_without_layers_is_refused() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    model.config = SimpleNamespace(get_text_config=lambda decoder: SimpleNamespace())
    with pytest.raises(UserError, match="no list of equal decoder layers"):
        find_layers(model)


def test_an_architecture_that_the_walk_cannot_compute_is_refused(
    folder_of: Callable[..., Path],
) -> None:
    with pytest.raises(UserError, match=r"Gemma3n.* cannot be computed layer by layer"):
        tiny.load(folder_of("gemma3n_text"))


@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_a_model_whose_tokens_see_later_ones_is_refused(name: str) -> None:
    """Its layers can be computed one by one, but padding would reach real tokens."""
    config = {k: v for k, v in tiny.BASE.items() if k != "num_key_value_heads"}
    walk = LayerWalk(tiny.build(name, **config))
    with pytest.raises(UserError, match="is not a causal language model: its tokens see"):
        walk.check()


def test_layers_of_several_kinds() -> None:
    """A hybrid of attention and state-space layers."""
    model = tiny.build(
        "jamba",
        **tiny.BASE,
        attn_layer_period=2,
        attn_layer_offset=1,
        mamba_d_state=4,
        num_experts=4,
    )
    walk = LayerWalk(model)
    assert len({type(layer) for layer in walk.layers}) == 2 and len(walk) == 4
    walk.check()


@pytest.mark.parametrize("name", ["llama4_text", "phimoe"])
def test_routers_are_not_packed(name: str) -> None:
    """Some are nn.Linear with a forward of their own, which a quantized module would not have."""
    config = {**tiny.BASE, "num_local_experts": 4, "num_experts_per_tok": 1, "head_dim": 16}
    model = tiny.build(name, **config, intermediate_size_mlp=96, attn_temperature_tuning=False)
    for layer in find_layers(model):
        found = {w.name: w for w in layer_weights(layer)}
        assert found and not any("router" in w for w in found)
        for weight in found.values():  # inputs along the columns
            if "gate_up_proj" in weight.name:
                assert weight.spec.columns == 64


def test_the_self_check_sees_a_wrong_walk(monkeypatch: pytest.MonkeyPatch) -> None:
    walk = LayerWalk(tiny.build("llama"))
    walk.check()
    step = walk.step
    monkeypatch.setattr(walk, "step", lambda i, h, calls: h if i == 1 else step(i, h, calls))
    with pytest.raises(UserError, match="cannot be computed layer by layer"):
        walk.check()


def test_the_self_check_sees_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    walk = LayerWalk(tiny.build("llama"))
    tail = walk.tail
    monkeypatch.setattr(walk, "tail", lambda rows: tail(rows) * torch.nan)
    with pytest.raises(UserError, match="cannot be computed layer by layer"):
        walk.check()


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_an_exception_on_the_way_leaves_the_model_as_it_was(name: str) -> None:
    model = tiny.build(name)
    walk = LayerWalk(model)
    ids, _ = padded()
    before, content = plain(model, ids), tiny.state_hash(model)

    def fail(i: int, hidden: Any, args: Any, kwargs: Any) -> Any:
        if i == 2:
            raise ZeroDivisionError
        return hidden

    with pytest.raises(ZeroDivisionError), walk._tapped(fail):
        plain(model, ids)
    with pytest.raises((TypeError, ValueError, IndexError, RuntimeError)):
        walk.head(torch.full((1, 4), 10**6))  # no such tokens
    assert all("forward" not in vars(layer) for layer in walk.layers)
    assert torch.equal(plain(model, ids), before)
    assert tiny.state_hash(model) == content


def test_the_walk_leaves_the_model_as_it_was() -> None:
    model = tiny.build("llama")
    ids, _ = padded()
    before, content = plain(model, ids), tiny.state_hash(model)
    walk = LayerWalk(model)
    walk.check()
    assert all("forward" not in vars(layer) for layer in walk.layers)
    assert not any(m._forward_hooks for m in model.modules())
    assert torch.equal(plain(model, ids), before)
    assert tiny.state_hash(model) == content
