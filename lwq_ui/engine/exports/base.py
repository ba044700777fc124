"""What an export is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from ...core.allocation import Split
from ...core.config import Config
from ...core.errors import UserError
from ...core.run import Run
from ..quantizers import Quantizer

if TYPE_CHECKING:
    from ..banks.bank import Bank
    from ..models.loading import LoadedModel


class Export(ABC):
    """A form in which a split leaves this program.

    A new one derives from ConfigExport where a config has all that it takes, else from ModelExport.
    `name` is its key in the registry, and `title` its name for people. `reader` is a sentence
    without a full stop about the programs that read it."""

    name: ClassVar[str]
    title: ClassVar[str]
    reader: ClassVar[str]


class ConfigExport(Export):
    """A file of text that is made of a config alone:

        class BitsPerLine(ConfigExport):
            name, title, reader = "bits", "Bits, a layer per line", "Any program can read it"

            def text(self, config):
                return "".join(f"{bits:g}\\n" for bits in config.bits_per_layer)

    The command line takes its name after `export --to`."""

    @abstractmethod
    def text(self, config: Config) -> str:
        """Returns the content of the file."""


class ModelExport(Export):
    """A folder with the quantized model, which another program loads by itself. It holds layers
    that `quantizer`, or one derived from it, has packed.

    A job checks before anything is packed, fills the bank, and then writes:

        export.check(loaded, bank.quantizer, split)
        bank.fill([split], run)
        export.write(bank, split, folder, run)
    """

    quantizer: ClassVar[type[Quantizer]]

    @abstractmethod
    def can(self, loaded: LoadedModel, quantizer: Quantizer, split: Split) -> str:
        """Returns why it cannot hold this split, as a sentence; "" where it can. Nothing has to be
        packed for that."""

    @abstractmethod
    def write(self, bank: Bank, split: Split, folder: Path, run: Run) -> None:
        """Writes the model at this split into an empty folder, with one layer at hand at a time
        where the format allows it. Raises UserError, OSError and Stopped."""

    def check(self, loaded: LoadedModel, quantizer: Quantizer, split: Split) -> None:
        """Raises UserError where it cannot hold this split."""
        if message := self.can(loaded, quantizer, split):
            raise UserError(message)
