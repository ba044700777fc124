"""GPTQ (Frantar et al. 2023), by GPTQModel: paper section 3.3.1's second quantizer."""

from __future__ import annotations

import copy
import importlib.util
import json
import logging
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar

from ...core.errors import UserError
from ...core.memory import PRUNED, UNTOUCHED, format_gib
from ...core.run import Run
from ...core.schema import ModelInfo, WeightSpec
from ...core.store import keep, versions
from .base import Machine, Option
from .calibrated import TEXT_OPTIONS, Calibrated

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from ...core.allocation import Split
    from ..banks.bank import Bank
    from ..models.layers import LayerWeight
    from .gptq_format import GPTQWeight

log = logging.getLogger(__name__)

PARTS = ("qweight", "qzeros", "scales", "g_idx")
WORKER = Path(__file__).with_name("gptq_worker.py")
VERSION = "7.6.0"
SHORTEST = 11  # tokens of a document; GPTQModel leaves shorter ones out
START_SECONDS = 8.0  # until GPTQModel has been imported and has the model
DOCUMENT_SECONDS = 0.028  # of a document in a layer: they pass one by one, several times
COLUMN_SECONDS = 2e-4  # of its loop over the columns of a matrix, beside the arithmetic
PROCESS_BYTES = 700 * 2**20  # of Python with GPTQModel in it
SHARD = 4 * 2**30  # bytes of one file, at about which the next is begun


