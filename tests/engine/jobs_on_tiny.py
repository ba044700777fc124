"""Jobs on a tiny model, stopped where a test wants that."""

from __future__ import annotations

from dataclasses import replace
from threading import Event
from typing import Any

import tiny

from lwq_ui.core.choice import Choice
from lwq_ui.core.config import Config
from lwq_ui.core.run import Run
from lwq_ui.core.store import Store
from lwq_ui.engine.models.loading import LoadedModel
from lwq_ui.engine.quantizers import quantizer_named

HQQ, LONG = map(quantizer_named, ("quanto-hqq", "quanto:group=128"))


SPLITS = [(4, 2, 4, 2), (16,) * 4, (8, 4, 2, 16)]


def elsewhere(run: Run, name: str) -> Run:
    """The same with an empty store."""
    return replace(run, store=Store(run.store.root.with_name(name)))


class StopAt:
    """Progress that sets the stop event at its n-th call."""

    def __init__(self, at: int):
        self.at = at
        self.stop = Event()
        self.calls: list[str] = []

    def __call__(self, what: str, done: float | None) -> None:
        self.calls.append(what)
        if len(self.calls) == self.at + 1:
            self.stop.set()


def config_of(loaded: LoadedModel, split: Any) -> Config:
    """A config with these levels: all layers but those at 4 bits are pinned."""
    pins = {i: level for i, level in enumerate(split) if level != 4}
    choice = Choice(loaded.info, tiny.QUANTO, (4, 2), "first", pins=pins)
    return choice.with_budget(choice.cost.total(tuple(split))).config()
