"""What a GGUF file's entries say of a model, and those that transformers passes over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf_models
import numpy as np
import pytest
import tiny
import torch
from model_files import sentence
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from lwq_ui.core.errors import UserError
from lwq_ui.core.run import Run
from lwq_ui.core.settings import Settings
from lwq_ui.engine.checkpoints.finding import find
from lwq_ui.engine.models import loading
from lwq_ui.engine.models.description import describe, read_config

TOKENS = torch.tensor([[5, 900, 17, 3000, 41, 8, 8, 2222, 1, 77] * 8])
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
    "rope_theta": 500000.0,
}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return tiny.run(settings=Settings(cache=tmp_path / "cache"))


def refused(path: Path, run: Run) -> str:
    with pytest.raises(UserError) as caught:
        describe(find(str(path), run))
    return sentence(caught.value)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(TOKENS).logits


def factors(config: Any) -> np.ndarray:
    """What llama.cpp's converter writes for Llama 3: frequencies without and with the scaling."""
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, device=torch.device("cpu"))
    head = config.hidden_size // config.num_attention_heads
    theta = config.rope_parameters["rope_theta"]
    plain = 1 / theta ** (torch.arange(0, head, 2, dtype=torch.float32) / head)
    return (plain / scaled).numpy()


def test_positions_of_llama_3(tmp_path: Path, run: Run) -> None:
    model = gguf_models.build("llama", rope_parameters=LLAMA3, max_position_embeddings=131072)
    more = {"rope_freqs.weight": factors(model.config)}
    path = gguf_models.write(model, tmp_path / "model.gguf", more=more)
    loaded = loading.load(find(str(path), run), "cpu", "float32", run)
    assert loaded.model.config.rope_parameters == pytest.approx(LLAMA3)
    assert torch.allclose(logits(loaded.model), logits(model), atol=2e-5)


def test_positions_scaled_in_a_way_of_its_own(tmp_path: Path, run: Run) -> None:
    model = gguf_models.build("llama")
    more = {"rope_freqs.weight": np.linspace(1, 7, 8, dtype=np.float32)}
    path = gguf_models.write(model, tmp_path / "model.gguf", more=more)
    assert "in a way of its own" in refused(path, run)


@pytest.mark.parametrize(
    "said",
    [
        {"rope_type": "linear", "factor": 4.0},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
    ],
)
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_scaled_positions(family: str, said: dict[str, Any], tmp_path: Path, run: Run) -> None:
    model = gguf_models.build(family, rope_parameters={**said, "rope_theta": 10000.0})
    changes = {"rope.scaling.type": said["rope_type"], "rope.scaling.factor": said["factor"]}
    if original := said.get("original_max_position_embeddings"):
        changes["rope.scaling.original_context_length"] = original
    path = gguf_models.write(model, tmp_path / "model.gguf", changes=changes)
    loaded = loading.load(find(str(path), run), "cpu", "float32", run)
    assert torch.allclose(logits(loaded.model), logits(model), atol=2e-5)


def test_only_layers_without_a_window_are_scaled(tmp_path: Path, run: Run) -> None:
    """Gemma 3 has two kinds of positions."""
    changes: dict[str, Any] = {"rope.scaling.type": "linear", "rope.scaling.factor": 8.0}
    model = gguf_models.build("gemma3_text")
    plain = read_config(find(str(gguf_models.write(model, tmp_path / "plain.gguf")), run))
    path = gguf_models.write(model, tmp_path / "model.gguf", changes=changes)
    scaled = read_config(find(str(path), run)).rope_parameters
    assert scaled["full_attention"]["factor"] == 8
    assert scaled["full_attention"]["rope_type"] == "linear"
    assert scaled["sliding_attention"] == plain.rope_parameters["sliding_attention"]
    assert "factor" not in plain.rope_parameters["full_attention"]


def test_an_unknown_scaling(tmp_path: Path, run: Run) -> None:
    changes = {"rope.scaling.type": "longrope"}
    path = gguf_models.write(gguf_models.build("phi3"), tmp_path / "model.gguf", changes=changes)
    assert "by the method 'longrope'" in refused(path, run)


@pytest.mark.parametrize(("layers", "scale"), [(46, 16), (2, 32)])
def test_how_gemma_2_scales_its_attention(
    layers: int, scale: int, tmp_path: Path, run: Run
) -> None:
    changes: dict[str, Any] = {"head_dim": 32, "num_hidden_layers": layers}
    model = gguf_models.build("gemma2", **changes, query_pre_attn_scalar=scale)
    path = gguf_models.write(model, tmp_path / "model.gguf")
    loaded = loading.load(find(str(path), run), "cpu", "float32", run)
    assert loaded.model.config.query_pre_attn_scalar == scale
    assert torch.allclose(logits(loaded.model), logits(model), atol=1e-4)


def test_a_scale_that_transformers_does_not_read(tmp_path: Path, run: Run) -> None:
    changes = {"attention.scale": 0.5}
    path = gguf_models.write(gguf_models.build("llama"), tmp_path / "model.gguf", changes=changes)
    assert "scales numbers by 0.5 (attention.scale)" in refused(path, run)


def test_a_tensor_that_transformers_would_leave_out(tmp_path: Path, run: Run) -> None:
    more = {"blk.0.attn_q.bias": np.ones(64, np.float32)}
    path = gguf_models.write(gguf_models.build("llama"), tmp_path / "model.gguf", more=more)
    assert "has a tensor blk.0.attn_q.bias that transformers" in refused(path, run)


def test_a_tensor_is_missing(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    model = gguf_models.build("llama")
    kept = gguf_models.tensors(model, "llama")
    del kept["blk.1.ffn_up.weight"]
    monkeypatch.setattr(gguf_models, "tensors", lambda *_: kept)
    path = gguf_models.write(model, tmp_path / "model.gguf")
    assert "the tensor model.layers.1.mlp.up_proj.weight is missing" in refused(path, run)


def test_an_unknown_architecture(tmp_path: Path, run: Run) -> None:
    model = gguf_models.build("llama")
    path = gguf_models.write(model, tmp_path / "model.gguf", architecture="minicpm")
    assert "is of the architecture 'minicpm', whose GGUF files transformers" in refused(path, run)


@pytest.mark.parametrize("gone", ["block_count", "attention.head_count", "embedding_length"])
def test_an_entry_is_missing(gone: str, tmp_path: Path, run: Run) -> None:
    """Without it transformers would take a number of its own."""
    model = gguf_models.build("llama")
    path = gguf_models.write(model, tmp_path / "model.gguf", changes={gone: None})
    assert refused(path, run)
