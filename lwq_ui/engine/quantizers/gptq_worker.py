"""Runs GPTQModel in a process of its own. Importing GPTQModel changes torch, transformers and
safetensors, and sends the Hub's cache to a temporary folder.

The process is started by path, so that it imports nothing of this program:

    python gptq_worker.py job.json

The job has these fields:

- `model` (a folder), `dtype`, `device`, `bits`, `group`, `sym`;
- `sequences`: the documents, as lists of tokens;
- `weights`: the modules of a layer that must be quantized;
- `start` and `last`: the first and the last layer to quantize;
- `state`: a file with what enters layer `start`; null at 0;
- `out`: the folder for results.

For each finished layer two files appear in `out`:

- `state-<i + 1>.safetensors`: what enters the next layer. It is left out where layers look at
  earlier ones, too: then no run could go on from there.
- `layer-<i>.safetensors`, after it: "<module>.<qweight, qzeros, scales or g_idx>".

`error.json` appears where the work fails. The process ends when its standard input does, so it
never outlives the program.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
from pathlib import Path
from typing import Any

PARTS = ("qweight", "qzeros", "scales", "g_idx")


def main(job: dict[str, Any]) -> None:
    out = Path(job["out"])
    threading.Thread(target=end_with_parent, daemon=True).start()
    doing = "start"
    try:
        import torch
        from gptqmodel import GPTQModel, QuantizeConfig
        from gptqmodel.looper import module_looper

        config = QuantizeConfig(
            bits=job["bits"],
            group_size=job["group"],
            sym=job["sym"],
            device=job["device"],
            offload_to_disk_path=str(out / "offload"),  # layers come from the disk one by one
            pack_impl="original",  # the others compile a kernel
        )
        doing = "load"
        model = GPTQModel.load(job["model"], config, dtype=getattr(torch, job["dtype"]))
        blocks = model.simple_layer_modules(model.model.config, config)
        if missing := sorted(set(job["weights"]) - {name for block in blocks for name in block}):
            raise LookupError(missing[0])
        doing = "quantize"
        steps = Steps(job, model)

        class Looper(module_looper.ModuleLooper):
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                super().__init__(*args, **{**kwargs, "extensions": (steps,)})

        module_looper.ModuleLooper = Looper
        texts = [{"input_ids": s, "attention_mask": [1] * len(s)} for s in job["sequences"]]
        model.quantize(texts, batch_size=1)  # no batches, so no padding
    except BaseException as e:
        text = next(iter(str(e).strip().splitlines()), "")
        message = {"doing": doing, "kind": type(e).__name__, "text": text[:200]}
        replace(out / "error.json", json.dumps(message).encode())
        raise


class Steps:
    """GPTQModel's own hook between the layers, which its checkpoints use. It hands layers out, and
    goes on from where an earlier run was."""

    def __init__(self, job: dict[str, Any], model: Any):
        self.job = job
        self.model = model
        self.out = Path(job["out"])

    def on_start(self, context: Any) -> int:
        """Returns the layer to begin with. What enters it replaces what enters the first layer."""
        self.cache = context.processors[0].inputs_cache
        self.shared = context.shared_state
        if self.job["state"]:
            from safetensors.torch import load_file

            state = load_file(self.job["state"])
            self.cache.layer_inputs = [
                [state[f"{i}.{k}"].to(tensor.device) for k, tensor in enumerate(inputs)]
                for i, inputs in enumerate(self.cache.layer_inputs)
            ]
        return self.job["start"]

    def on_boundary(self, boundary: Any) -> None:
        """Writes the layer that is packed, and what enters the next one."""
        from safetensors.torch import load_file, save

        boundary.quiesce()  # the layer is packed
        layer, prefix = boundary.step.index, boundary.step.name
        packed: dict[str, Any] = {}
        for name, module in self.model.model.get_submodule(prefix).named_modules():
            if hasattr(module, "qweight"):
                stored = {part: getattr(module, part) for part in PARTS}
                if stored["qweight"].is_meta:
                    offloaded = self.out / "offload" / f"{prefix}.{name}"
                    stored = load_file(offloaded / "module.safetensors")
                    shutil.rmtree(offloaded)
                packed |= {f"{name}.{part}": stored[part].contiguous() for part in PARTS}
        entering = {
            f"{i}.{k}": tensor.contiguous().cpu()
            for i, inputs in enumerate(self.cache.layer_inputs)
            for k, tensor in enumerate(inputs)
        }
        if entering and not self.shared:
            replace(self.out / f"state-{layer + 1:03}.safetensors", save(entering))
        replace(self.out / f"layer-{layer:03}.safetensors", save(packed))
        if layer == self.job["last"]:
            os._exit(0)


def replace(path: Path, content: bytes) -> None:
    part = path.with_suffix(".part")
    part.write_bytes(content)
    part.replace(path)


def end_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    try:
        main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    except BaseException:
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)  # threads of GPTQModel may keep the process alive
