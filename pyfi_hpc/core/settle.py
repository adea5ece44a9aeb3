"""Settlement: an outcome becomes final once, or the task is tried again.

An outcome counts only for the grant that it was made under. What follows from an end:

    NONE                          COMPLETED
    CANCELLED                     CANCELLED
    RELEASED                      again; no attempt was made
    CONTINUED                     again, from the state that it returned, at most a thousand times
    any other cause               again, elsewhere, while its budget lasts: model/budgets.py
"""

from __future__ import annotations

from array import array

import msgspec

from pyfi_hpc.core import follow, gangs, health, walltime
from pyfi_hpc.core.jobs import Batch, Job, Trouble
from pyfi_hpc.core.nodes import Grant, Node
from pyfi_hpc.core.state import State
from pyfi_hpc.model.budgets import exhausted, last_words
from pyfi_hpc.model.effects import Effects
from pyfi_hpc.model.ids import BatchId, GrantId, JobId, NodeName, epoch_of
from pyfi_hpc.model.messages import Cancel, Kept, Outcome
from pyfi_hpc.model.packed import cut, failure, offsets_of, pick, well_formed
from pyfi_hpc.model.records import AttemptFailed, OutcomeSettled
from pyfi_hpc.model.states import FIRST_FINAL, Cause, OnFailure, TaskState

_COMPLETED = bytes([TaskState.COMPLETED])
_RUNNING = int(TaskState.RUNNING)


def finished(s: State, node: Node, outcomes: list[Outcome], now: float, out: Effects) -> None:
    """Outcomes of a node. Those of ranges that ended well cost a few slices, however many tasks they hold."""
    kept: list[tuple[int, int, int]] = []
    for outcome in outcomes:
        if outcome.grant in s.parts:
            continue  # it is offered again
        grant = s.nodes.grants.get(GrantId(outcome.grant))
        if grant is None or grant.node is not node:
            _stale(s, node, outcome, now, out)
        elif _fits(grant, outcome):
            for part in _owed(grant, outcome):
                if grant.gang is None:
                    _take(s, grant, part, now, out)
                else:
                    s.nodes.ended(grant, part.lo, part.count)
                    s.queue.freed(grant, part.count, _took_s(part))
                    gangs.ended(s, grant, part, now, out)
        kept.append((outcome.grant, outcome.lo, outcome.count))
    out.send(node.peer, Kept(kept))


def _fits(grant: Grant, o: Outcome) -> bool:
    """Whether an outcome lies in its grant and its parts fit together."""
    lo, n = o.lo - grant.lo, o.count
    return (
        n > 0
        and lo >= 0
        and lo + n <= grant.count
        and len(o.causes) == n
        and len(o.started) == 8 * n
        and len(o.durations) == 4 * n
        and well_formed(o.offsets, o.payload, n)
    )


def _owed(grant: Grant, o: Outcome) -> list[Outcome]:
    """What of it the node owes: of a grant that was adopted after a restart, a part may have ended elsewhere."""
    start = o.lo - grant.lo
    if grant.left.count(1, start, start + o.count) == o.count:
        return [o]
    parts: list[Outcome] = []
    for at, end in runs([at for at in range(o.count) if grant.left[start + at]]):
        offsets, payload = cut(o.offsets, o.payload, at, end)
        parts.append(Outcome(
            o.grant, o.batch, o.lo + at, end - at, o.attempt, o.rank, o.causes[at:end], o.started[8 * at : 8 * end],
            o.durations[4 * at : 4 * end], offsets, payload, b"" if parts else o.outputs,
        ))  # fmt: skip
    return parts


def _take(s: State, grant: Grant, o: Outcome, now: float, out: Effects) -> None:
    s.nodes.ended(grant, o.lo, o.count)
    s.queue.ended(grant.batch, o.count)
    took_s = _took_s(o)
    s.queue.freed(grant, o.count, took_s)
    decide(s, grant, o, now, out, took_s)


def decide(s: State, grant: Grant, o: Outcome, now: float, out: Effects, took_s: float | None = None) -> None:
    """What follows from outcomes that the node does not owe any more."""
    batch = grant.batch
    lo, hi = o.lo, o.lo + o.count
    early = bool(batch.waiting) and follow.over(batch, lo, hi)
    if not early and o.causes.count(0) == o.count and batch.states.count(_RUNNING, lo, hi) == o.count:
        _settle_run(s, batch, grant, o, 0, o.count, TaskState.COMPLETED, now, out, took_s)
    else:
        _take_apart(s, batch, grant, o, now, out)
    s.close_if_done(batch, out)


