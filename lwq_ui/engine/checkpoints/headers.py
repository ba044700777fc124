"""What a checkpoint holds, from the headers of its safetensors files alone: no weights are read.

Imports no torch.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from ...core.errors import UserError, reason
from ...core.run import Run
from ...core.typed import typed
from .hub import hub_errors

SINGLE = "model.safetensors"
INDEX = f"{SINGLE}.index.json"
SINGLES = (SINGLE, "pytorch_model.bin")  # each may be in several files that an index names
FIRST = 128 * 1024  # bytes: nearly every header is shorter
CONNECTIONS = 8
LONGEST = 100_000_000  # bytes of a header: safetensors itself reads no longer one

# Bits per value. Source: safetensors' `Dtype::bitsize`.
BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("BF16", "F16", "I16", "U16"), 16),
    **dict.fromkeys(("BOOL", "I8", "U8"), 8),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}

FLOATS = ("BF16", "F16", "F32", "F64")
PACKED_TYPES = [tag for tag in BITS if tag[0] == "F" and tag not in FLOATS]  # of 8 bits and fewer
PACKED_NAME = re.compile(
    r"(^|[._])(qweight|qzeros|g_idx|q_scale|q_weight|q_groups|q_perm|q_invperm|SCB|W_q|Qidxs|trellis"
    r"|absmax|quant_map|quant_state|nested_absmax|weight_packed|weight_shape|blocks$|codebooks"
    r"|(weight|input|output|proj|[qkv]|block|global)_scales?(_inv|_\d)?|scales"
    r"|weight_(zero_point|bias_correction)|zero_points?|_scale|_shift)(\.|$)"
)
"""Tensors that quantizers store beside or in place of a weight."""


@dataclass(frozen=True)
class Entry:
    """One tensor of a checkpoint. `dtype` is safetensors' tag (BF16, F16, F32, ...), `start` and
    `end` are bytes from the beginning of the file."""

    file: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def parameters(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.end - self.start


@dataclass(frozen=True)
class Headers:
    """`tensors` by name; `sizes` is bytes by file name."""

    tensors: Mapping[str, Entry]
    sizes: Mapping[str, int]

    @property
    def parameters(self) -> int:
        return sum(t.parameters for t in self.tensors.values())

    @property
    def bytes(self) -> int:
        """Of the tensors, without the headers of their files."""
        return sum(t.bytes for t in self.tensors.values())

    @property
    def dtypes(self) -> dict[str, int]:
        """Number of parameters by safetensors' tag, the most frequent first."""
        count: Counter[str] = Counter()
        for tensor in self.tensors.values():
            count[tensor.dtype] += tensor.parameters
        return dict(count.most_common())

    def to_json(self) -> dict[str, Any]:
        tensors = {n: [t.file, t.dtype, t.shape, t.start, t.end] for n, t in self.tensors.items()}
        return {"tensors": tensors, "sizes": dict(self.sizes)}

    @staticmethod
    def from_json(value: Any) -> Headers:
        """Raises ValueError for what no Headers of today have written."""
        stored = typed(Stored, value)
        tensors = {name: Entry(*fields) for name, fields in stored.tensors.items()}
        return Headers(tensors, stored.sizes)


@dataclass(frozen=True)
class Stored:
    """Headers as they are in the cache: of every tensor the fields of an Entry."""

    tensors: Mapping[str, tuple[str, str, tuple[int, ...], int, int]]
    sizes: Mapping[str, int]


Read = Callable[[int, int], bytes]
"""`read(start, end)` gives those bytes of a file, fewer where it ends before."""

Exists = Callable[[str], bool]
"""`exists(path)` says whether the model's folder has a file at this path, parts joined by "/"."""


def local_headers(folder: Path, model_id: str) -> Headers:
    """Of the safetensors files that transformers would load from this folder. Raises UserError
    where a file is missing, cut short or damaged, or where index and files disagree."""
    names, weight_map = safe_files(folder, on_disk(folder), model_id)
    sizes = {name: (folder / name).stat().st_size for name in names}
    tensors = {
        name: file_header(name, sizes[name], partial(read_part, folder, name), model_id)
        for name in names
    }
    return joined(tensors, sizes, weight_map, model_id)


