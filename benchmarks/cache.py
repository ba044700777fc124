"""What keeping the disk cache in bounds costs, in CPU seconds:

    python -m benchmarks.cache [--json FILE]

packing   room for a model of 160 layers beside 20 others that are packed: the folders are listed
          once and their sum is kept; or listed again for every layer
reading   what is known of 12,000 requests under 25 splits, from a journal of 400 files: merged by
          its first reader; or file by file, as that first reader has it
checking  the checksum of 512 MiB of packed layers, compared when a process first reads them; or
          the same bytes read and summed in float32
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from benchmarks.report import arguments, report
from lwq_ui.core.diskspace import DiskSpace
from lwq_ui.engine.sealed import check_seal, sealed
from lwq_ui.engine.sweeps.journal import Journal, Scored

LAYERS, BANKS, FILES, REQUESTS = 160, 20, 400, 30
PACKED = 2**29  # bytes of the file whose checksum is compared
SPLITS = [(4,) * i + (2,) * (24 - i) for i in range(25)]


def cpu_seconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def pack(bank: Path, space_of: Callable[[], DiskSpace]) -> None:
    """As a bank does it for each layer, without the packing."""
    for layer in range(LAYERS):
        space_of().make_room(100, bank)
        write_layer(bank, layer)
        space_of().evict(bank, 100)


def write_layer(bank: Path, layer: int) -> None:
    bank.mkdir(parents=True, exist_ok=True)
    (bank / f"layer-{layer:03}-4bit.safetensors").write_bytes(bytes(100))


def journal_of(folder: Path) -> tuple[Journal, list[bytes]]:
    journal, draw = Journal(folder), np.random.default_rng(0)
    digests = [draw.bytes(16) for _ in range(FILES * REQUESTS)]
    shape = REQUESTS, len(SPLITS)
    for start in range(0, len(digests), REQUESTS):
        figures = Scored(draw.random(shape), draw.random(shape) > 0.5, *draw.random((2, *shape)))
        journal.write(digests[start : start + REQUESTS], SPLITS, figures, True)
    return journal, digests


def main() -> None:
    options = arguments(__doc__).parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for bank in range(BANKS):
            for layer in range(LAYERS):
                write_layer(root / "banks" / f"model-{bank}" / "bank", layer)
        space = DiskSpace(root / "banks")
        once = cpu_seconds(lambda: pack(space.root / "one" / "bank", lambda: space))
        anew = cpu_seconds(lambda: pack(space.root / "two" / "bank", lambda: DiskSpace(space.root)))
        journal, digests = journal_of(root / "journals" / "model" / "key")
        first = cpu_seconds(lambda: journal.read(digests, SPLITS, True))
        later = cpu_seconds(lambda: journal.read(digests, SPLITS, True))
        packed = root / "bank" / "layer-000-4bit.safetensors"
        packed.parent.mkdir()
        packed.write_bytes(sealed(packed, {"weight": torch.ones(PACKED // 4)}))
        checked = cpu_seconds(lambda: check_seal(packed))
        summed = cpu_seconds(lambda: load_file(packed)["weight"].sum())
    report(
        "cache: CPU seconds",
        [
            {"what": "packing", "ours": once, "alternative": anew},
            {"what": "reading", "ours": later, "alternative": first},
            {"what": "checking", "ours": checked, "alternative": summed},
        ],
        options.json,
    )


if __name__ == "__main__":
    main()
