"""What quantized models write, and the folders that they are written into."""

from __future__ import annotations

import errno
import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import tiny
import torch
from jobs_on_tiny import SPLITS, StopAt, config_of, elsewhere
from safetensors import SafetensorError

from lwq_ui.core.choice import Choice
from lwq_ui.core.config import parse_config
from lwq_ui.core.errors import Stopped, UserError
from lwq_ui.core.run import Run
from lwq_ui.core.settings import ROOT
from lwq_ui.core.writing import Prompt
from lwq_ui.engine import jobs, records
from lwq_ui.engine.banks.bank import Bank
from lwq_ui.engine.banks.composing import compose
from lwq_ui.engine.exports.quanto_checkpoint import QuantoCheckpoint
from lwq_ui.engine.generation import fit_prompt, write_on
from lwq_ui.engine.models.loading import LoadedModel
from lwq_ui.engine.quantizers import quantizer_named

PROMPT = "The old house stood at the end of the lane, and"
UNTOUCHED = (16,) * 4


def write(loaded: LoadedModel, run: Run, split: Any, seed: int = 1, most: int = 12) -> list[str]:
    prompt = Prompt(PROMPT, seed, most)
    return [w.text for w in jobs.generate(loaded, split, tiny.QUANTO, prompt, run)]


def test_a_text_grows_and_is_answered_from_the_store(loaded: LoadedModel, run: Run) -> None:
    first = write(loaded, run, (2, 2, 2, 2))
    assert len(first) == 13 and first[-1] == first[-2]  # one for each token, and the whole
    for earlier, later in itertools.pairwise(first):
        assert len(later) >= len(earlier)
    assert write(loaded, run, (2, 2, 2, 2)) == write(loaded, run, (2.0,) * 4) == first[-1:]


def test_a_stored_text_is_what_is_written_anew(loaded: LoadedModel, run: Run) -> None:
    for split in (UNTOUCHED, SPLITS[0]):
        *_, stored = write(loaded, run, split)
        *_, anew = write(loaded, elsewhere(run, f"other-{split[0]}"), split)
        assert stored == anew and write(loaded, run, split) == [stored]


