"""What the page says about a model: before it is loaded, while it is, and what of it lies on the
disk."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.built_in import BUILT_IN
from ..core.cost import model_cost
from ..core.diskspace import DiskSpace
from ..core.memory import UNTOUCHED, format_gib
from ..core.orderings import SCORERS
from ..core.schema import ModelInfo, Scores
from ..engine.quantizers import DEFAULT_QUANTIZER, quantizer_named
from .templates import lines_html, render

if TYPE_CHECKING:
    from ..engine.checkpoints.headers import Headers
    from ..engine.fit import Fit
    from ..engine.jobs import Looked, Truth

TOO_LARGE = "The unquantized model does not fit into this machine's memory."
STREAMED = (
    "Larger than this machine's memory: its layers are read from the disk one by one. Scores and "
    "sweeps work, at the disk's pace; writing works with the quantized model alone."
)
WILL_STREAM = "Larger than this machine's memory: its layers will be read from the disk one by one."


def loaded_card(info: ModelInfo, streamed: bool = False) -> str:
    """`streamed`: its layers are read from the disk as they are needed."""
    facts = {
        **general_facts(info),
        "Size": f"{format_gib(info.total_bytes)} in {info.dtype}",
        "Quantizers reach": reach(info.packable_share),
    }
    return card_html(info, "Loaded", facts, [STREAMED] if streamed else [])


def looked_card(looked: Looked, shown: ModelInfo | None) -> str:
    """`shown` is the model that the page's bars show meanwhile."""
    info = looked.info
    notes = [WILL_STREAM] if looked.streamed else []
    if not looked.devices:
        notes.append(
            f"What {info.architecture} keeps of every token is not known, so the page cannot say "
            "what of it fits here."
        )
    state = "Looked at, not loaded"
    if shown and same_model(shown, info):
        state = "Loaded"
    elif shown:
        notes.append(f"The bars still show {shown.model_id}.")
    facts = {
        **general_facts(info),
        "To download": download(looked.download_bytes),
        **size_facts(info),
        "Quantizers reach": reach(info.packable_share),
        **({"In its files": in_files(looked.stored)} if looked.stored else {}),
        **{fit.device.name: in_words(fit) for fit in looked.devices},
    }
    return card_html(info, state, facts, notes)


def in_files(stored: Headers) -> str:
    """Returns the types of the tensors, the one with most bytes first: 'Q4_1 75.9 MiB, F32 ...'."""
    return ", ".join(f"{name} {format_gib(size)}" for name, (_, size) in stored.types.items())


def general_facts(info: ModelInfo) -> dict[str, str]:
    model = BUILT_IN.get(info.model_id)
    return {
        **({"Name": model.title} if model else {}),
        "Architecture": info.architecture,
        "Layers": f"{info.num_layers}",
        "Parameters": f"{info.num_parameters:,}",
    }


def size_facts(info: ModelInfo) -> dict[str, str]:
    """Returns the bytes of the model untouched, and with all layers at each level."""
    cost = model_cost(info, DEFAULT_QUANTIZER)
    levels = sorted(cost.layers[0].packed, reverse=True)
    sizes = {level: format_gib(cost.total((level,) * info.num_layers)) for level in levels}
    facts = {f"Size in {info.dtype}": sizes[UNTOUCHED]}
    remarks = {levels[1]: ", the largest split", levels[-1]: ", the smallest"}
    for level in levels[1:]:
        facts[f"All layers at {level} bits"] = sizes[level] + remarks.get(level, "")
    return facts


def reach(share: float) -> str:
    # 99.96 % are not all of them, however they are rounded.
    return f"{min(share, 0.999 if share < 1 else 1):.1%} of its layers".replace("%", " %")


def download(size: int | None) -> str:
    if size is None:
        return "not known: Hugging Face cannot be asked"
    return format_gib(size) if size else "nothing, it is on this disk"


def in_words(fit: Fit) -> str:
    """Returns which levels fit a device's free memory: 'fits from 4 bits down (22.1 GiB free)'."""
    free = f"({format_gib(fit.device.free)} free)"
    fitting = sorted(level for level, fits in fit.fits.items() if fits)
    if not fitting:
        return f"does not fit {free}"
    if fitting[-1] == UNTOUCHED:
        return f"fits untouched {free}"
    most = fitting[-1]
    return f"fits {f'from {most} bits down' if len(fitting) > 1 else f'at {most} bits'} {free}"


def same_model(a: ModelInfo, b: ModelInfo) -> bool:
    """Whether two descriptions are of one model: by content where both know it, else by name."""
    if a.fingerprint and b.fingerprint:
        return (a.fingerprint, a.dtype) == (b.fingerprint, b.dtype)
    return (a.model_id, a.dtype) == (b.model_id, b.dtype)


def card_html(info: ModelInfo, state: str, facts: dict[str, str], notes: Iterable[str] = ()) -> str:
    notes = [*filter(None, [info.origin.meaning]), *notes]
    return render("modelcard.html", info=info, state=state, facts=facts, notes=notes)


def scored_html(info: ModelInfo, scores: Mapping[str, Scores]) -> str:
    """Returns where each score came from, and what measuring one at a level would cost."""
    lines = [score_line(name, s) for name, s in scores.items()]
    for spec in SCORERS.values():
        if spec.measures_level and spec.name not in scores:
            # A layer's change is followed from there to the last one: half the model on average.
            lines.append(
                f"{spec.title} at these bits: not measured; it costs about "
                f"{math.ceil(info.num_layers / 2)} forward passes over {spec.max_tokens:,} tokens"
            )
    return lines_html(*lines)


def score_line(scorer: str, scores: Scores) -> str:
    title = SCORERS[scorer].title
    if scores.quantizer and scores.level:
        title += f" at {quantizer_named(scores.quantizer).level_title(scores.level)}"
    facts = [scores.calibration or "weights only"]
    if scores.tokens:
        facts.append(scores.text_used)
    if scores.seconds:
        facts.append(f"{scores.seconds:.{1 if scores.seconds >= 1 else 2}f} s")
    return f"{title}: {', '.join(facts)}"


def truth_html(truth: Truth, peak_bytes: int | None) -> str:
    """Returns what the model's weights really take, beside the page's estimate."""
    return render(
        "truth.html",
        measured=format_gib(truth.measured),
        estimated=format_gib(truth.estimated),
        peak=None if peak_bytes is None else format_gib(peak_bytes),
        excess=truth.measured - truth.estimated,
    )


def disk_html(space: DiskSpace, used: Iterable[Path]) -> str:
    """Returns what packed layers take on the disk. `used` are the folders of banks in use."""
    models, used_names = space.usage(), {folder.parent.name for folder in used}
    size = format_gib(sum(m.bytes for m in models))
    count = f"{len(models)} model{'s' * (len(models) != 1)}"
    if busy := sum(m.model in used_names for m in models):
        count += f", {busy} of them in use" if busy < len(models) else ", in use"
    return lines_html(f"Packed layers on disk: {size} of {format_gib(space.limit)}, {count}")
