"""A sketch of how long tasks took: counts in bins that grow by a factor, so quantiles of any number in one row.

    bin 0      up to 1/16 s: nobody plans for less
    bin k      up to 1/16 s * 2^(k/8), so a quantile is at most 9 % too high, and never too low
    the last   everything over 12 days

Two sketches are added up bin by bin. Old tasks fade: at ``_TASKS_MAX`` all counts are halved, so a function that
became slower is known to be slower after some thousand calls.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from math import frexp, log2

#: the upper end of the first bin, seconds
FIRST_S = 1 / 16
_PER_OCTAVE = 8
BINS = 24 * _PER_OCTAVE + 1
_TASKS_MAX = 4096
_ENDS_S: list[float] = [FIRST_S * 2.0 ** (k / _PER_OCTAVE) for k in range(BINS)]
_GROWTH: float = 2.0 ** (1 / _PER_OCTAVE)
_WIDTH = 4
#: while ranks are kept for a task: the share of tasks that end within what one is thought to take that is put in front,
#: and within what is left of one that runs. The first is smaller: seldom more is lost by one that takes longer than by
#: ranks that do nothing (perf/README.md, Decisions)
IN_FRONT, RUNNING = 0.8, 0.99


def size_class(size: float) -> int:
    """Size hints within a factor of two are one class; 0: there is no hint.

    >>> size_class(0), size_class(1), size_class(1000), size_class(1024)
    (0, 65, 74, 75)
    """
    return max(1, min(127, 64 + frexp(size)[1])) if size > 0 else 0


class Sketch:
    """Cost: 0.2 us for each task over 1/16 s; a quantile takes a pass over the bins."""

    __slots__ = ("counts", "total")

    def __init__(self, counts: bytes = b"") -> None:
        """``counts``: what ``packed`` gave; of another length: nothing."""
        self.counts = array("I", counts if len(counts) == _WIDTH * BINS else bytes(_WIDTH * BINS))
        self.total = sum(self.counts)

    def add(self, seconds: Sequence[float]) -> None:
        counts = self.counts
        if seconds and max(seconds) <= FIRST_S:
            counts[0] += len(seconds)
        else:
            for value in seconds:
                # a NaN from outside compares as false, and is nothing
                counts[_bin(value) if value > FIRST_S else 0] += 1
        self.total += len(seconds)
        if self.total > _TASKS_MAX:
            self.counts = array("I", [count // 2 for count in counts])
            self.total = sum(self.counts)

    def merge(self, other: Sketch) -> None:
        self.counts = array("I", map(int.__add__, self.counts, other.counts))
        self.total += other.total

    def quantile(self, share: float) -> float:
        """Seconds within which this share of the tasks ended; 0: there are none."""
        wanted = share * self.total
        seen = 0
        for k, count in enumerate(self.counts):
            seen += count
            if seen >= wanted and seen:
                return _ENDS_S[k]
        return 0.0

    def at_least(self, share: float) -> float:
        """The lower end of the bin that ``quantile`` names."""
        return self.quantile(share) / _GROWTH

    def rest(self, share: float, age_s: float) -> float:
        """Of the tasks that took so long at least: within how many more seconds this share of them ended.

        If there are none, half of what it has run already.
        """
        first = _bin(age_s) if age_s > FIRST_S else 0
        older = self.counts[first:]
        wanted = share * sum(older)
        seen = 0
        for k, count in enumerate(older, first):
            seen += count
            if seen >= wanted and seen:
                return max(0.0, _ENDS_S[k] - age_s)
        return age_s / 2

    def packed(self) -> bytes:
        return self.counts.tobytes()


def _bin(seconds: float) -> int:
    """The first bin whose upper end is not below."""
    if seconds >= _ENDS_S[-1]:
        return BINS - 1
    k = max(0, int(_PER_OCTAVE * log2(seconds / FIRST_S)))
    while _ENDS_S[k] < seconds:
        k += 1
    return k