def _took_s(o: Outcome) -> float:
    """What an account is charged for it. Time that was taken from a task is not."""
    took = array("f", o.durations)
    if o.causes.count(Cause.PREEMPTED):
        return sum(seconds for seconds, cause in zip(took, o.causes, strict=True) if cause != Cause.PREEMPTED)
    return sum(took)


def _take_apart(s: State, batch: Batch, grant: Grant, o: Outcome, now: float, out: Effects) -> None:
    """An outcome in which not all is well: runs of tasks that ended alike."""
    at = 0
    while at < o.count:
        offset = o.lo + at
        cause = _cause(o.causes[at])
        if batch.states[offset] != _RUNNING:  # cancelled meanwhile
            at += 1
            continue
        end = at + 1
        if follow.misses(batch, offset):
            release(s, batch, offset, offset + 1)
        elif cause == Cause.NONE:
            while end < o.count and o.causes[end] == 0 and _counts(batch, o.lo + end):
                end += 1
            _settle_run(s, batch, grant, o, at, end, TaskState.COMPLETED, now, out)
        elif cause == Cause.RELEASED:
            while end < o.count and o.causes[end] == cause and batch.states[o.lo + end] == _RUNNING:
                end += 1
            release(s, batch, offset, o.lo + end)
        else:
            if cause == Cause.CONTINUED and len(pick(o.offsets, o.payload, at)) > s.limits.state_bytes_max:
                cause = Cause.ERROR
                text = f"what it returned Continue with is over the limit of {s.limits.state_bytes_max} bytes"
                _replace_error(o, at, failure("TooLarge", f"{text}: write it to a file, and return its name"))
            _ended_badly(s, batch, grant, o, at, cause, now, out)
        at = end


def _counts(batch: Batch, offset: int) -> bool:
    return batch.states[offset] == _RUNNING and not follow.misses(batch, offset)


def _cause(number: int) -> Cause:
    """What a node tells; a number that no attempt can end with is a death."""
    return Cause(number) if number < Cause.STALE or number == Cause.CONTINUED else Cause.CRASH


def _settle_run(
    s: State, batch: Batch, grant: Grant, o: Outcome, at: int, end: int, state: TaskState, now: float, out: Effects,
    took_s: float | None = None,
) -> None:
    offsets, payload = cut(o.offsets, o.payload, at, end)
    states = bytes([state]) * (end - at)
    record = OutcomeSettled(
        batch.id, batch.job.id, o.lo + at, end - at, grant.attempt, epoch_of(grant.id), grant.id, grant.node.name,
        o.rank, states, o.started[8 * at : 8 * end], o.durations[4 * at : 4 * end], offsets, payload,
        o.outputs, now + s.utc_offset,
    )  # fmt: skip
    o.outputs = b"" if o.outputs else o.outputs  # outputs name their offsets: stored once, with the first run
    _settle(s, batch, record, out)
    if state is TaskState.COMPLETED:
        took_s = sum(array("f", record.durations)) if took_s is None else took_s
        s.durations.report(batch.socket, took_s / record.count)
        walltime.completed(s, batch, record.durations, record.count)
        health.completed(s, batch, grant.node, o.rank, record.lo, record.count, now, out)


def _settle(s: State, batch: Batch, record: OutcomeSettled, out: Effects) -> None:
    job = batch.job
    s.emit(record, out)
    s.counts.settled += record.count
    s.push(job, batch, record.lo, record.states, record.offsets, record.payload, out)
    if batch.waiting:
        for offset in range(record.lo, record.lo + record.count):
            s.graph.finished(batch, offset)
    if job.waiters:
        s.to_wake.append((batch, record))


def wake(s: State, out: Effects) -> None:
    """Tasks that waited for what was settled: ready, or skipped, which settles more. A list, not a recursion:
    a chain may be a hundred thousand tasks long."""
    while s.to_wake:
        batch, record = s.to_wake.pop()
        _wake_waiters(s, batch, record, out)


def _wake_waiters(s: State, batch: Batch, record: OutcomeSettled, out: Effects) -> None:
    job = batch.job
    for at in range(record.count):
        index = batch.first + record.lo + at
        if index not in job.waiters:
            continue
        data = pick(record.offsets, record.payload, at)
        if record.states[at] == TaskState.COMPLETED:
            for waiter, offset in s.graph.completed(job, index, data, record.grant):
                _ready(s, waiter, offset)
        else:
            skip(s, job.waiters.pop(index), f"{job.id}.{index}", data, record.settled_at, out)


def _ready(s: State, batch: Batch, offset: int) -> None:
    """All results that a task takes are there."""
    batch.states[offset] = TaskState.PENDING
    if batch.trouble and offset in batch.trouble:
        s.queue.push_retry(batch, offset)
    else:
        s.queue.push(batch, offset, offset + 1)


