"""Records to the bytes of binary COPY: one buffer per table and commit, about a microsecond a row.

A row is its number of columns, then each column as a length and its bytes, big-endian. Columns of fixed
size come first, so that one ``struct`` packs them all together with the length of the first one that varies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from struct import Struct

import msgspec

from pyfi_hpc.ledger.blocks import BLOCK_BYTES, Blocks
from pyfi_hpc.model.ids import Epoch
from pyfi_hpc.model.records import (
    AttemptFailed,
    BatchAdmitted,
    BatchClosed,
    DurationsLearned,
    HoldChanged,
    JobOpened,
    OutcomeSettled,
    Record,
)

_HEAD = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_TAIL = b"\xff\xff"
_NULL = b"\xff\xff\xff\xff"
_length = Struct(">i").pack
_edges = msgspec.msgpack.Decoder(list[tuple[int, int, int, int]])
Parts = list[bytes | memoryview]

#: columns in the order in which the functions below pack them
COLUMNS = {
    "job": "id, on_failure, at_once, opened_at, epoch, key, owner, name, shape, project",
    "task_batch": "batch, job, number, first, count, last, socket, code, priority, retries, time_limit_s,"
    " preemptible, epoch, offsets, payload, blocks, terms, size",
    "block": "number, part, data",
    "edge": "job, batch, producers, edges",
    "outcome_batch": "job, batch, lo, count, attempt, epoch, grant_id, rank, settled_at, node, states,"
    " started, durations, offsets, payload, outputs, blocks",
    "attempt_failed": "job, batch, lo, attempt, cause, epoch, grant_id, rank, failed_at, node, error, outputs",
    "job_hold": "job, number, on_hold, changed_at, epoch",
    "duration": "socket, code, size, lead_s, completed, learned_at, epoch, counts",
}
STATEMENTS = {table: f"COPY {table} ({columns}) FROM STDIN (FORMAT binary)" for table, columns in COLUMNS.items()}


@dataclass(slots=True)
class Group:
    """A group of records, packed."""

    #: table -> pieces of its COPY
    parts: dict[str, Parts] = field(default_factory=dict)
    #: rows of each table
    counts: dict[str, int] = field(default_factory=dict)
    #: batches that are entirely final, as intervals with both ends
    closed: list[tuple[int, int]] = field(default_factory=list)
    closed_count: int = 0
    job_max: int = 0
    payload_bytes: int = 0

    def buffer(self, table: str) -> bytes:
        return b"".join((_HEAD, *self.parts[table], _TAIL))


def pack(records: Sequence[Record], epoch: Epoch, blocks: Blocks) -> Group:
    """Sort the records by table and pack them; ``epoch`` is who writes them, ``blocks`` what is there already."""
    group = Group()
    blocks.begin()
    closed: list[int] = []
    tables: dict[str, Parts] = {table: [] for table in COLUMNS}
    counts = dict.fromkeys(COLUMNS, 0)
    for record in records:
        if isinstance(record, BatchClosed):
            closed.append(record.batch)
            continue
        table, add = _PACKERS[type(record)]
        if isinstance(record, _WITH_PAYLOAD) and len(record.payload) >= BLOCK_BYTES:
            numbers = blocks.cut(record.job, record.offsets, record.payload, tables["block"])
            add(tables[table], record, epoch, numbers)
        else:
            add(tables[table], record, epoch)
        counts[table] += 1
        group.job_max = max(group.job_max, getattr(record, "job", 0))
        if isinstance(record, BatchAdmitted) and record.edges:
            _pack_edges(tables["edge"], record)
            counts["edge"] += 1
    group.parts = {table: parts for table, parts in tables.items() if parts}
    group.counts = counts
    group.closed = intervals(closed)
    group.closed_count = len(closed)
    group.payload_bytes = sum(len(part) for parts in group.parts.values() for part in parts)
    return group


def intervals(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Merge numbers into intervals with both ends.

    >>> intervals([5, 1, 2, 3, 7])
    [(1, 3), (5, 5), (7, 7)]
    """
    merged: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if merged and number <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], number)
        else:
            merged.append((number, number))
    return merged


def text(value: str) -> bytes:
    """Text that Postgres takes: no NUL, which it has no place for, and always UTF-8."""
    return value.encode("utf-8", "replace").replace(b"\0", b"")


