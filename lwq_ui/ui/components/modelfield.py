"""The field where a model is named: it takes anything, and offers what it knows while one types."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from typing import Any

from ...core.built_in import DEMO
from ...core.memory import format_gib
from ...engine.checkpoints.gguf_source import SeveralModels
from ...engine.checkpoints.search import CURATED, Answer, FoundModel, built_in, search
from .base import AssetComponent

LONGEST = 200  # characters that are looked for; no id has as many


def complete(text: str) -> str:
    """Returns what to offer for `text`, as JSON: models on this disk, the curated list, and what
    the Hub finds. Takes a moment; the browser asks for it beside everything else."""
    query = str(text)[:LONGEST].strip()
    return offers(query, search(query))


def offers(query: str, answer: Answer) -> str:
    """Returns the models of each group as JSON. No model is named twice."""
    words = query.lower().split()
    on_disk = [f for f in answer.models if f.on_disk]
    files = [f for f in answer.models if f.bytes is not None]
    names = {f.model_id for f in (*on_disk, *files)}
    curated = [
        f
        for f in CURATED
        if f.model_id not in names and all(word in f.model_id.lower() for word in words)
    ]
    names |= {f.model_id for f in curated}
    groups = {
        "Models in GGUF files, smallest first": files,
        "On this disk": on_disk,
        "Well known, by billions (B) of parameters": curated,
        "On Hugging Face, most downloaded first": [
            f for f in answer.models if f.model_id not in names
        ],
    }
    data = {
        "asked": query,
        "groups": [{"title": t, "models": list(rows(m))} for t, m in groups.items() if m],
        "note": answer.reason,
    }
    return json.dumps(data, separators=(",", ":"))


def rows(models: Iterable[FoundModel]) -> Iterable[dict[str, str]]:
    for f in models:
        remarks = [f.remark, "needs a sign-in" if f.gated else ""]
        yield {
            "id": f.model_id,
            "size": size_text(f),
            "remark": ", ".join(filter(None, remarks)),
        }


def size_text(f: FoundModel) -> str:
    if f.bytes is not None:
        return format_gib(f.bytes)
    return f"{f.billions:.3g} B" if f.billions else ""


def choices_offered(name: str, several: SeveralModels) -> str:
    """Returns what the field offers where `name` stands for several models, as JSON. It offers them
    as long as it holds that name."""
    models = tuple(FoundModel(choice, bytes=size) for choice, size in several.choices)
    answer = Answer(models, "Choose one of them, then go on.")
    # The time tells two equal ones apart: the browser opens the list for each.
    return json.dumps({**json.loads(offers(name, answer)), "kept": True, "at": time.time()})


class ModelField(AssetComponent):
    """A text field with a list of offers below it while it has the focus. Its value is its text.
    Its event is `.submit`: Enter where no offer is marked. `gr.update(offers=choices_offered(...))`
    opens the list with what a name may mean.

    Not gr.Dropdown: Enter there takes the first offer that begins with what was typed, so that
    'Qwen/Qwen3-8B' would load 'Qwen/Qwen3-8B-Base'.
    """

    asset = "modelfield"

    def __init__(self, value: str = DEMO, **options: Any) -> None:
        options.setdefault("offers", offers("", Answer(built_in())))  # an update brings its own
        super().__init__(value, server_functions=[complete], **options)

    def preprocess(self, payload: Any) -> str:
        return str(payload or "").strip()

    def api_info(self) -> dict[str, Any]:
        return {"type": "string"}
