"""What a model's weights were before they came here: in most GGUF files they are quantized already.
Figures then say nothing of the model that the file was made from."""

from __future__ import annotations

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
