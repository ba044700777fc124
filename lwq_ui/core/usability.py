"""Whether a quantized model is of use still, judged by its evaluations alone. Nothing is said of
what was not measured."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import hypot, inf
from statistics import fmean

from .allocation import Split
from .cost import QuantizerSpec
from .memory import UNTOUCHED, average_bits
from .schema import UNQUANTIZED, Evaluation

# A right token then has, in the geometric mean, a tenth of the probability that the original gives
# it. Measured collapses go on to thousands of times; graceful curves stay below three times.
LOST = 10.0
# Half of that probability, or half of what an accuracy has above chance: worth trying.
USABLE = 2.0
ERRORS = 2.0  # standard errors: an accuracy so near to chance cannot be told from it
PERPLEXITIES = ("perplexity", "word_perplexity")  # by tokens or words; bytes are another scale
ACCURACIES = ("acc", "acc_norm")
CHANCE = "chance"  # among the items of an evaluation: how often guessing is right
OF_LOSS = f"{LOST:g} times or more is beyond use"


@dataclass(frozen=True)
class Verdict:
    """What one figure says of a split, beside the `original` model's on the same items.

    `chance` is None for a perplexity. `subject` names the figure: 'perplexity'.
    """

    task: str
    metric: str
    subject: str
    value: float
    original: float
    error: float = 0.0
    original_error: float = 0.0
    chance: float | None = None

    @property
    def ratio(self) -> float:
        """How many times the original's value it is."""
        return self.value / self.original if self.original else inf

    @property
    def harm(self) -> float:
        """Compares verdicts of one figure: less is better."""
        return self.ratio if self.chance is None else -self.value

    @property
    def lost(self) -> bool:
        """An accuracy at chance is a loss only where it fell there: by more than its error."""
        if self.chance is None:
            return self.ratio >= LOST
        at_chance = self.value - ERRORS * self.error <= self.chance
        error = hypot(self.error, self.original_error)
        return at_chance and self.original - self.value > ERRORS * error

    @property
    def usable(self) -> bool:
        """An original that guesses, too, keeps nothing from being usable: other figures judge."""
        if self.chance is None:
            return self.ratio <= USABLE
        above = self.original - self.chance
        guessed = above <= ERRORS * self.original_error
        return not self.lost and (guessed or self.value - self.chance >= above / USABLE)

    @property
    def reason(self) -> str:
        """Says the figure, and what makes it a loss."""
        if self.chance is None:
            shown = f"{self.subject} {rounded(self.value)} is {self.short} the original's"
            return f"{shown} ({OF_LOSS})"
        return (
            f"{self.subject} {self.value:.2f} is within two standard errors of chance "
            f"({self.chance:.2f}), the original's is {self.original:.2f}"
        )

    @property
    def short(self) -> str:
        """Returns '1.4 times', or '0.87' of an accuracy."""
        return f"{times(self.ratio)} times" if self.chance is None else f"{self.value:.2f}"


