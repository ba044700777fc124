"""Where a model comes from: the demo, a local folder or the Hub; and what its files hash to.

Imports no torch, so the page can look a model's cached results up before torch is loaded.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from threading import Event
from typing import Any

from ..core.errors import Stopped, UserError
from ..settings import Settings

Progress = Callable[[str, float | None], None]
"""`progress(what is being done, share done from 0 to 1 or None where unknown)`."""


def part_of(progress: Progress, start: float, end: float) -> Progress:
    """Progress of a part of the work, which is from `start` to `end` of the whole. Where the part
    does not know how far it is, what was reached stands."""
    reached = start

    def report(what: str, done: float | None) -> None:
        nonlocal reached
        if done is not None:
            reached = start + (end - start) * done
        progress(what, reached)

    return report


DEMO = "demo"
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
DESCRIPTION = ["*.json", "*.model", "*.txt", "*.jinja"]  # everything but the weights
WEIGHTS = ("*.safetensors", "pytorch_model*.bin")  # the second only where there is no first
FOREIGN = ["*/*", "consolidated*", "adapter_*", "*.gguf"]  # the same weights in other formats

_hashes: dict[tuple[str, int, int], str] = {}


@dataclass(frozen=True)
class Source:
    """A model's files on this disk. `model_id` is what configs name: a Hub id, a folder, 'demo'.
    `weight_hashes` (file name -> sha256) stands in for weights that were not downloaded."""

    model_id: str
    folder: Path
    revision: str | None = None
    weight_hashes: tuple[tuple[str, str], ...] = ()

    def weight_files(self) -> list[Path]:
        for pattern in WEIGHTS:
            if files := sorted(self.folder.glob(pattern)):
                return files
        return []

    def fingerprint(self) -> str:
        """Hash of the contents of config, tokenizer and weights: equal files, equal fingerprint,
        wherever they lie."""
        names = ("config.json", "tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt")
        small = [self.folder / n for n in names if (self.folder / n).exists()]
        weights = [(p.name, file_hash(p)) for p in self.weight_files()] or self.weight_hashes
        whole = hashlib.sha256()
        for name, content in (*((p.name, file_hash(p)) for p in small), *weights):
            whole.update(f"{name} {content}\n".encode())
        return whole.hexdigest()


def file_hash(path: Path) -> str:
    """sha256 of a file's content. The Hub's cache names large files by it; others are read once."""
    real = path.resolve()
    if re.fullmatch("[0-9a-f]{64}", real.name):
        return real.name
    stat = real.stat()
    key = (str(real), stat.st_size, stat.st_mtime_ns)
    if key not in _hashes:
        content = hashlib.sha256()
        with real.open("rb") as file:
            while block := file.read(2**22):
                content.update(block)
        _hashes[key] = content.hexdigest()
    return _hashes[key]


def find(
    model_id: str,
    settings: Settings,
    progress: Progress,
    stop: Event,
    *,
    weights: bool = True,
) -> Source:
    """The files of a model, downloaded where it is a Hub id. `weights=False` leaves the weights
    out: enough to describe a model. Raises UserError with the cause and the way out."""
    model_id = model_id.strip()
    if not model_id:
        raise UserError("Name a model: a Hugging Face id such as Qwen/Qwen3-0.6B, or a folder.")
    if model_id == DEMO:
        return Source(DEMO, settings.demo_model)
    folder = Path(model_id).expanduser()
    if folder.is_dir():
        return local_source(model_id, folder, weights)
    if not HUB_ID.fullmatch(model_id) or model_id.startswith("."):
        raise UserError(
            f"There is no folder '{model_id}', and it is not a Hugging Face id of the form "
            "owner/name."
        )
    return hub_source(model_id, progress, stop, weights)


def local_source(model_id: str, folder: Path, weights: bool) -> Source:
    source = Source(model_id, folder)
    config = folder / "config.json"
    if not config.exists():
        raise UserError(
            f"The folder '{model_id}' has no config.json: choose a folder that holds a model in "
            "transformers' format."
        )
    try:
        json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise UserError(f"The file config.json in '{model_id}' cannot be read: {e}.") from e
    if weights:
        check_weight_files(source)
    return source


def check_weight_files(source: Source) -> None:
    """Every file the index names is there, and none is cut short (their headers say how long they
    are). No weights are read."""
    files = source.weight_files()
    if not files:
        raise UserError(
            f"'{source.model_id}' has no weights: there is no .safetensors or pytorch_model.bin "
            "file in it."
        )
    index = source.folder / "model.safetensors.index.json"
    if files[0].suffix == ".safetensors" and index.exists():
        try:
            named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
            raise UserError(
                f"The file {index.name} of '{source.model_id}' is damaged. Download or copy it "
                "again."
            ) from e
        if missing := sorted(named - {f.name for f in files}):
            raise UserError(
                f"'{source.model_id}' is incomplete: {missing[0]} is missing. Download it again."
            )
    for path in files:
        if path.suffix == ".safetensors" and not is_complete(path):
            raise UserError(
                f"The file {path.name} of '{source.model_id}' is cut short or damaged. Download or "
                "copy it again."
            )


def is_complete(path: Path) -> bool:
    """Whether a safetensors file is as long as its header says."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            return False
        try:
            header = json.loads(file.read(length))
            ends = [t["data_offsets"][1] for name, t in header.items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError, IndexError):
            return False
    return size == 8 + length + max(ends, default=0)


