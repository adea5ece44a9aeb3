"""An imagined cluster in one process: the shipping broker and agent machines under a virtual clock.

A run is a seed. The network delays and keeps the order per connection, as ZeroMQ does over TCP; ranks are
imagined: a task takes the time that its payload names. The ledger is the one in memory, with a commit time.
Faults are calls of a test or a plan: ``kill_agent``, ``kill_rank``, ``restart_broker``, ``cut``.
"""

from __future__ import annotations

import heapq
import random
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pyfi_hpc.core.agent import BROKER, Agent
from pyfi_hpc.core.broker import Broker
from pyfi_hpc.ledger.memory import MemoryLedger, MemoryStore
from pyfi_hpc.model import messages as m
from pyfi_hpc.model.effects import (
    CheckCode,
    Effects,
    FindJob,
    KillProcess,
    ReadPage,
    ReadPayloads,
    ReadValues,
    ReplaceRank,
    StartRanks,
)
from pyfi_hpc.model.events import (
    CodeChecked,
    JobFound,
    PageRead,
    PayloadsRead,
    ProcessExited,
    Received,
    SocketSpec,
    Unreachable,
    ValuesRead,
)
from pyfi_hpc.model.ids import Peer
from pyfi_hpc.model.limits import PROTOCOL_VERSION, Limits
from pyfi_hpc.model.packed import offsets_of, pick
from pyfi_hpc.model.states import Cause


@dataclass(slots=True)
class Plan:
    """What the imagined cluster is like."""

    nodes: int = 2
    ranks_per_node: int = 2
    latency_s: float = 0.0005
    commit_s: float = 0.001
    rank_start_s: float = 0.5


class World:
    """Clock, network and hosts. Everything that happens is an entry of one heap."""

    def __init__(self, seed: int = 0, plan: Plan | None = None, limits: Limits | None = None) -> None:
        self.random = random.Random(seed)
        self.plan = plan or Plan()
        self.limits = limits or Limits()
        self.now = 0.0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._ticket = 0
        self.store = MemoryStore()
        self.sockets = [SocketSpec(1, "sample.work", "sample", "work", m.Mount(1, "r", "c", "sample", "e", "py", "w"))]
        self.broker: BrokerHost | None = None
        self.agents: dict[str, AgentHost] = {}
        self.clients: dict[Peer, ClientHost] = {}
        #: (job, index, attempt, grant) of every start of a task
        self.executed: list[tuple[int, int, int, int]] = []
        self._lines: dict[tuple[Any, Any], float] = {}
        self.start_broker()
        for number in range(self.plan.nodes):
            self.start_agent(f"n{number + 1}")

    # --- time -----------------------------------------------------------------------------------------

    def at(self, when: float, what: Callable[[], None]) -> None:
        self._ticket += 1
        heapq.heappush(self._heap, (max(when, self.now), self._ticket, what))

    def run(self, until: Callable[[], bool], limit_s: float = 600.0) -> None:
        """Let things happen until the condition holds; TimeoutError when it does not in time."""
        end = self.now + limit_s
        while not until():
            if not self._heap or self._heap[0][0] > end:
                raise TimeoutError(f"the condition does not hold at {min(end, self.now):.3f} s")
            self.now, _, what = heapq.heappop(self._heap)
            what()

    def run_for(self, seconds: float) -> None:
        end = self.now + seconds
        while self._heap and self._heap[0][0] <= end:
            self.now, _, what = heapq.heappop(self._heap)
            what()
        self.now = end

    def carry(self, source: Any, target: Any, deliver: Callable[[], None]) -> None:
        """A message on the wire: delayed, in order per connection."""
        when = self.now + self.plan.latency_s * (0.5 + self.random.random())
        when = max(when, self._lines.get((source, target), 0.0))
        self._lines[source, target] = when
        self.at(when, deliver)

    # --- faults ---------------------------------------------------------------------------------------

    def start_broker(self) -> None:
        self.broker = BrokerHost(self)

    def kill_broker(self) -> None:
        assert self.broker is not None
        self.broker.dead = True
        self.broker.ledger.lose_session()
        self.broker = None

    def start_agent(self, name: str, allocation: str = "") -> AgentHost:
        agent = AgentHost(self, name, allocation)
        self.agents[agent.name] = agent
        return agent

    def kill_agent(self, name: str) -> None:
        self.agents.pop(name).dead = True

    def kill_rank(self, name: str, number: int) -> None:
        self.agents[name].kill_rank(number)

    def cut(self, name: str, seconds: float) -> None:
        """Nothing passes between an agent and the broker for so long."""
        self.agents[name].cut_until = self.now + seconds


