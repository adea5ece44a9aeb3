"""Records for tests, with values in which a mix-up shows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec

from pyfi_hpc.core.sketch import Sketch
from pyfi_hpc.model.ids import BatchId, CodeId, Epoch, GrantId, JobId, NodeName, SocketId
from pyfi_hpc.model.packed import offsets_of
from pyfi_hpc.model.records import (
    AttemptFailed,
    BatchAdmitted,
    BatchClosed,
    DurationsLearned,
    HoldChanged,
    JobOpened,
    OutcomeSettled,
)
from pyfi_hpc.model.states import AT_ONCE_MAX, Cause, OnFailure, TaskState


def opened(job: int, key: bytes = b"", owner: str = "ada") -> JobOpened:
    key = key or job.to_bytes(16, "big")
    return JobOpened(JobId(job), key, owner, f"job {job}", b"shape", OnFailure.CANCEL, 1000.5 + job, "bio", AT_ONCE_MAX)


def admitted(
    batch: int,
    job: int,
    number: int = 0,
    first: int = 0,
    count: int = 3,
    last: bool = True,
    edges: object = None,
) -> BatchAdmitted:
    parts = [f"argument {first + i}".encode() * (1 + i % 3) for i in range(count)]
    packed = msgspec.msgpack.encode(edges) if edges else b""
    return BatchAdmitted(
        BatchId(batch), JobId(job), number, first, count, last, SocketId(7), 8, -2, 1, 2.5,  # type: ignore[arg-type]
        offsets_of(parts), b"".join(parts), packed, b"terms", True, 1e6,
    )  # fmt: skip


def carrying(record: Any, *values: bytes) -> Any:
    """The same batch or outcome with these arguments or results."""
    return replace(record, offsets=offsets_of(list(values)), payload=b"".join(values))


def settled(
    batch: int, job: int, lo: int = 0, count: int = 3, state: TaskState = TaskState.COMPLETED, epoch: int = 1,
    outputs: bytes = b"",
) -> OutcomeSettled:  # fmt: skip
    parts = [f"result {batch}.{lo + i}".encode() for i in range(count)]
    return OutcomeSettled(
        BatchId(batch), JobId(job), lo, count, 2, Epoch(epoch), GrantId(99), NodeName("n1"), 5,
        bytes([state]) * count,
        b"".join(msgspec_double(100.25 + i) for i in range(count)), b"\0\0\0\x3f" * count, offsets_of(parts),
        b"".join(parts), outputs, 2000.75,
    )  # fmt: skip


def msgspec_double(value: float) -> bytes:
    from struct import pack

    return pack("<d", value)


def failed(batch: int, job: int, offset: int = 0, attempt: int = 1, cause: Cause = Cause.CRASH) -> AttemptFailed:
    error = msgspec.msgpack.encode(["builtins", "ValueError", "no", "trace", None])
    return AttemptFailed(
        BatchId(batch), JobId(job), offset, attempt, Epoch(1), GrantId(98), cause, NodeName("n2"), 4, error,
        msgspec.msgpack.encode([(offset, b"out", b"err")]), 1500.5,
    )  # fmt: skip


def closed(batch: int) -> BatchClosed:
    return BatchClosed(BatchId(batch))


def hold(job: int, number: int = 0, on_hold: bool = True) -> HoldChanged:
    return HoldChanged(JobId(job), number, on_hold, 4000.5 + number)


def learned(socket: int, code: int = 8, size: int = 65, completed: int = 3, at: float = 3000.5) -> DurationsLearned:
    sketch = Sketch()
    sketch.add([0.5 * socket] * completed)
    return DurationsLearned(
        SocketId(socket), CodeId(code), size, completed, socket / 2, sketch.packed(), at
    )
