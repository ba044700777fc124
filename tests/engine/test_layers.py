"""Layers that are read from the checkpoint one by one, and the pass over them. That both makers
give the same numbers for every family is in test_families.py."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Event

import pytest
import tiny
import torch
from accelerate import dispatch_model
from safetensors.torch import load_file, save_file

from lwq_ui.core.errors import Stopped, UserError
from lwq_ui.core.run import Run
from lwq_ui.core.settings import Settings
from lwq_ui.core.store import Store
from lwq_ui.core.writing import Prompt
from lwq_ui.engine import jobs, layer_pass
from lwq_ui.engine.banks.bank import Bank
from lwq_ui.engine.banks.composing import compose
from lwq_ui.engine.exports import model_export
from lwq_ui.engine.models.layers import LayersInMemory
from lwq_ui.engine.models.loading import LoadedModel
from lwq_ui.engine.models.streaming import StreamedLayers
from lwq_ui.engine.models.walk import LayerWalk
from lwq_ui.engine.scorers import pass_scores
from lwq_ui.engine.sealed import check_seal
from lwq_ui.engine.texts import Text, shipped_calibration, tokenize

Folder = Callable[..., Path]


@pytest.fixture
def copy(folder_of: Folder, tmp_path: Path) -> Path:
    """A llama of one's own, to damage."""
    folder = tmp_path / "model"
    return tiny.save(tiny.build("llama"), folder)


def held(loaded: LoadedModel) -> list[int]:
    """The layers whose weights are there."""
    source = loaded.walk.source
    assert isinstance(source, StreamedLayers)
    return [i for i, w in enumerate(source.weights) if not any(x.parameter.is_meta for x in w)]


