"""Jobs and their batches: what was accepted and how far it is.

The hard state, changed only by ``apply``: a restart is ``apply`` of what the ledger holds. Inside a batch the
states are one byte a task; only a task that has failed before, or that waits for others, has an object.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pyfi_hpc.core.sketch import size_class
from pyfi_hpc.model.ids import BatchId, CodeId, GrantId, JobId, NodeName, Peer, SocketId
from pyfi_hpc.model.records import (
    AttemptFailed,
    BatchAdmitted,
    BatchClosed,
    DurationsLearned,
    FoundJob,
    HoldChanged,
    JobOpened,
    OutcomeSettled,
    Record,
)
from pyfi_hpc.model.states import FIRST_FINAL, Cause, OnFailure, TaskState

#: failed attempts of a task that are remembered one by one
_ENDS_MAX = 16


@dataclass(slots=True)
class End:
    """How an attempt failed, and where."""

    node: NodeName
    rank: int
    cause: Cause
    at: float  #: UTC


@dataclass(slots=True)
class Trouble:
    """What happened to a task that did not complete at once."""

    attempts: int = 0  #: attempts that were made and failed
    #: those by cause; what each is counted against stands in model/budgets.py
    counts: dict[Cause, int] = field(default_factory=dict)
    #: the last ones, oldest first; the next attempt goes elsewhere if it can
    ends: list[End] = field(default_factory=list)
    #: what the last attempt returned Continue with; empty: it did not
    state: bytes = b""
    #: soft, see core/walltime.py: time that the next attempt needs, seconds; and whether it may go on where it was
    needs_s: float = field(default=0.0, compare=False)
    stays: bool = field(default=False, compare=False)


class Batch:
    """``count`` tasks of a job, indexes ``first`` and up."""

    __slots__ = (
        "admitted", "code", "count", "first", "id", "job", "number", "offsets", "open", "payload", "preemptible",
        "priority", "retries", "size", "socket", "states", "terms", "time_limit_s", "trouble", "waiting",
    )  # fmt: skip

    def __init__(self, job: Job, record: BatchAdmitted) -> None:
        self.id = record.batch
        self.job = job
        self.number = record.number
        self.first = record.first
        self.count = record.count
        self.socket: SocketId = record.socket
        self.code: CodeId = record.code
        self.priority = record.priority
        self.retries = record.retries
        self.time_limit_s = record.time_limit_s
        self.terms = record.terms
        self.preemptible = record.preemptible
        #: class of its size hint
        self.size = size_class(record.size)
        #: one TaskState per task; RUNNING is soft, the ledger does not know it
        self.states = bytearray([TaskState.PENDING]) * record.count
        self.open = record.count  #: tasks that are not final
        #: None: not in memory, to be read from the ledger when its turn comes
        self.payload: bytes | None = None
        self.offsets: bytes | None = None
        self.trouble: dict[int, Trouble] | None = None
        #: what blocked or dependent tasks need, by offset; see core/graph.py
        self.waiting: dict[int, Need] | None = None

    def following(self) -> int:
        """Tasks that are granted before all that they take is there. Cost: a look at each that takes anything."""
        return sum(need.follow is not None and need.follow.granted for need in (self.waiting or {}).values())

    def attempt(self, offset: int) -> int:
        """Number of the attempt that comes next, from 1."""
        trouble = self.trouble.get(offset) if self.trouble else None
        return 1 if trouble is None else trouble.attempts + 1


@dataclass(slots=True)
class Follow:
    """What is known of a task whose missing results are being made on one node."""

    #: where; a ``core.nodes.Node``
    node: Any
    #: result -> (grant, offset in its batch) of the task that makes it there
    makers: dict[tuple[JobId, int], tuple[GrantId, int]] = field(default_factory=dict)
    #: the task itself is granted to that node, and counts as one of its followers
    granted: bool = False


@dataclass(slots=True)
class Need:
    """Results that one task waits for: ``slots[k]`` is the task whose result fills slot k."""

    slots: list[tuple[JobId, int]]
    missing: set[tuple[JobId, int]] = field(default_factory=set)
    #: a node that runs tasks whose results are missing: core/follow.py
    follow: Follow | None = None
    #: the ledger has another result than the one that the task took on its node: its outcome cannot count
    void: bool = False

    def unfollow(self) -> None:
        """It has all that it takes, or is not at that node any more."""
        if self.follow is not None and self.follow.granted:
            self.follow.node.followers -= 1
        self.follow = None


class Job:
    """The tasks that one request submits."""

    __slots__ = (
        "at_once", "batches", "cancelled", "closed", "count", "firsts", "granted", "holds", "id", "key", "name",
        "next_number", "on_failure", "on_hold", "open", "open_batches", "opened_at", "owner", "project", "settled",
        "shape", "submitter", "waiters", "watchers",
    )  # fmt: skip

    def __init__(self, record: JobOpened) -> None:
        self.id = record.job
        self.key = record.key
        self.owner = record.owner
        self.name = record.name
        self.project = record.project
        self.on_failure = OnFailure(record.on_failure)
        self.at_once = record.at_once
        #: tasks granted and not settled: ``at_once`` is their limit, 0: none
        self.granted = 0
        self.opened_at = record.opened_at
        self.batches: list[Batch] = []
        self.firsts: list[int] = []  #: first index of each batch, for the search by index
        self.next_number = 0  #: of the batch that comes next
        self.count = 0
        self.open = 0  #: tasks that are not final
        self.open_batches = 0  #: batches that are not closed
        self.closed = False  #: no batch follows
        self.on_hold = False  #: nothing of it is granted: see core/holds.py
        self.holds = 0  #: times that this was changed
        self.cancelled = False  #: all of it: batches that still come are cancelled as they come
        self.submitter: Peer | None = None  #: who sent the last batch
        #: tasks per final state
        self.settled: dict[int, int] = {}
        #: index of a task -> the tasks (batch, offset) that wait for its result
        self.waiters: dict[int, list[tuple[Batch, int]]] = {}
        #: clients that want results as they come
        self.watchers: set[Peer] = set()

    @property
    def done(self) -> bool:
        return self.closed and self.open == 0

    def locate(self, index: int) -> tuple[Batch, int] | None:
        """The batch of a task and its offset there; None when no such task was admitted."""
        if not self.firsts or not self.firsts[0] <= index < self.count:
            return None
        batch = self.batches[bisect_right(self.firsts, index) - 1]
        return batch, index - batch.first


class JobBook:
    """All unfinished jobs, and the keys of those that ended lately."""

    def __init__(self, ended_keys_max: int) -> None:
        self.jobs: dict[JobId, Job] = {}
        self.keys: dict[bytes, JobId] = {}
        #: batches that still have open tasks
        self.batches: dict[BatchId, Batch] = {}
        #: key -> (job, batches) of jobs that have ended, oldest first
        self.ended: OrderedDict[bytes, tuple[JobId, int]] = OrderedDict()
        self._ended_keys_max = ended_keys_max
        self.open_count = 0

    def apply(self, record: Record) -> None:
        """The only way to change what the ledger knows."""
        _APPLY[type(record)](self, record)

    def reopen(self, found: FoundJob) -> None:
        """A job whose batches so far are all final and that was forgotten, but gets another one."""
        self._job_opened(found.opened)
        job = self.jobs[found.opened.job]
        job.next_number, job.count = found.next_number, found.count

    def _job_opened(self, record: JobOpened) -> None:
        assert record.job not in self.jobs
        self.jobs[record.job] = Job(record)
        self.keys[record.key] = record.job

    def _batch_admitted(self, record: BatchAdmitted) -> None:
        job = self.jobs[record.job]
        assert record.number == job.next_number and record.first == job.count
        job.next_number += 1
        batch = Batch(job, record)
        job.batches.append(batch)
        job.firsts.append(record.first)
        job.count = record.first + record.count
        job.open += record.count
        job.open_batches += 1
        job.closed = record.last
        self.open_count += record.count
        self.batches[record.batch] = batch

    def _outcome_settled(self, record: OutcomeSettled) -> None:
        batch = self.batches[record.batch]
        lo, hi = record.lo, record.lo + record.count
        assert max(batch.states[lo:hi], default=0) < FIRST_FINAL, "a task is settled once"
        batch.states[lo:hi] = record.states
        batch.open -= record.count
        job = batch.job
        job.open -= record.count
        self.open_count -= record.count
        for state in set(record.states):
            job.settled[state] = job.settled.get(state, 0) + record.states.count(state)
        if batch.trouble:
            for offset in batch.trouble.keys() & range(lo, hi):
                batch.trouble[offset].state = b""  # nothing goes on from it

    def _attempt_failed(self, record: AttemptFailed) -> None:
        batch = self.batches.get(record.batch)
        if batch is None or record.cause == Cause.STALE:
            return
        if batch.trouble is None:
            batch.trouble = {}
        trouble = batch.trouble.setdefault(record.offset, Trouble())
        trouble.attempts = max(trouble.attempts + 1, record.attempt)
        trouble.counts[record.cause] = trouble.counts.get(record.cause, 0) + 1
        trouble.ends.append(End(record.node, record.rank, record.cause, record.failed_at))
        del trouble.ends[:-_ENDS_MAX]
        if record.cause == Cause.CONTINUED:
            trouble.state = record.error

    def _hold_changed(self, record: HoldChanged) -> None:
        job = self.jobs[record.job]
        assert record.number == job.holds
        job.on_hold, job.holds = record.on_hold, record.number + 1

    def _durations_learned(self, record: DurationsLearned) -> None:
        """Jobs do not depend on it: see core/walltime.py."""

    def _batch_closed(self, record: BatchClosed) -> None:
        batch = self.batches.pop(record.batch, None)
        if batch is None:
            return
        batch.payload = batch.offsets = None
        job = batch.job
        job.open_batches -= 1
        if job.closed and job.open_batches == 0:
            self._forget(job)

    def _forget(self, job: Job) -> None:
        del self.jobs[job.id]
        self.keys.pop(job.key, None)
        self.ended[job.key] = (job.id, job.next_number)
        if len(self.ended) > self._ended_keys_max:
            self.ended.popitem(last=False)


_APPLY: dict[type, Callable[[JobBook, Any], None]] = {
    JobOpened: JobBook._job_opened,
    BatchAdmitted: JobBook._batch_admitted,
    OutcomeSettled: JobBook._outcome_settled,
    AttemptFailed: JobBook._attempt_failed,
    HoldChanged: JobBook._hold_changed,
    DurationsLearned: JobBook._durations_learned,
    BatchClosed: JobBook._batch_closed,
}
