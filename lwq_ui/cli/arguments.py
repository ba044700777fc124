"""Arguments that several commands share: their types, their parsers, and what they stand for."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from math import isfinite
from typing import Any

from ..core.budget import CACHE_DTYPES, Workload, default_context
from ..core.errors import UserError
from ..core.memory import DTYPES, parse_size
from ..core.schema import ModelInfo
from ..engine.devices import DEVICES
from ..engine.quantizers import DEFAULT_QUANTIZER, QUANTIZERS, Quantizer, quantizer_named


def size(text: str) -> int:
    """'3.2GiB' -> bytes."""
    try:
        return parse_size(text)
    except ValueError as e:
        raise argparse.ArgumentTypeError(str(e)) from None


def level_names(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def pin(text: str) -> tuple[int, str]:
    """'0=8' -> a layer and the name of its level."""
    match = re.fullmatch(r"(\d+)=([\d.]+%?)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"'{text}' is not LAYER=LEVEL, such as 0=8")
    return int(match[1]), match[2]


def quantizer(text: str) -> Quantizer:
    """The quantizer of a name with options: 'quanto:group=64'."""
    try:
        return quantizer_named(text)
    except UserError as e:
        raise argparse.ArgumentTypeError(str(e)) from None


def positive(text: str) -> int:
    if not (text.isdecimal() and len(text) < 19 and int(text) > 0):
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from 1 to 10^18")
    return int(text)


def number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not isfinite(value):
        raise argparse.ArgumentTypeError(f"'{text}' is not a number")
    return value


def parent(*names: str, **options: Any) -> argparse.ArgumentParser:
    """Returns a parser of one argument, for `parents` of others."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument(*names, **options)
    return parser


JSON = parent("--json", metavar="FILE", help="write the result as JSON ('-': here)")
MODEL = parent("model", metavar="MODEL", help="a Hub id, a folder, 'demo' or 'smollm2'")
DEVICE = parent("--device", default="auto", choices=DEVICES)
DTYPE = parent("--dtype", default="auto", choices=DTYPES)

TEXT = parent("--text", metavar="PATH", help="calibration text (default: shipped; pg19)")
TEXT.add_argument("--max-tokens", type=positive, metavar="N", help="calibrate on N tokens")

CHAT_TEMPLATE = parent(
    "--chat-template",
    action="store_true",
    help="calibration text as turns of a user, and tasks' prompts, in the model's chat template",
)

QUANTIZER_HELP = f"{', '.join(QUANTIZERS)}; with options as in quanto:group=64"
QUANTIZER_NAME: dict[str, Any] = {"type": quantizer, "metavar": "NAME[:OPTION=VALUE,...]"}
QUANTIZER = parent("--quantizer", default=DEFAULT_QUANTIZER, help=QUANTIZER_HELP, **QUANTIZER_NAME)

TASKS_FOLDER = parent(
    "--tasks", metavar="FOLDER", help="your own lm-eval task files (default: LWQ_TASKS)"
)

TASKS = parent(
    "--task",
    action="append",
    required=True,
    metavar="NAME",
    help="what to measure; repeatable",
)
TASKS.add_argument("--limit", type=positive, metavar="N", help="items per task")

CONFIG = parent("config", metavar="CONFIG.json")
CONFIG_MODEL = parent(
    "--model", metavar="MODEL", help="where its model lies (default: where the config says)"
)

WORKLOAD = parent(
    "--context",
    type=positive,
    metavar="N",
    help=f"tokens of a sequence (default: {Workload.context}, or the model's limit)",
)
WORKLOAD.add_argument("--batch", type=positive, default=1, metavar="N", help="sequences at once")
WORKLOAD.add_argument(
    "--cache-dtype", default="auto", choices=("auto", *CACHE_DTYPES), help="of the KV cache"
)


def add_command(
    commands: Any, name: str, help: str, *parents: argparse.ArgumentParser
) -> argparse.ArgumentParser:
    """Adds a command with the arguments of `parents`, and `--json`. Returns its parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=help, description=help, parents=[JSON, *parents]
    )
    return parser


def chosen_workload(args: argparse.Namespace, info: ModelInfo) -> Workload:
    return Workload(args.context or default_context(info), args.batch, args.cache_dtype)


def chosen_level(name: str, quantizer: Quantizer) -> float:
    """Returns the level of this name. Raises ArgumentError where the quantizer lacks it."""
    try:
        return quantizer.level_named(name)
    except UserError as e:
        raise argparse.ArgumentError(None, str(e)) from e


def chosen_levels(
    names: Sequence[str] | None,
    quantizers: Sequence[Quantizer],
    also: Sequence[tuple[float, ...]] = (),
) -> tuple[float, ...]:
    """Returns the levels of these names, by default the usual ones of the first quantizer.

    Raises ArgumentError where they are neither a pair of the first quantizer nor one of `also`.
    Raises it too where another quantizer lacks one of them.
    """
    first, *others = quantizers
    if names is None:
        levels: tuple[float, ...] = first.pairs[0]
    else:
        levels = tuple(chosen_level(name, first) for name in names)
        if levels not in (*first.pairs, *also):
            offered = " ".join(",".join(f"{b:g}" for b in pair) for pair in first.pairs)
            message = f"--levels must be a high and a low level of: {offered}."
            raise argparse.ArgumentError(None, message)
    for other in others:
        for level in levels:
            if level not in other.levels:
                raise argparse.ArgumentError(None, str(other.no_level(f"{level:g}")))
    return levels
