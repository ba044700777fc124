"""A model of GGUF files as a folder of transformers, for programs that read nothing else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import save_file
from torch import Tensor

from ...core.errors import UserError
from ...core.memory import format_gib
from ...core.run import Run
from ..checkpoints.gguf_source import GgufSource
from ..checkpoints.weight_files import INDEX
from .description import read_config, tensor_files
from .gguf_description import config_folder, tokenizer_folder
from .loading import LoadedModel
from .skeleton import skeleton

SHARD = 2**30  # bytes of a file, which are in memory while it is written


@contextmanager
def transformers_folder(loaded: LoadedModel, run: Run) -> Iterator[Path]:
    """Yields a folder that transformers loads the model from. For GGUF files it is a de-quantized
    copy, deleted afterwards. Raises Stopped, and UserError where the disk has no room for it."""
    source = loaded.source
    if not isinstance(source, GgufSource):
        yield source.folder
        return
    needed, free = loaded.info.total_bytes, shutil.disk_usage(config_folder(source)).free
    if needed > free:
        raise UserError(
            f"GPTQ needs a de-quantized copy of '{source.model_id}' on the disk, of "
            f"{format_gib(needed)}, and {format_gib(free)} are free. Make room in the cache's "
            "folder."
        )
    with TemporaryDirectory(prefix="copy-", dir=config_folder(source).parent) as name:
        folder = Path(name)
        for path in tokenizer_folder(source).iterdir():
            shutil.copy(path, folder)
        write_weights(loaded, source, folder, run)
        yield folder


def write_weights(loaded: LoadedModel, source: GgufSource, folder: Path, run: Run) -> None:
    """Writes all tensors, in the model's number format, with an index. Raises Stopped."""
    dtype = getattr(torch, loaded.info.dtype)
    files = tensor_files(skeleton(read_config(source), loaded.info.dtype, source.model_id), source)
    weight_map: dict[str, str] = {}
    shard: dict[str, Tensor] = {}

    def write() -> None:
        file = f"model-{len(set(weight_map.values())):05}.safetensors"
        save_file(shard, folder / file, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(shard, file))
        shard.clear()

    with files.opened(list(files.headers.tensors)) as tensors:
        for name, tensor in tensors.items():
            run.check()
            shard[name] = tensor[...].to(dtype).contiguous()
            if sum(t.nbytes for t in shard.values()) >= SHARD:
                write()
    write()
    index = {"metadata": {"total_size": loaded.info.total_bytes}, "weight_map": weight_map}
    (folder / INDEX).write_text(json.dumps(index), encoding="utf-8")
