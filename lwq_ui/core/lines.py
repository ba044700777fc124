"""Lines: what was measured of the orderings' curves (paper section 5 and figures 2 to 5)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress, groupby, pairwise
from statistics import fmean, stdev

from .allocation import Split
from .curves import Curve
from .memory import UNTOUCHED
from .orderings import ALIKE, ALIKE_TITLE, ORDERINGS
from .schema import Evaluation, Metric

FEWEST = 3  # neighbours that make a line: both ends lie on every ordering


@dataclass(frozen=True)
class Point:
    """A step of a line: one evaluation, or one per random order. `metric` is their mean, `spread`
    the standard deviation between the random orders."""

    step: int
    evaluations: tuple[Evaluation, ...]
    metric: Metric
    spread: float | None

    @property
    def split(self) -> Split:
        """The first evaluation's."""
        return self.evaluations[0].split


@dataclass(frozen=True)
class Line:
    """What one quantizer was measured to give on the splits of an ordering, from all-high down.

    `orderings` are several where they rank the layers alike. `curves` are all of the splits: one
    curve, or one per seed. `limit` is the number of items that each evaluation used.

    Points at most `stride` steps apart are neighbours. Between others lies a gap, of which nothing
    is known.
    """

    orderings: tuple[str, ...]
    quantizer: str
    curves: tuple[Curve, ...]
    points: tuple[Point, ...]
    stride: int = 1
    limit: int | None = None

    @property
    def title(self) -> str:
        """'LIM = Block influence': only the first title keeps what it has in brackets."""
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
        """Whether it reaches from all-high to all-low without a gap."""
        last = len(self.curves[0].splits) - 1
        whole = self.from_all_high and self.points[-1].step == last
        return whole and not any(gaps(self.points, self.stride))


def gaps(points: Sequence[Point], stride: int) -> list[bool]:
    return [b.step - a.step > stride for a, b in pairwise(points)]


def measured_lines(
    evaluations: Sequence[Evaluation], metric: str, curves: Sequence[Curve]
) -> list[Line]:
    """Returns one line per ordering, quantizer and limit of which enough was measured. The seeds of
    a seeded ordering share a line, and so do orderings that rank the layers alike.

    Nothing says for which ordering a split was measured, and many splits lie on several. So an
    ordering has no line where only scattered splits of it were measured. It has none either where
    all of them lie on another line.
    """
    lines: list[Line] = []
    for quantizer, limit, results in by_quantizer_and_limit(evaluations, metric):
        own = [c for c in curves if c.quantizer in ("", quantizer)]
        candidates = []
        for same in ranked_alike(own):
            orderings = tuple(dict.fromkeys(c.ordering for c in same))
            seeds = tuple(c for c in same if c.ordering == orderings[0])
            line = line_of(orderings, quantizer, seeds, results, metric, limit)
            if line and (line.complete or has_own(line, own)):
                candidates.append(line)
        for k, line in enumerate(candidates):
            earlier = any(line.splits <= other.splits for other in candidates[:k])
            if not earlier and not any(line.splits < other.splits for other in candidates[k + 1 :]):
                lines.append(line)
    return lines


def by_quantizer_and_limit(
    evaluations: Sequence[Evaluation], metric: str
) -> Iterator[tuple[str, int | None, dict[Split, Evaluation]]]:
    """Yields the results of each quantizer at each limit, by split. The unquantized model's result
    at that limit belongs to all of them."""
    # Of the same split, the one on more items stays.
    ranked = sorted(evaluations, key=lambda e: e.metrics[metric].n)
    groups: dict[tuple[str, int | None], dict[Split, Evaluation]] = {}
    for e in ranked:
        if set(e.split) != {UNTOUCHED}:
            groups.setdefault((e.quantizer, e.limit), {})[e.split] = e
    for quantizer, limit in sorted(groups, key=lambda group: (group[0], str(group[1]))):
        untouched = {e.split: e for e in ranked if set(e.split) == {UNTOUCHED} and e.limit == limit}
        yield quantizer, limit, groups[quantizer, limit] | untouched


def ranked_alike(curves: Sequence[Curve]) -> list[list[Curve]]:
    """Returns the curves, an ordering's seeds together, grouped where they have the same splits."""
    groups: dict[tuple[tuple[Split, ...], ...], list[Curve]] = {}
    for _, group in groupby(curves, lambda c: c.ordering):
        same = list(group)
        groups.setdefault(tuple(c.splits for c in same), []).extend(same)
    return list(groups.values())


def line_of(
    orderings: tuple[str, ...],
    quantizer: str,
    seeds: Sequence[Curve],
    results: Mapping[Split, Evaluation],
    metric: str,
    limit: int | None,
) -> Line | None:
    """Returns the line through the seeds of which enough was measured, None where no seed has
    enough. It has the steps that all of these share: a mean over other seeds at each step would not
    compare."""
    last = len(seeds[0].splits) - 1
    measured = [[k for k, split in enumerate(c.splits) if split in results] for c in seeds]
    enough = [joined(steps, last) for steps in measured]
    if not any(enough):
        return None
    seeds = list(compress(seeds, enough))
    shared = sorted(set.intersection(*map(set, compress(measured, enough))))
    if not joined(shared, last):
        return None
    points = tuple(
        measured_point(
            k, [results[split] for split in dict.fromkeys(c.splits[k] for c in seeds)], metric
        )
        for k in shared
    )
    return Line(orderings, quantizer, tuple(seeds), points, stride_of(shared, last), limit)


def stride_of(steps: Sequence[int], last: int) -> int:
    """Returns the n of a sweep of every n-th step, all of whose steps were measured; 1 otherwise.

    A grid of fewer than four points is no sweep. Neither is one so wide that more than a quarter of
    the curve lies between two points. Nor is one in a crowd of other points, whose gaps are gaps.
    """
    measured = set(steps)
    for stride in range(2, max(4, last // 4) + 1):
        grid = {*range(0, last, stride), last}
        if grid <= measured and len(grid) > FEWEST and 2 * len(measured) <= 3 * len(grid):
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


def has_own(line: Line, curves: Sequence[Curve]) -> bool:
    """Whether a stretch of the line has a split that no other ordering gives."""
    others = {split for c in curves if c.ordering not in line.orderings for split in c.splits}
    stretches = [s for s in line.stretches if len(s) >= FEWEST]
    return any(e.split not in others for s in stretches for p in s for e in p.evaluations)


def measured_point(step: int, evaluations: Sequence[Evaluation], metric: str) -> Point:
    metrics = [e.metrics[metric] for e in evaluations]
    values = [m.value for m in metrics]
    errors = [m.stderr for m in metrics if m.stderr is not None]
    # Splits share their items, so their mean is not known better than one of them.
    mean = Metric(fmean(values), fmean(errors) if errors else None, min(m.n for m in metrics))
    return Point(step, tuple(evaluations), mean, stdev(values) if len(values) > 1 else None)
