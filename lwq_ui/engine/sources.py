"""Where a model comes from: the demo, a local folder or the Hub; and what its files hash to.

Imports no torch, so the page can look a model's cached results up before torch is loaded.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path
from threading import Event
from typing import Any

from ..core.errors import Stopped, UserError
from ..core.memory import format_gib
from ..core.store import Key, Store, digest
from ..core.typed import typed
from ..settings import Settings
from .headers import Headers, check_present, hub_headers, index_of, local_headers
from .hub import DEMO, FOREIGN, WEIGHTS, HubFile, hub_errors, unreachable, weight_files

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


HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
READ = (
    "config.json",
    "generation_config.json",
    "chat_template*.jinja",
    "chat_template.json",
    "tokenizer*.json",
    "tokenizer.model*",
    "special_tokens_map.json",
    "added_tokens.json",
    "*.model",  # SentencePiece: spiece.model, sentencepiece.bpe.model, ...
    "*.spm",
    "*.tiktoken",
    "*.tokenizer",
    "*tekken*.json",
    "*vocab*.json",
    "vocab.txt",
    "merges.txt",
    "dict.txt",
    "bpe.codes",
    "emoji.json",
    "normalizer.json",
    "byte_maps.json",
    "word_*.json",
)
"""Of a model's files, those that transformers reads beside the weights, whatever the tokenizer's
class. A change of one of them may change every result."""

DESCRIPTION = ["*.json", "*.txt", *READ]  # everything but the weights

LARGE = 2**30  # bytes of a file that takes seconds to hash

_hashes: dict[str, str] = {}


@dataclass(frozen=True)
class Source:
    """A model's files. `model_id` is what configs name: a Hub id, a folder, 'demo'. `folder` holds
    those on this disk; `on_hub` lists the weight files as the Hub has them, None where all are here
    or where it could not be asked. `cache` is where the headers read from the Hub are kept, and the
    hashes of large files."""

    model_id: str
    folder: Path
    revision: str | None = None
    on_hub: tuple[HubFile, ...] | None = None
    cache: Path | None = field(default=None, compare=False)

    @property
    def _store(self) -> Store | None:
        return Store(self.cache) if self.cache else None

    def weight_files(self) -> list[Path]:
        """On this disk: safetensors, or else pytorch_model*.bin."""
        for pattern in WEIGHTS:
            if files := sorted(self.folder.glob(pattern)):
                return files
        return []

    def missing(self) -> tuple[HubFile, ...]:
        return tuple(f for f in self.on_hub or () if not (self.folder / f.name).exists())

    @property
    def download_bytes(self) -> int | None:
        """Of weights that would have to be downloaded; None where the Hub could not be asked."""
        if self.revision and self.on_hub is None and not self.weight_files():
            return None
        return sum(f.bytes for f in self.missing())

    def headers(self, progress: Progress, stop: Event) -> Headers | None:
        """What the weights are, without downloading them; None where they are in a format without
        headers, pytorch_model*.bin. Raises UserError and Stopped."""
        files = self.weight_files() if self.download_bytes == 0 else self.on_hub or ()
        if files and not is_safe(files):
            return None
        if self.download_bytes == 0:
            return local_headers(self.folder, self.model_id)
        store = self._store
        key = Key("headers", str(self.revision), {"model": self.model_id})
        if store and (stored := store.read(key, Headers.from_json)):
            return stored
        if self.on_hub is None:
            raise unreachable(self.model_id)
        sizes = {f.name: f.bytes for f in self.on_hub}
        headers = hub_headers(self.model_id, str(self.revision), sizes, self.folder, progress, stop)
        if store:
            store.write(key, headers.to_json())
        return headers

    def fingerprint(self, stop: Event | None = None) -> str:
        """Hash of the contents of all files that make the model: weights, configs and whatever the
        tokenizer reads. Equal files, equal fingerprint, wherever they lie."""
        small = described(self.folder)
        weights = [(f.name, f.hash) for f in self.on_hub or ()]
        if not weights:
            files, store = self.weight_files(), self._store
            with ThreadPoolExecutor() as pool:  # a disk is faster than one core
                hashes = list(pool.map(lambda p: file_hash(p, store, stop), files))
            weights = [(p.name, h) for p, h in zip(files, hashes, strict=True)]
        whole = hashlib.sha256()
        for name, content in (*((p.name, file_hash(p)) for p in small), *weights):
            whole.update(f"{name} {content}\n".encode())
        return whole.hexdigest()

    def is_hashed(self) -> bool:
        """Whether the fingerprint can be had without reading large files."""
        store = self._store
        return bool(self.on_hub) or all(
            p.stat().st_size <= LARGE or known_hash(p.resolve(), store) for p in self.weight_files()
        )


def described(folder: Path) -> list[Path]:
    """The files of a folder that `READ` names, sorted by name."""
    named = {p for pattern in READ for p in folder.glob(pattern) if p.is_file()}
    return sorted((p for p in named if p.name[0] != "."), key=lambda p: p.name)


def is_safe(files: Sequence[Path | HubFile]) -> bool:
    return any(f.name.endswith(".safetensors") for f in files)


def file_hash(path: Path, store: Store | None = None, stop: Event | None = None) -> str:
    """sha256 of a file's content. The Hub's cache names large files by it; others are read once
    (large ones once on this machine, where there is a store)."""
    real = path.resolve()
    if known := known_hash(real, store):
        return known
    key, content = content_key(real), hashlib.sha256()
    with real.open("rb") as file:
        while block := file.read(2**22):
            if stop and stop.is_set():
                raise Stopped
            content.update(block)
    _hashes[key.digest] = content.hexdigest()
    if store and real.stat().st_size > LARGE:
        store.write(key, _hashes[key.digest])
    return _hashes[key.digest]


def known_hash(real: Path, store: Store | None) -> str | None:
    if re.fullmatch("[0-9a-f]{64}", real.name):
        return real.name
    key = content_key(real)
    return _hashes.get(key.digest) or (store.read(key, stored_hash) if store else None)


def stored_hash(value: Any) -> str:
    """Raises ValueError for what is no sha256."""
    if not (isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value)):
        raise ValueError("it is no sha256")
    return value


def content_key(real: Path) -> Key:
    """Changes with the file's content. A copy may bring an older file's time of change along; the
    inode and the time of the inode's change belong to this file alone."""
    stat = real.stat()
    parts = {
        "bytes": stat.st_size,
        "changed": [stat.st_mtime_ns, stat.st_ctime_ns],
        "inode": stat.st_ino,
    }
    return Key("hashes", digest(str(real)), parts)


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
        return local_source(model_id, folder, settings, weights)
    if not HUB_ID.fullmatch(model_id) or model_id.startswith("."):
        raise UserError(
            f"There is no folder '{model_id}', and it is not a Hugging Face id of the form "
            "owner/name."
        )
    return hub_source(model_id, settings, progress, stop, weights)