def hub_source(model_id: str, progress: Progress, stop: Event, weights: bool) -> Source:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    def download(patterns: list[str]) -> Path:
        return Path(
            snapshot_download(
                model_id,
                allow_patterns=patterns,
                ignore_patterns=FOREIGN,
                tqdm_class=reporting_bar(f"Downloading {model_id}", progress, stop),
            )
        )

    progress(f"Looking for {model_id}", None)
    try:
        folder = download(DESCRIPTION)
        if not (folder / "config.json").exists():
            raise UserError(
                f"'{model_id}' is not a transformers model: it has no config.json. Look for the "
                "original model it was made from."
            )
        for pattern in WEIGHTS if weights else ():
            if not Source(model_id, folder).weight_files():
                folder = download([pattern])
        hashes = () if weights else remote_hashes(model_id, folder.name)
    except GatedRepoError as e:
        raise UserError(
            f"'{model_id}' is gated: accept its licence on its Hugging Face page, then sign in "
            "with `hf auth login` or set HF_TOKEN."
        ) from e
    except RepositoryNotFoundError as e:
        raise UserError(
            f"Hugging Face knows no model '{model_id}', or it is private. Check the spelling, or "
            "sign in with `hf auth login`."
        ) from e
    except HFValidationError as e:
        raise UserError(f"'{model_id}' is not a Hugging Face id of the form owner/name.") from e
    except LocalEntryNotFoundError as e:
        raise UserError(
            f"'{model_id}' is not on this disk and Hugging Face cannot be reached. Check the "
            "network, or give the path of a folder."
        ) from e
    except HfHubHTTPError as e:
        raise UserError(f"Hugging Face did not send '{model_id}': {reason(e)}") from e
    except (UserError, Stopped):
        raise
    except Exception as e:  # a connection breaks in many ways, each with a class of its own
        raise UserError(f"'{model_id}' could not be downloaded: {reason(e)}") from e
    source = Source(model_id, folder, revision=folder.name, weight_hashes=hashes)
    if weights:
        check_weight_files(source)
    return source


def reason(error: Exception) -> str:
    """What an error says, as the end of a sentence."""
    text = getattr(error, "strerror", None) or str(error) or "the connection broke"
    return text.strip().splitlines()[0].rstrip(".") + "."


def remote_hashes(model_id: str, revision: str) -> tuple[tuple[str, str], ...]:
    """The hashes of weights that lie on the Hub; none where it cannot be asked."""
    from huggingface_hub import HfApi

    try:
        info = HfApi().model_info(model_id, revision=revision, files_metadata=True)
    except Exception:  # its errors for "no network" have no class in common
        return ()
    known = {f.rfilename: f.lfs.sha256 for f in info.siblings or () if f.lfs}
    for pattern in WEIGHTS:
        if names := sorted(n for n in known if fnmatch(n, pattern) and "/" not in n):
            return tuple((n, known[n]) for n in names if not n.startswith("consolidated"))
    return ()


def reporting_bar(title: str, progress: Progress, stop: Event) -> type:
    """A tqdm that draws nothing, reports the share of bytes done, and stops when asked."""
    from tqdm.auto import tqdm

    class Bar(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.pop("name", None)
            super().__init__(*args, **{**kwargs, "disable": False, "file": Silent()})

        def update(self, n: float | None = 1) -> bool | None:
            if stop.is_set():
                raise Stopped
            shown = super().update(n)
            if self.unit == "B":
                progress(title, self.n / self.total if self.total else None)
            return shown

    return Bar


class Silent:
    def write(self, text: str) -> None:
        pass

    def flush(self) -> None:
        pass
