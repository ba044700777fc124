"""Models of every common family, from files as people have them: each figure equals the one that is
computed the obvious way, from a model that never was in a file or from the file's own tensors."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import families
import numpy as np
import pytest
import tiny
import torch
from families import FAMILIES, LAYERS, Family, Tensors
from torch import Tensor
from transformers import PreTrainedModel

from lwq_ui.core.cost import model_cost
from lwq_ui.core.errors import UserError
from lwq_ui.core.memory import UNTOUCHED
from lwq_ui.engine.banks.bank import Bank
from lwq_ui.engine.batches.request import Request
from lwq_ui.engine.checkpoints.source import Source
from lwq_ui.engine.models.description import describe
from lwq_ui.engine.models.layers import layer_weights
from lwq_ui.engine.models.loading import LoadedModel
from lwq_ui.engine.scorers import pass_scores
from lwq_ui.engine.sweeps.sweep import Sweep

MAKERS: dict[str, Callable[[Path, str], LoadedModel]] = {"memory": tiny.load, "stream": tiny.stream}
QUANTO = tiny.QUANTO
SPLITS = [(UNTOUCHED,) * LAYERS, (4, 8, 2), (4, 2, 2)]

PICKLED = [name for name, family in FAMILIES.items() if family.pickled]

each_family = pytest.mark.parametrize(
    ("maker", "name"),
    [(m, name) for m in MAKERS for name in FAMILIES if m == "memory" or name not in PICKLED],
)
Made = Callable[..., LoadedModel]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """written(family) -> its folder and the model that was written into it, made once."""
    root = tmp_path_factory.mktemp("families")
    done: dict[str, tuple[Path, PreTrainedModel]] = {}

    def get(name: str) -> tuple[Path, PreTrainedModel]:
        if name not in done:
            done[name] = root / name, families.write(name, root / name)
        return done[name]

    return get


@pytest.fixture(scope="module")
def made(written: Callable[[str], Any]) -> Made:
    """made(maker, family, dtype) -> that checkpoint through one of the makers, made once."""
    done: dict[tuple[str, str, str], LoadedModel] = {}

    def get(maker: str, name: str, dtype: str) -> LoadedModel:
        if (maker, name, dtype) not in done:
            done[maker, name, dtype] = MAKERS[maker](written(name)[0], dtype)
        return done[maker, name, dtype]

    return get


# Of each family a few names that its files on the Hub have, and some that only today's models have.
IN_FILES = {
    "llama-2": "lm_head.weight model.layers.2.self_attn.rotary_emb.inv_freq",
    "llama-3.2": "model.embed_tokens.weight model.norm.weight",
    "qwen-1.5": "model.layers.0.self_attn.q_proj.bias",
    "qwen-3": "lm_head.weight model.embed_tokens.weight model.layers.0.self_attn.q_norm.weight",
    "gemma-2": "model.layers.0.pre_feedforward_layernorm.weight",
    "phi-3": "model.layers.0.self_attn.qkv_proj.weight model.layers.0.mlp.gate_up_proj.weight",
    "olmo-2": "model.layers.0.post_feedforward_layernorm.weight lm_head.weight",
    "gpt-2": "wte.weight wpe.weight h.0.attn.bias h.0.attn.c_attn.weight ln_f.bias",
    "pythia": "gpt_neox.embed_in.weight embed_out.weight gpt_neox.layers.0.attention.masked_bias",
    "opt-125m": "model.decoder.embed_positions.weight lm_head.weight",
    "opt-350m": "decoder.project_in.weight decoder.layers.0.fc1.bias",
    "opt-6.7b": "decoder.embed_tokens.weight decoder.final_layer_norm.weight",
    "falcon-7b": "transformer.word_embeddings.weight lm_head.weight",
    "falcon-40b": "transformer.h.0.ln_attn.weight transformer.h.0.ln_mlp.bias",
    "falcon-rw": "transformer.h.0.self_attention.query_key_value.bias",
    "mixtral": "model.layers.0.block_sparse_moe.experts.3.w2.weight",
    "qwen-1.5-moe": "model.layers.0.mlp.shared_expert_gate.weight",
    "qwen-3-moe": "model.layers.0.mlp.experts.3.up_proj.weight model.layers.0.mlp.gate.weight",
}
NOT_IN_FILES = {
    "smollm": ["lm_head"],
    "llama-3.2": ["lm_head"],
    "gemma-3": ["lm_head", "language_model"],
    "gpt-2": ["lm_head", "transformer."],
    "opt-350m": ["lm_head", "model.", "decoder.final_layer_norm"],
    "mixtral": ["mlp.", "gate_up_proj"],
    "qwen-3-moe": ["gate_up_proj", "shared"],
}


def own_dtype(family: Family) -> str:
    """What to ask for, to get the file's."""
    return "auto" if "torch_dtype" in family.config else "float32"


