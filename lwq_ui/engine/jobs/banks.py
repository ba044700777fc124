"""The bank of a loaded model: what is packed for one job serves all others."""

from __future__ import annotations

from ...core.store import Store
from ..banks.bank import Bank
from ..banks.files import bank_folder
from ..models.loading import LoadedModel
from ..quantizers import Quantizer


def bank_of(loaded: LoadedModel, quantizer: Quantizer, store: Store) -> Bank:
    """Returns the one bank of this model and quantizer, shared by everybody who uses the model."""
    bank = loaded.banks.get(quantizer.name)
    if not isinstance(bank, Bank):
        folder = bank_folder(loaded.info, quantizer, store)
        bank = loaded.banks[quantizer.name] = Bank(loaded, quantizer, folder, store.banks)
    return bank
