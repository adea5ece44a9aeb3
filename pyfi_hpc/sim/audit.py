"""What the imagined ledger says, task by task: followed commit by commit, so that the first wrong record is named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyfi_hpc.ledger.memory import MemoryStore
from pyfi_hpc.model.records import AttemptFailed, BatchAdmitted, JobOpened, OutcomeSettled
from pyfi_hpc.model.states import FIRST_FINAL, Cause
from pyfi_hpc.sim.failure import Violation, expect


class Audit:
    """Reads the log of a store once."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self._position = 0
        #: one state per task of a job, 0: not final
        self._final: dict[int, bytearray] = {}
        #: batch -> job, first index, tasks
        self._batches: dict[int, tuple[int, int, int]] = {}
        #: what submissions call themselves -> job
        self._names: dict[str, int] = {}
        self._attempts: dict[tuple[int, int], int] = {}

    def follow(self) -> None:
        """Look at what was committed since."""
        log = self._store.log
        for record in log[self._position :]:
            look = _LOOKS.get(type(record))
            if look is not None:
                look(self, record)
        self._position = len(log)

    def state(self, job: int, index: int) -> int:
        """The final state of a task; 0: none."""
        states = self._final.get(job)
        return states[index] if states is not None and index < len(states) else 0

    def count(self, job: int) -> int:
        """Tasks of a job that are final."""
        states = self._final.get(job, b"")
        return len(states) - states.count(0)

    def open_tasks(self) -> list[tuple[int, int]]:
        """Tasks that are admitted and not final; the first of each batch that has one."""
        found = []
        for job, first, count in self._batches.values():
            at = self._final[job].find(0, first, first + count)
            if at >= 0:
                found.append((job, at))
        return found

    @property
    def open_count(self) -> int:
        return sum(states.count(0) for states in self._final.values())

    def _opened(self, record: JobOpened) -> None:
        known = self._names.setdefault(record.name, record.job)
        if known != record.job and "/" in record.name:
            raise Violation(f"submission {record.name} became job {known} and again job {record.job}", (record.job, 0))
        self._final[record.job] = bytearray()

    def _admitted(self, record: BatchAdmitted) -> None:
        states = self._final[record.job]
        expect(len(states) == record.first, f"batch {record.batch} does not follow", (record.job, record.first))
        states.extend(bytes(record.count))
        self._batches[record.batch] = (record.job, record.first, record.count)

    def _settled(self, record: OutcomeSettled) -> None:
        job, first, count = self._batches[record.batch]
        states = self._final[job]
        lo = first + record.lo
        expect(record.lo + record.count <= count, f"{record} is outside of its batch", (job, lo))
        for at, state in enumerate(record.states):
            expect(state >= FIRST_FINAL, f"settled in state {state}", (job, lo + at))
            expect(states[lo + at] == 0, "settled twice", (job, lo + at))
        states[lo : lo + record.count] = record.states

    def _failed(self, record: AttemptFailed) -> None:
        job, first, _ = self._batches[record.batch]
        task = (job, first + record.offset)
        if record.cause == Cause.STALE:
            return
        expect(self.state(*task) == 0, "an attempt failed after its task was final", task)
        last = self._attempts.get(task, 0)
        expect(record.attempt > last, f"attempt {record.attempt} failed after attempt {last}", task)
        self._attempts[task] = record.attempt


_LOOKS: dict[type, Callable[[Audit, Any], None]] = {
    JobOpened: Audit._opened,
    BatchAdmitted: Audit._admitted,
    OutcomeSettled: Audit._settled,
    AttemptFailed: Audit._failed,
}
