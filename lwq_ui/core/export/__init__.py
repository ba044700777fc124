"""Config -> files. One module per format; a format is registered by its name in EXPORTS."""

from collections.abc import Callable

from ..schema import Config
from .json_config import export_json

EXPORTS: dict[str, Callable[[Config], str]] = {"json": export_json}
