"""The config as JSON (lwq/1), and back."""

import json

from ..errors import UserError
from ..schema import Config
from ..store import dumps


def export_json(config: Config) -> str:
    return dumps(config.to_json()) + "\n"


def import_json(text: str | bytes) -> Config:
    """Bytes may be UTF-8 or UTF-16, with or without a byte order mark. Raises UserError naming what
    is wrong."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as e:
        raise UserError(f"This is not a config: it is not valid JSON ({e}).") from e
    return Config.from_json(data)
