"""ZD of a checkpoint that transformers cannot build a model from.

Its layers are known by the names of its tensors, and ZD looks at weights only.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path

from safetensors import safe_open

from ...core.errors import UserError
from ...core.run import Run
from ..checkpoints.headers import FLOATS, Headers
from ..checkpoints.quantized import PACKED_NAME, quantized_already
from ..finite import check_finite
from .zd import share_above_one_std


def layers_by_name(headers: Headers, model_id: str) -> list[list[str]]:
    """Returns the names of each layer's weight matrices.

    The layers are the list of numbered modules that holds most of the checkpoint. Whatever is
    neither a vector nor a convolution counts as a matrix, routers too. Raises UserError where there
    is no such list.
    """
    modules: dict[str, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name in headers.tensors:
        parts = name.split(".")
        at = next((i for i, part in enumerate(parts) if part.isdigit()), None)
        if at is not None:
            modules[".".join(parts[:at])][int(parts[at])].append(name)
    lists = [
        [numbered[i] for i in sorted(numbered)]
        for numbered in modules.values()
        if sorted(numbered) == list(range(len(numbered))) and len(numbered) > 1
    ]

    def size(layers: list[list[str]]) -> int:
        return sum(headers.tensors[name].bytes for names in layers for name in names)

    whole = max(lists, key=size, default=[])
    layers = [[name for name in names if is_matrix(name, headers)] for names in whole]
    if not layers or not all(layers):
        raise UserError(
            f"The tensors of '{model_id}' are not named by layers (such as model.layers.0...), so "
            "its layers cannot be told apart."
        )
    return layers


def is_matrix(name: str, headers: Headers) -> bool:
    shape = headers.tensors[name].shape
    return (len(shape) == 2 and min(shape) > 1) or (len(shape) == 3 and "expert" in name.lower())


def zd_by_name(headers: Headers, folder: Path, model_id: str, run: Run) -> list[float]:
    """Returns ZD (paper section 3.1) of every layer; reads one layer at a time from the files.

    Raises UserError for weights that are quantized already.
    """
    if any(map(PACKED_NAME.search, headers.tensors)):
        raise quantized_already(model_id)
    layers = layers_by_name(headers, model_id)
    scores = []
    for i, names in enumerate(layers):
        run.check()
        run.progress(f"Scoring layer {i + 1} of {len(layers)}", i / len(layers))
        entries = {name: headers.tensors[name] for name in names}
        if other := {e.dtype for e in entries.values()} - set(FLOATS):
            raise UserError(
                f"Layer {i} of '{model_id}' has weights in {sorted(other)[0]}: it is quantized "
                "already. Choose the original model it was made from."
            )
        with ExitStack() as stack:
            files = {
                file: stack.enter_context(safe_open(folder / file, framework="pt"))
                for file in sorted({e.file for e in entries.values()})
            }
            matrices = [files[e.file].get_tensor(name) for name, e in entries.items()]
            if len({m.dtype for m in matrices}) > 1:
                matrices = [m.float() for m in matrices]
            for name, matrix in zip(entries, matrices, strict=True):
                check_finite(model_id, name, matrix)
            scores.append(share_above_one_std(matrices))
    return scores
