"""The environment, read once."""

import os
from dataclasses import dataclass
from pathlib import Path

from .diskspace import DEFAULT_LIMIT
from .errors import UserError
from .memory import parse_size

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Settings:
    """Where things lie. `shipped` is the read-only cache that comes with the program; `bank_limit`
    is how many bytes of disk packed layers may take."""

    cache: Path
    assets: Path = ROOT / "assets"
    bank_limit: int = DEFAULT_LIMIT

    @property
    def shipped(self) -> Path:
        return self.assets / "cache"

    @property
    def demo_model(self) -> Path:
        return self.assets / "demo_model"

    @staticmethod
    def from_environment() -> "Settings":
        """`LWQ_CACHE_DIR` moves the cache out of the program's folder; `LWQ_BANK_LIMIT`, such as
        50GiB, is what its packed layers may take. Raises UserError for a value that is no size."""
        limit = os.environ.get("LWQ_BANK_LIMIT")
        try:
            bank_limit = parse_size(limit) if limit else DEFAULT_LIMIT
        except ValueError as e:
            raise UserError(f"The environment variable LWQ_BANK_LIMIT is wrong: {e}.") from None
        try:
            cache = Path(os.environ.get("LWQ_CACHE_DIR") or ROOT / "cache").expanduser()
        except RuntimeError as e:  # a user that there is not
            reason = str(e).rstrip(".")
            raise UserError(f"The environment variable LWQ_CACHE_DIR is wrong: {reason}.") from None
        return Settings(cache=cache, bank_limit=bank_limit)
