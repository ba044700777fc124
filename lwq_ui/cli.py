"""The command line: the same jobs as the page's.

Every command takes `--json FILE` (`-` for standard output, and then nothing else is printed there),
shows progress on standard error, and exits 0, 1 (failed, one clear line) or 2 (bad arguments).
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import re
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

from .core.allocation import Split
from .core.budget import CACHE_DTYPES, Usage, default_context, parts, weights_budget
from .core.curves import THREE_LEVELS, Curve, alike, all_splits, curves, levels_between
from .core.duration import duration
from .core.errors import Stopped, UnknownArchitecture, UserError
from .core.export import EXPORTS
from .core.export.json_config import import_json
from .core.memory import PRUNED, UNTOUCHED, average_bits, format_gib, parse_size
from .core.orderings import ALIKE, ORDERINGS, QUICK_SCORERS, SCORERS, rank_layers
from .core.schema import Config, Evaluation, ModelInfo, Scores, split_name
from .core.store import Store, dumps, write_atomically
from .engine import records
from .engine.configs import breakpoints_of, build_config, check_fingerprint, check_levels
from .engine.devices import local_devices, what_fits
from .engine.evaluation import expand, tasks
from .engine.quantizers import DEFAULT, QUANTIZERS, model_cost, quantizer_named
from .engine.texts import calibration_text
from .settings import Settings

if TYPE_CHECKING:
    from .engine.models import LoadedModel


def size(text: str) -> int:
    """'3.2GiB' -> bytes."""
    try:
        return parse_size(text)
    except ValueError as e:
        raise argparse.ArgumentTypeError(str(e)) from None


def levels(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def pin(text: str) -> tuple[int, str]:
    match = re.fullmatch(r"(\d+)=([\d.]+%?)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"'{text}' is not LAYER=LEVEL, such as 0=8")
    return int(match[1]), match[2]


def quantizer(text: str) -> str:
    """A quantizer's name with its options, in its shortest form."""
    try:
        return quantizer_named(text).name
    except UserError as e:
        raise argparse.ArgumentTypeError(str(e)) from None


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


class Warnings(logging.Handler):
    """Writes this program's warnings to standard error, once and beside the progress, whatever the
    libraries do with their logs."""

    def __init__(self, progress: Terminal):
        super().__init__(logging.WARNING)
        self.progress = progress

    def emit(self, record: logging.LogRecord) -> None:
        self.progress.end()
        print(self.format(record), file=sys.stderr)

    def __enter__(self) -> None:
        log = logging.getLogger(__package__)
        log.addHandler(self)
        log.propagate = False

    def __exit__(self, *_: object) -> None:
        log = logging.getLogger(__package__)
        log.removeHandler(self)
        log.propagate = True


