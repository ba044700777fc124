"""Writing on within a model's positions, and never from values that are not numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from lwq_ui.core.errors import UserError
from lwq_ui.core.store import Store
from lwq_ui.core.writing import Prompt
from lwq_ui.engine import jobs
from lwq_ui.engine.generation import OnlyNumbers, fit_prompt
from lwq_ui.engine.models.loading import LoadedModel

PROMPT = "The old man opened the door and looked at the river. "


def written(loaded: LoadedModel, store: Store, prompt: str, most: int) -> list[Any]:
    split = (4,) * loaded.info.num_layers
    return list(jobs.generate(loaded, split, tiny.QUANTO, Prompt(prompt, 0, most), tiny.run(store)))


@pytest.mark.parametrize(
    "positions, prompt, most, kept, room",
    [
        (64, PROMPT, 80, 13, 51),  # on commit 60eb633: IndexError
        (64, PROMPT * 9, 80, 32, 32),
        (64, PROMPT * 9, 20, 44, 20),
        (64, PROMPT, 20, 13, 20),
        (64, "", 80, 1, 63),
        (2, PROMPT, 80, 1, 1),
        (1, PROMPT, 80, 1, 1),
    ],
)
def test_writing_has_room(
    positions: int,
    prompt: str,
    most: int,
    kept: int,
    room: int,
    loaded_of: Callable[..., LoadedModel],
    store: Store,
) -> None:
    if positions == 64:  # learned positions: one more is an error
        loaded = loaded_of("gpt2", n_positions=64)
    else:  # too few for the check at loading
        usual = loaded_of("gpt2", n_positions=64)
        info = replace(usual.info, max_tokens=positions)
        loaded = replace(usual, info=info)
    tokens, new = fit_prompt(loaded, prompt, most)
    assert (len(tokens), new) == (kept, room)
    if prompt:  # the end of a prompt is what a text goes on from
        assert tokens == loaded.tokenizer(prompt)["input_ids"][-kept:]
    texts = written(loaded, store, prompt, most)
    assert 2 <= len(texts) <= 1 + room and {w.room for w in texts} == {room}


@pytest.mark.parametrize("config_has", [True, False])
def test_nothing_to_begin_with(config_has: bool, tmp_path: Path, store: Store) -> None:
    model = tiny.build("llama")
    if not config_has:
        model.config.bos_token_id = model.config.eos_token_id = model.config.pad_token_id = None
    folder = tiny.save(model, tmp_path / "model")
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({k: v for k, v in config.items() if not k.endswith("_token")}))
    loaded = tiny.load(folder)
    if config_has:
        assert written(loaded, store, "", 5)
    else:
        with pytest.raises(UserError, match="no token that begins a text"):
            written(loaded, store, "", 5)
    assert written(loaded, store, "The", 5)


def test_a_prompt_with_a_token_that_has_no_embedding(tmp_path: Path, store: Store) -> None:
    folder = tiny.save(tiny.build("llama"), tmp_path / "model")
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    added = {**tokenizer["added_tokens"][0], "id": tiny.VOCABULARY, "content": "[PAD]"}
    tokenizer["added_tokens"].append(added)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    loaded = tiny.load(folder)
    with pytest.raises(UserError, match=r"token 4096 \('\[PAD\]'\) .* 4096 tokens only"):
        written(loaded, store, "The [PAD]", 5)
    assert written(loaded, store, "The", 5)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_no_text_of_values_that_are_not_numbers(value: float, tmp_path: Path, store: Store) -> None:
    """As where an activation overflows in float16 on the way."""
    model = tiny.build("llama", "float16")
    loaded = tiny.load(tiny.save(model, tmp_path / "model"))

    def overflow(module: Any, args: Any, out: torch.Tensor) -> torch.Tensor:
        out = out.clone()
        out[..., 7] = value
        return out

    hook = loaded.model.lm_head.register_forward_hook(overflow)
    try:
        with pytest.raises(UserError, match=r"in float16\. Choose bfloat16 or float32"):
            written(loaded, store, PROMPT, 5)
    finally:
        hook.remove()


def test_a_token_may_be_ruled_out() -> None:
    scores = torch.tensor([[0.5, -torch.inf, 2.0]])
    assert OnlyNumbers("float16")(torch.tensor([[1]]), scores) is scores
    with pytest.raises(UserError):
        OnlyNumbers("float32")(torch.tensor([[1]]), torch.full((1, 3), -torch.inf))