def read_part(folder: Path, file: str, start: int, end: int) -> bytes:
    """Returns bytes of a file. Raises UserError where it cannot be read."""
    path = folder / file
    try:
        with path.open("rb") as stream:
            stream.seek(start)
            return stream.read(end - start)
    except OSError as e:
        raise UserError(f"The file {path} cannot be read: {reason(e)}.") from e


def hub_headers(
    model_id: str,
    revision: str,
    sizes: Mapping[str, int],
    folder: Path,
    run: Run,
) -> Headers:
    """As `local_headers`, of files that lie on the Hub: of each only the beginning is fetched.
    `sizes` is bytes by file name; the index, where there is one, is in `folder`."""
    names, weight_map = safe_files(folder, sizes.__contains__, model_id)
    found: dict[str, dict[str, Entry]] = {}
    pool = ThreadPoolExecutor(CONNECTIONS)

    def fetch(name: str) -> None:
        if not run.stop.is_set():
            read = remote_reader(model_id, revision, name, sizes[name])
            found[name] = file_header(name, sizes[name], read, model_id)

    try:
        with hub_errors(model_id):
            futures = [pool.submit(fetch, name) for name in names]
            for count, done in enumerate(as_completed(futures), 1):
                done.result()
                run.check()
                run.progress(f"Reading the headers of {model_id}", count / len(names))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return joined({name: found[name] for name in names}, sizes, weight_map, model_id)


def remote_reader(model_id: str, revision: str, name: str, size: int) -> Read:
    """Asks once for as much as most headers take, and again only where that was not enough."""
    first = fetch_range(model_id, revision, name, 0, min(size, FIRST)) if size else b""

    def read(start: int, end: int) -> bytes:
        if end <= len(first):
            return first[start:end]
        return first[start:] + fetch_range(model_id, revision, name, len(first), end)

    return read


def fetch_range(model_id: str, revision: str, name: str, start: int, end: int) -> bytes:
    """Those bytes of a file on the Hub."""
    from huggingface_hub import constants, hf_hub_url
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    url = hf_hub_url(model_id, name, revision=revision)
    asked = {**build_hf_headers(), "range": f"bytes={start}-{end - 1}"}
    limit = constants.HF_HUB_DOWNLOAD_TIMEOUT
    with get_session().stream("GET", url, headers=asked, timeout=limit) as response:
        hf_raise_for_status(response)
        if response.status_code != 206:  # the whole file is on its way
            raise UserError(
                f"The server that was asked for a part of {name} of '{model_id}' sends whole files "
                "only. Download the model, or unset HF_ENDPOINT."
            )
        return bytes(response.read())


def on_disk(folder: Path) -> Exists:
    """Whether there is a file of this name in the folder or below it, and not outside."""

    def exists(name: str) -> bool:
        path = PurePosixPath(name)
        inside = not path.is_absolute() and ".." not in path.parts
        try:
            return inside and (folder / path).is_file()
        except ValueError:  # a name with a NUL
            return False

    return exists


def read_json(path: Path, model_id: str) -> dict[str, Any]:
    """The object in a JSON file of a model. Raises UserError for anything else."""
    try:
        if not path.is_file():  # a pipe would never end
            raise ValueError("it is not a file")
        if path.stat().st_size > LONGEST:
            raise ValueError(f"it is longer than {LONGEST // 10**6} MB")
        value = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise ValueError("it holds no JSON object")
    except (OSError, ValueError, RecursionError) as e:
        what = "it is nested too deeply" if isinstance(e, RecursionError) else reason(e)
        raise UserError(f"The file {path.name} of '{model_id}' cannot be read: {what}.") from e
    return value


def index_of(folder: Path, model_id: str, single: str = SINGLE) -> dict[str, str]:
    """Tensor name -> file name, from the index that stands in for the one file `single`; empty
    where there is no index."""
    path = folder / f"{single}.index.json"
    if not path.exists():
        return {}
    try:
        weight_map = read_json(path, model_id)["weight_map"]
        if not all(isinstance(name, str) for name in weight_map.values()):
            raise TypeError
    except (UserError, KeyError, TypeError, AttributeError) as e:
        raise UserError(
            f"The file {path.name} of '{model_id}' is damaged. Download or copy it again."
        ) from e
    return dict(weight_map)


