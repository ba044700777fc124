"""Models in folders of this disk: one clear sentence for everything that can go wrong."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
from model_files import SETTINGS, Online, refused, sentence
from safetensors.torch import load_file, save_file

from lwq_ui.core.errors import UserError
from lwq_ui.core.settings import ROOT
from lwq_ui.engine.checkpoints.finding import find
from lwq_ui.engine.checkpoints.headers import local_headers
from lwq_ui.engine.checkpoints.quantized import QUANTIZED_FILES
from lwq_ui.engine.checkpoints.source import Source
from lwq_ui.engine.models.description import describe
from lwq_ui.engine.models.loading import load


def test_the_demo_model() -> None:
    source = find("demo", tiny.run(settings=SETTINGS))
    assert source.model_id == "demo" and len(source.weight_files()) > 1


def test_a_local_folder(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find(f" {copy} ", tiny.run(settings=SETTINGS)) == Source(str(copy), copy)
    monkeypatch.setenv("HOME", str(copy.parent))
    assert find("~/model", tiny.run(settings=SETTINGS)).folder == copy


@pytest.mark.parametrize("model_id", ["", "  "])
def test_no_name(model_id: str) -> None:
    assert "Name a model" in refused(model_id)


@pytest.mark.parametrize(
    "model_id", ["./nowhere", "/no/such/folder", "a b/c", "a/b/c", "http://x/y"]
)
def test_neither_a_folder_nor_an_id(model_id: str) -> None:
    assert f"There is no folder '{model_id}'" in refused(model_id)


@pytest.mark.parametrize(
    "model_id",
    [
        "~nosuchuser/model",
        "a\0b/c",
        "/x\0y",
        "x" * 5000,
        "/" + "x" * 300,
        "a/" * 3000,
        "/m\udcffodel",
        "two\nlines/x",
    ],
)
def test_names_that_no_path_can_have(model_id: str) -> None:
    found = refused(model_id)
    assert "There is no folder" in found and len(found) < 400
    found.encode("utf-8")


def test_a_folder_that_may_not_be_read(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By anybody but root, who runs these tests in places."""

    def denied(*args: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    for name in ("is_dir", "iterdir"):
        with monkeypatch.context() as patched:
            patched.setattr(Path, name, denied)
            assert "cannot be read: permission denied" in refused(str(copy))


def nested(path: Path) -> None:
    path.write_text("[" * 100_000)


def nested_objects(path: Path) -> None:
    path.write_text('{"a":' * 100_000)


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_list(path: Path) -> None:
    path.write_text("[1]")


def a_folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
@pytest.mark.parametrize("put", [nested, nested_objects, a_pipe, a_list, a_folder])
def test_a_file_that_is_no_description(copy: Path, name: str, put: Callable[[Path], None]) -> None:
    (copy / name).unlink(missing_ok=True)
    put(copy / name)
    assert name in refused(str(copy))


@pytest.mark.parametrize("content", [b"[" * 10**5, b'{"a":' * 10**5])
def test_a_header_that_is_nested_too_deeply(copy: Path, content: bytes) -> None:
    (copy / "model.safetensors").write_bytes(len(content).to_bytes(8, "little") + content)
    assert "is cut short or damaged" in refused(str(copy))


@pytest.mark.parametrize("put", [a_pipe, a_folder])
def test_weights_that_are_no_file(copy: Path, put: Callable[[Path], None]) -> None:
    (copy / "model.safetensors").unlink()
    put(copy / "model.safetensors")
    assert "has no weights" in refused(str(copy))


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("put", [nested, nested_objects, a_pipe, a_list, a_folder])
def test_a_tokenizer_that_is_none(copy: Path, name: str, put: Callable[[Path], None]) -> None:
    (copy / name).unlink()
    put(copy / name)
    source = find(str(copy), tiny.run(settings=SETTINGS))
    assert len(source.fingerprint()) == 64
    try:
        load(source, "cpu", "auto", tiny.run())
    except UserError as e:
        assert "tokenizer" in sentence(e)
    else:
        assert name == "tokenizer_config.json" and put in (a_pipe, a_folder)


def test_a_folder_without_config(copy: Path) -> None:
    (copy / "config.json").unlink()
    assert "has no config.json" in refused(str(copy))


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b""])
def test_a_config_that_cannot_be_read(copy: Path, content: bytes) -> None:
    (copy / "config.json").write_bytes(content)
    assert "config.json" in refused(str(copy))