class Commands:
    """One method per command; each returns its JSON result and the text for people."""

    def __init__(self, args: argparse.Namespace):
        self.args = args
        self.settings = Settings.from_environment()
        self.store = Store(self.settings.cache, self.settings.shipped, self.settings.bank_limit)
        self.progress = Terminal()
        self.stop = Event()
        self.failures: tuple[str, ...] = ()

    def info(self) -> tuple[Any, str]:
        from .engine import jobs

        where = (self.settings, self.store, self.progress, self.stop)
        looked = jobs.look(self.args.model, self.args.dtype, *where)
        info = looked.info
        use = self._usage(info)
        cost = model_cost(info, DEFAULT)
        levels = sorted(cost.layers[0].packed, reverse=True)
        layers = [{str(level): c.bytes(level) for level in levels} for c in cost.layers]
        totals = {str(level): cost.total((level,) * info.num_layers) for level in levels}
        data = {
            "model": info.model_id,
            "fingerprint": info.fingerprint or None,
            "architecture": info.architecture,
            "dtype": info.dtype,
            "num_layers": info.num_layers,
            "num_parameters": info.num_parameters,
            "bytes": {"total": info.total_bytes, "rest": info.rest_bytes, "by_level": totals},
            "bytes_per_layer": layers,
            "download_bytes": looked.download_bytes,
            "packable_share": info.packable_share,
            "context": use.context,
            "batch": use.batch,
        }
        lines = [
            f"{info.model_id}: {info.architecture}, {info.num_layers} layers, "
            f"{info.num_parameters:,} parameters, {format_gib(info.total_bytes)} in {info.dtype}",
            *(
                f"all layers at {level:2} bits: {format_gib(totals[str(level)])} "
                f"({totals[str(level)]:,} bytes)"
                + {levels[0]: ", the largest split", levels[-1]: ", the smallest"}.get(level, "")
                for level in levels
            ),
            f"{info.packable_share:.1%} of the layers' bytes are weights that can be packed",
        ]
        if looked.download_bytes:
            lines.append(f"{format_gib(looked.download_bytes)} to download")
        if looked.streamed:
            lines.append(
                "Larger than this machine's memory: its layers are read one by one from the disk."
            )
        try:
            beside, fits = parts(info, use, 0), what_fits(info, DEFAULT, local_devices(), use)
        except UserError as e:
            data |= {"cache_bytes": None, "activation_bytes": None, "devices": []}
            return data, "\n".join([*lines, str(e)])
        data |= {
            "cache_bytes": beside.cache,
            "activation_bytes": beside.activations,
            "devices": [fit.to_json() for fit in fits],
        }
        lines += [
            f"{use.context:,} tokens of context, batch {use.batch}: {format_gib(beside.cache)} of "
            f"KV cache and {format_gib(beside.activations)} of activations",
            *(fit.sentence() for fit in fits),
        ]
        return data, "\n".join(lines)

    def score(self) -> tuple[Any, str]:
        args = self.args
        try:
            loaded = self._load(args.model)
        except UnknownArchitecture as e:
            if args.scorer != ["zd"]:
                raise UserError(f"{e} Its ZD can be had all the same: --scorer zd.") from e
            return self._zd_alone()
        chosen = quantizer_named(args.quantizer)
        low = chosen.level_named(args.level) if args.level else chosen.pairs[0][1]
        scores = self._score(loaded, args.scorer or QUICK_SCORERS, args.quantizer, low)
        orderings = self._orderings(loaded.info, scores)
        lines = []
        for name, s in scores.items():
            on = f" on {s.text_used}" if s.calibration else ""
            lines.append(f"{SCORERS[name].title}{on}, most important first: {orderings[name]}")
        data = {
            "model": loaded.info.model_id,
            "fingerprint": loaded.info.fingerprint,
            "scores": {name: list(s.values) for name, s in scores.items()},
            "orderings": orderings,
        }
        return data, "\n".join(lines)

    def _zd_alone(self) -> tuple[Any, str]:
        from .engine import jobs

        where = (self.settings, self.progress, self.stop)
        source, values = jobs.zd_alone(self.args.model, *where)
        ranked = rank_layers("zd", {"zd": values}, len(values))
        data = {
            "model": source.model_id,
            "fingerprint": source.fingerprint(),
            "scores": {"zd": values},
            "orderings": {"zd": ranked},
        }
        return data, f"ZD by the names of the tensors, most important first: {ranked}"

    def split(self) -> tuple[Any, str]:
        config = self._config(self.args.ordering)
        levels = " ".join(f"{b:g}" for b in config.bits_per_layer)
        text = (
            f"{levels}\n{average_bits(config.bits_per_layer):.4g} bits on average, "
            f"{format_gib(config.bytes['total'])} ({config.bytes['total']:,} bytes)"
        )
        return config.to_json(), text

    def sweep(self) -> tuple[Any, str]:
        """The orders by sensitivity are the first quantizer's, so that all have the same splits."""
        args = self.args
        chosen, *others = names = list(dict.fromkeys(args.quantizer))
        levels = args.levels
        loaded = self._load(args.model)
        info = loaded.info
        low = levels[-1]
        values: dict[str, Sequence[float]] = {}
        ranked = [name for name in args.ordering if name != ALIKE]
        for ordering in ranked:
            scores = self._scores_for(info, ordering, chosen, low, loaded)
            values |= {name: s.values for name, s in scores.items()}
        shared = curves(ranked, values, info.num_layers, levels, args.every)
        lines = {name: [*shared, *self._alike(name, levels, info.num_layers)] for name in names}
        self._say_forecast(loaded, {name: all_splits(its) for name, its in lines.items()})
        rows: list[dict[str, Any]] = []
        told = []
        for name, its in lines.items():
            found: dict[Split, list[Evaluation]] = {}
            for e in self._evaluate(loaded, all_splits(its), name):
                found.setdefault(e.split, []).append(e)
            metrics = {split: metrics_json(of_split) for split, of_split in found.items()}
            cost = model_cost(info, name)
            if others:
                told.append(f"{quantizer_named(name).title}:")
            for c in its:
                told.append(c.title)
                prunes = c.ordering != ALIKE and ORDERINGS[c.ordering].prunes
                for split in c.splits:
                    rows.append(
                        {
                            "ordering": c.ordering,
                            "seed": c.seed,
                            "quantizer": name,
                            "low_layers": split.count(PRUNED if prunes else low),
                            "bits": list(split),
                            "average_bits": average_bits(split),
                            "bytes": cost.total(split),
                            "metrics": metrics[split],
                        }
                    )
                    figures = " ".join(f"{k} {m['value']:.4g}" for k, m in metrics[split].items())
                    told.append(f"  {average_bits(split):.3f} bits  {figures}")
        return {"points": rows}, "\n".join(told)

    def _alike(self, quantizer: str, levels: Sequence[float], num_layers: int) -> list[Curve]:
        if ALIKE not in self.args.ordering:
            return []
        between = levels_between(quantizer_named(quantizer).levels, levels[0], levels[-1])
        return [alike(between, num_layers)]

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
        reader = quantizer_named(config.quantizer["name"]).writes
        return data, f"Wrote {out}: {format_gib(written)} of weights. {reader}."

    def export(self) -> tuple[Any, str]:
        config = read_config(self.args.config)
        text = EXPORTS[self.args.to](config)
        return config.to_json(), text.rstrip("\n")

    def _usage(self, info: ModelInfo) -> Usage:
        args = self.args
        context = args.context or default_context(info)
        return Usage(context, args.batch, args.cache_dtype)

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

    def _score(
        self, loaded: LoadedModel, scorers: Sequence[str], quantizer: str, low: float
    ) -> dict[str, Scores]:
        from .engine import jobs

        text = calibration_text(self.args.text, self.settings)
        where = (self.store, self.progress, self.stop)
        return jobs.score(loaded, scorers, text, *where, self.args.max_tokens, quantizer, low)

    def _scores_for(
        self,
        info: ModelInfo,
        ordering: str,
        quantizer: str,
        low: float,
        loaded: LoadedModel | None = None,
    ) -> dict[str, Scores]:
        """What the ordering needs: from the store, or scored now, with the model loaded for it."""
        scorer = ORDERINGS[ordering].scorer
        if scorer is None:
            return {}
        text = calibration_text(self.args.text, self.settings)
        chosen, most = quantizer_named(quantizer), self.args.max_tokens
        known = records.known_scores(info, text, self.store, most, chosen, low)
        if scorer in known:
            return known
        return self._score(loaded or self._load(self.args.model), [scorer], quantizer, low)

    def _config(self, ordering: str) -> Config:
        args = self.args
        info = self._describe()
        chosen = quantizer_named(args.quantizer)
        high, low = args.levels
        scores = self._scores_for(info, ordering, args.quantizer, low)
        pins = {
            layer: UNTOUCHED if text == str(UNTOUCHED) else chosen.level_named(text)
            for layer, text in args.pin
        }
        choice = (ordering, args.seed, (high, low), pins, args.quantizer)
        table = breakpoints_of(info, scores, *choice)
        budget = args.budget
        if args.gpu is not None:
            budget = weights_budget(args.gpu, info, self._usage(info), table.bytes[0])
        elif args.average_bits is not None:
            budget = table.bytes[table.position_for_average_bits(args.average_bits)]
        elif args.low_layers is not None:
            budget = table.bytes[table.position_for_low_layers(args.low_layers)]
        known = records.known_evaluations(info, tasks(self.settings), self.store)
        return build_config(info, scores, *choice, budget, known)

    def _orderings(self, info: ModelInfo, scores: Mapping[str, Scores]) -> dict[str, list[int]]:
        values = {name: s.values for name, s in scores.items()}
        return {
            o.name: rank_layers(o.name, values, info.num_layers)
            for o in ORDERINGS.values()
            if o.scorer in scores and not o.prunes
        }

    def _evaluate(
        self, loaded: LoadedModel, splits: Sequence[Split], quantizer: str
    ) -> list[Evaluation]:
        from .engine import jobs

        where = (self.settings, self.store, self.progress, self.stop)
        tasks, limit = expand(self.args.task), self.args.limit
        done = jobs.evaluate(loaded, splits, quantizer, tasks, limit, *where)
        self.failures += tuple(f for f in done.failures if f not in self.failures)
        return done.evaluations

    def _say_forecast(self, loaded: LoadedModel, splits: Mapping[str, Sequence[Split]]) -> None:
        """`splits` by quantizer."""
        from .engine import jobs

        args = self.args
        where = (self.settings, self.store, self.progress, self.stop)
        tasks = expand(args.task)
        ahead = [
            jobs.forecast(loaded, its, name, tasks, args.limit, *where)
            for name, its in splits.items()
        ]
        self.progress.end()
        seconds, left = sum(a.seconds for a in ahead), sum(a.splits for a in ahead)
        unknown = dict.fromkeys(name for a in ahead for name in a.unknown)
        by = f" by {len(splits)} quantizers" * (len(splits) > 1)
        told = f"{sum(map(len, splits.values()))} splits{by}, "
        told += duration(seconds) if left else "all in the cache"
        if calibrating := sum(a.calibrating for a in ahead):
            told += f", of which calibrating takes {duration(calibrating)}"
        if unknown:
            told += f"; how long {', '.join(unknown)} will take cannot be known before"
        print(f"{told}.", file=sys.stderr)


