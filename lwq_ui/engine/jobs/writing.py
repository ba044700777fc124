"""What a quantized model weighs, what it writes, and the folder that it is written into."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from safetensors import SafetensorError

from ...core.allocation import Split
from ...core.config import Config, format_config
from ...core.cost import model_cost
from ...core.outputs import check_folder, new_folder, unwritable
from ...core.run import Run
from ...core.schema import split_name
from ...core.writing import Prompt, Written
from .. import records
from ..banks.composing import compose
from ..configs import check_fingerprint, quantizer_of
from ..exports import model_export
from ..generation import fit_prompt, write_on
from ..models.loading import LoadedModel
from ..quantizers import Quantizer
from .banks import bank_of


@dataclass(frozen=True)
class Truth:
    """Bytes of a model at a split: `estimated` by formula, `measured` from its tensors."""

    estimated: int
    measured: int


def truth(loaded: LoadedModel, split: Split, quantizer: Quantizer, run: Run) -> Truth:
    """Packs what the split lacks, and returns what it weighs. Raises UserError where the disk is
    full."""
    measured = bank_of(loaded, quantizer, run.store).measured_bytes(split, run)
    return Truth(model_cost(loaded.info, quantizer).total(split), measured)


def generate(
    loaded: LoadedModel, split: Split, quantizer: Quantizer, prompt: Prompt, run: Run
) -> Iterator[Written]:
    """Yields what the model at this split has written so far, the last time as a whole.

    What was written before comes from the store, at once. Raises UserError where a streamed model
    has no room in memory at this split.
    """
    loaded.walk.source.check_unchanged()
    if stored := records.written_text(loaded.info, split, quantizer, prompt, run.store):
        yield stored
        return
    tokens, room = fit_prompt(loaded, prompt.text, prompt.tokens, prompt.chat)
    bank = bank_of(loaded, quantizer, run.store)
    bank.fill([split], run)
    model = compose(bank, split, run)
    run.progress(f"Writing, {split_name(split)}", None)
    written = Written("", room)
    for text in write_on(model, loaded, tokens, prompt.seed, room, run):
        written = replace(written, text=text)
        yield written
    run.check()
    key = records.text_key(loaded.info, split, quantizer, prompt)
    run.store.write(key, written.to_json())
    yield written


def quantize(loaded: LoadedModel, config: Config, out: Path, run: Run) -> Path:
    """Writes the quantized model as a folder that another program loads by itself.

    Returns the folder, which appears only when it is complete. Raises UserError where no program
    reads what the quantizer packs.
    """
    check_fingerprint(config, loaded.info)
    split = config.bits_per_layer
    bank = bank_of(loaded, quantizer_of(config), run.store)
    check_folder(out, model_cost(loaded.info, bank.quantizer).total(split))
    export = model_export(bank.quantizer)
    export.check(loaded, bank.quantizer, split)
    bank.fill([split], run)
    run.progress("Writing the model", None)
    try:
        with new_folder(out) as part:
            export.write(bank, split, part, run)
            (part / "lwq.json").write_text(format_config(config), encoding="utf-8")
            loaded.walk.source.check_unchanged()
            run.check()
    except (OSError, SafetensorError) as e:  # safetensors' own error is no OSError
        raise unwritable(out, e) from e
    return out
