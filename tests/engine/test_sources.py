"""Where models come from: one clear sentence for everything that can go wrong."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any

import huggingface_hub
import pytest
import tiny
from huggingface_hub import errors

from lwq_ui.core.errors import Stopped, UserError
from lwq_ui.engine import sources
from lwq_ui.engine.sources import Source, find, is_complete
from lwq_ui.settings import ROOT, Settings

SETTINGS = Settings(cache=Path("unused"))


def refused(model_id: str, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        find(model_id, SETTINGS, tiny.quiet, Event(), **options)
    return sentence(caught.value)


def sentence(error: UserError) -> str:
    """What a person reads: whole sentences on one line, without a class name or a traceback."""
    text = str(error)
    assert "\n" not in text and "Traceback" not in text
    assert not re.search(r"\b\w+(Error|Exception)\b", text), text
    assert text[0] in "'ATtFOHPNG" and text.endswith(".")
    assert 20 < len(text) < 400
    return text


@pytest.fixture
def copy(folder_of: Callable[..., Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder_of("llama"), tmp_path / "model"))


def test_the_demo_model() -> None:
    source = find("demo", SETTINGS, tiny.quiet, Event())
    assert source.model_id == "demo" and len(source.weight_files()) > 1


def test_a_local_folder(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find(f" {copy} ", SETTINGS, tiny.quiet, Event()) == Source(str(copy), copy)
    monkeypatch.setenv("HOME", str(copy.parent))
    assert find("~/model", SETTINGS, tiny.quiet, Event()).folder == copy


@pytest.mark.parametrize("model_id", ["", "  "])
def test_no_name(model_id: str) -> None:
    assert "Name a model" in refused(model_id)


@pytest.mark.parametrize(
    "model_id", ["./nowhere", "/no/such/folder", "a b/c", "a/b/c", "http://x/y"]
)
def test_neither_a_folder_nor_an_id(model_id: str) -> None:
    assert f"There is no folder '{model_id}'" in refused(model_id)


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
    assert find(str(copy), SETTINGS, tiny.quiet, Event(), weights=False).folder == copy


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
    assert not is_complete(path)
    assert "model.safetensors" in refused(str(copy)) and "cut short" in refused(str(copy))


def test_weights_with_something_behind_them(copy: Path) -> None:
    path = copy / "model.safetensors"
    assert is_complete(path)
    path.write_bytes(path.read_bytes() + b"\0")
    assert "cut short or damaged" in refused(str(copy))


def test_weights_with_a_damaged_header(copy: Path) -> None:
    path = copy / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[8:20] = b"x" * 12
    path.write_bytes(content)
    assert "cut short or damaged" in refused(str(copy))


class Hub:
    """Stands in for snapshot_download: raises what the real one raises, or gives a folder."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, answer: Any):
        self.answer = answer
        self.asked: list[dict[str, Any]] = []
        monkeypatch.setattr(huggingface_hub, "snapshot_download", self)

    def __call__(self, model_id: str, **options: Any) -> str:
        self.asked.append({"model_id": model_id, **options})
        if isinstance(self.answer, Exception):
            raise self.answer
        return str(self.answer)


def http_error(kind: type[Exception], status: int) -> Exception:
    """The Hub's own errors carry a response of the HTTP library that huggingface_hub uses."""
    library: Any = importlib.import_module(errors.HTTPError.__module__.split(".")[0])
    request = library.Request("GET", "https://hub.test/api/models/owner/name")
    response = library.Response(status, request=request, headers={"x-request-id": "1"})
    return kind("first line (Request ID: 1)\n\nsecond line", response=response)


