"""Curves: the splits of an ordering from all layers at the high level down, and how to read what
was measured on them (paper section 5 and figures 2 to 5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import compress, groupby, pairwise
from statistics import fmean, stdev

from .allocation import Split
from .memory import PRUNED, UNTOUCHED
from .orderings import (
    ALIKE,
    ALIKE_TITLE,
    ORDERINGS,
    Values,
    ordering_named,
    ordering_title,
    rank_layers,
)
from .schema import Evaluation, Metric

THREE_LEVELS = (8, 4, 2)  # appendix A.2
KEPT = 0.9  # of the all-high score: the paper's grey line
FEWEST = 3  # neighbours that make a line: both ends lie on every ordering
FEWEST_SAID = 6  # points of a line of which a sentence says where it loses something


@dataclass(frozen=True)
class Curve:
    """Every split of one ordering, or of ALIKE, from all layers at the high level down. Only this
    `quantizer` has its levels; every one has them where it is empty."""

    ordering: str
    seed: int
    splits: tuple[Split, ...]
    quantizer: str = ""

    @property
    def title(self) -> str:
        return ordering_title(self.ordering, self.seed)

    @property
    def constant(self) -> bool:
        """Its average bits stay the same, as of three levels. A single split, such as of pruning
        where one layer is too much, shows neither."""
        return len(self.splits) > 1 and len({round(sum(split), 6) for split in self.splits}) == 1


def curve(
    ordering: str,
    scores: Mapping[str, Values],
    num_layers: int,
    levels: Sequence[float],
    seed: int = 0,
    every: int = 1,
) -> Curve:
    """Two levels (high, low): step k has the k least important layers at the low level. Three
    levels (appendix A.2, a constant average): step k has the k most important layers at the first
    level and the 2k least important at the last. An ordering that prunes leaves k layers out, as
    far as two levels would bring the average down. `every` takes every n-th step, and the last.

    Raises UserError where the ordering is unknown or its scores are missing.
    """
    ranked = rank_layers(ordering, scores, num_layers, seed)
    if ORDERINGS[ordering].prunes:
        high, low = levels[-2:]
        most = int(num_layers * (high - low) / high)
        build = [with_levels(ranked, high, {PRUNED: k}) for k in range(most + 1)]
    elif len(levels) == 3:
        top, middle, low = levels
        build = [
            with_levels(ranked, middle, {low: 2 * k}, top, k) for k in range(num_layers // 3 + 1)
        ]
    else:
        high, low = levels
        build = [with_levels(ranked, high, {low: k}) for k in range(num_layers + 1)]
    steps = sorted({*range(0, len(build), every), len(build) - 1})
    return Curve(ordering, seed, tuple(build[k] for k in steps))


def with_levels(
    ranked: Sequence[int], level: float, least: Mapping[float, int], top: float = 0, most: int = 0
) -> Split:
    """All layers at `level`, but the last of `ranked` at those of `least` (level -> how many) and
    the first `most` at `top`."""
    split = [level] * len(ranked)
    for low, count in least.items():
        for layer in ranked[len(ranked) - count :]:
            split[layer] = low
    for layer in ranked[:most]:
        split[layer] = top
    return tuple(split)


def curves(
    orderings: Sequence[str],
    scores: Mapping[str, Values],
    num_layers: int,
    levels: Sequence[float],
    every: int = 1,
) -> list[Curve]:
    """One curve per ordering, and one per seed of the random one."""
    return [
        curve(name, scores, num_layers, levels, seed, every)
        for name in orderings
        for seed in ordering_named(name).seeds
    ]


def levels_between(levels: Sequence[float], high: float, low: float) -> list[float]:
    """Those of a quantizer's levels from the high one down to the low one, both included; none
    where it lacks one of these."""
    found = sorted((level for level in levels if low <= level <= high), reverse=True)
    return found if {high, low} <= set(found) else []


def alike(levels: Sequence[float], num_layers: int, quantizer: str = "") -> Curve:
    """The splits of one level in every layer, from the highest of the quantizer's `levels` down:
    what a mix of the two outermost has to beat (paper, table 3)."""
    ranked = sorted(set(levels), reverse=True)
    return Curve(ALIKE, 0, tuple((level,) * num_layers for level in ranked), quantizer)


def all_splits(every: Sequence[Curve]) -> list[Split]:
    """The splits of all curves, each once: orderings share both ends."""
    return list(dict.fromkeys(split for c in every for split in c.splits))


@dataclass(frozen=True)
class Point:
    """A step of a line: one evaluation, or one per random order. `metric` is their mean, `spread`
    the standard deviation between the random orders. `split` is the first one's."""

    step: int
    evaluations: tuple[Evaluation, ...]
    metric: Metric
    spread: float | None

    @property
    def split(self) -> Split:
        return self.evaluations[0].split