_job = Struct(">h iq ih ih id iq i").pack
_task_batch = Struct(">h iq iq ii iq ii i? iq iq ii ii id i? iq i").pack
_outcome = Struct(">h iq iq ii ii ii iq iq ii id i").pack
_attempt = Struct(">h iq iq ii ii ih iq iq ii id i").pack
_double = Struct(">id").pack
_hold = Struct(">h iq ii i? id iq").pack
_learned = Struct(">h iq iq ih id iq id iq i").pack
_edge = Struct(">h iq iq i").pack


def _pack_job(parts: Parts, r: JobOpened, epoch: int) -> None:
    key = r.key
    parts.append(_job(10, 8, r.job, 2, r.on_failure, 2, r.at_once, 8, r.opened_at, 8, epoch, len(key)))
    parts.append(key)
    _varying(parts, text(r.owner), text(r.name), r.shape, text(r.project))


def _pack_batch(parts: Parts, r: BatchAdmitted, epoch: int, blocks: list[int] | None = None) -> None:
    parts.append(
        _task_batch(
            18, 8, r.batch, 8, r.job, 4, r.number, 8, r.first, 4, r.count, 1, r.last, 8, r.socket, 8, r.code,
            4, r.priority, 4, r.retries, 8, r.time_limit_s, 1, r.preemptible, 8, epoch, len(r.offsets),
        )
    )  # fmt: skip
    parts.append(r.offsets)
    _varying(parts, r.payload if blocks is None else b"")
    parts.append(_NULL if blocks is None else _numbers(blocks))
    _varying(parts, r.terms)
    parts.append(_double(8, r.size))


def _pack_outcome(parts: Parts, r: OutcomeSettled, epoch: int, blocks: list[int] | None = None) -> None:
    node = text(r.node)
    parts.append(
        _outcome(
            17, 8, r.job, 8, r.batch, 4, r.lo, 4, r.count, 4, r.attempt, 8, r.epoch, 8, r.grant, 4, r.rank,
            8, r.settled_at, len(node),
        )
    )  # fmt: skip
    parts.append(node)
    payload = r.payload if blocks is None else b""
    _varying(parts, r.states, r.started, r.durations, r.offsets, payload, r.outputs)
    parts.append(_NULL if blocks is None else _numbers(blocks))


def _pack_attempt(parts: Parts, r: AttemptFailed, epoch: int) -> None:
    node = text(r.node)
    parts.append(
        _attempt(
            12, 8, r.job, 8, r.batch, 4, r.offset, 4, r.attempt, 2, r.cause, 8, r.epoch, 8, r.grant,
            4, r.rank, 8, r.failed_at, len(node),
        )
    )  # fmt: skip
    parts.append(node)
    _varying(parts, r.error, r.outputs)


def _pack_edges(parts: Parts, r: BatchAdmitted) -> None:
    # producer 0 is the job itself
    producers = sorted({job or r.job for _, _, job, _ in _edges.decode(r.edges)})
    array = _array(producers)
    parts.append(_edge(4, 8, r.job, 8, r.batch, len(array)))
    parts.append(array)
    _varying(parts, r.edges)


def _pack_hold(parts: Parts, r: HoldChanged, epoch: int) -> None:
    parts.append(_hold(5, 8, r.job, 4, r.number, 1, r.on_hold, 8, r.changed_at, 8, epoch))


def _pack_duration(parts: Parts, r: DurationsLearned, epoch: int) -> None:
    parts.append(
        _learned(
            8, 8, r.socket, 8, r.code, 2, r.size, 8, r.lead_s, 8, r.completed, 8, r.learned_at, 8, epoch, len(r.counts)
        )
    )
    parts.append(r.counts)


def _array(numbers: list[int]) -> bytes:
    """A one-dimensional array of int8 (type 20) without nulls, counted from 1."""
    return Struct(f">iii ii {'iq' * len(numbers)}").pack(
        1, 0, 20, len(numbers), 1, *(part for number in numbers for part in (8, number))
    )


def _numbers(blocks: list[int]) -> bytes:
    array = _array(blocks)
    return _length(len(array)) + array


def _varying(parts: Parts, *columns: bytes) -> None:
    for column in columns:
        parts.append(_length(len(column)))
        parts.append(column)


_WITH_PAYLOAD = (BatchAdmitted, OutcomeSettled)
_PACKERS: dict[type, tuple[str, Callable[..., None]]] = {
    JobOpened: ("job", _pack_job),
    BatchAdmitted: ("task_batch", _pack_batch),
    OutcomeSettled: ("outcome_batch", _pack_outcome),
    AttemptFailed: ("attempt_failed", _pack_attempt),
    HoldChanged: ("job_hold", _pack_hold),
    DurationsLearned: ("duration", _pack_duration),
}