def settle_levels(args: argparse.Namespace) -> None:
    """`--levels` as numbers, by default the (first) quantizer's usual ones. Raises UserError for
    what one of the quantizers has not."""
    if args.command == "sweep":
        args.quantizer = args.quantizer or [DEFAULT]
    if not hasattr(args, "levels"):
        return
    names = args.quantizer if args.command == "sweep" else [args.quantizer]
    chosen, *others = map(quantizer_named, names)
    if args.levels is None:
        args.levels = chosen.pairs[0]
    else:
        args.levels = tuple(map(chosen.level_named, args.levels))
        three = (THREE_LEVELS,) if args.command == "sweep" else ()
        if args.levels not in (*chosen.pairs, *three):
            offered = " ".join(",".join(f"{b:g}" for b in pair) for pair in chosen.pairs)
            raise UserError(f"--levels must be a high and a low level of: {offered}.")
    for other in others:
        for level in args.levels:
            if level not in other.levels:
                raise other.no_level(f"{level:g}")


def read_config(path: str) -> Config:
    try:
        config = import_json(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f"The config '{path}' cannot be read: {e}.") from e
    check_levels(config)
    return config


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
    named: dict[str, Any] = {"type": quantizer, "metavar": "NAME[:OPTION=N,...]"}
    which = f"{', '.join(QUANTIZERS)}; with options as in quanto:group=64"
    choice.add_argument("--quantizer", default=DEFAULT, help=which, **named)
    measure = argparse.ArgumentParser(add_help=False)
    measure.add_argument("--task", action="append", required=True, metavar="NAME")
    measure.add_argument("--limit", type=positive, metavar="N", help="items per task")
    config = argparse.ArgumentParser(add_help=False)
    config.add_argument("config", metavar="CONFIG.json")

    def add(name: str, help: str, *parents: argparse.ArgumentParser) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=help, description=help, parents=[every, *parents])

    use = argparse.ArgumentParser(add_help=False)
    use.add_argument(
        "--context",
        type=positive,
        metavar="N",
        help=f"tokens of a sequence (default: {Usage.context}, or the most that the model takes)",
    )
    use.add_argument("--batch", type=positive, default=1, metavar="N", help="sequences at once")
    use.add_argument(
        "--cache-dtype", default="auto", choices=("auto", *CACHE_DTYPES), help="of the KV cache"
    )
    add("info", "layers, parameters, bytes per layer and level; what fits here", model, dtype, use)
    scoring = add("score", "how important each layer is", model, device, dtype, text, choice)
    scoring.add_argument("--scorer", action="append", choices=list(SCORERS))
    scoring.add_argument(
        "--level", metavar="LEVEL", help="that sensitivity measures (default: the usual low one)"
    )
    splitting = add(
        "split", "which layers get how many bits", model, device, dtype, text, choice, use
    )
    splitting.add_argument(
        "--ordering", choices=[o.name for o in ORDERINGS.values() if not o.prunes], default="lim"
    )
    splitting.add_argument(
        "--levels", type=levels, metavar="HIGH,LOW", help="(default: the quantizer's usual ones)"
    )
    splitting.add_argument("--seed", type=int, default=0, help="of the ordering 'random'")
    budget = splitting.add_mutually_exclusive_group(required=True)
    budget.add_argument("--budget", type=size, metavar="SIZE", help="such as 3.2GiB")
    budget.add_argument(
        "--gpu",
        type=size,
        metavar="SIZE",
        help="a card of 8GiB: what KV cache (--context, --batch) and activations leave",
    )
    budget.add_argument("--average-bits", type=float, metavar="BITS")
    budget.add_argument("--low-layers", type=int, metavar="N")
    splitting.add_argument("--pin", type=pin, action="append", default=[], metavar="LAYER=LEVEL")
    sweeping = add(
        "sweep", "measure every split of an ordering", model, device, dtype, text, measure
    )
    sweeping.add_argument("--quantizer", action="append", help=f"{which}; one or several", **named)
    sweeping.add_argument(
        "--ordering",
        action="append",
        choices=[*ORDERINGS, ALIKE],
        required=True,
        help=f"'{ALIKE}': one level in every layer, each that the quantizer has between the two",
    )
    sweeping.add_argument(
        "--levels",
        type=levels,
        metavar="HIGH,LOW",
        help="or 8,4,2: one layer up for two down",
    )
    sweeping.add_argument("--every", type=positive, default=1, metavar="N", help="every N-th split")
    add("evaluate", "quantize as a config says, and measure", config, device, measure)
    writing = add("quantize", "write the quantized model as a folder", config, device)
    writing.add_argument("--out", required=True, metavar="DIR")
    exporting = add("export", "write a config in another format", config)
    exporting.add_argument("--to", required=True, choices=list(EXPORTS))
    return root


