"""Models on the Hub: what is known of them, what is downloaded, and what can go wrong."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import socket
from pathlib import Path
from threading import Event
from typing import Any

import huggingface_hub
import pytest
import tiny
import torch
from huggingface_hub import errors
from model_files import SETTINGS, Online, refused
from safetensors.torch import load_file, save_file

from lwq_ui.core.errors import Stopped, UserError
from lwq_ui.core.memory import format_gib
from lwq_ui.engine.checkpoints import source as sources
from lwq_ui.engine.checkpoints.finding import find
from lwq_ui.engine.checkpoints.headers import local_headers
from lwq_ui.engine.checkpoints.source import Source
from lwq_ui.engine.models.description import describe
from lwq_ui.engine.models.loading import load


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
    source = find("owner/name", tiny.run(settings=SETTINGS), weights=False)
    assert source == Source("owner/name", copy, revision=copy.name)


def test_a_repository_without_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Hub(monkeypatch, tmp_path)
    assert "is not a transformers model" in refused("owner/name-GGUF")


def test_a_repository_without_weights(copy: Path, online: Online) -> None:
    (copy / "model.safetensors").unlink()
    with online(copy) as hub:
        assert "'owner/name' has no weights" in hub.refused()
        source = hub.find(weights=False)
        assert source.on_hub == () and source.download_bytes == 0
        with pytest.raises(UserError, match="has no weights"):
            source.headers(tiny.run())


def test_a_download_that_arrived_cut_short(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    Hub(monkeypatch, copy)
    assert "'owner/name' is cut short" in refused("owner/name")


def test_only_what_is_needed_is_downloaded(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub(monkeypatch, copy)
    source = find("owner/name", tiny.run(settings=SETTINGS))
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
        find(
            "owner/name",
            tiny.run(progress=lambda what, done: seen.append(done), settings=SETTINGS, stop=stop),
        )
    assert seen == [None, 0.25]


def test_known_before_downloading(shards: Path, online: Online) -> None:
    """From the real huggingface_hub and a server that notes what it sends: no weight is sent, all
    is known, and what is known does not change by downloading."""
    sizes = {p.name: p.stat().st_size for p in shards.glob("*.safetensors")}
    with online(shards) as hub:
        before = hub.find(weights=False)
        assert hub.sent_bytes("safetensors") == 0
        assert before.weight_files() == [] and before.download_bytes == sum(sizes.values())
        headers = before.headers(tiny.run())
        assert headers == local_headers(shards, "x")
        fingerprint = before.fingerprint()

        hub.sent.clear()
        after = hub.find()
        assert {n: end - start for n, start, end in hub.sent if n in sizes} == sizes
        assert after.download_bytes == 0 and after.headers(tiny.run()) == headers
        assert after.fingerprint() == fingerprint
        hub.asked.clear()
        hub.sent.clear()
        again = hub.find()
        assert again.headers(tiny.run()) == headers and hub.sent == []
        assert again.fingerprint() == fingerprint


def test_headers_are_fetched_once(shards: Path, online: Online, request: Any) -> None:
    with online(shards) as hub:
        first = hub.find(weights=False)
        headers = first.headers(tiny.run())
        hub.sent.clear()
        assert hub.find(weights=False).headers(tiny.run()) == headers
        assert hub.sent == []
        # Without a network too, all that was known is known.
        request.getfixturevalue("no_network")
        huggingface_hub.close_session()
        second = hub.find(weights=False)
        assert second == first and second.fingerprint() == first.fingerprint()
        assert second.headers(tiny.run()) == headers


def test_what_was_never_asked_is_not_known_without_a_network(
    shards: Path, online: Online, request: Any
) -> None:
    with online(shards) as hub:
        hub.find(weights=False)
        shutil.rmtree(hub.settings.cache)
        request.getfixturevalue("no_network")
        huggingface_hub.close_session()
        source = hub.find(weights=False)
        assert source.on_hub is None and source.download_bytes is None
        with pytest.raises(UserError, match="Hugging Face cannot be reached"):
            source.headers(tiny.run())


def test_a_download_that_was_stopped_goes_on(shards: Path, online: Online) -> None:
    with online(shards) as hub:
        folder = hub.find().folder
        gone = sorted(folder.glob("*.safetensors"))[1]
        gone.resolve().unlink()
        gone.unlink()
        size = (shards / gone.name).stat().st_size
        assert hub.find(weights=False).download_bytes == size
        hub.sent.clear()
        assert hub.find().download_bytes == 0
        assert hub.sent == [(gone.name, 0, size)]


def test_the_disk_is_full(shards: Path, online: Online, monkeypatch: pytest.MonkeyPatch) -> None:
    with online(shards) as hub:
        needed = hub.find(weights=False).download_bytes
        assert needed
        real = shutil.disk_usage(shards)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: real._replace(free=needed - 1))
        found = hub.refused()
        size = format_gib(needed)
        assert found.startswith(f"'owner/name' needs {size} on the disk, where {size} are")
        assert hub.sent_bytes("safetensors") == 0
        monkeypatch.setattr(shutil, "disk_usage", lambda path: real._replace(free=needed))
        assert hub.find().download_bytes == 0


def test_weights_without_headers(copy: Path, online: Online) -> None:
    """pytorch_model.bin: its size is known before, its tensors are not."""
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    size = (copy / "pytorch_model.bin").stat().st_size
    assert Source("x", copy).headers(tiny.run()) is None
    with online(copy) as hub:
        source = hub.find(weights=False)
        assert source.download_bytes == size and source.headers(tiny.run()) is None
        assert hub.find().headers(tiny.run()) is None and hub.sent_bytes("bin") == size


def test_only_one_format_of_the_weights_is_counted(copy: Path, online: Online) -> None:
    for name in ("consolidated.safetensors", "pytorch_model.bin", "model.gguf"):
        shutil.copy(copy / "model.safetensors", copy / name)
    with online(copy) as hub:
        assert [f.name for f in hub.find(weights=False).on_hub or ()] == ["model.safetensors"]


def stray(folder: Path) -> None:
    """Files of other formats, which transformers does not read."""
    for name in ("consolidated.safetensors", "adapter_model.safetensors", "extra.safetensors"):
        save_file({"a": torch.zeros(3)}, folder / name)
    for name in ("optimizer.bin", "training_args.bin", "model.gguf"):
        (folder / name).write_bytes(b"x")


def pickled(folder: Path) -> Path:
    """The weights of a folder as torch saves them."""
    weights = load_file(folder / "model.safetensors")
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


def in_a_subfolder(folder: Path) -> Path:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    (folder / "shards").mkdir()
    half = dict(list(weights.items())[: len(weights) // 2])
    rest = {name: tensor for name, tensor in weights.items() if name not in half}
    save_file(half, folder / "shards" / "one.safetensors", metadata={"format": "pt"})
    save_file(rest, folder / "two.safetensors", metadata={"format": "pt"})
    weight_map = dict.fromkeys(half, "shards/one.safetensors")
    weight_map |= dict.fromkeys(rest, "two.safetensors")
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


@pytest.mark.parametrize("made", [Path, pickled, in_a_subfolder, "shards"])
def test_what_transformers_does_not_read_changes_nothing(
    copy: Path, shards: Path, tmp_path: Path, made: Any, online: Online
) -> None:
    """The same files, fingerprint and figures with and without weights of other formats beside
    them, from this disk and from the Hub."""
    folder = shards if made == "shards" else made(copy)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny.DEMO / name, folder / name)
    plain = find(str(folder), tiny.run(settings=SETTINGS))
    expected, info = plain.fingerprint(), describe(plain)
    files = [p.relative_to(folder).as_posix() for p in plain.weight_files()]
    loaded = load(plain, "cpu", "auto", tiny.run())
    assert loaded.info == info
    stray(folder)
    again = find(str(folder), tiny.run(settings=SETTINGS))
    assert [p.relative_to(folder).as_posix() for p in again.weight_files()] == files
    assert again.fingerprint() == expected and describe(again) == info
    state = load(again, "cpu", "auto", tiny.run()).model
    assert tiny.state_hash(state) == tiny.state_hash(loaded.model)
    with online(folder) as hub:
        before = hub.find(weights=False)
        assert sorted(f.name for f in before.on_hub or ()) == files
        assert before.fingerprint() == expected
        after = hub.find()
        assert after.fingerprint() == expected and after.download_bytes == 0
        assert sorted(
            {name for name, *_ in hub.sent if name.endswith((".safetensors", ".bin"))}
        ) == (files)
