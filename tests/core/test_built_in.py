"""Which model the page opens on, and what it says about that."""

from __future__ import annotations

import pytest

from lwq_ui.core.built_in import BUILT_IN, DEMO, ROOM, SMOLLM2, Opening, opening_model
from lwq_ui.core.memory import GIB
from lwq_ui.engine.quantizers import quantizer_named


@pytest.mark.parametrize("free", [ROOM, 100 * ROOM])
def test_it_opens_on_a_real_model(free: int) -> None:
    assert ROOM == 2 * GIB
    assert opening_model("", free) == Opening(SMOLLM2)


def test_it_opens_on_the_demo_model_and_says_why() -> None:
    missing = opening_model("It is not there: get it.", 100 * ROOM)
    assert missing == Opening(
        DEMO, "The page opened on the small demo model. It is not there: get it."
    )
    small = opening_model("", GIB)
    assert small == Opening(
        DEMO,
        "The page opened on the small demo model. SmolLM2-135M-Instruct wants 2.000 GiB of free "
        "memory, and 1.000 GiB are free. Close other programs and start again, or load smollm2 all "
        "the same.",
    )
    assert opening_model("", ROOM - 1).model == DEMO
    assert "get it" in opening_model("It is not there: get it.", 0).reason


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_model_of_the_program_s_own_opens_with_a_pair_that_there_is(name: str) -> None:
    model = BUILT_IN[name]
    assert model.levels in quantizer_named(model.quantizer).pairs
