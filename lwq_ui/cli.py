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
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from .core.allocation import Split
from .core.budget import CACHE_DTYPES, Workload, default_context, memory_use, weights_budget
from .core.choice import Choice
from .core.config import EXPORTS, Config
from .core.cost import model_cost
from .core.curves import THREE_LEVELS, Curve, alike, all_splits, curves, levels_between
from .core.duration import duration
from .core.errors import Stopped, UnknownArchitecture, UserError
from .core.memory import DTYPES, PRUNED, UNTOUCHED, average_bits, format_gib, parse_size
from .core.orderings import ALIKE, DEFAULT_ORDERING, ORDERINGS, QUICK_SCORERS, SCORERS, rank_layers
from .core.outputs import check_file, check_folder
from .core.run import Run
from .core.schema import Evaluation, ModelInfo, Scores, split_name
from .core.settings import Settings
from .core.store import Store
from .engine import records
from .engine.banks.packing_cost import packing_cost
from .engine.configs import quantizer_of, read_config
from .engine.devices import DEVICES, local_devices
from .engine.fit import what_fits
from .engine.quantizers import DEFAULT_QUANTIZER, QUANTIZERS, Quantizer, quantizer_named
from .engine.tasks import tasks
from .engine.tasks.presets import expand
from .engine.texts import calibration_text
from .failures import unexpected
from .terminal import Terminal, Warnings, deliver, is_stream, make_printable

if TYPE_CHECKING:
    from .engine.models.loading import LoadedModel

Result = TypeVar("Result")
STOPPED = "Stopped."


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