class Host:
    """Runs one machine with the loop's rules."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.dead = False
        self._wake = float("inf")
        self.machine: Any = None

    def tell(self, event: Any) -> None:
        if self.dead or self.machine.stopped:
            return
        out = Effects()
        self.machine.handle(event, self.world.now, out)
        self.machine.advance(self.world.now, out)
        self.carry_out(out)
        self._schedule()

    def tick(self) -> None:
        if self.dead or self.machine.stopped or self.world.now < self._wake:
            return
        self._wake = float("inf")
        out = Effects()
        self.machine.advance(self.world.now, out)
        self.carry_out(out)
        self._schedule()

    def _schedule(self) -> None:
        wake = self.machine.wake_at()
        if wake < self._wake:
            self._wake = max(wake, self.world.now + 1e-6)
            self.world.at(self._wake, self.tick)

    def carry_out(self, out: Effects) -> None:
        raise NotImplementedError


class BrokerHost(Host):
    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.ledger = MemoryLedger(world.store)
        recovered = self.ledger.take_over("sim")
        self.machine = Broker(world.limits, recovered, world.sockets, [], world.now, world.now)
        self._gathered = Effects()
        self._busy = False
        self._seq = 0
        world.at(world.now, self.tick)
        self._wake = world.now

    def carry_out(self, out: Effects) -> None:
        for peer, message in out.at_once:
            self._send(peer, message)
        g = self._gathered
        g.records += out.records
        g.queries += out.queries
        g.messages += out.messages
        self._commit()

    def _commit(self) -> None:
        if self._busy:
            return
        group, self._gathered = self._gathered, Effects()
        if not (group.records or group.queries):
            for peer, message in group.messages:
                self._send(peer, message)
            return
        self._busy = True
        self.world.at(self.world.now + self.world.plan.commit_s, lambda: self._committed(group))

    def _committed(self, group: Effects) -> None:
        if self.dead:
            return
        self._seq += 1
        self.ledger.commit(group.records, self._seq)
        for peer, message in group.messages:
            self._send(peer, message)
        for query in group.queries:
            event = self._answer(query)
            if event is not None:
                self.world.at(self.world.now, partial(self.tell, event))
        self._busy = False
        self._commit()

    def _answer(self, query: Any) -> Any:
        ledger = self.ledger
        if isinstance(query, ReadPayloads):
            return PayloadsRead(ledger.payloads(query.batches))
        if isinstance(query, ReadValues):
            return ValuesRead(query.wanted, ledger.values(query.wanted))
        if isinstance(query, FindJob):
            return JobFound(query.key, ledger.find_job(query.owner, query.key))
        if isinstance(query, ReadPage):
            p = ledger.page(query.job, query.cursor, query.bytes_max)
            if p is None:
                return PageRead(query.peer, query.job, False, "", [], (0, -1), False, -1, b"", "")
            return PageRead(
                query.peer, query.job, True, p.owner, p.ranges, p.cursor, p.more, p.total, p.shape, p.name
            )
        return None

    def _send(self, peer: Peer, message: Any) -> None:
        world = self.world
        agent = world.agents.get(peer.decode().partition("#")[0])
        client = world.clients.get(peer)
        if agent is not None and agent.peer == peer:
            if world.now < agent.cut_until:
                agent.torn = True
            elif not agent.torn:
                world.carry(self, agent, lambda: agent.tell(Received(BROKER, "broker", "", message)))
        elif client is not None:
            world.carry(self, client, lambda: client.receive(message))
        else:
            world.at(world.now, lambda: self.tell(Unreachable(peer)))


class AgentHost(Host):
    """An agent and its imagined ranks."""

    def __init__(self, world: World, name: str, allocation: str = "") -> None:
        super().__init__(world)
        self.name = f"{name}/{allocation}" if allocation else name
        incarnation = f"{world.random.random()}"
        self.peer = Peer(f"{self.name}#{incarnation}".encode())
        self.cut_until = 0.0
        self.torn = False
        self.machine = Agent(
            world.limits, name, incarnation, allocation, world.plan.ranks_per_node, 4, True, world.now
        )
        self.ranks: dict[int, ImaginedRank] = {}
        world.at(world.now, self.tick)
        self._wake = world.now

    def carry_out(self, out: Effects) -> None:
        for peer, message in out.messages + out.at_once:
            self._send(peer, message)
        for action in out.actions:
            self._do(action)

    def _send(self, peer: Peer, message: Any) -> None:
        world, broker = self.world, self.world.broker
        if peer != BROKER:
            rank = next((r for r in self.ranks.values() if r.peer == peer), None)
            if rank is not None:
                rank.receive(message)
            else:
                world.at(world.now, lambda: self.tell(Unreachable(peer)))
        elif broker is None:
            world.at(world.now, lambda: self.tell(Unreachable(BROKER)))
        elif world.now < self.cut_until:
            self.torn = True
        else:
            self._mend()
            event = Received(self.peer, "agent", "owner", message)
            world.carry(self, broker, lambda: broker.tell(event))

    def _mend(self) -> None:
        """What a cut swallowed is lost; ZeroMQ connects anew, under another routing id."""
        if self.torn:
            self.torn = False
            self.peer = Peer(f"{self.name}#{self.world.random.random()}".encode())

    def _do(self, action: Any) -> None:
        world = self.world
        if isinstance(action, StartRanks):
            for number in range(action.count):
                world.at(world.now + world.plan.rank_start_s, partial(self._add_rank, number))
        elif isinstance(action, ReplaceRank):
            world.at(world.now + world.plan.rank_start_s, lambda: self._add_rank(action.rank))
        elif isinstance(action, KillProcess):
            for rank in list(self.ranks.values()):
                if rank.pid == action.pid:
                    self.kill_rank(rank.number)
        elif isinstance(action, CheckCode):
            world.at(world.now + 0.01, lambda: self.tell(CodeChecked(action.code, "")))

    def _add_rank(self, number: int) -> None:
        if self.dead or number in self.ranks:
            return
        rank = ImaginedRank(self, number)
        self.ranks[number] = rank
        self.tell(Received(rank.peer, "rank", "", m.RankReady(number, 1, rank.pid, -1)))

    def kill_rank(self, number: int) -> None:
        rank = self.ranks.pop(number, None)
        if rank is not None:
            rank.dead = True
            self.world.at(self.world.now + 0.001, lambda: self.tell(ProcessExited(rank.pid, "signal 9")))


_pids = iter(range(1000, 1 << 40))


class ImaginedRank:
    """Runs tasks one after the other; a task's payload is its duration in seconds as text, "!" crashes it."""

    def __init__(self, agent: AgentHost, number: int) -> None:
        self.agent = agent
        self.number = number
        self.pid = next(_pids)
        self.peer = Peer(f"r{self.pid}".encode())
        self.dead = False
        self._line: list[tuple[m.Bundle, int]] = []
        self._running: tuple[m.Bundle, int] | None = None
        self._beat()

    def receive(self, message: Any) -> None:
        if isinstance(message, m.Bundle):
            self._line += [(message, message.lo + k) for k in range(message.count)]
            self._next()
        elif isinstance(message, m.Kill):
            self._kill(message)
        elif isinstance(message, m.Stop):
            self.agent.kill_rank(self.number)

    def _beat(self) -> None:
        if not self.dead and not self.agent.dead:
            self.agent.tell(Received(self.peer, "rank", "", m.RankBeat(0)))
            self.agent.world.at(self.agent.world.now + 1.0, self._beat)

    def _next(self) -> None:
        if self._running is not None or not self._line:
            return
        bundle, offset = self._running = self._line.pop(0)
        text = pick(bundle.offsets, bundle.payload, offset - bundle.lo).decode()
        world = self.agent.world
        world.executed.append((bundle.job, bundle.first + offset - bundle.lo, bundle.attempt, bundle.grant))
        cause = {"!": Cause.CRASH, "?": Cause.ERROR}.get(text[:1], Cause.NONE)
        seconds = float(text.lstrip("!?") or 0.001)
        world.at(world.now + seconds, partial(self._finish, self._running, cause))

    def _finish(self, mark: tuple[m.Bundle, int], cause: Cause) -> None:
        if self.dead or self.agent.dead or self._running is not mark:
            return
        self._running = None
        self._done(*mark, cause)
        self._next()

    def _done(self, bundle: m.Bundle, offset: int, cause: Cause) -> None:
        result = f"{bundle.job}.{bundle.first + offset - bundle.lo}".encode()
        outcome = m.Outcome(
            bundle.grant, bundle.batch, offset, 1, bundle.attempt, self.number, bytes([cause]), bytes(8),
            array("f", [0.001]).tobytes(), offsets_of([result]), result,
        )  # fmt: skip
        self.agent.tell(Received(self.peer, "rank", "", m.Done(bundle.bundle, outcome)))

    def _kill(self, kill: m.Kill) -> None:
        """The tasks that it names end with its cause; order within the bundle is kept."""
        hit = [(b, o) for b, o in self._line if b.bundle == kill.bundle and kill.lo <= o < kill.lo + kill.count]
        self._line = [entry for entry in self._line if entry not in hit]
        wanted = range(kill.lo, kill.lo + kill.count)
        running = self._running and self._running[0].bundle == kill.bundle and self._running[1] in wanted
        if running and kill.cause != Cause.RELEASED:  # what runs is not handed back
            assert self._running is not None
            hit.insert(0, self._running)
            self._running = None
        for bundle, offset in reversed(hit) if kill.cause == Cause.RELEASED else hit:
            self._done(bundle, offset, Cause(kill.cause))
        self._next()


