"""Every split of a sweep equals its composed model run by itself."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from threading import Event
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from lwq_ui.core.errors import Stopped
from lwq_ui.engine import sweep as sweep_module
from lwq_ui.engine.bank import Bank
from lwq_ui.engine.models import LoadedModel
from lwq_ui.engine.quantizers import quantizer_named
from lwq_ui.engine.sweep import Request, Sweep

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


def expected(bank: Bank, request: Request, split: tuple[int, ...]) -> tuple[float, ...]:
    """One request on one composed model and on the unquantized one, in float64."""
    n = len(request.targets)
    logp = tiny.logits(bank.compose(split), request.tokens)[-n:].double().log_softmax(-1)
    ref = tiny.logits(bank.loaded.model, request.tokens)[-n:].double().log_softmax(-1)
    best = logp.argmax(-1)
    return (
        sum(logp[i, t].item() for i, t in enumerate(request.targets)),
        best.tolist() == list(request.targets),
        (ref.exp() * (ref - logp)).sum().item(),
        (best == ref.argmax(-1)).sum().item(),
    )


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma2", "gpt_neox", "mixtral", "gpt2"])
def test_every_split_equals_its_composed_model(
    name: str, loaded_of: Callable[..., LoadedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep_module, "batch_tokens", lambda loaded: 50)
    # Room for two or three batches a shard, and for three positions a block of logits.
    monkeypatch.setattr(sweep_module, "HIDDEN_BYTES", 100 * 64 * 4 * len(SPLITS))
    monkeypatch.setattr(sweep_module, "LOGITS", 3 * tiny.VOCABULARY)
    loaded = loaded_of(name)
    bank = Bank(loaded, quantizer_named("quanto"))
    asked = requests(loaded)
    sweep = Sweep(bank, SPLITS, tiny.quiet, Event())
    shards = sweep._shards(sweep_module.batches([r.tokens for r in asked], 50))
    assert len(shards) > 1 and max(map(len, shards)) > 1
    scored = sweep.score(asked, "x", divergence=True)
    for r, request in enumerate(asked):
        for c, split in enumerate(SPLITS):
            logprob, greedy, divergence, agreement = expected(bank, request, split)
            assert scored.logprob[r, c] == pytest.approx(logprob, rel=1e-4, abs=1e-4)
            assert bool(scored.greedy[r, c]) == greedy
            assert scored.divergence[r, c] == pytest.approx(divergence, rel=2e-3, abs=2e-4)
            assert scored.agreement[r, c] == agreement
    assert scored.greedy[:, REFERENCE].sum() == 6
    assert (scored.divergence[:, REFERENCE] == 0).all()
    assert scored.divergence[0, SPLITS.index((2, 2, 2, 2))] > 0.1


def test_batches_shards_and_blocks_do_not_matter(
    loaded_of: Callable[..., LoadedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = loaded_of("llama")
    bank = Bank(loaded, quantizer_named("quanto"))
    asked = requests(loaded)
    found = []
    for tokens, hidden, logits in ((1, 1, 1), (64, 10**5, 10**4), (4096, 2**30, 2**24)):
        monkeypatch.setattr(sweep_module, "batch_tokens", lambda loaded, tokens=tokens: tokens)
        monkeypatch.setattr(sweep_module, "HIDDEN_BYTES", hidden)
        monkeypatch.setattr(sweep_module, "LOGITS", logits)
        sweep = Sweep(bank, SPLITS, tiny.quiet, Event())
        found.append(sweep.score(asked, "x", divergence=True))
    for other in found[1:]:
        np.testing.assert_allclose(other.logprob, found[0].logprob, rtol=1e-5)
        np.testing.assert_allclose(other.divergence, found[0].divergence, rtol=1e-3, atol=1e-5)
        assert (other.greedy == found[0].greedy).all()
        assert (other.agreement == found[0].agreement).all()


def test_splits_share_their_prefixes(
    loaded_of: Callable[..., LoadedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each layer runs once for each distinct prefix, and is de-quantized once for each level."""
    loaded = loaded_of("llama")
    bank = Bank(loaded, quantizer_named("quanto"))
    steps: list[int] = []
    dense: list[tuple[int, int]] = []
    step, unpack = loaded.walk.step, bank.dense
    monkeypatch.setattr(loaded.walk, "step", lambda i, *rest: steps.append(i) or step(i, *rest))
    monkeypatch.setattr(bank, "dense", lambda *place: dense.append(place) or unpack(*place))
    tokens = tiny.documents(12)[0]
    Sweep(bank, SPLITS, tiny.quiet, Event()).score([Request(tokens[:-1], tokens[1:])], "x")
    for i in range(4):
        assert steps.count(i) == len({split[: i + 1] for split in SPLITS})
    assert len(dense) == len(set(dense)) == sum(len({s[i] for s in SPLITS}) for i in range(4))


def test_without_a_reference_nothing_diverges(loaded_of: Callable[..., LoadedModel]) -> None:
    loaded = loaded_of("llama")
    bank = Bank(loaded, quantizer_named("quanto"))
    scored = Sweep(bank, SPLITS[:2], tiny.quiet, Event()).score(requests(loaded), "x")
    assert not scored.divergence.any() and not scored.agreement.any()
    assert scored.logprob.all()


def test_progress_goes_up_and_a_stop_is_heard_anywhere(
    loaded_of: Callable[..., LoadedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep_module, "batch_tokens", lambda loaded: 30)
    monkeypatch.setattr(sweep_module, "HIDDEN_BYTES", 40_000)
    bank = Bank(loaded_of("llama"), quantizer_named("quanto"))
    tokens = tiny.documents(20, 21, 10)
    asked = [Request(t[:-1], t[1:]) for t in tokens]
    seen: list[Any] = []
    Sweep(bank, SPLITS[:2], lambda what, done: seen.append(done), Event()).score(asked, "x")
    assert seen == sorted(seen) and seen[0] == 0 and 0.9 < seen[-1] <= 1
    for at in range(len(seen)):
        stop = Event()
        count = itertools.count()

        def progress(what: str, done: float | None, at=at, stop=stop, count=count) -> None:
            if next(count) == at:
                stop.set()

        with pytest.raises(Stopped):
            Sweep(bank, SPLITS[:2], progress, stop).score(asked, "x")


def test_the_reference_scores_itself_first_wherever_it_stands(
    loaded_of: Callable[..., LoadedModel],
) -> None:
    loaded = loaded_of("llama")
    bank = Bank(loaded, quantizer_named("quanto"))
    asked = requests(loaded)[:2]
    turned = [*SPLITS[REFERENCE:], *SPLITS[:REFERENCE]]
    one = Sweep(bank, SPLITS, tiny.quiet, Event()).score(asked, "x", True)
    other = Sweep(bank, turned, tiny.quiet, Event()).score(asked, "x", True)
    for c, split in enumerate(SPLITS):
        place = turned.index(split)
        assert torch.equal(
            torch.from_numpy(one.divergence[:, c]), torch.from_numpy(other.divergence[:, place])
        )
