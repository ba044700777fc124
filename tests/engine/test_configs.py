"""Configs from files, and the models that they were made of."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
from jobs_on_tiny import SPLITS, config_of

from lwq_ui.core.choice import Choice
from lwq_ui.core.config import Config, format_config
from lwq_ui.core.errors import UserError
from lwq_ui.core.run import Run
from lwq_ui.core.settings import Settings
from lwq_ui.engine import jobs
from lwq_ui.engine.configs import read_config
from lwq_ui.engine.models import description, loading
from lwq_ui.engine.models.loading import LoadedModel
from lwq_ui.engine.quantizers import quantizer_named


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"num_layers": 2, "bits_per_layer": (4, 2)}, "'num_layers' is 2; the model has 4 layers"),
        ({"dtype": "bfloat16"}, "'dtype' and 'bytes' do not fit together"),
        ({"bytes": {"layers": 1, "rest": 2, "total": 3}}, "'dtype' and 'bytes' do not fit"),
        ({"fingerprint": "0" * 64}, "made for other weights"),
    ],
)
def test_a_config_that_contradicts_the_model(
    changes: dict[str, Any], why: str, loaded: LoadedModel, run: Run, tmp_path: Path
) -> None:
    config = replace(config_of(loaded, SPLITS[0]), **changes)
    with pytest.raises(UserError, match=why):
        jobs.quantize(loaded, config, tmp_path / "out", run)
    assert not (tmp_path / "out").exists()


def test_a_config_of_another_size_beside_the_layers(
    loaded: LoadedModel, run: Run, tmp_path: Path
) -> None:
    """Its bytes are what `quantize` reports and what lwq.json in the folder says."""
    config = config_of(loaded, SPLITS[0])
    rest = config.bytes["rest"] - 1
    sizes = {**config.bytes, "rest": rest, "total": config.bytes["layers"] + rest}
    with pytest.raises(UserError, match=f"beside its layers .* {rest + 1:,} bytes, not {rest:,}"):
        jobs.quantize(loaded, replace(config, bytes=sizes), tmp_path / "out", run)
    assert not (tmp_path / "out").exists()


def load_for(config: Config, model_id: str | None, settings: Settings) -> LoadedModel:
    return jobs.load_for(config, model_id, "cpu", tiny.run(settings=settings))


def test_a_config_whose_model_lies_elsewhere(
    folder_of: Callable[..., Path], settings: Settings, tmp_path: Path, monkeypatch: Any
) -> None:
    there = tmp_path / "moved"
    shutil.copytree(folder_of("llama"), there)
    config = replace(
        config_of(tiny.load(folder_of("llama")), SPLITS[0]), model_id=str(tmp_path / "gone")
    )
    with pytest.raises(UserError, match=r"no folder '.*gone'.* The config names '.*--model"):
        load_for(config, None, settings)
    loaded = load_for(config, str(there), settings)
    assert (loaded.info.fingerprint, loaded.info.model_id) == (config.fingerprint, str(there))
    with pytest.raises(UserError) as error:  # what was asked for is not there either
        load_for(config, str(tmp_path / "nowhere"), settings)
    assert "--model" not in str(error.value) and "nowhere" in str(error.value)
    monkeypatch.setattr(jobs.loading, "load_source", lambda *_: pytest.fail("loaded for nothing"))
    with pytest.raises(UserError, match="made for other weights"):
        load_for(config, str(folder_of("qwen3")), settings)


def written(tmp_path: Path, config: Config, **quantizer: Any) -> Path:
    data = json.loads(format_config(config))
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**data, "quantizer": {**data["quantizer"], **quantizer}}))
    return path


def test_a_quantizer_that_contradicts_its_name(loaded: LoadedModel, tmp_path: Path) -> None:
    config = config_of(loaded, SPLITS[0])
    assert read_config(written(tmp_path, config)) == config
    assert read_config(written(tmp_path, config, name="quanto:group=128")) == config
    for wrong in (
        {"group_size": -5},
        {"group_size": 128.0},
        {"options": {"x": 1e9}},
        {"options": {**config.quantizer["options"], "version": 7}},
        {"name": "quanto:group=64"},
        {"name": "quanto:group=\u00b2"},
        {"name": "quanto:group=64,group=128"},
        {"name": "nosuch"},
    ):
        with pytest.raises(UserError, match="Config field 'quantizer' is wrong"):
            read_config(written(tmp_path, config, **wrong))


def test_the_options_of_a_quantizer_that_is_not_installed_here(
    loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another version's may be right; what it needs is said where it is used."""
    choice = Choice(loaded.info, quantizer_named("gptq"), (4, 2), "first")
    config = choice.with_budget(choice.cost.total((4,) * 4)).config()
    path = written(tmp_path, config, options={**config.quantizer["options"], "gptqmodel": "1.0"})
    monkeypatch.setattr(type(quantizer_named("gptq")), "missing", lambda self: "")
    with pytest.raises(UserError, match="'quantizer' is wrong"):
        read_config(path)
    monkeypatch.setattr(type(quantizer_named("gptq")), "missing", lambda self: "Not installed.")
    assert read_config(path).quantizer["options"]["gptqmodel"] == "1.0"


def test_a_config_of_other_weights_is_refused(
    loaded: LoadedModel, folder_of: Callable[..., Path], run: Run, tmp_path: Path
) -> None:
    config = config_of(tiny.load(folder_of("qwen3")), SPLITS[0])
    with pytest.raises(UserError, match="made for other weights"):
        jobs.quantize(loaded, config, tmp_path / "out", run)


def test_the_model_is_described_without_its_weights(
    folder_of: Callable[..., Path], run: Run, monkeypatch: Any
) -> None:
    folder = str(folder_of("llama"))
    load = tiny.load(Path(folder)).info
    monkeypatch.setattr(
        loading.AutoModelForCausalLM, "from_pretrained", lambda *a, **k: pytest.fail("read")
    )
    for _ in range(2):
        found = jobs.describe(folder, "auto", run)
        assert found == load
    monkeypatch.setattr(description, "describe", lambda *args: pytest.fail("described again"))
    assert jobs.describe(folder, "auto", run) == load
