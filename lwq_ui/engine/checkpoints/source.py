"""A model in transformers' format, in a local folder or on the Hub; and what its files hash to.

Imports no torch, so that the page can look a model's results up before torch is loaded.
"""

from __future__ import annotations

import hashlib
import shutil
from base64 import b64decode, b64encode
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass, field, replace
from glob import escape
from pathlib import Path
from typing import Any

from ...core.errors import UserError
from ...core.memory import format_gib
from ...core.run import Run
from ...core.settings import Settings
from ...core.store import Key, Store
from ...core.typed import typed
from ..bars import reporting_bar
from .fingerprint import HASHES, FileHashes, stamp
from .headers import Headers, hub_headers, local_headers
from .hub import HubFile, fetch_range, hub_errors, possible_weights, unreachable
from .quantized import QUANTIZED_FILES, refuse_quantized
from .weight_files import check_present, is_safe, on_disk, weight_files

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
"""The files that transformers reads beside the weights, whatever the tokenizer's class. A change
of one of them may change every result."""

DESCRIPTION = [*READ, *QUANTIZED_FILES, "*.index.json"]  # everything but the weights

LONGEST_NAME = 200  # characters of a name that a sentence repeats


class NoConfig(UserError):
    """A repository of the Hub has no config.json."""


@dataclass(frozen=True)
class Source:
    """A model's files.

    `model_id` is what configs name: a Hub id, a folder, 'demo' or 'smollm2'. `folder` holds the
    files on this disk. `on_hub` lists the weight files as the Hub has them. It is None where all
    are here, or where the Hub could not be asked. `cache` keeps the headers that the Hub sent, and
    the hashes of large files.
    """

    model_id: str
    folder: Path
    revision: str | None = None
    on_hub: tuple[HubFile, ...] | None = None
    cache: Path | None = field(default=None, compare=False)
    hashes: FileHashes = field(default=HASHES, compare=False, repr=False)

    @property
    def repository(self) -> str:
        """The Hub's id."""
        return self.model_id

    @property
    def _store(self) -> Store | None:
        return Store(self.cache) if self.cache else None

    def weight_files(self) -> list[Path]:
        """Returns the files that transformers takes the weights from, as far as they are on this
        disk. Raises UserError where an index is damaged."""
        exists = on_disk(self.folder)
        names, _ = weight_files(self.folder, exists, self.model_id)
        return [self.folder / name for name in names if exists(name)]

    def missing(self) -> tuple[HubFile, ...]:
        """Returns the weight files that are on the Hub alone."""
        return tuple(f for f in self.on_hub or () if not (self.folder / f.name).exists())

    @property
    def download_bytes(self) -> int | None:
        """Bytes of weights that would have to be downloaded, None where the Hub could not be
        asked."""
        if self.revision and self.on_hub is None and not self.weight_files():
            return None
        return sum(f.bytes for f in self.missing())

    @property
    def has_weights(self) -> bool:
        """Whether it is known where the weights are, on this disk or on the Hub."""
        return bool(self.on_hub or self.weight_files())

    def headers(self, run: Run) -> Headers | None:
        """Returns what the weights are, without downloading them.

        Returns None where their format has no headers, as pytorch_model*.bin. Raises UserError and
        Stopped.
        """
        here = self.download_bytes == 0
        files = self.weight_files() if here else self.on_hub or ()
        if files and not is_safe(f.name for f in files):
            return None
        if here:
            return local_headers(self.folder, self.model_id)
        store = self._store
        key = Key("headers", str(self.revision), {"model": self.model_id})
        if store and (stored := store.read(key, Headers.from_json)):
            return stored
        if self.on_hub is None:
            raise unreachable(self.model_id)
        sizes = {f.name: f.bytes for f in self.on_hub}
        headers = hub_headers(self.model_id, str(self.revision), sizes, self.folder, run)
        if store:
            store.write(key, headers.to_json())
        return headers

    def fetch(self, file: str, start: int, end: int) -> bytes:
        """Returns some bytes of a file that is on the Hub. What was fetched once is kept. Raises
        UserError where the Hub cannot be asked."""
        store = self._store
        key = Key("parts", str(self.revision), {"model": self.model_id, "part": [file, start, end]})
        if store and (stored := store.read(key, lambda value: b64decode(typed(str, value)))):
            return stored
        with hub_errors(self.model_id):
            content = fetch_range(self.repository, str(self.revision), file, start, end)
        if store:
            store.write(key, b64encode(content).decode())
        return content

    def fingerprint(self, run: Run | None = None) -> str:
        """Returns a hash of the contents of all files that make the model.

        These are the weights, the configs and whatever the tokenizer reads. Equal files have an
        equal fingerprint, wherever they lie. Raises UserError, OSError, and Stopped of the `run`.
        """
        small = files_beside_weights(self.folder)
        weights = [(f.name, f.hash) for f in self.on_hub or ()]
        if not weights:
            files, store = self.weight_files(), self._store
            with ThreadPoolExecutor() as pool:  # a disk is faster than one core
                hashes = list(pool.map(lambda p: self.hashes.get(p, store, run), files))
            names = [p.relative_to(self.folder).as_posix() for p in files]
            weights = list(zip(names, hashes, strict=True))
        whole = hashlib.sha256()
        for name, content in (*((p.name, self.hashes.get(p)) for p in small), *weights):
            whole.update(f"{name} {content}\n".encode())
        return whole.hexdigest()

    def watch(self) -> Callable[[], None]:
        """Returns a check that raises UserError where a weight file has changed since this call.

        Weights in memory may be a file's pages, which change with the file. Those of a deleted file
        stay.
        """
        stamps = {path: stamp(path) for path in self.weight_files()}

        def check() -> None:
            for path, before in stamps.items():
                try:
                    now = stamp(path)
                except OSError:
                    continue
                if now != before:
                    raise UserError(
                        f"The file {path.name} of '{self.model_id}' has changed since the model "
                        "was loaded. Load it again."
                    )

        return check

    def description_folder(self) -> Path:
        """Returns where the config and the tokenizer lie."""
        return self.folder

    def quantized_as(self) -> str | None:
        """Returns what the weights were quantized as before, such as 'Q4_1'; None for 16 bits and
        more."""
        return None

    def grid(self) -> str | None:
        """Returns the type of all matrices of the layers where it is one of GRIDS, see
        core/origin.py."""
        return None

    def is_hashed(self) -> bool:
        """Whether the fingerprint can be had without reading large files."""
        store = self._store
        return bool(self.on_hub) or all(self.hashes.is_quick(p, store) for p in self.weight_files())