def weight_files(
    folder: Path, exists: Exists, model_id: str
) -> tuple[tuple[str, ...], dict[str, str]]:
    """The files that transformers takes the weights from, sorted, and the index that names them,
    empty where there is none: one file before an index, safetensors before pytorch_model.bin. No
    other file counts, whatever its format. Those that an index names need not exist."""
    for single in SINGLES:
        weight_map = index_of(folder, model_id, single)
        if exists(single):
            if single in weight_map.values():
                check_present(weight_map.values(), exists, model_id)
            return (single,), weight_map
        if weight_map:
            return tuple(sorted(set(weight_map.values()))), weight_map
    return (), {}


def safe_files(
    folder: Path, exists: Exists, model_id: str
) -> tuple[tuple[str, ...], dict[str, str]]:
    """As `weight_files`, all of them there and in safetensors' format. Raises UserError."""
    names, weight_map = weight_files(folder, exists, model_id)
    if not is_safe(names):
        if any(folder.glob("model-*-of-*.safetensors")):
            raise UserError(f"'{model_id}' is incomplete: {INDEX} is missing. Download it again.")
        raise UserError(
            f"'{model_id}' has no weights in safetensors' format: there is no {SINGLE} in it."
        )
    check_present(names, exists, model_id)
    return names, weight_map


def is_safe(names: Iterable[str]) -> bool:
    return any(name.endswith(".safetensors") for name in names)


def check_present(named: Iterable[str], exists: Exists, model_id: str) -> None:
    if missing := sorted(name for name in set(named) if not exists(name)):
        raise UserError(f"'{model_id}' is incomplete: {missing[0]} is missing. Download it again.")


def file_header(file: str, size: int, read: Read, model_id: str) -> dict[str, Entry]:
    """The tensors of one file of `size` bytes."""
    length = int.from_bytes(read(0, 8), "little")
    try:
        if size < 8 or length > min(size - 8, LONGEST):
            raise ValueError("the header is longer than the file")
        header = json.loads(read(8, 8 + length))
        header.pop("__metadata__", None)
        tensors = {name: entry(file, 8 + length, t) for name, t in header.items()}
        reached = 8 + length
        for tensor in sorted(tensors.values(), key=lambda t: (t.start, t.end)):
            if tensor.start != reached or tensor.end < reached:
                raise ValueError("tensors overlap or leave a hole")
            reached = tensor.end
        if reached != size:
            raise ValueError("the file is not as long as its header says")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        raise UserError(
            f"The file {file} of '{model_id}' is cut short or damaged. Download or copy it again."
        ) from e
    for name, tensor in tensors.items():
        if tensor.dtype not in BITS:
            raise UserError(
                f"The tensor {name} in {file} of '{model_id}' is of the type '{tensor.dtype}', "
                "which is not known here. Choose a copy of the model in bfloat16 or float16."
            )
        if tensor.parameters * BITS[tensor.dtype] != tensor.bytes * 8:
            raise UserError(
                f"The file {file} of '{model_id}' is damaged: {tensor.bytes} bytes of {name} do "
                f"not hold {tensor.parameters} values of {tensor.dtype}. Download it again."
            )
    return tensors


def entry(file: str, offset: int, tensor: dict[str, Any]) -> Entry:
    start, end = tensor["data_offsets"]
    shape = tuple(tensor["shape"])
    if not all(type(n) is int and n >= 0 for n in (start, end, *shape)):
        raise ValueError("sizes are counted in whole numbers")
    return Entry(file, str(tensor["dtype"]), shape, offset + start, offset + end)


def joined(
    found: Mapping[str, Mapping[str, Entry]],
    sizes: Mapping[str, int],
    weight_map: Mapping[str, str],
    model_id: str,
) -> Headers:
    """The tensors of all files, each of which the index, where there is one, places rightly."""
    tensors: dict[str, Entry] = {}
    for file, of in found.items():
        for name, tensor in of.items():
            if name in tensors:
                raise UserError(
                    f"'{model_id}' is damaged: {name} is both in {tensors[name].file} and in "
                    f"{file}. Download it again."
                )
            tensors[name] = tensor
    for name, file in weight_map.items():
        if file in found and name not in found[file]:
            raise UserError(
                f"The file {INDEX} of '{model_id}' belongs to other weights: it looks for {name} "
                f"in {file}, where it is not. Download them again."
            )
    return Headers(tensors, {file: sizes[file] for file in found})
