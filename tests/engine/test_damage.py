"""Files of the cache that are damaged at random: the same numbers or one sentence, never others."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import tiny

from lwq_ui.core.errors import Stopped, UserError
from lwq_ui.core.settings import Settings
from lwq_ui.core.store import Store, write_atomically
from lwq_ui.engine import jobs
from lwq_ui.engine.quantizers.gptq import reached, state_path
from lwq_ui.engine.sealed import sealed
from lwq_ui.engine.texts import Text

TRIALS = 50  # of each kind of file
SPLITS = [(4, 2), (2, 4), (8, 4)]
TEXT = Text("text", tuple(f"{n} birds sat on the wall of the old garden." for n in range(9)))


def flip(content: bytes, at: random.Random) -> bytes:
    place = at.randrange(len(content))
    return content[:place] + bytes([content[place] ^ 1 << at.randrange(8)]) + content[place + 1 :]


def cut(content: bytes, at: random.Random) -> bytes:
    return content[: at.randrange(len(content))]


def zeros(content: bytes, at: random.Random) -> bytes:
    place = at.randrange(len(content))
    return (content[:place] + bytes(16) + content[place + 16 :])[: len(content)]


def noise(content: bytes, at: random.Random) -> bytes:
    place, length = at.randrange(len(content)), at.randrange(1, 64)
    return (content[:place] + at.randbytes(length) + content[place + length :])[: len(content)]


def inserted(content: bytes, at: random.Random) -> bytes:
    place = at.randrange(len(content))
    return content[:place] + at.randbytes(8) + content[place:]


def removed(content: bytes, at: random.Random) -> bytes:
    place = at.randrange(len(content))
    return content[:place] + content[place + at.randrange(1, 9) :]


def exchanged(content: bytes, at: random.Random) -> bytes:
    half = len(content) // 2
    return content[half:] + content[:half]


def digit(content: bytes, at: random.Random) -> bytes:
    """One digit for another: still JSON, and still a number."""
    places = [i for i, c in enumerate(content) if chr(c).isdigit()]
    place = at.choice(places)
    return content[:place] + str(at.randrange(10)).encode() + content[place + 1 :]


def longer(content: bytes, at: random.Random) -> bytes:
    return content + at.randbytes(at.randrange(1, 32))


def empty(content: bytes, at: random.Random) -> bytes:
    return b""


def nested(content: bytes, at: random.Random) -> bytes:
    return b"[" * 100_000


WAYS = [flip, cut, zeros, noise, inserted, removed, exchanged, digit, longer, empty, nested]


def damage(path: Path, others: list[Path], at: random.Random) -> str:
    way = at.randrange(len(WAYS) + 2)
    if way == len(WAYS):
        path.unlink()
        path.mkdir()
        return "a folder"
    if way == len(WAYS) + 1 and others:
        shutil.copy(at.choice(others), path)
        return "another file of its kind"
    chosen = WAYS[way % len(WAYS)]
    path.write_bytes(chosen(path.read_bytes(), at))
    return chosen.__name__


class Machine:
    """One small model, and a cache with everything that jobs leave in it."""

    def __init__(self, folder: Path):
        self.model = tiny.save(tiny.build("llama", num_hidden_layers=2), folder / "model")
        self.loaded = tiny.load(self.model)
        self.filled = folder / "filled"
        self.open(self.filled)
        self.described, self.scored, self.evaluated = self.describe(), self.score(), self.evaluate()

    def open(self, cache: Path) -> None:
        self.settings = Settings(cache=cache)
        self.store = Store(cache)
        self.loaded.banks.clear()

    def describe(self) -> Any:
        return jobs.describe(str(self.model), "auto", tiny.run(self.store)).to_json()

    def score(self, stop_in_layer: str = "") -> Any:
        stop = Event()

        def progress(what: str, done: float | None) -> None:
            if stop_in_layer and stop_in_layer in what:
                stop.set()

        scores = jobs.score(self.loaded, ["lim", "zd"], TEXT, tiny.run(self.store, progress, stop))
        return {name: s.values for name, s in scores.items()}

    def evaluate(self) -> Any:
        measurement = jobs.Measurement(SPLITS, tiny.QUANTO, ["perplexity"], 4)
        done = jobs.evaluate(self.loaded, measurement, tiny.run(self.store))
        return [(e.split, e.metrics, e.items) for e in done.evaluations]


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    return Machine(tmp_path_factory.mktemp("machine"))


@pytest.mark.parametrize("kind", ["info", "scores", "evaluations", "journals", "banks", "passes"])
def test_damaged_files_of_the_cache(
    kind: str, machine: Machine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    work, expected, without = {
        "info": (machine.describe, machine.described, ()),
        "scores": (machine.score, machine.scored, ()),
        "evaluations": (machine.evaluate, machine.evaluated, ()),
        "journals": (machine.evaluate, machine.evaluated, ("evaluations",)),
        "banks": (machine.evaluate, machine.evaluated, ("evaluations", "journals")),
        "passes": (machine.score, machine.scored, ("scores",)),
    }[kind]
    start = tmp_path / "start"
    shutil.copytree(machine.filled, start)
    for folder in without:
        shutil.rmtree(start / folder)
    if kind == "passes":
        machine.open(start)
        with pytest.raises(Stopped):
            machine.score(stop_in_layer="layer 2")
    at = random.Random(kind)
    same = refused = 0
    for trial in range(TRIALS):
        cache = tmp_path / f"{trial}"
        shutil.copytree(start, cache)
        files = sorted(p for p in (cache / kind).rglob("*") if p.is_file())
        path = at.choice(files)
        way = damage(path, [p for p in files if p != path and p.suffix == path.suffix], at)
        machine.open(cache)
        same, refused = tried(work, expected, f"{path.name}: {way}", same, refused)
        shutil.rmtree(cache)
    assert same + refused == TRIALS
    assert same > TRIALS * 0.9  # a sentence is for what cannot be made again


def tried(
    work: Callable[[], Any], expected: Any, case: str, same: int, refused: int
) -> tuple[int, int]:
    try:
        result = work()
    except UserError as e:
        assert str(e).endswith("."), case
        return same, refused + 1
    assert result == expected, case
    return same + 1, refused


def test_damaged_states_of_a_calibration(tmp_path: Path) -> None:
    """Where GPTQ goes on after a stop: with what enters the next layer, or from the beginning."""
    path = state_path(tmp_path, 4)
    assert path
    states = {"0.0": tiny.torch.randn(1, 7, 64), "1.0": tiny.torch.randn(1, 5, 64)}
    content = sealed(path, states, {"layer": "2"})
    at = random.Random(0)
    for _ in range(TRIALS):
        write_atomically(path, content)
        assert reached(tmp_path, 4) == 2
        way = damage(path, [], at)
        expected = 2 if path.is_file() and path.read_bytes() == content else 0
        assert reached(tmp_path, 4) == expected, way
        shutil.rmtree(path) if path.is_dir() else path.unlink()
