"""Models in GGUF files: one file, or a set that a model was split into."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from ...core.errors import UserError
from ...core.memory import format_gib
from ...core.run import Run
from ...core.store import Key, versions
from ...core.typed import typed
from .fingerprint import stamp
from .gguf_header import GgufHeader, gguf_header, layers_grid, main_type
from .headers import Headers, Read, read_part, remote_reader
from .hub import HubFile, fetch_range, hub_errors, possible_weights
from .source import Source, check_room, download, stored_files

SUFFIX = ".gguf"
PART = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.IGNORECASE)
ON_HUB = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+):(?P<file>[\w ./+-]+\.gguf)", re.IGNORECASE)
WRITER = 2  # changes when models/gguf_description.py writes another config
NAMED = 6  # files that a sentence names


@dataclass(frozen=True)
class GgufContent:
    """What the files of a model hold: the entries of the first one, and all tensors by their names
    in GGUF. An entry that is a list stands for its length."""

    entries: Mapping[str, Any]
    headers: Headers
    header_bytes: int  # of the first file

    @property
    def architecture(self) -> str:
        return str(self.entries.get("general.architecture", ""))

    def to_json(self) -> dict[str, Any]:
        return {
            "entries": dict(self.entries),
            "headers": self.headers.to_json(),
            "header_bytes": self.header_bytes,
        }

    @staticmethod
    def from_json(value: Any) -> GgufContent:
        """Raises ValueError for what no GgufContent has written."""
        if not isinstance(value, dict) or not isinstance(value.get("entries"), dict):
            raise ValueError("there are no entries")
        size = typed(int, value.get("header_bytes"))
        return GgufContent(value["entries"], Headers.from_json(value.get("headers")), size)


@dataclass(frozen=True)
class GgufSource(Source):
    """A model in GGUF files. `names` are those in `folder`, in the order of their numbers."""

    names: tuple[str, ...] = ()

    @property
    def repository(self) -> str:
        """The Hub's id, without the file."""
        return self.model_id.partition(":")[0]

    @property
    def has_weights(self) -> bool:
        return True

    def weight_files(self) -> list[Path]:
        return [self.folder / name for name in self.names if (self.folder / name).is_file()]

    def headers(self, run: Run | None) -> Headers:
        return self.content(run).headers

    def content(self, run: Run | None = None) -> GgufContent:
        """Returns what the files hold, from their headers. Raises UserError where one is cut short
        or damaged, and where the Hub cannot be asked."""
        if len(self.weight_files()) == len(self.names):
            paths = [self.folder / name for name in self.names]
            return content_here(self, tuple(stamp(path) for path in paths))
        store = self._store
        key = Key("headers", str(self.revision), {"model": self.model_id, "format": "GGUF"})
        if store and (stored := store.read(key, GgufContent.from_json)):
            return stored
        with hub_errors(self.model_id):
            content = self.read_content({f.name: f.bytes for f in self.on_hub or ()}, run)
        if store:
            store.write(key, content.to_json())
        return content

    def read_content(self, sizes: Mapping[str, int], run: Run | None = None) -> GgufContent:
        """Reads the headers of files of these sizes. Raises UserError and Stopped."""
        headers: list[GgufHeader] = []
        for name in self.names:
            if run:
                run.check()
            read: Read = partial(read_part, self.folder, name)
            if not (self.folder / name).is_file():
                read = remote_reader(self.repository, str(self.revision), name, sizes[name])
            headers.append(gguf_header(name, sizes[name], read, self.model_id))
        first = headers[0]
        if (count := first.entries.get("split.count", 1)) not in (0, len(headers)):
            raise UserError(
                f"'{self.model_id}' is a part of a model in {count} files. Name the first of them, "
                f"which ends with -00001-of-{count:05}{SUFFIX}."
            )
        tensors = {name: tensor for header in headers for name, tensor in header.tensors.items()}
        if len(tensors) != sum(len(header.tensors) for header in headers):
            raise UserError(
                f"The files of '{self.model_id}' do not belong together: two of them hold the same "
                "tensor. Download them again."
            )
        entries = {k: v for k, v in first.entries.items() if isinstance(v, int | float | str)}
        return GgufContent(entries, Headers(tensors, dict(sizes)), first.bytes)

    def quantized_as(self) -> str | None:
        content = self.content()
        return main_type(content.entries, content.headers.tensors)

    def grid(self) -> str | None:
        content = self.content()
        return layers_grid(content.entries, content.headers.tensors)

    def first_file(self) -> Path:
        """Returns the first file. While it is on the Hub, that is a file of the same size which
        holds its header and nothing else."""
        path = self.folder / self.names[0]
        if path.is_file() or self.cache is None:
            return path
        copy = self.cache / "gguf" / f"{self.fingerprint()[:32]}-header{SUFFIX}"
        if not copy.is_file():
            size = self.content().header_bytes
            with hub_errors(self.model_id):
                content = fetch_range(self.repository, str(self.revision), self.names[0], 0, size)
            copy.parent.mkdir(parents=True, exist_ok=True)
            unfinished = copy.with_suffix(".part")
            with unfinished.open("wb") as file:
                file.write(content)
                file.truncate((self.on_hub or ())[0].bytes)  # the rest is a hole
            unfinished.replace(copy)
        return copy

    def description_folder(self) -> Path:
        """Returns where the config and the tokenizer lie once transformers has read them."""
        if self.cache is None:
            raise ValueError("a GGUF file needs a cache folder for its config")
        made_by = {"version": WRITER, **versions("transformers", "gguf")}
        return self.cache / "gguf" / Key("gguf", self.fingerprint(), made_by).digest

    def fingerprint(self, run: Run | None = None) -> str:
        """Returns a hash of the contents of all files. Equal files have an equal fingerprint,
        whatever their names. Raises UserError, OSError, and Stopped of the `run`."""
        whole = hashlib.sha256(b"GGUF")
        hashes = [f.hash for f in self.on_hub or ()]
        for content in hashes or [
            self.hashes.get(self.folder / name, self._store, run) for name in self.names
        ]:
            whole.update(f"{content}\n".encode())
        return whole.hexdigest()


