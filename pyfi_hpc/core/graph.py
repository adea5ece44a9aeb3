"""Dependencies: a task waits until all results that its arguments name are there.

Results pass from task to task as opaque bytes without touching the client. A producer that did not complete
makes its dependents SKIPPED, theirs too, and the cause is recorded with each.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import msgspec

from pyfi_hpc.core.jobs import Batch, Job, JobBook, Need
from pyfi_hpc.model.effects import Effects, ReadValues
from pyfi_hpc.model.ids import GrantId, JobId
from pyfi_hpc.model.messages import Count, Id
from pyfi_hpc.model.states import FIRST_FINAL, TaskState

Key = tuple[JobId, int]
#: edges of one batch; each is a tuple in memory and a lookup
EDGES_MAX = 1 << 20
#: results that are asked for at once: what comes is in memory together
_READ_MAX = 64
_edges = msgspec.msgpack.Decoder(
    Annotated[list[tuple[Count, Count, Id, Id]], msgspec.Meta(max_length=EDGES_MAX)]
)


def edges_of(data: bytes, job: int) -> list[tuple[int, int, int, int]]:
    """(offset in batch, slot, producer's job, producer's index); raises msgspec.MsgspecError."""
    return [(offset, slot, producer or job, index) for offset, slot, producer, index in _edges.decode(data)]


@dataclass(slots=True)
class _Value:
    data: bytes
    users: int


@dataclass(slots=True)
class Graph:
    """Who waits for whom, and results kept for those that wait."""

    book: JobBook
    value_bytes_max: int
    values: dict[Key, _Value] = field(default_factory=dict)
    value_bytes: int = 0
    #: bytes of results that somebody uses, also of those that are not kept
    sizes: dict[Key, int] = field(default_factory=dict)
    #: how many unfinished tasks use a result
    users: dict[Key, int] = field(default_factory=dict)
    #: a task whose results are not given up
    favoured: tuple[Batch, int] | None = None
    #: tasks that wait for a result that is being read from the ledger
    readers: dict[Key, list[tuple[Batch, int]]] = field(default_factory=dict)

    def admit(self, batch: Batch, edges: list[tuple[int, int, int, int]], out: Effects) -> None:
        """Block the tasks of a new (or recovered) batch that wait for others."""
        batch.waiting = {}
        for offset, slot, producer, index in edges:
            if batch.states[offset] >= FIRST_FINAL:
                continue
            need = batch.waiting.setdefault(offset, Need([]))
            while len(need.slots) <= slot:
                need.slots.append((JobId(0), 0))
            need.slots[slot] = (JobId(producer), index)
        for offset, need in batch.waiting.items():
            batch.states[offset] = TaskState.BLOCKED
            for key in set(need.slots):
                self.users[key] = self.users.get(key, 0) + 1
                if key not in self.values:
                    need.missing.add(key)
                    self._wait_for(key, batch, offset, out)
            if not need.missing:
                batch.states[offset] = TaskState.PENDING

    def _wait_for(self, key: Key, batch: Batch, offset: int, out: Effects) -> None:
        job = self.book.jobs.get(key[0])
        place = job.locate(key[1]) if job else None
        if job and place and place[0].states[place[1]] < FIRST_FINAL:
            job.waiters.setdefault(key[1], []).append((batch, offset))
            return
        self.read(key, batch, offset, out)

    def read(self, key: Key, batch: Batch, offset: int, out: Effects) -> None:
        """Ask the ledger for a result that is final."""
        readers = self.readers.setdefault(key, [])
        readers.append((batch, offset))
        if len(readers) > 1:
            return
        last = out.queries[-1] if out.queries else None
        if isinstance(last, ReadValues) and len(last.wanted) < _READ_MAX:
            last.wanted.append(key)
        else:
            out.queries.append(ReadValues([key]))

    def completed(self, job: Job, index: int, data: bytes, grant: GrantId) -> list[tuple[Batch, int]]:
        """The result of a task that others wait for, and under which grant it was made; those that are ready now."""
        waiters = job.waiters.pop(index, [])
        for batch, offset in waiters:
            need = batch.waiting.get(offset) if batch.waiting else None
            if need is not None and need.follow is not None and need.follow.granted:
                # another one was given away: what the node makes of it is not to count
                maker, _ = need.follow.makers.get((job.id, index), (None, 0))
                need.void = need.void or maker != grant
        return self.arrived((job.id, index), data, waiters)

    def arrived(self, key: Key, data: bytes, waiters: list[tuple[Batch, int]]) -> list[tuple[Batch, int]]:
        ready = []
        if self.users.get(key):
            self._keep(key, data)
        for batch, offset in waiters:
            need = batch.waiting.get(offset) if batch.waiting else None
            if need is None or batch.states[offset] >= FIRST_FINAL:
                continue
            need.missing.discard(key)
            if need.missing:
                continue
            need.unfollow()
            if batch.states[offset] == TaskState.BLOCKED:
                ready.append((batch, offset))
        return ready

    def _keep(self, key: Key, data: bytes) -> None:
        self.sizes[key] = len(data)
        if key not in self.values:
            self.values[key] = _Value(data, self.users[key])
            self.value_bytes += len(data)

    def size(self, batch: Batch, offset: int) -> int:
        """Bytes of all that a task takes, as far as that is known."""
        need = batch.waiting.get(offset) if batch.waiting else None
        return sum(self.sizes.get(key, 0) for key in need.slots) if need is not None else 0

    def inputs(self, batch: Batch, offset: int, out: Effects) -> list[bytes] | None:
        """Results for the slots of a task; None: some must be read again first, the task is blocked."""
        need = batch.waiting.get(offset) if batch.waiting else None
        if need is None:
            return []
        for key in set(need.slots):
            if key not in self.values:
                need.missing.add(key)
                self.read(key, batch, offset, out)
        if need.missing:
            batch.states[offset] = TaskState.BLOCKED
            if self._need_of_favoured() is None:  # all that it takes has been made: nothing but reading keeps it
                self.favoured = batch, offset
            return None
        return [self.values[key].data for key in need.slots]

    def finished(self, batch: Batch, offset: int) -> None:
        """A task that used results is final: drop those that nobody else waits for."""
        need = batch.waiting.pop(offset, None) if batch.waiting else None
        if need is None:
            return
        need.unfollow()
        for key in set(need.slots):
            self.users[key] -= 1
            if self.users[key] == 0:
                del self.users[key]
                self.sizes.pop(key, None)
                value = self.values.pop(key, None)
                if value is not None:
                    self.value_bytes -= len(value.data)

    def shed(self) -> None:
        """Over the limit the oldest results go; they are read again when their task's turn comes.

        Those of one task that waits for them stay, until it has run: else tasks could take the results out of each
        other's hands for ever. What one task may take fits.
        """
        if self.value_bytes <= self.value_bytes_max:
            return
        need = self._need_of_favoured()
        fits = self.favoured is not None and self.size(*self.favoured) <= self.value_bytes_max  # else it is refused
        stay = frozenset(need.slots if need is not None and fits else ())
        for key in list(self.values):
            if self.value_bytes <= self.value_bytes_max:
                return
            if key not in stay:
                self.value_bytes -= len(self.values.pop(key).data)

    def _need_of_favoured(self) -> Need | None:
        """None when the favoured task has been granted or has ended, or is on hold."""
        if self.favoured is None:
            return None
        batch, offset = self.favoured
        need = batch.waiting.get(offset) if batch.waiting else None
        if need is None or batch.states[offset] not in (TaskState.BLOCKED, TaskState.PENDING) or batch.job.on_hold:
            return None
        return need
