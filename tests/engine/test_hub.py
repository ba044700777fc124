"""Completing the name of a model: from this disk, and from the Hub where it answers in time."""

from __future__ import annotations

import json
import re
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event
from typing import Any

import fake_hub
import huggingface_hub
import pytest
from huggingface_hub import HfApi, constants

import lwq_ui.engine.checkpoints.search as searching
from lwq_ui.engine.checkpoints.finding import HUB_ID
from lwq_ui.engine.checkpoints.search import CURATED, FoundModel, search

# As the Hub sends them, cut to what matters.
MODELS: list[dict[str, Any]] = [
    {
        "_id": "1",
        "id": "Qwen/Qwen3-0.6B",
        "gated": False,
        "tags": [
            "transformers",
            "safetensors",
            "qwen3",
            "base_model:finetune:Qwen/Qwen3-0.6B-Base",
        ],
        "safetensors": {"parameters": {"BF16": 751632384}, "total": 751632384},
    },
    {
        "_id": "2",
        "id": "Qwen/Qwen3-8B-AWQ",
        "gated": False,
        "tags": ["safetensors", "awq", "4-bit", "base_model:quantized:Qwen/Qwen3-8B"],
        "safetensors": {"parameters": {"I32": 1}, "total": 2174235648},
    },
    {"_id": "3", "id": "meta/like-qwen", "gated": "manual", "tags": [], "safetensors": None},
    {"_id": "4", "id": "someone/qwen", "gated": "auto"},
]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(searching, "is_installed", lambda: False)  # no wheel, as CI may have
    return tmp_path / "hub"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[fake_hub.Hub]:
    with fake_hub.serve(fake_hub.Hub(tmp_path), monkeypatch, tmp_path / "hub") as server:
        server.models = MODELS
        yield server


def put(cache: Path, name: str, files: dict[str, Any]) -> None:
    """A model as huggingface_hub keeps it: contents once, and links with the names."""
    root = cache / ("models--" + name.replace("/", "--"))
    snapshot = root / "snapshots" / fake_hub.REVISION
    for folder in (root / "blobs", snapshot, root / "refs"):
        folder.mkdir(parents=True)
    (root / "refs" / "main").write_text(fake_hub.REVISION)
    for i, (file, content) in enumerate(files.items()):
        (root / "blobs" / str(i)).write_text(json.dumps(content))
        (snapshot / file).symlink_to(root / "blobs" / str(i))


CAUSAL = {"architectures": ["LlamaForCausalLM"]}


def ids(text: str) -> list[str]:
    return [f.model_id for f in search(text).models]


def test_the_hub_is_asked_and_what_is_packed_already_left_out(server: fake_hub.Hub) -> None:
    answer = search(" qwen ")
    assert answer.reason == ""
    assert answer.models == (
        FoundModel("Qwen/Qwen3-0.6B", billions=0.751632384),
        FoundModel("meta/like-qwen", gated=True),
        FoundModel("someone/qwen", gated=True),
    )
    assert len(search("qwen", limit=1).models) == 1


def test_the_same_question_as_huggingface_hub_asks(server: fake_hub.Hub) -> None:
    search("qwen")
    list(
        HfApi(endpoint=constants.ENDPOINT).list_models(
            search="qwen",
            filter="safetensors",
            pipeline_tag="text-generation",
            sort="downloads",
            limit=32,
            expand=["safetensors", "gated", "tags"],
        )
    )
    ours, theirs = [asked for asked in server.asked if asked[0] == "/api/models"]
    assert ours == theirs


def test_a_model_on_this_disk_comes_first_and_once(server: fake_hub.Hub, cache: Path) -> None:
    put(cache, "someone/qwen", {"config.json": CAUSAL, "model.safetensors": ""})
    put(cache, "someone/other", {"config.json": CAUSAL, "model.safetensors": ""})
    assert ids("qwen") == ["someone/qwen", "Qwen/Qwen3-0.6B", "meta/like-qwen"]
    assert search("QWEN").models[0] == FoundModel("someone/qwen", on_disk=True)
    assert ids("demo")[0] == "demo"


