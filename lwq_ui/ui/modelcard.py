"""What the page says about a model: before it is loaded, while it is, and what of it lies on the
disk."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.diskspace import DiskSpace
from ..core.memory import UNTOUCHED, format_gib
from ..core.schema import ModelInfo
from ..engine.quantizers import DEFAULT, model_cost

if TYPE_CHECKING:
    from ..engine.devices import Fit
    from ..engine.jobs import Looked, Truth

TOO_LARGE = "The unquantized model does not fit into this machine's memory."
STREAMED = (
    "Larger than this machine's memory: its layers are read from the disk one by one. Scores and "
    "sweeps work, at the disk's pace; writing works with the quantized model alone."
)
WILL_STREAM = "Larger than this machine's memory: its layers will be read from the disk one by one."


def loaded_card(info: ModelInfo, streamed: bool = False) -> str:
    """`streamed`: its layers are read from the disk as they are needed."""
    facts = about(info) | {
        "Size": f"{format_gib(info.total_bytes)} in {info.dtype}",
        "Quantizers reach": reach(info.packable_share),
    }
    return card_html(info, "Loaded", facts, [STREAMED] if streamed else [])


def looked_card(looked: Looked, shown: ModelInfo | None) -> str:
    """`shown` is the model that the page's bars show meanwhile."""
    info = looked.info
    cost = model_cost(info, DEFAULT)
    packed = sorted(cost.layers[0].packed, reverse=True)
    remarks = {packed[1]: "the largest split", packed[-1]: "the smallest"}
    facts = about(info) | {
        "To download": download(looked.download_bytes),
        f"Size in {info.dtype}": format_gib(cost.total((UNTOUCHED,) * info.num_layers)),
    }
    for level in packed[1:]:
        size = format_gib(cost.total((level,) * info.num_layers))
        facts[f"All layers at {level} bits"] = ", ".join(filter(None, (size, remarks.get(level))))
    facts["Quantizers reach"] = reach(info.packable_share)
    facts |= {fit.device.name: in_words(fit) for fit in looked.devices}
    notes = [WILL_STREAM] if looked.streamed else []
    if not looked.devices:
        notes.append(
            f"What {info.architecture} keeps of every token is not known, so the page cannot say "
            "what of it fits here."
        )
    if shown and same(shown, info):
        return card_html(info, "Loaded", facts, notes)
    if shown:
        notes.append(f"The bars still show {shown.model_id}.")
    return card_html(info, "Looked at, not loaded", facts, notes)


def about(info: ModelInfo) -> dict[str, str]:
    return {
        "Architecture": info.architecture,
        "Layers": f"{info.num_layers}",
        "Parameters": f"{info.num_parameters:,}",
    }


def reach(share: float) -> str:
    # 99.96 % are not all of them, however they are rounded.
    return f"{min(share, 0.999 if share < 1 else 1):.1%} of its layers".replace("%", " %")


def download(size: int | None) -> str:
    if size is None:
        return "not known: Hugging Face cannot be asked"
    return format_gib(size) if size else "nothing, it is on this disk"


def in_words(fit: Fit) -> str:
    """What of the model a device's free memory holds: 'fits from 4 bits down (22.1 GiB free)'."""
    free = f"({format_gib(fit.device.free)} free)"
    held = sorted(level for level, fits in fit.fits.items() if fits)
    if not held:
        return f"does not fit {free}"
    if held[-1] == UNTOUCHED:
        return f"fits untouched {free}"
    return f"fits {f'from {held[-1]} bits down' if held[1:] else f'at {held[0]} bits'} {free}"


def same(a: ModelInfo, b: ModelInfo) -> bool:
    """Whether two descriptions are of one model: by content where both know it, else by name."""
    one = (a.fingerprint, b.fingerprint) if a.fingerprint and b.fingerprint else (a, b)
    names = [x if isinstance(x, str) else x.model_id for x in one]
    return names[0] == names[1] and a.dtype == b.dtype


def card_html(info: ModelInfo, state: str, facts: dict[str, str], notes: Iterable[str] = ()) -> str:
    rows = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in facts.items())
    told = "".join(f"<p>{escape(note)}</p>" for note in notes)
    return (
        f'<b title="{info.total_bytes:,} bytes">{escape(info.model_id)}</b>'
        f"<span>{escape(state)}</span><dl>{rows}</dl>{told}"
    )


def truth_html(truth: Truth, peak_bytes: int | None) -> str:
    """What the model's weights really take, beside what the page had said."""
    line = (
        f"<p>Weights at this split: {format_gib(truth.measured)} measured, "
        f"{format_gib(truth.estimated)} estimated.</p>"
    )
    if peak_bytes is not None:
        line += (
            "<p>Meanwhile the whole program, with every model that it holds, used at most "
            f"{format_gib(peak_bytes)} of memory.</p>"
        )
    apart = truth.measured - truth.estimated
    if not apart:
        return line
    return (
        f"{line}<p class='wrong'>The two differ by {abs(apart):,} bytes, which they never should: "
        f"the sizes on this page are too {'small' if apart > 0 else 'large'} for this model.</p>"
    )


def disk_html(space: DiskSpace, used: Iterable[Path]) -> str:
    """`used` are the folders of the banks that are in use."""
    models, names = space.usage(), {folder.parent.name for folder in used}
    size = format_gib(sum(m.bytes for m in models))
    told = f"{len(models)} model{'s' * (len(models) != 1)}"
    if busy := sum(m.model in names for m in models):
        told += f", {busy} of them in use" if busy < len(models) else ", in use"
    return f"Packed layers on disk: {size} of {format_gib(space.limit)}, {told}"
