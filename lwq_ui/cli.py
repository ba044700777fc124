"""The command line: the same jobs as the page's.

Every command takes `--json FILE` (`-` for standard output, and then nothing else is printed there),
shows progress on standard error, and exits 0, 1 (failed, one clear line) or 2 (bad arguments).
"""

from __future__ import annotations

import argparse
import contextlib
import re
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

from .core.allocation import LEVEL_PAIRS
from .core.errors import Stopped, UserError
from .core.export import EXPORTS
from .core.export.json_config import import_json
from .core.memory import average_bits, format_gib
from .core.orderings import ORDERINGS, SCORERS, rank_layers
from .core.schema import Config, Evaluation, ModelInfo, Scores, split_name
from .core.store import Store, dumps, write_atomically
from .engine import records
from .engine.configs import breakpoints_of, build_config, check_fingerprint
from .engine.evaluation import tasks
from .engine.quantizers import QUANTIZERS, model_cost
from .engine.texts import calibration_text
from .settings import Settings

if TYPE_CHECKING:
    from .engine.models import LoadedModel

BINARY = {"kib": 2**10, "mib": 2**20, "gib": 2**30}
UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, **BINARY}


def size(text: str) -> int:
    """'3.2GiB' -> bytes."""
    match = re.fullmatch(r"([\d.]+)\s*([a-z]*)", text.strip().lower())
    try:
        return int(float(match[1]) * UNITS[match[2]])  # type: ignore[index]
    except (TypeError, KeyError, ValueError):
        raise argparse.ArgumentTypeError(f"'{text}' is not a size such as 3.2GiB") from None


def level_pair(text: str) -> tuple[int, int]:
    for pair in LEVEL_PAIRS:
        if text == f"{pair[0]},{pair[1]}":
            return pair
    choices = ", ".join(f"{high},{low}" for high, low in LEVEL_PAIRS)
    raise argparse.ArgumentTypeError(f"'{text}' is none of {choices}")


def pin(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)=(\d+)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"'{text}' is not LAYER=LEVEL, such as 0=8")
    return int(match[1]), int(match[2])


def positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number above 0")
    return int(text)


class Terminal:
    """Progress on standard error: one line that is rewritten, or a line per step where standard
    error is a file."""

    def __init__(self) -> None:
        self.out = sys.stderr
        self.last = ""

    def __call__(self, what: str, done: float | None) -> None:
        share = "" if done is None else f" {done:4.0%}"
        if self.out.isatty():
            self.out.write(f"\r\x1b[K{what}{share}")
        elif what != self.last:
            self.out.write(f"{what}\n")
        self.last = what
        self.out.flush()

    def end(self) -> None:
        if self.last and self.out.isatty():
            self.out.write("\r\x1b[K")


