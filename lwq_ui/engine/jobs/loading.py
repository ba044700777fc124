"""Finding out what a model is, and loading it."""

from __future__ import annotations

from dataclasses import dataclass

from ...core.budget import Workload, default_context
from ...core.config import Config
from ...core.errors import UserError
from ...core.run import Run
from ...core.schema import ModelInfo
from .. import records
from ..checkpoints.finding import find
from ..checkpoints.headers import Headers
from ..checkpoints.source import Source
from ..configs import check_fingerprint, other_weights
from ..devices import local_devices, release_memory, resolve_device
from ..fit import Fit, what_fits
from ..models import description, loading
from ..models.loading import LoadedModel
from ..quantizers import DEFAULT_QUANTIZER


@dataclass(frozen=True)
class Looked:
    """What is known of a model before it is loaded.

    `info.fingerprint` is empty where large files would have to be read for it. `download_bytes` is
    0 for a model on this disk, and None where the Hub could not be asked. A `streamed` model does
    not fit into this machine's memory as a whole. `devices` say what of it fits; they are empty
    where nobody knows what the model keeps of a token. `stored` lists the tensors of its files;
    None where these have no headers.
    """

    info: ModelInfo
    download_bytes: int | None
    streamed: bool
    devices: list[Fit]
    stored: Headers | None = None


def look(model_id: str, dtype: str, run: Run) -> Looked:
    """Returns a model's figures, from its config and the headers of its checkpoint.

    Nothing is loaded, and no weights are downloaded. Raises UserError where names, shapes or files
    of the checkpoint do not fit together.
    """
    source = find(model_id, run, weights=False)
    headers = source.headers(run)
    run.progress("Reading the config", None)
    info = description.describe(source, dtype, headers, None if source.is_hashed() else "")
    device = resolve_device("auto")
    usage = Workload(default_context(info))
    devices = what_fits(info, DEFAULT_QUANTIZER, local_devices(), usage) if info.token_bytes else []
    return Looked(info, source.download_bytes, not loading.fits(info, device), devices, headers)


def describe(model_id: str, dtype: str, run: Run) -> ModelInfo:
    """Returns what a model is, without loading or downloading its weights."""
    source = find(model_id, run, weights=False)
    info = stored_info(source, dtype, run)
    if info is None:
        headers = source.headers(run) if source.has_weights else None
        run.progress("Reading the config", None)
        info = description.describe(source, dtype, headers)
        run.store.write(records.info_key(source.fingerprint(), dtype), info.to_json())
    return info


def stored_info(source: Source, dtype: str, run: Run) -> ModelInfo | None:
    """Returns what the store has of these files. They are read where their hashes are missing."""
    if not source.is_hashed():
        run.progress("Reading the weights once, to know them again", None)
        source.fingerprint(run)
    return records.known_info(source, dtype, run.store)


def load(model_id: str, device: str, dtype: str, run: Run) -> LoadedModel:
    """Returns the model on its device. Files of the Hub are downloaded first."""
    source = find(model_id, run)
    return load_source(source, device, dtype, run, stored_info(source, dtype, run))


def load_for(config: Config, model_id: str | None, device: str, run: Run) -> LoadedModel:
    """Returns the model that a config was made of, from `model_id` or from where the config says.

    Raises UserError where its files are others, before they are loaded.
    """
    try:
        source = find(config.model_id if model_id is None else model_id, run)
    except UserError as e:
        if model_id is not None:
            raise
        raise UserError(
            f"{e} The config names '{config.model_id}': if its files lie elsewhere, say where with "
            "--model."
        ) from e
    info = stored_info(source, config.dtype, run)
    fingerprint = info.fingerprint if info else source.fingerprint()
    if fingerprint != config.fingerprint:
        raise other_weights(source.model_id)
    loaded = load_source(source, device, config.dtype, run, info)
    check_fingerprint(config, loaded.info)
    return loaded


def load_source(
    source: Source, device: str, dtype: str, run: Run, info: ModelInfo | None
) -> LoadedModel:
    """Loads the files of a source. `info` is what the store has of them; it is made where it has
    none."""
    try:
        loaded = loading.load(source, device, dtype, run, info=info)
    except BaseException:
        release_memory()
        raise
    if loaded.info != info:
        key = records.info_key(loaded.info.fingerprint, dtype)
        run.store.write(key, loaded.info.to_json())
    return loaded