def local_source(model_id: str, folder: Path, settings: Settings, weights: bool) -> Source:
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
    source = Source(model_id, folder, cache=settings.cache)
    if weights:
        check_weights(source)
    return source


def check_weights(source: Source) -> None:
    """Every file the index names is there, and none is cut short. No weights are read."""
    files = source.weight_files()
    if not files:
        raise UserError(
            f"'{source.model_id}' has no weights: there is no .safetensors or pytorch_model.bin "
            "file in it."
        )
    if is_safe(files):
        local_headers(source.folder, source.model_id)
    else:
        named = index_of(source.folder, source.model_id, "pytorch_model.bin").values()
        check_present(named, {f.name for f in files}, source.model_id)


def hub_source(
    model_id: str, settings: Settings, progress: Progress, stop: Event, weights: bool
) -> Source:
    from huggingface_hub import snapshot_download

    def download(patterns: list[str], revision: str | None = None) -> Path:
        return Path(
            snapshot_download(
                model_id,
                revision=revision,
                allow_patterns=patterns,
                ignore_patterns=FOREIGN,
                tqdm_class=reporting_bar(f"Downloading {model_id}", progress, stop),
            )
        )

    progress(f"Looking for {model_id}", None)
    with hub_errors(model_id):
        folder = download(DESCRIPTION)
        if not (folder / "config.json").exists():
            raise UserError(
                f"'{model_id}' is not a transformers model: it has no config.json. Look for the "
                "original model it was made from."
            )
        source = Source(model_id, folder, revision=folder.name, cache=settings.cache)
        try:
            check_weights(source)
        except UserError:
            source = replace(source, on_hub=listed(source, Store(settings.cache), weights))
        if weights and (missing := source.missing()):
            check_room(source)
            download([f.name for f in missing], source.revision)
    if weights:
        check_weights(source)
    return source


def listed(source: Source, store: Store, needed: bool) -> tuple[HubFile, ...] | None:
    """The weight files on the Hub; None where it cannot be asked, unless they are `needed`. A
    revision never changes, so it is asked once."""
    key = Key("files", str(source.revision), {"model": source.model_id})
    if (stored := store.read(key, stored_files)) is not None:
        return stored
    try:
        files = weight_files(source.model_id, str(source.revision))
    except Exception:  # its errors for "no network" have no class in common
        if needed and not source.weight_files():
            raise
        return None
    store.write(key, [astuple(f) for f in files])
    return files


def stored_files(value: Any) -> tuple[HubFile, ...]:
    """Raises ValueError for what is no list of files."""
    return tuple(HubFile(*file) for file in typed(list[tuple[str, int, str]], value))


def check_room(source: Source) -> None:
    needed, free = source.download_bytes or 0, shutil.disk_usage(source.folder).free
    if needed > free:
        raise UserError(
            f"'{source.model_id}' needs {format_gib(needed)} on the disk, where "
            f"{format_gib(free)} are free. Make room, or set HF_HOME to a folder on a larger disk."
        )


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
