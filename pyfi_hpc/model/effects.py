"""Effects: what a machine wants done. The type carries the write-ahead rule.

``records`` are committed first; ``messages`` go only after the commit that holds the records written before
them, of this event and of all earlier ones. ``at_once`` is for what follows from no record: beats, refusals.
Only the loop carries effects out, and there is no other way to send.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from pyfi_hpc.model.ids import BatchId, JobId, Peer
from pyfi_hpc.model.messages import Message
from pyfi_hpc.model.records import Record

if TYPE_CHECKING:
    from pyfi_hpc.model.elastic import ElasticAction  # which ranks and brokers start without


@dataclass(slots=True)
class Effects:
    records: list[Record] = field(default_factory=list)
    messages: list[tuple[Peer, Message]] = field(default_factory=list)
    at_once: list[tuple[Peer, Message]] = field(default_factory=list)
    #: reads of the ledger, done after the commit of all earlier records
    queries: list[Query] = field(default_factory=list)
    #: things to do in the operating system, see below
    actions: list[Action] = field(default_factory=list)

    def send(self, peer: Peer, message: Message) -> None:
        self.messages.append((peer, message))

    def reply(self, peer: Peer, message: Message) -> None:
        """Send without waiting for the ledger: only for what no record stands behind."""
        self.at_once.append((peer, message))


# --- queries of the broker ----------------------------------------------------------------------------


@dataclass(slots=True)
class FindJob:
    owner: str
    key: bytes


@dataclass(slots=True)
class ReadPayloads:
    batches: list[BatchId]


@dataclass(slots=True)
class ReadValues:
    wanted: list[tuple[JobId, int]]


@dataclass(slots=True)
class ReadPage:
    peer: Peer
    user: str
    job: JobId
    cursor: tuple[int, int]
    bytes_max: int


@dataclass(slots=True)
class AskDesk:
    """A verb for the desk, with what the machine itself knows about it (``view``)."""

    peer: Peer
    role: str
    user: str
    request: int
    verb: str
    body: bytes
    view: Any = None


Query = FindJob | ReadPayloads | ReadValues | ReadPage | AskDesk


# --- actions of a rank and an agent -------------------------------------------------------------------


@dataclass(slots=True)
class StartRunner:
    runner: int
    python: str
    workdir: str
    module: str
    #: what it finds in its environment, besides the usual
    variables: tuple[tuple[str, str], ...] = ()
    #: cores that it may use; empty: those of its rank
    cores: tuple[int, ...] = ()
    #: the MPI process beside the rank, which is there already
    mpi: bool = False


@dataclass(slots=True)
class WriteRunner:
    """A frame, and behind it a permit for each of its tasks that may start."""

    runner: int
    frame: Any
    permits: int = 0


@dataclass(slots=True)
class TakePermits:
    """Take back all permits that the runner has not taken: it starts nothing more. PermitsTaken says how many."""

    runner: int


@dataclass(slots=True)
class GivePermits:
    """Give back so many; the runner reads all frames that were written before it takes one."""

    runner: int
    count: int


@dataclass(slots=True)
class KillRunner:
    """SIGTERM or SIGKILL to the runner's whole process group."""

    runner: int
    hard: bool


@dataclass(slots=True)
class StartRanks:
    """Start the rank step: so many ranks of one MPI world on this node."""

    count: int


@dataclass(slots=True)
class ReplaceRank:
    """Start one rank in the place of one that died."""

    rank: int
    core: int


@dataclass(slots=True)
class KillProcess:
    pid: int
    hard: bool


@dataclass(slots=True)
class EndStep:
    """No process of a step that has ended is to be left on this node; ``token``: see core/placing.py."""

    token: str


@dataclass(slots=True)
class CheckCode:
    """See that the code of a mount can run here; prepare it where it is missing."""

    code: int
    repository: str
    commit: str
    module: str
    environment: str
    python: str
    workdir: str


@dataclass(slots=True)
class WatchProcess:
    """Tell when this process, which need not be a child, has ended."""

    pid: int


@dataclass(slots=True)
class Sample:
    """Read load and memory of this node."""


Action: TypeAlias = (
    "StartRunner | WriteRunner | TakePermits | GivePermits | KillRunner | StartRanks | ReplaceRank | KillProcess"
    " | EndStep | CheckCode | WatchProcess | Sample | ElasticAction"
)