def files_beside_weights(folder: Path) -> list[Path]:
    """Returns the files of a folder that `READ` names, sorted by name."""
    named = {p for pattern in READ for p in folder.glob(pattern) if p.is_file()}
    return sorted((p for p in named if p.name[0] != "."), key=lambda p: p.name)


def local_source(model_id: str, folder: Path, settings: Settings, weights: bool) -> Source:
    """Returns the model in a folder. Raises UserError where it is none or quantized already, and
    with `weights` also where these are incomplete."""
    source = Source(model_id, folder, cache=settings.cache)
    if not (folder / "config.json").exists():
        raise UserError(
            f"The folder '{model_id}' has no config.json: choose a folder that holds a model in "
            "transformers' format."
        )
    refuse_quantized(folder, model_id)
    if weights:
        check_weights(source)
    return source


def check_weights(source: Source) -> None:
    """Raises UserError where a file that the index names is missing, or where one is cut short. No
    weights are read."""
    folder, model_id = source.folder, source.model_id
    exists = on_disk(folder)
    names, _ = weight_files(folder, exists, model_id)
    if names and not is_safe(names):
        check_present(names, exists, model_id)
    elif names or any(folder.glob("*.safetensors")):
        local_headers(folder, model_id)
    else:
        raise UserError(
            f"'{model_id}' has no weights: there is no model.safetensors or pytorch_model.bin file "
            "in it."
        )


def hub_source(model_id: str, run: Run, weights: bool) -> Source:
    """Returns a model of the Hub, its files downloaded as far as they are not on this disk."""
    run.progress(f"Looking for {model_id}", None)
    with hub_errors(model_id):
        folder = download(model_id, DESCRIPTION, run, without="*/*")
        if not (folder / "config.json").exists():
            raise NoConfig(
                f"'{model_id}' is not a transformers model: it has no config.json. Look for the "
                "original model it was made from."
            )
        refuse_quantized(folder, model_id)
        source = Source(model_id, folder, revision=folder.name, cache=run.settings.cache)
        try:
            check_weights(source)
        except UserError:
            source = replace(source, on_hub=listed(source, run.store, weights))
        if weights and (missing := source.missing()):
            check_room(source)
            download(model_id, [f.name for f in missing], run, source.revision)
    if weights:
        check_weights(source)
    return source


def download(
    repository: str,
    names: Sequence[str],
    run: Run,
    revision: str | None = None,
    without: str | None = None,
) -> Path:
    """Returns the folder of a repository, with these files downloaded. Without a `revision` the
    `names` may be patterns. Raises what huggingface_hub raises."""
    from huggingface_hub import snapshot_download

    return Path(
        snapshot_download(
            repository,
            revision=revision,
            allow_patterns=[escape(name) for name in names] if revision else list(names),
            ignore_patterns=without,
            tqdm_class=reporting_bar(f"Downloading {repository}", run, "B"),
        )
    )


def listed(source: Source, store: Store, needed: bool) -> tuple[HubFile, ...] | None:
    """Returns the weight files on the Hub, which is asked once: a revision never changes.

    Returns None where it cannot be asked. Raises what huggingface_hub raises where the files are
    `needed`.
    """
    key = Key("files", str(source.revision), {"model": source.model_id, "version": 2})
    if (stored := store.read(key, stored_files)) is not None:
        return stored
    try:
        possible = possible_weights(source.model_id, str(source.revision))
    except Exception:  # its errors for "no network" have no class in common
        if needed and not source.weight_files():
            raise
        return None
    names, _ = weight_files(source.folder, possible.__contains__, source.model_id)
    files = tuple(possible[name] for name in names if name in possible)
    store.write(key, [astuple(f) for f in files])
    return files


def stored_files(value: Any) -> tuple[HubFile, ...]:
    """Returns a stored list of files. Raises ValueError for anything else."""
    return tuple(HubFile(*file) for file in typed(list[tuple[str, int, str]], value))


def check_room(source: Source) -> None:
    """Raises UserError where the disk has no room for what is still to download."""
    folder = next(p for p in (source.folder, *source.folder.parents) if p.is_dir())
    needed, free = source.download_bytes or 0, shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"'{source.model_id}' needs {format_gib(needed)} on the disk, where "
            f"{format_gib(free)} are free. Make room, or set HF_HOME to a folder on a larger disk."
        )
