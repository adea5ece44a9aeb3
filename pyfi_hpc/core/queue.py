"""The queue: ready tasks as ranges, by request class.

Tasks with the same socket, code, priority, time limit, size class and account are one class; cost follows classes and
ranges, not tasks. A job with a limit on how many of its tasks run at once is a class of its own. Higher priorities
first; within one priority the account whose turn it is by its share (core/shares.py), and of its classes the one that
was given the fewest rank-seconds. A task tried again comes first in its class, and prefers a node other than the one
where it failed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from itertools import islice

from pyfi_hpc.core.jobs import Batch, Job, Trouble
from pyfi_hpc.core.nodes import Grant, Node
from pyfi_hpc.core.shares import Account, Shares
from pyfi_hpc.model.budgets import ELSEWHERE
from pyfi_hpc.model.ids import BatchId, CodeId, GrantId, NodeName, SocketId
from pyfi_hpc.model.states import Cause, TaskState
from pyfi_hpc.model.terms import decode

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
    #: whose tasks they are: see core/shares.py
    project: str
    owner: str
    #: may be ended for tasks of a higher priority
    preemptible: bool
    #: what its tasks need, see model/terms.py
    terms: bytes = b""
    #: class of their size hint
    size: int = 0


@dataclass(slots=True)
class RequestClass:
    """Ready ranges of equal tasks. ``ready`` counts tasks in them that are really PENDING."""

    key: ClassKey
    #: whose limit holds for it, see ``ClassKey.job``
    job: Job | None
    line: Line
    #: rank-seconds that it was given, as its account's turns count them
    turn: float
    number: int  #: who was here first goes first
    width: int  #: ranks that a task takes, on a node with enough of them
    fresh: deque[tuple[Batch, int, int]] = field(default_factory=deque)
    retries: deque[tuple[Batch, int]] = field(default_factory=deque)
    ready: int = 0


@dataclass(slots=True, eq=False)
class Line:
    """The classes of one account at one priority, as a heap: by turn, then by number."""

    account: Account
    heap: list[tuple[float, int, RequestClass]] = field(default_factory=list)
    classes: int = 0
    turn: float = 0.0  #: of the class that was served last; a class that comes begins there


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

    def __init__(self, shares: Shares) -> None:
        self.shares = shares
        self._classes: dict[ClassKey, RequestClass] = {}
        #: lines in which classes wait, by priority and account
        self._turns: dict[int, dict[Account, Line]] = {}
        self._made = 0
        self.ready = 0
        #: after a restart nothing is queued until agents have said what they still run: see core/recovery.py
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
        if lo < hi and not self._keeps_out(batch):
            entry = self._class_of(batch)
            self._count(entry, hi - lo)
            if entry.fresh and entry.fresh[-1][0] is batch and entry.fresh[-1][2] == lo:
                # tasks of a batch that become ready one by one are one range, and one grant, all the same
                lo = entry.fresh.pop()[1]
            entry.fresh.append((batch, lo, hi))

    def push_first(self, batch: Batch, lo: int, hi: int) -> None:
        """The same, before all others of their class: these were granted once and handed back."""
        if self._keeps_out(batch):
            return
        entry = self._class_of(batch)
        entry.fresh.appendleft((batch, lo, hi))
        self._count(entry, hi - lo)

    def push_retry(self, batch: Batch, offset: int) -> None:
        if self._keeps_out(batch):
            return
        entry = self._class_of(batch)
        entry.retries.append((batch, offset))
        self._count(entry, 1)

    def withdrawn(self, batch: Batch, count: int) -> None:
        """So many PENDING tasks of the batch were settled without running."""
        entry = self._classes.get(key_of(batch))
        if entry is not None and not self._keeps_out(batch):
            self._count(entry, -count)

    def withdraw(self, job: Job) -> None:
        """Nothing of a job is ready any more: it is on hold. Cost: a look at each range of its classes."""
        pending = TaskState.PENDING
        for key in {key_of(batch) for batch in job.batches}:
            entry = self._classes.get(key)
            if entry is None:
                continue
            gone = sum(b.states.count(pending, lo, hi) for b, lo, hi in entry.fresh if b.job is job)
            gone += sum(b.states[offset] == pending for b, offset in entry.retries if b.job is job)
            entry.fresh = deque(part for part in entry.fresh if part[0].job is not job)
            entry.retries = deque(part for part in entry.retries if part[0].job is not job)
            self._count(entry, -gone)
            if not entry.ready:  # at once: what is on hold waits for no share
                entry.line.heap = [waiting for waiting in entry.line.heap if waiting[2] is not entry]
                heapify(entry.line.heap)
                self._retire(entry)

    def _keeps_out(self, batch: Batch) -> bool:
        """What becomes ready now is queued later: see core/recovery.py and core/holds.py."""
        return self.held or batch.job.on_hold

    def started(self, grant: Grant, first: bool = True) -> None:
        """A node holds these tasks; their account is charged with what they are expected to take.

        ``first``: no other node has them already, as a part of a gang.
        """
        batch, count = grant.batch, grant.open
        if first:
            self.running[batch.socket] = self.running.get(batch.socket, 0) + count
            batch.job.granted += count
        account = self.shares.of(batch.job.project, batch.job.owner)
        grant.charge = self.shares.begin(account, batch.socket, count, grant.ranks)

    def runs(self, node: Node, now: float) -> None:
        """A node has told what runs there: what runs for longer than was expected is charged. Cost: a look at each."""
        seconds: dict[int, float] = {}
        for (grant, _), since in node.running.items():
            seconds[grant] = seconds.get(grant, 0.0) + now - since
        for number, long_s in seconds.items():
            if (found := node.grants.get(GrantId(number))) is not None and found.charge is not None:
                self.shares.runs(found.charge, long_s)

    def ended(self, batch: Batch, count: int) -> None:
        """So many tasks are at no node any more."""
        self.running[batch.socket] -= count
        batch.job.granted -= count

    def freed(self, grant: Grant, count: int, took_s: float = 0.0) -> None:
        """So many of the open tasks of a grant are not at its node any more; they took so many seconds together."""
        assert grant.charge is not None
        if count:
            self.shares.end(grant.charge, count, grant.open + count, took_s)

    def take(
        self, node: NodeName, tasks_max: int, bytes_max: int, only_node: bool, since: float = float("inf"),
        room_on: Callable[[ClassKey], int] = lambda _key: 1 << 30, left_s: float = float("inf"),
    ) -> Pick | None:
        """The next range for this node, or None. Cost: constant per call, and per account, class and range passed over.

        ``room_on`` says how many tasks of a class this node may get now. A task is not tried again where it failed
        while another node has room; nor, if the place may be to blame and it failed after ``since`` (UTC), while there
        is another node at all. ``left_s``: until the node's end.
        """
        for priority in sorted(self._turns, reverse=True):
            for line, most_s in self.shares.in_order(list(self._turns[priority].values())):
                passed: list[tuple[float, int, RequestClass]] = []
                pick = None
                while line.heap and pick is None:
                    turn, number, entry = heappop(line.heap)
                    if entry.ready == 0:
                        self._retire(entry)
                        continue
                    each = self._each_s(entry)
                    room = min(self._room(entry), room_on(entry.key), tasks_max)
                    if room > 0:
                        room = max(1, int(min(room, most_s / each)))
                        pick = self._take_of(entry, node, room, bytes_max, only_node, since, left_s)
                    if pick is not None:
                        line.turn = max(line.turn, turn)  # one that was passed over is not owed what it could not take
                        turn = entry.turn = line.turn + each * (pick.hi - pick.lo)
                        self._count(entry, pick.lo - pick.hi)
                    passed.append((turn, number, entry))
                for waiting in passed:
                    heappush(line.heap, waiting)
                if pick is not None:
                    return pick
        return None

    def may_grant(self) -> bool:
        """A task is ready and no limit holds it back. Cost: constant for each class that is at its limit."""
        return self.ready > 0 and any(entry.ready and self._room(entry) > 0 for entry in self._classes.values())

    def wants(self, key: ClassKey) -> bool:
        """Whether tasks of a class are ready and no limit holds them back."""
        return (entry := self._classes.get(key)) is not None and entry.ready > 0 and self._room(entry) > 0

    def backlog(self) -> Iterator[tuple[ClassKey, int, int]]:
        """Classes with ready tasks: how many, and how many of them the limits of job and socket let run now."""
        for key, entry in self._classes.items():
            if entry.ready:
                yield key, entry.ready, max(0, min(entry.ready, self._room(entry)))

    def line(self, batch: Batch, offset: int, turn_tasks: int) -> Iterator[tuple[ClassKey, int, int]]:
        """Classes, and how many tasks of each ``take`` gives away before this one: at most, and likely.

        What is likely leaves out that a class takes up to so many tasks in one turn. Cost: a look at each class, and at
        the ranges before the task in its own.
        """
        own = key_of(batch)
        entry = self._classes.get(own)
        before = _before(entry, batch, offset)
        #: what its account, and others of its project, are given first
        own_s = project_s = 0.0
        for priority, lines in self._turns.items():
            if priority > own.priority:
                for other in (other for line in lines.values() for _, _, other in line.heap):
                    if (count := min(other.ready, self._room(other))) > 0:
                        yield other.key, count, count
                        if other.key.project == own.project:
                            seconds = count * self._each_s(other)
                            project_s += seconds
                            own_s += seconds if other.key.owner == own.owner else 0.0
        for other, most, likely in self._beside(entry, before, turn_tasks, own_s, project_s) if entry else ():
            if most > 0:
                yield other.key, most, likely

    def _beside(
        self, own: RequestClass, before: int, turn_tasks: int, own_s: float, project_s: float
    ) -> Iterator[tuple[RequestClass, int, int]]:
        """Of the classes of a priority, the tasks that come before one with so many before it in its own class."""
        mine, seconds = own.line.account, before * self._each_s(own)
        yield own, before, before
        end = max(own.turn, own.line.turn) + seconds
        for other in (other for _, _, other in own.line.heap if other is not own):
            each = self._each_s(other)
            there = min(other.ready, self._room(other))
            gap = end - max(other.turn, own.line.turn)
            likely = max(0, min(there, 1 + int(gap / each))) if gap >= 0 else 0
            most = min(there, likely + turn_tasks) if gap >= 0 else 0
            seconds += most * each
            yield other, most, likely
        lines = self._turns[own.key.priority].values()
        own_s, project_s = own_s + seconds, project_s + seconds
        for line in sorted(lines, key=lambda line: line.account.project is not mine.project):
            if line is own.line:
                continue
            room_s = self.shares.before_s(mine, own_s, project_s, line.account)
            for _, _, other in line.heap:
                each = self._each_s(other)
                most = min(other.ready, self._room(other), 1 + int(room_s / each)) if room_s > 0 else 0
                if line.account.project is mine.project:
                    project_s += max(most, 0) * each
                if most > 0:
                    yield other, most, most

    def topped(self, priority: int) -> bool:
        """Whether a task of a higher priority is ready and may run."""
        return any(
            entry.ready and self._room(entry) > 0
            for higher, lines in self._turns.items() if higher > priority
            for line in lines.values() for _, _, entry in line.heap
        )  # fmt: skip

    def waiting(
        self, node: NodeName, above: int, only_node: bool, since: float, room_on: Callable[[ClassKey], int]
    ) -> list[tuple[ClassKey, int]]:
        """Of what has a priority above, and ``take`` would give to this node: classes and the ranks that they want."""
        found = []
        for entry in self._classes.values():
            if entry.key.priority <= above or entry.ready == 0:
                continue
            count = min(entry.ready, self._room(entry), room_on(entry.key))
            if count > 0 and self._goes(entry, node, only_node, since):
                found.append((entry.key, count * entry.width))
        return found

    def _goes(self, entry: RequestClass, node: NodeName, only_node: bool, since: float) -> bool:
        troubles = (
            batch.trouble[offset] for batch, offset in islice(entry.retries, _RETRY_SCAN_MAX) if batch.trouble
        )
        return bool(entry.fresh) or any(may_go(trouble, node, only_node, since) for trouble in troubles)

    def behind(self, batch: Batch) -> Account | None:
        """Another account whose turn it is before this batch's, at its priority: it has used less of its share."""
        lines = self._turns.get(batch.priority, {})
        for line, _ in self.shares.in_order(list(lines.values())) if len(lines) > 1 else ():
            if (line.account.project.name, line.account.name) == (batch.job.project, batch.job.owner):
                return None
            if any(entry.ready and self._room(entry) > 0 for _, _, entry in line.heap):
                return line.account
        return None

    def highest(self) -> int:
        """The highest priority of all that is ready, also of what a limit holds back."""
        return max(key.priority for key, entry in self._classes.items() if entry.ready)

    def _take_of(
        self, entry: RequestClass, node: NodeName, tasks_max: int, bytes_max: int, only_node: bool, since: float,
        left_s: float,
    ) -> Pick | None:  # fmt: skip
        pick = self._take_retry(entry, node, only_node, since, left_s)
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

    def _take_retry(
        self, entry: RequestClass, node: NodeName, only_node: bool, since: float, left_s: float
    ) -> Pick | None:
        for _ in range(min(len(entry.retries), _RETRY_SCAN_MAX)):
            batch, offset = entry.retries.popleft()
            if batch.states[offset] != TaskState.PENDING:
                continue
            if batch.payload is None:
                self._load(batch)
            elif batch.trouble is None or may_go(batch.trouble[offset], node, only_node, since, left_s):
                return Pick(batch, offset, offset + 1, batch.attempt(offset))
            entry.retries.append((batch, offset))
        return None

    def _ask_for_payloads(self, fresh: deque[tuple[Batch, int, int]]) -> None:
        for batch, _, _ in islice(fresh, _LOAD_MAX):
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
        key = key_of(batch)
        entry = self._classes.get(key)
        if entry is None:
            account = self.shares.of(key.project, key.owner)
            lines = self._turns.setdefault(key.priority, {})
            line = lines.get(account)
            if line is None:
                self.shares.joined(account)
                line = lines[account] = Line(account)
            self._made += 1
            terms = decode(key.terms)
            entry = self._classes[key] = RequestClass(
                key, batch.job if key.job else None, line, line.turn, self._made, terms.members * terms.cores
            )
            line.classes += 1
            heappush(line.heap, (entry.turn, entry.number, entry))
        return entry

    def _each_s(self, entry: RequestClass) -> float:
        """Rank-seconds that a task of the class is expected to take."""
        return self.shares.expected_s(entry.key.socket) * entry.width

    def _retire(self, entry: RequestClass) -> None:
        """Drop an empty class, which is not in its line, so that their number follows the work, not the history."""
        del self._classes[entry.key]
        line, priority = entry.line, entry.key.priority
        line.classes -= 1
        if not line.classes:
            self.shares.left(line.account)
            del self._turns[priority][line.account]
            if not self._turns[priority]:
                del self._turns[priority]

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


def may_go(trouble: Trouble, node: NodeName, only_node: bool, since: float, left_s: float = float("inf")) -> bool:
    """Whether a task may be tried again on this node, which ends in ``left_s``: see core/walltime.py."""
    last = trouble.ends[-1]
    if trouble.needs_s > left_s:
        return False
    if last.cause == Cause.CONTINUED:
        return last.node != node or trouble.stays or left_s == float("inf")
    return last.node != node or (only_node and (last.at <= since or last.cause not in ELSEWHERE))


def key_of(batch: Batch) -> ClassKey:
    job = batch.job.id if batch.job.at_once else 0
    return ClassKey(
        batch.socket, batch.code, batch.priority, batch.time_limit_s, job, batch.job.project, batch.job.owner,
        batch.preemptible, batch.terms, batch.size,
    )  # fmt: skip


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
