"""The queue: ready tasks as ranges, by request class.

Tasks with the same socket, code, priority and time limit are one class; cost follows classes and ranges, not
tasks. A job with a limit on how many of its tasks run at once is a class of its own. Higher priorities first; classes
of one priority take turns. A task tried again comes first in its class, and prefers a node other than the one where it
failed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from pyfi_hpc.core.jobs import Batch, Job, Trouble
from pyfi_hpc.model.budgets import ELSEWHERE
from pyfi_hpc.model.ids import BatchId, CodeId, NodeName, SocketId
from pyfi_hpc.model.states import TaskState

#: how many ranges of retried tasks are looked through for one that may run on this node
_RETRY_SCAN_MAX = 64
#: batches whose payload is asked for at once
_LOAD_MAX = 64


@dataclass(frozen=True, slots=True)
class ClassKey:
    socket: SocketId
    code: CodeId
    priority: int
    time_limit_s: float
    #: a job that says how many of its tasks may run at once is a class of its own; 0: any other
    job: int
    #: what its tasks need, see model/terms.py
    terms: bytes = b""


def _any_number(_key: ClassKey) -> int:
    return 1 << 30


@dataclass(slots=True)
class RequestClass:
    """Ready ranges of equal tasks. ``ready`` counts tasks in them that are really PENDING."""

    key: ClassKey
    #: whose limit holds for it, see ``ClassKey.job``
    job: Job | None
    fresh: deque[tuple[Batch, int, int]] = field(default_factory=deque)
    retries: deque[tuple[Batch, int]] = field(default_factory=deque)
    ready: int = 0


@dataclass(slots=True)
class Pick:
    """Tasks taken from the queue, all at one attempt."""

    batch: Batch
    lo: int
    hi: int
    attempt: int


class ReadyQueue:
    """Ready tasks.

    Invariant: ``ready`` of a class is the number of its tasks in state PENDING that lie in its ranges.
    Cancelled tasks stay in the ranges and are passed over.
    """

    def __init__(self) -> None:
        self._classes: dict[ClassKey, RequestClass] = {}
        #: classes in the order in which they are looked at: by priority, then by turn
        self._turns: dict[int, deque[RequestClass]] = {}
        self.ready = 0
        #: after a restart nothing is queued until agents have said what they still run: see Broker._end_recovery
        self.held = False
        #: tasks granted and not settled, per socket; and how many may be
        self.running: dict[SocketId, int] = {}
        self.concurrency: dict[SocketId, int] = {}
        #: batches whose payload must be read before they can be granted
        self.to_load: dict[BatchId, Batch] = {}
        #: batches whose payload was asked for and has not come: not asked for again
        self.loading: set[BatchId] = set()

    def push(self, batch: Batch, lo: int, hi: int) -> None:
        """Tasks ``lo`` to ``hi`` of a batch, all PENDING, are ready."""
        if lo < hi and not self.held:
            entry = self._class_of(batch)
            self._count(entry, hi - lo)
            if entry.fresh and entry.fresh[-1][0] is batch and entry.fresh[-1][2] == lo:
                # tasks of a batch that become ready one by one are one range, and one grant, all the same
                lo = entry.fresh.pop()[1]
            entry.fresh.append((batch, lo, hi))

    def push_first(self, batch: Batch, lo: int, hi: int) -> None:
        """The same, before all others of their class: these were granted once and handed back."""
        if self.held:
            return
        entry = self._class_of(batch)
        entry.fresh.appendleft((batch, lo, hi))
        self._count(entry, hi - lo)

    def push_retry(self, batch: Batch, offset: int) -> None:
        if self.held:
            return
        entry = self._class_of(batch)
        entry.retries.append((batch, offset))
        self._count(entry, 1)

    def withdrawn(self, batch: Batch, count: int) -> None:
        """So many PENDING tasks of the batch were settled without running."""
        entry = self._classes.get(_key_of(batch))
        if entry is not None and not self.held:
            self._count(entry, -count)

    def started(self, batch: Batch, count: int) -> None:
        self.running[batch.socket] = self.running.get(batch.socket, 0) + count
        batch.job.granted += count

    def ended(self, batch: Batch, count: int) -> None:
        self.running[batch.socket] -= count
        batch.job.granted -= count

    def take(
        self, node: NodeName, tasks_max: int, bytes_max: int, only_node: bool, since: float = float("inf"),
        room_on: Callable[[ClassKey], int] = _any_number,
    ) -> Pick | None:
        """The next range for this node, or None. Cost: constant per call, and per range passed over.

        ``room_on`` says how many tasks of a class this node may get now. A task is not tried again where it failed
        while another node has room; nor, if the place may be to blame and it failed after ``since`` (UTC), while there
        is another node at all.
        """
        for priority in sorted(self._turns, reverse=True):
            turns = self._turns[priority]
            for _ in range(len(turns)):
                entry = turns[0]
                turns.rotate(-1)
                if entry.ready == 0:
                    self._retire(entry)
                    continue
                room = min(self._room(entry), room_on(entry.key))
                if room <= 0:
                    continue
                pick = self._take_of(entry, node, min(tasks_max, room), bytes_max, only_node, since)
                if pick is not None:
                    self._count(entry, pick.lo - pick.hi)
                    return pick
        return None

    def may_grant(self) -> bool:
        """A task is ready and no limit holds it back. Cost: constant for each class that is at its limit."""
        return self.ready > 0 and any(entry.ready and self._room(entry) > 0 for entry in self._classes.values())

    def backlog(self) -> Iterator[tuple[ClassKey, int, int]]:
        """Classes with ready tasks: how many, and how many of them the limits of job and socket let run now."""
        for key, entry in self._classes.items():
            if entry.ready:
                yield key, entry.ready, max(0, min(entry.ready, self._room(entry)))

    def line(self, batch: Batch, offset: int, turn_tasks: int) -> Iterator[tuple[ClassKey, int]]:
        """Classes, and how many tasks of each ``take`` gives away before this one, at most; turns are of so many tasks.

        Cost: a look at each class, and at the ranges before the task in its own.
        """
        own = _key_of(batch)
        before = _before(self._classes.get(own), batch, offset)
        for priority, turns in self._turns.items():
            most = 1 << 62 if priority > own.priority else (before // turn_tasks + 1) * turn_tasks
            for entry in turns if priority >= own.priority else ():
                count = before if entry.key == own else min(entry.ready, self._room(entry), most)
                if count > 0:
                    yield entry.key, count

    def topped(self, priority: int) -> bool:
        """Whether a task of a higher priority is ready and may run."""
        return any(
            entry.ready and self._room(entry) > 0
            for higher, turns in self._turns.items() if higher > priority for entry in turns
        )  # fmt: skip

    def highest(self) -> int:
        """The highest priority of all that is ready, also of what a limit holds back."""
        return max(key.priority for key, entry in self._classes.items() if entry.ready)

    def _take_of(
        self, entry: RequestClass, node: NodeName, tasks_max: int, bytes_max: int, only_node: bool, since: float
    ) -> Pick | None:
        pick = self._take_retry(entry, node, only_node, since)
        if pick is not None:
            return pick
        fresh = entry.fresh
        while fresh:
            batch, lo, hi = fresh[0]
            lo, run = _first_run(batch, lo, hi)
            if lo == run:
                fresh.popleft()
                continue
            if batch.payload is None:
                self._ask_for_payloads(fresh)
                return None
            end = _cut_to_size(batch, lo, min(run, lo + tasks_max), bytes_max)
            if end < hi:
                fresh[0] = (batch, end, hi)
            else:
                fresh.popleft()
            return Pick(batch, lo, end, 1 if batch.trouble is None else batch.attempt(lo))
        return None

    def _take_retry(self, entry: RequestClass, node: NodeName, only_node: bool, since: float) -> Pick | None:
        for _ in range(min(len(entry.retries), _RETRY_SCAN_MAX)):
            batch, offset = entry.retries.popleft()
            if batch.states[offset] != TaskState.PENDING:
                continue
            if batch.payload is None:
                self._load(batch)
            elif batch.trouble is None or may_go(batch.trouble[offset], node, only_node, since):
                return Pick(batch, offset, offset + 1, batch.attempt(offset))
            entry.retries.append((batch, offset))
        return None

    def _ask_for_payloads(self, fresh: deque[tuple[Batch, int, int]]) -> None:
        for index, (batch, _, _) in enumerate(fresh):
            if index == _LOAD_MAX:
                break
            if batch.payload is None:
                self._load(batch)

    def _load(self, batch: Batch) -> None:
        if batch.id not in self.loading:
            self.to_load[batch.id] = batch

    def _room(self, entry: RequestClass) -> int:
        socket, job = entry.key.socket, entry.job
        limit = self.concurrency.get(socket, 0)
        room = limit - self.running.get(socket, 0) if limit else 1 << 30
        return room if job is None else min(room, job.at_once - job.granted)

    def _class_of(self, batch: Batch) -> RequestClass:
        key = _key_of(batch)
        entry = self._classes.get(key)
        if entry is None:
            entry = self._classes[key] = RequestClass(key, batch.job if key.job else None)
            self._turns.setdefault(key.priority, deque()).append(entry)
        return entry

    def _retire(self, entry: RequestClass) -> None:
        """Drop an empty class, so that the number of classes follows the work, not the history."""
        del self._classes[entry.key]
        turns = self._turns[entry.key.priority]
        turns.remove(entry)
        if not turns:
            del self._turns[entry.key.priority]

    def _count(self, entry: RequestClass, change: int) -> None:
        entry.ready += change
        self.ready += change
        assert entry.ready >= 0


def _before(entry: RequestClass | None, batch: Batch, offset: int) -> int:
    """How many tasks of its class come before one that is PENDING."""
    count = 0
    for other, at in entry.retries if entry else ():
        if (other, at) == (batch, offset):
            return count
        count += other.states[at] == TaskState.PENDING
    for other, lo, hi in entry.fresh if entry else ():
        if other is batch and lo <= offset < hi:
            return count + other.states.count(TaskState.PENDING, lo, offset)
        count += other.states.count(TaskState.PENDING, lo, hi)
    return count


def may_go(trouble: Trouble, node: NodeName, only_node: bool, since: float) -> bool:
    """Whether a task may be tried again on this node."""
    last = trouble.ends[-1]
    return last.node != node or (only_node and (last.at <= since or last.cause not in ELSEWHERE))


def _key_of(batch: Batch) -> ClassKey:
    job = batch.job.id if batch.job.at_once else 0
    return ClassKey(batch.socket, batch.code, batch.priority, batch.time_limit_s, job, batch.terms)


def _first_run(batch: Batch, lo: int, hi: int) -> tuple[int, int]:
    """The first stretch of PENDING tasks with equal attempts in [lo, hi); empty: none."""
    states = batch.states
    if states.count(TaskState.PENDING, lo, hi) != hi - lo:
        lo = states.find(TaskState.PENDING, lo, hi)
        if lo < 0:
            return hi, hi
        run = lo + 1
        while run < hi and states[run] == TaskState.PENDING:
            run += 1
        hi = run
    if batch.trouble:
        troubled = [offset for offset in batch.trouble if lo <= offset < hi]
        if troubled:
            first = min(troubled)
            hi = first + 1 if first == lo else first
    return lo, hi


def _cut_to_size(batch: Batch, lo: int, hi: int, bytes_max: int) -> int:
    """The largest end <= hi such that the payload stays under the limit; at least one task."""
    assert batch.offsets is not None
    view = memoryview(batch.offsets).cast("I")
    if view[hi] - view[lo] <= bytes_max:
        return hi
    base = view[lo]
    low, high = lo + 1, hi
    while low < high:
        middle = (low + high + 1) // 2
        if view[middle] - base <= bytes_max:
            low = middle
        else:
            high = middle - 1
    return low
