"""The progress bars that libraries ask for while they download or load a model.

They draw nothing. A bar that reports passes its share on to a Run instead. Imports no torch.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from ..core.run import Run


def reporting_bar(title: str, run: Run, unit: str = "it") -> type[tqdm]:
    """Returns a kind of tqdm that reports to `run` what share of its total is done.

    Only bars that count in `unit` report: "B" are bytes, "it" is tqdm's name for items. Every bar
    raises Stopped at its next step once the user has asked for that.
    """

    class Bar(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.pop("name", None)  # an argument of huggingface_hub's own class
            super().__init__(*args, **{**kwargs, "disable": False, "file": io.StringIO()})

        def __iter__(self) -> Iterator[Any]:  # tqdm's own skips updates that follow quickly
            for item in self.iterable:
                yield item
                self.update()
            self.close()

        def display(self, *args: Any, **kwargs: Any) -> bool:
            return True

        def update(self, n: float | None = 1) -> bool | None:
            run.check()
            displayed = super().update(n)
            if self.unit == unit:
                run.progress(title, self.n / self.total if self.total else None)
            return displayed

    return Bar


@contextmanager
def transformers_bars(bar: Callable[..., Any]) -> Iterator[None]:
    """While the block runs, transformers makes its progress bars with `bar`."""
    from transformers.utils import logging

    previous = logging.set_tqdm_hook(lambda factory, args, kwargs: bar(*args, **kwargs))
    try:
        yield
    finally:
        logging.set_tqdm_hook(previous)
