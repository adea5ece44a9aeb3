"""Small groups in one round trip: a lone call waits for two commits, and COPY takes two trips a table.

The statements are prepared once per connection; begin, rows and COMMIT go as one message. Measured here: 0.35
ms instead of 0.8 for the admission of one call. Above a few rows COPY is cheaper.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import psycopg2.extensions

from pyfi_hpc.ledger.copy import COLUMNS, Group, intervals, text
from pyfi_hpc.model.records import AttemptFailed, BatchAdmitted, BatchClosed, JobOpened, OutcomeSettled, Record

_ROWS_MAX = 8
_BYTES_MAX = 32 << 10

_TYPES = {
    "job": "bigint, smallint, float8, bigint, bytea, text, text, bytea",
    "task_batch": "bigint, bigint, int, bigint, int, bool, bigint, bigint, int, int, float8, bigint, bytea, bytea",
    "outcome_batch": "bigint, bigint, int, int, int, bigint, bigint, int, float8, text, bytea, bytea, bytea, bytea,"
    " bytea, bytea",
    "attempt_failed": "bigint, bigint, int, int, smallint, bigint, bigint, int, float8, text, bytea, bytea",
}


def _prepare(table: str) -> str:
    count = len(COLUMNS[table].split(","))
    marks = ", ".join(f"${n}" for n in range(1, count + 1))
    return f"PREPARE pyfi_{table} ({_TYPES[table]}) AS INSERT INTO {table} ({COLUMNS[table]}) VALUES ({marks})"


#: run once on each connection that writes
PREPARE = ";\n".join(_prepare(table) for table in _TYPES)


def is_small(records: Sequence[Record]) -> bool:
    """Whether these records go as one message; those with dependencies do not."""
    if len(records) > _ROWS_MAX:
        return False
    size = 0
    for record in records:
        if isinstance(record, BatchAdmitted):
            if record.edges:
                return False
            size += len(record.payload) + len(record.offsets)
        elif isinstance(record, OutcomeSettled):
            size += len(record.payload) + len(record.outputs) + 17 * record.count
        elif isinstance(record, AttemptFailed):
            size += len(record.error) + len(record.outputs)
    return size <= _BYTES_MAX


def outline(records: Sequence[Record]) -> Group:
    """What a commit's own row tells of a small group."""
    group = Group(counts=dict.fromkeys(COLUMNS, 0))
    closed = []
    for record in records:
        if isinstance(record, BatchClosed):
            closed.append(record.batch)
        else:
            group.counts[_ROWS[type(record)][0]] += 1
            group.job_max = max(group.job_max, record.job)
    group.closed, group.closed_count = intervals(closed), len(closed)
    return group


def statements(cursor: psycopg2.extensions.cursor, records: Sequence[Record], epoch: int) -> bytes:
    """The rows of a small group as SQL text."""
    parts = []
    for record in records:
        if not isinstance(record, BatchClosed):
            table, values = _ROWS[type(record)]
            row = values(record, epoch)
            marks = ", ".join(["%s"] * len(row))
            parts.append(cursor.mogrify(f"EXECUTE pyfi_{table} ({marks});", row))
    return b"".join(parts)


def _text(value: str) -> str:
    return text(value).decode()


def _job(r: JobOpened, epoch: int) -> tuple[Any, ...]:
    return r.job, int(r.on_failure), r.opened_at, epoch, r.key, _text(r.owner), _text(r.name), r.shape


def _batch(r: BatchAdmitted, epoch: int) -> tuple[Any, ...]:
    return (
        r.batch, r.job, r.number, r.first, r.count, r.last, r.socket, r.code, r.priority, r.retries, r.time_limit_s,
        epoch, r.offsets, r.payload,
    )  # fmt: skip


def _outcome(r: OutcomeSettled, epoch: int) -> tuple[Any, ...]:
    return (
        r.job, r.batch, r.lo, r.count, r.attempt, r.epoch, r.grant, r.rank, r.settled_at, _text(r.node), r.states,
        r.started, r.durations, r.offsets, r.payload, r.outputs,
    )  # fmt: skip


def _attempt(r: AttemptFailed, epoch: int) -> tuple[Any, ...]:
    return (
        r.job, r.batch, r.offset, r.attempt, int(r.cause), r.epoch, r.grant, r.rank, r.failed_at, _text(r.node),
        r.error, r.outputs,
    )  # fmt: skip


_ROWS: dict[type, tuple[str, Callable[[Any, int], tuple[Any, ...]]]] = {
    JobOpened: ("job", _job),
    BatchAdmitted: ("task_batch", _batch),
    OutcomeSettled: ("outcome_batch", _outcome),
    AttemptFailed: ("attempt_failed", _attempt),
}
