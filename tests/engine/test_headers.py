"""What a checkpoint holds, from its headers alone: on this disk and on a server that counts."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event
from typing import Any

import fake_hub
import pytest
import tiny
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from lwq_ui.core.errors import Stopped, UserError
from lwq_ui.core.run import silent
from lwq_ui.core.settings import ROOT
from lwq_ui.engine.checkpoints import headers
from lwq_ui.engine.checkpoints.headers import Headers, hub_headers, local_headers
from lwq_ui.engine.checkpoints.quantized import PACKED_NAME
from lwq_ui.engine.checkpoints.weight_files import INDEX

FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def refused(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        local_headers(folder, "the-model")
    text = str(caught.value)
    assert "\n" not in text and text.endswith(".") and 20 < len(text) < 300
    return text


def write_index(folder: Path, weight_map: Any) -> None:
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


@pytest.fixture
def single(tmp_path: Path) -> Path:
    folder = tmp_path / "single"
    folder.mkdir()
    tensors = {
        "a": torch.arange(12, dtype=torch.bfloat16).reshape(3, 4),
        "b": torch.zeros(5, dtype=torch.float32),
        "c": torch.tensor(1.0, dtype=torch.float16),
        "d": torch.zeros(0, 7),
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    folder = tmp_path / "sharded"
    folder.mkdir()
    save_file({"a": torch.zeros(3, 4), "b": torch.zeros(5)}, folder / FIRST)
    save_file({"c": torch.zeros(2), "d": torch.zeros(6)}, folder / SECOND)
    write_index(folder, {"a": FIRST, "b": FIRST, "c": SECOND, "d": SECOND})
    return folder


def change(path: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    """The same weights behind an edited header."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    text = json.dumps(edit(header) or header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])


def test_every_tensor_is_where_its_header_says(single: Path) -> None:
    path = single / "model.safetensors"
    found = local_headers(single, "x")
    expected = load_file(path)
    assert set(found.tensors) == set(expected)
    content = path.read_bytes()
    for name, tensor in expected.items():
        entry = found.tensors[name]
        assert entry.shape == tuple(tensor.shape) and entry.file == path.name
        assert entry.parameters == tensor.numel() and entry.bytes == tensor.nbytes
        raw = content[entry.start : entry.end]
        if raw:
            read = torch.frombuffer(bytearray(raw), dtype=tensor.dtype).reshape(tensor.shape)
            assert torch.equal(read, tensor)
    assert {t.dtype for t in found.tensors.values()} == {"BF16", "F32", "F16"}
    assert found.parameters == 18 and found.bytes == 24 + 20 + 2
    assert found.sizes == {path.name: len(content)}


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_figures_are_those_of_the_loaded_model(
    family: str, folder_of: Callable[..., Path], tmp_path: Path
) -> None:
    found = local_headers(folder_of(family), "x")
    weights = load_file(folder_of(family) / "model.safetensors")
    assert found.parameters == sum(w.numel() for w in weights.values())
    assert found.bytes == sum(w.nbytes for w in weights.values())
    # The same in shards, as transformers writes them.
    tiny.build(family).save_pretrained(tmp_path, max_shard_size="20KB")
    again = local_headers(tmp_path, "x")
    assert len(again.sizes) > 1 and set(again.tensors) == set(found.tensors)
    for name, entry in again.tensors.items():
        with safe_open(tmp_path / entry.file, "pt") as file:
            assert tuple(file.get_slice(name).get_shape()) == entry.shape