def arrived(s: State, key: tuple[JobId, int], data: bytes, waiters: list[tuple[Batch, int]]) -> None:
    """A result that the ledger had is here."""
    for batch, offset in s.graph.arrived(key, data, waiters):
        _ready(s, batch, offset)


def skip(s: State, waiters: list[tuple[Batch, int]], cause: str, error: bytes, at: float, out: Effects) -> None:
    """Dependents of a task that did not complete are SKIPPED; theirs follow by the same way."""
    for batch, offset in waiters:
        if batch.states[offset] < FIRST_FINAL:
            follows = batch.states[offset] == _RUNNING
            text = failure("TaskSkipped", f"task {cause}, which this one depends on, did not complete")
            settle_unrun(s, batch, [offset], TaskState.SKIPPED, text, at, out)
            if follows:
                _end_running(s, batch, {offset}, out)
            s.close_if_done(batch, out)


def settle_unrun(
    s: State, batch: Batch, offsets: list[int], state: TaskState, error: bytes, at: float, out: Effects
) -> None:
    """Settle tasks that made no attempt, in runs of consecutive offsets."""
    for lo, hi in runs(offsets):
        count = hi - lo
        record = OutcomeSettled(
            batch.id, batch.job.id, lo, count, 0, s.epoch, GrantId(0), NodeName(""), -1, bytes([state]) * count,
            bytes(8 * count), bytes(4 * count), offsets_of([error] * count), error * count, b"", at,
        )  # fmt: skip
        _settle(s, batch, record, out)


def _ended_badly(
    s: State, batch: Batch, grant: Grant, o: Outcome, at: int, cause: Cause, now: float, out: Effects
) -> None:
    offset = o.lo + at
    trouble = (batch.trouble or {}).get(offset) or Trouble()
    counts = trouble.counts | {cause: trouble.counts.get(cause, 0) + 1}
    state = _verdict(s, batch, counts, cause)
    if state is not None:
        if cause in _SPEECHLESS:
            told = b"" if cause == Cause.CONTINUED else pick(o.offsets, o.payload, at)  # a state is no error
            _replace_error(o, at, _last_words(s, cause, counts[cause], told))
        _settle_run(s, batch, grant, o, at, at + 1, state, now, out)
        if batch.job.on_failure == OnFailure.CANCEL:
            cancel(s, batch.job, 0, -1, now, out)
        return
    s.counts.retried += 1
    error = pick(o.offsets, o.payload, at)
    record = AttemptFailed(
        batch.id, batch.job.id, offset, grant.attempt, epoch_of(grant.id), grant.id, cause, grant.node.name, o.rank,
        error, o.outputs, now + s.utc_offset,
    )  # fmt: skip
    o.outputs = b""
    s.emit(record, out)
    assert batch.trouble is not None
    if cause == Cause.WALLTIME and (since := grant.node.running.get((grant.id, offset))) is not None:
        walltime.cut_off(s, batch, batch.trouble[offset], now - since)
    elif cause == Cause.CONTINUED:
        (seconds,) = array("f", o.durations[4 * at : 4 * at + 4])
        walltime.goes_on(s, batch, batch.trouble[offset], grant.node, seconds, now)
    if follow.taken_back(batch, offset):
        batch.states[offset] = TaskState.BLOCKED
        return
    batch.states[offset] = TaskState.PENDING
    s.queue.push_retry(batch, offset)


def _verdict(s: State, batch: Batch, counts: dict[Cause, int], cause: Cause) -> TaskState | None:
    """The final state after this end, or None: the task is tried again."""
    if cause == Cause.CANCELLED:
        return TaskState.CANCELLED
    budgets = s.limits.budgets
    return budgets[cause].final if exhausted(budgets, cause, counts, batch.retries) else None


#: ends at which the function could not say what went wrong
_SPEECHLESS = frozenset({
    Cause.CRASH, Cause.OUT_OF_MEMORY, Cause.RANK_LOST, Cause.NODE_FAIL, Cause.WALLTIME, Cause.PREEMPTED,
    Cause.CONTINUED,
})  # fmt: skip


def _last_words(s: State, cause: Cause, count: int, error: bytes) -> bytes:
    try:
        how = str(msgspec.msgpack.decode(error)[2])
    except (msgspec.MsgspecError, IndexError, TypeError):
        how = ""
    return failure("TaskLost", last_words(s.limits.budgets, cause, count, how or cause.name))


def _replace_error(o: Outcome, at: int, error: bytes) -> None:
    parts = [pick(o.offsets, o.payload, k) for k in range(o.count)]
    parts[at] = error
    o.offsets, o.payload = offsets_of(parts), b"".join(parts)


