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

    A new one derives from ConfigExport where the config says all of it, else from ModelExport.
    `name` is what the command line calls it, `title` what people read, `reader` a sentence without
    a full stop about who reads it. `is_folder` says whether it is a folder or one file."""

    name: ClassVar[str]
    title: ClassVar[str]
    reader: ClassVar[str]
    is_folder: ClassVar[bool]


class ConfigExport(Export):
    """A text that is made of a config alone:

    class BitsPerLine(ConfigExport):
        name, title, reader = "bits", "Bits, a layer per line", "Any program can read it"

        def text(self, config):
            return "".join(f"{bits:g}\\n" for bits in config.bits_per_layer)
    """

    is_folder = False

    @abstractmethod
    def text(self, config: Config) -> str:
        """Returns the content of the file."""


class ModelExport(Export):
    """A folder with the quantized model, which another program loads by itself. It holds layers
    that `quantizer`, or one derived from it, has packed.

    Whoever calls `write` has asked `can` before, and has filled the bank:

        export.check(loaded, bank.quantizer, split)
        bank.fill([split], run)
        export.write(bank, split, folder, run)
    """

    is_folder = True
    quantizer: ClassVar[type[Quantizer]]

    @abstractmethod
    def can(self, loaded: LoadedModel, quantizer: Quantizer, split: Split) -> str:
        """Returns why it cannot hold this split, as a sentence; "" where it can. Nothing has to be
        packed for that."""

    @abstractmethod
    def write(self, bank: Bank, split: Split, folder: Path, run: Run) -> None:
        """Writes the model at this split into an empty folder, one layer at hand at a time where
        the form allows it. Raises UserError, OSError and Stopped."""

    def check(self, loaded: LoadedModel, quantizer: Quantizer, split: Split) -> None:
        """Raises UserError where it cannot hold this split."""
        if message := self.can(loaded, quantizer, split):
            raise UserError(message)
