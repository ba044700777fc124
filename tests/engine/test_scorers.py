"""LIM and ZD against float64 references written the obvious way."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from threading import Event
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor

from lwq_ui.core.errors import Stopped
from lwq_ui.core.orderings import SCORERS as SPECS
from lwq_ui.engine import layer_pass
from lwq_ui.engine.banks.bank import Bank
from lwq_ui.engine.banks.composing import compose
from lwq_ui.engine.batches.padded import batches
from lwq_ui.engine.models.layers import find_layers, layer_weights
from lwq_ui.engine.models.loading import LoadedModel
from lwq_ui.engine.scorers import level_scores, pass_scores, scorer_of
from lwq_ui.engine.scorers.base import LevelScorer, PassScorer
from lwq_ui.engine.scorers.zd import share_above_one_std

LENGTHS = (40, 33, 37, 5, 12, 11)  # several to a batch, with padding


def score(name: str, loaded: LoadedModel, sequences: Sequence[Sequence[int]] = ()) -> list[float]:
    return pass_scores(loaded, [name], sequences, tiny.run())[name][0]


def lim_reference(model: Any, sequences: Sequence[Sequence[int]]) -> list[float]:
    """Minus the mean over all tokens of cos(input, output), one document at a time."""
    layers = find_layers(model)
    cosines: list[list[float]] = [[] for _ in layers]
    for tokens in sequences:
        for i, (x, y) in enumerate(tiny.layer_states(model, layers, tokens)):
            x, y = x.double(), y.double()
            for t in range(len(tokens)):
                cosines[i].append(float(x[t] @ y[t] / (x[t].norm() * y[t].norm())))
    return [-sum(c) / len(c) for c in cosines]


def share(values: Tensor) -> float:
    values = values.double().flatten()
    z = (values - values.mean()) / values.std(correction=0)
    return (z > 1).double().mean().item()


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "gpt_neox", "mixtral"])
def test_lim_equals_the_float64_reference(
    name: str, loaded_of: Callable[..., LoadedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = loaded_of(name)
    sequences = tiny.documents(*LENGTHS)
    reference = copy.deepcopy(loaded.model).double()
    if name == "mixtral":
        reference.set_experts_implementation("eager")  # the fast one has no float64
    expected = lim_reference(reference, sequences)
    monkeypatch.setattr(layer_pass, "batch_tokens", lambda info, device: 128)
    batched = batches(sequences, 128)
    assert any(len(b.rows) > 1 and len(b.rows[-1]) < len(b.rows[0]) for b in batched)
    assert score("lim", loaded, sequences) == pytest.approx(expected, abs=2e-6)
    assert max(expected) - min(expected) > 1e-3


def test_lim_weighs_tokens_not_documents(loaded_of: Callable[..., LoadedModel]) -> None:
    loaded = loaded_of("llama")
    sequences = tiny.documents(60, 3)
    by_document = [score("lim", loaded, [s])[1] for s in sequences]
    together = score("lim", loaded, sequences)[1]
    assert together == pytest.approx((60 * by_document[0] + 3 * by_document[1]) / 63, abs=1e-6)
    assert abs(together - sum(by_document) / 2) > 1e-4


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_batching_and_padding_do_not_matter(
    dtype: str, loaded_of: Callable[..., LoadedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = loaded_of("llama", dtype)
    sequences = tiny.documents(*LENGTHS)
    found = []
    for tokens in (1, 90, 4096):
        monkeypatch.setattr(layer_pass, "batch_tokens", lambda info, device, tokens=tokens: tokens)
        found.append(score("lim", loaded, sequences))
    # In bfloat16 a product of matrices of another shape may round otherwise, here and there.
    tolerance = 1e-6 if dtype == "float32" else 5e-4
    assert found[1] == pytest.approx(found[0], abs=tolerance)
    assert found[2] == pytest.approx(found[0], abs=tolerance)


def test_lim_in_bfloat16(
    loaded_of: Callable[..., LoadedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hidden states are bfloat16; cosines and their mean are not."""
    loaded = loaded_of("llama", "bfloat16")
    sequences = tiny.documents(*LENGTHS)
    monkeypatch.setattr(layer_pass, "batch_tokens", lambda info, device: 1)
    expected = lim_reference(loaded.model, sequences)
    assert score("lim", loaded, sequences) == pytest.approx(expected, abs=1e-6)


def weights_of(name: str, layer: Any) -> list[Tensor]:
    """The linear weights of a layer, by the architecture's own names."""
    if name == "llama":
        a, m = layer.self_attn, layer.mlp
        linear = (a.q_proj, a.k_proj, a.v_proj, a.o_proj, m.gate_proj, m.up_proj, m.down_proj)
        return [module.weight for module in linear]
    if name == "gpt2":
        a, m = layer.attn, layer.mlp
        return [module.weight for module in (a.c_attn, a.c_proj, m.c_fc, m.c_proj)]
    if name == "opt":
        a = layer.self_attn
        linear = (a.q_proj, a.k_proj, a.v_proj, a.out_proj, layer.fc1, layer.fc2)
        return [module.weight for module in linear]
    assert name == "mixtral"
    a, experts = layer.self_attn, layer.mlp.experts
    fused = [experts.gate_up_proj, experts.down_proj]
    return [m.weight for m in (a.q_proj, a.k_proj, a.v_proj, a.o_proj)] + fused


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", ["llama", "opt", "gpt2", "mixtral"])
def test_zd_equals_the_float64_reference(
    name: str, dtype: str, loaded_of: Callable[..., LoadedModel]
) -> None:
    loaded = loaded_of(name, dtype)
    layers = loaded.model.get_submodule(tiny.LAYERS[name])
    expected = [
        share(torch.cat([w.detach().double().flatten() for w in weights_of(name, layer)]))
        for layer in layers
    ]
    assert score("zd", loaded) == pytest.approx(expected, abs=1e-12)
    assert len(set(expected)) > 1