@dataclass(frozen=True)
class Line:
    """What was measured of the `orderings` (more than one where they rank the layers alike), from
    all-high down, by one quantizer and on one `limit` of items. `curves` are all of its splits: one
    curve, or one per seed. Points at most `stride` steps apart are neighbours; between others lies
    a gap, of which nothing is known.
    """

    orderings: tuple[str, ...]
    quantizer: str
    curves: tuple[Curve, ...]
    points: tuple[Point, ...]
    stride: int = 1
    limit: int | None = None

    @property
    def title(self) -> str:
        """'LIM = Block influence': of the others only what stands before a bracket."""
        if self.orderings == (ALIKE,):
            return ALIKE_TITLE
        first, *others = (ORDERINGS[name].title for name in self.orderings)
        return " = ".join([first, *(other.partition(" (")[0] for other in others)])

    @property
    def from_all_high(self) -> bool:
        return self.points[0].step == 0

    @property
    def splits(self) -> set[Split]:
        return {e.split for point in self.points for e in point.evaluations}

    @property
    def stretches(self) -> list[tuple[Point, ...]]:
        """The points between one gap and the next."""
        ends = [k for k, gap in enumerate(gaps(self.points, self.stride), 1) if gap]
        pairs = pairwise([0, *ends, len(self.points)])
        return [self.points[start:end] for start, end in pairs]

    @property
    def complete(self) -> bool:
        """Without a gap, from all-high to all-low."""
        whole = self.points[0].step == 0 and self.points[-1].step == len(self.curves[0].splits) - 1
        return whole and not any(gaps(self.points, self.stride))


def gaps(points: Sequence[Point], stride: int) -> list[bool]:
    return [b.step - a.step > stride for a, b in pairwise(points)]


def measured_lines(
    evaluations: Sequence[Evaluation], metric: str, every: Sequence[Curve]
) -> list[Line]:
    """One line per ordering, quantizer and limit of which enough was measured, all seeds of the
    random one together. Orderings that rank the layers alike are one line.

    Nothing says for which ordering a split was measured, and many lie on several. So an ordering is
    no line where only scattered splits of it are known, or where all of them lie on another
    line."""
    # Of the same split, the one on more items stays.
    ranked = sorted(evaluations, key=lambda e: e.metrics[metric].n)
    by: dict[tuple[str, int | None], dict[Split, Evaluation]] = {}
    for e in ranked:
        if set(e.split) != {UNTOUCHED}:
            by.setdefault((e.quantizer, e.limit), {})[e.split] = e
    lines: list[Line] = []
    for (quantizer, limit), known in sorted(
        by.items(), key=lambda one: (one[0][0], str(one[0][1]))
    ):
        for e in ranked:
            if set(e.split) == {UNTOUCHED} and e.limit == limit:
                known[e.split] = e
        candidates = []
        own = [c for c in every if c.quantizer in ("", quantizer)]
        for same in ranked_alike(own):
            orderings = tuple(dict.fromkeys(c.ordering for c in same))
            seeds = tuple(c for c in same if c.ordering == orderings[0])
            line = line_of(orderings, quantizer, seeds, known, metric, limit)
            if line and (line.complete or has_own(line, own)):
                candidates.append(line)
        for k, line in enumerate(candidates):
            earlier = any(line.splits <= other.splits for other in candidates[:k])
            if not earlier and not any(line.splits < other.splits for other in candidates[k + 1 :]):
                lines.append(line)
    return lines


def ranked_alike(every: Sequence[Curve]) -> list[list[Curve]]:
    """Curves (an ordering's seeds together), grouped where they have the same splits."""
    groups: dict[tuple[tuple[Split, ...], ...], list[Curve]] = {}
    for _, group in groupby(every, lambda c: c.ordering):
        same = list(group)
        groups.setdefault(tuple(c.splits for c in same), []).extend(same)
    return list(groups.values())


def line_of(
    orderings: tuple[str, ...],
    quantizer: str,
    seeds: Sequence[Curve],
    known: Mapping[Split, Evaluation],
    metric: str,
    limit: int | None,
) -> Line | None:
    """The line through the seeds of which enough is known, at the steps that all of these share: a
    mean over other seeds at every step would not compare. None where no seed is known enough."""
    last = len(seeds[0].splits) - 1
    steps = [[k for k, split in enumerate(c.splits) if split in known] for c in seeds]
    enough = [joined(of, last) for of in steps]
    if not any(enough):
        return None
    seeds = list(compress(seeds, enough))
    shared = sorted(set.intersection(*map(set, compress(steps, enough))))
    if not joined(shared, last):
        return None
    points = tuple(
        measured_point(
            k, [known[split] for split in dict.fromkeys(c.splits[k] for c in seeds)], metric
        )
        for k in shared
    )
    return Line(orderings, quantizer, tuple(seeds), points, stride_of(shared, last), limit)


