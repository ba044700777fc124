"""Where files lie, and what the environment says about that."""

import os
from dataclasses import dataclass
from pathlib import Path

from .diskspace import DEFAULT_LIMIT
from .errors import UserError
from .memory import parse_size

ROOT = Path(__file__).resolve().parents[2]
ASSETS = ROOT / "assets"


@dataclass(frozen=True)
class Settings:
    """Where files lie. `shipped` is the read-only cache that comes with the program. `bank_limit`
    is how many bytes of disk packed layers may take."""

    cache: Path
    assets: Path = ASSETS
    bank_limit: int = DEFAULT_LIMIT

    @property
    def shipped(self) -> Path:
        return self.assets / "cache"

    @property
    def demo_model(self) -> Path:
        return self.assets / "demo_model"

    @staticmethod
    def from_environment() -> "Settings":
        """Reads two variables: `LWQ_CACHE_DIR` is the folder of the cache, `LWQ_BANK_LIMIT` what
        its packed layers may take, such as 50GiB. Raises UserError where a value is wrong."""
        limit = os.environ.get("LWQ_BANK_LIMIT")
        try:
            bank_limit = parse_size(limit) if limit else DEFAULT_LIMIT
        except ValueError as e:
            raise UserError(f"The environment variable LWQ_BANK_LIMIT is wrong: {e}.") from None
        try:
            cache = Path(os.environ.get("LWQ_CACHE_DIR") or ROOT / "cache").expanduser()
        except RuntimeError as e:  # ~somebody, who is no user of this machine
            reason = str(e).rstrip(".")
            raise UserError(f"The environment variable LWQ_CACHE_DIR is wrong: {reason}.") from None
        return Settings(cache=cache, bank_limit=bank_limit)
