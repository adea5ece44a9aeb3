"""What records tell, task by task, so that two accounts of one work can be compared; and whether they can be true."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import msgspec

from pyfi_hpc.core.graph import edges_of
from pyfi_hpc.model.messages import Item
from pyfi_hpc.model.packed import cut, pick, well_formed
from pyfi_hpc.model.records import AttemptFailed, BatchAdmitted, JobOpened, OutcomeSettled, Record
from pyfi_hpc.model.states import FIRST_FINAL, Cause, TaskState

#: (batch, offset in it)
Place = tuple[int, int]
#: how one attempt ended, or the task: state or cause, attempt, error or result
End = tuple[str, int, bytes]


class Told:
    """What records tell, task by task; none of them is malformed."""

    def __init__(self, records: Sequence[Record]) -> None:
        self.jobs: dict[int, JobOpened] = {}
        self.batches: dict[int, BatchAdmitted] = {}
        #: in the order in which they were decided; the last one is final
        self.ends: dict[tuple[int, int], list[End]] = {}
        self._results: dict[tuple[int, int], bytes] = {}
        self._inputs: dict[Place, list[tuple[int, int]]] = {}
        #: batches of which some tasks take results
        self._takers: set[int] = set()
        for record in records:
            if isinstance(record, JobOpened):
                self.jobs[record.job] = replace(record, opened_at=0.0)
            elif isinstance(record, BatchAdmitted):
                self._admitted(record)
            elif isinstance(record, OutcomeSettled):
                self._settled(record)
            elif isinstance(record, AttemptFailed) and record.cause != Cause.STALE:
                task = (int(record.job), self.batches[record.batch].first + record.offset)
                self.ends.setdefault(task, []).append((record.cause.name, record.attempt, record.error))

    def _admitted(self, record: BatchAdmitted) -> None:
        self.batches[record.batch] = record
        for offset, _, producer, index in edges_of(record.edges, record.job) if record.edges else ():
            self._inputs.setdefault((record.batch, offset), []).append((producer, index))
            self._takers.add(record.batch)

    def _settled(self, record: OutcomeSettled) -> None:
        first = self.batches[record.batch].first + record.lo
        for at, state in enumerate(record.states):
            task = (int(record.job), first + at)
            data = pick(record.offsets, record.payload, at)
            self._results[task] = data
            # of several that did not complete, the error of a skipped task names whichever was seen first
            error = b"" if state == TaskState.SKIPPED else data
            self.ends.setdefault(task, []).append((TaskState(state).name, record.attempt, error))

    def digest(self) -> str:
        """Of all arguments and results, task by task: equal where two ledgers hold the same work."""
        made = hashlib.sha256()
        for number in sorted(self.batches):
            made.update(self.batches[number].offsets + self.batches[number].payload)
        for task in sorted(self._results):
            made.update(repr(task).encode() + self._results[task])
        return made.hexdigest()[:16]

    def carries(self, item: Item) -> bytes:
        """Of each task of a grant: 1 if it has the arguments and results that are told of it, 2 if some are being made.

        Cost: one comparison, unless its tasks take results of others.
        """
        batch, lo = self.batches[item.batch], item.lo
        arguments = cut(batch.offsets, batch.payload, lo, lo + item.count)
        if item.batch not in self._takers and not any(item.inputs):
            return bytes([arguments == (item.offsets, item.payload)]) * item.count
        found = bytearray()
        for at in range(item.count):
            taken = item.inputs[at] if item.inputs else []
            if not all(isinstance(value, bytes) for value in taken):
                found.append(2)
                continue
            alike = pick(item.offsets, item.payload, at) == pick(*arguments, at)
            found.append(alike and taken == self._taken((item.batch, lo + at)))
        return bytes(found)

    def _taken(self, place: Place) -> list[bytes]:
        """Results that a task takes."""
        return [self._results.get(key, b"?") for key in self._inputs.get(place, ())]

    def mark(self, place: Place) -> bytes:
        """Of the arguments with which a task should be granted."""
        batch = self.batches[place[0]]
        return mark_of(pick(batch.offsets, batch.payload, place[1]), self._taken(place))


def malformed(records: Sequence[Record]) -> list[str]:
    """Records that no broker can have written, whatever happened: these cannot be replayed."""
    jobs: set[int] = set()
    batches: dict[int, BatchAdmitted] = {}
    found: list[str] = []
    for r in records:
        if isinstance(r, JobOpened):
            jobs.add(r.job)
        elif isinstance(r, BatchAdmitted):
            batches[r.batch] = r
            if r.job not in jobs:
                found.append(f"batch {r.batch} was admitted to job {r.job}, which was not opened before")
            elif r.count and not well_formed(r.offsets, r.payload, r.count):
                found.append(f"the arguments of batch {r.batch} of job {r.job} do not fit its {r.count} tasks")
            elif not _has_edges(r):
                found.append(f"the dependencies of batch {r.batch} of job {r.job} cannot be read")
        elif isinstance(r, OutcomeSettled | AttemptFailed):
            batch = batches.get(r.batch)
            if batch is None or batch.job != r.job:
                found.append(f"tasks of batch {r.batch} of job {r.job} have ended, and it was not admitted before")
            elif not _fits(r, batch):
                lo = r.lo if isinstance(r, OutcomeSettled) else r.offset
                found.append(f"the end of task {r.job}.{batch.first + lo} cannot be read")
            elif isinstance(r, OutcomeSettled):
                tasks = [f"{r.job}.{batch.first + r.lo + at}" for at in range(r.count) if _lacks_error(r, at)]
                found += [f"task {task} did not complete, and has no error" for task in tasks]
    return found


def _lacks_error(r: OutcomeSettled, at: int) -> bool:
    return r.states[at] != TaskState.COMPLETED and not read_error(pick(r.offsets, r.payload, at))["type"]


def read_error(data: bytes) -> dict[str, str]:
    """Module, type and message of an error; empty where the bytes are none."""
    try:
        module, kind, message, *_ = msgspec.msgpack.decode(data)
        return {"module": str(module), "type": str(kind), "message": str(message)}
    except (msgspec.MsgspecError, ValueError, TypeError):
        return {"module": "", "type": "", "message": ""}


def _has_edges(r: BatchAdmitted) -> bool:
    try:
        return not r.edges or all(offset < r.count for offset, *_ in edges_of(r.edges, r.job))
    except (msgspec.MsgspecError, ValueError):
        return False


def _fits(r: OutcomeSettled | AttemptFailed, batch: BatchAdmitted) -> bool:
    if isinstance(r, AttemptFailed):
        return 0 <= r.offset < batch.count
    inside = 0 <= r.lo < r.lo + r.count <= batch.count and len(r.states) == r.count
    final = all(FIRST_FINAL <= state <= TaskState.SKIPPED for state in r.states)
    return inside and final and well_formed(r.offsets, r.payload, r.count)


def mark_of(arguments: bytes, inputs: Sequence[bytes]) -> bytes:
    """Of what a task is called with."""
    return hashlib.blake2b(msgspec.msgpack.encode((arguments, inputs)), digest_size=16).digest()


def words(end: End | None, beside: End | None = None) -> str:
    """An end for people; ``beside`` another one."""
    if end is None:
        return "nothing"
    alike = beside is not None and end[:2] == beside[:2]
    return f"{end[0]} at attempt {end[1]}" + (" with another result" if alike else "")
