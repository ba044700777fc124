"""From what a user typed to a model's files."""

from __future__ import annotations

import re
from pathlib import Path

from ...core.built_in import DEMO, SMOLLM2
from ...core.errors import UserError
from ...core.run import Run
from .gguf_source import ON_HUB, SUFFIX, gguf_in_folder, hub_gguf, local_gguf
from .hub import Unreachable
from .smollm2 import smollm2_source
from .source import LONGEST_NAME, NoConfig, Source, hub_source, local_source

HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def find(model_id: str, run: Run, *, weights: bool = True) -> Source:
    """Returns the files of a model: one of the program's own, a folder, a GGUF file or a Hub id,
    from where they are downloaded. `owner/name:file.gguf` is a file of a Hub id.

    `weights=False` leaves the weights out, which is enough to describe a model. Raises Stopped, and
    UserError with the cause and the way out.
    """
    model_id = model_id.strip()
    if not model_id:
        raise UserError("Name a model: a Hugging Face id such as Qwen/Qwen3-0.6B, or a folder.")
    if model_id == DEMO:
        return Source(DEMO, run.settings.demo_model)
    if model_id == SMOLLM2:
        return smollm2_source(run.settings)
    if (folder := folder_of(model_id)) is not None:
        gguf = None
        if not (folder / "config.json").exists():
            gguf = gguf_in_folder(model_id, folder, run.settings.cache)
        return gguf or local_source(model_id, folder, run.settings, weights)
    if model_id.lower().endswith(SUFFIX):
        return gguf_named(model_id, run, weights)
    named = HUB_ID.fullmatch(model_id) and len(model_id) <= LONGEST_NAME
    if not named or model_id.startswith("."):
        raise UserError(
            f"There is no folder '{printable(model_id)}', and it is not a Hugging Face id of the "
            "form owner/name."
        )
    try:
        return hub_source(model_id, run, weights)
    except NoConfig as no_config:
        try:
            gguf = hub_gguf(model_id, "", run, weights)
        except Unreachable:
            raise no_config from None
        if gguf is None:
            raise
        return gguf


def gguf_named(model_id: str, run: Run, weights: bool) -> Source:
    """Returns the model in a GGUF file, of this disk or of the Hub. Raises UserError where there is
    no such file."""
    path = Path(model_id).expanduser()
    try:
        if path.is_file():
            return local_gguf(model_id, path, run.settings.cache)
    except (OSError, RuntimeError, ValueError):  # too long, of an unknown user, with a NUL
        pass
    on_hub = ON_HUB.fullmatch(model_id)
    if on_hub is None or len(model_id) > LONGEST_NAME:
        raise UserError(
            f"There is no file '{printable(model_id)}'. One on the Hugging Face Hub is named "
            f"owner/name:file{SUFFIX}."
        )
    gguf = hub_gguf(on_hub["repository"], on_hub["file"], run, weights)
    assert gguf is not None  # a file that was named is there, or an error was raised
    return gguf


def folder_of(model_id: str) -> Path | None:
    """Returns the folder of this name, or None. Raises UserError where it cannot be looked into."""
    try:
        folder = Path(model_id).expanduser()
        if not folder.is_dir():
            return None
        next(folder.iterdir(), None)
    except PermissionError as e:
        raise UserError(
            f"The folder '{printable(model_id)}' cannot be read: permission denied. Choose another "
            "folder, or change its permissions."
        ) from e
    except (OSError, RuntimeError, ValueError):  # too long, of an unknown user, with a NUL
        return None
    return folder


def printable(name: str) -> str:
    """Returns a name as typed, with escapes for what is no text, and cut where it is very long."""
    text = name.encode("utf-8", "backslashreplace").decode("utf-8").replace("\0", "\\0")
    text = " ".join(text.split())
    return text if len(text) <= LONGEST_NAME else text[:LONGEST_NAME] + "..."
