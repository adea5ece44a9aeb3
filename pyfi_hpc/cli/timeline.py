"""What each rank did during a job, from what the ledger has of its tasks. Pure.

A slice is an attempt on a rank: one whose outcome became final, with the start and the duration that the runner
measured, or one that failed and was followed by another. Of the latter the ledger has only the end, so its start is the
earliest that is possible: the end of what ran before it on its rank, and no longer ago than its time limit. What is
lost to retries is therefore told as *at most*.

    opened ─ start-up ─┤ task ├ waiting ┤ task ├┤ failed attempt ├┤ task ├─ after the last ─ end of the job
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from pyfi_hpc.cli.spans import Span
from pyfi_hpc.model.states import Cause, TaskState

#: from the time limit to the end of what does not end by itself, seconds; see model.limits.Limits.kill_grace_s
_GRACE_S = 2.0


@dataclass(slots=True)
class Slice:
    """One attempt on one rank, seconds since 1970."""

    start: float
    end: float
    index: int
    attempt: int
    socket: str
    state: TaskState
    #: why the attempt failed and was followed by another; NONE: its outcome is final
    cause: Cause = Cause.NONE

    @property
    def lost(self) -> bool:
        return self.cause not in (Cause.NONE, Cause.CONTINUED)

    @property
    def word(self) -> str:
        return self.state.name if self.cause is Cause.NONE else self.cause.name


@dataclass(slots=True)
class Lane:
    """One rank: its slices by start."""

    node: str
    rank: int
    slices: list[Slice] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"{self.node} {self.rank}"


#: what a rank-second went to, in the order in which it is told: key, name
KINDS = (
    ("completed", "running: tasks that completed"),
    ("failed", "running: tasks that did not complete"),
    ("lost", "lost to attempts that were made again (at most)"),
    ("startup", "start-up: before its first task"),
    ("waiting", "waiting: between its tasks"),
    ("after", "after its last task"),
)


@dataclass(slots=True)
class Timeline:
    """All that ran of a job."""

    #: when the first of it was submitted, and when the last of it ended
    start: float
    end: float
    #: ranks by node and number
    lanes: list[Lane]
    #: attempts that failed on nobody knows which rank, with their nodes
    nowhere: list[tuple[str, Slice]]
    #: failed attempts by cause, also those that came too late
    causes: dict[str, int]
    #: final tasks by state, also those that never ran
    states: dict[str, int]

    @property
    def rank_seconds(self) -> float:
        return (self.end - self.start) * len(self.lanes)

    def slices(self) -> Iterator[tuple[Lane, Slice]]:
        return ((lane, one) for lane in self.lanes for one in lane.slices)


def build(opened_at: float, spans: Iterable[Span], attempts: Iterable[Sequence[Any]]) -> Timeline:
    """Sort what the desk told into ranks.

    Parameters
    ----------
    opened_at : float
        Seconds since 1970 by the broker's clock. A node whose clock is behind may have begun earlier: then it is that.
    attempts : iterable
        Rows of ``ledger.spans.list_attempts``, in order of their ends.
    """
    lanes: dict[tuple[str, int], Lane] = {}
    states: dict[str, int] = {}
    for span in spans:
        for state in set(span.states):
            word = TaskState(state).name
            states[word] = states.get(word, 0) + span.states.count(state)
        own = lanes.get((span.node, span.rank)) or Lane(span.node, span.rank)
        for at, (started, seconds) in enumerate(zip(span.started, span.durations, strict=True)):
            if started:
                state = TaskState(span.states[at])
                own.slices.append(
                    Slice(started, started + seconds, span.first + at, span.attempt, span.socket, state)
                )  # fmt: skip
        if own.slices:
            lanes[span.node, span.rank] = own
    for lane in lanes.values():
        lane.slices.sort(key=lambda one: one.start)
    first = min((lane.slices[0].start for lane in lanes.values()), default=opened_at)
    found = Timeline(min(opened_at, first), opened_at, [], [], {}, states)
    for row in attempts:
        _add_attempt(found, lanes, row)
    found.lanes = [lanes[key] for key in sorted(lanes)]
    found.end = max([opened_at, *(one.end for _, one in found.slices())])
    return found


def _add_attempt(found: Timeline, lanes: dict[tuple[str, int], Lane], row: Sequence[Any]) -> None:
    index, attempt, number, node, rank, failed_at, time_limit_s, socket = row
    cause = Cause(number)
    found.causes[cause.name] = found.causes.get(cause.name, 0) + 1
    if cause is Cause.STALE:  # it ran elsewhere meanwhile, and took nothing from this job
        return
    earliest = max(found.start, failed_at - time_limit_s - _GRACE_S) if time_limit_s else found.start
    # the next attempt went on from where this one was
    state = TaskState.COMPLETED if cause is Cause.CONTINUED else TaskState.PENDING
    one = Slice(earliest, max(failed_at, earliest), index, attempt, socket, state, cause)
    if rank < 0:
        found.nowhere.append((node, one))
        return
    slices = lanes.setdefault((node, rank), Lane(node, rank)).slices
    at = bisect_right(slices, failed_at, key=lambda other: other.start)
    if at and slices[at - 1].end > failed_at:
        # settled while the next task ran already: it lies before that one
        at -= 1
        one.end = max(slices[at].start, found.start)
    before = slices[at - 1].end if at else found.start
    one.start = min(max(one.start, before), one.end)
    slices.insert(at, one)


def spent(found: Timeline, lanes: Sequence[Lane] | None = None) -> dict[str, float]:
    """Rank-seconds by what they went to; together they are all there were: ranks times the length of the job."""
    totals = dict.fromkeys((key for key, _ in KINDS), 0.0)
    for lane in found.lanes if lanes is None else lanes:
        cursor = found.start
        for number, one in enumerate(lane.slices):
            # two clocks are read for each task: what overlaps by their error counts once
            start, end = max(one.start, cursor), max(one.end, cursor)
            totals["waiting" if number else "startup"] += start - cursor
            kind = "lost" if one.lost else "completed" if one.state is TaskState.COMPLETED else "failed"
            totals[kind] += end - start
            cursor = end
        totals["after"] += max(0.0, found.end - cursor)
    return totals


def grid(found: Timeline, lanes: Sequence[Lane], columns: int) -> tuple[list[float], list[bool]]:
    """How busy some ranks were in each of so many equal stretches of the job (0 to 1), and where something failed.

    Cost: constant for each slice and for each column that it covers.
    """
    busy, failed = [0.0] * columns, [False] * columns
    width = (found.end - found.start) / columns
    if width <= 0:
        return busy, failed
    for lane in lanes:
        for one in lane.slices:
            low = min(int((one.start - found.start) / width), columns - 1)
            high = min(int((one.end - found.start) / width), columns - 1)
            if one.lost or one.state is not TaskState.COMPLETED:
                failed[high] = True
            for column in range(low, high + 1):
                left = found.start + column * width
                busy[column] += max(0.0, min(one.end, left + width) - max(one.start, left))
    return [min(1.0, seconds / (width * len(lanes))) for seconds in busy], failed


def rows_of(lanes: Sequence[Lane], rows_max: int) -> list[tuple[str, list[Lane]]]:
    """Ranks as rows of a picture; where they are too many, neighbours share one.

    >>> [name for name, _ in rows_of([Lane("a", 0), Lane("a", 1), Lane("b", 0)], 2)]
    ['a 0 to a 1', 'b 0']
    """
    each = -(-len(lanes) // rows_max) if lanes else 1
    groups = [list(lanes[at : at + each]) for at in range(0, len(lanes), each)]
    return [(g[0].name if len(g) == 1 else f"{g[0].name} to {g[-1].name}", g) for g in groups]


@dataclass(slots=True)
class Function:
    """How long the final attempts of one function took, seconds."""

    socket: str
    count: int
    not_completed: int
    total_s: float
    mean_s: float
    median_s: float
    p95_s: float
    max_s: float


def functions(found: Timeline) -> list[Function]:
    """Those that took most first."""
    times: dict[str, list[float]] = {}
    bad: dict[str, int] = {}
    for _, one in found.slices():
        if not one.lost:
            times.setdefault(one.socket, []).append(one.end - one.start)
            bad[one.socket] = bad.get(one.socket, 0) + (one.state is not TaskState.COMPLETED)
    rows = []
    for socket, seconds in times.items():
        seconds.sort()
        total = sum(seconds)
        rows.append(Function(
            socket, len(seconds), bad[socket], total, total / len(seconds), quantile(seconds, 0.5),
            quantile(seconds, 0.95), seconds[-1],
        ))  # fmt: skip
    return sorted(rows, key=lambda row: -row.total_s)


def quantile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that is not below this share of them."""
    return ordered[max(0, -(-int(share * 1000) * len(ordered) // 1000) - 1)]


def slowest(found: Timeline, count: int) -> list[tuple[Lane, Slice]]:
    """Final attempts that took longest."""
    from heapq import nlargest

    return nlargest(count, (pair for pair in found.slices() if not pair[1].lost), key=lambda p: p[1].end - p[1].start)


def histogram(found: Timeline) -> list[tuple[float, float, int]]:
    """Durations of final attempts in steps of 1, 2, 5, 10: from, to, how many. Empty steps between others are kept."""
    edges = [float(f"{factor}e{power}") for power in range(-7, 8) for factor in (1, 2, 5)]
    counts = [0] * (len(edges) + 1)
    for _, one in found.slices():
        if not one.lost:
            counts[bisect_left(edges, one.end - one.start)] += 1
    seen = [at for at, count in enumerate(counts) if count]
    if not seen:
        return []
    bounds = [0.0, *edges, float("inf")]
    return [(bounds[at], bounds[at + 1], counts[at]) for at in range(seen[0], seen[-1] + 1)]
