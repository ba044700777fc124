"""The demo model, and how its commands are called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lwq_ui.cli import main

N = 24  # layers
QUICK = ["--max-tokens", "300"]
Run = Callable[..., Any]


def bad(capfd: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    assert caught.value.code == 2
    out, err = capfd.readouterr()
    assert out == ""
    return err
