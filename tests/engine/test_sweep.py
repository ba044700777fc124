"""Every split of a sweep equals its composed model run by itself."""

from __future__ import annotations

import errno
import gc
import itertools
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from lwq_ui.core.errors import Stopped, UserError
from lwq_ui.engine.banks.bank import Bank
from lwq_ui.engine.banks.composing import compose
from lwq_ui.engine.batches.request import Request
from lwq_ui.engine.models.loading import LoadedModel
from lwq_ui.engine.sweeps.journal import FIELDS
from lwq_ui.engine.sweeps.limits import Limits
from lwq_ui.engine.sweeps.plan import Part
from lwq_ui.engine.sweeps.shard_walk import ShardWalk
from lwq_ui.engine.sweeps.sweep import Scored, Scoring, Sweep
from lwq_ui.failures import out_of_memory

UNTOUCHED = (16, 16, 16, 16)
# They share prefixes of every length, and some nothing at all.
SPLITS = [
    (4, 4, 4, 4),
    (4, 4, 4, 2),
    (4, 4, 2, 2),
    (4, 2, 2, 2),
    (2, 2, 2, 2),
    (16, 16, 4, 8),
    UNTOUCHED,
    (8, 2, 16, 4),
    (4, 4, 0, 2),
    (0, 2, 4, 0),
    (0, 0, 0, 0),
]
REFERENCE = SPLITS.index(UNTOUCHED)


def requests(loaded: LoadedModel) -> list[Request]:
    """All positions of some sequences, a few of others, and targets that the unquantized model
    finds most likely, so that 'greedy' is true somewhere."""
    found = [Request(t[:-1], t[1:]) for t in tiny.documents(25, 9, 24, 40)]
    found += [Request(t[:-1], t[-4:]) for t in tiny.documents(22, 12, seed=1)]
    for tokens in tiny.documents(18, 19, 20, 21, 22, 8, seed=2):
        best = tiny.logits(loaded.model, tokens)[-1].argmax()
        found.append(Request(tokens, [int(best)]))
    return found


def expected(bank: Bank, composed: Any, request: Request) -> tuple[float, ...]:
    """One request on one composed model and on the unquantized one, in float64."""
    n = len(request.targets)
    logp = tiny.logits(composed, request.tokens)[-n:].double().log_softmax(-1)
    ref = tiny.logits(bank.loaded.model, request.tokens)[-n:].double().log_softmax(-1)
    best = logp.argmax(-1)
    return (
        sum(logp[i, t].item() for i, t in enumerate(request.targets)),
        best.tolist() == list(request.targets),
        (ref.exp() * (ref - logp)).sum().item(),
        (best == ref.argmax(-1)).sum().item(),
    )


def small_pieces(loaded: LoadedModel) -> Limits:
    """Room for two or three batches a shard, and for three positions a block of logits."""
    states = 100 * 64 * 4 * 8
    return tiny.limits(loaded, batch_tokens=50, state_bytes=states, logits=3 * tiny.VOCABULARY)


def branching() -> list[Request]:
    """A context and its continuations, of which two share more; the same tokens with several
    targets; one that is another's beginning; a pair that differs in one token; and a loner."""
    context, a, b, c, other = tiny.documents(9, 4, 6, 3, 8, seed=3)
    found = [Request((context + x)[:-1], x) for x in (a, b, a[:2] + c)]
    found += [Request(context, [t]) for t in (7, 8, 9)]
    found += [Request(context[:5], context[2:5])]
    pair = [*a, *b], [*a[:3], 11, *b]
    found += [Request(s[:-1], s[1:]) for s in pair]
    return [*found, Request(other[:-1], other[1:])]


def check_all(
    bank: Bank,
    splits: list[tuple[int, ...]],
    asked: list[Request],
    limits: Limits | None = None,
) -> Scored:
    sweep = Sweep(bank, splits, tiny.run(), limits=limits)
    scored = sweep.score(asked, "x", divergence=True)
    for c, split in enumerate(splits):
        composed = compose(bank, split, tiny.run())
        for r, request in enumerate(asked):
            logprob, greedy, divergence, agreement = expected(bank, composed, request)
            assert scored.logprob[r, c] == pytest.approx(logprob, rel=1e-4, abs=1e-4)
            assert bool(scored.greedy[r, c]) == greedy
            assert scored.divergence[r, c] == pytest.approx(divergence, rel=2e-3, abs=2e-4)
            assert scored.agreement[r, c] == agreement
    return scored


