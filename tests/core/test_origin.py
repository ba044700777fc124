"""What is said of weights that were quantized before."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from lwq_ui.core.choice import Choice
from lwq_ui.core.origin import NEVER_QUANTIZED, Origin
from lwq_ui.core.schema import LayerSpec, ModelInfo, WeightSpec
from lwq_ui.engine.quantizers import DEFAULT_QUANTIZER

LAYER = LayerSpec((WeightSpec("q_proj", 64, 128),), 0)
NAMES = ("model", None, "f" * 64, "LlamaForCausalLM", "bfloat16")
INFO = ModelInfo(*NAMES, 16_384, 40_000, 7_232, 128, (LAYER, LAYER))
OF_FILE = replace(INFO, quantized_as="Q4_1", grid="Q4_1")


@pytest.mark.parametrize(
    ("kind", "words"),
    [("Q4_1", "a Q4_1"), ("IQ4_XS", "an IQ4_XS"), ("MXFP4", "an MXFP4"), ("TQ2_0", "a TQ2_0")],
)
def test_the_sentence_names_the_file(kind: str, words: str) -> None:
    assert Origin(kind).sentence == f"Weights come from {words} file."
    assert Origin(kind).meaning.startswith(f"Weights come from {words} file. The reference is")


def test_of_weights_that_never_were_quantized_nothing_is_said() -> None:
    assert INFO.origin == NEVER_QUANTIZED
    assert (INFO.origin.sentence, INFO.origin.meaning) == ("", "")


def test_entries_of_other_models_are_as_they_were_before_there_was_an_origin() -> None:
    stored = INFO.to_json()
    assert not {"quantized_as", "grid"} & set(stored)
    assert ModelInfo.from_json(json.loads(json.dumps(stored))) == INFO


def test_what_the_weights_were_is_stored() -> None:
    stored = json.loads(json.dumps(OF_FILE.to_json()))
    before = {"quantized_as": "Q4_1", "grid": "Q4_1"}
    assert stored == {**json.loads(json.dumps(INFO.to_json())), **before}
    assert ModelInfo.from_json(stored) == OF_FILE
    with pytest.raises(ValueError):
        ModelInfo.from_json({**stored, "quantized_as": 4})


def test_a_config_says_what_the_weights_were() -> None:
    assert Choice(OF_FILE, DEFAULT_QUANTIZER, (4, 2), "first").config().weights_from == "Q4_1"
    assert Choice(INFO, DEFAULT_QUANTIZER, (4, 2), "first").config().weights_from is None
