"""Describing and loading: every failure is one clear sentence, and loads nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from test_sources import sentence
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM, T5Config

from lwq_ui.core.errors import Stopped, UserError
from lwq_ui.core.run import Run
from lwq_ui.core.schema import ModelInfo
from lwq_ui.core.settings import Settings
from lwq_ui.core.store import Store
from lwq_ui.engine import jobs, records
from lwq_ui.engine.checkpoints.source import Source
from lwq_ui.engine.devices import resolve_device
from lwq_ui.engine.models import loading
from lwq_ui.engine.models.description import describe
from lwq_ui.engine.models.loading import load


@pytest.fixture
def copy(folder_of: Callable[..., Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder_of("llama"), tmp_path / "model"))


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    path = folder / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def refused(folder: Path, device: str = "cpu", dtype: str = "auto") -> str:
    with pytest.raises(UserError) as caught:
        load(Source("the-model", folder), device, dtype, tiny.run())
    return sentence(caught.value)


def test_loading(copy: Path) -> None:
    seen: list[Any] = []
    loaded = load(
        Source("x", copy), "auto", "auto", tiny.run(progress=lambda *step: seen.append(step))
    )
    assert loaded.info == describe(Source("x", copy))
    assert loaded.info.num_parameters == sum(p.numel() for p in loaded.model.parameters())
    assert loaded.info.max_tokens == 128 and loaded.info.num_layers == 4
    assert loaded.info.architecture == "LlamaForCausalLM"
    assert not loaded.model.training
    shares = [done for what, done in seen if what == "Reading weights"]
    assert shares == sorted(shares) and shares[-1] == 1.0


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "auto"])
def test_the_dtype_that_was_asked_for(copy: Path, dtype: str) -> None:
    loaded = load(Source("x", copy), "cpu", dtype, tiny.run())
    expected = "float32" if dtype == "auto" else dtype
    assert loaded.info.dtype == expected
    assert {p.dtype for p in loaded.model.parameters()} == {getattr(torch, expected)}
    measured = sum(p.numel() * p.element_size() for p in loaded.model.parameters())
    assert loaded.info.total_bytes == measured


def test_a_checkpoint_without_a_dtype_is_bfloat16(copy: Path) -> None:
    change_config(copy, dtype=None, torch_dtype=None)
    assert describe(Source("x", copy)).dtype == "bfloat16"


def test_an_info_survives_the_store(copy: Path, run: Run, store: Store) -> None:
    def ask() -> ModelInfo:
        return jobs.describe(str(copy), "auto", run)

    first = ask()
    source = Source(str(copy), copy)
    assert records.known_info(source, "auto", store) == first == ask()
    assert first == describe(source)


def test_a_bert_is_no_causal_model(tmp_path: Path) -> None:
    config = BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
    )
    BertForMaskedLM(config).save_pretrained(tmp_path)
    assert "is not a causal language model but a BertForMaskedLM" in refused(tmp_path)


def test_a_t5_is_no_causal_model(tmp_path: Path) -> None:
    T5Config(architectures=["T5ForConditionalGeneration"]).save_pretrained(tmp_path)
    assert "not a causal language model but a T5ForConditionalGeneration" in refused(tmp_path)
    T5Config().save_pretrained(tmp_path)
    assert "not a causal language model but a t5" in refused(tmp_path)


def test_an_image_model_without_architectures(copy: Path) -> None:
    (copy / "config.json").write_text('{"model_type": "vit"}')
    assert "is not a causal language model" in refused(copy)


@pytest.mark.parametrize("content", ['{"model_type": "nosuchmodel"}', "{}", "[]", '"text"'])
def test_an_unknown_model_type(copy: Path, content: str) -> None:
    (copy / "config.json").write_text(content)
    assert "does not know the model type of 'the-model'" in refused(copy)


@pytest.mark.parametrize("model_type", ["nosuchmodel", "llama"])
def test_code_of_its_own_is_refused_and_never_run(
    copy: Path, tmp_path: Path, model_type: str
) -> None:
    ran = tmp_path / "ran"
    code = f"open({str(ran)!r}, 'w').close()\n"
    for name in ("configuration_own.py", "modeling_own.py"):
        (copy / name).write_text(code)
    change_config(
        copy,
        model_type=model_type,
        architectures=["OwnForCausalLM"],
        auto_map={
            "AutoConfig": "configuration_own.OwnConfig",
            "AutoModelForCausalLM": "modeling_own.OwnForCausalLM",
        },
    )
    refused(copy)
    if model_type == "nosuchmodel":
        assert "needs code of its own, which this program never runs" in refused(copy)
    assert not ran.exists()


def test_a_tokenizer_with_code_of_its_own(copy: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    (copy / "tokenization_own.py").write_text(f"open({str(ran)!r}, 'w').close()\n")
    (copy / "tokenizer.json").unlink()
    (copy / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "OwnTokenizer",
                "auto_map": {"AutoTokenizer": ["tokenization_own.OwnTokenizer", None]},
            }
        )
    )
    assert "tokenizer of 'the-model' cannot be loaded" in refused(copy)
    assert not ran.exists()


@pytest.mark.parametrize("content", [None, "{", "{}", "[]"])
def test_a_tokenizer_that_cannot_be_read(copy: Path, content: str | None) -> None:
    (copy / "tokenizer_config.json").unlink()
    (copy / "tokenizer.json").unlink()
    if content is not None:
        (copy / "tokenizer.json").write_text(content)
    assert "tokenizer of 'the-model' cannot be loaded" in refused(copy)


def test_a_model_that_is_quantized_already(copy: Path) -> None:
    change_config(copy, quantization_config={"quant_method": "gptq", "bits": 4, "group_size": 128})
    assert "is quantized already" in refused(copy)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_weights_that_are_no_numbers(copy: Path, value: float) -> None:
    name = "model.layers.2.mlp.up_proj.weight"
    change_weights(copy, lambda tensors: tensors[name][3].fill_(value))
    found = refused(copy)
    assert "not numbers" in found and name in found


def test_weights_that_overflow_in_the_dtype_asked_for(copy: Path) -> None:
    name = "model.layers.2.mlp.up_proj.weight"
    change_weights(copy, lambda tensors: tensors[name][3].fill_(1e6))
    tiny.load(copy)
    assert name in refused(copy, dtype="float16")


def test_missing_tensors(copy: Path) -> None:
    name = "model.layers.1.self_attn.q_proj.weight"
    change_weights(copy, lambda tensors: tensors.pop(name))
    assert f"the tensor {name} is missing" in refused(copy)


def test_tensors_of_another_shape(copy: Path) -> None:
    name = "model.layers.1.self_attn.q_proj.weight"
    change_weights(copy, lambda t: t.update({name: t[name][:32].clone()}))
    assert f"are incomplete: the tensor {name} does not fit its config" in refused(copy)


def test_a_file_that_holds_another_model(copy: Path) -> None:
    save_file({"other": torch.zeros(3)}, copy / "model.safetensors", metadata={"format": "pt"})
    assert "are incomplete" in refused(copy)


def test_a_damaged_pickle_file(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    (copy / "pytorch_model.bin").write_bytes(b"not a pickle")
    assert "'the-model' cannot be loaded" in refused(copy)


def test_a_config_that_makes_no_sense(copy: Path) -> None:
    for changes in ({"hidden_size": "many"}, {"num_attention_heads": 0}, {"hidden_act": "nosuch"}):
        shutil.copy(copy / "config.json", copy / "kept")
        change_config(copy, **changes)
        assert "'the-model'" in refused(copy)
        shutil.move(copy / "kept", copy / "config.json")


def test_a_device_that_does_not_exist(copy: Path) -> None:
    assert "There is no device 'tpu' on this machine. Choose " in refused(copy, device="tpu")
    if not torch.cuda.is_available():
        assert "There is no device 'cuda'" in refused(copy, device="cuda")
        assert "cpu" in refused(copy, device="cuda")


def test_auto_takes_the_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for cuda, mps, expected in ((1, 0, "cuda"), (0, 1, "mps"), (0, 0, "cpu"), (1, 1, "cuda")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda cuda=cuda: bool(cuda))
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda mps=mps: bool(mps))
        assert resolve_device("auto") == expected
        assert resolve_device("cpu") == "cpu"


def test_a_model_that_does_not_fit_is_streamed(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    total = describe(Source("x", copy)).total_bytes
    monkeypatch.setattr(loading, "free_bytes", lambda device: [total])
    assert tiny.load(copy).streamed
    monkeypatch.setattr(loading, "free_bytes", lambda device: [2 * total])
    assert not tiny.load(copy).streamed


@pytest.mark.parametrize("streamed", [False, True])
def test_memory_that_fills_up_while_loading(
    streamed: bool, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **kwargs: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2.00 GiB")

    monkeypatch.setattr(loading, "StreamedLayers" if streamed else "read_weights", full)
    with pytest.raises(UserError, match="The memory of cpu is too small for what is not a layer"):
        (tiny.stream if streamed else tiny.load)(copy)


def test_too_little_to_quantize(loaded_of: Any, copy: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(ModelInfo, "packable_share", 0.14)
    assert "Only 14% of the layers of LlamaForCausalLM" in refused(copy)


def test_every_layer_of_the_tiny_models_is_covered(loaded_of: Any) -> None:
    for name in tiny.LAYERS:
        assert loaded_of(name).info.packable_share > 0.9, name


def test_a_stop_ends_the_loading(copy: Path, settings: Settings, store: Store) -> None:
    seen: list[str] = []
    jobs.load(str(copy), "cpu", "auto", Run(settings, store, lambda what, done: seen.append(what)))
    assert {"Reading weights", "Checking the weights"} < set(seen)
    for at in (0, 1, len(seen) // 2, len(seen) - 1):
        stop = Event()
        count = iter(range(10**6))

        def progress(what: str, done: float | None, at=at, stop=stop, count=count) -> None:
            if next(count) == at:
                stop.set()

        with pytest.raises(Stopped):
            jobs.load(str(copy), "cpu", "auto", Run(settings, store, progress, stop))


def test_the_tokenizer_is_the_models_own(copy: Path) -> None:
    own = AutoTokenizer.from_pretrained(tiny.DEMO)
    text = "The old house stood at the end of the lane."
    assert tiny.load(copy).tokenizer(text)["input_ids"] == own(text)["input_ids"]


@pytest.mark.parametrize(
    "change",
    [
        {"architectures": "LlamaForCausalLM"},
        {"architectures": [["LlamaForCausalLM"]]},
        {"architectures": {"a": 1}},
        {"hidden_size": 0},
        {"intermediate_size": 0},
        {"intermediate_size": -4},
        {"num_attention_heads": 0},
        {"num_hidden_layers": 0},
        {"vocab_size": 0},
        {"max_position_embeddings": -1},
        {"max_position_embeddings": 10**400},
        {"max_position_embeddings": "many"},
        {"hidden_size": 10**400},
        {"vocab_size": 10**30},
        {"dtype": 5},
        {"tie_word_embeddings": [1]},
        {"text_config": 3},
        {"torch_dtype": []},
    ],
)
def test_a_config_with_impossible_values_is_one_sentence(copy: Path, change: Any) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, **change}))
    try:
        describe(Source("the-model", copy))
    except UserError as e:
        assert "the-model" in str(e) or "architecture" in str(e)
        assert "\n" not in str(e) and len(str(e)) < 600
    else:
        assert next(iter(change)) in ("dtype", "torch_dtype", "tie_word_embeddings", "text_config")


def test_an_adapter_is_never_added_unasked(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (copy / "adapter_config.json").write_text("{}")
    before = tiny.load(copy).info
    assert before.num_parameters == describe(Source("x", copy)).num_parameters
    monkeypatch.setattr(loading, "is_peft_available", lambda: True)
    with pytest.raises(UserError, match="holds an adapter beside the model, which peft would add"):
        tiny.load(copy)