@pytest.mark.parametrize(
    ("kind", "status", "expected"),
    [
        (errors.RepositoryNotFoundError, 404, "Hugging Face knows no model 'owner/name'"),
        (errors.GatedRepoError, 403, "'owner/name' is gated: accept its licence"),
        (errors.HfHubHTTPError, 503, "Hugging Face did not send 'owner/name': first line"),
        (errors.RevisionNotFoundError, 404, "Hugging Face did not send 'owner/name'"),
    ],
)
def test_what_the_hub_answers(
    kind: Any, status: int, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Hub(monkeypatch, http_error(kind, status))
    found = refused("owner/name")
    assert expected in found and "second line" not in found


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (errors.LocalEntryNotFoundError("no file"), "Hugging Face cannot be reached"),
        (errors.HFValidationError("bad"), "is not a Hugging Face id"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (ConnectionError("reset by peer"), "could not be downloaded: reset by peer."),
        (errors.HTTPError("timed out"), "could not be downloaded: timed out."),
        (TimeoutError(), "could not be downloaded: the connection broke."),
    ],
)
def test_what_happens_on_the_way(
    error: Exception, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Hub(monkeypatch, error)
    assert expected in refused("owner/name")
    assert "'owner/name'" in refused("owner/name")


@pytest.mark.parametrize("weights", [True, False])
def test_offline(weights: bool) -> None:
    """The real thing: huggingface_hub in its offline mode (see conftest.py)."""
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    found = refused("no-such-owner-here/no-such-model", weights=weights)
    assert "not on this disk and Hugging Face cannot be reached" in found


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not offline by choice: names just do not resolve."""

    def unreachable(*args: Any, **kwargs: Any) -> Any:
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    monkeypatch.setattr(socket, "create_connection", unreachable)


def test_no_network(no_network: None) -> None:
    assert "Hugging Face cannot be reached" in refused("no-such-owner-here/no-such-model")


def test_no_network_but_a_description_from_before(
    copy: Path, no_network: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    Hub(monkeypatch, copy)
    source = find("owner/name", SETTINGS, tiny.quiet, Event(), weights=False)
    assert source == Source("owner/name", copy, revision=copy.name)


def test_a_repository_without_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Hub(monkeypatch, tmp_path)
    assert "is not a transformers model" in refused("owner/name-GGUF")


def test_a_repository_without_weights(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (copy / "model.safetensors").unlink()
    Hub(monkeypatch, copy)
    assert "'owner/name' has no weights" in refused("owner/name")


def test_a_download_that_arrived_cut_short(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    Hub(monkeypatch, copy)
    assert "'owner/name' is cut short" in refused("owner/name")


def test_only_what_is_needed_is_downloaded(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub(monkeypatch, copy)
    source = find("owner/name", SETTINGS, tiny.quiet, Event())
    assert source == Source("owner/name", copy, revision=copy.name)
    assert [a["allow_patterns"] for a in hub.asked] == [sources.DESCRIPTION]
    for name in ("model.safetensors", "pytorch_model.bin", "model.py"):
        assert not any(Path(name).match(pattern) for pattern in sources.DESCRIPTION)


def test_a_stop_ends_a_download(monkeypatch: pytest.MonkeyPatch) -> None:
    stop = Event()
    seen: list[Any] = []

    def download(model_id: str, tqdm_class: Any, **options: Any) -> str:
        with tqdm_class(total=100, unit="B", name="x") as bar:
            bar.update(25)
            stop.set()
            bar.update(25)
        raise AssertionError("went on")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(Stopped):
        find("owner/name", SETTINGS, lambda what, done: seen.append(done), stop)
    assert seen == [None, 0.25]


def test_equal_files_have_equal_fingerprints(copy: Path, tmp_path: Path) -> None:
    twin = Path(shutil.copytree(copy, tmp_path / "twin"))
    (twin / "README.md").write_text("not part of the model")
    first, second = (Source(str(f), f).fingerprint() for f in (copy, twin))
    assert first == second and re.fullmatch("[0-9a-f]{64}", first)
    assert first == Source("owner/name", copy, "revision").fingerprint()


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_one_flipped_byte_is_another_model(copy: Path, tmp_path: Path, name: str) -> None:
    before = Source("x", copy).fingerprint()
    twin = Path(shutil.copytree(copy, tmp_path / "twin"))
    path = twin / name
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    assert Source("x", twin).fingerprint() != before
    # In place too: a file of the same length, written again.
    again = copy / name
    again.write_bytes(content)
    os.utime(again, ns=(1, 1))
    assert Source("x", copy).fingerprint() == Source("x", twin).fingerprint()


def test_a_fingerprint_without_the_weights_at_hand(copy: Path, tmp_path: Path) -> None:
    """What the Hub says of its files stands in for files that were not downloaded."""
    whole = Source("x", copy).fingerprint()
    hashes = tuple((p.name, sources.file_hash(p)) for p in Source("x", copy).weight_files())
    described = Path(shutil.copytree(copy, tmp_path / "described"))
    (described / "model.safetensors").unlink()
    assert Source("x", described, weight_hashes=hashes).fingerprint() == whole
    assert Source("x", described).fingerprint() != whole


def test_the_hubs_cache_is_not_read_to_be_hashed(copy: Path, tmp_path: Path) -> None:
    """Its large files are named by their hash."""
    blob = tmp_path / sources.file_hash(copy / "model.safetensors")
    shutil.move(copy / "model.safetensors", blob)
    (copy / "model.safetensors").symlink_to(blob)
    blob.chmod(0o000)
    assert sources.file_hash(copy / "model.safetensors") == blob.name


def test_code_of_a_model_is_never_trusted() -> None:
    found = 0
    for path in [ROOT / "app.py", *sorted((ROOT / "lwq_ui").rglob("*.py"))]:
        for line in path.read_text(encoding="utf-8").splitlines():
            if "trust_remote_code" in line and "trust_remote_code=" in line.replace(" ", ""):
                assert "trust_remote_code=False" in line.replace(" ", "")
                found += 1
            assert "HF_HUB_TRUST" not in line and "resolve_trust_remote_code" not in line
    assert found >= 3
