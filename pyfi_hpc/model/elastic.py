"""What the machine of elastic allocations is told, and what it wants done.

    events:  PoolsRead  BacklogTold  StatusRead  SubmitEnded  EndsRead  Signalled
    actions: AskBacklog  ReadStatus  Submit  NoteJob  ForgetJob  Cancel  GiveBack  ReadEnds  Tell
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated

import msgspec

from pyfi_hpc.model.allocations import JobSeen, Note, Pool

# --- the broker's answer to the verb ``backlog`` --------------------------------------------------------


class Work(msgspec.Struct):
    """Unfinished tasks of one socket and with the same needs, that wait for no result."""

    socket: str
    #: that nobody has been given yet; and of these, how many its limits let run now
    ready: int
    room: int
    #: that nodes have
    granted: int
    #: mean duration; None: none has ended yet
    mean_s: float | None
    #: ranks of each task, and cores of each rank, by the first way to run it
    ranks: int = 1
    cores: int = 1
    exclusive: bool = False
    #: of each rank, by the way that takes fewest
    gpu_thousandths: int = 0
    #: what names its needs; empty: none
    terms: str = ""
    #: no node that is here could ever hold it
    never: bool = False

    @property
    def key(self) -> str:
        return f"{self.socket} {self.terms}"


class NodeTold(msgspec.Struct):
    """A live node."""

    name: str
    allocation: str
    ranks: int
    outstanding: int
    #: False: it drains or is quarantined, and gets no tasks
    usable: bool
    #: seconds since a task last completed there; None: none has
    still_s: float | None


class Backlog(msgspec.Struct):
    #: why nothing is granted at all now; empty: it is
    held: str
    work: list[Work]
    nodes: list[NodeTold]


#: GPUs of a node that may have any number
UNTOLD = 1 << 16
_RANKS_MAX = 1 << 40


# --- events -------------------------------------------------------------------------------------------


class Shape(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """What an allocation that may come has, as far as it is asked for: its nodes may have more."""

    ranks_per_node: Annotated[int, msgspec.Meta(ge=1, le=_RANKS_MAX)]
    ranks: Annotated[int, msgspec.Meta(ge=1, le=_RANKS_MAX)]
    #: GPUs of each node; `UNTOLD`: some, and how many only the node will tell
    gpus: Annotated[int, msgspec.Meta(ge=0, le=UNTOLD)] = 0


@dataclass(slots=True)
class PoolsRead:
    """The pools as they are stored now, and the allocations that are noted."""

    pools: dict[str, Pool]
    notes: list[Note]


@dataclass(slots=True)
class BacklogTold:
    #: None: nobody answered, and ``words`` tell why
    backlog: Backlog | None
    words: str = ""


@dataclass(slots=True)
class StatusRead:
    """Jobs of a system that are ours or were asked after; None: it did not answer, in its own words."""

    system: str
    jobs: list[JobSeen] | None
    words: str = ""


@dataclass(slots=True)
class SubmitEnded:
    """A submission was answered: with the key of the job, or refused.

    ``unsure``: nobody answered, and the job may be there all the same.
    """

    pool: str
    system: str
    key: str = ""
    words: str = ""
    unsure: bool = False


@dataclass(slots=True)
class EndsRead:
    """How jobs ended that the queue does not show any more, as far as anybody knows."""

    words: dict[str, str]


# --- actions ------------------------------------------------------------------------------------------


@dataclass(slots=True)
class AskBacklog:
    """Read the stored pools, then ask the broker."""


@dataclass(slots=True)
class ReadStatus:
    """One question to one system: what became of these, and which other jobs bear our mark."""

    system: str
    keys: Collection[str]


@dataclass(slots=True)
class Submit:
    """Ask for an allocation and note it."""

    pool: Pool


@dataclass(slots=True)
class NoteJob:
    """Note a job that nobody had noted."""

    note: Note


@dataclass(slots=True)
class ForgetJob:
    key: str


@dataclass(slots=True)
class Cancel:
    """End a job of a batch system, whatever it does; ``only_waiting``: not if it has begun to run meanwhile."""

    system: str
    key: str
    only_waiting: bool = False


@dataclass(slots=True)
class GiveBack:
    """Let the agents of an allocation drain: what runs there ends, nothing new starts, then the job ends."""

    key: str


@dataclass(slots=True)
class ReadEnds:
    """Ask how jobs ended, where accounts are kept or files tell."""

    system: str
    keys: list[str]


@dataclass(slots=True)
class Tell:
    """A line of a pool's log."""

    pool: str
    text: str


ElasticAction = AskBacklog | ReadStatus | Submit | NoteJob | ForgetJob | Cancel | GiveBack | ReadEnds | Tell


@dataclass(frozen=True, slots=True)
class Pace:
    """How often, how long and how patient."""

    #: between two questions to one system, and to the broker, seconds
    interval_s: float = 10.0
    #: a system without a job of ours is asked only each so many intervals
    rest_intervals: int = 30
    #: the first wait after a refusal or a start that came to nothing; it doubles up to the second, seconds
    backoff_s: float = 30.0
    backoff_s_max: float = 3600.0
    #: an allocation that runs has so long for its ranks to join, seconds
    join_s: float = 300.0
    #: one that was given back is told again, and ended if it is there so long after its agents have left, seconds
    end_s: float = 60.0

    @classmethod
    def of(cls, interval_s: float) -> Pace:
        """All that follows from the interval."""
        return cls(interval_s, backoff_s=3 * interval_s, end_s=6 * interval_s)


@dataclass(slots=True)
class Saved:
    """What a pool remembers over a restart of the process."""

    failures: int = 0
    #: UTC
    retry_at: float = 0.0
    words: str = ""
    proved: bool = False
    #: how long its allocations have waited in the queue, on average
    wait_s: float = 0.0