def release(s: State, batch: Batch, lo: int, hi: int) -> None:
    """Tasks come back that never started: first in the queue again, and no attempt was made. Those whose makers came
    back too wait for them."""
    blocked = {k for k in range(lo, hi) if follow.taken_back(batch, k)} if batch.waiting else ()
    for offset in blocked:
        batch.states[offset] = TaskState.BLOCKED
    if not blocked:
        _requeue(s, batch, lo, hi)
        return
    for start, end in reversed(runs([k for k in range(lo, hi) if k not in blocked])):
        _requeue(s, batch, start, end)


def _requeue(s: State, batch: Batch, lo: int, hi: int) -> None:
    batch.states[lo:hi] = bytes([TaskState.PENDING]) * (hi - lo)
    s.queue.push_first(batch, lo, hi)


def _stale(s: State, node: Node, o: Outcome, now: float, out: Effects) -> None:
    """An outcome whose grant is gone: never counts. Recorded if the grant was taken back and not just kept twice."""
    taken_back = s.nodes.expired.get(GrantId(o.grant))
    if taken_back is None:
        return
    s.counts.stale += o.count
    batch, job = taken_back
    for at in range(min(o.count, 100)):
        record = AttemptFailed(
            BatchId(batch), JobId(job), o.lo + at, o.attempt, epoch_of(GrantId(o.grant)), GrantId(o.grant), Cause.STALE,
            node.name, o.rank, b"", b"", now + s.utc_offset,
        )  # fmt: skip
        s.emit(record, out)


def lost(s: State, node: Node, cause: Cause, now: float, out: Effects) -> None:
    """A node fell silent or left: what it held goes elsewhere; only what ran is an attempt."""
    s.nodes.leave(node)
    if all(other.allocation != node.allocation for other in s.nodes.by_name.values()):
        s.expected.pop(node.allocation, None)  # it has ended: the rest of it does not come
    for grant in list(node.grants.values()):
        batch = grant.batch
        if grant.gang is not None:
            gangs.lost(s, grant, cause, (grant.id, grant.lo) in node.running, now, out)
            continue
        offsets = s.nodes.take_back(grant)
        s.queue.ended(batch, len(offsets))
        s.queue.freed(grant, len(offsets))
        for lo, hi in reversed(runs([k for k in offsets if batch.states[k] == _RUNNING])):
            for offset in range(lo, hi):
                if (grant.id, offset) in node.running:
                    _ended_badly(s, batch, grant, silence(grant, offset, cause), 0, cause, now, out)
            still = [k for k in range(lo, hi) if batch.states[k] == _RUNNING]
            for start, end in reversed(runs(still)):
                release(s, batch, start, end)
        s.close_if_done(batch, out)


def silence(grant: Grant, offset: int, cause: Cause) -> Outcome:
    """The outcome that a lost node owes for a task that ran there."""
    error = failure("TaskLost", f"node {grant.node.name} fell silent")
    return Outcome(
        grant.id, grant.batch.id, offset, 1, grant.attempt, -1, bytes([cause]), bytes(8), bytes(4),
        offsets_of([error]), error,
    )  # fmt: skip


def runs(offsets: list[int]) -> list[tuple[int, int]]:
    """Consecutive numbers as ranges [lo, hi)."""
    runs: list[tuple[int, int]] = []
    for offset in offsets:
        if runs and runs[-1][1] == offset:
            runs[-1] = (runs[-1][0], offset + 1)
        else:
            runs.append((offset, offset + 1))
    return runs


def cancel(s: State, job: Job, first: int, count: int, now: float, out: Effects) -> int:
    """Settle all open tasks of a range as CANCELLED and end those that run; how many they were."""
    end = job.count if count < 0 else min(job.count, first + count)
    job.cancelled = job.cancelled or (first == 0 and count < 0)
    error = failure("TaskCancelled", "the task was cancelled")
    total = 0
    for batch in list(job.batches):
        lo, hi = max(first - batch.first, 0), min(end - batch.first, batch.count)
        if lo >= hi or batch.open == 0:
            continue
        offsets = [k for k in range(lo, hi) if batch.states[k] < FIRST_FINAL]
        pending = batch.states.count(TaskState.PENDING, lo, hi)
        running = {k for k in offsets if batch.states[k] == _RUNNING}
        s.queue.withdrawn(batch, pending)
        settle_unrun(s, batch, offsets, TaskState.CANCELLED, error, now + s.utc_offset, out)
        total += len(offsets)
        _end_running(s, batch, running, out)
        s.close_if_done(batch, out)
    return total


def _end_running(s: State, batch: Batch, running: set[int], out: Effects) -> None:
    if not running:
        return
    for node in s.nodes.by_name.values():
        for grant in node.grants.values():
            if grant.batch is batch:
                for offset in running.intersection(range(grant.lo, grant.lo + grant.count)):
                    out.send(node.peer, Cancel(0, grant.id, offset, 1))
