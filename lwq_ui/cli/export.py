"""`export`: write a config in another format."""

from __future__ import annotations

import argparse
from typing import Any

from ..core.run import Run
from ..engine.configs import read_config
from ..engine.exports import CONFIG_EXPORTS
from .arguments import CONFIG, add_command
from .results import Result

HELP = "write a config in another format"


def add_parser(commands: Any) -> None:
    parser = add_command(commands, "export", HELP, CONFIG)
    formats = ", ".join(f"{e.name}: {e.title}" for e in CONFIG_EXPORTS.values())
    parser.add_argument("--to", required=True, choices=list(CONFIG_EXPORTS), help=formats)
    parser.set_defaults(execute=execute)


def execute(args: argparse.Namespace, run: Run) -> Result:
    config = read_config(args.config)
    return Result(config.to_json(), CONFIG_EXPORTS[args.to].text(config).rstrip("\n"))