@lru_cache(maxsize=8)
def content_here(source: GgufSource, stamps: tuple[object, ...]) -> GgufContent:
    """Returns what files on this disk hold. Large vocabularies take a second to walk through, so
    that it is done once for the same `stamps`."""
    sizes = {name: (source.folder / name).stat().st_size for name in source.names}
    return source.read_content(sizes)


def parts_of(name: str, present: Iterable[str], model_id: str) -> tuple[str, ...]:
    """Returns the files of the model that `name` is a file of, in their order: itself, or the set
    that it belongs to. Raises UserError where one of these is not `present`."""
    match = PART.fullmatch(name)
    if match is None:
        return (name,)
    count = int(match["count"])
    names = tuple(f"{match['stem']}-{k:05}-of-{count:05}{SUFFIX}" for k in range(1, count + 1))
    if missing := [n for n in names if n not in present]:
        raise UserError(f"'{model_id}' is incomplete: {missing[0]} is missing. Download it again.")
    return names


def models_among(files: Mapping[str, int]) -> dict[str, int]:
    """Returns one file for each model, the first of a set, with the bytes of all its files; the
    smallest first. Projectors of images are no models."""
    first: dict[str, str] = {}
    sizes: dict[str, int] = {}
    for name in sorted(files):
        if "mmproj" in Path(name).name.lower():
            continue
        match = PART.fullmatch(name)
        model = first.setdefault(match["stem"] if match else name, name)
        sizes[model] = sizes.get(model, 0) + files[name]
    return dict(sorted(sizes.items(), key=lambda item: item[1]))


class SeveralModels(UserError):
    """A folder or repository holds several models. `choices` are (the name to type, bytes)."""

    def __init__(self, where: str, models: Mapping[str, int], name_of: Callable[[str], str]):
        self.choices = tuple((name_of(file), size) for file, size in models.items())
        first = list(models.items())[:NAMED]
        shown = ", ".join(f"{file} ({format_gib(size)})" for file, size in first)
        more = f" and {len(models) - NAMED} more" if len(models) > NAMED else ""
        example = self.choices[0][0]
        super().__init__(
            f"{where} holds several models: {shown}{more}. Name one, such as {example}."
        )


def local_gguf(model_id: str, path: Path, cache: Path) -> GgufSource:
    """Returns the model that a file on this disk holds, or belongs to. Raises UserError where it is
    cut short, damaged or incomplete."""
    present = {p.name for p in path.parent.iterdir()}
    names = parts_of(path.name, present, model_id)
    source = GgufSource(model_id, path.parent, cache=cache, names=names)
    source.content()
    return source


def gguf_in_folder(model_id: str, folder: Path, cache: Path) -> GgufSource | None:
    """Returns the one GGUF model in a folder; None where there is none. Raises UserError where
    there are several."""
    files = {p.name: p for p in folder.glob("*") if p.suffix.lower() == SUFFIX and p.is_file()}
    models = models_among({name: path.stat().st_size for name, path in files.items()})
    if len(models) > 1:
        raise SeveralModels(f"The folder '{model_id}'", models, lambda file: str(folder / file))
    return next((local_gguf(model_id, files[name], cache) for name in models), None)


def hub_gguf(repository: str, file: str, run: Run, weights: bool) -> GgufSource | None:
    """Returns a GGUF model of the Hub. An empty `file` stands for the only one that there is, and
    the result is None where there is none.

    Its files are downloaded with `weights`; otherwise their headers are enough. Raises UserError
    and Stopped.
    """
    run.progress(f"Looking for {repository}", None)
    with hub_errors(repository):
        folder = download(repository, ["config.json"], run)  # names the revision
        on_hub = gguf_files(repository, folder.name, run)
        if not file:
            models = models_among({f.name: f.bytes for f in on_hub.values()})
            if len(models) > 1:
                raise SeveralModels(f"'{repository}'", models, f"{repository}:{{}}".format)
            if not models:
                return None
            file = next(iter(models))
        model_id = f"{repository}:{file}"
        if file not in on_hub:
            raise UserError(f"'{repository}' has no file '{file}'. Look at its list of files.")
        names = parts_of(file, on_hub, model_id)
        files = tuple(on_hub[name] for name in names)
        cache = run.settings.cache
        source = GgufSource(model_id, folder, folder.name, files, cache, names=names)
        if weights and source.missing():
            check_room(source)
            download(repository, list(names), run, folder.name)
    source.content(run)
    return source


def gguf_files(repository: str, revision: str, run: Run) -> dict[str, HubFile]:
    """Returns the GGUF files of a repository, by name. A revision never changes, so that the Hub is
    asked once. Raises what huggingface_hub raises."""
    key = Key("files", revision, {"model": repository, "format": "GGUF"})
    files = run.store.read(key, stored_files)
    if files is None:
        possible = possible_weights(repository, revision, (f"*{SUFFIX}",))
        files = tuple(possible.values())
        run.store.write(key, [[f.name, f.bytes, f.hash] for f in files])
    return {f.name: f for f in files}
