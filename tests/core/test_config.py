"""A config from outside is believed only after every field is checked."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest

from lwq_ui.core.config import Config, format_config, parse_config
from lwq_ui.core.errors import UserError

CONFIG = Config(
    model_id="someone/model",
    revision=None,
    fingerprint="0123456789abcdef" * 4,
    dtype="bfloat16",
    num_layers=12,
    levels=(4, 2),
    bits_per_layer=(8, 4, 4, 2, 2, 4, 2, 2, 4, 2, 16, 0),
    pinned={0: 8, 10: 16, 11: 0},
    ordering={"name": "lim", "seed": 0, "scores": [0.1, -0.25, 1e-17] * 4, "calibration": "pg19"},
    quantizer={"name": "quanto", "group_size": 128, "optimizer": "max"},
    bytes={"layers": 1000, "rest": 234, "total": 1234},
    budget_bytes=1300,
    evaluations=({"task": "perplexity", "value": 12.5, "stderr": None},),
    versions={"torch": "2.13.0"},
)
FIELDS = [
    "schema",
    "model_id",
    "revision",
    "fingerprint",
    "dtype",
    "num_layers",
    "levels",
    "bits_per_layer",
    "pinned",
    "ordering",
    "quantizer",
    "average_bits",
    "bytes",
    "budget_bytes",
    "evaluations",
    "versions",
]


def config_json(**changes: Any) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(format_config(CONFIG))
    return {**data, **changes}


def test_config_round_trip() -> None:
    text = format_config(CONFIG)
    assert parse_config(text) == CONFIG
    assert format_config(parse_config(text)) == text
    assert parse_config(text).pinned == {0: 8, 10: 16, 11: 0}  # numbers again, not JSON's text


def test_config_without_the_optional_parts() -> None:
    config = dataclasses.replace(
        CONFIG,
        revision="main",
        pinned={},
        bits_per_layer=(4,) * 6 + (2,) * 6,
        evaluations=(),
        versions={},
    )
    assert parse_config(format_config(config)) == config


def test_weights_from_a_file_that_was_quantized_are_named_and_no_others() -> None:
    config = dataclasses.replace(CONFIG, weights_from="Q4_1")
    assert json.loads(format_config(config))["weights_from"] == "Q4_1"
    assert parse_config(format_config(config)) == config
    assert "weights_from" not in config_json()
    assert Config.from_json(config_json(weights_from=None)) == CONFIG


def test_config_has_the_fields_of_the_design() -> None:
    assert sorted(config_json()) == sorted(FIELDS)
    assert config_json()["schema"] == "lwq/1"
    assert config_json()["average_bits"] == sum(CONFIG.bits_per_layer) / 12


def test_unknown_fields_of_a_later_minor_version_are_passed_over() -> None:
    assert Config.from_json(config_json(colour="green")) == CONFIG


@pytest.mark.parametrize("field", FIELDS)
def test_a_missing_field_is_named(field: str) -> None:
    data = config_json()
    del data[field]
    with pytest.raises(UserError, match=f"'{field}'"):
        Config.from_json(data)


BITS = list(CONFIG.bits_per_layer)


def each(field: str, *values: Any) -> list[tuple[str, Any]]:
    return [(field, value) for value in values]


def with_level(level: Any) -> list[Any]:
    return [*BITS[:3], level, *BITS[4:]]


def with_pin(layer: str, level: Any) -> dict[str, Any]:
    return {"0": 8, "10": 16, "11": 0, layer: level}


WRONG = [
    *each("schema", "lwq/2", 1, None, ["lwq/1"]),
    *each("model_id", "", None, 3, True, ["a"]),
    *each("revision", 3, True, []),
    *each("fingerprint", "", None, 3, False),
    *each("dtype", "int8", "", None, 16, True),
    *each("num_layers", 0, -1, True, False, 12.0, "12", None, [12]),
    *each("levels", [2, 4], [4, 4], [4], [4, 3, 2], [4, 0], [17, 2], [4, -1], []),
    *each("levels", [4, True], [4.0, 2.0], ["4", "2"], "42", 4, None, {"4": 2}),
    *each("bits_per_layer", BITS[:-1], [*BITS, 4], [], None, "4", 4, {"0": 4}),
    *each("bits_per_layer", *map(with_level, (5, 2.0, "2", None, True, False, -2))),
    # Levels outside the pair, on a layer that is not pinned.
    *each("bits_per_layer", *map(with_level, (8, 16, 3, 0))),
    *each("pinned", None, [], [[0, 8]], "0", 0, True),
    *each("pinned", *(with_pin(layer, 4) for layer in ("12", "-1", "x", "", "1.0", "²", "01"))),
    *each("pinned", *(with_pin("1", level) for level in (2, 4.0, "4", None, [4]))),
    *each("pinned", with_pin("11", False)),  # False == 0, which is that layer's level
    *each("ordering", None, "lim", ["lim"], {}, {"name": None}, {"name": 3}),
    *each("ordering", *({"name": "random", "seed": seed} for seed in ("0", 1.0, None, True))),
    *each("ordering", *({"name": "lim", "scores": s} for s in ([1.0], "no", [math.nan] * 12))),
    *each("ordering", {"name": "lim", "scores": [10**400] * 12}, {"name": "lim", "by": math.inf}),
    *each("quantizer", None, "quanto", ["quanto"], {}, {"name": None}),
    *each("average_bits", None, "4", True, 4.0, math.nan, math.inf, [4], 10**400, -(10**400)),
    *each("num_layers", 10**400),
    *each("bytes", None, 1234, [1000, 234, 1234], {}, {"layers": 1000, "rest": 234}),
    *each("bytes", {"layers": 1000, "rest": 234, "total": 1235}),
    *each("bytes", {"layers": 1000.0, "rest": 234, "total": 1234}),
    *each("bytes", {"layers": -1000, "rest": 2234, "total": 1234}),
    *each("bytes", {"layers": True, "rest": 233, "total": 234}),
    *each("bytes", {"layers": 1000, "rest": 10**400, "total": 10**400 + 1000}),
    *each("budget_bytes", -1, 1.5, "1300", None, True, math.nan),
    *each("evaluations", None, {}, "none", 0, ["perplexity"], [[]], [{"value": math.nan}]),
    *each("model_id", "half a pair \ud800"),
    *each("weights_from", "", 4, ["Q4_1"], True),
    *each("versions", None, [], "2.13.0", {"torch": 2.13}, {"torch": None}),
]


@pytest.mark.parametrize(
    ("field", "value"), WRONG, ids=[f"{f}-{i}" for i, (f, _) in enumerate(WRONG)]
)
def test_a_wrong_field_is_named(field: str, value: Any) -> None:
    text = json.dumps(config_json(**{field: value}))
    with pytest.raises(UserError, match=f"'{field}'"):
        parse_config(text)


def test_every_field_is_tested_with_wrong_values() -> None:
    assert {field for field, _ in WRONG} == {*FIELDS, "weights_from"}


def test_an_error_quotes_no_more_than_a_line_of_the_file() -> None:
    with pytest.raises(UserError) as error:
        Config.from_json(config_json(bits_per_layer=[5] * 10_000))
    assert "'bits_per_layer'" in str(error.value)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_a_file_in_any_unicode(encoding: str) -> None:
    """Windows' editors write a byte order mark, its PowerShell UTF-16."""
    config = dataclasses.replace(CONFIG, model_id="/models/Größe 三")
    assert parse_config(format_config(config).encode(encoding)) == config


def test_numbers_beyond_what_floats_hold() -> None:
    text = format_config(CONFIG).replace('"value": 12.5', '"value": 1e400')
    with pytest.raises(UserError, match="'evaluations' is wrong: it holds numbers that are not"):
        parse_config(text)


@pytest.mark.parametrize(
    "content", [b"\xff\xfe\xfa", b'{"schema": "lwq/1\xff"}', b"[" * 100_000, b"9" * 5000, b"\0"]
)
def test_bytes_that_are_no_config(content: bytes) -> None:
    with pytest.raises(UserError, match="This is not a config"):
        parse_config(content)


@pytest.mark.parametrize("text", ["[]", "3", '"lwq/1"', "null", "", "{", "not JSON", "\ufeff{}"])
def test_what_is_no_config_at_all(text: str) -> None:
    with pytest.raises(UserError, match="This is not a config"):
        parse_config(text)


def test_a_config_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        CONFIG.num_layers = 3  # type: ignore[misc]
