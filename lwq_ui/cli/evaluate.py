"""`evaluate`: quantize as a config says, and measure."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..core.allocation import Split
from ..core.lossless import GivenBack, origin_of
from ..core.memory import average_bits
from ..core.run import Run
from ..core.schema import Evaluation, split_name
from ..engine.configs import quantizer_of, read_config
from ..engine.quantizers import Quantizer
from ..engine.tasks.presets import expand
from .arguments import (
    CHAT_TEMPLATE,
    CONFIG,
    CONFIG_MODEL,
    DEVICE,
    TASKS,
    TASKS_FOLDER,
    add_command,
)
from .calibration import CONFIG_TEXT, take_text
from .results import Parts, Result
from .ruins import Ruins

if TYPE_CHECKING:
    from ..engine.models.loading import LoadedModel

HELP = "quantize as a config says, and measure"


def add_parser(commands: Any) -> None:
    parents = (CONFIG, CONFIG_MODEL, CONFIG_TEXT, DEVICE, TASKS, TASKS_FOLDER, CHAT_TEMPLATE)
    parser = add_command(commands, "evaluate", HELP, *parents)
    parser.set_defaults(execute=execute)


def execute(args: argparse.Namespace, run: Run) -> Result:
    from ..engine import jobs

    config = read_config(args.config)
    loaded = jobs.load_for(config, args.model, args.device, run)
    take_text(args, config, run)
    split = config.bits_per_layer
    parts, quantizer, ruins = Parts(run), quantizer_of(config), Ruins(loaded.info, run)
    ruins.print_split(quantizer, [split])
    evaluations = measure(args, parts, loaded, [split], quantizer)
    parts.check(evaluations)
    ruins.print_split(quantizer, [split], measured=evaluations)
    data = {
        "model": config.model_id,
        "weights_from": loaded.info.quantized_as,
        "quantizer": config.quantizer["name"],
        "bits": list(split),
        "lossless_layers": GivenBack.by(loaded.info, [quantizer]).layers(quantizer.name, split),
        "average_bits": average_bits(split),
        "chat_template": args.chat_template,
        "metrics": metrics_json(evaluations, evaluations),
    }
    origin = origin_of(loaded.info, [quantizer], [(quantizer.name, split)])
    head = filter(None, [origin, f"{split_name(split)}:"])
    return parts.result(data, "\n".join([*head, *metric_lines(evaluations)]))


def measure(
    args: argparse.Namespace,
    parts: Parts,
    loaded: LoadedModel,
    splits: Sequence[Split],
    quantizer: Quantizer,
) -> list[Evaluation]:
    """Returns the evaluations on every task, or those that were known when it failed."""
    from ..engine import jobs

    tasks = expand(args.task)
    measurement = jobs.Measurement(splits, quantizer, tasks, args.limit, args.chat_template)
    evaluations: list[Evaluation] = []

    def keep(new: list[Evaluation], whole: bool) -> None:
        evaluations.extend(new)

    def work() -> list[Evaluation]:
        done = jobs.evaluate(loaded, measurement, parts.run, keep, early=False)
        parts.failures |= dict.fromkeys(done.failures)
        return done.evaluations

    return parts.attempt(evaluations, work)


def metrics_json(
    evaluations: Sequence[Evaluation], of_all_splits: Sequence[Evaluation]
) -> dict[str, Any]:
    """Returns the metrics of one split by name. A name that several tasks have gets its task's in
    front."""
    pairs = {(e.task, name) for e in of_all_splits for name in e.metrics}
    names = [name for _, name in pairs]
    return {
        name if names.count(name) == 1 else f"{e.task}.{name}": vars(metric)
        for e in evaluations
        for name, metric in e.metrics.items()
    }


def metric_lines(evaluations: Sequence[Evaluation]) -> list[str]:
    return [
        f"  {e.task:>14} {name:>15}: {m.value:.4f}"
        + ("" if m.stderr is None else f" ± {m.stderr:.4f}")
        + f"  (n = {m.n}{', quick' if e.limit else ''}{', chat' if e.chat_template else ''})"
        for e in evaluations
        for name, m in e.metrics.items()
    ]
