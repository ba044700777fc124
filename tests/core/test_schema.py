"""Records survive JSON."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from lwq_ui.core.schema import (
    Evaluation,
    LayerSpec,
    Metric,
    ModelInfo,
    Scores,
    WeightSpec,
    split_name,
)


def through_json(value: Any) -> Any:
    return json.loads(json.dumps(value))


def test_model_info_round_trip() -> None:
    info = ModelInfo(
        model_id="demo",
        revision=None,
        fingerprint="ab" * 32,
        architecture="LlamaForCausalLM",
        dtype="float16",
        num_parameters=20_000_000,
        total_bytes=40_000_000,
        rest_bytes=1_000_000,
        max_tokens=None,
        layers=(
            LayerSpec((WeightSpec("q_proj", 64, 192), WeightSpec("up", 512, 192)), 768, 512, 4096),
            LayerSpec((), 0),
        ),
        vocabulary=32_000,
        token_bytes=1544,
        pair_bytes=1.125,
    )
    assert ModelInfo.from_json(through_json(info.to_json())) == info
    assert info.num_layers == 2
    assert info.dtype_bytes == 2
    assert info.layers[0].weights[1].numel == 512 * 192


def test_scores_round_trip() -> None:
    scores = Scores("lim", (0.1 + 0.2, -0.5, 1e-300), "calibration", 50, 25_600, 1.25)
    assert Scores.from_json(through_json(scores.to_json())) == scores
    without = dataclasses.replace(scores, scorer="zd", calibration=None, documents=0, tokens=0)
    assert Scores.from_json(through_json(without.to_json())) == without


def test_evaluation_round_trip() -> None:
    evaluation = Evaluation(
        task="perplexity",
        split=(4, 4, 2, 16),
        quantizer="quanto",
        metrics={"perplexity": Metric(12.5, 0.3, 20), "kl": Metric(0.5, None, 0)},
        items={"nll": [0.1, 0.2], "tokens": [512.0, 100.0]},
        limit=None,
        seconds=3.5,
    )
    assert Evaluation.from_json(through_json(evaluation.to_json())) == evaluation


@pytest.mark.parametrize(
    ("split", "name"),
    [
        ((16, 16), "unquantized"),
        ((4, 4), "all 4-bit"),
        ((2,), "all 2-bit"),
        ((4, 4, 4, 4, 4, 2, 2, 2), "3.25 bits"),
    ],
)
def test_split_name(split: tuple[int, ...], name: str) -> None:
    assert split_name(split) == name
