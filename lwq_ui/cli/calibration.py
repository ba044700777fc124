"""The text that a quantizer calibrates on, as the arguments name it."""

from __future__ import annotations

import argparse
from dataclasses import replace

from ..core.config import Config
from ..core.errors import UserError
from ..core.run import Run
from ..engine.configs import quantizer_of
from ..engine.kept_texts import DIGITS, keep_text
from ..engine.quantizers import Quantizer
from ..engine.texts import calibration_text
from .arguments import parent

CONFIG_TEXT = parent(
    "--text", metavar="PATH", help="the text that the config's quantizer calibrates on"
)


def on_chosen_text(quantizer: Quantizer, args: argparse.Namespace, run: Run) -> Quantizer:
    """Returns the quantizer on the text of `--text`, which is kept in the cache. One that names its
    own text stays on that."""
    if not quantizer.calibrated or quantizer.text or not (args.text or args.chat_template):
        return quantizer
    text = calibration_text(args.text, run.settings, args.chat_template)
    return quantizer.on_text(keep_text(text, run.store))


def take_text(args: argparse.Namespace, config: Config, run: Run) -> None:
    """Keeps the text that a config's quantizer calibrates on, where `--text` names it.

    Raises UserError where it is another one.
    """
    if args.text is None:
        return
    quantizer = quantizer_of(config)
    plain = calibration_text(args.text, run.settings)
    for text in (plain, replace(plain, chat=True)):
        if quantizer.text.endswith(f"~{text.digest[:DIGITS]}"):
            keep_text(text, run.store)
            return
    raise UserError(
        f"'{args.text}' is not what the config's quantizer calibrates on ({quantizer.title}): name "
        "that text, or leave out --text."
    )
