"""Events: what the machines are told. Local ones in past tense; messages come wrapped in Received."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pyfi_hpc.model.ids import BatchId, Epoch, JobId, Peer
from pyfi_hpc.model.messages import Mount, Range
from pyfi_hpc.model.records import FoundJob


@dataclass(slots=True)
class Received:
    """A message of an authenticated peer.

    ``role`` and ``user`` come from the key of the connection, never from the message.
    """

    peer: Peer
    role: str  #: "client", "agent", "broker" or "rank"
    user: str
    message: Any


@dataclass(slots=True)
class Unreachable:
    """The port could not send to this peer: it has gone or does not read."""

    peer: Peer


# --- the broker's ledger and desk ---------------------------------------------------------------------


@dataclass(slots=True)
class LedgerDown:
    """The ledger does not take commits now; nothing is lost, nothing is acknowledged."""

    reason: str


@dataclass(slots=True)
class LedgerUp:
    epoch: Epoch


@dataclass(slots=True)
class JobFound:
    """Answer to FindJob: the job of this key, or None."""

    key: bytes
    found: FoundJob | None


@dataclass(slots=True)
class PayloadsRead:
    """Answer to ReadPayloads: (batch, offsets, payload)."""

    rows: list[tuple[BatchId, bytes, bytes]]


@dataclass(slots=True)
class ValuesRead:
    """Answer to ReadValues: (job, index) -> (state, bytes); a task that is not final is absent."""

    wanted: list[tuple[JobId, int]]
    found: dict[tuple[JobId, int], tuple[int, bytes]]


@dataclass(slots=True)
class PageRead:
    peer: Peer
    job: JobId
    known: bool
    owner: str
    ranges: list[Range]
    cursor: tuple[int, int]
    more: bool
    total: int
    shape: bytes
    name: str


@dataclass(slots=True)
class AskAnswered:
    peer: Peer
    request: int
    ok: bool
    body: bytes


@dataclass(slots=True)
class SocketSpec:
    """A socket as the broker needs it: which function of which code version it calls now."""

    socket: int
    name: str
    processor: str
    function: str
    mount: Mount
    concurrency: int = 0  #: calls that may run at once; 0: no limit
    priority: int = 0
    enabled: bool = True
    terms: bytes = b""  #: of calls that say nothing themselves


@dataclass(slots=True)
class SocketsChanged:
    """All sockets there are, after a change of the registry."""

    sockets: list[SocketSpec]


@dataclass(slots=True)
class SharesChanged:
    """All weights that are not 1, by ("project" or "user", name), after a change."""

    weights: dict[tuple[str, str], float]


# --- a rank's runner ----------------------------------------------------------------------------------


@dataclass(slots=True)
class RunnerSpoke:
    """What a runner said, each a list: frames that it wrote (see runner/child.py), and answers from the board as
    ``returned count started durations lengths results``."""

    runner: int
    frames: list[list[Any]]


@dataclass(slots=True)
class PermitsTaken:
    """Answer to TakePermits: the last so many tasks that the runner was given cannot start."""

    runner: int
    count: int


@dataclass(slots=True)
class RunnerExited:
    """The runner's process is gone and everything that it wrote was read.

    ``how`` says it in words: "exit code 3", "signal 11 (Segmentation fault)".
    """

    runner: int
    status: int
    how: str
    out_of_memory: bool = False
    stdout: bytes = b""
    stderr: bytes = b""


# --- an agent's surroundings --------------------------------------------------------------------------


@dataclass(slots=True)
class ProcessExited:
    """A process that the agent watches is gone: a rank, or the launcher of the rank step.

    ``replaces`` is the number of the rank that it was started for alone; the pid is 0 if it could not be started.
    """

    pid: int
    how: str
    replaces: int = -1


@dataclass(slots=True)
class CodeChecked:
    """The code of a mount can be run on this node, or ``problem`` says why not.

    ``python`` and ``workdir`` tell where it lies on a node that has prepared its own; empty: as the mount says.
    """

    code: int
    problem: str
    python: str = ""
    workdir: str = ""


@dataclass(slots=True)
class Sampled:
    """Load and memory of this node."""

    load: float
    memory_bytes: int


@dataclass(slots=True)
class Signalled:
    """This process got a signal: "drain" (USR1), "stop" (TERM)."""

    what: str