def stride_of(steps: Sequence[int], last: int) -> int:
    """1, or the n of a sweep of every n-th step, of which all are there. A grid of fewer than four
    points, or so wide that more than a quarter of the curve lies between two, is no sweep; nor is
    one that lies in a crowd of other points, whose gaps are gaps."""
    there = set(steps)
    for stride in range(2, max(4, last // 4) + 1):
        grid = {*range(0, last, stride), last}
        if grid <= there and len(grid) > FEWEST and 2 * len(there) <= 3 * len(grid):
            return stride
    return 1


def joined(steps: Sequence[int], last: int) -> bool:
    """Whether these steps of a curve make a line: a third of the curve lies on stretches of three
    neighbours or more."""
    stride, stretches = stride_of(steps, last), [list(steps[:1])]
    for a, b in pairwise(steps):
        if b - a > stride:
            stretches.append([])
        stretches[-1].append(b)
    covered = sum(s[-1] - s[0] for s in stretches if len(s) >= FEWEST)
    return covered > 0 and 3 * covered >= last


def has_own(line: Line, every: Sequence[Curve]) -> bool:
    """Whether a stretch of the line has a split that no other ordering gives."""
    others = {split for c in every if c.ordering not in line.orderings for split in c.splits}
    stretches = [s for s in line.stretches if len(s) >= FEWEST]
    return any(e.split not in others for s in stretches for p in s for e in p.evaluations)


def measured_point(step: int, measured: Sequence[Evaluation], metric: str) -> Point:
    metrics = [e.metrics[metric] for e in measured]
    values = [m.value for m in metrics]
    errors = [m.stderr for m in metrics if m.stderr is not None]
    # Splits share their items, so their mean is not known better than one of them.
    mean = Metric(fmean(values), fmean(errors) if errors else None, min(m.n for m in metrics))
    return Point(step, tuple(measured), mean, stdev(values) if len(values) > 1 else None)


@dataclass(frozen=True)
class Kept:
    """Where a curve first loses more than a share: between `high` and `low` (average bits or
    bytes). `low` is None where it may not be lost at all in what was measured; both are None where
    it is not, by more than the error."""

    high: float | None
    low: float | None


def kept(points: Sequence[tuple[float, float, float]]) -> Kept | None:
    """From (x, margin, error) of neighbouring points, from all-high down: `margin` is how far the
    value is on the good side of the bound, `error` its standard error. The range reaches from where
    margin - error first falls below 0 to where margin + error does, and holds the two points that
    the curve itself crosses the bound between. None for fewer than six points, or where the first
    is not above its error."""
    if len(points) < FEWEST_SAID or not points[0][1] > points[0][2]:
        return None
    high = first_below([(x, margin - error) for x, margin, error in points])
    low = first_below([(x, margin + error) for x, margin, error in points])
    for (x0, *_), (x1, margin, _) in pairwise(points):
        if margin < 0:
            high = max(x0, high if high is not None else x0)
            low = min(x1, low) if low is not None else None
            break
    return Kept(high, low)


def first_below(points: Sequence[tuple[float, float]]) -> float | None:
    """The x at which a line through the points first falls below 0; None where it does not."""
    for (x0, y0), (x1, y1) in pairwise(points):
        if y1 < 0:
            return x0 + (x1 - x0) * y0 / (y0 - y1)
    return None


@dataclass(frozen=True)
class Expected:
    """A metric at a position of the slider: measured there, or interpolated between neighbours.
    `base` is the unquantized model's, where the error is that of the difference to it."""

    value: float
    stderr: float | None
    measured: bool
    base: float | None = None


def expected(
    known: Mapping[int, Metric], count: int, base: float | None = None
) -> list[Expected | None]:
    """For each of `count` neighbouring splits what was measured (`known`: position -> metric), or
    the straight line between the nearest positions that were. Its error is the straight line
    between theirs, since neighbours share their items. None beyond the outermost, and where more
    than a quarter of the splits lies between: a line from all-low to all-high says nothing."""
    found: list[Expected | None] = [None] * count
    places = sorted(known)
    for place in places:
        found[place] = Expected(known[place].value, known[place].stderr, True, base)
    for left, right in pairwise(places):
        a, b = known[left], known[right]
        if right - left > max(2, count // 4):
            continue
        for k in range(left + 1, right):
            t = (k - left) / (right - left)
            error = None
            if a.stderr is not None and b.stderr is not None:
                error = a.stderr * (1 - t) + b.stderr * t
            found[k] = Expected(a.value * (1 - t) + b.value * t, error, False, base)
    return found