def in_float32(model: PreTrainedModel) -> PreTrainedModel:
    """A copy; its buffers stay, as when loaded."""
    model = copy.deepcopy(model)
    for parameter in model.parameters():
        parameter.data = parameter.data.float()
    return model


def layer_tensors(family: Family, tensors: Tensors, i: int) -> tuple[list[Tensor], list[Tensor]]:
    """What a file holds of layer i: the matrices that are quantized, and the other weights."""
    start = f"{family.prefix}.{i}."
    matrices, others = [], []
    for name, tensor in tensors.items():
        own = name.removeprefix(start)
        if own != name and own not in family.stale(i):
            quantized = tensor.ndim == 2 and own not in family.routers
            (matrices if quantized else others).append(tensor)
    return matrices, others


def test_the_files_are_those_that_people_have(written: Callable[[str], Any]) -> None:
    for name, expected in IN_FILES.items():
        assert set(expected.split()) <= families.read(written(name)[0]).keys(), name
    for name, others in NOT_IN_FILES.items():
        held = families.read(written(name)[0])
        assert not [k for k in held for other in others if other in k], name


@pytest.mark.parametrize("name", PICKLED)
def test_only_safetensors_can_be_streamed(name: str, written: Callable[[str], Any]) -> None:
    with pytest.raises(UserError, match="no weights in safetensors' format"):
        tiny.stream(written(name)[0])


@pytest.mark.parametrize("dtype", ["own", "float32"])
@each_family
def test_the_walk_gives_the_bits_of_the_plain_forward_pass(
    name: str, dtype: str, maker: str, written: Callable[[str], Any], made: Made
) -> None:
    model = written(name)[1]
    if dtype == "own":
        loaded = made(maker, name, own_dtype(FAMILIES[name]))
    else:
        loaded, model = made(maker, name, dtype), in_float32(model)
    ids = torch.tensor(tiny.documents(26, 26))
    with torch.no_grad():
        plain = model(input_ids=ids, use_cache=False).logits
    hidden, calls = loaded.walk.head(ids)
    for i in range(LAYERS):
        with loaded.walk.source.at_hand(i):
            hidden = loaded.walk.step(i, hidden, calls)
    walked = loaded.walk.tail(hidden.flatten(0, 1)).reshape(plain.shape)
    assert torch.equal(walked, plain)
    assert plain.std() > 0.1


@each_family
def test_the_config_alone_gives_the_figures_of_the_files(
    name: str, maker: str, written: Callable[[str], Any], made: Made
) -> None:
    folder, model = written(name)
    family, tensors = FAMILIES[name], families.read(folder)
    info = describe(Source(str(folder), folder), own_dtype(family))
    assert made(maker, name, own_dtype(family)).info == info
    assert info.architecture == family.config["architectures"][0]
    assert info.dtype == str(family.dtype).removeprefix("torch.")
    assert info.num_parameters == sum(p.numel() for p in model.parameters())
    assert info.total_bytes == sum(p.nbytes for p in model.parameters())
    assert len(info.layers) == LAYERS
    quantized = rest = 0
    for i, spec in enumerate(info.layers):
        matrices, others = layer_tensors(family, tensors, i)
        assert {w.name for w in spec.weights} == family.weights
        assert sum(w.numel for w in spec.weights) == sum(m.numel() for m in matrices)
        assert spec.other_bytes == sum(t.nbytes for t in others)
        quantized += sum(m.nbytes for m in matrices)
        rest += spec.other_bytes
    assert info.packable_share == quantized / (quantized + rest) > 0.97
    assert info.rest_bytes == info.total_bytes - quantized - rest