class Commands:
    """One method per command; each returns its JSON result and the text for people."""

    def __init__(self, args: argparse.Namespace):
        self.args = args
        self.settings = Settings.from_environment()
        self.store = Store(self.settings.cache, self.settings.shipped)
        self.progress = Terminal()
        self.stop = Event()

    def info(self) -> tuple[Any, str]:
        info = self._describe()
        cost = model_cost(info, "quanto")
        levels = sorted(cost.layers[0].packed, reverse=True)
        layers = [{str(level): c.bytes(level) for level in levels} for c in cost.layers]
        totals = {str(level): cost.total((level,) * info.num_layers) for level in levels}
        data = {
            "model": info.model_id,
            "fingerprint": info.fingerprint,
            "architecture": info.architecture,
            "dtype": info.dtype,
            "num_layers": info.num_layers,
            "num_parameters": info.num_parameters,
            "bytes": {"total": info.total_bytes, "rest": info.rest_bytes, "by_level": totals},
            "bytes_per_layer": layers,
        }
        lines = [
            f"{info.model_id}: {info.architecture}, {info.num_layers} layers, "
            f"{info.num_parameters:,} parameters, {format_gib(info.total_bytes)} in {info.dtype}",
            *(
                f"all layers at {level:2} bits: {format_gib(totals[str(level)])} "
                f"({totals[str(level)]:,} bytes)"
                for level in levels
            ),
        ]
        return data, "\n".join(lines)

    def score(self) -> tuple[Any, str]:
        loaded = self._load(self.args.model)
        scores = self._score(loaded, self.args.scorer or list(SCORERS))
        orderings = self._orderings(loaded.info, scores)
        lines = []
        for name, s in scores.items():
            on = f" on {s.documents} documents, {s.tokens:,} tokens" if s.calibration else ""
            lines.append(f"{SCORERS[name].title}{on}, most important first: {orderings[name]}")
        data = {
            "model": loaded.info.model_id,
            "fingerprint": loaded.info.fingerprint,
            "scores": {name: list(s.values) for name, s in scores.items()},
            "orderings": orderings,
        }
        return data, "\n".join(lines)

    def split(self) -> tuple[Any, str]:
        config = self._config(self.args.ordering)
        levels = " ".join(map(str, config.bits_per_layer))
        text = (
            f"{levels}\n{average_bits(config.bits_per_layer):.4g} bits on average, "
            f"{format_gib(config.bytes['total'])} ({config.bytes['total']:,} bytes)"
        )
        return config.to_json(), text

    def sweep(self) -> tuple[Any, str]:
        args = self.args
        loaded = self._load(args.model)
        points: list[tuple[str, int, tuple[int, ...]]] = []
        for ordering in args.ordering:
            scores = self._scores_for(loaded.info, ordering, loaded)
            table = breakpoints_of(
                loaded.info, scores, ordering, args.seed, args.levels, {}, args.quantizer
            )
            for low in range(0, loaded.info.num_layers + 1, args.every):
                position = table.position_for_low_layers(low)
                points.append((ordering, low, table.split(position)))
        splits = list(dict.fromkeys(split for _, _, split in points))  # orderings share both ends
        measured = self._evaluate(loaded, splits, args.quantizer)
        cost = model_cost(loaded.info, args.quantizer)
        rows: list[dict[str, Any]] = [
            {
                "ordering": ordering,
                "low_layers": low,
                "bits": list(split),
                "average_bits": average_bits(split),
                "bytes": cost.total(split),
                "metrics": metrics_json([e for e in measured if e.split == split]),
            }
            for ordering, low, split in points
        ]
        lines = [
            f"{r['ordering']:>12} {r['average_bits']:.3f} bits "
            + " ".join(f"{k} {m['value']:.4g}" for k, m in r["metrics"].items())
            for r in rows
        ]
        return {"points": rows}, "\n".join(lines)

    def evaluate(self) -> tuple[Any, str]:
        config = read_config(self.args.config)
        loaded = self._load(config.model_id, config.dtype)
        check_fingerprint(config, loaded.info)
        split = config.bits_per_layer
        measured = self._evaluate(loaded, [split], config.quantizer["name"])
        data = {
            "model": config.model_id,
            "bits": list(split),
            "average_bits": average_bits(split),
            "metrics": metrics_json(measured),
        }
        return data, f"{split_name(split)}:\n" + "\n".join(metric_lines(measured))

    def quantize(self) -> tuple[Any, str]:
        from .engine import jobs

        config = read_config(self.args.config)
        loaded = self._load(config.model_id, config.dtype)
        out = jobs.quantize(
            loaded, config, Path(self.args.out), self.store, self.progress, self.stop
        )
        written = sum(f.stat().st_size for f in out.glob("*.safetensors"))
        data = {"folder": str(out), "safetensors_bytes": written, "bytes": dict(config.bytes)}
        return data, f"Wrote {out}: {format_gib(written)} of weights"

    def export(self) -> tuple[Any, str]:
        config = read_config(self.args.config)
        text = EXPORTS[self.args.to](config)
        return config.to_json(), text.rstrip("\n")

    def _describe(self) -> ModelInfo:
        from .engine import jobs

        return jobs.describe(
            self.args.model, self.args.dtype, self.settings, self.store, self.progress, self.stop
        )

    def _load(self, model_id: str, dtype: str | None = None) -> LoadedModel:
        from .engine import jobs

        return jobs.load(
            model_id,
            self.args.device,
            dtype or self.args.dtype,
            self.settings,
            self.store,
            self.progress,
            self.stop,
        )

    def _score(self, loaded: LoadedModel, scorers: Sequence[str]) -> dict[str, Scores]:
        from .engine import jobs

        text = calibration_text(self.args.text, self.settings)
        return jobs.score(
            loaded, scorers, text, self.store, self.progress, self.stop, self.args.max_tokens
        )

    def _scores_for(
        self, info: ModelInfo, ordering: str, loaded: LoadedModel | None = None
    ) -> dict[str, Scores]:
        """What the ordering needs: from the store, or scored now, with the model loaded for it."""
        scorer = ORDERINGS[ordering].scorer
        if scorer is None:
            return {}
        text = calibration_text(self.args.text, self.settings)
        known = records.known_scores(info, text, self.store, self.args.max_tokens)
        if scorer in known:
            return known
        return self._score(loaded or self._load(self.args.model), [scorer])

    def _config(self, ordering: str) -> Config:
        args = self.args
        info = self._describe()
        scores = self._scores_for(info, ordering)
        pins = dict(args.pin)
        table = breakpoints_of(info, scores, ordering, args.seed, args.levels, pins, args.quantizer)
        budget = args.budget
        if args.average_bits is not None:
            budget = table.bytes[table.position_for_average_bits(args.average_bits)]
        elif args.low_layers is not None:
            budget = table.bytes[table.position_for_low_layers(args.low_layers)]
        known = records.known_evaluations(info, tasks(self.settings), self.store)
        return build_config(
            info, scores, ordering, args.seed, args.levels, pins, args.quantizer, budget, known
        )

    def _orderings(self, info: ModelInfo, scores: Mapping[str, Scores]) -> dict[str, list[int]]:
        values = {name: s.values for name, s in scores.items()}
        return {
            o.name: rank_layers(o.name, values, info.num_layers)
            for o in ORDERINGS.values()
            if o.scorer in scores
        }

    def _evaluate(
        self, loaded: LoadedModel, splits: Sequence[tuple[int, ...]], quantizer: str
    ) -> list[Evaluation]:
        from .engine import jobs

        args = self.args
        return jobs.evaluate(
            loaded,
            splits,
            quantizer,
            args.task,
            args.limit,
            self.settings,
            self.store,
            self.progress,
            self.stop,
        ).evaluations


