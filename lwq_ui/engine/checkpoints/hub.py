"""The Hugging Face Hub: what it says when it refuses, which files a model has there, and which
models have names like the one a person types. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch

from ...core.errors import Stopped, UserError, reason

DEMO = "demo"
WEIGHTS = ("*.safetensors", "*.bin")


@contextmanager
def hub_errors(model_id: str) -> Iterator[None]:
    """Everything that goes wrong between here and the Hub, as one UserError."""
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


def unreachable(model_id: str) -> UserError:
    return UserError(
        f"'{model_id}' is not on this disk and Hugging Face cannot be reached. Check the "
        "network, or give the path of a folder."
    )


@dataclass(frozen=True)
class HubFile:
    """A file as the Hub lists it: its size in bytes and what its content hashes to."""

    name: str
    bytes: int
    hash: str


def possible_weights(model_id: str, revision: str) -> dict[str, HubFile]:
    """By path, all files of the formats that weights come in. Raises what huggingface_hub does."""
    from huggingface_hub import HfApi

    info = HfApi().model_info(model_id, revision=revision, files_metadata=True, timeout=10)
    return {
        f.rfilename: HubFile(f.rfilename, f.size or 0, f.lfs.sha256 if f.lfs else f.blob_id or "")
        for f in info.siblings or ()
        if any(fnmatch(f.rfilename, pattern) for pattern in WEIGHTS)
    }
