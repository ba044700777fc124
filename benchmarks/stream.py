"""A checkpoint several times larger than memory: scored and packed within an imposed limit.

    python -m benchmarks.stream [--gib 6] [--limit-gib 1.5] [--tokens 1024] [--folder DIR]

A random checkpoint in Llama's shape, one file per layer, is made in DIR (a temporary folder). Each
way then runs in a process of its own, in a control group with that much memory (Linux, as root; the
page cache counts, so nothing can hide there; without the right to make one it runs without a limit
and says so), and starts with the checkpoint out of the page cache:

read          every byte once into one buffer: what the disk takes
sum           `sum` in float32 of every layer's weights, mapped: what ZD's data costs torch
ZD            the score of every layer
all           LIM on `--tokens` tokens, ZD, and the bank at 4 and 2 bits, in one pass, on disk
all, in memory  the same with the whole model in memory, without the limit

Seconds are those of the work, without imports and loading; ratios are to `read`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.report import arguments, report

GIB = 2**30
LAYERS = 24
CONTROL = Path("/sys/fs/cgroup")
WAYS = ("read", "sum", "ZD", "all", "all, in memory")


def make(folder: Path, gib: float) -> None:
    """Random weights in bfloat16, `gib` GiB in all; the demo model's tokenizer."""
    import torch
    from safetensors.torch import save_file
    from transformers import LlamaConfig

    from lwq_ui.core.settings import Settings
    from lwq_ui.engine.models.skeleton import skeleton

    width = int((gib * GIB / 2 / LAYERS / 11) ** 0.5) // 128 * 128  # 11 widths squared in a layer
    config = LlamaConfig(
        vocab_size=4096,
        hidden_size=width,
        intermediate_size=width * 8 // 3 // 128 * 128,
        num_hidden_layers=LAYERS,
        num_attention_heads=width // 128,
        num_key_value_heads=max(1, width // 512),
        dtype="bfloat16",
        tie_word_embeddings=True,
    )
    if width // 128 % config.num_key_value_heads:
        config.num_key_value_heads = 1
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(Settings.from_environment().demo_model / name, folder / name)
    files: dict[str, dict[str, Any]] = {}
    for name, parameter in skeleton(config, "bfloat16", "made up").named_parameters():
        layer = name.split(".")[2] if ".layers." in name else "rest"
        files.setdefault(f"model-{layer}.safetensors", {})[name] = parameter
    torch.manual_seed(0)
    for file, parameters in files.items():
        tensors = {
            name: torch.randn(p.shape) * 0.02 if p.ndim > 1 else torch.ones(p.shape)
            for name, p in parameters.items()
        }
        save_file({n: t.bfloat16() for n, t in tensors.items()}, folder / file)
    where = {name: file for file, parameters in files.items() for name in parameters}
    index = {"metadata": {}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def work(way: str, folder: Path, tokens: int) -> dict[str, Any]:
    """Runs one way in this process."""
    if way == "read":
        began = now()
        buffer = bytearray(2**24)
        for path in sorted(folder.glob("*.safetensors")):
            with path.open("rb", buffering=0) as file:
                while file.readinto(buffer):
                    pass
        return measured(began)
    import torch
    from safetensors import safe_open

    from lwq_ui.core.run import Run
    from lwq_ui.core.settings import Settings
    from lwq_ui.core.store import Store
    from lwq_ui.engine import jobs
    from lwq_ui.engine.checkpoints.source import Source
    from lwq_ui.engine.models import loading
    from lwq_ui.engine.quantizers import DEFAULT_QUANTIZER
    from lwq_ui.engine.scorers import pass_scores
    from lwq_ui.engine.texts import shipped_calibration

    if way == "sum":
        began = now()
        for path in sorted(folder.glob("model-[0-9]*.safetensors")):
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118  (it cannot be iterated)
                    file.get_tensor(name).sum(dtype=torch.float32).item()
        return measured(began)
    in_memory = way == "all, in memory"
    source = Source(str(folder), folder)
    source.fingerprint()  # not part of the work; read once on any machine
    forget(folder)
    settings = Settings.from_environment()
    run = Run(settings, Store(settings.cache))
    loaded = loading.load(source, "cpu", "auto", run, streamed=not in_memory)
    if in_memory:
        for parameter in loaded.model.parameters():  # what a mapped file only promises
            parameter.data = parameter.data.clone()
    began = now()
    if way == "ZD":
        pass_scores(loaded, ["zd"], [], run)
        return measured(began)
    with tempfile.TemporaryDirectory(dir=folder) as cache:
        run = replace(run, store=Store(Path(cache)))
        jobs.score(loaded, ["lim", "zd"], shipped_calibration(settings), run, tokens)
        splits = [(level,) * LAYERS for level in (4, 2)]
        jobs.bank_of(loaded, DEFAULT_QUANTIZER, run.store).fill(splits, run)
        packed = sum(p.stat().st_size for p in Path(cache, "banks").rglob("*.safetensors"))
        return measured(began) | {"bank GiB": packed / GIB}


def now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def measured(began: tuple[float, float]) -> dict[str, Any]:
    """Seconds since, and the most memory of this process that was resident at once."""
    wall, cpu = now()
    status = Path("/proc/self/status").read_text()
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    return {"wall s": wall - began[0], "CPU s": cpu - began[1], "peak RSS GiB": peak * 1024 / GIB}


def forget(folder: Path) -> None:
    """Takes the checkpoint out of the page cache."""
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@contextmanager
def control_group(limit: int) -> Iterator[Path | None]:
    """A control group with `limit` bytes of memory; None where none can be made."""
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    own = {kind: path for _, kind, path in (line.split(":", 2) for line in lines)}
    kind, file = ("memory", "memory.limit_in_bytes") if "memory" in own else ("", "memory.max")
    above = CONTROL / kind
    if (inside := above / own.get(kind, "/").lstrip("/")).exists():
        above = inside
    group = above / f"lwq-{os.getpid()}"
    try:
        group.mkdir()
        (group / file).write_text(str(limit))
    except OSError as e:
        print(f"No memory limit can be set here ({e}): running without.", file=sys.stderr)
        yield None
        return
    try:
        yield group
    finally:
        for _ in range(50):
            with suppress(OSError):  # its last process is still ending
                group.rmdir()
                break
            time.sleep(0.1)


def run(way: str, folder: Path, tokens: int, limit: int | None) -> dict[str, Any]:
    """One way in a process of its own."""
    forget(folder)
    command = [sys.executable, "-m", "benchmarks.stream", "--way", way, "--folder", str(folder)]
    command += ["--tokens", str(tokens)]
    if limit is None:
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        return json.loads(done.stdout.splitlines()[-1])
    with control_group(limit) as group:

        def enter() -> None:
            if group:
                (group / "cgroup.procs").write_text(str(os.getpid()))

        done = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, check=True, preexec_fn=enter
        )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = arguments(__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--gib", type=float, default=6.0)
    parser.add_argument("--limit-gib", type=float, default=1.5)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        print(json.dumps(work(options.way, options.folder, options.tokens)))
        return
    with tempfile.TemporaryDirectory() as made:
        folder = options.folder or Path(made)
        folder.mkdir(exist_ok=True)
        if not (folder / "config.json").exists():
            make(folder, options.gib)
        size = sum(p.stat().st_size for p in folder.glob("*.safetensors")) / GIB
        rows: list[dict[str, Any]] = []
        for way in options.ways:
            limit = None if way == "all, in memory" else int(options.limit_gib * GIB)
            found = run(way, folder, options.tokens, limit)
            print(f"{way}: {found['wall s']:.1f} s", file=sys.stderr)
            rows.append({"way": way, **found, "limit GiB": options.limit_gib if limit else "none"})
            rows[-1]["wall / read"] = found["wall s"] / rows[0]["wall s"]
            rows[-1]["GiB/s"] = size / found["wall s"]
        columns = list(dict.fromkeys(key for row in rows for key in row))
        rows = [{key: row.get(key, "") for key in columns} for row in rows]
        title = f"stream: {size:.2f} GiB in {LAYERS} layers, {options.limit_gib} GiB of memory"
        report(title, rows, options.json)


if __name__ == "__main__":
    main()