@dataclass(eq=False)
class ClientHost:
    """Submits and listens, with keys that survive resends."""

    world: World
    peer: Peer
    accepted: dict[tuple[bytes, int], int] = field(default_factory=dict)
    results: dict[tuple[int, int], tuple[int, bytes]] = field(default_factory=dict)
    refused: list[m.Refused] = field(default_factory=list)
    other: list[Any] = field(default_factory=list)
    _unacknowledged: dict[tuple[bytes, int], m.Submit] = field(default_factory=dict)

    @classmethod
    def join(cls, world: World, name: str = "c1") -> ClientHost:
        client = cls(world, Peer(name.encode()))
        world.clients[client.peer] = client
        client.hello()
        return client

    def hello(self) -> None:
        self.send(m.Hello(PROTOCOL_VERSION, "client", "sim", "1"))

    def send(self, message: Any) -> None:
        broker = self.world.broker
        if broker is not None:
            event = Received(self.peer, "client", "owner", message)
            self.world.carry(self, broker, lambda: broker.tell(event))

    def submit(self, payloads: list[str], edges: bytes = b"", **options: Any) -> bytes:
        """One job of one batch; returns its key."""
        return self.submit_batches([payloads], [edges], **options)

    def submit_batches(self, batches: list[list[str]], edges: list[bytes], **options: Any) -> bytes:
        """One job of several batches, sent one after the other."""
        key = self.world.random.randbytes(16)
        first = 0
        for number, payloads in enumerate(batches):
            parts = [text.encode() for text in payloads]
            message = m.Submit(
                key, number, first, len(parts), number == len(batches) - 1, "sample.work", offsets_of(parts),
                b"".join(parts), edges[number], **options,
            )  # fmt: skip
            first += len(parts)
            self._unacknowledged[key, number] = message
            self.send(message)
        return key

    def receive(self, message: Any) -> None:
        if isinstance(message, m.Accepted):
            self.accepted[message.key, message.number] = message.job
            self._unacknowledged.pop((message.key, message.number), None)
        elif isinstance(message, m.Resolved | m.Page):
            for r in message.ranges:
                for k in range(r.count):
                    mark = (message.job, r.first + k)
                    value = (r.states[k], pick(r.offsets, r.payload, k))
                    assert self.results.setdefault(mark, value) == value, "a result changed"
        elif isinstance(message, m.Refused):
            self.refused.append(message)
        elif isinstance(message, m.Unknown):
            self.reconnect()
        else:
            self.other.append(message)

    def reconnect(self) -> None:
        self.hello()
        for message in list(self._unacknowledged.values()):
            message.resend = True
            self.send(message)
        for job in set(self.accepted.values()):
            self.send(m.Watch(job))
