"""The Hugging Face Hub: what it says when it refuses, which files a model has there, and parts of
them. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch

from ...core.errors import Stopped, UserError, reason

WEIGHTS = ("*.safetensors", "*.bin")


@contextmanager
def hub_errors(model_id: str) -> Iterator[None]:
    """Raises one UserError for everything that goes wrong between here and the Hub."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    try:
        yield
    except GatedRepoError as e:
        raise UserError(
            f"'{model_id}' is gated: accept its licence on its Hugging Face page, then sign in "
            "with `hf auth login` or set HF_TOKEN."
        ) from e
    except RepositoryNotFoundError as e:
        raise UserError(
            f"Hugging Face knows no model '{model_id}', or it is private. Check the spelling, or "
            "sign in with `hf auth login`."
        ) from e
    except HFValidationError as e:
        raise UserError(f"'{model_id}' is not a Hugging Face id of the form owner/name.") from e
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as e:
        raise unreachable(model_id) from e
    except HfHubHTTPError as e:
        raise UserError(f"Hugging Face did not send '{model_id}': {reason(e)}.") from e
    except (UserError, Stopped):
        raise
    except Exception as e:  # a connection breaks in many ways, each with a class of its own
        cause = reason(e) if str(e) else "the connection broke"
        raise UserError(f"'{model_id}' could not be downloaded: {cause}.") from e


class Unreachable(UserError):
    """The Hub cannot be asked for what is not on this disk."""


def unreachable(model_id: str) -> Unreachable:
    return Unreachable(
        f"'{model_id}' is not on this disk and Hugging Face cannot be reached. Check the "
        "network, or give the path of a folder."
    )


@dataclass(frozen=True)
class HubFile:
    """A file as the Hub lists it: its path in the model, its size, and the hash of its content."""

    name: str
    bytes: int
    hash: str


def possible_weights(
    model_id: str, revision: str, patterns: Sequence[str] = WEIGHTS
) -> dict[str, HubFile]:
    """Returns all files of these names, which weights come in, by path. Raises what huggingface_hub
    raises."""
    from huggingface_hub import HfApi

    info = HfApi().model_info(model_id, revision=revision, files_metadata=True, timeout=10)
    return {
        f.rfilename: HubFile(f.rfilename, f.size or 0, f.lfs.sha256 if f.lfs else f.blob_id or "")
        for f in info.siblings or ()
        if any(fnmatch(f.rfilename, pattern) for pattern in patterns)
    }


def fetch_range(model_id: str, revision: str, name: str, start: int, end: int) -> bytes:
    """Returns those bytes of a file. Raises what huggingface_hub raises, and UserError where the
    server sends whole files only."""
    from huggingface_hub import constants, hf_hub_url
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    url = hf_hub_url(model_id, name, revision=revision)
    request_headers = {**build_hf_headers(), "range": f"bytes={start}-{end - 1}"}
    limit = constants.HF_HUB_DOWNLOAD_TIMEOUT
    with get_session().stream("GET", url, headers=request_headers, timeout=limit) as response:
        hf_raise_for_status(response)
        if response.status_code != 206:  # the whole file is on its way
            raise UserError(
                f"The server that was asked for a part of {name} of '{model_id}' sends whole files "
                "only. Download the model, or unset HF_ENDPOINT."
            )
        return bytes(response.read())