def read_config(path: str) -> Config:
    try:
        return import_json(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f"The config '{path}' cannot be read: {e}.") from e


def metrics_json(measured: Sequence[Evaluation]) -> dict[str, Any]:
    """Metrics of one split by name; a name that several tasks have gets its task's in front."""
    names = [name for e in measured for name in e.metrics]
    return {
        name if names.count(name) == 1 else f"{e.task}.{name}": vars(metric)
        for e in measured
        for name, metric in e.metrics.items()
    }


def metric_lines(measured: Sequence[Evaluation]) -> list[str]:
    return [
        f"  {e.task:>14} {name:>15}: {m.value:.4f}"
        + ("" if m.stderr is None else f" ± {m.stderr:.4f}")
        + f"  (n = {m.n}{', quick' if e.limit else ''})"
        for e in measured
        for name, m in e.metrics.items()
    ]


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(
        prog="python -m lwq_ui",
        description="Variable layerwise quantization: which layers of a model deserve more bits.",
    )
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")
    every = argparse.ArgumentParser(add_help=False)
    every.add_argument("--json", metavar="FILE", help="write the result as JSON ('-': here)")
    device = argparse.ArgumentParser(add_help=False)
    device.add_argument("--device", default="auto", choices=("auto", "cuda", "mps", "cpu"))
    dtype = argparse.ArgumentParser(add_help=False)
    dtype.add_argument(
        "--dtype", default="auto", choices=("auto", "bfloat16", "float16", "float32")
    )
    model = argparse.ArgumentParser(add_help=False)
    model.add_argument("model", metavar="MODEL", help="a Hub id, a folder, or 'demo'")
    text = argparse.ArgumentParser(add_help=False)
    text.add_argument("--text", metavar="PATH", help="calibration text (default: shipped; pg19)")
    text.add_argument("--max-tokens", type=positive, metavar="N", help="calibrate on N tokens")
    choice = argparse.ArgumentParser(add_help=False)
    choice.add_argument("--levels", type=level_pair, default=(4, 2), metavar="HIGH,LOW")
    choice.add_argument("--quantizer", choices=list(QUANTIZERS), default="quanto")
    choice.add_argument("--seed", type=int, default=0, help="of the ordering 'random'")
    measure = argparse.ArgumentParser(add_help=False)
    measure.add_argument("--task", action="append", required=True, metavar="NAME")
    measure.add_argument("--limit", type=positive, metavar="N", help="items per task")
    config = argparse.ArgumentParser(add_help=False)
    config.add_argument("config", metavar="CONFIG.json")

    def add(name: str, help: str, *parents: argparse.ArgumentParser) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=help, description=help, parents=[every, *parents])

    add("info", "layers, parameters, bytes per layer and level", model, dtype)
    scoring = add("score", "how important each layer is", model, device, dtype, text)
    scoring.add_argument("--scorer", action="append", choices=list(SCORERS))
    splitting = add("split", "which layers get how many bits", model, device, dtype, text, choice)
    splitting.add_argument("--ordering", choices=list(ORDERINGS), default="lim")
    budget = splitting.add_mutually_exclusive_group(required=True)
    budget.add_argument("--budget", type=size, metavar="SIZE", help="such as 3.2GiB")
    budget.add_argument("--average-bits", type=float, metavar="BITS")
    budget.add_argument("--low-layers", type=int, metavar="N")
    splitting.add_argument("--pin", type=pin, action="append", default=[], metavar="LAYER=LEVEL")
    sweeping = add(
        "sweep", "measure every split of an ordering", model, device, dtype, text, choice, measure
    )
    sweeping.add_argument("--ordering", action="append", choices=list(ORDERINGS), required=True)
    sweeping.add_argument("--every", type=positive, default=1, metavar="N", help="every N-th split")
    add("evaluate", "quantize as a config says, and measure", config, device, measure)
    writing = add("quantize", "write the quantized model as a folder", config, device)
    writing.add_argument("--out", required=True, metavar="DIR")
    exporting = add("export", "write a config in another format", config)
    exporting.add_argument("--to", required=True, choices=list(EXPORTS))
    return root


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    commands = Commands(args)
    run: Callable[[], tuple[Any, str]] = getattr(commands, args.command)

    def interrupt(*_: Any) -> None:
        commands.stop.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a second Ctrl-C ends at once

    previous = signal.signal(signal.SIGINT, interrupt)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # libraries print where results belong
            data, text = run()
    except (UserError, Stopped, KeyboardInterrupt) as e:
        commands.progress.end()
        print(str(e) if isinstance(e, UserError) else "Stopped.", file=sys.stderr)
        return 1
    finally:
        signal.signal(signal.SIGINT, previous)
    commands.progress.end()
    if args.json == "-":
        sys.stdout.write(dumps(data) + "\n")
        return 0
    if args.json:
        try:
            write_atomically(Path(args.json), (dumps(data) + "\n").encode())
        except OSError as e:
            print(f"'{args.json}' cannot be written: {e.strerror or e}.", file=sys.stderr)
            return 1
    print(text)
    return 0
