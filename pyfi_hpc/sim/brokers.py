"""The broker's process: the shipping machine, the loop's rules for records and messages, and its ROUTER."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyfi_hpc.core.broker import Broker
from pyfi_hpc.model import messages as m
from pyfi_hpc.model.effects import Effects, Query
from pyfi_hpc.model.ids import Peer
from pyfi_hpc.model.records import Record
from pyfi_hpc.sim.disk import Disk
from pyfi_hpc.sim.failure import Violation, expect
from pyfi_hpc.sim.hosts import Host
from pyfi_hpc.sim.network import Connection

if TYPE_CHECKING:
    from pyfi_hpc.sim.cluster import Cluster


class BrokerHost(Host):
    """One life of a broker; raises BrokerHeld where another one lives."""

    #: tests replace it
    disk_class: type[Disk] = Disk

    def __init__(self, world: Cluster, name: str, skew: float = 0.0) -> None:
        super().__init__(world, name, skew)
        self.cluster = world
        self.disk = self.disk_class(self, world.store, world.disk)
        recovered = self.disk.ledger.take_over(name)
        self.machine = Broker(world.limits, recovered, world.sockets, [], self.now, 1e9 + world.now)
        self.connections: dict[Peer, Connection] = {}
        #: gathers while the ledger is busy; then waits for the commit that is under way
        self._records: list[Record] = []
        self._queries: list[Query] = []
        self._behind: list[tuple[Peer, Any]] = []
        self._held: list[tuple[Peer, Any]] = []
        world.tell(name, f"takes over: epoch {recovered.epoch}, {len(recovered.batches)} batches")
        self.disk.begin()
        self.begin()

    def count(self, what: str, number: int = 1) -> None:
        self.cluster.count(what, number)

    @property
    def pending(self) -> list[Record]:
        """Records that the machine has decided and the ledger has not."""
        return ([] if self.disk.written else self.disk.records) + self._records

    def carry_out(self, out: Effects) -> None:
        if out.at_once:
            self._send(out.at_once)
        self._records += out.records
        self._queries += out.queries
        self._behind += out.messages
        self._flush()

    def committed(self, events: list[Any]) -> None:
        """The group is in the ledger: what waited for it goes."""
        self._send(self._held)
        self._held = []
        if self.machine.stopped:
            self._flush()
            self.drained()
        elif self.frozen:
            self.tell(*events)
        else:
            self._round(events)

    def drained(self) -> None:
        if not (self._records or self._behind or self._held or self.disk.busy):
            self.kill()

    def freeze(self) -> None:
        super().freeze()
        self.cluster.net.freeze(self, list(self.connections.values()))

    def ended(self) -> None:
        """The kernel closes what it had: its session with the ledger, its connections."""
        self.disk.lose_session()
        for connection in list(self.connections.values()):
            self.world.after(0.001, connection.line.lost, connection)
        self.connections.clear()
        self.cluster.broker_ended(self)

    def _flush(self) -> None:
        if self.dead or self.disk.busy:
            return
        if self._records or self._queries:
            self._held, self._behind = self._behind, []
            records, queries, self._records, self._queries = self._records, self._queries, [], []
            self.disk.submit(records, queries)
        elif self._behind:
            behind, self._behind = self._behind, []
            self._send(behind)

    def _send(self, messages: list[tuple[Peer, Any]]) -> None:
        by_peer: dict[Peer, list[Any]] = {}
        guards = _GUARDS if self.cluster.audited else {}
        for peer, message in messages:
            if (guard := guards.get(type(message))) is not None:
                guard(self, message)
            by_peer.setdefault(peer, []).append(message)
        for peer, batch in by_peer.items():
            self.cluster.net.send_down(self, peer, batch)


# --- nothing is said before it is written ---------------------------------------------------------------


def _accepted(host: BrokerHost, message: m.Accepted) -> None:
    store = host.cluster.store
    if (message.job, message.number) not in store.numbers:
        raise Violation(f"batch {message.number} was acknowledged before its commit", (message.job, 0))


def _resolved(host: BrokerHost, message: m.Resolved) -> None:
    audit = host.cluster.audit
    for piece in message.ranges:
        for at in {0, piece.count - 1}:
            index = piece.first + at
            if audit.state(message.job, index) != piece.states[at]:
                raise Violation("its outcome was told before its commit", (message.job, index))


def _granted(host: BrokerHost, message: m.Grant) -> None:
    """Only what the ledger knows, and what is not final; a node's credit holds."""
    store, limits = host.cluster.store, host.cluster.limits
    fenced = store.epoch != host.disk.ledger.epoch
    for item in message.items:
        task = (item.job, item.first)
        expect(item.batch in store.batches, "granted before its batch was committed", task)
        expect(item.count <= limits.grant_tasks_max, f"a grant of {item.count} tasks", task)
        grant = host.machine.state.nodes.grants.get(item.grant)
        if grant is not None and not fenced:
            node = grant.node
            expect(node.outstanding >= grant.open >= 0, f"{node.name} is owed {grant.open} of {node.outstanding}", task)


_GUARDS: dict[type, Any] = {m.Accepted: _accepted, m.Resolved: _resolved, m.Grant: _granted}
