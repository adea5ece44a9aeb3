"""A recorded ledger lived through again: what came from outside is put to a new broker, and its decisions are compared.

From outside came what clients sent and cancelled, how attempts ended and which clients left: that is taken from the
records, in their order. What the shipping broker decides from it is held against the records again:

    numbers of jobs and batches     in the order in which they were admitted
    admitted batches                arguments, dependencies, priority, limits: the same bytes
    grants                          arguments and the results that a task takes: the same bytes, at the same attempt
    ends of attempts                tried again or not, at which attempt, with which error
    final states                    also of tasks that were skipped or cancelled because of others

Not compared, because nobody records it or nothing follows from it: which node and rank got a task, grants and leases,
how many tasks of a job ran at once, times, what was printed, outcomes that came too late. All nodes are one here, with
room for everything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

from pyfi_hpc.core import follow
from pyfi_hpc.core.broker import Broker
from pyfi_hpc.core.graph import edges_of
from pyfi_hpc.core.jobs import Job
from pyfi_hpc.ledger.memory import MemoryLedger
from pyfi_hpc.model import messages as m
from pyfi_hpc.model.budgets import BUDGETS, Budgets, cause_of
from pyfi_hpc.model.effects import Effects, ReadValues
from pyfi_hpc.model.events import Received, SocketSpec, Unreachable, ValuesRead
from pyfi_hpc.model.ids import BatchId, JobId, Peer
from pyfi_hpc.model.limits import PROTOCOL_VERSION, Limits
from pyfi_hpc.model.packed import cut, failure, offsets_of, pick
from pyfi_hpc.model.records import (
    AttemptFailed,
    BatchAdmitted,
    HoldChanged,
    JobOpened,
    OutcomeSettled,
    Record,
    Recovered,
)
from pyfi_hpc.model.states import FIRST_FINAL, Cause, TaskState
from pyfi_hpc.model.terms import COUNT_MAX
from pyfi_hpc.sim import plenty
from pyfi_hpc.sim.told import End, Place, Told, mark_of, read_error, words

_NODE = Peer(b"node")
_ROOM = 1 << 40
#: what the words of a death end with where the last one is told, see `last_words`
_LAST_TIME = "; the last time: "


def relive(records: Sequence[Record], budgets: Budgets = BUDGETS, inputs_bytes_max: int = 0) -> dict[str, Any]:
    """What was compared, and every difference; records are in the order of their commits, and none is malformed.

    Parameters
    ----------
    budgets, inputs_bytes_max
        Limits of the brokers that wrote the records; 0: the default.

    Notes
    -----
    Cost: a few ten microseconds a record, and the ledger twice in memory.
    """
    return _Life(unlimited(records), budgets, inputs_bytes_max).go()


def unlimited(records: Sequence[Record]) -> list[Record]:
    """The same without limits of tasks at once and without holds: who ran when is not compared, and a replay grants all
    that is ready."""
    return [
        replace(record, at_once=0) if isinstance(record, JobOpened) else record
        for record in records if not isinstance(record, HoldChanged)
    ]


class _Life:
    """A broker without a past, one node, and a client for each job. The clock moves only for clients that left."""

    def __init__(self, records: Sequence[Record], budgets: Budgets, inputs_bytes_max: int) -> None:
        self._records = records
        self._differences: list[str] = []
        self._log: list[Record] = []
        self._store = MemoryLedger()
        jobs = [r.job for r in records if isinstance(r, JobOpened)]
        self._batches = {r.batch: r for r in records if isinstance(r, BatchAdmitted)}
        limits = Limits(
            # nothing waits for room, and nobody is missed
            grant_tasks_max=_ROOM, grant_bytes_max=_ROOM, node_bytes_max=_ROOM, queued_payload_bytes_max=_ROOM,
            payload_bytes_max=_ROOM, batch_tasks_max=_ROOM, ended_keys_max=_ROOM, client_silence_s=_ROOM, lease_s=_ROOM,
            budgets=budgets, inputs_bytes_max=inputs_bytes_max or Limits().inputs_bytes_max,
        )  # fmt: skip
        first = Recovered(self._store.take_over("relived").epoch, JobId(min(jobs, default=1)), BatchId(1))
        first.next_batch = min(self._batches, default=first.next_batch)
        self._broker = Broker(limits, first, *self._sockets(), 0.0, 0.0)
        self._now = 0.0
        #: what was opened and has no batch yet
        self._opened: dict[int, JobOpened] = {}
        self._granted: dict[Place, tuple[int, int]] = {}
        #: of the arguments with which each task was granted last
        self._carried: dict[Place, bytes] = {}
        #: a grant -> its batch
        self._batch_of: dict[int, int] = {}
        #: arguments and inputs of a task that was granted before all that it takes was there
        self._following: dict[Place, tuple[bytes, list[bytes | m.Link]]] = {}
        #: what such tasks take, once it is there
        self._made: dict[Place, bytes] = {}
        #: results that tasks wait for and that the ledger has; it answers when the records show that it did
        self._asked: dict[tuple[int, int], ReadValues] = {}

    def _sockets(self) -> tuple[list[SocketSpec], list[m.Mount]]:
        """One for each code that a socket ever called."""
        mounts = {code: m.Mount(code, "", "", "", "", "", "") for code in {b.code for b in self._batches.values()}}
        pairs = sorted({(batch.socket, batch.code) for batch in self._batches.values()})
        return [SocketSpec(s, _name(s, c), "", "f", mounts[c]) for s, c in pairs], list(mounts.values())

    def go(self) -> dict[str, Any]:
        self._put(Received(_NODE, "agent", "", m.Hello(PROTOCOL_VERSION, "agent", "n1", "x", 1, 1)))
        plenty.give(self._broker)
        self._put(Received(_NODE, "agent", "", m.Capacity(_ROOM, COUNT_MAX, worlds=plenty.WORLDS)))
        for request, step in groupby((r for r in self._records if type(r) in _FEED), _request):
            if request:
                self._cancel(list(step))  # type: ignore[arg-type]
                continue
            for record in step:
                _FEED[type(record)](self, record)
        compared = self._compare()
        late = sum(isinstance(r, AttemptFailed) and r.cause == Cause.STALE for r in self._records)
        return {
            "decisions_compared": compared,
            "payloads_compared": len(self._carried), "late_outcomes": late, "differences": self._differences,
        }  # fmt: skip

    # --- what came from outside ---------------------------------------------------------------------

    def _job_opened(self, record: JobOpened) -> None:
        self._opened[record.job] = record

    def _batch_admitted(self, r: BatchAdmitted) -> None:
        opened = self._opened[r.job]
        peer = Peer(b"job %d" % r.job)
        state = self._broker.state
        if r.number == 0:
            # a number that is missing is told once, and not of all that follow
            self._expect("job", r.job, state.next_job)
            state.next_job = r.job
            self._put(Received(peer, "client", opened.owner, m.Hello(PROTOCOL_VERSION, "client", "c", "x")))
        self._expect("batch", r.batch, state.next_batch)
        state.next_batch = r.batch
        if r.count == 0:
            self._leave(peer, r.job)
            return
        submit = m.Submit(
            opened.key, r.number, r.first, r.count, r.last, _name(r.socket, r.code), r.offsets, r.payload, r.edges,
            r.priority, r.retries, r.time_limit_s, opened.name, opened.shape, opened.on_failure, False, False, r.terms,
            opened.project, 0, r.preemptible, r.size,
        )  # fmt: skip
        self._put(Received(peer, "client", opened.owner, submit))

    def _leave(self, peer: Peer, job: int) -> None:
        """A client had gone before the last batch of its job, and was waited for long enough."""
        self._put(Unreachable(peer))
        self._broker.state.orphans = {JobId(job): self._now}
        self._now += 1.0
        self._put(Received(_NODE, "agent", "", m.Beat(0)))

    def _outcome_settled(self, r: OutcomeSettled) -> None:
        batch = self._batches[r.batch]
        at = 0
        while at < r.count:
            end = at + 1
            if not r.grant:
                # the broker decides it, when it has read what the task takes, or has it back from the node
                self._answer(batch, r.lo + at)
                self._hand_back(batch, r.lo + at)
            elif r.states[at] == TaskState.COMPLETED:
                if self._is_void(batch, r.lo + at):
                    self._hand_back(batch, r.lo + at)
                end = self._alike(r, at)
                self._end(r, batch, r.lo + at, Cause.NONE, *cut(r.offsets, r.payload, at, end))
            else:
                cause, error = _how(r.states[at], pick(r.offsets, r.payload, at))
                self._end(r, batch, r.lo + at, cause, offsets_of([error]), error)
            at = end

    def _alike(self, r: OutcomeSettled, at: int) -> int:
        """How far from there tasks completed that were granted together."""
        held = self._granted.get((r.batch, r.lo + at))
        end = at + 1
        while end < r.count and r.states[end] == TaskState.COMPLETED and held is not None:
            if self._granted.get((r.batch, r.lo + end)) != held or self._is_void(self._batches[r.batch], r.lo + end):
                break
            end += 1
        return end

    def _attempt_failed(self, r: AttemptFailed) -> None:
        if r.cause != Cause.STALE:
            self._end(r, self._batches[r.batch], r.offset, r.cause, offsets_of([r.error]), r.error)

    def _end(
        self, r: OutcomeSettled | AttemptFailed, batch: BatchAdmitted, lo: int, cause: Cause, offsets: bytes,
        payload: bytes,
    ) -> None:  # fmt: skip
        """The node says how an attempt of one task, or of some that were granted together, ended."""
        task = f"{batch.job}.{batch.first + lo}"
        count = len(offsets) // 4 - 1
        if self._is_void(batch, lo):
            self._hand_back(batch, lo)  # in truth it was, with the task that makes what it takes
        if (batch.batch, lo) not in self._granted:
            self._answer(batch, lo)
        grant, attempt = self._granted.get((batch.batch, lo), (0, 0))
        for offset in range(lo, lo + count):
            place = batch.batch, offset
            self._granted.pop(place, None)
            if place in self._following:
                arguments, inputs = self._following.pop(place)
                taken = [v if isinstance(v, bytes) else self._made[self._batch_of[v[0]], v[1]] for v in inputs]
                self._carried[place] = mark_of(arguments, taken)
            if place in self._made and cause == Cause.NONE:
                self._made[place] = pick(offsets, payload, offset - lo)
        if not grant:
            self._differ(f"task {task} has an end of attempt {r.attempt} ({cause.name}), and was not to run then")
            return
        if attempt != r.attempt:
            self._differ(f"task {task} has an end of attempt {r.attempt}, and attempt {attempt} was to run then")
        told = m.Outcome(
            grant, batch.batch, lo, count, attempt, 0, bytes([cause]) * count, bytes(8 * count), bytes(4 * count),
            offsets, payload,
        )  # fmt: skip
        self._put(Received(_NODE, "agent", "", m.Finished([told])))

    def _cancel(self, records: list[OutcomeSettled]) -> None:
        """A client ended tasks of a job that had made no attempt, or whose attempts were not to count."""
        job = self._broker.state.book.jobs.get(records[0].job)
        if job is None:
            return  # they were cancelled with another one, as the job says
        firsts = [self._batches[r.batch].first + r.lo for r in records]
        wanted: list[tuple[int, int]] = []
        for index in sorted({at + k for at, r in zip(firsts, records, strict=True) for k in range(r.count)}):
            # what is final is passed over, so both sides of it may have been one range
            if wanted and not any(_is_open(job, k) for k in range(wanted[-1][1], index)):
                wanted[-1] = wanted[-1][0], index + 1
            else:
                wanted.append((index, index + 1))
        peer = Peer(b"of %b" % job.owner.encode())  # anybody of the owner's, as the submitter may have gone
        if peer not in self._broker.state.clients.by_peer:
            self._put(Received(peer, "client", job.owner, m.Hello(PROTOCOL_VERSION, "client", "c", "x")))
        for first, end in wanted:
            if any(_is_open(job, k) for k in range(first, end)):
                self._put(Received(peer, "client", job.owner, m.Cancel(1, job.id, first, end - first)))

    def _is_void(self, batch: BatchAdmitted, offset: int) -> bool:
        """The node has a task under a grant that was made for the results of other attempts than those that count."""
        live = self._broker.state.book.batches.get(batch.batch)
        return live is not None and follow.misses(live, offset)

    def _hand_back(self, batch: BatchAdmitted, offset: int) -> None:
        """A task that was granted before all that it takes was there goes back unstarted; nobody records that."""
        held = self._granted.pop((batch.batch, offset), None)
        if held is not None and (batch.batch, offset) in self._following:
            error = offsets_of([b""])
            told = m.Outcome(
                held[0], batch.batch, offset, 1, held[1], 0, bytes([Cause.RELEASED]), bytes(8), bytes(4), error, b""
            )
            self._put(Received(_NODE, "agent", "", m.Finished([told])))

    def _answer(self, batch: BatchAdmitted, offset: int) -> None:
        """The ledger answers what this task waits for."""
        for at, _, producer, index in edges_of(batch.edges, batch.job) if batch.edges else ():
            query = self._asked.pop((producer, index), None) if at == offset else None
            if query is not None:
                self._put(ValuesRead(query.wanted, self._store.values(query.wanted)))

    # --- the broker ---------------------------------------------------------------------------------

    def _put(self, event: Any) -> None:
        out = Effects()
        self._broker.handle(event, self._now, out)
        self._broker.advance(self._now, out)
        self._store.restore(out.records)
        self._log += out.records
        for query in out.queries:
            if isinstance(query, ReadValues):
                self._asked.update({(job, index): ReadValues([(job, index)]) for job, index in query.wanted})
        for _, message in out.messages:
            if isinstance(message, m.Refused):
                self._differ(f"batch {message.number} of a job was admitted, and is refused now: {message.what}")
            for item in message.items if isinstance(message, m.Grant) else ():
                self._note(item)

    def _note(self, item: m.Item) -> None:
        self._batch_of[item.grant] = item.batch
        for at in range(item.count):
            place = item.batch, item.lo + at
            self._granted[place] = item.grant, item.attempt
            inputs = item.inputs[at] if item.inputs else []
            known = [value for value in inputs if isinstance(value, bytes)]
            self._following.pop(place, None)
            if len(known) == len(inputs):
                self._carried[place] = mark_of(pick(item.offsets, item.payload, at), known)
            else:
                self._following[place] = pick(item.offsets, item.payload, at), inputs
                self._made |= {(self._batch_of[v[0]], v[1]): b"?" for v in inputs if not isinstance(v, bytes)}

    # --- what it made of it -------------------------------------------------------------------------

    def _compare(self) -> int:
        recorded, lived = Told(self._records), Told(self._log)
        for job in sorted(recorded.jobs.keys() | lived.jobs.keys()):
            if recorded.jobs.get(job) != lived.jobs.get(job):
                self._differ(f"job {job} was not opened like this")
        for number in sorted(recorded.batches.keys() | lived.batches.keys()):
            was, now = recorded.batches.get(number), lived.batches.get(number)
            if was != now:
                self._differ(f"batch {number} of job {(was or now).job} was not admitted like this")  # type: ignore[union-attr]
        for task in sorted(recorded.ends.keys() | lived.ends.keys()):
            self._compare_ends(task, recorded.ends.get(task, []), lived.ends.get(task, []))
        for place, mark in self._carried.items():
            if mark != recorded.mark(place):
                batch = self._batches[BatchId(place[0])]
                name = f"{batch.job}.{batch.first + place[1]}"
                self._differ(f"task {name} was not granted with the arguments that are recorded")
        return len(recorded.jobs) + len(recorded.batches) + sum(map(len, recorded.ends.values()))

    def _compare_ends(self, task: tuple[int, int], was: list[End], now: list[End]) -> None:
        if was == now:
            return
        for number in range(max(len(was), len(now))):
            old = was[number] if number < len(was) else None
            new = now[number] if number < len(now) else None
            if old != new:
                self._differ(f"task {task[0]}.{task[1]}: recorded is {words(old)}, decided {words(new, old)}")
                return

    def _expect(self, what: str, number: int, expected: int) -> None:
        if number != expected:
            self._differ(f"{what} {number} is where {what} {expected} comes next")

    def _differ(self, text: str) -> None:
        self._differences.append(text)


def _is_cancelled(record: Record) -> bool:
    """Whether a client did that; else what becomes of a task without an attempt is the broker's decision."""
    return isinstance(record, OutcomeSettled) and not record.grant and set(record.states) == {TaskState.CANCELLED}


def _request(record: Record) -> tuple[int, float] | None:
    """What one request to cancel settled stands together: its job and time."""
    return (record.job, record.settled_at) if _is_cancelled(record) else None  # type: ignore[union-attr]


def _is_open(job: Job, index: int) -> bool:
    place = job.locate(index)
    return place is not None and place[0].states[place[1]] < FIRST_FINAL


def _name(socket: int, code: int) -> str:
    return f"{socket} calling {code}"


def _how(state: int, error: bytes) -> tuple[Cause, bytes]:
    """How the last attempt of a task ended, and what was told of it then."""
    if state == TaskState.CANCELLED:
        return Cause.CANCELLED, error
    told = read_error(error)
    cause = cause_of(TaskState(state), told) or Cause.ERROR
    if cause in (Cause.ERROR, Cause.TIME_LIMIT, Cause.ENVIRONMENT):
        return cause, error
    return cause, failure("TaskLost", told["message"].partition(_LAST_TIME)[2])


_FEED: dict[type, Any] = {
    JobOpened: _Life._job_opened,
    BatchAdmitted: _Life._batch_admitted,
    OutcomeSettled: _Life._outcome_settled,
    AttemptFailed: _Life._attempt_failed,
}
