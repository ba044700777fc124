"""Names for several tasks: those of the paper's tables, and two corpora."""

from __future__ import annotations

from collections.abc import Iterable

# name -> title, tasks of lm-eval
PRESETS: dict[str, tuple[str, tuple[str, ...]]] = {
    "paper-classification": (
        "The paper's classification tasks",
        ("winogrande", "arc_easy", "piqa", "hellaswag", "mmlu"),
    ),
    "paper-generation": ("The paper's generation tasks", ("gsm8k", "nq_open")),
    "perplexity-corpora": ("Perplexity on WikiText-2 and C4", ("wikitext", "c4")),
}


def expand(names: Iterable[str]) -> list[str]:
    """Returns the names with presets replaced by their tasks, in order, each task once."""
    return list(dict.fromkeys(t for n in names for t in (PRESETS[n][1] if n in PRESETS else (n,))))
