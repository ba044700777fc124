"""What can be chosen of a quantizer: words, whole numbers and fractions, with a made-up one."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import pytest
import tiny

from lwq_ui.cli import arguments
from lwq_ui.core.errors import UserError
from lwq_ui.core.run import Run
from lwq_ui.engine import jobs
from lwq_ui.engine.banks.files import bank_folder
from lwq_ui.engine.quantizers import QUANTIZERS, Option, quantizer_named
from lwq_ui.engine.quantizers.quanto import Quanto


class Shrunk(Quanto):
    """Packs as Quanto does, after all weights have been made smaller."""

    family = "shrunk"
    heading = "Made-up"
    meaning = "Makes weights smaller."
    options: ClassVar[Mapping[str, Option]] = {
        **Quanto.options,
        "kind": Option("Kind", "shrunk {}", "evenly", choices=("evenly", "never")),
        "share": Option("Share", "by {}", 0.25, least=0, most=1),
        "step": Option("Step", "steps of {}", 0.5, choices=(0.5, 1.0)),
        "rounds": Option("Rounds", "{} rounds", 1, most=9),
    }

    def pack(self, matrix: Any, level: float) -> Any:
        shrunk = self.chosen["kind"] == "evenly"
        return super().pack(matrix * (1 - self.chosen["share"] * shrunk), level)


@pytest.fixture(autouse=True)
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(QUANTIZERS, "shrunk", Shrunk())


def test_a_name_has_what_is_chosen_otherwise_than_by_default() -> None:
    usual = quantizer_named("shrunk:kind=evenly,share=0.250,step=.5,rounds=1,group=128")
    assert usual.name == "shrunk" and usual.title == "Made-up"
    chosen = quantizer_named("shrunk:rounds=9,step=1,share=0.3,kind=never,group=32")
    assert chosen.name == "shrunk:group=32,kind=never,share=0.3,step=1,rounds=9"
    assert chosen.title == "Made-up, groups of 32, shrunk never, by 0.3, steps of 1, 9 rounds"
    assert chosen.chosen == {"group": 32, "kind": "never", "share": 0.3, "step": 1, "rounds": 9}
    assert quantizer_named(chosen.name) == chosen
    assert quantizer_named("shrunk:share=1e-3").name == "shrunk:share=0.001"
    assert quantizer_named("shrunk:share=1").name == "shrunk:share=1"


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("kind=slowly", "one of evenly, never"),
        ("kind=", "one of evenly, never"),
        ("share=1.01", "a number from 0 to 1"),
        ("share=nan", "a number from 0 to 1"),
        ("share=half", "a number from 0 to 1"),
        ("step=0.75", "one of 0.5, 1"),
        ("rounds=0", "a whole number from 1 to 9"),
        ("rounds=1.5", "a whole number from 1 to 9"),
        ("rounds=inf", "a whole number from 1 to 9"),
        ("group=48", "one of 128, 64, 32"),
    ],
)
def test_what_is_impossible_is_said_with_what_is_possible(choice: str, expected: str) -> None:
    with pytest.raises(UserError) as error:
        quantizer_named(f"shrunk:{choice}")
    assert str(error.value) == f"{choice} is not possible for Made-up: it takes {expected}."
    with pytest.raises(argparse.ArgumentTypeError, match="is not possible for Made-up"):
        arguments.quantizer(f"shrunk:{choice}")


def fields() -> Iterator[tuple[str, object, object]]:
    """Yields an option, what a field of the page may hold, and the value that is meant."""
    for typed in (64, 64.0, "64"):
        yield "group", typed, 64
    yield "kind", "never", "never"
    for typed in (1, 1.0, "1"):
        yield "share", typed, 1.0
        yield "step", typed, 1.0
        yield "rounds", typed, 1


@pytest.mark.parametrize(("key", "typed", "meant"), list(fields()))
def test_values_from_the_page_keep_the_options_type(key: str, typed: object, meant: object) -> None:
    option = Shrunk.options[key]
    value = option.parse(typed)
    assert value == meant and type(value) is type(option.default)
    assert option.parse(option.format(value)) == value


@pytest.mark.parametrize("key", list(Shrunk.options))
@pytest.mark.parametrize("typed", [None, "", [], "?", float("nan"), -1, 10**20])
def test_fields_may_hold_anything(key: str, typed: object) -> None:
    with pytest.raises(ValueError, match=r"is not (one of|a) "):
        Shrunk.options[key].parse(typed)


def test_every_choice_has_a_bank_of_its_own(run: Run) -> None:
    loaded = tiny.load(tiny.DEMO)
    names = ["shrunk", "shrunk:kind=never", "shrunk:share=0.5"]
    quantizers = [quantizer_named(name) for name in names]
    assert len({json.dumps(q.to_json()) for q in quantizers}) == 3
    assert len({bank_folder(loaded.info, q, run.store) for q in quantizers}) == 3
    weights = [
        next(iter(jobs.bank_of(loaded, q, run.store).dense(0, 8, run).values())) for q in quantizers
    ]
    expected = [0.75, 1, 0.5]  # of the unchanged weights, which come second
    for weight, share in zip(weights, expected, strict=True):
        assert float(weight.norm() / weights[1].norm()) == pytest.approx(share, rel=0.02)