def test_only_the_layer_at_hand_is_held(folder_of: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = tiny.stream(folder_of("llama"))
    assert loaded.streamed and held(loaded) == []
    seen = []
    step = loaded.walk.step
    monkeypatch.setattr(
        loaded.walk, "step", lambda i, *rest: seen.append((i, held(loaded))) or step(i, *rest)
    )
    documents = tiny.documents(30, 20)
    scored = pass_scores(loaded, ["lim", "zd"], documents, tiny.run())
    assert sorted(set(map(str, seen))) == [f"({i}, [{i}])" for i in range(4)]
    assert held(loaded) == []
    whole = pass_scores(tiny.load(folder_of("llama")), ["lim", "zd"], documents, tiny.run())
    assert {k: v for k, (v, _) in scored.items()} == {k: v for k, (v, _) in whole.items()}


def test_a_layer_at_hand_twice_is_read_once(folder_of: Folder) -> None:
    source = tiny.stream(folder_of("llama")).walk.source
    assert isinstance(source, StreamedLayers)
    with source.at_hand(1) as layer:
        first = layer.mlp.up_proj.weight
        with source.at_hand(1):
            assert layer.mlp.up_proj.weight is first
        assert not layer.mlp.up_proj.weight.is_meta
    assert layer.mlp.up_proj.weight.is_meta


def test_zd_of_a_streamed_model_computes_no_forward(
    folder_of: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = tiny.stream(folder_of("gpt2"))
    for name in ("head", "step", "tail"):
        monkeypatch.setattr(loaded.walk, name, None)
    assert len(pass_scores(loaded, ["zd"], [], tiny.run())["zd"][0]) == 4


def test_a_pass_that_is_stopped_goes_on_where_it_was(
    folder_of: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = tiny.documents(30, 20, 7)
    expected = pass_scores(tiny.stream(folder_of("llama")), ["lim", "zd"], documents, tiny.run())
    loaded, path = tiny.stream(folder_of("llama")), tmp_path / "pass.safetensors"
    stop = Event()

    def until_the_third(what: str, done: float | None) -> None:
        if what.startswith("Scoring layer 3"):
            stop.set()

    with pytest.raises(Stopped):
        pass_scores(
            loaded,
            ["lim", "zd"],
            documents,
            tiny.run(progress=until_the_third, stop=stop),
            path=path,
        )
    assert path.exists() and held(loaded) == []
    said: list[str] = []
    again = pass_scores(
        loaded,
        ["lim", "zd"],
        documents,
        tiny.run(progress=lambda what, done: said.append(what)),
        path=path,
    )
    assert said[0].startswith("Scoring layer 3 of 4") and not path.exists()
    assert "iB read" in said[0]
    assert [v for v, _ in again.values()] == [v for v, _ in expected.values()]


@pytest.mark.parametrize("damage", [b"", b"text", None])
def test_a_damaged_pass_is_made_again(
    damage: bytes | None, folder_of: Folder, tmp_path: Path
) -> None:
    documents, path = tiny.documents(12, 9), tmp_path / "pass.safetensors"
    loaded = tiny.stream(folder_of("llama"))
    expected = pass_scores(loaded, ["lim"], documents, tiny.run())["lim"][0]
    if damage is None:  # of another kind
        save_file({"0": torch.zeros(1)}, path)
    else:
        path.write_bytes(damage)
    again = pass_scores(loaded, ["lim"], documents, tiny.run(), path=path)["lim"][0]
    assert again == expected


def test_a_pass_is_kept_while_it_goes(
    folder_of: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it is killed and can save nothing any more."""
    monkeypatch.setattr(layer_pass, "SAVE_SECONDS", 0)
    kept = []
    path = tmp_path / "pass.safetensors"

    def look(what: str, done: float | None) -> None:
        if path.exists():
            kept.append(len(json.loads(check_seal(path)["so_far"])["values"][0]))

    pass_scores(
        tiny.stream(folder_of("llama")),
        ["lim"],
        tiny.documents(9),
        tiny.run(progress=look),
        path=path,
    )
    assert sorted(set(kept)) == [1, 2, 3]


def test_scoring_a_streamed_model_packs_it_on_the_way(
    folder_of: Folder, store: Store, run: Run
) -> None:
    loaded = tiny.stream(folder_of("llama"))
    text = Text("a few", ("The cat sat.", "It rained all day long."))
    jobs.score(loaded, ["lim", "zd"], text, run)
    bank = jobs.bank_of(loaded, tiny.QUANTO, store)
    assert bank.folder is not None
    names = {p.name for p in bank.folder.glob("*.safetensors")}
    assert names == {f"layer-{i:03}-{b}bit.safetensors" for i in range(4) for b in (4, 2)}
    assert len(tokenize(loaded, text)) == 2


def test_hidden_states_that_have_no_room_wait_elsewhere(
    folder_of: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, documents = tiny.stream(folder_of("llama")), tiny.documents(30, 20)
    expected = pass_scores(loaded, ["lim"], documents, tiny.run())["lim"][0]
    monkeypatch.setattr(layer_pass, "free_bytes", lambda device: [0])
    assert pass_scores(loaded, ["lim"], documents, tiny.run())["lim"][0] == expected


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def test_a_tensor_that_is_missing(copy: Path) -> None:
    rewrite(copy, lambda t: t.pop("model.layers.2.mlp.up_proj.weight"))
    with pytest.raises(UserError, match=r"the tensor model.layers.2.mlp.up_proj.weight is missing"):
        tiny.stream(copy)


def test_a_tensor_of_another_shape(copy: Path) -> None:
    name = "model.layers.1.mlp.down_proj.weight"
    rewrite(copy, lambda t: t.update({name: torch.zeros(3, 5)}))
    with pytest.raises(UserError, match=f"the tensor {name} does not fit its config"):
        tiny.stream(copy)


def test_what_does_not_fit_is_known_from_headers_alone(copy: Path, run: Run, settings) -> None:
    rewrite(copy, lambda t: t.pop("model.layers.2.mlp.up_proj.weight"))
    with pytest.raises(UserError, match=r"up_proj.weight is missing"):
        jobs.look(str(copy), "auto", run)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_values_that_are_not_numbers(value: float, copy: Path) -> None:
    """In a layer they are found when it is read; in what stays, when the model is loaded."""

    def damage(name: str) -> Callable[[dict[str, torch.Tensor]], None]:
        return lambda tensors: tensors[name].view(-1)[7].fill_(value)

    rewrite(copy, damage("model.layers.3.mlp.down_proj.weight"))
    loaded = tiny.stream(copy)
    with pytest.raises(UserError, match=r"not numbers .* in layer 3, mlp.down_proj.weight"):
        pass_scores(loaded, ["zd"], [], tiny.run())
    assert held(loaded) == []
    rewrite(copy, damage("model.embed_tokens.weight"))
    with pytest.raises(UserError, match=r"not numbers .* in model.embed_tokens.weight"):
        tiny.stream(copy)


def test_large_values_are_numbers(copy: Path) -> None:
    """Their sum is not."""

    def damage(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.layers.3.mlp.down_proj.weight"].view(-1)[:9] = 3e38

    rewrite(copy, damage)
    with tiny.stream(copy).walk.source.at_hand(3):
        pass


def test_hooks_of_accelerate_stay(folder_of: Folder) -> None:
    """Over several GPUs accelerate replaces each layer's forward, as the walk does for a moment."""
    loaded = tiny.load(folder_of("llama"))
    documents = tiny.documents(20, 12)
    expected = pass_scores(loaded, ["lim"], documents, tiny.run())["lim"][0]
    model = dispatch_model(loaded.model, {"": "cpu"}, force_hooks=True)
    hooks = [vars(layer).get("forward") for layer in loaded.walk.layers]
    walk = LayerWalk(model, LayersInMemory(model))
    walk.check()
    loaded.walk = walk
    assert pass_scores(loaded, ["lim"], documents, tiny.run())["lim"][0] == expected
    assert [vars(layer).get("forward") for layer in walk.layers] == hooks and any(hooks)


def test_writing_with_a_streamed_model(folder_of: Folder, store: Store, run: Run) -> None:
    """The unquantized model has no room; the quantized one writes what it writes in memory."""
    folder = folder_of("llama")
    texts = {}
    prompt = Prompt("The cat", 1, 8)
    for loaded in (tiny.load(folder), tiny.stream(folder)):
        empty = replace(run, store=Store(store.root / str(loaded.streamed)))
        *_, last = jobs.generate(loaded, (4, 2, 4, 8), tiny.QUANTO, prompt, empty)
        texts[loaded.streamed] = last.text
    assert texts[True] == texts[False] != ""
    with pytest.raises(UserError, match="Layers at 16 bits of this model do not fit"):
        list(jobs.generate(tiny.stream(folder), (16,) * 4, tiny.QUANTO, prompt, run))
    with pytest.raises(UserError, match="Layers at 16 bits of this model do not fit"):
        compose(jobs.bank_of(tiny.stream(folder), tiny.QUANTO, store), (16, 4, 4, 4), tiny.run())


@pytest.mark.parametrize("name", ["llama", "qwen2", "opt"])
def test_a_streamed_model_is_composed_and_written_as_one_in_memory_is(
    name: str, folder_of: Folder, tmp_path: Path
) -> None:
    """Biases, too."""
    tokens, split = tiny.documents(20)[0], (4, 2, 8, 4)
    logits, written = [], []
    for make in (tiny.load, tiny.stream):
        bank = Bank(make(folder_of(name)), tiny.QUANTO, tmp_path / make.__name__)
        logits.append(tiny.logits(compose(bank, split, tiny.run()), tokens))
        folder = tmp_path / f"{make.__name__}-written"
        model_export(bank.quantizer).write(bank, split, folder, tiny.run())
        written.append(load_file(folder / "model.safetensors"))
        assert (folder / "quanto_qmap.json").exists()
    assert torch.equal(*logits)
    assert written[0].keys() == written[1].keys()
    assert all(torch.equal(written[0][key], written[1][key]) for key in written[0])


# Files that change while the model is in use.


def other_weights(folder: Path, in_place: bool) -> None:
    path = folder / "model.safetensors"
    tensors = {name: t + 1 for name, t in load_file(path).items()}
    other = folder / "other"
    save_file(tensors, other, metadata={"format": "pt"})
    if in_place:
        path.write_bytes(other.read_bytes())
        other.unlink()
    else:
        other.replace(path)


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("make", [tiny.load, tiny.stream])
def test_weights_that_change_under_a_loaded_model_are_seen(
    make: Callable[[Path], LoadedModel],
    in_place: bool,
    copy: Path,
    settings: Settings,
    store: Store,
    run: Run,
) -> None:
    """Mapped weights change with their file, streamed ones are read again: no result mixes two
    models, and none is stored."""
    loaded = make(copy)
    assert loaded.is_current(run)
    text = shipped_calibration(settings)
    jobs.score(loaded, ["zd"], text, run)
    kept = sorted(settings.cache.rglob("*.*"))
    other_weights(copy, in_place)
    assert not loaded.is_current(run)
    expected = "The file model.safetensors of '.*' has changed since the model was loaded. Load it"
    with pytest.raises(UserError, match=expected):
        jobs.score(loaded, ["lim"], text, run)
    with pytest.raises(UserError, match=expected):
        jobs.bank_of(loaded, tiny.QUANTO, store).fill([(4, 4, 2, 2)], tiny.run())
    assert sorted(settings.cache.rglob("*.*")) == kept
    again = make(copy)
    assert again.info.fingerprint != loaded.info.fingerprint and again.is_current(run)


def test_weights_that_change_while_a_layer_is_used_are_seen(copy: Path) -> None:
    loaded = tiny.stream(copy)
    with pytest.raises(UserError, match="has changed since"), loaded.walk.source.at_hand(0):
        other_weights(copy, in_place=False)


def test_a_file_that_is_gone_is_named(copy: Path) -> None:
    loaded, streamed = tiny.load(copy), tiny.stream(copy)
    (copy / "model.safetensors").unlink()
    with loaded.walk.source.at_hand(0):  # its pages stay
        pass
    with pytest.raises(UserError, match="can no longer be read"), streamed.walk.source.at_hand(0):
        pass
