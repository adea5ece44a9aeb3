"""Reads of the ledger: unfinished work after a restart, payloads, results, pages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from struct import unpack_from
from typing import Any, TypeVar

from pyfi_hpc.ledger.connection import QUERIES, Cursor, columns, large_rows, one
from pyfi_hpc.model.ids import BatchId, Epoch, JobId
from pyfi_hpc.model.messages import Range
from pyfi_hpc.model.records import (
    AttemptFailed,
    BatchAdmitted,
    DurationsLearned,
    FoundJob,
    HoldChanged,
    JobOpened,
    OutcomeSettled,
    Recovered,
)
from pyfi_hpc.model.states import Cause

_FOR_EVER = 2**63 - 1
#: ranges looked at for one page; a page never holds more
PAGE_RANGES_MAX = 4096


@dataclass(slots=True)
class OutcomePage:
    """One page of a job's outcomes, see ``ports.PageOfOutcomes``."""

    owner: str
    name: str
    shape: bytes
    total: int
    ranges: list[Range] = field(default_factory=list)
    cursor: tuple[int, int] = (0, -1)
    more: bool = False


def value_at(index: int, offsets: bytes, payload: bytes) -> bytes:
    """The index-th value of a packed column; without offsets all values are empty."""
    if not offsets:
        return b""
    start, stop = unpack_from("<II", offsets, 4 * index)
    return payload[start:stop]


def gaps(closed: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Where open batches can be: between merged closed ranges (in order, disjoint) and above them.

    >>> gaps([(1, 3), (5, 5)])[:-1]
    [(4, 4)]
    """
    found, next_batch = [], 1
    for lo, hi in closed:
        if lo > next_batch:
            found.append((next_batch, lo - 1))
        next_batch = max(next_batch, hi + 1)
    return [*found, (next_batch, _FOR_EVER)]


def recover(cursor: Cursor, epoch: Epoch) -> Recovered:
    """Read what is unfinished: every job that has an open batch, with all of its batches.

    The whole job, because its size, its next number and the place of an index follow from all its batches.
    Cost follows the unfinished jobs, not the ledger's size.
    """
    # the planner knows nothing of what lies in a gap, and a guess too high would read whole tables
    cursor.execute("BEGIN; SET LOCAL enable_seqscan = off; SELECT ledger_merge_closed()")
    cursor.execute(QUERIES["highest"])
    job, batch = one(cursor)
    found = Recovered(epoch=epoch, next_job=JobId(job + 1), next_batch=BatchId(batch + 1))
    cursor.execute(QUERIES["closed"])
    holes = gaps(cursor.fetchall())
    cursor.execute(QUERIES["open_jobs"], {"lo": [lo for lo, _ in holes], "hi": [hi for _, hi in holes]})
    wanted = {"jobs": [job for (job,) in cursor.fetchall()]}
    cursor.execute(QUERIES["jobs"], wanted)
    found.jobs = records_of(cursor, JobOpened)
    cursor.execute(QUERIES["job_batches"], wanted)
    found.batches = records_of(cursor, BatchAdmitted, offsets=b"", payload=b"")
    cursor.execute(QUERIES["job_outcomes"], wanted)
    found.outcomes = records_of(cursor, OutcomeSettled, started=b"", durations=b"", offsets=b"", payload=b"")
    cursor.execute(QUERIES["job_attempts"], wanted)
    found.attempts = records_of(cursor, AttemptFailed)
    cursor.execute(QUERIES["job_holds"], wanted)
    found.holds = records_of(cursor, HoldChanged)
    cursor.execute(QUERIES["forget_durations"])
    cursor.execute(QUERIES["durations"])
    found.durations = records_of(cursor, DurationsLearned)
    cursor.execute("COMMIT")
    return found


_R = TypeVar("_R")
#: columns that are more than numbers
_KINDS: dict[str, Callable[[Any], Any]] = {"cause": Cause}


def records_of(cursor: Cursor, kind: Callable[..., _R], **rest: Any) -> list[_R]:
    """Rows whose columns are named as the record's fields, or what else takes them by name."""
    found: list[_R] = []
    names = [column.name for column in cursor.description or ()]
    for row in columns(cursor):
        values: dict[str, Any] = dict(zip(names, row, strict=True)) | rest
        for name in _KINDS.keys() & values.keys():
            values[name] = _KINDS[name](values[name])
        found.append(kind(**values))
    return found


def find_job(cursor: Cursor, owner: str, key: bytes) -> FoundJob | None:
    cursor.execute(QUERIES["find_job"], {"owner": owner, "key": key})
    row = cursor.fetchone()
    if row is None:
        return None
    job, raw, whose, name, shape, *rest, batches, count, closed = row
    opened = JobOpened(JobId(job), bytes(raw), whose, name, bytes(shape), *rest)
    return FoundJob(opened, batches, count, closed)


def payloads(cursor: Cursor, batches: Sequence[BatchId]) -> list[tuple[BatchId, bytes, bytes]]:
    rows = {row[0]: row for row in large_rows(cursor, QUERIES["payloads"], {"batches": list(batches)}, "ibb")}
    return [(batch, *rows[batch][1:]) for batch in batches if batch in rows]


def values(cursor: Cursor, wanted: Sequence[tuple[JobId, int]]) -> dict[tuple[JobId, int], tuple[int, bytes]]:
    """Two statements: where they are, then each range once, however many of its tasks are wanted."""
    jobs, indexes = [job for job, _ in wanted], [index for _, index in wanted]
    cursor.execute(QUERIES["locate_values"], {"jobs": jobs, "indexes": indexes})
    places = {row[:3]: tuple(zip(row[3], row[4], strict=True)) for row in cursor.fetchall()}
    if not places:
        return {}
    where = {"jobs": [p[0] for p in places], "batches": [p[1] for p in places], "los": [p[2] for p in places]}
    found: dict[tuple[JobId, int], tuple[int, bytes]] = {}
    for job, batch, lo, states, offsets, payload in large_rows(cursor, QUERIES["values"], where, "iiibbb"):
        for index, place in places[job, batch, lo]:
            found[job, index] = (states[place], value_at(place, offsets, payload))
    return found


def page(cursor: Cursor, job: JobId, after: tuple[int, int], bytes_max: int) -> OutcomePage | None:
    """The ranges after a place, as many as fit into ``bytes_max`` but at least one."""
    cursor.execute(QUERIES["page_head"], {"job": job})
    head = cursor.fetchone()
    if head is None:
        return None
    found = OutcomePage(head[0], head[1], bytes(head[2]), head[3], cursor=after)
    place = {"job": job, "batch": after[0], "lo": after[1]}
    cursor.execute(QUERIES["page_sizes"], {**place, "limit": PAGE_RANGES_MAX + 1})
    sizes = cursor.fetchall()
    taken, room = 0, bytes_max
    while taken < min(len(sizes), PAGE_RANGES_MAX) and (taken == 0 or sizes[taken][2] <= room):
        room -= sizes[taken][2]
        taken += 1
    if not taken:
        return found
    found.more = taken < len(sizes)
    found.cursor = (sizes[taken - 1][0], sizes[taken - 1][1])
    ends = {"batch_to": found.cursor[0], "lo_to": found.cursor[1]}
    found.ranges = [Range(*row[2:]) for row in large_rows(cursor, QUERIES["page"], place | ends, "iiiibbb")]
    return found
