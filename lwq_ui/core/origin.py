"""What a model's weights were before they came here: in most GGUF files they are quantized already.
Figures then say nothing of the model that the file was made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

REFERENCE = "The reference is that file, not the model it was made from."
SPOKEN_WITH_VOWEL = "AEFHILMNORSX"  # letters whose names begin with one: an IQ4_XS file


@dataclass(frozen=True)
class Origin:
    """`quantized_as` is what the weights were quantized as, such as 'Q4_1'; None where they were
    not. Every sentence is then empty."""

    quantized_as: str | None = None

    @property
    def sentence(self) -> str:
        """Says where the weights come from, beside every figure of the model."""
        if self.quantized_as is None:
            return ""
        article = "an" if self.quantized_as[0] in SPOKEN_WITH_VOWEL else "a"
        return f"Weights come from {article} {self.quantized_as} file."

    @property
    def meaning(self) -> str:
        """Says the same, and what that makes of the reference."""
        return f"{self.sentence} {REFERENCE}" if self.sentence else ""


NEVER_QUANTIZED = Origin()


@dataclass(frozen=True)
class Grid:
    """2**bits evenly spaced values for each `group` of neighbours in a row, from the smallest of
    these weights to the largest. Both ends are values."""

    bits: int
    group: int


GRIDS: Mapping[str, Grid] = {"Q4_1": Grid(4, 32), "Q5_1": Grid(5, 32)}
"""By ggml's types. Each block of these stores its minimum and its step, and the weights at both
ends have the first and the last code: whoever spans the same block again meets the same values.

No other type has such blocks. Those of Q4_0, Q5_0 and Q8_0 store a step alone, so that only the
largest magnitude is at an end. Those of K- and I-types get step and minimum by a search, which
leaves ends unused. So it is with Q4_1 and Q5_1 where an importance matrix is given.
"""
