"""NaN and infinity: one sentence that names layer and number format; nothing is kept."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import tiny
import torch
from transformers import PreTrainedModel

from lwq_ui.core.errors import UserError
from lwq_ui.core.run import Run
from lwq_ui.core.schema import Evaluation, Metric, Scores
from lwq_ui.core.store import Key, Store, dumps
from lwq_ui.engine import jobs
from lwq_ui.engine.banks.bank import Bank
from lwq_ui.engine.banks.composing import compose
from lwq_ui.engine.batches.request import Request
from lwq_ui.engine.layer_pass import Rider, run_pass
from lwq_ui.engine.models.loading import LoadedModel
from lwq_ui.engine.models.walk import LayerWalk
from lwq_ui.engine.scorers.lim import LIM
from lwq_ui.engine.scorers.zd import share_above_one_std
from lwq_ui.engine.sweeps.sweep import Sweep
from lwq_ui.engine.texts import Text

TASKS = ["perplexity", "endings", "last_word", "minimal_pairs"]
WITH = Text("with", ("the wind and the rain went over the hill to the house",) * 2)
WITHOUT = Text("without", ("wind and rain",) * 2)


def overflowing(model: PreTrainedModel, token: int, layer: int) -> PreTrainedModel:
    """This token alone makes the layer's feed-forward part exceed float16. Its weights do not."""
    with torch.no_grad():
        embeddings = model.get_input_embeddings().weight
        embeddings[:, 0] = 0
        embeddings[token] = 0
        embeddings[token, 0] = 1
        for i, block in enumerate(model.model.layers):
            for matrix in (block.self_attn.o_proj, block.mlp.down_proj):
                matrix.weight[0] = 0  # nothing else of the model reaches this number
                if i < layer:
                    matrix.weight *= 0.01
        mlp = model.model.layers[layer].mlp
        mlp.gate_proj.weight[:, 0] = 100
        mlp.up_proj.weight[:, 0] = 100
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bfloat16 checkpoint that " the" makes overflow in float16, in layer 1."""
    from transformers import AutoTokenizer

    token = AutoTokenizer.from_pretrained(tiny.DEMO)(" the")["input_ids"][-1]
    model = overflowing(tiny.build("llama", "bfloat16"), token, 1)
    return tiny.save(model, tmp_path_factory.mktemp("overflowing"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


WHERE = r"Layer 1\b.* in float16\. Choose bfloat16 or float32"


def kept(store: Store) -> list[str]:
    """What a cache holds of results, and of work that leads to them."""
    kinds = ("scores", "evaluations", "journals", "passes")
    return [p.name for kind in kinds for p in (store.root / kind).rglob("*") if p.is_file()]


@pytest.mark.parametrize("streamed", [False, True])
def test_scores(folder: Path, store: Store, streamed: bool, run: Run) -> None:
    loaded = (tiny.stream if streamed else tiny.load)(folder, "float16")
    for scorer in ("lim", "sensitivity"):
        with pytest.raises(UserError, match=WHERE):
            jobs.score(loaded, [scorer], WITH, run)
    assert not [name for name in kept(store) if name.endswith(".json")]
    scores = jobs.score(loaded, ["lim", "sensitivity"], WITHOUT, run)
    assert all(map(math.isfinite, scores["lim"].values + scores["sensitivity"].values))


def test_another_number_format_is_a_way_out(folder: Path, run: Run) -> None:
    for dtype in ("bfloat16", "float32"):
        loaded = tiny.load(folder, dtype)
        assert jobs.score(loaded, ["lim"], WITH, run)


@pytest.mark.parametrize("task", TASKS)
def test_tasks(folder: Path, store: Store, task: str, run: Run) -> None:
    """Under every kind of split; what does not compute with the wrong numbers is still measured."""
    loaded = tiny.load(folder, "float16")
    for split in [(16,) * 4, (4, 8, 4, 4)]:
        with pytest.raises(UserError, match=r"Layer 1\b.* in float16"):
            jobs.evaluate(loaded, jobs.Measurement([split], tiny.QUANTO, [task], 12), run)
    assert not kept(store)
    loaded = tiny.load(folder, "float32")
    done = jobs.evaluate(loaded, jobs.Measurement([(16,) * 4], tiny.QUANTO, [task], 12), run)
    assert done.evaluations


def test_texts_are_padded_with_what_does_not_overflow(tmp_path: Path) -> None:
    """Token 0 overflows, and no text has it."""
    model = overflowing(tiny.build("llama", "bfloat16"), 0, 1)
    loaded = tiny.stream(tiny.save(model, tmp_path / "model"), "float16")
    split = (16,) * loaded.info.num_layers
    texts = tiny.documents(20, 17, 18, 16)

    def logprobs(*asked: list[int]) -> list[float]:
        sweep = Sweep(Bank(loaded, tiny.QUANTO), [split], tiny.run())
        return sweep.score([Request(t[:-1], t[1:]) for t in asked], "").logprob[:, 0].tolist()

    assert logprobs(*texts) == pytest.approx([logprobs(t)[0] for t in texts], rel=1e-3)
    riders = [LIM()]
    run_pass(loaded, riders, texts, tiny.run())
    with pytest.raises(UserError, match=WHERE):
        logprobs([0, *texts[0]])


def test_a_pruned_layer_does_no_harm(folder: Path, run: Run) -> None:
    loaded = tiny.load(folder, "float16")
    measurement = jobs.Measurement([(4, 0, 4, 4)], tiny.QUANTO, ["minimal_pairs"], 4)
    done = jobs.evaluate(loaded, measurement, run)
    assert math.isfinite(done.evaluations[0].metrics["acc"].value)


def test_a_model_that_overflows_at_once_is_refused_for_that(tmp_path: Path) -> None:
    model = tiny.build("gemma3_text", "bfloat16")
    model.model.layers[2].post_feedforward_layernorm.weight.data.fill_(30000)
    folder = tiny.save(model, tmp_path / "model")
    with pytest.raises(UserError, match=r"Layer 2 .*float16\. Choose bfloat16 or float32"):
        tiny.load(folder, "float16")
    assert tiny.load(folder, "bfloat16")


def test_large_finite_states_have_a_cosine() -> None:
    """Their squares are no float32."""
    x, y = torch.randn(2, 7, 64, generator=torch.Generator().manual_seed(0)) * 1e30
    scorer = LIM()
    scorer.states(x, y)
    expected = torch.cosine_similarity(x.double(), y.double(), dim=-1).mean().item()
    assert scorer.value() == pytest.approx(-expected, abs=1e-6)


def test_small_states_have_a_cosine() -> None:
    x, y = torch.randn(2, 7, 64, generator=torch.Generator().manual_seed(0)) * 1e-6
    scorer = LIM()
    scorer.states(x, y)
    expected = torch.cosine_similarity(x.double(), y.double(), dim=-1, eps=0).mean().item()
    assert scorer.value() == pytest.approx(-expected, abs=1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1e-22, 1e18, 1e24, 1e33])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_zd_of_weights_of_any_size(scale: float, dtype: torch.dtype) -> None:
    matrix = (torch.randn(300, 200, generator=torch.Generator().manual_seed(0)) * scale).to(dtype)
    values = matrix.double().flatten()
    expected = ((values - values.mean()) / values.std(correction=0) > 1).double().mean().item()
    assert share_above_one_std([matrix]) == pytest.approx(expected, abs=1e-12)


def test_packed_scales_that_overflow(tmp_path: Path) -> None:
    """From -60,000 to 60,000 is further than float16 reaches."""
    model = tiny.build("llama", "float16")
    model.model.layers[3].mlp.down_proj.weight.data[5, :2] = torch.tensor([6e4, -6e4])
    loaded = tiny.load(tiny.save(model, tmp_path / "model"))
    bank = Bank(loaded, tiny.QUANTO, tmp_path / "bank")
    with pytest.raises(UserError, match=r"layer 3 \(mlp\.down_proj\.weight\).* in float16"):
        bank.fill([(4, 4, 4, 4)], tiny.run())
    assert not bank.has(3, 4)


def test_a_rider_gets_no_state_that_is_no_number(folder: Path) -> None:
    """As in calibrating: a Hessian would be one of NaN."""

    class Watching(Rider):
        needs_states = True

    loaded = tiny.load(folder, "float16")
    ids = loaded.tokenizer(WITH.documents[0])["input_ids"]
    with pytest.raises(UserError, match=WHERE):
        run_pass(loaded, [Watching()], [ids], tiny.run())


def sweep_of(loaded: LoadedModel) -> Sweep:
    bank = Bank(loaded, tiny.QUANTO)
    return Sweep(bank, [(16,) * 4, (4,) * 4], tiny.run())


def test_tokens_that_the_model_never_writes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Padding of the vocabulary with logits of minus infinity: divergence is that of the rest."""
    loaded = tiny.load(folder, "float32")
    never = slice(4000, None)
    requests = [Request(s[:-1], s[1:]) for s in ([5, 6, 7, 8, 9], [10, 11, 12])]
    tail = LayerWalk.tail

    def masked(self: LayerWalk, rows: torch.Tensor) -> torch.Tensor:
        logits = tail(self, rows)
        logits[:, never] = -torch.inf
        return logits

    def cut(self: LayerWalk, rows: torch.Tensor) -> torch.Tensor:
        return tail(self, rows)[:, : never.start]

    monkeypatch.setattr(LayerWalk, "tail", cut)
    expected = sweep_of(loaded).score(requests, "", divergence=True)
    monkeypatch.setattr(LayerWalk, "tail", masked)
    scored = sweep_of(loaded).score(requests, "", divergence=True)
    assert scored.divergence == pytest.approx(expected.divergence, abs=1e-5)
    assert scored.logprob == pytest.approx(expected.logprob, abs=1e-4)
    with pytest.raises(UserError, match="no probability"):
        sweep_of(loaded).score([Request([5, 6], [4001])], "")