@each_family
def test_a_bank_takes_the_estimated_bytes(name: str, maker: str, made: Made) -> None:
    loaded = made(maker, name, own_dtype(FAMILIES[name]))
    bank, cost = Bank(loaded, QUANTO), model_cost(loaded.info, tiny.QUANTO)
    for i in range(LAYERS):
        for level in QUANTO.levels:
            assert bank.packed_bytes(i, level, tiny.run()) == cost.layers[i].packed[level], (
                i,
                level,
            )


@each_family
def test_lim_equals_the_float64_cosines_of_a_plain_forward_pass(
    name: str, maker: str, written: Callable[[str], Any], made: Made
) -> None:
    model = in_float32(written(name)[1])
    layers = model.get_submodule(FAMILIES[name].layers)
    sequences = tiny.documents(26, 22, 9)
    sums = np.zeros(LAYERS)
    for tokens in sequences:
        for i, (x, y) in enumerate(tiny.layer_states(model, layers, tokens)):
            sums[i] += torch.cosine_similarity(x.double(), y.double(), dim=-1).sum().item()
    expected = -sums / sum(map(len, sequences))
    loaded = made(maker, name, "float32")
    found, _ = pass_scores(loaded, ["lim"], sequences, tiny.run())["lim"]
    assert found == pytest.approx(expected, abs=2e-6)
    assert max(found) - min(found) > 1e-3


@each_family
def test_zd_equals_the_share_in_the_files_own_tensors(
    name: str, maker: str, written: Callable[[str], Any], made: Made
) -> None:
    family, tensors = FAMILIES[name], families.read(written(name)[0])
    expected = []
    for i in range(LAYERS):
        matrices = layer_tensors(family, tensors, i)[0]
        values = np.concatenate([m.double().numpy().ravel() for m in matrices])
        expected.append(float(np.mean((values - values.mean()) / values.std() > 1)))
    loaded = made(maker, name, own_dtype(family))
    found, _ = pass_scores(loaded, ["zd"], [], tiny.run())["zd"]
    assert found == pytest.approx(expected, abs=1e-12)
    assert len(set(expected)) > 1


def quantized(model: PreTrainedModel, family: Family, split: tuple[int, ...]) -> PreTrainedModel:
    """A copy whose weights are replaced by what is left of them at their layer's level."""
    model = copy.deepcopy(model)
    for layer, level in zip(model.get_submodule(family.layers), split, strict=True):
        for weight in layer_weights(layer) if level != UNTOUCHED else ():
            packed = QUANTO.pack(weight.matrix(), level)
            weight.parameter.data = weight.restored(QUANTO.dense(packed))
    return model


@each_family
def test_every_split_of_a_sweep_equals_a_model_with_its_weights(
    name: str, maker: str, written: Callable[[str], Any], made: Made
) -> None:
    context, one, other, alone = tiny.documents(9, 5, 6, 26)  # two that share a beginning
    asked = [Request((context + rest)[:-1], rest) for rest in (one, other)]
    asked.append(Request(alone[:-1], alone[1:]))
    bank = Bank(made(maker, name, "float32"), QUANTO)
    found = Sweep(bank, SPLITS, tiny.run()).score(asked, "x", divergence=True)
    model = in_float32(written(name)[1])
    for c, split in enumerate(SPLITS):
        composed = quantized(model, FAMILIES[name], split)
        for r, request in enumerate(asked):
            n = len(request.targets)
            logp, reference = (
                tiny.logits(m, request.tokens)[-n:].double().log_softmax(-1)
                for m in (composed, model)
            )
            logprob = logp.gather(1, torch.tensor(request.targets)[:, None]).sum().item()
            divergence = (reference.exp() * (reference - logp)).sum().item()
            assert found.logprob[r, c] == pytest.approx(logprob, rel=1e-4, abs=1e-4)
            assert found.divergence[r, c] == pytest.approx(divergence, rel=2e-3, abs=2e-4)
    assert found.divergence[:, 0].max() == 0 and found.divergence[:, -1].min() > 0.01
