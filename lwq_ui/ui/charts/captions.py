"""The small print below a chart: what its lines, bands and hollow points mean."""

from __future__ import annotations

from ...core.memory import UNTOUCHED
from ..wording import lower_first
from .drawing import Drawing


def caption(drawing: Drawing) -> str:
    lines = drawing.visible
    sentences = [*origins(drawing), *given_back(drawing)]
    if len({d.quantizer for d in lines}) > 1:
        sentences.append("A colour is an order, a dash a quantizer.")
    if any(e.chat_template for e in drawing.data.evaluations):
        sentences.append("Prompts are in the model's chat template.")
    if band := band_sentence(drawing):
        sentences.append(band)
    if orders := {len(d.line.curves) for d in lines if d.seeded}:
        sentences.append(f"Random: mean and standard deviation of {max(orders)} orders.")
    if any(not d.line.complete for d in lines):
        sentences.append("Where a line is broken, nothing was measured.")
    counts = [p.metric.n for d in lines for p in d.points]
    shown = [*drawing.singles.shown, *drawing.others]
    counts += [e.metrics[drawing.metric].n for e in shown]
    if (fewest := min(counts, default=drawing.most)) < drawing.most:
        sentences.append(f"Hollow points rest on {fewest:,} of {drawing.most:,} items so far.")
    if drawing.scale.slope < 1:
        sentences.append("The axis is compressed where splits are lost.")
    if drawing.scale.left_out:
        sentences.append("Values of 0 have no place on a logarithmic axis.")
    return " ".join(sentences)


def origins(drawing: Drawing) -> list[str]:
    """Returns what the weights of each model were before, where they were something."""
    models = [m for m in drawing.data.models if m.origin.sentence]
    if not drawing.data.other:
        return [m.origin.sentence for m in models]
    return [f"{m.title}: {lower_first(m.origin.sentence)}" for m in models]


def given_back(drawing: Drawing) -> list[str]:
    """Returns which measured levels only give a file's weights back, of the page's model first."""
    measured = [
        (m, {(e.quantizer, e.split) for e in m.of_metric(drawing.data.chosen)})
        for m in drawing.data.models
    ]
    return list(filter(None, [m.given_back.sentence(sorted(packed)) for m, packed in measured]))


def band_sentence(drawing: Drawing) -> str:
    """Returns what the primary line's band is, empty where it is no error."""
    d = drawing.primary
    if d is None or d.seeded or not any(d.reach):
        return ""
    unquantized = any(set(e.split) == {UNTOUCHED} for e in drawing.data.evaluations)
    to = "the unquantized model" if unquantized and not d.theirs else "all layers high"
    return (
        f"Band of {d.title}: ± 1 standard error of the difference to {to}, on the same "
        "items (the others' show on hover)."
    )
