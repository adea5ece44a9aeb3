"""What the loop and the machines need from outside, as Protocols. Adapters and the simulator fill them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import IO, Any, Protocol, runtime_checkable

from pyfi_hpc.model.allocations import AllocationRequest, JobSeen
from pyfi_hpc.model.effects import Action, Effects, Query
from pyfi_hpc.model.ids import BatchId, Epoch, JobId, Peer
from pyfi_hpc.model.messages import Message, Range
from pyfi_hpc.model.records import FoundJob, Record, Recovered


class Machine(Protocol):
    """Decides: pure, without clock, socket, SQL, thread, randomness or log line."""

    stopped: bool

    def handle(self, event: Any, now: float, out: Effects) -> None:
        """Take one event; ``now`` is monotonic seconds."""

    def advance(self, now: float, out: Effects) -> None:
        """After a round of events: whatever is better decided once per round than once per event."""

    def wake_at(self) -> float:
        """When ``advance`` wants to be called though nothing happened, monotonic seconds."""


class Clock(Protocol):
    def monotonic(self) -> float: ...

    def utc(self) -> float:
        """Seconds since 1970; only for what people read."""


class Port(Protocol):
    """A source of events with a file descriptor to wait on."""

    #: readable when ``receive`` has something to do; the same as long as the port lives
    waitable: int

    def receive(self) -> list[Any]:
        """All events that are there now, bounded; never blocks."""


@runtime_checkable
class Hoarder(Protocol):
    """A port that may hold what its descriptor does not tell: ZeroMQ's. It is asked before each wait."""

    def holds(self) -> bool:
        """Whether ``receive`` has something to do though nothing comes."""


class Sender(Protocol):
    def send(self, peer: Peer, messages: Sequence[Message]) -> bool:
        """Send to one peer as one frame; False: unreachable. Never blocks."""


class Doer(Protocol):
    """Carries out actions of a rank or an agent; what comes of them returns as events of a port."""

    def do(self, action: Action) -> None: ...


class Ledger(Protocol):
    """Durable memory. The methods block, all but ``start`` and ``poll``; the loop calls them through ``ledger.writer``.

    The same contract suite runs against the one in memory and Postgres.
    """

    #: readable when ``poll`` has something to do; -1: ``start`` takes nothing
    waitable: int

    def take_over(self, holder: str) -> Recovered:
        """Become the only writer: raise the epoch and read what is unfinished.

        Raises
        ------
        BrokerHeld
            A live broker holds the ledger; the text names it.
        LedgerUnavailable
        """

    def commit(self, records: Sequence[Record], seq: int) -> None:
        """Make the records durable, all or none. ``seq`` counts commits of this epoch from 1.

        A commit of unknown outcome is settled inside, by the row that it leaves in ``ledger_commit``.

        Raises
        ------
        StaleEpoch
            Another broker has taken over; this one must end.
        LedgerUnavailable
            Not committed; the same call may be tried again.
        """

    def start(self, records: Sequence[Record], seq: int) -> bool:
        """Begin a commit and do not wait for it, where that is the quicker way; False: ``commit`` it.

        Raises
        ------
        LedgerUnavailable
            As ``poll``.
        """

    def poll(self) -> bool:
        """Whether the commit that was started is done; False when none is under way. Never blocks.

        Raises
        ------
        LedgerUnavailable
            It went wrong, or nobody knows: ``commit`` the same records as the same ``seq``.
        """

    def find_job(self, owner: str, key: bytes) -> FoundJob | None:
        """The job opened under this key."""

    def payloads(self, batches: Sequence[BatchId]) -> list[tuple[BatchId, bytes, bytes]]:
        """(batch, offsets, payload) of each."""

    def values(self, wanted: Sequence[tuple[JobId, int]]) -> dict[tuple[JobId, int], tuple[int, bytes]]:
        """State and result (or error) of the final ones among these tasks (job, index)."""

    def page(self, job: JobId, cursor: tuple[int, int], bytes_max: int) -> PageOfOutcomes | None:
        """Outcomes after the cursor (batch, lo) in order, at least one range; None: no such job."""

    def close(self) -> None: ...


class PageOfOutcomes(Protocol):
    owner: str
    name: str
    shape: bytes
    total: int
    ranges: list[Range]
    cursor: tuple[int, int]
    more: bool


class Journal(Protocol):
    """The loop's side of the ledger: one group is committed while the next one gathers."""

    #: ``receive`` has something when one of these is readable
    waitables: Sequence[int]

    def submit(self, records: list[Record], queries: list[Query]) -> None:
        """Start a group commit, then the reads. Only when not busy."""

    @property
    def busy(self) -> bool: ...

    @property
    def asked(self) -> bool:
        """Whether the desk still works on an answer."""

    def receive(self) -> tuple[bool, list[Any]]:
        """(the group was committed, events: answers to queries, LedgerDown, LedgerUp)."""

    def epoch(self) -> Epoch: ...


class Remote(Protocol):
    """A host where commands can be run: over a connection of ours, or by the system's ``ssh``."""

    #: how it was named
    host: str

    def run(self, command: str, stdin: IO[bytes] | None, limit_s: float, *, beats: bool = False) -> Ran:
        """Run one command line to its end. ``stdin`` is a real file; it is read to its end.

        Parameters
        ----------
        limit_s : float
            Seconds, > 0.
        beats : bool
            The command prints something every few seconds: silence means that nobody is there any more.

        Raises
        ------
        HostUnreachable
            The connection broke, or the command took too long.
        """

    def close(self) -> None: ...


class Ran(Protocol):
    """How a command on another host ended."""

    @property
    def code(self) -> int: ...
    @property
    def stdout(self) -> bytes: ...
    @property
    def stderr(self) -> bytes: ...


class BatchSystem(Protocol):
    """Where allocations come from: Slurm, PBS, or one cluster of several. Each method is a command or two.

    All raise the errors of their system: it is missing, busy (what was asked may have been done), or it refuses.
    """

    def script(self, request: AllocationRequest) -> str:
        """What would be submitted.

        Raises
        ------
        UsageError
            The request cannot be.
        """

    def submit(self, request: AllocationRequest) -> str:
        """Ask for an allocation; the key of its job."""

    def check(self, request: AllocationRequest) -> str:
        """What the system says of the request, without submitting it; empty: it cannot tell."""

    def status(self, keys: Collection[str], limit_s: float) -> list[JobSeen]:
        """This person's jobs that are among the keys or bear a mark; what the system has forgotten is left out."""

    def cancel(self, key: str, *, only_waiting: bool = False) -> None:
        """End a job; ``only_waiting``: where it can, only if it has not begun. One that has ended is no error."""

    def ends(self, keys: Collection[str]) -> dict[str, str]:
        """How jobs ended that the queue does not show any more, in words; empty where no accounts are kept."""