ARCHITECTURES = ["llama", "qwen2", "qwen3", "gemma2", "gemma3_text", "gpt_neox", "mixtral", "gpt2"]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_split_equals_its_composed_model(
    name: str, loaded_of: Callable[..., LoadedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = loaded_of(name)
    bank = Bank(loaded, tiny.QUANTO)
    asked = requests(loaded)
    shards: list[Part] = []
    score = ShardWalk.score
    monkeypatch.setattr(ShardWalk, "score", lambda self: shards.append(self.shard) or score(self))
    scored = check_all(bank, SPLITS, asked, small_pieces(loaded))
    assert len(shards) > 1 and max(len(s.batches) for s in shards) > 1
    assert scored.greedy[:, REFERENCE].sum() == 6
    assert (scored.divergence[:, REFERENCE] == 0).all()
    assert scored.divergence[0, SPLITS.index((2, 2, 2, 2))] > 0.1


def branches_of(loaded: LoadedModel, asked: list[Request]) -> list[bool]:
    plan = Sweep(Bank(loaded, tiny.QUANTO), SPLITS, tiny.run()).plan(asked)
    return [batch.branches for part in plan.parts for batch in part.batches]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_requests_that_share_a_context_lie_in_one_row(
    name: str, loaded_of: Callable[..., LoadedModel]
) -> None:
    windowed = "sliding_window" in tiny.CONFIGS[name]
    loaded = loaded_of(name, **({"sliding_window": 64} if windowed else {}))
    asked = branching()
    assert any(branches_of(loaded, asked))
    check_all(Bank(loaded, tiny.QUANTO), SPLITS, asked)


@pytest.mark.parametrize("name", ["qwen2", "gemma2", "gemma3_text"])
def test_a_row_longer_than_the_window_does_not_branch(
    name: str, loaded_of: Callable[..., LoadedModel]
) -> None:
    asked = branching()
    assert not any(branches_of(loaded_of(name), asked))
    check_all(Bank(loaded_of(name), tiny.QUANTO), SPLITS[-3:], asked)


OTHERS = {
    "bloom": {"vocab_size": tiny.VOCABULARY, "hidden_size": 64, "n_layer": 4, "n_head": 4},
    "mpt": {"vocab_size": tiny.VOCABULARY, "d_model": 64, "n_layers": 4, "n_heads": 4},
}


@pytest.mark.parametrize("name", sorted(OTHERS))
def test_an_architecture_that_takes_no_trees_gets_rows_of_their_own(
    name: str, loaded_of: Callable[..., LoadedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(tiny.CONFIGS, name, OTHERS[name])
    loaded = loaded_of(name)
    asked = branching()
    assert not loaded.walk.shares_prefixes
    assert not any(branches_of(loaded, asked))
    check_all(Bank(loaded, tiny.QUANTO), SPLITS[-3:], asked)


def test_batches_shards_and_blocks_do_not_matter(loaded_of: Callable[..., LoadedModel]) -> None:
    loaded = loaded_of("llama")
    bank = Bank(loaded, tiny.QUANTO)
    asked = requests(loaded) + branching()
    found = []
    for tokens, memory, logits in ((1, 1, 1), (64, 10**6, 10**4), (4096, 2**32, 2**24)):
        limits = tiny.limits(loaded, batch_tokens=tokens, state_bytes=memory / 4, logits=logits)
        sweep = Sweep(bank, SPLITS, tiny.run(), limits=limits)
        found.append(sweep.score(asked, "x", divergence=True))
    for other in found[1:]:
        np.testing.assert_allclose(other.logprob, found[0].logprob, rtol=1e-5)
        np.testing.assert_allclose(other.divergence, found[0].divergence, rtol=1e-3, atol=1e-5)
        assert (other.greedy == found[0].greedy).all()
        assert (other.agreement == found[0].agreement).all()


def test_a_batch_depends_on_no_other_split_and_shard(
    loaded_of: Callable[..., LoadedModel],
) -> None:
    bank = Bank(loaded_of("llama"), tiny.QUANTO)
    asked = requests(bank.loaded) + branching()
    whole = Sweep(bank, SPLITS, tiny.run()).score(asked, "x", divergence=True)
    limits = tiny.limits(bank.loaded, operations=0)
    for c, split in enumerate(SPLITS):
        alone = Sweep(bank, [split], tiny.run(), limits=limits).score(asked, "x", divergence=True)
        for name in FIELDS:
            assert (getattr(alone, name)[:, 0] == getattr(whole, name)[:, c]).all()


def test_splits_share_their_prefixes(
    loaded_of: Callable[..., LoadedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each layer runs once for each distinct prefix, and is de-quantized once for each level."""
    loaded = loaded_of("llama")
    bank = Bank(loaded, tiny.QUANTO)
    steps: list[int] = []
    dense: list[tuple[int, int]] = []
    step, unpack = loaded.walk.step, bank.dense
    monkeypatch.setattr(loaded.walk, "step", lambda i, *rest: steps.append(i) or step(i, *rest))
    monkeypatch.setattr(bank, "dense", lambda *place: dense.append(place) or unpack(*place))
    tokens = tiny.documents(12)[0]
    Sweep(bank, SPLITS, tiny.run()).score([Request(tokens[:-1], tokens[1:])], "x")
    for i in range(4):
        assert steps.count(i) == len({s[: i + 1] for s in SPLITS if s[i]})
    assert (
        len(dense)
        == len(set(dense))
        == sum(len({s[i] for s in SPLITS} - {0, 16}) for i in range(4))
    )


def test_without_a_reference_nothing_diverges(loaded_of: Callable[..., LoadedModel]) -> None:
    loaded = loaded_of("llama")
    bank = Bank(loaded, tiny.QUANTO)
    scored = Sweep(bank, SPLITS[:2], tiny.run()).score(requests(loaded), "x")
    assert not scored.divergence.any() and not scored.agreement.any()
    assert scored.logprob.all()


def test_progress_goes_up_and_a_stop_is_heard_anywhere(
    loaded_of: Callable[..., LoadedModel],
) -> None:
    bank = Bank(loaded_of("llama"), tiny.QUANTO)
    limits = tiny.limits(bank.loaded, batch_tokens=30, state_bytes=40_000)
    tokens = tiny.documents(20, 21, 10)
    asked = [Request(t[:-1], t[1:]) for t in tokens]
    texts: list[str] = []
    seen: list[Any] = []

    def note(what: str, done: float | None) -> None:
        texts.append(what)
        seen.append(done)

    Sweep(bank, SPLITS[:1], tiny.run(progress=note), limits=limits).score(asked, "Task")
    assert texts[0] == "Task: 1 split, layer 1 of 4"
    texts.clear()
    seen.clear()
    Sweep(bank, SPLITS[:2], tiny.run(progress=note), limits=limits).score(asked, "Task")
    assert texts[0] == "Task: 2 splits, layer 1 of 4" and texts[-1].endswith("layer 4 of 4")
    assert seen == sorted(seen) and seen[0] == 0 and seen[-1] == pytest.approx(1)
    for at in range(0, len(seen) - 1, 3):
        stop = Event()
        count = itertools.count()

        def progress(what: str, done: float | None, at=at, stop=stop, count=count) -> None:
            if next(count) == at:
                stop.set()

        live = live_tensors()
        with pytest.raises(Stopped) as stopped:
            run = tiny.run(progress=progress, stop=stop)
            Sweep(bank, SPLITS[:2], run, limits=limits).score(asked, "x")
        assert live_tensors() <= live  # though the exception keeps its frames
        assert stopped.tb is not None


def live_tensors() -> int:
    """Tensors as wide as hidden states, or as heads: positions' cosines."""
    gc.collect()
    return sum(
        type(o) is torch.Tensor and o.ndim == 3 and o.shape[-1] in (64, 16)
        for o in gc.get_objects()
    )


def test_where_memory_runs_out_the_shard_is_halved(
    loaded_of: Callable[..., LoadedModel], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """First the batches, then the splits, and what is scored stays scored."""
    loaded = loaded_of("llama")
    bank = Bank(loaded, tiny.QUANTO)
    asked = requests(loaded)
    limits = tiny.limits(loaded, batch_tokens=50)
    whole = Sweep(bank, SPLITS, tiny.run(), limits=limits).score(asked, "x", divergence=True)
    step, score, shards, seen = loaded.walk.step, ShardWalk.score, [], []
    most = 3

    def scoring(self: ShardWalk) -> Any:
        shards.append((len(self.shard.batches), len(self.shard.places)))
        return score(self)

    def stepping(i: int, hidden: Any, *rest: Any) -> Any:
        batches, splits = shards[-1]
        if i == 2 and (batches > 1 or splits > most):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return step(i, hidden, *rest)

    monkeypatch.setattr(ShardWalk, "score", scoring)
    monkeypatch.setattr(loaded.walk, "step", stepping)
    run = tiny.run(progress=lambda what, done: seen.append(done))
    sweep = Sweep(bank, SPLITS, run, tmp_path, limits)
    scored = sweep.score(asked, "x", divergence=True)
    assert shards[0][0] > 1 and shards[0][1] == len(SPLITS)
    assert (1, len(SPLITS)) in shards and (1, most) in shards
    np.testing.assert_allclose(scored.logprob, whole.logprob, rtol=1e-5)
    np.testing.assert_allclose(scored.divergence, whole.divergence, rtol=1e-3, atol=1e-5)
    assert seen == sorted(seen) and seen[-1] == pytest.approx(1)
    most = 0
    with pytest.raises(UserError, match="too little memory to run"):
        Sweep(bank, SPLITS, tiny.run(), limits=limits).score(asked, "x")
    monkeypatch.setattr(
        loaded.walk, "step", lambda *a: (_ for _ in ()).throw(RuntimeError("something else"))
    )
    with pytest.raises(RuntimeError, match="something else"):
        Sweep(bank, SPLITS, tiny.run()).score(asked, "x")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("x"),
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes"),
        RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
        RuntimeError("could not create a primitive"),
        RuntimeError("std::bad_alloc"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
)
def test_what_counts_as_out_of_memory(error: Exception) -> None:
    assert out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("shapes cannot be multiplied"),
        OSError(errno.ENOSPC, "No space left on device"),
        ValueError("the text 'out of memory' in a file's name"),
    ],
)
def test_what_does_not_count_as_out_of_memory(error: Exception) -> None:
    assert not out_of_memory(error)


@pytest.mark.parametrize("place", ["tail", "keep"])
def test_memory_that_runs_out_after_the_layers_halves_the_shard_too(
    place: str, loaded_of: Callable[..., LoadedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU the head's products are where memory runs out, and what is thrown is no error of
    its own."""
    loaded = loaded_of("llama")
    bank = Bank(loaded, tiny.QUANTO)
    asked = requests(loaded)
    whole = Sweep(bank, SPLITS, tiny.run()).score(asked, "x")
    failed: list[str] = []
    target, name = (loaded.walk, "tail") if place == "tail" else (Scoring, "_keep")
    real = getattr(target, name)

    def short(*arguments: Any) -> Any:
        if len(failed) < 2:
            failed.append(place)
            error = RuntimeError("could not create a primitive")
            raise error if place == "tail" else MemoryError
        return real(*arguments)

    monkeypatch.setattr(target, name, short)
    scored = Sweep(bank, SPLITS, tiny.run()).score(asked, "x")
    assert len(failed) == 2
    np.testing.assert_allclose(scored.logprob, whole.logprob, rtol=1e-5)


def test_a_forecast_tells_the_time_and_scores_nothing(
    loaded_of: Callable[..., LoadedModel], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    loaded = loaded_of("llama")
    bank = Bank(loaded, tiny.QUANTO)
    asked = requests(loaded)
    steps: list[int] = []
    step = loaded.walk.step
    monkeypatch.setattr(loaded.walk, "step", lambda i, *rest: steps.append(i) or step(i, *rest))

    def forecast(asked: list[Request], divergence: bool = True) -> float:
        return Sweep(bank, SPLITS, tiny.run(), tmp_path).forecast(asked, "x", divergence)

    loaded.walk.shares_prefixes  # noqa: B018  (its own check is no part of a forecast)
    assert 0 < forecast(asked) < 60
    assert len(steps) <= 6 * 4 and len(set(steps)) == 1
    assert not list(tmp_path.iterdir())
    Sweep(bank, SPLITS, tiny.run(), tmp_path).score(asked, "x", divergence=True)
    assert forecast(asked) == 0
    assert forecast(asked, divergence=False) == 0
    assert forecast(asked + branching()) > 0


def test_the_reference_scores_itself_first_wherever_it_stands(
    loaded_of: Callable[..., LoadedModel],
) -> None:
    loaded = loaded_of("llama")
    bank = Bank(loaded, tiny.QUANTO)
    asked = requests(loaded)[:2]
    turned = [*SPLITS[REFERENCE:], *SPLITS[:REFERENCE]]
    one = Sweep(bank, SPLITS, tiny.run()).score(asked, "x", True)
    other = Sweep(bank, turned, tiny.run()).score(asked, "x", True)
    for c, split in enumerate(SPLITS):
        place = turned.index(split)
        assert torch.equal(
            torch.from_numpy(one.divergence[:, c]), torch.from_numpy(other.divergence[:, place])
        )
