"""`quantize`: write the quantized model as a folder."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..core.errors import UserError
from ..core.memory import format_gib
from ..core.outputs import check_folder
from ..core.run import Run
from ..engine.configs import quantizer_of, read_config
from ..engine.exports import model_export
from .arguments import CONFIG, CONFIG_MODEL, DEVICE, add_command
from .calibration import CONFIG_TEXT, take_text
from .results import Result

HELP = "write the quantized model as a folder"


def add_parser(commands: Any) -> None:
    parser = add_command(commands, "quantize", HELP, CONFIG, CONFIG_MODEL, CONFIG_TEXT, DEVICE)
    parser.add_argument("--out", required=True, metavar="DIR")
    parser.set_defaults(execute=execute)


def execute(args: argparse.Namespace, run: Run) -> Result:
    from ..engine import jobs

    config = read_config(args.config)
    if not args.out:
        raise UserError("--out needs the name of a folder.")
    out = Path(args.out)
    take_text(args, config, run)
    check_folder(out, config.bytes["total"])
    loaded = jobs.load_for(config, args.model, args.device, run)
    out = jobs.quantize(loaded, config, out, run)
    size = sum(f.stat().st_size for f in out.glob("*.safetensors"))
    data = {"folder": str(out), "safetensors_bytes": size, "bytes": dict(config.bytes)}
    reader = model_export(quantizer_of(config)).reader
    return Result(data, f"Wrote {out}: {format_gib(size)} of weights. {reader}.")
