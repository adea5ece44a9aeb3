"""Messages between the processes. Imperative down (Grant, Cancel), past tense up (Accepted, Finished).

A message is a list on the wire, its first element the name. Payloads are opaque byte strings; per-task data
are packed as in ``records``. Everything that came from outside is checked by ``wire.codec`` before it gets here.

    client -> broker   Hello Submit Watch Cancel Ask Beat Consumed
    broker -> client   Welcome Unknown Denied Accepted Refused Resolved Page Cancelled Answer Beat
    agent  -> broker   Hello Finished Gathered Beat Capacity Goodbye
    broker -> agent    Welcome Unknown Denied Mount Grant Go Renew Recall Cancel Kept Rest Beat Stop
    rank   -> agent    RankReady Done RankBeat
    agent  -> rank     Bundle Kill Stop Beat
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta

# What the ledger and a rank's memory have room for is checked while a message is decoded, at no extra cost:
# a number that fits no column must never get as far as a commit.

#: an identifier, a number of tasks of a job, a number of bytes
Id = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
#: a number or a position within a batch, a number of ranks
Count = Annotated[int, Meta(ge=0, le=(1 << 31) - 1)]
#: the same, or -1 for "none" or "all"
CountOrNone = Annotated[int, Meta(ge=-1, le=(1 << 31) - 1)]
#: priorities of a call and of its socket are added up
Priority = Annotated[int, Meta(ge=-(1 << 29), le=1 << 29)]
#: seconds, also no NaN
Seconds = Annotated[float, Meta(ge=0, le=1e10)]
#: a size hint, also no NaN
Size = Annotated[float, Meta(ge=0, le=1e18)]
#: a name
Name = Annotated[str, Meta(max_length=1024)]
#: a list or map as msgpack, which a short text can make large in memory
Body = Annotated[bytes, Meta(max_length=1 << 20)]
#: what tasks need, as model/terms.py encodes it
Terms = Annotated[bytes, Meta(max_length=1 << 12)]
#: a Cause
CauseNumber = Annotated[int, Meta(ge=0, le=12)]


class Message(msgspec.Struct, array_like=True, tag=True, forbid_unknown_fields=True, gc=False):
    """Base of all messages: an array whose first element is the class's name."""


# --- sessions -----------------------------------------------------------------------------------------


class Held(msgspec.Struct, array_like=True, forbid_unknown_fields=True, gc=False):
    """A grant that an agent still holds, told after a reconnect; ``left`` has a byte 1 per unfinished task."""

    grant: Id
    batch: Id
    lo: Count
    count: Count
    attempt: Count
    left: bytes
    #: results that were taken from tasks here: (offset, slot, grant and offset of the task that made it)
    takes: Annotated[list[tuple[Count, Count, Id, Count]], Meta(max_length=1 << 20)] = []
    terms: Terms = b""  #: see Item
    here: Count = 1  #: ranks of its gang on this node, and in all
    total: Count = 1
    leader: Id = 0  #: see Gang
    begun: bool = False  #: the gang has all its ranks, on whatever nodes


class Hello(Message):
    version: Count
    kind: Name  #: "client" or "agent"
    name: Name  #: node's name, or user@host:pid
    incarnation: Name  #: random for each process, so that a second agent of one name is seen as such
    rank_count: Count = 0
    cores: Count = 0
    allocation: Name = ""  #: Slurm job id, or empty
    held: Annotated[list[Held], Meta(max_length=1 << 20)] = []
    inventory: Terms = b""  #: what the node has besides ranks, see model/inventory.py
    ends_in_s: Seconds = 0.0  #: until the walltime of its allocation; 0: it has no end


class Welcome(Message):
    version: int
    epoch: int
    payload_bytes_max: int
    heartbeat_s: float
    lease_s: float


class Unknown(Message):
    """The broker does not know this connection: say Hello again. Sent after a restart."""


class Denied(Message):
    """This connection may not do that; it is not tried again."""

    code: str
    what: str
    fix: str = ""


class Beat(Message):
    """Both ways; an agent tells what runs now as pairs (grant, offset in batch)."""

    counter: Id
    running: Annotated[list[tuple[Id, Count]], Meta(max_length=1 << 20)] = []
    load: float = 0.0
    memory_bytes: Id = 0
    idle: Count = 0  #: ranks without work


class Goodbye(Message):
    """An agent leaves in order. reason: "walltime" or "stopped"; neither is charged to a task."""

    reason: Name = "stopped"


class Stop(Message):
    """End in order; with drain the running tasks are finished first."""

    drain: bool = True
    reason: str = ""


# --- client and broker --------------------------------------------------------------------------------


