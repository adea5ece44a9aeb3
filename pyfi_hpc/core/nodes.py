"""Nodes, their leases and grants: who may run what until when.

Leases belong to nodes, not tasks: one beat a second keeps everything that a node holds. Grants live in
memory only; their ids never repeat, so an outcome counts only for the grant that it was made under.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pyfi_hpc.core.fits import Stock
from pyfi_hpc.core.jobs import Batch
from pyfi_hpc.core.shares import Charge
from pyfi_hpc.model.ids import CodeId, Epoch, GrantId, NodeName, Peer, first_grant
from pyfi_hpc.model.inventory import Inventory
from pyfi_hpc.model.terms import Needs

if TYPE_CHECKING:
    from pyfi_hpc.core.gangs import Gang

#: grants taken back that are remembered, so that a late outcome is recorded and not just dropped
_EXPIRED_MAX = 10_000
#: grants of a node that are still to be looked at; of more the oldest are not, and what follows waits for their results
_LEADS_MAX = 4096
#: kinds of nodes that have left and are remembered
_SHAPES_MAX = 1000


@dataclass(slots=True)
class Grant:
    """The right of a node to run tasks ``lo`` to ``lo + count`` of a batch at one attempt."""

    id: GrantId
    batch: Batch
    lo: int
    count: int
    attempt: int
    node: Node
    #: one byte a task: 1 while the node owes its outcome
    left: bytearray
    open: int
    size: int = 0  #: bytes of arguments and inputs
    #: what each of its tasks takes of the node, and of how many ranks; None: one rank and nothing else
    needs: Needs | None = None
    width: int = 1
    #: ranks of each task here, and of what gang they are a part; see core/gangs.py
    members: int = 1
    gang: Gang | None = None
    charge: Charge | None = None  #: to its account: see ReadyQueue.started

    @property
    def at(self) -> float:
        """When it was made, monotonic seconds."""
        return self.charge.at if self.charge is not None else 0.0

    @property
    def ranks(self) -> int:
        """How many ranks of the node each of its tasks takes."""
        return self.width * self.members


@dataclass(slots=True, eq=False)
class Node:
    """One agent on one machine of one allocation."""

    name: NodeName
    peer: Peer
    incarnation: str
    allocation: str
    cores: int
    lease_until: float
    joined_at: float
    #: end of its walltime, monotonic seconds of this broker; inf: it has none
    ends_at: float = float("inf")
    rank_count: int = 0
    capacity: int = 0  #: unfinished tasks that it wants to hold
    outstanding: int = 0  #: unfinished tasks that it holds
    outstanding_bytes: int = 0  #: payload of the grants that it holds
    grants: dict[GrantId, Grant] = field(default_factory=dict)
    mounted: set[CodeId] = field(default_factory=set)
    #: (grant, offset) that ran at the last beat -> the beat that told it first: only these are charged when the node is
    #: lost
    running: dict[tuple[int, int], float] = field(default_factory=dict)
    draining: bool = False
    load: float = 0.0
    memory_bytes: int = 0
    idle: int = 0
    #: ranks that the agent lets rest: number, until (monotonic seconds), why
    resting: list[tuple[int, float, str]] = field(default_factory=list)
    #: rank -> when a task last completed there, UTC; -1: on any of them
    well_at: dict[int, float] = field(default_factory=dict)
    recalled: bool = False  #: asked to hand back; not asked again before it has answered
    #: of its outstanding tasks, those that wait for results of others there: core/follow.py
    followers: int = 0
    #: grants whose tasks others wait for, and from which of them on that was not looked at yet
    leads: deque[tuple[Grant, int]] = field(default_factory=lambda: deque(maxlen=_LEADS_MAX))
    #: what it has besides ranks, and what of all that is given to tasks with needs
    stock: Stock = field(default_factory=Stock)
    #: its MPI worlds, and how many ranks of each can run with others
    worlds: dict[str, int] = field(default_factory=dict)
    #: ranks are gathered there: plain tasks that may end later get only ranks beyond those; 0: none are
    short_until: float = 0.0
    renewed_until: float = 0.0  #: its ranks were told to start anew and have so long, monotonic seconds

    def runs(self, tasks: Iterable[tuple[int, int]], now: float) -> None:
        """What a beat says: (grant, offset) of what runs."""
        self.running = {task: self.running.get(task, now) for task in tasks}

    @property
    def runnable(self) -> int:
        """Unfinished tasks that it holds and that wait for nothing but a rank."""
        return self.outstanding - self.followers

    @property
    def vacant(self) -> int:
        """Ranks that have no task and are lent to none; negative: so many tasks wait for one."""
        return self.rank_count - self.runnable - (self.stock.ranks - self.stock.tasks)

    @property
    def spare(self) -> int:
        return 0 if self.draining else self.capacity - self.runnable


class NodeTable:
    """Live nodes by name and by peer, and all grants.

    Invariant: ``outstanding`` of a node is the sum of ``open`` over its grants.
    """

    def __init__(self, epoch: Epoch) -> None:
        self.by_name: dict[NodeName, Node] = {}
        self.by_peer: dict[Peer, Node] = {}
        self.grants: dict[GrantId, Grant] = {}
        #: grants that were taken back: id -> (batch id, job id)
        self.expired: OrderedDict[GrantId, tuple[int, int]] = OrderedDict()
        self._next = first_grant(epoch)
        #: of those, the ones whose tasks may be ended for others: core/preempt.py
        self.preemptible: dict[GrantId, Grant] = {}
        #: of nodes that have left, by what they had: the name and the ranks of the largest
        self.had: dict[Inventory, tuple[str, int]] = {}
        #: nodes that have leads
        self.leading: dict[NodeName, Node] = {}

    def join(self, node: Node) -> None:
        self.by_name[node.name] = node
        self.by_peer[node.peer] = node

    def move(self, node: Node, peer: Peer) -> None:
        """The same agent on a new connection."""
        self.by_peer.pop(node.peer, None)
        node.peer = peer
        self.by_peer[peer] = node

    def leave(self, node: Node) -> None:
        had = node.stock.inventory
        if len(self.had) < _SHAPES_MAX and self.had.get(had, ("", 0))[1] < node.rank_count:
            self.had[had] = (str(node.name), node.rank_count)
        self.by_name.pop(node.name, None)
        self.by_peer.pop(node.peer, None)
        self.leading.pop(node.name, None)

    def grant(
        self, node: Node, batch: Batch, lo: int, hi: int, attempt: int, needs: Needs | None = None, width: int = 1,
        members: int = 1,
    ) -> Grant:  # fmt: skip
        count = hi - lo
        left = bytearray(b"\x01") * count
        entry = Grant(self._next, batch, lo, count, attempt, node, left, count, 0, needs, width, members)
        self._next = GrantId(self._next + 1)
        self.add(entry)
        return entry

    def add(self, grant: Grant) -> None:
        self.grants[grant.id] = grant
        grant.node.grants[grant.id] = grant
        grant.node.outstanding += grant.open
        if grant.batch.preemptible:
            self.preemptible[grant.id] = grant
        if grant.needs is not None:
            grant.node.stock.give(grant.needs, grant.width, grant.members, grant.open)

    def ended(self, grant: Grant, lo: int, count: int) -> None:
        """The node owes ``count`` outcomes less, from offset ``lo`` of the batch on."""
        start = lo - grant.lo
        grant.left[start : start + count] = bytes(count)
        grant.open -= count
        grant.node.outstanding -= count
        if grant.needs is not None:
            grant.node.stock.give(grant.needs, grant.width, grant.members, -count)
        if grant.open == 0:
            self._drop(grant)

    def take_back(self, grant: Grant) -> list[int]:
        """End a grant; offsets (in the batch) of the tasks whose outcome was owed."""
        owed = [grant.lo + i for i, left in enumerate(grant.left) if left]
        grant.node.outstanding -= grant.open
        if grant.needs is not None:
            grant.node.stock.give(grant.needs, grant.width, grant.members, -grant.open)
        grant.open = 0
        self._drop(grant)
        self.expired[grant.id] = (grant.batch.id, grant.batch.job.id)
        if len(self.expired) > _EXPIRED_MAX:
            self.expired.popitem(last=False)
        return owed

    def _drop(self, grant: Grant) -> None:
        del self.grants[grant.id]
        self.preemptible.pop(grant.id, None)
        grant.node.outstanding_bytes -= grant.size
        grant.node.grants.pop(grant.id, None)
