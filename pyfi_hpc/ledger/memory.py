"""The ledger in memory: for the simulator and, through the contract suite, what Postgres is held against."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pyfi_hpc.errors import BrokerHeld, LedgerUnavailable, StaleEpoch
from pyfi_hpc.ledger.reading import OutcomePage, value_at
from pyfi_hpc.model.ids import BatchId, Epoch, JobId
from pyfi_hpc.model.messages import Range
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
    Recovered,
)


@dataclass(slots=True)
class MemoryStore:
    """What outlives a broker. Several ``MemoryLedger`` may look at one, as brokers at one Postgres."""

    epoch: Epoch = Epoch(0)
    #: the live writer and its name
    live: MemoryLedger | None = None
    holder: str = ""
    #: the simulator sets it: nothing answers
    down: bool = False
    jobs: dict[JobId, JobOpened] = field(default_factory=dict)
    keys: dict[tuple[str, bytes], JobId] = field(default_factory=dict)
    batches: dict[BatchId, BatchAdmitted] = field(default_factory=dict)
    #: batches of each job in order of number
    of_job: dict[JobId, list[BatchId]] = field(default_factory=dict)
    numbers: set[tuple[JobId, int]] = field(default_factory=set)
    #: outcomes of each batch by first task
    outcomes: dict[BatchId, dict[int, OutcomeSettled]] = field(default_factory=dict)
    attempts: dict[BatchId, list[AttemptFailed]] = field(default_factory=dict)
    #: of each job in order
    holds: dict[JobId, list[HoldChanged]] = field(default_factory=dict)
    closed: set[BatchId] = field(default_factory=set)
    #: the latest of each kind
    durations: dict[tuple[int, int, int], DurationsLearned] = field(default_factory=dict)
    commits: set[tuple[Epoch, int]] = field(default_factory=set)
    #: every committed record in order, for what the simulator checks at the end
    log: list[Record] = field(default_factory=list)


class MemoryLedger:
    """Implements ``ports.Ledger`` on a ``MemoryStore``."""

    waitable = -1

    def __init__(self, store: MemoryStore | None = None) -> None:
        self.store = store or MemoryStore()
        self._epoch = Epoch(0)
        #: the session was lost: the next commit is a takeover of oneself
        self._lost = False

    @property
    def epoch(self) -> Epoch:
        return self._epoch

    def take_over(self, holder: str) -> Recovered:
        self._reach()
        store = self.store
        if store.live not in (None, self):
            raise BrokerHeld(
                f"another broker holds this ledger: {store.holder}, epoch {store.epoch}", where="memory",
                fix="stop it first with `pyfi down`, or use its instance",
            )  # fmt: skip
        self._raise_epoch(holder)
        return self._recover()

    def start(self, records: Sequence[Record], seq: int) -> bool:
        return False

    def poll(self) -> bool:
        return False

    def beat(self) -> bool:
        return True

    def commit(self, records: Sequence[Record], seq: int) -> None:
        self._reach()
        store = self.store
        if store.epoch != self._epoch:
            name = f"{store.holder}, epoch {store.epoch}"
            raise StaleEpoch(f"another broker has taken over: {name}", where="memory")
        if self._lost:
            known = (self._epoch, seq) in store.commits
            self._raise_epoch(store.holder)
            self._lost = False
            if known:
                return
        _check(store, records)
        for record in records:
            _APPLY[type(record)](store, record)
        store.log.extend(records)
        store.commits.add((self._epoch, seq))

    def restore(self, records: Sequence[Record]) -> None:
        """Records that were committed elsewhere: a recorded ledger is read again."""
        for record in records:
            _APPLY[type(record)](self.store, record)
        self.store.log.extend(records)

    def lose_session(self) -> None:
        """The connection is gone: another broker may take over; if none does, this one goes on by itself."""
        if self.store.live is self:
            self.store.live = None
        self._lost = True

    def find_job(self, owner: str, key: bytes) -> FoundJob | None:
        self._reach()
        job = self.store.keys.get((owner, key))
        if job is None:
            return None
        batches = [self.store.batches[b] for b in self.store.of_job.get(job, ())]
        count = sum(batch.count for batch in batches)
        return FoundJob(replace(self.store.jobs[job]), len(batches), count, any(batch.last for batch in batches))

    def payloads(self, batches: Sequence[BatchId]) -> list[tuple[BatchId, bytes, bytes]]:
        self._reach()
        found = self.store.batches
        return [(b, found[b].offsets, found[b].payload) for b in batches if b in found]

    def values(self, wanted: Sequence[tuple[JobId, int]]) -> dict[tuple[JobId, int], tuple[int, bytes]]:
        self._reach()
        found = {}
        for job, index in wanted:
            outcome = self._outcome_of(job, index)
            if outcome is not None:
                place = index - self.store.batches[outcome.batch].first - outcome.lo
                found[job, index] = (outcome.states[place], value_at(place, outcome.offsets, outcome.payload))
        return found

    def page(self, job: JobId, cursor: tuple[int, int], bytes_max: int) -> OutcomePage | None:
        self._reach()
        opened = self.store.jobs.get(job)
        if opened is None:
            return None
        batches = [self.store.batches[b] for b in self.store.of_job.get(job, ())]
        total = batches[-1].first + batches[-1].count if batches and batches[-1].last else -1
        found = OutcomePage(opened.owner, opened.name, opened.shape, total, cursor=cursor)
        room = bytes_max
        for batch in sorted(batches, key=lambda b: b.batch):
            for lo, o in sorted(self.store.outcomes.get(batch.batch, {}).items()):
                if (batch.batch, lo) <= cursor:
                    continue
                room -= len(o.payload) + len(o.offsets) + o.count
                if found.ranges and room < 0:
                    found.more = True
                    return found
                found.ranges.append(Range(batch.first + lo, o.count, o.states, o.offsets, o.payload))
                found.cursor = (batch.batch, lo)
        return found

    def close(self) -> None:
        if self.store.live is self:
            self.store.live = None

    def _reach(self) -> None:
        if self.store.down:
            raise LedgerUnavailable(where="memory")

    def _raise_epoch(self, holder: str) -> None:
        store = self.store
        store.live, store.holder = self, holder
        store.epoch = self._epoch = Epoch(store.epoch + 1)

    def _recover(self) -> Recovered:
        store = self.store
        jobs = sorted({b.job for b in store.batches.values() if b.batch not in store.closed})
        batches = sorted(b for job in jobs for b in store.of_job[job])
        outcomes = [o for b in batches for _, o in sorted(store.outcomes.get(b, {}).items())]
        attempts = [a for b in batches for a in store.attempts.get(b, ())]
        return Recovered(
            epoch=store.epoch,
            next_job=JobId(max(store.jobs, default=0) + 1),
            next_batch=BatchId(max(store.batches, default=0) + 1),
            jobs=[replace(store.jobs[j]) for j in jobs],
            batches=[replace(store.batches[b], offsets=b"", payload=b"") for b in batches],
            outcomes=[replace(o, started=b"", durations=b"", offsets=b"", payload=b"", outputs=b"") for o in outcomes],
            attempts=[
                replace(a, outputs=b"")
                for a in sorted(attempts, key=lambda a: (a.batch, a.offset, a.attempt, a.failed_at))
            ],
            holds=[replace(h) for j in jobs for h in store.holds.get(j, ())],
            durations=[replace(d) for _, d in sorted(store.durations.items())],
        )

    def _outcome_of(self, job: JobId, index: int) -> OutcomeSettled | None:
        for number in self.store.of_job.get(job, ()):
            batch = self.store.batches[number]
            if batch.first <= index < batch.first + batch.count:
                for lo, outcome in self.store.outcomes.get(number, {}).items():
                    if lo <= index - batch.first < lo + outcome.count:
                        return outcome
        return None


def _check(store: MemoryStore, records: Sequence[Record]) -> None:
    """What Postgres refuses by constraint is a bug here too, and found before anything is applied."""
    seen: set[tuple[object, ...]] = set()
    for r in records:
        if isinstance(r, JobOpened):
            assert r.job not in store.jobs, f"{r} was opened before"
            assert (r.owner, r.key) not in store.keys, f"{r} was opened before"
            mark: tuple[object, ...] = ("job", r.owner, r.key)
        elif isinstance(r, BatchAdmitted):
            assert r.batch not in store.batches, f"{r} was admitted before"
            assert (r.job, r.number) not in store.numbers, f"{r} was admitted before"
            mark = ("batch", r.job, r.number)
        elif isinstance(r, OutcomeSettled):
            assert r.lo not in store.outcomes.get(r.batch, {}), f"{r} was settled before"
            assert len(r.states) == r.count, f"{r} has not one state a task"
            mark = ("outcome", r.batch, r.lo)
        elif isinstance(r, HoldChanged):
            assert all(r.number != other.number for other in store.holds.get(r.job, ())), f"{r} was written before"
            mark = ("hold", r.job, r.number)
        else:
            continue
        assert mark not in seen, f"{mark} is twice in one group"
        seen.add(mark)


def _opened(store: MemoryStore, r: JobOpened) -> None:
    store.jobs[r.job] = r
    store.keys[r.owner, r.key] = r.job


def _admitted(store: MemoryStore, r: BatchAdmitted) -> None:
    store.batches[r.batch] = r
    store.numbers.add((r.job, r.number))
    store.of_job.setdefault(r.job, []).append(r.batch)


def _settled(store: MemoryStore, r: OutcomeSettled) -> None:
    store.outcomes.setdefault(r.batch, {})[r.lo] = r


def _failed(store: MemoryStore, r: AttemptFailed) -> None:
    store.attempts.setdefault(r.batch, []).append(r)


def _hold_changed(store: MemoryStore, r: HoldChanged) -> None:
    store.holds.setdefault(r.job, []).append(r)


def _closed(store: MemoryStore, r: BatchClosed) -> None:
    store.closed.add(r.batch)


def _learned(store: MemoryStore, r: DurationsLearned) -> None:
    store.durations[r.socket, r.code, r.size] = r


_APPLY: dict[type, Callable[[MemoryStore, Any], None]] = {
    JobOpened: _opened,
    BatchAdmitted: _admitted,
    OutcomeSettled: _settled,
    AttemptFailed: _failed,
    BatchClosed: _closed,
    HoldChanged: _hold_changed,
    DurationsLearned: _learned,
}
