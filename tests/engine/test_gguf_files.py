"""GGUF files by name: in a folder, in a set, on the Hub; and what is wrong with them."""

from __future__ import annotations

import struct
from pathlib import Path

import fake_hub
import gguf_models
import pytest
import tiny
from gguf import GGUFReader
from model_files import Online, sentence

from lwq_ui.core.errors import UserError
from lwq_ui.core.run import Run
from lwq_ui.core.settings import Settings
from lwq_ui.engine.checkpoints.finding import find
from lwq_ui.engine.checkpoints.gguf_source import GgufSource
from lwq_ui.engine.models import loading
from lwq_ui.engine.models.description import describe

FILE = f"{fake_hub.NAME}:model.gguf"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gguf")
    return gguf_models.write(gguf_models.build("llama"), folder / "model.gguf", "Q8_0")


@pytest.fixture
def path(written: Path, tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    copy = tmp_path / "model" / "model.gguf"
    copy.write_bytes(written.read_bytes())
    return copy


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return tiny.run(settings=Settings(cache=tmp_path / "cache"))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Online:
    return Online(tmp_path, monkeypatch)


def refused(model_id: str, run: Run) -> str:
    with pytest.raises(UserError) as caught:
        find(model_id, run)
    return sentence(caught.value)


def test_a_file_and_its_folder_are_the_same_model(path: Path, run: Run) -> None:
    by_file, by_folder = find(str(path), run), find(str(path.parent), run)
    assert by_file.fingerprint() == by_folder.fingerprint()
    assert by_file.quantized_as() == by_folder.quantized_as() == "Q8_0"


def test_a_folder_of_transformers_stays_one(path: Path, run: Run) -> None:
    tiny.save(tiny.build("llama"), path.parent)
    assert not isinstance(find(str(path.parent), run), GgufSource)
    assert isinstance(find(str(path), run), GgufSource)


def test_every_tensor_as_the_package_reads_it(path: Path, run: Run) -> None:
    source = find(str(path), run)
    assert isinstance(source, GgufSource)
    tensors = source.content().headers.tensors
    read = GGUFReader(path).tensors
    assert len(tensors) == len(read)
    for tensor in read:
        entry = tensors[tensor.name]
        assert entry.dtype == tensor.tensor_type.name
        assert entry.shape == tuple(int(n) for n in reversed(tensor.shape))
        assert (entry.start, entry.bytes) == (tensor.data_offset, tensor.n_bytes)


def test_several_models_in_a_folder(path: Path, run: Run) -> None:
    (path.parent / "another.gguf").write_bytes(path.read_bytes())
    (path.parent / "mmproj-model.gguf").write_bytes(path.read_bytes())
    text = refused(str(path.parent), run)
    assert "holds several models: another.gguf (" in text and "model.gguf (" in text
    assert "mmproj" not in text and f"Name one, such as {path.parent}/another.gguf." in text


def test_a_set_by_any_of_its_files(tmp_path: Path, run: Run) -> None:
    first = gguf_models.write(gguf_models.build("llama"), tmp_path / "model.gguf", shards=3)
    files = sorted(tmp_path.glob("model-*.gguf"))
    by_first = find(str(first), run)
    assert [p.name for p in by_first.weight_files()] == [p.name for p in files]
    assert find(str(files[-1]), run).fingerprint() == by_first.fingerprint()
    assert find(str(tmp_path), run).fingerprint() == by_first.fingerprint()
    files[1].unlink()
    assert f"is incomplete: {files[1].name} is missing" in refused(str(first), run)


def test_a_part_that_was_renamed(tmp_path: Path, run: Run) -> None:
    first = gguf_models.write(gguf_models.build("llama"), tmp_path / "model.gguf", shards=3)
    alone = first.rename(tmp_path / "alone.gguf")
    assert "is a part of a model in" in refused(str(alone), run)


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.01, 0.1, 0.5, 0.999999])
def test_cut_short(share: float, path: Path, run: Run) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    text = refused(str(path), run)
    assert "model.gguf" in text and ("is cut short or damaged" in text or "no GGUF" in text)


