"""A quantizer and exports of one's own: the examples of the docstrings work as they stand."""

from __future__ import annotations

import inspect
import json
import textwrap
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import save_file
from torch import nn

from lwq_ui.cli import main
from lwq_ui.core.allocation import Split
from lwq_ui.core.errors import UserError
from lwq_ui.core.memory import PRUNED
from lwq_ui.core.run import Run
from lwq_ui.engine import jobs
from lwq_ui.engine.banks.bank import Bank
from lwq_ui.engine.banks.composing import compose
from lwq_ui.engine.banks.packing_cost import packing_cost
from lwq_ui.engine.exports import CONFIG_EXPORTS, MODEL_EXPORTS, model_export
from lwq_ui.engine.exports.base import ConfigExport, ModelExport
from lwq_ui.engine.models.loading import LoadedModel
from lwq_ui.engine.quantizers import QUANTIZERS, quantizer_named
from lwq_ui.engine.quantizers.base import PerMatrix, Quantizer
from lwq_ui.engine.quantizers.packed_linear import PackedLinear


def class_in_docstring(documented: type, name: str) -> Any:
    """Returns the class that a docstring has as its example."""
    text = inspect.cleandoc(documented.__doc__ or "")
    start = text.index(f"    class {name}(")
    lines = text[start:].splitlines()
    end = next((i for i, line in enumerate(lines) if line and not line.startswith("    ")), None)
    names: dict[str, Any] = {"PerMatrix": PerMatrix, "ConfigExport": ConfigExport}
    exec(textwrap.dedent("\n".join(lines[:end])), names)
    return names[name]


Rounded = class_in_docstring(Quantizer, "Rounded")
BitsPerLine = class_in_docstring(ConfigExport, "BitsPerLine")


@pytest.fixture
def loaded() -> LoadedModel:
    return tiny.load(tiny.DEMO)


def test_the_quantizer_in_the_docstring(
    loaded: LoadedModel, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(QUANTIZERS, "rounded", Rounded())
    quantizer = quantizer_named("rounded")
    n = loaded.info.num_layers
    split = (8,) * (n - 1) + (4,)
    cost = packing_cost(loaded.info, quantizer, [split], run.store)
    bank = jobs.bank_of(loaded, quantizer, run.store)
    bank.fill([split], run)
    packed = [bank.packed_bytes(i, level, run) for i, level in enumerate(split)]
    assert cost.bytes == sum(packed) and cost.seconds > 0
    tokens = [1, 2, 3, 4]
    whole = tiny.logits(loaded.model, tokens).float()
    logits = tiny.logits(compose(bank, split, run), tokens).float()
    eights = tiny.logits(compose(bank, (16,) * n, run), tokens).float()
    assert torch.equal(whole, eights) and torch.isfinite(logits).all()
    assert torch.nn.functional.cosine_similarity(whole[0], logits[0], -1).min() > 0.9


class Folder(ModelExport):
    name, title, reader = "dense", "De-quantized layers", "Anything reads it"
    quantizer = Rounded

    def can(self, loaded: LoadedModel, quantizer: Quantizer, split: Split) -> str:
        return "It holds no pruned layers." if PRUNED in split else ""

    def write(self, bank: Bank, split: Split, folder: Path, run: Run) -> None:
        for i, level in enumerate(split):
            save_file(bank.dense(i, level, run), folder / f"{i}.safetensors")


def test_exports_by_the_command_line(
    loaded: LoadedModel,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LWQ_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setitem(QUANTIZERS, "rounded", Rounded())
    monkeypatch.setitem(CONFIG_EXPORTS, "bits", BitsPerLine())
    config, out = tmp_path / "config.json", tmp_path / "out"
    chosen = ["--quantizer", "rounded", "--ordering", "first", "--low-layers", "3"]
    assert main(["split", "demo", *chosen, "--json", str(config)]) == 0
    capfd.readouterr()
    assert main(["export", str(config), "--to", "bits"]) == 0
    lines = capfd.readouterr().out.split()
    assert list(map(int, lines)) == json.loads(config.read_text())["bits_per_layer"]

    assert main(["quantize", str(config), "--out", str(out)]) == 1
    assert "No program reads a folder of Rounded." in capfd.readouterr().err
    monkeypatch.setitem(MODEL_EXPORTS, "dense", Folder())
    assert main(["quantize", str(config), "--out", str(out)]) == 0
    assert "Anything reads it." in capfd.readouterr().out
    assert len(list(out.glob("*.safetensors"))) == loaded.info.num_layers
    pruned = (PRUNED,) * loaded.info.num_layers
    with pytest.raises(UserError, match="no pruned layers"):
        model_export(Rounded()).check(loaded, Rounded(), pruned)


@pytest.mark.parametrize("name", ["half", "bias", "dense", "weight", "forward"])
def test_a_packed_tensor_may_be_named_like_anything_in_a_module(name: str) -> None:
    weight, bias = torch.randn(3, 5), nn.Parameter(torch.randn(3))
    module = PackedLinear(lambda: weight, {name: weight}, bias)
    x = torch.randn(2, 5)
    assert torch.equal(module(x), nn.functional.linear(x, weight, bias))
    assert sum(b.numel() for b in module.buffers()) == 15
