"""ZD of checkpoints of which nothing but the tensors is known."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from threading import Event

import pytest
import tiny
import torch
from safetensors.torch import save_file

from lwq_ui.cli import main
from lwq_ui.core.errors import Stopped, UserError
from lwq_ui.engine.checkpoints.headers import local_headers
from lwq_ui.engine.scorers import pass_scores
from lwq_ui.engine.scorers.zd_by_name import layers_by_name, zd_by_name


def zd(folder: Path) -> list[float]:
    headers = local_headers(folder, "x")
    return zd_by_name(headers, folder, "x", tiny.run())


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "gpt_neox", "opt", "phi3"])
def test_it_is_the_zd_of_the_model(name: str, folder_of: Callable[..., Path]) -> None:
    expected = pass_scores(tiny.load(folder_of(name)), ["zd"], [], tiny.run())["zd"][0]
    assert zd(folder_of(name)) == expected


def test_a_model_that_transformers_does_not_know(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tiny.save(tiny.build("llama"), tmp_path)
    expected = zd(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "of-next-year"}))
    assert main(["score", str(folder)]) == 1
    assert "does not know the model type" in (said := capsys.readouterr().err)
    assert "Its ZD can be had all the same: --scorer zd." in said
    assert main(["score", str(folder), "--scorer", "zd", "--json", "-"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["scores"] == {"zd": expected} and len(found["fingerprint"]) == 64
    assert sorted(found["orderings"]["zd"], key=expected.__getitem__) == found["orderings"]["zd"]


def save(tensors: dict[str, torch.Tensor], folder: Path) -> None:
    save_file(tensors, folder / "model.safetensors")


def test_the_largest_list_of_numbered_modules_holds_the_layers(tmp_path: Path) -> None:
    tensors = {f"h.{i}.experts.{k}.w": torch.randn(8, 8) for i in range(3) for k in range(4)}
    tensors |= {f"vision.{i}.w": torch.randn(4, 4) for i in range(9)}
    tensors |= {f"h.{i}.norm": torch.ones(8) for i in range(3)} | {"embed": torch.randn(99, 8)}
    save(tensors, tmp_path)
    layers = layers_by_name(local_headers(tmp_path, "x"), "x")
    assert layers == [[f"h.{i}.experts.{k}.w" for k in range(4)] for i in range(3)]


def test_mixed_formats(tmp_path: Path) -> None:
    a, b = torch.randn(40, 30), torch.randn(20, 30).bfloat16()
    save({"h.0.a": a, "h.0.b": b, "h.1.a": a.clone(), "h.1.b": b.clone()}, tmp_path)
    whole = torch.cat([a.double().flatten(), b.double().flatten()])
    share = ((whole - whole.mean()) / whole.std(correction=0) > 1).double().mean().item()
    assert zd(tmp_path) == [pytest.approx(share, abs=1e-12)] * 2


def test_what_cannot_be_scored(tmp_path: Path) -> None:
    save({"a.weight": torch.randn(4, 4)}, tmp_path)
    with pytest.raises(UserError, match="are not named by layers"):
        zd(tmp_path)
    save({f"h.{i}.norm": torch.ones(4) for i in range(3)}, tmp_path)
    with pytest.raises(UserError, match="are not named by layers"):
        zd(tmp_path)
    save({f"h.{i}.w": torch.ones(4, 4, dtype=torch.int8) for i in range(3)}, tmp_path)
    with pytest.raises(UserError, match="has weights in I8: it is quantized already"):
        zd(tmp_path)
    save({f"h.{i}.w": torch.full((4, 4), torch.nan) for i in range(3)}, tmp_path)
    with pytest.raises(UserError, match=r"not numbers .* in h.0.w"):
        zd(tmp_path)


def test_a_stop(folder_of: Callable[..., Path]) -> None:
    stop = Event()
    headers = local_headers(folder_of("llama"), "x")
    with pytest.raises(Stopped):
        zd_by_name(
            headers,
            folder_of("llama"),
            "x",
            tiny.run(progress=lambda what, done: stop.set(), stop=stop),
        )
