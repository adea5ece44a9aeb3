"""Records: what the broker decided, in past tense. Committed before any message that follows from them.

Applying all records of a ledger in order gives the broker's state. Per-task data are byte strings with one
element a task: ``states`` and ``causes`` one byte, ``started`` float64, ``durations`` float32, ``offsets``
count + 1 uint32, all little-endian.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from pyfi_hpc.model.ids import BatchId, CodeId, Epoch, GrantId, JobId, NodeName, SocketId
from pyfi_hpc.model.states import Cause


@dataclass(slots=True)
class JobOpened:
    """A request was accepted; its batches follow. UNIQUE(owner, key): opening is idempotent."""

    job: JobId
    key: bytes  #: 16 random bytes, made by the client before the first send
    owner: str
    name: str
    shape: bytes  #: how the tasks' results make up the job's result; opaque, empty: a list of all
    on_failure: int
    opened_at: float  #: seconds since 1970, UTC
    project: str = ""  #: whose share it uses
    at_once: int = 0  #: how many of its tasks may run at once, 0: any number


@dataclass(slots=True)
class BatchAdmitted:
    """``count`` tasks of a job, indexes ``first`` and up, all for one socket."""

    batch: BatchId
    job: JobId
    number: int  #: 0, 1, 2 ... within the job
    first: int
    count: int
    last: bool  #: no batch of this job follows
    socket: SocketId
    code: CodeId
    priority: int
    retries: int
    time_limit_s: float  #: 0: none
    offsets: bytes
    payload: bytes
    edges: bytes  #: msgpack list of (offset in batch, slot, producer's job, producer's index); empty: none
    terms: bytes = b""  #: what its tasks need, see model/terms.py
    preemptible: bool = False  #: may be ended for tasks of a higher priority
    size: float = 0.0  #: the user's hint of how large each task is; 0: none


@dataclass(slots=True)
class OutcomeSettled:
    """Tasks ``lo`` to ``lo + count`` of a batch are final, for ever. Ranges of a batch never overlap."""

    batch: BatchId
    job: JobId
    lo: int
    count: int
    attempt: int
    epoch: Epoch
    grant: GrantId  #: 0 where no attempt was made (cancelled, skipped)
    node: NodeName
    rank: int  #: -1 where no attempt was made
    states: bytes
    started: bytes
    durations: bytes
    offsets: bytes
    payload: bytes  #: results; for other states the error, see runner/payload.py
    outputs: bytes = b""  #: msgpack list of (offset in batch, standard output, standard error)
    settled_at: float = 0.0


@dataclass(slots=True)
class AttemptFailed:
    """An attempt that ended badly and is followed by another, or an outcome that came too late."""

    batch: BatchId
    job: JobId
    offset: int
    attempt: int
    epoch: Epoch
    grant: GrantId
    cause: Cause
    node: NodeName
    rank: int
    error: bytes  #: as in OutcomeSettled.payload; where the cause is CONTINUED, the state that the next attempt gets
    outputs: bytes = b""
    failed_at: float = 0.0


@dataclass(slots=True)
class BatchClosed:
    """All tasks of the batch are final: recovery need not look at it."""

    batch: BatchId


@dataclass(slots=True)
class HoldChanged:
    """A job was put on hold, or released: its latest one counts, by number. A job without any is not on hold."""

    job: JobId
    number: int  #: 0, 1, 2 ... within the job
    on_hold: bool
    changed_at: float  #: seconds since 1970, UTC


@dataclass(slots=True)
class DurationsLearned:
    """How long tasks of one kind took so far; the latest record of a kind counts. Nothing is lost with it but time."""

    socket: SocketId
    code: CodeId
    size: int  #: class of their size hint, see core/sketch.py
    completed: int
    lead_s: float  #: time that one needs at least that returns Continue, seconds; 0: none has
    counts: bytes  #: one uint32 a bin, see core/sketch.py
    learned_at: float  #: seconds since 1970, UTC


Record: TypeAlias = (
    JobOpened | BatchAdmitted | OutcomeSettled | AttemptFailed | BatchClosed | HoldChanged | DurationsLearned
)


@dataclass(slots=True)
class FoundJob:
    """A job that the ledger knows by its key, and how much of it was admitted."""

    opened: JobOpened
    next_number: int
    count: int  #: tasks so far
    closed: bool  #: its last batch was admitted


@dataclass(slots=True)
class Recovered:
    """What a ledger holds of unfinished work, in the order in which ``apply`` wants it.

    Batches come without payload and edges come with it; outcomes come without results.
    """

    epoch: Epoch
    next_job: JobId
    next_batch: BatchId
    jobs: list[JobOpened] = field(default_factory=list)
    batches: list[BatchAdmitted] = field(default_factory=list)
    outcomes: list[OutcomeSettled] = field(default_factory=list)
    attempts: list[AttemptFailed] = field(default_factory=list)
    holds: list[HoldChanged] = field(default_factory=list)
    #: the latest of each kind
    durations: list[DurationsLearned] = field(default_factory=list)