class Submit(Message):
    """One batch. Batches of a job go in order of ``number``; the same key and number twice is one batch."""

    key: bytes
    number: Count
    first: Id
    count: Count
    last: bool
    socket: Name  #: a socket's name, or ``module:function`` of deployed code
    offsets: bytes
    payload: bytes
    edges: bytes = b""
    priority: Priority = 0
    retries: Count = 0
    time_limit_s: Seconds = 0.0
    name: Name = ""
    shape: bytes = b""
    on_failure: Count = 0  #: an OnFailure
    resend: bool = False
    watch: bool = True  #: push the results to this connection
    terms: Terms = b""  #: what its tasks need, see model/terms.py
    project: Name = ""  #: whose share it uses
    at_once: Count = 0  #: how many tasks of the job may run at once, 0: any number
    preemptible: bool = False  #: may be ended for tasks of a higher priority
    size: Size = 0.0  #: how large each task is, in the user's own measure; 0: no hint
    hold: bool = False  #: the job is on hold from its start; counts in its first batch


class Accepted(Message):
    """The batch is in the ledger: it will run and be settled."""

    key: bytes
    number: int
    job: int


class Refused(Message):
    """The batch is not in the ledger and never will be under this key."""

    key: bytes
    number: int
    code: str
    what: str
    fix: str = ""
    retry_after_s: float = -1.0  #: >= 0: nothing is wrong with it, send it again after so long


class Range(msgspec.Struct, array_like=True, forbid_unknown_fields=True, gc=False):
    """Final tasks ``first`` to ``first + count`` of a job."""

    first: int
    count: int
    states: bytes
    offsets: bytes
    payload: bytes


class Resolved(Message):
    """Outcomes, after their commit. A hint: the client can always ask for pages."""

    job: int
    ranges: list[Range]


class Watch(Message):
    """Push what becomes final from now on, and send the page of what is final after the cursor."""

    job: Id
    cursor: tuple[Id, CountOrNone] = (0, -1)  #: (batch, lo) of the last range read
    live: bool = True


class Page(Message):
    job: int
    known: bool  #: False: there is no such job
    ranges: list[Range]
    cursor: tuple[int, int]
    more: bool
    total: int  #: tasks of the job, -1 while batches may follow
    shape: bytes = b""
    name: str = ""


class Consumed(Message):
    """The client has taken so many bytes of pushed results in all."""

    payload_bytes: Id


class Cancel(Message):
    """Client to broker: tasks of a job (request > 0). Broker to agent: of a grant (request 0, job is the grant)."""

    request: Id
    job: Id
    first: Id
    count: Annotated[int, Meta(ge=-1, le=(1 << 63) - 1)]  #: -1: all


class Cancelled(Message):
    request: int
    count: int  #: tasks that this request ended


class Ask(Message):
    """Anything that is not on the hot path: a verb of the desk and its arguments as msgpack."""

    request: Id
    verb: Name
    body: Body = b""


class Answer(Message):
    request: int
    ok: bool
    body: bytes  #: msgpack; when not ok a map with code, what, where, fix


# --- broker and agent ---------------------------------------------------------------------------------


class Mount(Message):
    """Where the code of a grant lives; sent to a node before the first grant that needs it."""

    code: int
    repository: str
    commit: str
    module: str
    environment: str
    python: str
    workdir: str


#: in place of a result that a task takes: (grant, offset in batch) of the task that makes it on the same node
Link: TypeAlias = tuple[int, int]


class Gang(msgspec.Struct, array_like=True, forbid_unknown_fields=True, gc=False):
    """A task of several ranks of one MPI world, as one node is told."""

    world: str  #: empty: any ranks will do, the task is one of a step (see Seats)
    here: int  #: ranks on this node
    total: int
    leader: int = 0  #: the leader's grant; 0: it is this one


class Seats(msgspec.Struct, array_like=True, forbid_unknown_fields=True, gc=False):
    """Where the programs of a step run on one node: the cores and GPUs of each of its ranks there."""

    #: cores; empty: they are not bound to any
    cores: Annotated[list[list[Count]], Meta(max_length=1 << 16)]
    #: what CUDA_VISIBLE_DEVICES says to each; empty: the node has none
    gpus: Annotated[list[Name], Meta(max_length=1 << 16)] = []
    node: Name = ""


class Item(msgspec.Struct, array_like=True, forbid_unknown_fields=True, gc=False):
    """The right to run tasks ``lo`` to ``lo + count`` of a batch, all at one attempt."""

    grant: int
    batch: int
    job: int
    first: int  #: index in the job of the first of them
    lo: int
    count: int
    attempt: int
    code: int
    function: str
    time_limit_s: float
    offsets: bytes
    payload: bytes
    #: per task the results it depends on, by slot; empty: no task has any
    inputs: list[list[bytes | Link]] = []
    terms: bytes = b""  #: what the tasks get: see Submit, and of several ways the chosen one
    gang: Gang | None = None
    needs_s: float = 0.0  #: what each may take: not to be started where less time is left; 0: nobody knows
    state: bytes = b""  #: what the attempt before returned Continue with; such a task is alone


class Grant(Message):
    epoch: int
    items: list[Item]


class Go(Message):
    """All ranks of a gang are there: start. Their numbers in the world, the leader first.

    Without any: they are thought to be there in so many seconds, and nobody need wait before.
    """

    grant: int
    roster: list[int]
    in_s: float = 0.0
    seats: list[Seats] = []  #: of a step, on all nodes; told to that node only on which its function runs