def test_a_folder_without_weights(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    assert "has no weights" in refused(str(copy))
    assert find(str(copy), tiny.run(settings=SETTINGS), weights=False).folder == copy


def test_an_index_that_names_a_missing_shard(copy: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "incomplete: model-00002-of-00002.safetensors is missing" in refused(str(copy))


@pytest.mark.parametrize("content", ["{", "{}", "[]"])
def test_an_index_that_cannot_be_read(copy: Path, content: str) -> None:
    (copy / "model.safetensors.index.json").write_text(content)
    assert "model.safetensors.index.json" in refused(str(copy))


@pytest.mark.parametrize("keep", [0, 5, 8, 100, -1])
def test_weights_cut_short(copy: Path, keep: int) -> None:
    path = copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    assert "model.safetensors" in refused(str(copy)) and "cut short" in refused(str(copy))


def test_weights_with_something_behind_them(copy: Path) -> None:
    path = copy / "model.safetensors"
    path.write_bytes(path.read_bytes() + b"\0")
    assert "cut short or damaged" in refused(str(copy))


def test_weights_with_a_damaged_header(copy: Path) -> None:
    path = copy / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[8:20] = b"x" * 12
    path.write_bytes(content)
    assert "cut short or damaged" in refused(str(copy))


def test_a_missing_shard_without_headers(copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "pytorch_model-00001-of-00002.bin")
    names = [f"pytorch_model-0000{n}-of-00002.bin" for n in (1, 2)]
    index = {"weight_map": dict(zip("ab", names, strict=True))}
    (copy / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    assert f"is incomplete: {names[1]} is missing" in refused(str(copy))


def test_a_stale_single_file_is_what_transformers_takes(shards: Path) -> None:
    """Beside shards and their index. Each is counted once."""
    save_file(load_file(sorted(shards.glob("*.safetensors"))[0]), shards / "model.safetensors")
    source = Source("x", shards)
    assert [p.name for p in source.weight_files()] == ["model.safetensors"]
    with pytest.raises(UserError, match=r"'x' are incomplete: [0-9]+ tensors are missing"):
        describe(source)
    (shards / "model.safetensors").unlink()
    assert describe(source).num_parameters == describe(Source("y", shards)).num_parameters


def test_a_missing_shard_is_named(shards: Path) -> None:
    gone = sorted(shards.glob("*.safetensors"))[1]
    gone.unlink()
    for weights in (True, False):
        with pytest.raises(UserError, match=f"is incomplete: {gone.name} is missing"):
            describe(find(str(shards), tiny.run(settings=SETTINGS), weights=weights))


SAID = {
    "config.json": {"quantization_config": {"quant_method": "fp8"}},
    "in a part": {"text_config": {"quantization_config": {"quant_method": "gptq", "bits": 4}}},
    "compression": {"compression_config": {"format": "pack-quantized"}},
    "MLX": {"quantization": {"group_size": 64, "bits": 4}},
}


@pytest.mark.parametrize("where", [*SAID, *QUANTIZED_FILES])
def test_quantized_already(copy: Path, where: str, online: Online) -> None:
    if where in SAID:
        config = json.loads((copy / "config.json").read_text())
        (copy / "config.json").write_text(json.dumps({**config, **SAID[where]}))
    else:
        (copy / where).write_text("{}")
    for weights in (True, False):
        assert "is quantized already. Choose the original" in refused(str(copy), weights=weights)
    with pytest.raises(UserError, match="is quantized already"):
        describe(Source("x", copy))
    with online(copy) as hub:
        assert "is quantized already" in hub.refused() and hub.sent_bytes("safetensors") == 0


def test_headers_of_local_models(copy: Path) -> None:
    assert Source("x", copy).download_bytes == 0
    assert Source("x", copy).headers(tiny.run()) == local_headers(copy, "x")
    (copy / "model.safetensors").unlink()
    with pytest.raises(UserError, match="'x' has no weights"):
        Source("x", copy).headers(tiny.run())


def test_code_of_a_model_is_never_trusted() -> None:
    found = 0
    for path in [ROOT / "app.py", *sorted((ROOT / "lwq_ui").rglob("*.py"))]:
        for line in path.read_text(encoding="utf-8").splitlines():
            if "trust_remote_code" in line and "trust_remote_code=" in line.replace(" ", ""):
                assert "trust_remote_code=False" in line.replace(" ", "")
                found += 1
            assert "HF_HUB_TRUST" not in line and "resolve_trust_remote_code" not in line
    assert found >= 3
