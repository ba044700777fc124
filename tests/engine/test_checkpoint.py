"""What a checkpoint holds beside what its config describes: quantized weights, tensors without a
place, and two tensors where the config says one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fake_hub
import pytest
import tiny
import torch
from accelerate import init_empty_weights
from optimum.quanto import requantize
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from lwq_ui.core.cost import model_cost
from lwq_ui.core.errors import UserError
from lwq_ui.core.memory import UNTOUCHED
from lwq_ui.core.run import Run
from lwq_ui.core.settings import Settings
from lwq_ui.engine import jobs
from lwq_ui.engine.banks.bank import Bank
from lwq_ui.engine.banks.composing import compose
from lwq_ui.engine.checkpoints.finding import find
from lwq_ui.engine.checkpoints.source import Source
from lwq_ui.engine.exports import model_export
from lwq_ui.engine.models import loading
from lwq_ui.engine.models.description import describe

Tensors = dict[str, Tensor]
Edit = Callable[[Tensors], None]
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
PROJECTION = "model.layers.1.self_attn.q_proj"


@pytest.fixture
def edited(folder_of: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """edited(change of the tensors, pickled, family, **changes of the config) -> the folder."""

    def make(
        edit: Edit = lambda tensors: None,
        pickled: bool = False,
        family: str = "llama",
        **config: Any,
    ) -> Path:
        folder = Path(shutil.copytree(folder_of(family, "bfloat16"), tmp_path / "model"))
        tensors = load_file(folder / "model.safetensors")
        edit(tensors)
        if pickled:
            (folder / "model.safetensors").unlink()
            torch.save(tensors, folder / "pytorch_model.bin")
        else:
            save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        said = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**said, **config}))
        return folder

    return make


def described_on_the_hub(folder: Path, monkeypatch: Any, root: Path) -> Any:
    with fake_hub.serve(fake_hub.Hub(folder), monkeypatch, root / "hub") as hub:
        run = tiny.run(settings=Settings(cache=root / "cache"))
        source = find(fake_hub.NAME, run, weights=False)
        info = describe(source, "auto", source.headers(run))
        assert hub.sent_bytes("safetensors") < 600_000
        return info


def matrices(tensors: Tensors) -> list[str]:
    return [n.removesuffix(".weight") for n in tensors if n.endswith("proj.weight")]


def fp8(tensors: Tensors) -> None:
    for name in matrices(tensors):
        tensors[f"{name}.weight"] = tensors[f"{name}.weight"].to(torch.float8_e4m3fn)


def fp8_scaled(tensors: Tensors) -> None:
    fp8(tensors)
    for name in matrices(tensors):
        tensors[f"{name}.weight_scale_inv"] = torch.ones(1, 1)


def one_in_fp8(tensors: Tensors) -> None:
    name = f"{PROJECTION}.weight"
    tensors[name] = tensors[name].to(torch.float8_e5m2)


def int8(tensors: Tensors) -> None:
    for name in matrices(tensors):
        tensors[f"{name}.weight"] = tensors[f"{name}.weight"].to(torch.int8)
        tensors[f"{name}.SCB"] = torch.ones(len(tensors[f"{name}.weight"]))


def scaled(tensors: Tensors) -> None:
    """Codes in bfloat16, worth nothing without their scales."""
    for name in matrices(tensors):
        tensors[f"{name}.weight_scale"] = torch.ones(1)


def gptq(tensors: Tensors) -> None:
    for name in matrices(tensors):
        rows, columns = tensors.pop(f"{name}.weight").shape
        tensors[f"{name}.qweight"] = torch.zeros(columns // 8, rows, dtype=torch.int32)
        tensors[f"{name}.qzeros"] = torch.zeros(1, rows // 8, dtype=torch.int32)
        tensors[f"{name}.scales"] = torch.ones(1, rows, dtype=torch.float16)
        tensors[f"{name}.g_idx"] = torch.zeros(columns, dtype=torch.int32)


def compressed(tensors: Tensors) -> None:
    for name in matrices(tensors):
        rows, columns = tensors.pop(f"{name}.weight").shape
        tensors[f"{name}.weight_packed"] = torch.zeros(rows, columns // 8, dtype=torch.int32)
        tensors[f"{name}.weight_scale"] = torch.ones(rows, 1)
        tensors[f"{name}.weight_shape"] = torch.tensor([rows, columns])


def nf4(tensors: Tensors) -> None:
    for name in matrices(tensors):
        count = tensors[f"{name}.weight"].numel()
        tensors[f"{name}.weight"] = torch.zeros(count // 2, 1, dtype=torch.uint8)
        tensors[f"{name}.weight.absmax"] = torch.ones(count // 64)
        tensors[f"{name}.weight.quant_map"] = torch.ones(16)


def mlx(tensors: Tensors) -> None:
    for name in matrices(tensors):
        rows, columns = tensors[f"{name}.weight"].shape
        tensors[f"{name}.weight"] = torch.zeros(rows, columns // 8, dtype=torch.uint32)
        tensors[f"{name}.scales"] = torch.ones(rows, 1)
        tensors[f"{name}.biases"] = torch.ones(rows, 1)


def of_nobody_we_know(tensors: Tensors) -> None:
    for name in matrices(tensors):
        weight = tensors.pop(f"{name}.weight")
        tensors[f"{name}.kernel"] = weight.to(torch.int8)


QUANTIZED = [fp8, fp8_scaled, one_in_fp8, int8, scaled, gptq, compressed, nf4, mlx]
QUANTIZED += [of_nobody_we_know]


@pytest.mark.parametrize("pickled", [False, True], ids=["safetensors", "bin"])
@pytest.mark.parametrize("edit", QUANTIZED)
def test_quantized_weights_are_refused(
    edit: Edit,
    pickled: bool,
    edited: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    run: Run,
) -> None:
    folder = edited(edit, pickled)
    expected = "'.*' is quantized already. Choose the original model it was made from."
    with pytest.raises(UserError, match=expected):
        jobs.describe(str(folder), "auto", run)
    with pytest.raises(UserError, match=expected):
        tiny.load(folder)
    if not pickled:
        with pytest.raises(UserError, match=expected):
            jobs.look(str(folder), "auto", run)
        with pytest.raises(UserError, match=expected):
            tiny.stream(folder)
        with pytest.raises(UserError, match="is quantized already"):
            jobs.zd_alone(str(folder), run)
        with pytest.raises(UserError, match=expected):
            described_on_the_hub(folder, monkeypatch, tmp_path)


def test_quantized_weights_are_seen_where_the_description_was_stored(
    edited: Callable[..., Path],
) -> None:
    folder = edited()
    known = describe(Source("x", folder))
    shutil.rmtree(folder)
    folder = edited(scaled)
    with pytest.raises(UserError, match="is quantized already"):
        loading.load(Source("x", folder), "cpu", "auto", tiny.run(), info=known)


def older_tables(tensors: Tensors) -> None:
    for i in range(4):
        tensors[f"transformer.h.{i}.attn.bias"] = torch.ones(1, 1, 128, 128).tril()
        tensors[f"transformer.h.{i}.attn.masked_bias"] = torch.tensor(-1e4)
        tensors[f"transformer.h.{i}.attn.extra"] = torch.ones(1, 1, 128, 128, dtype=torch.uint8)
        tensors[f"transformer.h.{i}.attn.rotary_emb.inv_freq"] = torch.ones(8)
    tensors["transformer.position_ids"] = torch.arange(128)[None]
    tensors["transformer.counter"] = torch.tensor(3)


def other_parts(tensors: Tensors) -> None:
    tensors["vision_tower.layers.0.weight"] = torch.ones(3, 3)
    tensors["score.weight"] = torch.ones(2, 64)
    tensors["mtp.layers.0.q_proj.weight"] = torch.ones(3, 3)


@pytest.mark.parametrize(("family", "edit"), [("gpt2", older_tables), ("llama", other_parts)])
@pytest.mark.parametrize("pickled", [False, True], ids=["safetensors", "bin"])
def test_what_is_no_weight_of_the_model_is_left_out(
    family: str, edit: Edit, pickled: bool, edited: Callable[..., Path]
) -> None:
    folder = edited(edit, pickled, family)
    loaded = tiny.load(folder)
    assert loaded.info == describe(Source(str(folder), folder))
    if not pickled:
        assert tiny.stream(folder).info == loaded.info


def a_bias(tensors: Tensors) -> None:
    tensors[f"{PROJECTION}.bias"] = torch.ones(64)


def an_adapter(tensors: Tensors) -> None:
    tensors[f"{PROJECTION}.lora_A.weight"] = torch.ones(8, 64)
    tensors[f"{PROJECTION}.lora_B.weight"] = torch.ones(64, 8)


def a_layer(tensors: Tensors) -> None:
    for name in list(tensors):
        if ".layers.0." in name:
            tensors[name.replace(".0.", ".4.")] = tensors[name].clone()


def a_norm(tensors: Tensors) -> None:
    tensors["model.layers.2.self_attn.q_norm.weight"] = torch.ones(16)


def a_bias_of_the_head(tensors: Tensors) -> None:
    tensors["lm_head.bias"] = torch.ones(tiny.VOCABULARY)


@pytest.mark.parametrize("pickled", [False, True], ids=["safetensors", "bin"])
@pytest.mark.parametrize("edit", [a_bias, an_adapter, a_layer, a_norm, a_bias_of_the_head])
def test_weights_that_the_config_does_not_describe_are_refused(
    edit: Edit, pickled: bool, edited: Callable[..., Path]
) -> None:
    folder = edited(edit, pickled)
    for make in (lambda f: describe(Source("x", f)), tiny.load):
        with pytest.raises(UserError, match="do not belong to its config: there is no place in"):
            make(folder)


# Tied heads.


def without(tensors: Tensors) -> None:
    tensors.pop(HEAD)


def equal(tensors: Tensors) -> None:
    tensors[HEAD] = tensors[EMBEDDING].clone()


def different(tensors: Tensors) -> None:
    """In the last value only."""
    equal(tensors)
    tensors[HEAD][-1, -1] += 1


def wholly_different(tensors: Tensors) -> None:
    tensors[HEAD] = tensors[EMBEDDING].flip(0).clone()


def equal_in_another_dtype(tensors: Tensors) -> None:
    tensors[HEAD] = tensors[EMBEDDING].float() * (1 + 2**-20)  # rounds to the same in bfloat16


def embedding_missing(tensors: Tensors) -> None:
    tensors[HEAD] = tensors.pop(EMBEDDING)


CASES = [
    (True, without, 1),
    (True, equal, 1),
    (True, embedding_missing, 1),
    (True, equal_in_another_dtype, 1),
    (True, different, 2),
    (True, wholly_different, 2),
    (False, equal, 2),
    (False, wholly_different, 2),
]


@pytest.mark.parametrize("pickled", [False, True], ids=["safetensors", "bin"])
@pytest.mark.parametrize(("tied", "edit", "copies"), CASES)
def test_the_figures_are_those_of_the_loaded_model_however_it_is_tied(
    tied: bool,
    edit: Edit,
    copies: int,
    pickled: bool,
    edited: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    folder = edited(edit, pickled, tie_word_embeddings=tied)
    info = describe(Source(str(folder), folder))
    loaded = tiny.load(folder)
    makers = [loaded] if pickled else [loaded, tiny.stream(folder)]
    plain = AutoModelForCausalLM.from_pretrained(folder)
    tokens = tiny.documents(20)[0]
    for made in makers:
        parameters = list(made.model.parameters())
        assert made.info == info
        assert info.num_parameters == sum(p.numel() for p in parameters)
        assert info.total_bytes == sum(p.numel() * p.element_size() for p in parameters)
        assert info.rest_bytes == 2 * 64 * (copies * tiny.VOCABULARY + 1)  # and the last norm
        assert made.model.config.tie_word_embeddings == (copies == 1)
    assert torch.equal(tiny.logits(loaded.model, tokens), tiny.logits(plain, tokens))
    if not pickled and edit is not different:  # of what is on the Hub only a sample is read
        looked = described_on_the_hub(folder, monkeypatch, tmp_path)
        assert (looked.num_parameters, looked.rest_bytes) == (info.num_parameters, info.rest_bytes)


def test_a_head_that_is_missing_is_named(edited: Callable[..., Path]) -> None:
    folder = edited(without, tie_word_embeddings=False)
    for make in (lambda f: describe(Source("x", f)), tiny.load, tiny.stream):
        with pytest.raises(UserError, match=r"incomplete: the tensor lm_head.weight is missing"):
            make(folder)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("tied", "edit", "copies"), CASES)
def test_what_is_written_of_it_is_read_again(
    tied: bool, edit: Edit, copies: int, stream: bool, edited: Callable[..., Path], tmp_path: Path
) -> None:
    """By the README's lines; and its bytes are those of the forecast."""
    folder = edited(edit, tie_word_embeddings=tied)
    loaded = (tiny.stream if stream else tiny.load)(folder)
    bank, split, out = Bank(loaded, tiny.QUANTO), (2, 8, 4, 8), tmp_path / "out"
    model_export(bank.quantizer).write(bank, split, out, tiny.run())
    config = AutoConfig.from_pretrained(out)
    assert config.tie_word_embeddings == (copies == 1)
    with init_empty_weights():
        model = AutoModelForCausalLM.from_config(config, dtype=config.dtype)
    state = {k: v.clone() for k, v in load_file(out / "model.safetensors").items()}
    requantize(model, state, json.loads((out / "quanto_qmap.json").read_text()))
    model.tie_weights()
    tokens = tiny.documents(20)[0]
    expected = tiny.logits(compose(bank, split, tiny.run()), tokens)
    assert torch.equal(tiny.logits(model.eval(), tokens), expected)
    cost = model_cost(loaded.info, tiny.QUANTO)
    scales = 2 * 2 * 7 * sum(level != UNTOUCHED for level in split)  # of activations, always stored
    assert sum(t.nbytes for t in state.values()) == cost.total(split) + scales