def test_what_on_this_disk_is_a_causal_language_model(cache: Path) -> None:
    weights = {"model-00001-of-00002.safetensors": ""}
    put(cache, "a/llama", {"config.json": CAUSAL, **weights})
    put(
        cache,
        "gpt2",
        {"config.json": {"architectures": ["GPT2LMHeadModel"]}, "pytorch_model.bin": ""},
    )
    put(cache, "a/bert", {"config.json": {"architectures": ["BertForMaskedLM"]}, **weights})
    put(cache, "a/described-only", {"config.json": CAUSAL})
    put(cache, "a/weights-only", weights)
    put(cache, "a/silent", {"config.json": {}, **weights})
    put(cache, "a/damaged", {"config.json": [], **weights})
    assert [f.model_id for f in searching.on_disk()] == ["demo", "a/llama", "gpt2"]
    assert ids("llama") == ["a/llama"]
    shutil.rmtree(cache)
    assert [f.model_id for f in searching.on_disk()] == ["demo"]


def test_offline_by_choice(cache: Path) -> None:
    """huggingface_hub in its offline mode (see conftest.py)."""
    answer = search("demo")
    assert [f.model_id for f in answer.models] == ["demo"]
    assert answer.reason == "Hugging Face is not asked: HF_HUB_OFFLINE is set."


search_ended = Event()


def unresolved(*args: Any, **kwargs: Any) -> Any:
    raise socket.gaierror(-3, "Temporary failure in name resolution")


def unanswered(*args: Any, **kwargs: Any) -> Any:
    search_ended.wait(60)
    raise TimeoutError


@pytest.mark.parametrize(
    ("look_up", "seconds", "expected"),
    [(unresolved, 60, "cannot be reached"), (unanswered, 0.2, "within 0.2 seconds")],
)
def test_no_network(
    look_up: Callable[..., Any],
    seconds: float,
    expected: str,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(searching, "SECONDS", seconds)
    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(socket, "create_connection", look_up)
    huggingface_hub.close_session()
    search_ended.clear()  # a network that does not answer is silent until the search has ended
    try:
        answer = search("demo")
    finally:
        search_ended.set()
    assert [f.model_id for f in answer.models] == ["demo"] and expected in answer.reason


def test_a_hub_that_refuses(server: fake_hub.Hub) -> None:
    server.refuses = (429, "")
    answer = search("qwen")
    assert answer.models == () and "\n" not in answer.reason
    assert answer.reason.startswith("Hugging Face does not answer this search: ")


def test_an_answer_nobody_understands(server: fake_hub.Hub) -> None:
    server.models = [{"name": "x"}]
    assert search("qwen").models == ()


@pytest.mark.parametrize(
    "text", ["", "  ", "/home/me/model", "./m", "~/m", "C:\\m", "a/b/c", "http://x"]
)
def test_what_cannot_be_a_name_stays_here(server: fake_hub.Hub, text: str) -> None:
    search(text)
    assert server.asked == []


def test_the_curated_list() -> None:
    ids = [f.model_id for f in CURATED]
    assert len(ids) == len(set(ids)) and all(map(HUB_ID.fullmatch, ids))
    sizes = [f.billions or 0 for f in CURATED]
    assert sizes == sorted(sizes) and sizes[0] < 0.2 and sizes[-1] > 70
    for f in CURATED:  # what a name says of the size is what the list says
        said = re.search(r"-(\d+(?:\.\d+)?)(m|b)\b", f.model_id.lower())
        if said and "8x7" not in f.model_id and f.billions:
            billions = float(said[1]) / (1000 if said[2] == "m" else 1)
            assert f.billions == pytest.approx(billions, rel=0.5), f.model_id
        assert f.gated == f.model_id.startswith(("meta-llama/", "google/"))
