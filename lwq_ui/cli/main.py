"""Reads the arguments, runs a command, and hands its result over."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
from collections.abc import Sequence
from typing import Any

from ..core.errors import Stopped, UserError
from ..core.outputs import check_file
from ..core.run import Run
from ..core.settings import Settings
from ..core.store import Store
from ..failures import unexpected
from . import evaluate, export, info, quantize, score, split, sweep
from .results import Result
from .terminal import (
    Terminal,
    Warnings,
    deliver,
    erase_progress,
    is_stream,
    make_printable,
    print_note,
)

COMMANDS = (info, score, split, sweep, evaluate, quantize, export)
"""Each has `add_parser`, and `execute(args, run)`, which returns a Result. It may raise UserError,
Stopped, and ArgumentError for arguments that do not fit together."""

STOPPED = "Stopped."


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(
        prog="python -m lwq_ui",
        description="Variable layerwise quantization: which layers of a model deserve more bits.",
    )
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(commands)
    return root


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    make_printable()
    root = parser()
    args = root.parse_args(argv)
    try:
        settings = Settings.from_environment(getattr(args, "tasks", None))
    except UserError as e:
        print(e, file=sys.stderr)
        return 1
    store = Store(settings.cache, settings.shipped, settings.bank_limit)
    run = Run(settings, store, Terminal())

    def interrupt(*_: Any) -> None:
        run.stop.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a second Ctrl-C ends at once

    previous = signal.signal(signal.SIGINT, interrupt)
    try:
        return hand_over(execute(args, run), args.json)
    except argparse.ArgumentError as e:
        root.error(str(e))
    except SystemExit:
        raise
    except BaseException as e:  # a tokenizer's panic is no Exception
        sentence = ending(e, settings)
    finally:
        signal.signal(signal.SIGINT, previous)
    print_note(sentence)
    return 1


def execute(args: argparse.Namespace, run: Run) -> Result:
    if args.json not in (None, "-") and not is_stream(args.json, sys.stdout):
        check_file(args.json)
    # Libraries print where results belong.
    with Warnings(), contextlib.redirect_stdout(sys.stderr):
        result: Result = args.execute(args, run)
    return result


def hand_over(result: Result, target: str | None) -> int:
    """Writes the result, and what failed. Returns the exit code."""
    erase_progress()
    sentences = [*result.failures, *deliver(target, result.data, result.text)]
    if result.stopped:
        sentences.append(STOPPED)
    for sentence in sentences:
        print(sentence, file=sys.stderr)
    return 1 if sentences else 0


def ending(error: BaseException, settings: Settings) -> str:
    """Returns what the user reads about an error that ended the work."""
    if isinstance(error, Stopped | KeyboardInterrupt):
        return STOPPED
    return str(error if isinstance(error, UserError) else unexpected(error, settings.cache))
