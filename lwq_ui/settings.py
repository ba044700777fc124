"""The environment, read once."""

import os
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Settings:
    """Where things lie. `shipped` is the read-only cache that comes with the program."""

    cache: Path
    assets: Path = ROOT / "assets"

    @property
    def shipped(self) -> Path:
        return self.assets / "cache"

    @property
    def demo_model(self) -> Path:
        return self.assets / "demo_model"

    @staticmethod
    def from_environment() -> "Settings":
        """`LWQ_CACHE_DIR` moves the cache out of the program's folder."""
        return Settings(cache=Path(os.environ.get("LWQ_CACHE_DIR") or ROOT / "cache").expanduser())
