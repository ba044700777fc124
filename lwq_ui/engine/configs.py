"""A config from a file, checked against the quantizer and the model that it names. Imports no
torch."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from ..core.config import Config, parse_config
from ..core.cost import model_cost
from ..core.errors import UserError, reason
from ..core.memory import PRUNED, UNTOUCHED
from ..core.schema import ModelInfo
from .quantizers import Quantizer, quantizer_named

MOST_BYTES = 2**24  # of a config's file; one of 1,000 layers takes 100 kB


def read_config(path: str | Path) -> Config:
    """Returns the config in a file, its quantizer under the name that results are stored under.

    Raises UserError where the file cannot be read, or where a field of it is wrong.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as e:  # ValueError: a null character
        raise UserError(f"The config '{path}' cannot be read: {reason(e)}.") from e
    if len(content) > MOST_BYTES:
        raise UserError(f"'{path}' is not a config: it is larger than {MOST_BYTES:,} bytes.")
    config = with_known_quantizer(parse_config(content))
    check_levels(config)
    return config


def quantizer_of(config: Config) -> Quantizer:
    """Returns the quantizer that the config names. Raises UserError where there is none."""
    return quantizer_named(config.quantizer["name"])


def with_known_quantizer(config: Config) -> Config:
    """Returns the config with its quantizer's name of today.

    Raises UserError where the config contradicts that quantizer. The options of a quantizer that
    cannot work on this machine are not compared: they may be those of another version.
    """
    try:
        chosen = quantizer_of(config)
    except UserError as e:
        raise UserError(f"Config field 'quantizer' is wrong: {e}") from e
    own = json.loads(json.dumps(chosen.to_json()))
    for key in ("group_size", *([] if chosen.missing() else ["options"])):
        value = config.quantizer.get(key, own[key])
        if value != own[key] or type(value) is not type(own[key]):
            raise UserError(
                f"Config field 'quantizer' is wrong: the {key} of '{chosen.name}' is {own[key]} "
                f"here, not {str(value)[:80]}. Make the config again."
            )
    return replace(config, quantizer={**config.quantizer, "name": chosen.name})


def check_levels(config: Config) -> None:
    """Raises UserError where the config has a level that its quantizer lacks."""
    chosen = quantizer_of(config)
    possible = {UNTOUCHED, PRUNED, *chosen.levels}
    for name, levels in (("levels", config.levels), ("bits_per_layer", config.bits_per_layer)):
        if outside := sorted(set(levels) - possible):
            bits = ", ".join(f"{b:g}" for b in sorted(possible, reverse=True))
            raise UserError(
                f"Config field '{name}' is wrong: {chosen.title} has no {outside[0]:g} bits, "
                f"only {bits}."
            )


def other_weights(model_id: str) -> UserError:
    return UserError(
        f"The config was made for other weights than those of '{model_id}': their fingerprints "
        "differ. Make the config again from these weights."
    )


def check_fingerprint(config: Config, info: ModelInfo) -> None:
    """Raises UserError where the config was made for other weights. Raises it too where its layers,
    dtype or bytes are not those of the model."""
    if config.fingerprint != info.fingerprint:
        raise other_weights(info.model_id)
    if config.num_layers != info.num_layers:
        raise UserError(
            f"Config field 'num_layers' is {config.num_layers}; the model has {info.num_layers} "
            "layers."
        )
    cost = model_cost(info, quantizer_of(config))
    size = cost.layer_bytes(config.bits_per_layer)
    if config.dtype != info.dtype or config.bytes["layers"] != size:
        raise UserError(
            f"Config fields 'dtype' and 'bytes' do not fit together: in {info.dtype} these layers "
            f"take {size:,} bytes, not {config.bytes['layers']:,}. Make the config again."
        )
    if config.bytes["rest"] != cost.rest_bytes:
        raise UserError(
            f"Config field 'bytes' is wrong: beside its layers the model has {cost.rest_bytes:,} "
            f"bytes, not {config.bytes['rest']:,}. Make the config again."
        )
