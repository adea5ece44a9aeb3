"""What the broker's machine is made of, and the one way to write a record."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pyfi_hpc.core.clients import ClientTable
from pyfi_hpc.core.durations import Durations
from pyfi_hpc.core.fits import Stock
from pyfi_hpc.core.graph import Graph
from pyfi_hpc.core.health import Health
from pyfi_hpc.core.jobs import Batch, Job, JobBook
from pyfi_hpc.core.nodes import Node, NodeTable
from pyfi_hpc.core.queue import ClassKey, ReadyQueue
from pyfi_hpc.core.walltime import Walltimes
from pyfi_hpc.model.effects import Effects
from pyfi_hpc.model.elastic import Shape
from pyfi_hpc.model.events import SocketSpec
from pyfi_hpc.model.ids import BatchId, CodeId, Epoch, GrantId, JobId
from pyfi_hpc.model.limits import Limits
from pyfi_hpc.model.messages import Held, Mount, Range, Submit
from pyfi_hpc.model.records import BatchClosed, OutcomeSettled, Record

if TYPE_CHECKING:
    from pyfi_hpc.core.reserve import Next


@dataclass(slots=True)
class Counts:
    """What ``pyfi info`` shows of the broker's life."""

    accepted: int = 0
    settled: int = 0
    stale: int = 0
    refused: int = 0
    retried: int = 0


@dataclass(slots=True)
class Preempting:
    """What is remembered of tasks that make room: see core/preempt.py."""

    #: since when somebody waits for whom others could be ended, monotonic seconds; 0: nobody does
    since: float = 0.0
    look_at: float = float("inf")
    #: (grant, offset) of tasks that were asked to end -> when; offset -1: what was not started of a grant
    asked: dict[tuple[GrantId, int], float] = field(default_factory=dict)
    #: of them, those that make room in the queue's name; the others do for a grant that lies at their node
    for_queue: set[tuple[GrantId, int]] = field(default_factory=set)
    #: such a grant -> ranks that were made free for it, ever: no more than it needs
    served: dict[GrantId, int] = field(default_factory=dict)

    def rest(self) -> None:
        self.since, self.look_at = 0.0, float("inf")
        self.asked.clear()
        self.for_queue.clear()


@dataclass(slots=True)
class State:
    """Tables of the broker; the verbs in admit, settle and dispatch work on them."""

    limits: Limits
    epoch: Epoch
    next_job: JobId
    next_batch: BatchId
    #: UTC minus monotonic seconds: times for people come out of ``now`` without looking at a clock
    utc_offset: float
    book: JobBook
    queue: ReadyQueue
    nodes: NodeTable
    clients: ClientTable
    graph: Graph
    walltimes: Walltimes
    sockets: dict[str, SocketSpec] = field(default_factory=dict)
    #: sockets by the code that they call now: "module:function"
    by_function: dict[str, SocketSpec] = field(default_factory=dict)
    #: where code lives, for grants of tasks whose socket has moved on to a newer commit
    mounts: dict[CodeId, Mount] = field(default_factory=dict)
    functions: dict[int, SocketSpec] = field(default_factory=dict)
    #: bytes of payload of open batches in memory
    payload_bytes: int = 0
    ledger_down: str = ""
    #: until then unadopted tasks of the last epoch wait for their agents, monotonic seconds; 0: not recovering
    recover_until: float = 0.0
    #: while recovering: results that unfinished tasks take -> the grant under which each was made
    made_by: dict[tuple[JobId, int], GrantId] = field(default_factory=dict)
    #: while recovering: by their grants, parts of gangs that run on several nodes of which some are not back
    parts: dict[int, tuple[Node, Held]] = field(default_factory=dict)
    #: jobs whose last batch has not come and whose client has gone -> when they are closed, monotonic seconds
    orphans: dict[JobId, float] = field(default_factory=dict)
    #: submissions that were sent again and whose job is being looked up, by key
    looked_up: dict[bytes, list[tuple[bytes, str, Submit]]] = field(default_factory=dict)
    #: what allocations would have that may be asked for
    to_come: list[Shape] = field(default_factory=list)
    #: allocations that somebody has asked for and that are not all here yet -> the same; see core/backlog.py
    expected: dict[str, Shape] = field(default_factory=dict)
    #: gangs whose turn it was and for which there is no room now
    gangs_short: set[ClassKey] = field(default_factory=set)
    #: for whom ranks and other things are kept
    ahead: Next | None = None
    #: settled ranges of jobs in which others wait; see settle.wake
    to_wake: list[tuple[Batch, OutcomeSettled]] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)
    #: by socket; soft: only for what people are told
    durations: Durations = field(default_factory=Durations)
    health: Health = field(default_factory=Health)
    preempting: Preempting = field(default_factory=Preempting)

    def shapes(self) -> list[tuple[str, Stock, int]]:
        """Names, stocks and ranks of the nodes there are, and the largest of those that have left, by what they had."""
        here = [
            (str(node.name), node.stock, max(node.rank_count, node.stock.inventory.ranks))
            for node in self.nodes.by_name.values()
        ]
        return here + [(name, Stock(had), ranks) for had, (name, ranks) in self.nodes.had.items()]

    def emit(self, record: Record, out: Effects) -> None:
        """Write a record: to the ledger through the loop, and to the live state now."""
        out.records.append(record)
        self.book.apply(record)

    def orphan(self, job: JobId, now: float) -> None:
        """Its client has gone and may come back; after a while nobody will send the rest."""
        self.orphans.setdefault(job, now + self.limits.client_silence_s)

    def keep_payload(self, batch: Batch, offsets: bytes, payload: bytes) -> None:
        batch.offsets, batch.payload = offsets, payload
        self.payload_bytes += len(payload) + len(offsets)

    def close_if_done(self, batch: Batch, out: Effects) -> None:
        """All tasks of the batch are final. The newest batch of a job that may go on stays open: by it a restart finds
        the job, and can end it if nobody sends the rest."""
        if batch.open == 0 and batch.id in self.book.batches:
            if batch.payload is not None and batch.offsets is not None:
                self.payload_bytes -= len(batch.payload) + len(batch.offsets)
                batch.payload = batch.offsets = None
            if batch.job.closed or batch is not batch.job.batches[-1]:
                self.emit(BatchClosed(batch.id), out)

    def close_before(self, job: Job, out: Effects) -> None:
        """Another batch has followed the one that was kept open for it."""
        if len(job.batches) > 1:
            self.close_if_done(job.batches[-2], out)

    def push(
        self, job: Job, batch: Batch, lo: int, states: bytes, offsets: bytes, payload: bytes, out: Effects
    ) -> None:
        """Results to those who watch the job."""
        if job.watchers:
            self.clients.push(job, Range(batch.first + lo, len(states), states, offsets, payload), out)
