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
    is how many bytes of disk packed layers may take. `tasks` is a folder of the user's own task
    files."""

    cache: Path
    assets: Path = ASSETS
    bank_limit: int = DEFAULT_LIMIT
    tasks: Path | None = None

    @property
    def shipped(self) -> Path:
        return self.assets / "cache"

    @property
    def demo_model(self) -> Path:
        return self.assets / "demo_model"

    @staticmethod
    def from_environment(tasks: str | None = None) -> "Settings":
        """Returns what three variables say. `tasks` goes before the third.

        `LWQ_CACHE_DIR` is the folder of the cache, `LWQ_BANK_LIMIT` what its packed layers may
        take, such as 50GiB. `LWQ_TASKS` is a folder of task files. Raises UserError where a value
        is wrong.
        """
        limit = os.environ.get("LWQ_BANK_LIMIT")
        try:
            bank_limit = parse_size(limit) if limit else DEFAULT_LIMIT
        except ValueError as e:
            raise UserError(f"The environment variable LWQ_BANK_LIMIT is wrong: {e}.") from None
        cache = folder("LWQ_CACHE_DIR", str(ROOT / "cache"))
        return Settings(cache=cache, bank_limit=bank_limit, tasks=tasks_folder(tasks))


def folder(variable: str, default: str) -> Path:
    """Returns the folder that a variable names. Raises UserError where none can have its name."""
    try:
        return Path(os.environ.get(variable) or default).expanduser()
    except RuntimeError as e:  # ~somebody, who is no user of this machine
        reason = str(e).rstrip(".")
        raise UserError(f"The environment variable {variable} is wrong: {reason}.") from None


def tasks_folder(given: str | None) -> Path | None:
    """Returns the folder of the user's tasks: `given`, or what LWQ_TASKS says, or None.

    Raises UserError where there is no such folder.
    """
    if given is None and not os.environ.get("LWQ_TASKS"):
        return None
    path = folder("LWQ_TASKS", "") if given is None else Path(given)
    if given == "" or not path.is_dir():  # Path("") is the present folder
        where = "The environment variable LWQ_TASKS" if given is None else "--tasks"
        name = path if given is None else given
        raise UserError(f"{where} is wrong: there is no folder '{name}'.")
    return path
