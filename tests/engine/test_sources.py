"""Where models come from: one clear sentence for everything that can go wrong."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import fake_hub
import huggingface_hub
import pytest
import tiny
import torch
import transformers
from huggingface_hub import errors
from safetensors.torch import load_file, save_file

from lwq_ui.core.errors import Stopped, UserError
from lwq_ui.core.memory import format_gib
from lwq_ui.core.run import silent
from lwq_ui.core.settings import ROOT, Settings
from lwq_ui.engine.checkpoints import source as sources
from lwq_ui.engine.checkpoints.fingerprint import HASHES
from lwq_ui.engine.checkpoints.headers import local_headers
from lwq_ui.engine.checkpoints.hub import HubFile
from lwq_ui.engine.checkpoints.quantized import QUANTIZED_FILES
from lwq_ui.engine.checkpoints.source import Source, find
from lwq_ui.engine.models.description import describe
from lwq_ui.engine.models.loading import load

SETTINGS = Settings(cache=Path("unused"))


def refused(model_id: str, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        find(model_id, tiny.run(settings=SETTINGS), **options)
    return sentence(caught.value)


def sentence(error: UserError) -> str:
    """What a person reads: whole sentences on one line, without a class name or a traceback."""
    text = str(error)
    assert "\n" not in text and "Traceback" not in text
    assert not re.search(r"\b\w+(Error|Exception)\b", text), text
    assert text[0] in "'ATtFOHPNG" and text.endswith(".")
    assert 20 < len(text) < 500
    return text


@pytest.fixture
def copy(folder_of: Callable[..., Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder_of("llama"), tmp_path / "model"))


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


class Online(fake_hub.Hub):
    """A server with the model of a folder, and where its files and our cache go."""

    @contextmanager
    def __call__(self, folder: Path) -> Iterator[Online]:
        self.folder = folder
        with fake_hub.serve(self, self.monkeypatch, self.root / "hub"):
            yield self

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch):
        super().__init__(root)
        self.root, self.monkeypatch = root, monkeypatch
        self.settings = Settings(cache=root / "cache")

    def find(self, stop: Event | None = None, progress: Any = silent, **options: Any) -> Source:
        return find(
            fake_hub.NAME, tiny.run(progress=progress, settings=self.settings, stop=stop), **options
        )

    def refused(self) -> str:
        with pytest.raises(UserError) as caught:
            self.find()
        return sentence(caught.value)


@pytest.fixture
def online(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Online:
    return Online(tmp_path, monkeypatch)


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    folder = tmp_path / "shards"
    tiny.build("llama").save_pretrained(folder, max_shard_size="20KB")
    assert len(list(folder.glob("*.safetensors"))) > 3
    return folder


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


def test_a_missing_shard_without_headers(copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "pytorch_model-00001-of-00002.bin")
    names = [f"pytorch_model-0000{n}-of-00002.bin" for n in (1, 2)]
    index = {"weight_map": dict(zip("ab", names, strict=True))}
    (copy / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    assert f"is incomplete: {names[1]} is missing" in refused(str(copy))


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


VOCABULARIES = [
    *("vocab.json", "vocab.txt", "merges.txt", "tokenizer.model", "tiktoken.model"),
    *("spiece.model", "sentencepiece.bpe.model", "tekken.json", "tokenizer.4.0.json"),
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("generation_config.json", "chat_template.jinja", "chat_template.json"),
]


@pytest.mark.parametrize("name", VOCABULARIES)
def test_every_file_that_is_read_is_part_of_the_model(copy: Path, name: str) -> None:
    (copy / name).write_text('{"a": 1}')
    first = Source("x", copy).fingerprint()
    (copy / name).write_text('{"a": 2}')
    second = Source("x", copy).fingerprint()
    (copy / name).unlink()
    assert len({first, second, Source("x", copy).fingerprint()}) == 3


def test_every_vocabulary_of_transformers_is_read() -> None:
    """Whatever a tokenizer's class there calls its files: they are downloaded and hashed."""
    tables = []
    for path in Path(transformers.__file__).parent.rglob("tokenization_*.py"):
        tables += re.findall(r"VOCAB_FILES_NAMES = {(.*?)}", path.read_text("utf-8"), re.S)
    names = {name for table in tables for name in re.findall(r': "([\w.-]+\.\w+)"', table)}
    assert {"spiece.model", "vocab.txt", "source.spm", "bpe.codes"} <= names and len(names) > 20
    for patterns in (sources.READ, sources.DESCRIPTION):
        assert not [n for n in names if not any(Path(n).match(pattern) for pattern in patterns)]


def test_what_nobody_reads_is_no_part_of_the_model(copy: Path) -> None:
    before = Source("x", copy).fingerprint()
    for name in ("README.md", "LICENSE.txt", "notes.txt", "trainer_state.json", "lwq.json"):
        (copy / name).write_text("{}")
    (copy / ".tokenizer.model").write_text("a Mac's")
    (copy / "vocab.txt").mkdir()
    os.mkfifo(copy / "merges.txt")
    assert Source("x", copy).fingerprint() == before


def test_another_file_in_the_place_of_one_is_seen(copy: Path, tmp_path: Path) -> None:
    """Of the same length and, as some copies are, of the same time."""
    path = copy / "config.json"
    before, stat = Source("x", copy).fingerprint(), path.stat()
    other = tmp_path / "other.json"
    other.write_text(path.read_text().replace('"vocab_size": 4096', '"vocab_size": 4095'))
    os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    other.replace(path)
    assert path.stat().st_mtime_ns == stat.st_mtime_ns and path.stat().st_size == stat.st_size
    assert Source("x", copy).fingerprint() != before


def test_a_fingerprint_without_the_weights_at_hand(copy: Path, tmp_path: Path) -> None:
    """What the Hub says of its files stands in for files that were not downloaded."""
    whole = Source("x", copy).fingerprint()
    files = Source("x", copy).weight_files()
    on_hub = tuple(HubFile(p.name, p.stat().st_size, HASHES.get(p)) for p in files)
    described = Path(shutil.copytree(copy, tmp_path / "described"))
    (described / "model.safetensors").unlink()
    assert Source("x", described, on_hub=on_hub).fingerprint() == whole
    assert Source("x", described).fingerprint() != whole


def test_the_hubs_cache_is_not_read_to_be_hashed(copy: Path, tmp_path: Path) -> None:
    """Its large files are named by their hash."""
    blob = tmp_path / HASHES.get(copy / "model.safetensors")
    shutil.move(copy / "model.safetensors", blob)
    (copy / "model.safetensors").symlink_to(blob)
    blob.chmod(0o000)
    assert HASHES.get(copy / "model.safetensors") == blob.name


def test_code_of_a_model_is_never_trusted() -> None:
    found = 0
    for path in [ROOT / "app.py", *sorted((ROOT / "lwq_ui").rglob("*.py"))]:
        for line in path.read_text(encoding="utf-8").splitlines():
            if "trust_remote_code" in line and "trust_remote_code=" in line.replace(" ", ""):
                assert "trust_remote_code=False" in line.replace(" ", "")
                found += 1
            assert "HF_HUB_TRUST" not in line and "resolve_trust_remote_code" not in line
    assert found >= 3