class Usability:
    """What the evaluations of one model say of its splits. `titles` name the tasks."""

    def __init__(
        self, evaluations: Iterable[Evaluation], titles: Mapping[str, str] | None = None
    ) -> None:
        self._evaluations = tuple(evaluations)
        self._titles = titles or {}

    @cached_property
    def verdicts(self) -> Mapping[tuple[str, Split], Sequence[Verdict]]:
        """(quantizer, split) -> a verdict for each figure that judges it, perplexities first. Of
        two evaluations the one on more items counts."""
        originals = {asked(e): e for e in self._evaluations if e.quantizer == UNQUANTIZED}
        verdicts: dict[tuple[str, Split], dict[tuple[str, str], tuple[int, Verdict]]] = {}
        for e in self._evaluations:
            original = originals.get(asked(e))
            if original is None or e is original:
                continue
            split_verdicts = verdicts.setdefault((e.quantizer, e.split), {})
            for name in (*PERPLEXITIES, *ACCURACIES):
                if verdict := self._verdict(e, original, name):
                    n, place = e.metrics[name].n, (e.task, name)
                    if place not in split_verdicts or n >= split_verdicts[place][0]:
                        split_verdicts[place] = n, verdict
        return {
            place: sorted((v for _, v in some.values()), key=lambda v: v.chance is not None)
            for place, some in verdicts.items()
            if some
        }

    def _verdict(self, e: Evaluation, original: Evaluation, name: str) -> Verdict | None:
        if name not in e.metrics or name not in original.metrics:
            return None
        chance = chance_of(e)
        if name in ACCURACIES and chance is None:
            return None
        title, ours, theirs = self._titles.get(e.task), e.metrics[name], original.metrics[name]
        subject = "perplexity" if name in PERPLEXITIES else "accuracy"
        if e.task != "perplexity":
            subject += f" of {title or e.task}"
        errors = ours.stderr or 0.0, theirs.stderr or 0.0
        chance = chance if name in ACCURACIES else None
        return Verdict(e.task, name, subject, ours.value, theirs.value, *errors, chance)

    def lost(self, quantizer: str, split: Split) -> Verdict | None:
        """Returns a verdict that the split is lost, None where no figure says so."""
        return next((v for v in self.verdicts.get((quantizer, split), ()) if v.lost), None)

    def usable(self, quantizer: str, split: Split, like: Verdict) -> Verdict | None:
        """Returns the verdict of the same figure as `like`, where all figures call it usable."""
        verdicts = self.verdicts.get((quantizer, split), ())
        same = (v for v in verdicts if (v.task, v.metric) == (like.task, like.metric))
        return next(same, None) if all(v.usable for v in verdicts) else None

    # ---- sentences, empty where there is nothing to say

    def of_levels(
        self,
        quantizer: QuantizerSpec,
        levels: Iterable[float],
        num_layers: int,
        others: Iterable[QuantizerSpec] = (),
    ) -> str:
        """Says which of the `levels` is lost in all layers, the highest one, and what to try.
        `others` are the quantizers that may be tried."""
        for level in sorted(levels, reverse=True):
            if verdict := self.lost(quantizer.name, (level,) * num_layers):
                lost = f"At {quantizer.level_title(level)} this model is lost: {verdict.reason}."
                ways = self._other_levels(quantizer, level, num_layers, verdict)
                ways += self._other_quantizers(quantizer, level, num_layers, verdict, others)
                return f"{lost}{tried(ways)}"
        return ""

    def of_split(
        self,
        quantizer: QuantizerSpec,
        splits: Sequence[Split],
        position: int,
        others: Iterable[QuantizerSpec] = (),
    ) -> str:
        """Says whether a split is lost, and what to try. `splits` are nested, from the fewest bits
        up, and it is the one at `position`.

        A split that was not measured lies between two that were: of it is said what they are.
        """
        name = quantizer.name
        measured = [k for k, split in enumerate(splits) if (name, split) in self.verdicts]
        below = max((k for k in measured if k <= position), default=None)
        above = min((k for k in measured if k >= position), default=None)
        if below is None or above is None:
            return ""
        verdict, low = self.lost(name, splits[above]), self.lost(name, splits[below])
        if verdict is None or low is None:
            return ""
        if below == above:
            lost = f"This split is lost: {verdict.reason}."
        else:
            bits = " and ".join(f"{average_bits(splits[k]):.2f}" for k in (below, above))
            lost = (
                f"The splits on both sides of this one, of {bits} bits, are lost: already "
                f"{verdict.reason}."
            )
        nearest = next(
            (k for k in measured if k > above and self.usable(name, splits[k], verdict)), None
        )
        if nearest is not None and (best := self.usable(name, splits[nearest], verdict)):
            bits = f"{average_bits(splits[nearest]):.2f}"
            return f"{lost} The nearest usable one measured has {bits} bits ({best.short})."
        low_level, n = min(splits[0]), len(splits[0])
        ways = self._other_levels(quantizer, low_level, n, verdict)
        ways += self._other_quantizers(quantizer, low_level, n, verdict, others)
        return f"{lost}{tried(ways)}"

    def _other_levels(
        self, quantizer: QuantizerSpec, level: float, n: int, lost: Verdict
    ) -> list[str]:
        """Returns the pair of levels whose low one is the next usable one."""
        usable = {
            low: verdict
            for low in quantizer.levels
            if low > level and (verdict := self.usable(quantizer.name, (low,) * n, lost))
        }
        pairs = [pair for pair in quantizer.pairs if pair[1] in usable]
        if not pairs:
            return []
        pair = min(pairs, key=lambda pair: pair[1])
        return [f"{quantizer.pair_title(pair)} ({usable[pair[1]].short})"]

    def _other_quantizers(
        self,
        quantizer: QuantizerSpec,
        level: float,
        n: int,
        lost: Verdict,
        others: Iterable[QuantizerSpec],
    ) -> list[str]:
        """Returns the quantizer that is best at this level, if it is usable."""
        usable = [
            (verdict, other)
            for other in others
            if other.name != quantizer.name
            and (verdict := self.usable(other.name, (level,) * n, lost))
        ]
        if not usable:
            return []
        verdict, other = min(usable, key=lambda one: (one[0].harm, one[1].name))
        return [f"{title_beside(other, quantizer)} ({verdict.short})"]


def asked(e: Evaluation) -> tuple[str, int | None, bool]:
    """Returns what makes figures comparable: the task, its items, and the form of its prompts."""
    return e.task, e.limit, e.chat_template


def chance_of(e: Evaluation) -> float | None:
    """Returns how often guessing is right, None where the evaluation does not say so."""
    items = e.items.get(CHANCE)
    return fmean(items) if items else None


def lost_from(evaluations: Iterable[Evaluation], metric: str) -> float | None:
    """Returns the perplexity from which on a split is lost, by the unquantized model's among the
    evaluations of one task. None of another metric, and where that was not measured."""
    if metric not in PERPLEXITIES:
        return None
    originals = (e for e in evaluations if set(e.split) == {UNTOUCHED})
    return max((LOST * e.metrics[metric].value for e in originals), default=None)


def tried(ways: Sequence[str]) -> str:
    return f" Try {', or '.join(ways)}." if ways else ""


def title_beside(other: QuantizerSpec, chosen: QuantizerSpec) -> str:
    """Returns the title, without remarks in brackets: 'groups of 32' where the rest is the same."""
    titles = [re.sub(r" \([^)]*\)", "", q.title) for q in (other, chosen)]
    return titles[0].removeprefix(f"{titles[1]}, ")


def times(ratio: float) -> str:
    """Returns '1.4', '52' or '1,700': two digits."""
    return f"{ratio:.1f}" if ratio < 9.95 else rounded(float(f"{ratio:.2g}"))


def rounded(value: float) -> str:
    """Returns three digits, and large numbers in full: 37.7, 752, 65,000."""
    if value < 100:
        return f"{value:.3g}"
    return f"{float(f'{value:.3g}'):,.0f}" if value < 1e12 else f"{value:.2g}"
