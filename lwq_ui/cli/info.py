"""`info`: a model's figures, without loading or downloading its weights."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..core.budget import MemoryUse, Workload, memory_use
from ..core.cost import model_cost
from ..core.errors import UserError
from ..core.memory import format_gib
from ..core.run import Run
from ..engine.devices import local_devices
from ..engine.fit import Fit, what_fits
from ..engine.quantizers import DEFAULT_QUANTIZER
from .arguments import DTYPE, MODEL, WORKLOAD, add_command, chosen_workload
from .results import Result

if TYPE_CHECKING:
    from ..engine.jobs import Looked

HELP = "layers, parameters, bytes per layer and level; what fits here"


def add_parser(commands: Any) -> None:
    add_command(commands, "info", HELP, MODEL, DTYPE, WORKLOAD).set_defaults(execute=execute)


def execute(args: argparse.Namespace, run: Run) -> Result:
    from ..engine import jobs

    looked = jobs.look(args.model, args.dtype, run)
    info = looked.info
    workload = chosen_workload(args, info)
    data = model_figures(looked) | {"context": workload.context, "batch": workload.batch}
    lines = model_lines(looked, data["bytes"]["by_level"])
    try:
        use = memory_use(info, workload, 0)
        fits = what_fits(info, DEFAULT_QUANTIZER, local_devices(), workload)
    except UserError as e:
        data |= {"cache_bytes": None, "activation_bytes": None, "devices": []}
        return Result(data, "\n".join([*lines, str(e)]))
    data |= {
        "cache_bytes": use.cache,
        "activation_bytes": use.activations,
        "devices": [fit.to_json() for fit in fits],
    }
    return Result(data, "\n".join([*lines, *memory_lines(workload, use, fits)]))


def model_figures(looked: Looked) -> dict[str, Any]:
    info = looked.info
    cost = model_cost(info, DEFAULT_QUANTIZER)
    levels = sorted(cost.layers[0].packed, reverse=True)
    totals = {str(level): cost.total((level,) * info.num_layers) for level in levels}
    return {
        "model": info.model_id,
        "fingerprint": info.fingerprint or None,
        "architecture": info.architecture,
        "dtype": info.dtype,
        "weights_from": info.quantized_as,
        "num_layers": info.num_layers,
        "num_parameters": info.num_parameters,
        "bytes": {"total": info.total_bytes, "rest": info.rest_bytes, "by_level": totals},
        "bytes_per_layer": [
            {str(level): layer.bytes(level) for level in levels} for layer in cost.layers
        ],
        "download_bytes": looked.download_bytes,
        "packable_share": info.packable_share,
        "stored": looked.stored
        and {
            name: {"type": t.dtype, "shape": t.shape, "bytes": t.bytes}
            for name, t in looked.stored.tensors.items()
        },
    }


def model_lines(looked: Looked, totals: Mapping[str, int]) -> list[str]:
    """`totals` are bytes by level, the largest first."""
    info = looked.info
    lines = [
        f"{info.model_id}: {info.architecture}, {info.num_layers} layers, "
        f"{info.num_parameters:,} parameters, {format_gib(info.total_bytes)} in {info.dtype}",
        *filter(None, [info.origin.meaning]),
    ]
    if looked.stored:
        types = [
            f"{name} {count} tensors, {format_gib(size)}"
            for name, (count, size) in looked.stored.types.items()
        ]
        lines.append(f"in its files: {'; '.join(types)}")
    largest, *_, smallest = totals
    notes = {largest: ", the largest split", smallest: ", the smallest"}
    for level, size in totals.items():
        note = notes.get(level, "")
        lines.append(f"all layers at {level:>2} bits: {format_gib(size)} ({size:,} bytes){note}")
    lines.append(f"{info.packable_share:.1%} of the layers' bytes are weights that can be packed")
    if looked.download_bytes:
        lines.append(f"{format_gib(looked.download_bytes)} to download")
    if looked.streamed:
        lines.append(
            "Larger than this machine's memory: its layers are read one by one from the disk."
        )
    return lines


def memory_lines(workload: Workload, use: MemoryUse, fits: Sequence[Fit]) -> list[str]:
    return [
        f"{workload.context:,} tokens of context, batch {workload.batch}: {format_gib(use.cache)} "
        f"of KV cache and {format_gib(use.activations)} of activations",
        *(fit.sentence() for fit in fits),
    ]