def main(argv: Sequence[str] | None = None) -> int:
    root = parser()
    args = root.parse_args(argv)
    try:
        settle_levels(args)
    except UserError as e:
        root.error(str(e))
    try:
        commands = Commands(args)
    except UserError as e:  # the environment's
        print(e, file=sys.stderr)
        return 1
    run: Callable[[], tuple[Any, str]] = getattr(commands, args.command)

    def interrupt(*_: Any) -> None:
        commands.stop.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a second Ctrl-C ends at once

    previous = signal.signal(signal.SIGINT, interrupt)
    try:
        # Libraries print where results belong.
        with Warnings(commands.progress), contextlib.redirect_stdout(sys.stderr):
            data, text = run()
    except (UserError, Stopped, KeyboardInterrupt) as e:
        commands.progress.end()
        print(str(e) if isinstance(e, UserError) else "Stopped.", file=sys.stderr)
        return 1
    finally:
        signal.signal(signal.SIGINT, previous)
    commands.progress.end()
    for failure in commands.failures:
        print(failure, file=sys.stderr)
    code = 1 if commands.failures else 0
    if args.json == "-":
        sys.stdout.write(dumps(data) + "\n")
        return code
    if args.json:
        try:
            write_atomically(Path(args.json), (dumps(data) + "\n").encode())
        except OSError as e:
            print(f"'{args.json}' cannot be written: {e.strerror or e}.", file=sys.stderr)
            return 1
    print(text)
    return code