def test_types_that_are_not_for_computing_are_listed(tmp_path: Path) -> None:
    tensors = {
        "scales": torch.zeros(3, dtype=torch.float8_e4m3fn),
        "packed": torch.zeros(4, dtype=torch.uint8),
        "index": torch.zeros(2, dtype=torch.int64),
        "mask": torch.zeros(5, dtype=torch.bool),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    found = local_headers(tmp_path, "x").tensors
    assert {name: (t.dtype, t.parameters) for name, t in found.items()} == {
        "scales": ("F8_E4M3", 3),
        "packed": ("U8", 4),
        "index": ("I64", 2),
        "mask": ("BOOL", 5),
    }


def test_through_json_and_back(sharded: Path) -> None:
    found = local_headers(sharded, "x")
    assert Headers.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_transformers_takes_the_single_file_first(sharded: Path) -> None:
    save_file({"whole": torch.zeros(1)}, sharded / "model.safetensors")
    assert set(local_headers(sharded, "x").tensors) == {"whole"}


def test_files_of_other_formats_are_left_alone(sharded: Path) -> None:
    before = local_headers(sharded, "x")
    for name in ("consolidated.safetensors", "adapter_model.safetensors"):
        save_file({"a": torch.zeros(3, 4)}, sharded / name)
    assert local_headers(sharded, "x") == before


# Damage. What safetensors itself refuses is refused; so is what only shows across files.


@pytest.mark.parametrize("keep", [0, 5, 8, 100, -1])
def test_cut_short(single: Path, keep: int) -> None:
    path = single / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    assert "The file model.safetensors of 'the-model' is cut short or damaged" in refused(single)


def test_something_behind_the_weights(single: Path) -> None:
    path = single / "model.safetensors"
    path.write_bytes(path.read_bytes() + b"\0")
    assert "is cut short or damaged" in refused(single)


def set_(name: str, key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda header: header[name].update({key: value})


@pytest.mark.parametrize(
    "edit",
    [
        pytest.param(set_("b", "data_offsets", [10, 30]), id="overlap"),
        pytest.param(set_("b", "data_offsets", [24, 20]), id="end before start"),
        pytest.param(set_("b", "data_offsets", [-4, 20]), id="negative"),
        pytest.param(set_("b", "data_offsets", [24]), id="one offset"),
        pytest.param(set_("b", "data_offsets", ["0", "20"]), id="offsets are text"),
        pytest.param(set_("b", "shape", 5), id="shape is a number"),
        pytest.param(set_("b", "shape", [2.5, 2]), id="shape has fractions"),
        pytest.param(lambda header: header.pop("a") and None, id="a hole"),
        pytest.param(lambda header: header["a"].pop("dtype") and None, id="no dtype"),
        pytest.param(lambda header: [1], id="a list"),
        pytest.param(lambda header: {"a": 1}, id="numbers"),
    ],
)
def test_a_damaged_header(single: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    change(single / "model.safetensors", edit)
    with pytest.raises(SafetensorError):
        load_file(single / "model.safetensors")
    assert "is cut short or damaged" in refused(single)


@pytest.mark.parametrize(
    "edit", [set_("a", "shape", [3, 5]), set_("a", "dtype", "F32"), set_("a", "dtype", "U8")]
)
def test_a_shape_that_does_not_fill_its_bytes(
    single: Path, edit: Callable[[dict[str, Any]], Any]
) -> None:
    change(single / "model.safetensors", edit)
    assert "is damaged: 24 bytes of a do not hold" in refused(single)


def test_a_type_nobody_knows(single: Path) -> None:
    change(single / "model.safetensors", set_("a", "dtype", "F5"))
    assert "The tensor a in model.safetensors of 'the-model' is of the type 'F5'" in refused(single)


def test_a_length_no_header_has(single: Path) -> None:
    (single / "model.safetensors").write_bytes((2**63).to_bytes(8, "little") + b"{}")
    assert "is cut short or damaged" in refused(single)


def test_a_missing_shard(sharded: Path) -> None:
    (sharded / SECOND).unlink()
    assert f"'the-model' is incomplete: {SECOND} is missing" in refused(sharded)


def test_a_shard_whose_content_was_deleted_from_the_cache(sharded: Path) -> None:
    (sharded / SECOND).unlink()
    (sharded / SECOND).symlink_to("nowhere")
    assert f"'the-model' is incomplete: {SECOND} is missing" in refused(sharded)


def test_a_wrong_index(sharded: Path) -> None:
    write_index(sharded, {"a": FIRST, "b": SECOND, "c": SECOND, "d": SECOND})
    found = refused(sharded)
    assert f"{INDEX} of 'the-model' belongs to other weights" in found
    assert f"looks for b in {SECOND}" in found


def test_a_tensor_in_two_shards(sharded: Path) -> None:
    save_file({"c": torch.zeros(2), "d": torch.zeros(6), "a": torch.zeros(1)}, sharded / SECOND)
    assert f"a is both in {FIRST} and in {SECOND}" in refused(sharded)


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 1}}', "\udcff"]
)
def test_a_damaged_index(sharded: Path, content: str) -> None:
    (sharded / INDEX).write_bytes(content.encode(errors="surrogateescape"))
    assert f"The file {INDEX} of 'the-model' is damaged" in refused(sharded)