def test_zd_takes_every_linear_weight_and_nothing_else(
    loaded_of: Callable[..., LoadedModel],
) -> None:
    for name in ("llama", "opt", "gpt2"):
        layer = loaded_of(name).walk.layers[0]
        found = {id(w.parameter) for w in layer_weights(layer)}
        assert found == {id(w) for w in weights_of(name, layer)}
    layer = loaded_of("mixtral").walk.layers[0]
    left = {id(w) for w in weights_of("mixtral", layer)}
    router = {w.name for w in layer_weights(layer) if id(w.parameter) not in left}
    assert router <= {"mlp.gate.weight"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("scale", "mean"), [(1.0, 0.0), (0.02, 0.0), (0.02, 0.1), (1e-3, 1.0), (0.02, -0.5)]
)
def test_share_for_any_mean_and_spread(dtype: torch.dtype, scale: float, mean: float) -> None:
    """A threshold rounded to the dtype would gain or lose all values beside it; a mean far from 0
    would cost the difference of squares its digits."""
    generator = torch.Generator().manual_seed(1)
    matrices = [
        (torch.randn(shape, generator=generator) * scale + mean).to(dtype)
        for shape in ((700, 511), (3, 5), (128, 4))
    ]
    expected = share(torch.cat([m.double().flatten() for m in matrices]))
    assert share_above_one_std(matrices) == pytest.approx(expected, abs=1e-12)


def test_share_of_matrices_that_are_views() -> None:
    whole = torch.randn(301, 97).bfloat16()
    for matrix in (whole[1:, :], whole.T, whole[:, 1:8], whole.flatten()[1:].view(-1, 4)):
        assert share_above_one_std([matrix]) == pytest.approx(share(matrix), abs=1e-12)


@pytest.mark.parametrize("value", [0.0, 0.1, -0.1, 3.7e-5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_constant_weight_is_above_itself(value: float, dtype: torch.dtype) -> None:
    assert share_above_one_std([torch.full((300, 1001), value, dtype=dtype)]) == 0.0


@pytest.mark.parametrize("name", SPECS)
def test_every_spec_has_a_scorer_of_its_kind(name: str) -> None:
    kind, other = LevelScorer, PassScorer
    if not SPECS[name].measures_level:
        kind, other = other, kind
    assert scorer_of(name, kind) is not scorer_of(name, kind)
    with pytest.raises(TypeError, match=f"'{name}' is no {other.__name__}"):
        scorer_of(name, other)


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt_neox", "mixtral"])
def test_sensitivity_equals_one_composed_model_per_layer(
    name: str, loaded_of: Callable[..., LoadedModel]
) -> None:
    loaded = loaded_of(name)
    bank = Bank(loaded, tiny.QUANTO)
    sequences = tiny.documents(*LENGTHS)
    n = len(loaded.walk)
    expected = []
    for i in range(n):
        composed = compose(bank, [2 if j == i else 16 for j in range(n)], tiny.run())
        nats = []
        for tokens in sequences:
            p, q = (
                tiny.logits(m, tokens)[:-1].double().log_softmax(-1)
                for m in (loaded.model, composed)
            )
            nats += (p.exp() * (p - q)).sum(-1).tolist()
        expected.append(sum(nats) / len(nats))
    found = level_scores(bank, "sensitivity", 2, sequences, tiny.run())
    assert found == pytest.approx(expected, rel=1e-3)
    finer = level_scores(bank, "sensitivity", 4, sequences, tiny.run())
    assert all(0 < f < c / 2 for f, c in zip(finer, found, strict=True))


@pytest.mark.parametrize("name", ["lim", "zd"])
def test_a_stop_is_heard_at_any_layer(name: str, loaded_of: Callable[..., LoadedModel]) -> None:
    loaded = loaded_of("llama")
    sequences = tiny.documents(8, 30)
    seen: list[float | None] = []
    pass_scores(loaded, [name], sequences, tiny.run(progress=lambda what, done: seen.append(done)))
    assert seen == sorted(seen) and seen[0] >= 0 and seen[-1] < 1
    for at in range(len(seen) - 1):
        stop = Event()
        count = iter(range(10**6))

        def progress(what: str, done: float | None, at=at, stop=stop, count=count) -> None:
            if next(count) == at:
                stop.set()

        with pytest.raises(Stopped):
            pass_scores(loaded, [name], sequences, tiny.run(progress=progress, stop=stop))
