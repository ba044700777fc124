"""`split`: which layers get how many bits, as a config."""

from __future__ import annotations

import argparse
from typing import Any

from ..core.budget import weights_budget
from ..core.choice import Choice
from ..core.config import Config
from ..core.errors import UserError
from ..core.lossless import origin_of
from ..core.memory import UNTOUCHED, average_bits, format_gib
from ..core.orderings import DEFAULT_ORDERING, ORDERINGS
from ..core.run import Run
from ..engine.quantizers import Quantizer
from .arguments import (
    CHAT_TEMPLATE,
    DEVICE,
    DTYPE,
    MODEL,
    QUANTIZER,
    TASKS_FOLDER,
    TEXT,
    WORKLOAD,
    add_command,
    chosen_levels,
    chosen_workload,
    level_names,
    number,
    pin,
    size,
)
from .calibration import on_chosen_text
from .results import Result
from .ruins import Ruins
from .score import scores_for
from .terminal import print_note

HELP = "which layers get how many bits"


def add_parser(commands: Any) -> None:
    parents = (MODEL, DEVICE, DTYPE, TEXT, CHAT_TEMPLATE, QUANTIZER, WORKLOAD, TASKS_FOLDER)
    parser = add_command(commands, "split", HELP, *parents)
    parser.add_argument(
        "--ordering",
        choices=[o.name for o in ORDERINGS.values() if not o.prunes],
        default=DEFAULT_ORDERING,
    )
    parser.add_argument(
        "--levels",
        type=level_names,
        metavar="HIGH,LOW",
        help="(default: the quantizer's usual ones)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of an ordering that is shuffled")
    budget = parser.add_mutually_exclusive_group(required=True)
    budget.add_argument("--budget", type=size, metavar="SIZE", help="such as 3.2GiB")
    budget.add_argument(
        "--gpu",
        type=size,
        metavar="SIZE",
        help="a card of 8GiB: what KV cache (--context, --batch) and activations leave",
    )
    budget.add_argument("--average-bits", type=number, metavar="BITS")
    budget.add_argument("--low-layers", type=int, metavar="N")
    parser.add_argument("--pin", type=pin, action="append", default=[], metavar="LAYER=LEVEL")
    parser.set_defaults(execute=execute)


def execute(args: argparse.Namespace, run: Run) -> Result:
    from ..engine import jobs

    quantizer = on_chosen_text(args.quantizer, args, run)
    high, low = chosen_levels(args.levels, [quantizer])
    info = jobs.describe(args.model, args.dtype, run)
    scores = scores_for(args, run, info, args.ordering, quantizer, low)
    pins = chosen_pins(args.pin, quantizer)
    choice = Choice(info, quantizer, (high, low), args.ordering, args.seed, scores, pins)
    choice = with_chosen_budget(args, choice)
    if note := limit_note(choice):
        print_note(note)
    ruins, table = Ruins(info, run), choice.table
    ruins.print_levels(quantizer, (high, low))
    splits = [table.split(k) for k in range(len(table.bytes))]
    ruins.print_split(quantizer, splits, choice.position)
    config = choice.config(ruins.evaluations)
    origin = origin_of(info, [quantizer], [(quantizer.name, choice.split)])
    lines = filter(None, [origin, split_text(config)])
    return Result(config.to_json(), "\n".join(lines))


def chosen_pins(arguments: list[tuple[int, str]], quantizer: Quantizer) -> dict[int, float]:
    """Returns the level of each pinned layer. Raises UserError where one has two levels."""
    pins: dict[int, float] = {}
    for layer, name in arguments:
        level = UNTOUCHED if name == str(UNTOUCHED) else quantizer.level_named(name)
        if pins.setdefault(layer, level) != level:
            raise UserError(f"Layer {layer} is pinned to two levels. Choose one of them.")
    return pins


def with_chosen_budget(args: argparse.Namespace, choice: Choice) -> Choice:
    """Returns the same choice with the budget. Raises UserError where no split has it."""
    table = choice.table
    if args.gpu is not None:
        workload = chosen_workload(args, choice.info)
        least = table.bytes[0]
        return choice.with_budget(weights_budget(args.gpu, choice.info, workload, least))
    if args.average_bits is not None:
        return choice.at_position(table.position_for_average_bits(args.average_bits))
    if args.low_layers is not None:
        return choice.at_position(table.position_for_low_layers(args.low_layers))
    return choice.with_budget(args.budget)


def limit_note(choice: Choice) -> str:
    """Returns a sentence where the budget leaves nothing to choose, or else nothing."""
    (high, low), position, free = choice.levels, choice.position, len(choice.table.raised)
    if not free:
        return "Every layer is pinned: budget and ordering change nothing."
    if position == 0:
        return (
            f"Every layer that is not pinned has {low:g} bits: this budget is at the smallest "
            "split, and the ordering changes nothing."
        )
    if position == free:
        return (
            f"Every layer that is not pinned has {high:g} bits: this budget is enough "
            "for the largest split, and the ordering changes nothing."
        )
    return ""


def split_text(config: Config) -> str:
    total = config.bytes["total"]
    return (
        f"{' '.join(f'{b:g}' for b in config.bits_per_layer)}\n"
        f"{average_bits(config.bits_per_layer):.4g} bits on average, "
        f"{format_gib(total)} ({total:,} bytes)"
    )