class Renew(Message):
    """Some ranks have left their MPI world, and a gang waits: start all anew when what runs has ended."""


class Recall(Message):
    """Hand back up to so many tasks that have not started: another node is idle."""

    count: int


class Outcome(msgspec.Struct, array_like=True, forbid_unknown_fields=True, gc=False):
    """How tasks ``lo`` to ``lo + count`` of a grant ended, all on one rank."""

    grant: Id
    batch: Id
    lo: Count
    count: Count
    attempt: Count
    rank: CountOrNone
    causes: bytes
    started: bytes
    durations: bytes
    offsets: bytes
    payload: bytes
    outputs: bytes = b""


class Finished(Message):
    outcomes: Annotated[list[Outcome], Meta(max_length=1 << 20)]


class Gathered(Message):
    """These ranks of a node wait for the others of their gang; without any: they are thought to, in so many seconds."""

    grant: Id
    ranks: Annotated[list[Count], Meta(max_length=1 << 16)]
    in_s: Seconds = 0.0
    seats: Seats | None = None  #: of a step, here


class Preempt(Message):
    """Tasks of a grant make room for a higher priority: those that have not started are handed back, and with
    ``running`` one that runs is ended."""

    grant: int
    first: int  #: offset in its batch
    count: int
    running: bool


class Kept(Message):
    """These outcomes are in the ledger, or will never count: the agent may forget them. (grant, lo, count)"""

    ranges: list[tuple[int, int, int]]


class Capacity(Message):
    """The node wants to hold so many unfinished tasks in all, and has so many ranks alive."""

    tasks: Count
    rank_count: Count
    draining: bool = False
    #: ranks that get no tasks for now: number, seconds left, why; -1: the start of all ranks
    resting: Annotated[list[tuple[CountOrNone, Seconds, Name]], Meta(max_length=1 << 16)] = []
    #: MPI worlds of its ranks, and how many of them can run with others of theirs
    worlds: Annotated[list[tuple[Name, Count]], Meta(max_length=1 << 16)] = []
    #: ranks wait for others: only plain tasks are wanted that end in so many seconds from now; 0: all are
    short_s: Seconds = 0.0


class Rest(Message):
    """This rank gets no tasks for so long: they fail there and complete elsewhere. 0 seconds: it may work again."""

    rank: int
    seconds: float
    reason: str


# --- agent and rank -----------------------------------------------------------------------------------


class RankReady(Message):
    rank: Count  #: its number in the MPI world, or the number of the one it replaces
    world: Count  #: size of its MPI world
    pid: Annotated[int, Meta(ge=1, le=1 << 22)]
    core: CountOrNone  #: the core it is bound to, -1: none
    world_id: Name = ""  #: tells MPI worlds apart; empty: it has no MPI, or not any more


class RankBeat(Message):
    counter: Id


class Bundle(Message):
    """Tasks for a rank, run one after the other in a runner of the named environment."""

    bundle: int
    grant: int
    batch: int
    job: int
    first: int
    lo: int
    count: int
    attempt: int
    python: str
    workdir: str
    module: str
    function: str
    time_limit_s: float
    offsets: bytes
    payload: bytes
    inputs: list[list[bytes]] = []
    #: variables that its tasks find in their environment, besides the usual ones
    variables: list[tuple[str, str]] = []
    #: cores that its tasks may use; empty: the rank's own
    cores: list[int] = []
    #: numbers in the MPI world of all that run the task together, the leader first; empty: it runs alone
    roster: list[int] = []
    ends_at: float = 0.0  #: of the walltime, monotonic seconds of this node; 0: it has no end
    state: bytes = b""  #: as in Item
    seats: list[Seats] = []  #: where the programs of its step run, this node first; empty: it has none


class Done(Message):
    """Tasks ``lo`` and up of a bundle ended; a bundle's outcomes come in order."""

    bundle: Id
    outcome: Outcome


class Kill(Message):
    """End these tasks of a bundle: the one that runs by signal, the others unrun. count -1: the whole bundle."""

    bundle: Id
    lo: Count
    count: CountOrNone
    cause: CauseNumber  #: what to report for them


FromClient: TypeAlias = Hello | Submit | Watch | Cancel | Ask | Beat | Consumed
FromAgent: TypeAlias = Hello | Finished | Gathered | Beat | Capacity | Goodbye
ToClient: TypeAlias = (
    Welcome | Unknown | Denied | Accepted | Refused | Resolved | Page | Cancelled | Answer | Beat
)
ToAgent: TypeAlias = (
    Welcome | Unknown | Denied | Mount | Grant | Go | Renew | Recall | Preempt | Cancel | Kept | Rest | Beat | Stop
)
FromRank: TypeAlias = RankReady | RankBeat | Done
ToRank: TypeAlias = Bundle | Kill | Stop | Beat

#: tell a peer only that its own message was kept: what waits for work or results goes before them
ACKNOWLEDGEMENTS: frozenset[type] = frozenset({Accepted, Kept})