class Commands:
    """One method per command; each returns its JSON result and the text for people. Where a part
    of the work fails or is stopped, the result holds the rest: `failures` has a sentence for each
    such part, and `stopped` says that the user ended it."""

    def __init__(self, args: argparse.Namespace, settings: Settings):
        self.args = args
        store = Store(settings.cache, settings.shipped, settings.bank_limit)
        self.terminal = Terminal()
        self.run = Run(settings, store, self.terminal)
        self.failures: dict[str, None] = {}  # each sentence once, in their order
        self.stopped = False

    def info(self) -> tuple[Any, str]:
        from .engine import jobs

        looked = jobs.look(self.args.model, self.args.dtype, self.run)
        info = looked.info
        use = self._usage(info)
        cost = model_cost(info, DEFAULT_QUANTIZER)
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
            beside = memory_use(info, use, 0)
            fits = what_fits(info, DEFAULT_QUANTIZER, local_devices(), use)
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
        low = args.level or args.quantizer.pairs[0][1]
        asked = dict.fromkeys(args.scorer or QUICK_SCORERS)
        quick = [name for name in asked if name in QUICK_SCORERS]
        scores: dict[str, Scores] = {}
        for names in (quick, *([name] for name in asked if name not in QUICK_SCORERS)):
            if names and not self.stopped:
                none: dict[str, Scores] = {}
                scores |= self._part(none, self._score, loaded, names, args.quantizer, low)
        self._ensure(scores)
        scores = {name: scores[name] for name in asked if name in scores}
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

        source, values = jobs.zd_alone(self.args.model, self.run)
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
        chosen, *others = quantizers = list(dict.fromkeys(args.quantizer))
        levels = args.levels
        loaded = self._load(args.model)
        info = loaded.info
        low = levels[-1]
        values: dict[str, Sequence[float]] = {}
        ranked = []
        for ordering in dict.fromkeys(args.ordering):
            if ordering == ALIKE or self.stopped:
                continue
            work = (self._scores_for, info, ordering, chosen, low, loaded)
            scores = self._part(None, *work)
            if scores is not None:
                ranked.append(ordering)
                values |= {name: s.values for name, s in scores.items()}
        shared = curves(ranked, values, info.num_layers, levels, args.every)
        lines = {q: [*shared, *self._alike(q, levels, info.num_layers)] for q in quantizers}
        if not self.stopped:
            splits = {q: all_splits(its) for q, its in lines.items()}
            self._part(None, self._say_forecast, loaded, splits)
        rows: list[dict[str, Any]] = []
        told = []
        for q, its in lines.items():
            if self.stopped:
                break
            measured = self._evaluate(loaded, all_splits(its), q)
            found: dict[Split, list[Evaluation]] = {}
            for e in measured:
                found.setdefault(e.split, []).append(e)
            metrics = {split: metrics_json(some, measured) for split, some in found.items()}
            cost = model_cost(info, q)
            if others:
                told.append(f"{q.title}:")
            for c in its:
                told.append(c.title)
                prunes = c.ordering != ALIKE and ORDERINGS[c.ordering].prunes
                for split in filter(metrics.get, c.splits):
                    rows.append(
                        {
                            "ordering": c.ordering,
                            "seed": c.seed,
                            "quantizer": q.name,
                            "low_layers": split.count(PRUNED if prunes else low),
                            "bits": list(split),
                            "average_bits": average_bits(split),
                            "bytes": cost.total(split),
                            "metrics": metrics[split],
                        }
                    )
                    figures = " ".join(f"{k} {m['value']:.4g}" for k, m in metrics[split].items())
                    told.append(f"  {average_bits(split):.3f} bits  {figures}")
        self._ensure(rows)
        return {"points": rows}, "\n".join(told)

    def _alike(self, quantizer: Quantizer, levels: Sequence[float], num_layers: int) -> list[Curve]:
        if ALIKE not in self.args.ordering:
            return []
        between = levels_between(quantizer.levels, levels[0], levels[-1])
        return [alike(between, num_layers)]

    def evaluate(self) -> tuple[Any, str]:
        config = read_config(self.args.config)
        loaded = self._load_for(config)
        split = config.bits_per_layer
        measured = self._evaluate(loaded, [split], quantizer_of(config))
        self._ensure(measured)
        data = {
            "model": config.model_id,
            "bits": list(split),
            "average_bits": average_bits(split),
            "metrics": metrics_json(measured, measured),
        }
        return data, f"{split_name(split)}:\n" + "\n".join(metric_lines(measured))

    def quantize(self) -> tuple[Any, str]:
        from .engine import jobs

        config = read_config(self.args.config)
        if not self.args.out:
            raise UserError("--out needs the name of a folder.")
        check_folder(Path(self.args.out), config.bytes["total"])
        loaded = self._load_for(config)
        out = jobs.quantize(loaded, config, Path(self.args.out), self.run)
        written = sum(f.stat().st_size for f in out.glob("*.safetensors"))
        data = {"folder": str(out), "safetensors_bytes": written, "bytes": dict(config.bytes)}
        reader = quantizer_of(config).writes
        return data, f"Wrote {out}: {format_gib(written)} of weights. {reader}."

    def export(self) -> tuple[Any, str]:
        config = read_config(self.args.config)
        text = EXPORTS[self.args.to](config)
        return config.to_json(), text.rstrip("\n")

    def _part(self, otherwise: Result, work: Callable[..., Result], *arguments: Any) -> Result:
        """A part of the work, which may fail or be stopped without taking the rest with it:
        `otherwise` is its result then."""
        try:
            return work(*arguments)
        except Stopped:
            self.stopped = True
        except (UnknownArchitecture, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as e:
            known = isinstance(e, UserError)
            self.failures[str(e if known else unexpected(e, self.run.settings.cache))] = None
        return otherwise

    def _ensure(self, result: Any) -> None:
        """Raises what ended the work where there is no result at all."""
        if not result and self.stopped:
            raise Stopped
        if not result and self.failures:
            sentences, self.failures = " ".join(self.failures), {}
            raise UserError(sentences)

    def _usage(self, info: ModelInfo) -> Workload:
        args = self.args
        context = args.context or default_context(info)
        return Workload(context, args.batch, args.cache_dtype)

    def _describe(self) -> ModelInfo:
        from .engine import jobs

        return jobs.describe(self.args.model, self.args.dtype, self.run)

    def _load(self, model_id: str) -> LoadedModel:
        from .engine import jobs

        return jobs.load(model_id, self.args.device, self.args.dtype, self.run)

    def _load_for(self, config: Config) -> LoadedModel:
        from .engine import jobs

        return jobs.load_for(config, self.args.model, self.args.device, self.run)

    def _score(
        self, loaded: LoadedModel, scorers: Sequence[str], quantizer: Quantizer, low: float
    ) -> dict[str, Scores]:
        from .engine import jobs

        text = calibration_text(self.args.text, self.run.settings)
        return jobs.score(loaded, scorers, text, self.run, self.args.max_tokens, quantizer, low)

    def _scores_for(
        self,
        info: ModelInfo,
        ordering: str,
        quantizer: Quantizer,
        low: float,
        loaded: LoadedModel | None = None,
    ) -> dict[str, Scores]:
        """What the ordering needs: from the store, or scored now, with the model loaded for it."""
        scorer = ORDERINGS[ordering].scorer
        if scorer is None:
            return {}
        text = calibration_text(self.args.text, self.run.settings)
        most = self.args.max_tokens
        known = records.known_scores(info, text, self.run.store, most, quantizer, low)
        if scorer in known:
            return known
        return self._score(loaded or self._load(self.args.model), [scorer], quantizer, low)

    def _config(self, ordering: str) -> Config:
        args = self.args
        info = self._describe()
        high, low = args.levels
        scores = self._scores_for(info, ordering, args.quantizer, low)
        pins: dict[int, float] = {}
        for layer, text in args.pin:
            level = UNTOUCHED if text == str(UNTOUCHED) else args.quantizer.level_named(text)
            if pins.setdefault(layer, level) != level:
                raise UserError(f"Layer {layer} is pinned to two levels. Choose one of them.")
        choice = Choice(info, args.quantizer, (high, low), ordering, args.seed, scores, pins)
        choice = choice.with_budget(self._budget(choice))
        self._say_limits(choice)
        evaluations = records.known_evaluations(info, tasks(self.run.settings), self.run.store)
        return choice.config(evaluations)

    def _budget(self, choice: Choice) -> int:
        args, table = self.args, choice.table
        if args.gpu is not None:
            return weights_budget(args.gpu, choice.info, self._usage(choice.info), table.bytes[0])
        if args.average_bits is not None:
            return table.bytes[table.position_for_average_bits(args.average_bits)]
        if args.low_layers is not None:
            return table.bytes[table.position_for_low_layers(args.low_layers)]
        budget: int = args.budget
        return budget

    def _say_limits(self, choice: Choice) -> None:
        """Where the budget leaves nothing to choose, the ordering does not matter."""
        (high, low), position, free = choice.levels, choice.position, len(choice.table.raised)
        if not free:
            note = "Every layer is pinned: budget and ordering change nothing."
        elif position == 0:
            note = (
                f"Every layer that is not pinned has {low:g} bits: this budget is at the smallest "
                "split, and the ordering changes nothing."
            )
        elif position == free:
            note = (
                f"Every layer that is not pinned has {high:g} bits: this budget is enough "
                "for the largest split, and the ordering changes nothing."
            )
        else:
            return
        self.terminal.end()
        print(note, file=sys.stderr)

    def _orderings(self, info: ModelInfo, scores: Mapping[str, Scores]) -> dict[str, list[int]]:
        values = {name: s.values for name, s in scores.items()}
        return {
            o.name: rank_layers(o.name, values, info.num_layers)
            for o in ORDERINGS.values()
            if o.scorer in scores and not o.prunes
        }

    def _evaluate(
        self, loaded: LoadedModel, splits: Sequence[Split], quantizer: Quantizer
    ) -> list[Evaluation]:
        from .engine import jobs

        args = self.args
        measurement = jobs.Measurement(splits, quantizer, expand(args.task), args.limit)
        known: list[Evaluation] = []

        def measure() -> list[Evaluation]:
            done = jobs.evaluate(
                loaded, measurement, self.run, lambda some, whole: known.extend(some), early=False
            )
            self.failures |= dict.fromkeys(done.failures)
            return done.evaluations

        return self._part(known, measure)

    def _say_forecast(
        self, loaded: LoadedModel, splits: Mapping[Quantizer, Sequence[Split]]
    ) -> None:
        """`splits` by quantizer."""
        from .engine import jobs

        args = self.args
        tasks = expand(args.task)
        ahead = [
            jobs.forecast(loaded, jobs.Measurement(its, q, tasks, args.limit), self.run)
            for q, its in splits.items()
        ]
        self.terminal.end()
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
        for (q, its), a in zip(splits.items(), ahead, strict=True):
            why = q.missing()
            if why and a.splits and packing_cost(loaded.info, q, its, self.run.store).missing:
                print(why, file=sys.stderr)


def settle_levels(args: argparse.Namespace) -> None:
    """`--levels` and `--level` as numbers, by default the (first) quantizer's usual ones. Raises
    UserError for what one of the quantizers has not."""
    if getattr(args, "level", None) is not None:
        args.level = args.quantizer.level_named(args.level)
    if args.command == "sweep":
        args.quantizer = args.quantizer or [DEFAULT_QUANTIZER]
    if not hasattr(args, "levels"):
        return
    chosen, *others = args.quantizer if args.command == "sweep" else [args.quantizer]
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


def metrics_json(measured: Sequence[Evaluation], every: Sequence[Evaluation]) -> dict[str, Any]:
    """Metrics of one split by name; a name that several tasks of `every` evaluation have gets its
    task's in front."""
    names = [name for _, name in {(e.task, name) for e in every for name in e.metrics}]
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
    device.add_argument("--device", default="auto", choices=DEVICES)
    dtype = argparse.ArgumentParser(add_help=False)
    dtype.add_argument("--dtype", default="auto", choices=DTYPES)
    model = argparse.ArgumentParser(add_help=False)
    model.add_argument("model", metavar="MODEL", help="a Hub id, a folder, or 'demo'")
    text = argparse.ArgumentParser(add_help=False)
    text.add_argument("--text", metavar="PATH", help="calibration text (default: shipped; pg19)")
    text.add_argument("--max-tokens", type=positive, metavar="N", help="calibrate on N tokens")
    choice = argparse.ArgumentParser(add_help=False)
    named: dict[str, Any] = {"type": quantizer, "metavar": "NAME[:OPTION=N,...]"}
    which = f"{', '.join(QUANTIZERS)}; with options as in quanto:group=64"
    choice.add_argument("--quantizer", default=DEFAULT_QUANTIZER, help=which, **named)
    measure = argparse.ArgumentParser(add_help=False)
    measure.add_argument("--task", action="append", required=True, metavar="NAME")
    measure.add_argument("--limit", type=positive, metavar="N", help="items per task")
    config = argparse.ArgumentParser(add_help=False)
    config.add_argument("config", metavar="CONFIG.json")
    files = argparse.ArgumentParser(add_help=False)
    files.add_argument(
        "--model", metavar="MODEL", help="where its model lies (default: where the config says)"
    )

    def add(name: str, help: str, *parents: argparse.ArgumentParser) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=help, description=help, parents=[every, *parents])

    use = argparse.ArgumentParser(add_help=False)
    use.add_argument(
        "--context",
        type=positive,
        metavar="N",
        help=f"tokens of a sequence (default: {Workload.context}, or the model's limit)",
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
        "--ordering",
        choices=[o.name for o in ORDERINGS.values() if not o.prunes],
        default=DEFAULT_ORDERING,
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
    budget.add_argument("--average-bits", type=number, metavar="BITS")
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
    add("evaluate", "quantize as a config says, and measure", config, files, device, measure)
    writing = add("quantize", "write the quantized model as a folder", config, files, device)
    writing.add_argument("--out", required=True, metavar="DIR")
    exporting = add("export", "write a config in another format", config)
    exporting.add_argument("--to", required=True, choices=list(EXPORTS))
    return root


def main(argv: Sequence[str] | None = None) -> int:
    make_printable()
    root = parser()
    args = root.parse_args(argv)
    try:
        settle_levels(args)
    except UserError as e:
        root.error(str(e))
    try:
        settings = Settings.from_environment()
    except UserError as e:
        print(e, file=sys.stderr)
        return 1
    commands = Commands(args, settings)

    def interrupt(*_: Any) -> None:
        commands.run.stop.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a second Ctrl-C ends at once

    previous = signal.signal(signal.SIGINT, interrupt)
    try:
        return execute(commands)
    except SystemExit:
        raise
    except BaseException as e:  # a tokenizer's panic is no Exception
        sentence = ending(e, settings)
    finally:
        signal.signal(signal.SIGINT, previous)
    commands.terminal.end()
    print(sentence, file=sys.stderr)
    return 1


def execute(commands: Commands) -> int:
    """Does what was asked for, and hands the result over. Returns the exit code."""
    args = commands.args
    if args.json not in (None, "-") and not is_stream(args.json, sys.stdout):
        check_file(args.json)
    work: Callable[[], tuple[Any, str]] = getattr(commands, args.command)
    # Libraries print where results belong.
    with Warnings(commands.terminal), contextlib.redirect_stdout(sys.stderr):
        data, text = work()
    commands.terminal.end()
    sentences = [*commands.failures, *deliver(args.json, data, text)]
    if commands.stopped:
        sentences.append(STOPPED)
    for sentence in sentences:
        print(sentence, file=sys.stderr)
    return 1 if sentences else 0


def ending(error: BaseException, settings: Settings) -> str:
    if isinstance(error, Stopped | KeyboardInterrupt):
        return STOPPED
    return str(error if isinstance(error, UserError) else unexpected(error, settings.cache))