def test_whatever_a_text_depends_on_is_in_its_key(
    loaded: LoadedModel, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    info, asked, groups = loaded.info, Prompt(PROMPT, 1, 12), quantizer_named("quanto:group=32")
    prompts = [asked, *(replace(asked, **{k: v}) for k, v in OTHER.items())]
    keys = [records.text_key(info, SPLITS[0], tiny.QUANTO, prompt) for prompt in prompts]
    keys.append(records.text_key(info, SPLITS[1], tiny.QUANTO, asked))
    keys.append(records.text_key(info, SPLITS[0], groups, asked))
    keys.append(records.text_key(replace(info, dtype="float16"), SPLITS[0], tiny.QUANTO, asked))
    keys.append(records.text_key(replace(info, fingerprint="0"), SPLITS[0], tiny.QUANTO, asked))
    monkeypatch.setattr(records, "versions", lambda *names: dict.fromkeys(names, "0"))
    keys.append(records.text_key(info, SPLITS[0], tiny.QUANTO, asked))
    assert len({key.digest for key in keys}) == len(keys)
    untouched = {records.text_key(info, UNTOUCHED, q, asked).digest for q in (groups, tiny.QUANTO)}
    assert len(untouched) == 1


OTHER: dict[str, Any] = {"text": "The", "seed": 2, "tokens": 13, "chat": True}


def test_another_seed_writes_another_text(loaded: LoadedModel, run: Run) -> None:
    texts = {
        write(loaded, run, split, seed)[-1] for split in (UNTOUCHED, (2,) * 4) for seed in (1, 2)
    }
    assert len(texts) == 4 and all(texts)


def test_models_meet_the_same_random_numbers(loaded: LoadedModel, run: Run) -> None:
    """An untouched model that is composed writes what the loaded one does."""
    tokens, room = fit_prompt(loaded, PROMPT, 12)
    for seed in (0, 3):
        *_, text = write_on(loaded.model, loaded, tokens, seed, room, run)
        assert write(loaded, run, UNTOUCHED, seed)[-1] == text and len(text) > 10


def test_writing_stops_and_stores_no_half_text(loaded: LoadedModel, run: Run) -> None:
    stop = Event()
    seen = 0
    prompt = Prompt(PROMPT, 0, 110)
    with pytest.raises(Stopped):
        for _ in jobs.generate(loaded, SPLITS[0], tiny.QUANTO, prompt, replace(run, stop=stop)):
            seen += 1
            if seen == 4:
                stop.set()
    assert seen < 40
    assert records.written_text(loaded.info, SPLITS[0], tiny.QUANTO, prompt, run.store) is None
    assert len(write(loaded, run, SPLITS[0], 0, 110)) == 111


@pytest.mark.parametrize("prompt", ["", "word " * 400])
def test_any_prompt_can_be_written_on(prompt: str, loaded: LoadedModel, run: Run) -> None:
    asked = Prompt(prompt, 0, 5)
    assert len(list(jobs.generate(loaded, SPLITS[0], tiny.QUANTO, asked, run))) == 6


# optimum-quanto unpacks with a kernel that it compiles for half a minute at first use; the same in
# plain torch comes from our file, run as text.
BEFORE = """
import json, sys
exec(open(sys.argv[1]).read())
"""


AFTER = """
import torch
with torch.no_grad():
    torch.save(model(torch.tensor([json.loads(sys.argv[3])])).logits[0], sys.argv[4])
assert not any(name.startswith("lwq_ui") for name in sys.modules)
"""


def readmes_lines() -> str:
    """The README's way to load a quantized model, for the folder in sys.argv[2]."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (block,) = (b for b in re.findall(r"```python\n(.*?)```", readme, re.S) if "requantize" in b)
    lines, places = re.subn(r'Path\(".*?"\)', "Path(sys.argv[2])", block)
    assert places == 1 and "lwq_ui" not in lines
    return lines


@pytest.mark.parametrize(
    ("name", "dtype", "tied"),
    [("llama", "float32", True), ("qwen3", "bfloat16", False)],
)
def test_what_is_written_loads_without_this_program(
    name: str,
    dtype: str,
    tied: bool,
    folder_of: Callable[..., Path],
    run: Run,
    tmp_path: Path,
) -> None:
    loaded = tiny.load(folder_of(name, dtype, tie_word_embeddings=tied))
    split = (2, 8, 4, 16)
    config = config_of(loaded, split)
    assert config.bits_per_layer == split
    out = tmp_path / "quantized"
    assert jobs.quantize(loaded, config, out, run) == out
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith("quantized")] == ["quantized"]
    assert parse_config((out / "lwq.json").read_text()) == config
    tokens = tiny.documents(20)[0]
    result = tmp_path / "logits.pt"
    kernels = ROOT / "lwq_ui" / "engine" / "quantizers" / "quanto_kernels.py"
    script = BEFORE + readmes_lines() + AFTER
    arguments = [str(kernels), str(out), json.dumps(tokens), str(result)]
    read = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": "", "CXX": "no-compiler"},
        capture_output=True,
        text=True,
    )
    assert read.returncode == 0, read.stderr
    bank = jobs.bank_of(loaded, tiny.QUANTO, run.store)
    expected = tiny.logits(compose(bank, split, run), tokens)
    assert torch.equal(torch.load(result), expected)
    # What lies in the folder is as large as the config says, but for headers and the scales of
    # activations, which optimum-quanto always stores.
    written = sum(p.stat().st_size for p in out.glob("*.safetensors"))
    assert 0 < written - config.bytes["total"] < 20_000


def test_an_existing_folder_is_not_written_to(
    loaded: LoadedModel, run: Run, tmp_path: Path
) -> None:
    config = config_of(loaded, SPLITS[0])
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine").write_text("mine")
    file = tmp_path / "file"
    file.write_text("mine")
    for out in (full, file):
        with pytest.raises(UserError, match="exists and is not an empty folder"):
            jobs.quantize(loaded, config, out, run)
    assert (full / "mine").read_text() == file.read_text() == "mine"
    empty = tmp_path / "empty"
    empty.mkdir()
    jobs.quantize(loaded, config, empty, run)
    assert (empty / "lwq.json").exists()


def test_a_folder_of_the_users_beside_the_new_one_stays(
    loaded: LoadedModel, run: Run, tmp_path: Path
) -> None:
    mine = tmp_path / "out.part" / "precious.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    jobs.quantize(loaded, config_of(loaded, SPLITS[0]), tmp_path / "out", run)
    assert mine.read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cache", "out", "out.part"]


def test_the_folder_one_is_in(
    loaded: LoadedModel, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    jobs.quantize(loaded, config_of(loaded, SPLITS[0]), Path("."), run)
    assert Path("model.safetensors").exists() and Path("config.json").exists()
    assert not list(Path(".").glob(".*"))


def test_a_place_that_cannot_be_written_is_refused_before_the_work(
    loaded: LoadedModel, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    (tmp_path / "link").symlink_to("full")
    monkeypatch.setattr(Bank, "fill", lambda *_: pytest.fail("worked for nothing"))
    for name in ("file", "file/out", "full", "link", "missing/out"):
        with pytest.raises(UserError):
            jobs.quantize(loaded, config_of(loaded, SPLITS[0]), tmp_path / name, run)
    monkeypatch.setattr(
        jobs.writing,
        "check_folder",
        lambda out, needed: (_ for _ in ()).throw(UserError(f"{needed}")),
    )
    config = config_of(loaded, SPLITS[0])
    with pytest.raises(UserError, match=f"^{config.bytes['total']}$"):
        jobs.quantize(loaded, config, tmp_path / "out", run)


@pytest.mark.parametrize("name", ["spqr", "quanto:group=64"])
def test_what_no_program_reads_is_refused_before_the_work(
    name: str,
    loaded: LoadedModel,
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Bank, "fill", lambda *_: pytest.fail("worked for nothing"))
    quantizer = quantizer_named(name)
    config = Choice(loaded.info, quantizer, quantizer.pairs[0], "first", budget=10**9).config()
    with pytest.raises(UserError, match="as JSON instead"):
        jobs.quantize(loaded, config, tmp_path / "out", run)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("Error while serializing: No space left on device (os error 28)"),
    ],
)
def test_a_disk_that_fills_up_while_writing(
    error: Exception,
    loaded: LoadedModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run: Run,
) -> None:
    """safetensors has an error of its own, which is no OSError."""
    monkeypatch.setattr(QuantoCheckpoint, "write", lambda *_: (_ for _ in ()).throw(error))
    with pytest.raises(UserError, match=r"out' cannot be written: .*No space left on device"):
        jobs.quantize(loaded, config_of(loaded, SPLITS[0]), tmp_path / "out", run)
    assert [p.name for p in tmp_path.iterdir()] == ["cache"]


def test_a_folder_that_cannot_be_written(loaded: LoadedModel, run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        jobs.quantize(
            loaded,
            config_of(loaded, SPLITS[0]),
            tmp_path / "file" / "out",
            run,
        )


@pytest.mark.parametrize("name", ["gpt2", "mixtral"])
def test_what_quanto_cannot_store_is_refused(
    name: str, folder_of: Callable[..., Path], run: Run, tmp_path: Path
) -> None:
    loaded = tiny.load(folder_of(name))
    with pytest.raises(UserError, match=r"optimum-quanto cannot store .* Export the config"):
        jobs.quantize(loaded, config_of(loaded, SPLITS[0]), tmp_path / "out", run)
    assert not list(tmp_path.glob("out*"))


def test_a_stop_leaves_no_folder_behind(
    folder_of: Callable[..., Path], run: Run, tmp_path: Path
) -> None:
    loaded = tiny.load(folder_of("llama"))
    config = config_of(loaded, SPLITS[0])
    steps = StopAt(-1)
    jobs.quantize(loaded, config, tmp_path / "done", replace(run, progress=steps))
    for at in range(len(steps.calls)):
        loaded.banks.clear()
        stopping = StopAt(at)
        out = tmp_path / f"out-{at}"
        empty = elsewhere(run, f"cache-{at}")
        with pytest.raises(Stopped):
            jobs.quantize(
                loaded, config, out, replace(empty, progress=stopping, stop=stopping.stop)
            )
        assert not list(tmp_path.glob(f"out-{at}*"))


def test_a_failure_while_writing_leaves_no_folder_behind(
    loaded: LoadedModel, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(loaded.tokenizer), "save_pretrained", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        jobs.quantize(loaded, config_of(loaded, SPLITS[0]), tmp_path / "out", run)
    assert not list(tmp_path.glob("out*"))
