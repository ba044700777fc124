"""Explains in one sentence why a task of lm-eval cannot be measured, with the way out."""

from __future__ import annotations

import errno

from ...core.errors import first_line

# The text of these errors says little alone: a KeyError's is its key.
UNEXPLAINED = (LookupError, TypeError, AttributeError, ArithmeticError)


def explain(name: str, error: BaseException) -> str:
    """Returns why a task cannot be measured, and the way out, from the error and its causes."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) and cause not in chain:
        chain.append(cause)
    kinds = {type(e).__name__ for e in chain}
    text = " ".join(map(str, chain))
    for e in chain:
        if isinstance(e, ModuleNotFoundError) and e.name:
            package = e.name.partition(".")[0]
            return f"The task '{name}' needs the Python package '{package}': install it."
    if "Dataset scripts are no longer supported" in text or "trust_remote_code" in text:
        return f"The data of '{name}' comes as a program, which the datasets library does not run."
    if "GatedRepoError" in kinds or "gated dataset" in text:
        return (
            f"The data of '{name}' is only for those who asked for it: accept its terms on the "
            "Hugging Face Hub and log in with 'hf auth login'."
        )
    if "DatasetNotFoundError" in kinds:
        return f"The data of '{name}' is not on the Hugging Face Hub, or not for everybody."
    full = any(isinstance(e, OSError) and e.errno == errno.ENOSPC for e in chain)
    network = any(isinstance(e, OSError) or type(e).__module__.startswith("httpx") for e in chain)
    if network and not full:
        return (
            f"The data of '{name}' cannot be downloaded: check the network, or copy it into the "
            "Hugging Face datasets cache."
        )
    if isinstance(error, OverflowError):
        return too_large(name)
    kind = f"{type(error).__name__}: " if isinstance(error, UNEXPLAINED) else ""
    return f"The task '{name}' cannot be measured: {kind}{first_line(error)}."


def too_large(name: str) -> str:
    return (
        f"The task '{name}' gives a figure that is too large for a number, as the perplexity of a "
        "model that predicts nothing is. Leave out the splits of the fewest bits."
    )
