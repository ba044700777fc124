"""GPTQ (Frantar et al. 2023), by GPTQModel: paper section 3.3.1's second quantizer."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar

from ...core.errors import UserError
from ...core.memory import format_gib
from ...core.run import Run
from ...core.schema import ModelInfo, WeightSpec
from ...core.store import keep, versions
from .base import Machine, Option
from .calibrated import TEXT_OPTIONS, Calibrated, PackedLayers

if TYPE_CHECKING:
    from torch import Tensor

    from ..models.layers import LayerWeight
    from ..models.loading import LoadedModel
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


class GPTQ(Calibrated):
    """Quantizes with groups along the input axis. The last group is smaller where the size does not
    divide. A layer's inputs are what the layers before it make of the text, quantized at the same
    level."""

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
    symmetric = (8, 4)  # levels whose groups have no zero-points of their own

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
        """Returns the bytes of words of 32 bits, scales of 16 bits, and the group of each input."""
        rows, columns, bits = weight.rows, weight.columns, int(level)
        groups = -(-columns // self.group_size)
        words = -(-columns * bits // 32) * rows + groups * -(-rows * bits // 32)
        return 4 * words + 2 * groups * rows + 4 * columns

    def seconds(
        self, info: ModelInfo, wanted: Sequence[tuple[int, float]], machine: Machine
    ) -> float:
        """Returns the seconds for each level, from the first layer to the last one wanted. Every
        token passes a layer about three times. The inputs of each matrix are multiplied with
        themselves."""
        length = min(self.chosen["tokens"], info.max_tokens or self.chosen["tokens"])
        tokens = self.documents * length
        total = 0.0
        for level in {level for _, level in wanted}:
            last = max(layer for layer, at in wanted if at == level)
            total += START_SECONDS
            for layer in info.layers[: last + 1]:
                total += DOCUMENT_SECONDS * self.documents
                for w in layer.weights:
                    multiplied = 3 * tokens * w.numel + tokens * w.columns**2 / 2
                    solved = w.columns**3 + w.rows * w.columns**2
                    total += (multiplied + solved) / machine.operations
                    total += COLUMN_SECONDS * w.columns
        return total

    def calibrate(
        self,
        loaded: LoadedModel,
        wanted: Sequence[tuple[int, float]],
        run: Run,
        folder: Path | None,
    ) -> PackedLayers:
        """Quantizes level after level. After a stop it goes on with the layer that it was at, from
        a state file in `folder`. Raises UserError where GPTQModel fails, Stopped."""
        sequences = [s for s in self.sequences(loaded, run.store) if len(s) >= SHORTEST]
        if not sequences:
            raise UserError(
                f"GPTQ needs documents of at least {SHORTEST} tokens. Choose more tokens of each."
            )
        self._check(loaded, wanted, sequences)
        levels = []
        for level in sorted({level for _, level in wanted}, reverse=True):
            layers = [layer for layer, at in wanted if at == level]
            start = reached(folder, level)
            levels.append((level, start if start <= min(layers) else 0, max(layers)))
        done, total = 0, sum(last + 1 - start for _, start, last in levels)
        for level, start, last in levels:
            count = last + 1 - start
            part = run.part(done / total, (done + count) / total)
            yield from self._layers(loaded, level, range(start, last + 1), sequences, part, folder)
            done += count

    def _check(
        self,
        loaded: LoadedModel,
        wanted: Sequence[tuple[int, float]],
        sequences: Sequence[Sequence[int]],
    ) -> None:
        """Raises UserError for what can be known before hours of work: weights that GPTQModel does
        not quantize, and too little memory."""
        from ..devices import machine_memory

        info = loaded.info
        for layer, level in wanted:
            for w in weights_of(loaded, layer):
                if w.parameter.ndim != 2:
                    raise not_quantized(w.name, info)
                if level == 3 and (w.spec.rows % 32 or w.spec.columns % 32):
                    raise UserError(
                        "GPTQModel packs 3 bits of matrices by 32 rows and columns only, and "
                        f"{w.name} has {w.spec.rows} by {w.spec.columns}. Choose other bits than 3."
                    )
        largest = max(sum(w.numel for w in layer.weights) for layer in info.layers)
        hidden = sum(map(len, sequences)) * loaded.walk.width
        needed = PROCESS_BYTES + info.rest_bytes + (2 * hidden + 4 * largest) * info.dtype_bytes
        free = machine_memory()[0]
        if needed > free:
            raise UserError(
                f"GPTQ needs about {format_gib(needed)} of memory beside this program, and "
                f"{format_gib(free)} are free. Choose fewer documents or fewer tokens of each."
            )

    def _layers(
        self,
        loaded: LoadedModel,
        level: float,
        layers: range,
        sequences: Sequence[Sequence[int]],
        run: Run,
        folder: Path | None,
    ) -> PackedLayers:
        """Yields these layers at a level, each quantized from what the ones before it make of the
        text. What enters the next one is kept in `folder` after each."""
        from ..models.gguf_copy import transformers_folder

        state = state_path(folder, level)
        with (
            transformers_folder(loaded, run) as model,
            TemporaryDirectory(prefix="lwq-gptq-", ignore_cleanup_errors=True) as out_folder,
        ):
            out = Path(out_folder)
            job = {
                "model": str(model.resolve()),
                "dtype": loaded.info.dtype,
                "device": loaded.device,
                "bits": int(level),
                "group": self.group_size,
                "sym": level in self.symmetric,
                "sequences": sequences,
                "weights": [module_name(w) for w in weights_of(loaded, layers.start)],
                "start": layers.start,
                "last": layers[-1],
                "state": str(state.resolve()) if state and layers.start else None,
                "out": out_folder,
            }
            (out / "job.json").write_text(json.dumps(job), encoding="utf-8")
            with working(out) as process:
                for layer in layers:
                    what = f"GPTQ at {level:g} bits: layer {layer + 1} of {loaded.info.num_layers}"
                    run.progress(what, (layer - layers.start) / len(layers))
                    packed = out / f"layer-{layer:03}.safetensors"
                    wait_for(packed, process, layer, loaded.info, run)
                    yield layer, level, self._read(packed, loaded, layer, level)
                    entering = out / f"state-{layer + 1:03}.safetensors"
                    keep_state(state, entering, layer + 1)
                    packed.unlink()
                    entering.unlink(missing_ok=True)
        if state and layers[-1] == loaded.info.num_layers - 1:
            state.unlink(missing_ok=True)

    def _read(
        self, path: Path, loaded: LoadedModel, layer: int, level: float
    ) -> dict[str, GPTQWeight]:
        """Returns the layer that GPTQModel has packed into a file, on the layer's device. Raises
        UserError where a weight is missing in it."""
        import torch
        from safetensors.torch import load_file

        stored = load_file(path)
        packed = {}
        for w in weights_of(loaded, layer):
            if f"{module_name(w)}.qweight" not in stored:
                raise not_quantized(w.name, loaded.info)
            place = w.parameter.device
            device = torch.device(loaded.device) if place.type == "meta" else place
            parts = {part: stored[f"{module_name(w)}.{part}"].to(device) for part in PARTS}
            parts["like"] = torch.empty(0, dtype=w.parameter.dtype, device=device)
            packed[w.name] = self.restore(parts, w.spec, level)
        return packed

    def tensors(self, packed: GPTQWeight) -> dict[str, Tensor]:
        """Returns the tensors of a GPTQ checkpoint, and an empty one of the weight's first
        dtype."""
        return {part: getattr(packed, part) for part in (*PARTS, "like")}

    def restore(self, tensors: dict[str, Tensor], spec: WeightSpec, level: float) -> GPTQWeight:
        from .gptq_format import GPTQWeight

        return GPTQWeight(**tensors, bits=int(level), group=self.group_size)

    def dense(self, packed: GPTQWeight) -> Tensor:
        return packed.dense()


def is_installed() -> bool:
    """Returns whether GPTQModel is there. It is not imported, since that changes other
    libraries."""
    return importlib.util.find_spec("gptqmodel") is not None


def weights_of(loaded: LoadedModel, layer: int) -> list[LayerWeight]:
    """Returns the weights of a layer that are quantized."""
    from ..models.layers import layer_weights

    return layer_weights(loaded.walk.layers[layer])


def module_name(weight: LayerWeight) -> str:
    """Returns the name of its module within the layer: 'self_attn.q_proj'."""
    return weight.name.rpartition(".")[0]


def state_path(folder: Path | None, level: float) -> Path | None:
    """Returns the file that keeps what enters the next layer to quantize at this level. The next
    run goes on from it. It is deleted when all layers are quantized."""
    return folder / f"next-{level:g}bit.safetensors" if folder else None


def reached(folder: Path | None, level: float) -> int:
    """Returns the layer from which GPTQ can go on, 0 where it cannot."""
    from ..sealed import check_seal

    path = state_path(folder, level)
    if path is None or not os.path.exists(path):
        return 0
    try:
        return int(check_seal(path)["layer"])
    except Exception as e:  # whatever the damage is
        log.warning("Damaged file %s (%s): GPTQ begins with the first layer again.", path, e)
        return 0


def keep_state(state: Path | None, entering: Path, layer: int) -> None:
    """Keeps what enters a layer, if the worker has written it. It writes nothing for a model whose
    layers look at earlier ones, too."""
    from safetensors.torch import load_file

    from ..sealed import sealed

    if state and entering.exists():
        keep(state, sealed(state, load_file(entering), {"layer": str(layer)}))


def wait_for(
    packed: Path, process: subprocess.Popen[bytes], layer: int, info: ModelInfo, run: Run
) -> None:
    """Waits until the process has written a layer's file. Raises UserError where the process ends
    before that, and Stopped."""
    while not packed.exists():
        run.check()
        if process.poll() is not None and not packed.exists():
            raise failure(packed.parent, process.returncode, layer, info)
        time.sleep(0.05)


@contextmanager
def working(out: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Starts the worker on `out`/job.json. The worker ends with this context. It also ends with
    this process, since its standard input is a pipe that closes then."""
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
    """Returns the error that explains why the worker ended with `code`, from its error.json."""
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