def test_divergence_of_peaked_predictions(folder: Path) -> None:
    loaded = tiny.load(folder, "float32")
    sequence = tiny.documents(40)[0]
    with torch.no_grad():
        loaded.model.get_output_embeddings().weight *= 200
    scored = sweep_of(loaded).score([Request(sequence[:-1], sequence[1:])], "", divergence=True)
    assert (scored.divergence[:, 0] == 0).all()
    assert (scored.divergence >= 0).all()
    walked = [loaded.model, compose(Bank(loaded, tiny.QUANTO), (4,) * 4, tiny.run())]
    p, q = (tiny.logits(m, sequence[:-1]).double().log_softmax(-1) for m in walked)
    expected = (p.exp() * (p - q)).sum().item()
    assert scored.divergence[0, 1] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_no_record_and_no_file_holds_what_is_no_number(value: float, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="layer 1"):
        Scores("lim", (0.5, value), None, 0, 0, 0.0)
    good = Metric(1.0, 0.1, 3)
    for metrics, items in (
        ({"acc": Metric(value, 0.1, 3)}, {}),
        ({"acc": Metric(0.1, value, 3)}, {}),
        ({"acc": good}, {"acc": [1.0, value]}),
    ):
        with pytest.raises(UserError, match="'endings' gives no number for 'acc'"):
            Evaluation("endings", (4, 4), "quanto", metrics, items, None, 0.0)
    with pytest.raises(ValueError, match="JSON"):
        dumps({"a": [1.0, value]})
    with pytest.raises(ValueError, match="JSON"):
        Store(tmp_path).write(Key("scores", "f" * 64, {}), {"values": [value]})


def test_what_an_earlier_version_stored_of_it_is_absent(tmp_path: Path) -> None:
    store, key = Store(tmp_path), Key("scores", "f" * 64, {"a": 1})
    path = store.write(key, {"values": [0.25]})
    path.write_text(path.read_text().replace("0.25", "NaN"))
    assert "NaN" in path.read_text() and math.isnan(json.loads("NaN"))
    assert store.read(key) is None
    assert not path.exists()