@pytest.mark.parametrize(
    ("start", "content", "expected"),
    [
        (0, b"GGML", "is no GGUF file"),
        (4, struct.pack("<I", 1), "has GGUF's version 1"),
        (4, struct.pack(">I", 3), "is written for big-endian machines"),
        (8, struct.pack("<Q", 2**60), "is cut short or damaged"),
        (16, struct.pack("<Q", 2**60), "is cut short or damaged"),
        (24, struct.pack("<Q", 2**63), "is cut short or damaged"),
    ],
)
def test_damaged(start: int, content: bytes, expected: str, path: Path, run: Run) -> None:
    whole = bytearray(path.read_bytes())
    whole[start : start + len(content)] = content
    path.write_bytes(whole)
    assert expected in refused(str(path), run)


def test_a_file_that_is_not_there(run: Run) -> None:
    assert "There is no file '/no/such.gguf'" in refused("/no/such.gguf", run)


def test_a_type_that_is_not_known(path: Path, run: Run) -> None:
    content = path.read_bytes()
    name = b"blk.0.ffn_up.weight"
    place = content.index(name) + len(name) + 4 + 2 * 8  # dimensions, then the type
    path.write_bytes(content[:place] + struct.pack("<I", 77) + content[place + 4 :])
    assert "blk.0.ffn_up.weight in model.gguf" in refused(str(path), run)
    path.write_bytes(content[:place] + struct.pack("<I", 24) + content[place + 4 :])  # I8
    with pytest.raises(UserError, match="is of the type I8, which cannot be de-quantized"):
        describe(find(str(path), run))


def test_the_header_of_a_file_on_the_hub(path: Path, hub: Online) -> None:
    """It is described without its weights, as it is once they are here."""
    run = tiny.run(settings=hub.settings)
    with hub(path.parent):
        source = find(FILE, run, weights=False)
        info = describe(source)
        assert source.download_bytes == path.stat().st_size
        assert hub.sent_bytes(".gguf") < path.stat().st_size
    here = describe(find(str(path), run))
    assert (info.model_id, info.revision) == (FILE, fake_hub.REVISION)
    assert (info.layers, info.total_bytes) == (here.layers, here.total_bytes)


def test_a_file_of_the_hub_loads(path: Path, hub: Online) -> None:
    run = tiny.run(settings=hub.settings)
    with hub(path.parent):
        before = describe(find(FILE, run, weights=False))
        loaded = loading.load(find(FILE, run), "cpu", "auto", run)
    assert loaded.info == before
    assert loaded.is_current(run)


def test_the_only_file_of_a_repository(path: Path, hub: Online) -> None:
    run = tiny.run(settings=hub.settings)
    with hub(path.parent):
        source = find(fake_hub.NAME, run)
        assert source.model_id == FILE and source.weight_files()


def test_a_set_on_the_hub(tmp_path: Path, hub: Online) -> None:
    (tmp_path / "repository").mkdir()
    first = tmp_path / "repository" / "model.gguf"
    first = gguf_models.write(gguf_models.build("llama"), first, "Q8_0", shards=3)
    run = tiny.run(settings=hub.settings)
    with hub(first.parent):
        named = f"{fake_hub.NAME}:{first.name}"
        before = describe(find(named, run, weights=False))
        assert find(fake_hub.NAME, run, weights=False).model_id == named
        assert loading.load(find(named, run), "cpu", "auto", run).info == before


def test_several_files_of_a_repository(path: Path, hub: Online) -> None:
    (path.parent / "another.gguf").write_bytes(path.read_bytes())
    run = tiny.run(settings=hub.settings)
    with hub(path.parent):
        text = refused(fake_hub.NAME, run)
        assert "'owner/name' holds several models: another.gguf (" in text
        assert "Name one, such as owner/name:another.gguf." in text
        assert "has no file 'third.gguf'" in refused(f"{fake_hub.NAME}:third.gguf", run)


def test_a_folder_of_a_repository(path: Path, hub: Online) -> None:
    (path.parent / "q8").mkdir()
    path.rename(path.parent / "q8" / "model.gguf")
    run = tiny.run(settings=hub.settings)
    with hub(path.parent):
        named = f"{fake_hub.NAME}:q8/model.gguf"
        before = describe(find(named, run, weights=False))
        assert loading.load(find(named, run), "cpu", "auto", run).info == before
