"""Score, split, evaluate and save a model: all of this program's work without its page.

    python -m examples.layerwise MODEL OUT [--bits 3]

MODEL is a folder, a Hub id or 'demo'. OUT is a new folder, which optimum-quanto loads by itself.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from lwq_ui.core.choice import Choice
from lwq_ui.core.config import Config
from lwq_ui.core.errors import UserError
from lwq_ui.core.memory import UNTOUCHED
from lwq_ui.core.run import Run
from lwq_ui.core.settings import Settings
from lwq_ui.core.store import Store
from lwq_ui.engine import jobs
from lwq_ui.engine.quantizers import quantizer_named
from lwq_ui.engine.texts import shipped_calibration

TOKENS = 4096  # of the calibration text
PASSAGES = 8  # of the held-out text, on which perplexity is measured


def quantize_layerwise(model_id: str, out: Path, average_bits: float, run: Run) -> Config:
    """Writes the model into `out`, each layer at 4 or 2 bits, and returns the split's config.

    The layers that LIM finds most important get the 4 bits. Raises UserError that says why where
    the model cannot be loaded, or where the average is below 2 bits.
    """
    loaded = jobs.load(model_id, "auto", "auto", run)
    quantizer = quantizer_named("quanto")

    # LIM: how much each layer turns the hidden states that pass through it (section 3.1).
    text = shipped_calibration(run.settings)
    scores = jobs.score(loaded, ["lim"], text, run, max_tokens=TOKENS)

    # A table of all splits of this ordering. The budget is a place in it (section 3.2).
    choice = Choice(loaded.info, quantizer, (4, 2), ordering="lim", scores=scores)
    choice = choice.at_position(choice.table.position_for_average_bits(average_bits))

    # Each layer is packed at most once. All splits are measured in one walk through the layers.
    original = (UNTOUCHED,) * loaded.info.num_layers
    splits = [original, choice.split]
    measurement = jobs.Measurement(splits, quantizer, ["perplexity"], limit=PASSAGES)
    evaluated = jobs.evaluate(loaded, measurement, run)

    # The config repeats the split elsewhere, and lies beside the weights as lwq.json.
    config = choice.config(evaluated.evaluations)
    jobs.quantize(loaded, config, out, run)

    print(f"Bits per layer: {' '.join(f'{bits:g}' for bits in config.bits_per_layer)}")
    for evaluation in evaluated.evaluations:
        perplexity = evaluation.metrics["perplexity"]
        print(f"{evaluation.quantizer:>8}: perplexity {perplexity.value:.2f}")
    print(f"{out} takes {config.bytes['total']:,} bytes, not {loaded.info.total_bytes:,}.")
    return config


def main() -> None:
    parser = argparse.ArgumentParser(description="Quantize a model layer by layer.")
    parser.add_argument("model", help="a folder, a Hub id or 'demo'")
    parser.add_argument("out", type=Path, help="a new folder")
    parser.add_argument("--bits", type=float, default=3.0, help="on average (default: 3)")
    args = parser.parse_args()
    settings = Settings.from_environment()
    try:
        quantize_layerwise(args.model, args.out, args.bits, Run(settings, Store(settings.cache)))
    except UserError as e:
        parser.exit(1, f"{e}\n")


if __name__ == "__main__":
    main()