def test_shards_without_an_index(sharded: Path) -> None:
    (sharded / INDEX).unlink()
    assert f"'the-model' is incomplete: {INDEX} is missing" in refused(sharded)


def test_an_index_cannot_point_out_of_the_folder(sharded: Path, single: Path) -> None:
    write_index(sharded, {"a": f"../{single.name}/model.safetensors"})
    assert "is missing" in refused(sharded)


def test_no_safetensors(tmp_path: Path) -> None:
    assert "'the-model' has no weights in safetensors' format" in refused(tmp_path)


def test_a_file_that_may_not_be_read(single: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no(*args: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", no)
    assert "model.safetensors cannot be read: Permission denied." in refused(single)


def large(folder: Path, shards: int, tensors: int) -> None:
    """The headers of a large model in front of holes that take no room on the disk."""
    folder.mkdir()
    weight_map = {}
    for s in range(shards):
        file = f"model-{s + 1:05}-of-{shards:05}.safetensors"
        header = {}
        for t in range(tensors):
            name = f"model.layers.{s}.mlp.experts.{t}.gate_proj.weight"
            offsets = [t * 2**20, (t + 1) * 2**20]
            header[name] = {"dtype": "BF16", "shape": [512, 1024], "data_offsets": offsets}
            weight_map[name] = file
        text = json.dumps(header).encode()
        with (folder / file).open("wb") as out:
            out.write(len(text).to_bytes(8, "little") + text)
            out.truncate(8 + len(text) + tensors * 2**20)
    write_index(folder, weight_map)


def test_a_large_model_takes_no_time(tmp_path: Path) -> None:
    """0.1 s of a core for 9,000 tensors, and a tenth of that for a tenth of them."""
    seconds = {}
    for tensors in (30, 300):
        folder = tmp_path / str(tensors)
        large(folder, shards=30, tensors=tensors)
        runs = []
        for _ in range(3):
            start = time.process_time()
            headers = local_headers(folder, "x")
            runs.append(time.process_time() - start)
        assert len(headers.tensors) == 30 * tensors
        assert headers.parameters == 30 * tensors * 2**19
        seconds[tensors] = min(runs)
    assert seconds[300] < 30 * seconds[30]  # 100 times as long if tensors were compared in pairs


# On the Hub.


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[fake_hub.Hub]:
    """A model of three shards, more than 99 % of which are weights."""
    folder = tmp_path / "repository"
    large(folder, shards=3, tensors=20)
    with fake_hub.serve(fake_hub.Hub(folder), monkeypatch, tmp_path / "hub") as hub:
        yield hub


def from_hub(
    hub: fake_hub.Hub,
    progress: Any = silent,
    stop: Event | None = None,
    name: str = "owner/name",
) -> Headers:
    sizes = {p.name: p.stat().st_size for p in hub.folder.glob("*.safetensors")}
    return hub_headers(
        name, fake_hub.REVISION, sizes, hub.folder, tiny.run(progress=progress, stop=stop)
    )


def test_the_same_from_the_hub_as_from_the_disk(hub: fake_hub.Hub) -> None:
    seen: list[Any] = []
    found = from_hub(hub, lambda *step: seen.append(step))
    assert found == local_headers(hub.folder, "x")
    assert list(found.tensors) == list(local_headers(hub.folder, "x").tensors)
    assert [done for _, done in seen] == [1 / 3, 2 / 3, 1]
    # One request each, for its beginning.
    assert sorted(hub.sent) == [(file, 0, headers.FIRST) for file in sorted(found.sizes)]
    assert hub.sent_bytes("safetensors") < 0.01 * sum(found.sizes.values())


def test_a_header_longer_than_the_first_request(
    hub: fake_hub.Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(headers, "FIRST", 1000)
    found = from_hub(hub)
    assert found == local_headers(hub.folder, "x")
    ends = {
        file: min(e.start for e in found.tensors.values() if e.file == file) for file in found.sizes
    }
    parts = [part for file, end in ends.items() for part in ((file, 0, 1000), (file, 1000, end))]
    assert sorted(hub.sent) == sorted(parts)  # no byte twice, none of a weight


def test_a_file_shorter_than_the_first_request(
    single: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fake_hub.serve(fake_hub.Hub(single), monkeypatch, tmp_path / "hub") as hub:
        assert from_hub(hub) == local_headers(single, "x")


def test_damage_on_the_hub(hub: fake_hub.Hub) -> None:
    change(next(hub.folder.glob("*-00002-*")), lambda header: header.popitem() and None)
    with pytest.raises(UserError, match=r"00002-of-00003\.safetensors of 'owner/name' is cut"):
        from_hub(hub)


def test_a_server_that_sends_whole_files_only(hub: fake_hub.Hub) -> None:
    hub.ranges = False
    with pytest.raises(UserError, match="sends whole files only"):
        from_hub(hub)


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (403, "GatedRepo", "'owner/name' is gated: accept its licence"),
        (404, "RepoNotFound", "Hugging Face knows no model 'owner/name'"),
        (404, "EntryNotFound", "Hugging Face did not send 'owner/name': 404 Client Error."),
        (500, "", "Hugging Face did not send 'owner/name'"),
    ],
)
def test_what_the_hub_answers(hub: fake_hub.Hub, status: int, code: str, expected: str) -> None:
    hub.refuses = (status, code)
    with pytest.raises(UserError) as caught:
        from_hub(hub)
    assert expected in str(caught.value) and "\n" not in str(caught.value)


def test_a_stop_ends_it(hub: fake_hub.Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(headers, "CONNECTIONS", 1)
    stop = Event()
    with pytest.raises(Stopped):
        from_hub(hub, lambda *step: stop.set(), stop)
    assert len(hub.sent) < 3


def test_without_a_network(single: Path) -> None:
    """huggingface_hub in its offline mode (see conftest.py)."""
    hub = fake_hub.Hub(single)
    with pytest.raises(UserError, match="not on this disk and Hugging Face cannot be reached"):
        from_hub(hub)


def test_bits_of_a_type_are_those_of_safetensors(tmp_path: Path) -> None:
    """Every type torch can write: bytes = values x bits / 8."""
    for dtype in (torch.float64, torch.complex64, torch.uint16, torch.float8_e5m2, torch.int8):
        tensor = torch.zeros(6, dtype=dtype)
        save_file({"a": tensor}, tmp_path / "model.safetensors")
        entry = local_headers(tmp_path, "x").tensors["a"]
        assert (
            entry.bytes == math.prod(entry.shape) * headers.BITS[entry.dtype] // 8 == tensor.nbytes
        )


def test_random_damage_is_a_sentence_or_harmless(single: Path) -> None:
    """Whatever byte of a header is flipped: either safetensors still reads the file and we agree on
    what it holds, or a sentence, never anything else."""
    path = single / "model.safetensors"
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    pick = random.Random(0)
    for _ in range(200):
        damaged = bytearray(content)
        damaged[pick.randrange(8 + length)] = pick.randrange(256)
        path.write_bytes(damaged)
        try:
            found: Headers | None = local_headers(single, "x")
        except UserError:
            found = None
        try:
            read = load_file(path)
        except (SafetensorError, UnicodeDecodeError):
            read = None
        if found is not None and read is not None:
            assert {n: e.shape for n, e in found.tensors.items()} == {
                n: tuple(t.shape) for n, t in read.items()
            }


def test_the_page_can_ask_before_torch_is_loaded() -> None:
    names = ("headers", "hub", "source", "search")
    lines = [f"import sys, {', '.join(f'lwq_ui.engine.checkpoints.{n}' for n in names)}"]
    lines += ["print(sorted({'torch', 'transformers', 'huggingface_hub'} & set(sys.modules)))"]
    run = [sys.executable, "-c", "\n".join(lines)]
    assert subprocess.check_output(run, cwd=ROOT, text=True).strip() == "[]"


def test_blocks_of_a_vision_tower_are_not_packed() -> None:
    assert not PACKED_NAME.search("model.visual.blocks.0.attn.qkv.weight")
    assert PACKED_NAME.search("model.layers.0.mlp.experts.gate_up_proj_blocks")