class GPTQ(Calibrated):
    """Groups along the input axis, the last one smaller where the size does not divide. Inputs of
    a layer are what the layers before it make of the text when quantized at the same level."""

    family = "gptq"
    heading = "GPTQ"
    meaning = (
        "Looks at a text, too: it rounds a matrix column by column, and the columns still to come "
        "make up for the error so far."
    )
    levels = (8, 4, 3, 2)
    pairs = ((4, 2), (4, 3), (3, 2), (8, 4), (8, 2))
    options: ClassVar[Mapping[str, Option]] = {
        "group": Option("Group size", "groups of {}", 128, choices=(128, 64, 32)),
        **TEXT_OPTIONS,
    }
    symmetric = (8, 4)  # levels without zero-points of their own
    writes = (
        "GPTQModel loads it by itself. Of other programs, those that know its 'dynamic' rules read "
        "mixed levels: vLLM and SGLang do, with 8 and 4 bits; transformers does not."
    )

    @property
    def group_size(self) -> int:
        return self.chosen["group"]

    @property
    def details(self) -> Mapping[str, Any]:
        version = versions("gptqmodel")["gptqmodel"] if is_installed() else None
        return {**super().details, "symmetric": list(self.symmetric), "gptqmodel": version}

    def missing(self) -> str:
        if is_installed():
            return ""
        return (
            "GPTQ needs the package gptqmodel, which is not installed: pip install "
            f"gptqmodel=={VERSION}."
        )

    def packed_bytes(self, weight: WeightSpec, level: float, dtype_bytes: int) -> int:
        """Words of 32 bits, scales of 16, and the group of each input."""
        rows, columns, bits = weight.rows, weight.columns, int(level)
        groups = -(-columns // self.group_size)
        words = -(-columns * bits // 32) * rows + groups * -(-rows * bits // 32)
        return 4 * words + 2 * groups * rows + 4 * columns

    def seconds(
        self, info: ModelInfo, wanted: Sequence[tuple[int, float]], machine: Machine
    ) -> float:
        """A level is quantized from the first layer to the last one wanted; every token passes a
        layer about three times, and the inputs of each matrix are multiplied with themselves."""
        length = min(self.chosen["tokens"], info.max_tokens or self.chosen["tokens"])
        tokens = self.chosen["documents"] * length
        total = 0.0
        for level in {level for _, level in wanted}:
            last = max(layer for layer, at in wanted if at == level)
            total += START_SECONDS
            for layer in info.layers[: last + 1]:
                total += DOCUMENT_SECONDS * self.chosen["documents"]
                for w in layer.weights:
                    multiplied = 3 * tokens * w.numel + tokens * w.columns**2 / 2
                    solved = w.columns**3 + w.rows * w.columns**2
                    total += (multiplied + solved) / machine.operations
                    total += COLUMN_SECONDS * w.columns
        return total

    def calibrate(self, bank: Bank, wanted: Sequence[tuple[int, float]], run: Run) -> None:
        sequences = [s for s in self.sequences(bank.loaded) if len(s) >= SHORTEST]
        if not sequences:
            raise UserError(
                f"GPTQ needs documents of at least {SHORTEST} tokens. Choose more tokens of each."
            )
        self._check(bank, wanted, sequences)
        runs = []
        for level in sorted({level for _, level in wanted}, reverse=True):
            layers = [layer for layer, at in wanted if at == level]
            start = reached(bank, level)
            runs.append((level, start if start <= min(layers) else 0, max(layers)))
        done, of = 0, bank.loaded.info.num_layers
        total = sum(last + 1 - start for _, start, last in runs)
        for level, start, last in runs:
            for layer in self._run(bank, level, start, last, sequences, run):
                run.progress(f"GPTQ at {level:g} bits: layer {layer + 1} of {of}", done / total)
                done += 1

    def _check(
        self, bank: Bank, wanted: Sequence[tuple[int, float]], sequences: Sequence[Sequence[int]]
    ) -> None:
        """What can be known before hours of work. Raises UserError."""
        from ..devices import machine_memory

        info = bank.loaded.info
        for layer, level in wanted:
            for w in weights_of(bank, layer):
                if w.parameter.ndim != 2:
                    raise not_quantized(w.name, info)
                if level == 3 and (w.spec.rows % 32 or w.spec.columns % 32):
                    raise UserError(
                        "GPTQModel packs 3 bits of matrices by 32 rows and columns only, and "
                        f"{w.name} has {w.spec.rows} by {w.spec.columns}. Choose other bits than 3."
                    )
        largest = max(sum(w.numel for w in layer.weights) for layer in info.layers)
        hidden = sum(map(len, sequences)) * bank.loaded.walk.width
        needed = PROCESS_BYTES + info.rest_bytes + (2 * hidden + 4 * largest) * info.dtype_bytes
        free = machine_memory()[0]
        if needed > free:
            raise UserError(
                f"GPTQ needs about {format_gib(needed)} of memory beside this program, and "
                f"{format_gib(free)} are free. Choose fewer documents or fewer tokens of each."
            )

    def _run(
        self,
        bank: Bank,
        level: float,
        start: int,
        last: int,
        sequences: Sequence[Sequence[int]],
        run: Run,
    ) -> Iterator[int]:
        """Quantizes layers start to last, each from what the ones before it make of the text, and
        puts them into the bank -> each layer that is begun."""
        from safetensors.torch import load_file

        from ..sealed import sealed

        loaded, state = bank.loaded, state_path(bank, level)
        with TemporaryDirectory(prefix="lwq-gptq-", ignore_cleanup_errors=True) as folder:
            out = Path(folder)
            job = {
                "model": str(loaded.folder.resolve()),
                "dtype": loaded.info.dtype,
                "device": loaded.device,
                "bits": int(level),
                "group": self.group_size,
                "sym": level in self.symmetric,
                "sequences": sequences,
                "weights": [module_name(w) for w in weights_of(bank, start)],
                "start": start,
                "last": last,
                "state": str(state.resolve()) if state and start else None,
                "out": folder,
            }
            (out / "job.json").write_text(json.dumps(job), encoding="utf-8")
            with working(out) as process:
                for layer in range(start, last + 1):
                    yield layer
                    packed = out / f"layer-{layer:03}.safetensors"
                    entering = out / f"state-{layer + 1:03}.safetensors"
                    while not packed.exists():
                        run.check()
                        if process.poll() is not None and not packed.exists():
                            raise failure(out, process.returncode, layer, loaded.info)
                        time.sleep(0.05)
                    self._keep(bank, layer, level, packed)
                    if state and entering.exists():
                        reached_layer = {"layer": str(layer + 1)}
                        keep(state, sealed(state, load_file(entering), reached_layer))
                    for path in (packed, entering):
                        path.unlink(missing_ok=True)
        if state and last == loaded.info.num_layers - 1:
            state.unlink(missing_ok=True)

    def _keep(self, bank: Bank, layer: int, level: float, path: Path) -> None:
        import torch
        from safetensors.torch import load_file

        stored = load_file(path)
        packed = {}
        for w in weights_of(bank, layer):
            if f"{module_name(w)}.qweight" not in stored:
                raise not_quantized(w.name, bank.loaded.info)
            where = w.parameter.device
            device = torch.device(bank.loaded.device) if where.type == "meta" else where
            parts = {part: stored[f"{module_name(w)}.{part}"].to(device) for part in PARTS}
            parts["like"] = torch.empty(0, dtype=w.parameter.dtype, device=device)
            packed[w.name] = self.restore(parts, w.spec, level)
        bank.make_room(layer, level)
        bank.keep(layer, level, packed)

    def tensors(self, packed: GPTQWeight) -> dict[str, Tensor]:
        """As a GPTQ checkpoint has them, and one without numbers for the weight's first dtype."""
        return {part: getattr(packed, part) for part in (*PARTS, "like")}

    def restore(self, tensors: dict[str, Tensor], spec: WeightSpec, level: float) -> GPTQWeight:
        from .gptq_format import GPTQWeight

        return GPTQWeight(**tensors, bits=int(level), group=self.group_size)

    def dense(self, packed: GPTQWeight) -> Tensor:
        return packed.dense()

    def check_write(self, bank: Bank, split: Split) -> None:
        if PRUNED in split:
            raise UserError(
                "A GPTQ checkpoint cannot hold a model with pruned layers. Export the config as "
                "JSON instead."
            )
        if set(split) == {UNTOUCHED}:
            raise UserError("Every layer of this split has 16 bits: there is nothing to quantize.")

    def write(self, bank: Bank, split: Split, folder: Path, run: Run) -> None:
        """As GPTQModel saves a model: its rules for single layers are in 'dynamic', of both
        quantize_config.json and config.json."""
        self.check_write(bank, split)
        levels = Counter(level for level in split if level != UNTOUCHED)
        usual = levels.most_common(1)[0][0]
        prefix = layers_name(bank.loaded.model)
        dynamic: dict[str, Any] = {}
        for level in sorted(set(split) - {usual}, reverse=True):
            layers = "|".join(str(i) for i, at in enumerate(split) if at == level)
            which = rf"{re.escape(prefix)}\.({layers})\..*"
            if level == UNTOUCHED:
                dynamic[f"-:{which}"] = {}
            else:
                dynamic[f"+:{which}"] = {"bits": int(level), "sym": level in self.symmetric}
        quantization = {
            "bits": int(usual),
            "sym": usual in self.symmetric,
            "group_size": self.group_size,
            "desc_act": False,
            "lm_head": False,
            "quant_method": "gptq",
            "method": "gptq",
            "format": "gptq",
            "checkpoint_format": "gptq",
            "pack_dtype": "int32",
            "dynamic": dynamic or None,
            "meta": {"quantizer": [f"gptqmodel:{self.details['gptqmodel'] or VERSION}"]},
        }
        folder.mkdir(parents=True, exist_ok=True)
        config = copy.deepcopy(bank.loaded.model.config)
        config.quantization_config = quantization
        config.save_pretrained(folder)
        text = json.dumps(quantization, indent=2)
        (folder / "quantize_config.json").write_text(text, encoding="utf-8")
        if generation := bank.loaded.model.generation_config:
            generation.save_pretrained(folder)
        bank.loaded.tokenizer.save_pretrained(folder)
        write_shards(self._checkpoint(bank, split, prefix, run), folder)

    def _checkpoint(
        self, bank: Bank, split: Split, prefix: str, run: Run
    ) -> Iterator[tuple[str, Tensor]]:
        """Every tensor of the checkpoint under its name, one layer at hand at a time."""
        inside = f"{prefix}."
        seen: set[int] = set()
        for name, tensor in bank.loaded.model.state_dict(keep_vars=True).items():
            if not name.startswith(inside) and id(tensor) not in seen:  # tied ones once
                seen.add(id(tensor))
                yield name, tensor.detach()
        for i, level in enumerate(split):
            weights = {w.name for w in weights_of(bank, i)} if level != UNTOUCHED else set()
            with bank.loaded.walk.source.at_hand(i) as layer:
                for name, tensor in layer.state_dict().items():
                    if name not in weights:
                        yield f"{inside}{i}.{name}", tensor.detach()
            for w in weights_of(bank, i) if weights else ():
                packed = bank.packed(i, level, run)[w.name]
                for part in PARTS:
                    yield f"{inside}{i}.{module_name(w)}.{part}", getattr(packed, part)


def is_installed() -> bool:
    """Not imported: that changes other libraries."""
    return importlib.util.find_spec("gptqmodel") is not None


def weights_of(bank: Bank, layer: int) -> list[LayerWeight]:
    from ..models.layers import layer_weights

    return layer_weights(bank.loaded.walk.layers[layer])


def module_name(weight: LayerWeight) -> str:
    """In its layer: 'self_attn.q_proj'."""
    return weight.name.rpartition(".")[0]


def layers_name(model: PreTrainedModel) -> str:
    """'model.layers': what the list of layers is called in a model."""
    from ..models.layers import find_layers

    layers = find_layers(model)
    return next(name for name, module in model.named_modules() if module is layers)


def state_path(bank: Bank, level: float) -> Path | None:
    """Where a bank on the disk keeps what enters the layer after the last one quantized at this
    level, until all are: from there the next run goes on."""
    return bank.folder / f"next-{level:g}bit.safetensors" if bank.folder else None


def reached(bank: Bank, level: float) -> int:
    """The layer from which it can go on, 0 where it cannot."""
    from ..sealed import check_seal

    path = state_path(bank, level)
    if path is None or not os.path.exists(path):
        return 0
    try:
        return int(check_seal(path)["layer"])
    except Exception as e:
        log.warning("Damaged file %s (%s): GPTQ begins with the first layer again.", path, e)
        return 0


@contextmanager
def working(out: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The worker at work on `out`/job.json. It ends with this context, and with this process: its
    standard input is a pipe that closes then."""
    from huggingface_hub import constants

    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": constants.HF_HOME,  # unset, GPTQModel takes another one
        "HF_HUB_CACHE": constants.HF_HUB_CACHE,
        "GPTQMODEL_CPU_WORKERS": str(max(2, (os.cpu_count() or 1) // 2)),  # with 1 it fails
    }
    with open(out / "log.txt", "wb") as output:
        process = subprocess.Popen(
            [sys.executable, str(WORKER), str(out / "job.json")],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            cwd=out,
            env=environment,
        )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def failure(out: Path, code: int, layer: int, info: ModelInfo) -> UserError:
    output = (out / "log.txt").read_text(encoding="utf-8", errors="replace")
    log.info("GPTQModel ended with code %s. The end of its output:\n%s", code, output[-8000:])
    try:
        error = json.loads((out / "error.json").read_text(encoding="utf-8"))
    except OSError:
        error = {"doing": "", "kind": "", "text": ""}
    text = (
        f" ({error['text'].rstrip('.')})" if error["text"].isprintable() and error["text"] else ""
    )
    fewer = "Choose fewer documents or fewer tokens of each, or a device with more memory."
    if code == -9 or "OutOfMemory" in error["kind"] or error["kind"] == "MemoryError":
        return UserError(f"The memory was not enough for GPTQ at layer {layer}. {fewer}")
    if error["kind"] == "LookupError" and error["doing"] == "load":
        return not_quantized(error["text"], info)
    if error["doing"] == "start":
        return UserError(
            f"The package gptqmodel cannot be used here{text}. Install it anew: pip install "
            f"gptqmodel=={VERSION}."
        )
    if error["doing"] == "load":
        return UserError(
            f"GPTQModel cannot load {info.architecture}{text}. Choose Quanto as the quantizer."
        )
    return UserError(
        f"GPTQModel failed at layer {layer} of {info.architecture}{text}. What was quantized by "
        "then is kept. Try again, or choose Quanto as the quantizer."
    )


def not_quantized(weight: str, info: ModelInfo) -> UserError:
    return UserError(
        f"GPTQModel does not quantize {weight} of {info.architecture}. Choose Quanto as the "
        "quantizer: it packs any weight."
    )


def write_shards(tensors: Iterator[tuple[str, Tensor]], folder: Path) -> None:
    """model.safetensors, or several files with an index where that would be too large."""
    from safetensors.torch import save_file

    files: list[list[str]] = []
    shard: dict[str, Tensor] = {}
    total = size = 0

    def flush() -> None:
        nonlocal size
        files.append(list(shard))
        save_file(shard, folder / f"part-{len(files)}", metadata={"format": "pt"})
        shard.clear()
        size = 0

    for name, tensor in tensors:
        shard[name] = tensor.contiguous()
        taken = tensor.numel() * tensor.element_size()
        total, size = total + taken, size + taken
        if size >= SHARD:
            flush()
    if shard:
        flush()
    if len(files) == 1:
        (folder / "part-1").rename(folder / "model.safetensors")
        return
    placed: dict[str, str] = {}
    for number, names in enumerate(files, 1):
        file = f"model-{number:05}-of-{len(files):05}.safetensors"
        (folder / f"part-{number}").rename(folder / file)
        placed |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": total}, "weight_map": placed}
    text = json.dumps(index, indent=2)
    (folder / "model.safetensors.index.json").write_text(text, encoding="utf-8")
