"""The imagined network between the broker's ROUTER and the DEALERs of agents and clients.

What ZeroMQ over TCP does, and so does this one: messages of a connection arrive in the order in which they were sent,
each once, or the connection is torn and everything that was on the way, in both directions, is lost. A DEALER
connects again by itself, under another routing id; until then (IMMEDIATE) it refuses to send, and the ROUTER
(MANDATORY) refuses to send to an id that has gone. Either end may learn of it later than the other: what is said
meanwhile is lost too. Connections do not know of each other: what goes over an old and a new one arrives in any
order. A path may be closed for a while, both ways or one way: TCP holds what is sent and delivers it late; after
``SILENCE_S`` ZeroMQ's own heartbeat tears the connection. A frozen process takes nothing and after ``SILENCE_S``
looks as if it were gone. Frames are delivered whole or not at all.

It cannot lose, double or reorder single messages of a connection that lives: TCP numbers its bytes, CURVE its
messages. The harsh mode does it all the same to those messages that the protocol says are hints or are sent again
until they are acknowledged (``MAY_BE_LOST``, ``MAY_COME_TWICE``). The others rest on the connection: a Grant that
vanished from a living one would leave its tasks with a node that never heard of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pyfi_hpc.model import messages as m
from pyfi_hpc.model.events import Received, Unreachable
from pyfi_hpc.model.ids import Peer
from pyfi_hpc.wire import codec

if TYPE_CHECKING:
    from pyfi_hpc.sim.hosts import Host
    from pyfi_hpc.sim.world import World

#: HEARTBEAT_TIMEOUT of adapters/zeromq.py
SILENCE_S = 5.0
#: RECONNECT_IVL and RECONNECT_IVL_MAX of adapters/zeromq.py
RECONNECT_S = (0.05, 0.25)
#: as in hosts/agent.py: without an answer for so long, or a connection, an agent looks whether the broker has moved
ANSWER_S, LOOK_S = 0.5, 0.2
UP, DOWN = 0, 1

#: said again: by the next beat, after five seconds, or asked for in pages
MAY_BE_LOST = (m.Beat, m.Finished, m.Kept, m.Resolved)
#: the receiver knows them by key, grant or number
MAY_COME_TWICE = (
    m.Beat, m.Finished, m.Kept, m.Resolved, m.Submit, m.Accepted, m.Cancel, m.Capacity, m.Mount, m.Hello, m.Welcome,
    m.Page,
)  # fmt: skip


@dataclass(slots=True)
class Weather:
    """What the network is like now; a plan changes it."""

    latency_s: float = 0.0005
    #: chance that a message takes ``slow_s`` more
    slow: float = 0.0
    slow_s: float = 0.0
    #: chance per message of the kinds that bear it
    lose: float = 0.0
    double: float = 0.0


class Connection:
    """One TCP connection: two ordered directions and a routing id."""

    __slots__ = ("_last", "line", "peer", "router", "torn")

    def __init__(self, line: Line, router: Any, peer: Peer) -> None:
        self.line = line
        self.router = router
        self.peer = peer
        self.torn = False
        self._last = [0.0, 0.0]

    def carry(self, way: int, messages: Sequence[Any]) -> None:
        """One frame; lost if the connection is torn before it arrives."""
        net = self.line.net
        weather, chance = net.weather, self.line.chance
        delay = weather.latency_s * (0.5 + chance.random())
        if weather.slow and chance.random() < weather.slow:
            delay += weather.slow_s * chance.random()
        if weather.lose or weather.double:
            messages = net.harm(messages, chance)
        if net.codec:  # as on the wire: what one side changes later, the other does not see
            messages = codec.decode(codec.encode(messages), codec.TO_BROKER if way == UP else self.line.decoder)
        when = max(net.world.now + delay, self.line.closed_until[way] + delay, self._last[way])
        self._last[way] = when
        net.world.at(when, self._arrive, way, messages)

    def _arrive(self, way: int, messages: Sequence[Any]) -> None:
        if self.torn:
            self.line.net.count("messages lost with a connection", len(messages))
            return
        line = self.line
        if way == UP:
            self.router.tell(*[Received(self.peer, line.role, "owner", message) for message in messages])
        else:
            line.heard()
            line.host.hear(messages)


class Line:
    """One DEALER: at most one connection at a time, made again by itself.

    An agent's refuses to send while there is none, and its agent looks for a broker that has moved. A client's
    keeps what it cannot send, and its client asks for a fresh one when nothing comes back.
    """

    def __init__(self, net: Network, host: Any, role: str) -> None:
        self.net = net
        self.host = host
        self.role = role
        self.decoder: Any = codec.TO_AGENT if role == "agent" else codec.TO_CLIENT
        self.chance = net.world.chance(f"line {host.name} {net.lines_made}")
        net.lines_made += 1
        self.connection: Connection | None = None
        self.address = net.access
        #: until then nothing arrives at the broker, at the DEALER
        self.closed_until = [0.0, 0.0]
        self._queue: list[list[Any]] = []
        #: when something was sent first after the broker was heard last
        self._waits_since: float | None = None
        self._looked_at = 0.0
        self._connecting = False
        self.connect(0.0)

    def send(self, messages: Sequence[Any]) -> bool:
        """One frame to the broker; False: there is no connection."""
        connection = self.connection
        if connection is None:
            self.connect(self.chance.uniform(*RECONNECT_S))
            if self.role == "client":
                self._queue.append(list(messages))
                return True
            self._look()
            return False
        world = self.net.world
        if world.story is not None:
            for message in messages:
                world.tell(f"{self.host.name} -> {connection.router.name}", "", message)
        connection.carry(UP, messages)
        if self._waits_since is None:
            self._waits_since = world.now
        elif self.role == "agent" and world.now - self._waits_since > ANSWER_S:
            self._look()
        return True

    def heard(self) -> None:
        self._waits_since = None

    def _look(self) -> None:
        """An agent goes where the access file says that the broker is."""
        now = self.net.world.now
        if now - self._looked_at >= LOOK_S:
            self._looked_at = now
            if self.address != self.net.access:
                self._waits_since = None
                self.renew()

    def renew(self) -> None:
        """A fresh socket to where the access file says: what waited in the old one is gone."""
        self.tear()
        self._queue.clear()
        self.address = self.net.access
        self.connect(0.0)

    def connect(self, delay_s: float) -> None:
        """Try to connect after a while, again and again."""
        if not self._connecting:
            self._connecting = True
            self.net.world.after(delay_s, self._connect)

    def _connect(self) -> None:
        self._connecting = False
        if self.host.dead or self.connection is not None:
            return
        net = self.net
        router = net.listeners.get(self.address)
        closed = max(self.closed_until) > net.world.now
        if router is None or router.frozen or closed or self.host.frozen:
            self.connect(self.chance.uniform(*RECONNECT_S))
            return
        net.peers_made += 1
        peer = Peer(f"{self.host.name}#{net.peers_made:06}".encode())
        self.connection = router.connections[peer] = Connection(self, router, peer)
        net.world.tell(f"{self.host.name} -> {router.name}", f"connected as {peer.decode()}")
        queue, self._queue = self._queue, []
        for messages in queue:
            self.send(messages)

    def tear(self, late_s: float = 0.0, dealer_late_s: float = 0.0) -> None:
        """The connection breaks. Its ends notice when they do; what they say until then is lost."""
        connection = self.connection
        if connection is None:
            return
        self.net.world.tell(f"{self.host.name} -> {connection.router.name}", "connection torn")
        connection.torn = True
        self.net.world.after(late_s, _router_notices, connection)
        if dealer_late_s:
            self.net.world.after(dealer_late_s, self._notice, connection)
        else:
            self._notice(connection)

    def _notice(self, connection: Connection) -> None:
        if self.connection is connection:
            self.connection = None
            if not self.host.dead:
                self.connect(self.chance.uniform(*RECONNECT_S))

    def lost(self, connection: Connection) -> None:
        """The other end has died."""
        if self.connection is connection:
            self.tear()

    def close(self, seconds: float, ways: Sequence[int] = (UP, DOWN)) -> None:
        """The path is closed for so long; if that is too long for ZeroMQ's heartbeat, the connection is torn."""
        world = self.net.world
        for way in ways:
            self.closed_until[way] = max(self.closed_until[way], world.now + seconds)
        if seconds > SILENCE_S and self.connection is not None:
            world.after(SILENCE_S + self.chance.random(), self._silence, self.connection)

    def _silence(self, connection: Connection) -> None:
        if self.connection is connection and max(self.closed_until) > self.net.world.now:
            self.tear(self.chance.random() * SILENCE_S)

    def heal(self) -> None:
        self.closed_until = [0.0, 0.0]


def _router_notices(connection: Connection) -> None:
    connection.router.connections.pop(connection.peer, None)


class Network:
    """All lines to the broker, and the weather."""

    def __init__(self, world: World, count: Any) -> None:
        self.world = world
        self.weather = Weather()
        self.count = count
        #: messages go through the codec; a run of millions of tasks passes them on as they are
        self.codec = True
        self.lines_made = 0
        self.peers_made = 0
        #: who listens, by address; and the address in the access file
        self.listeners: dict[str, Any] = {}
        self.access = "a1"

    def send_down(self, router: Any, peer: Peer, messages: Sequence[Any]) -> None:
        """One frame from the ROUTER to a connection; Unreachable if it knows that this one has gone."""
        connection = router.connections.get(peer)
        if connection is None:
            self.world.at(self.world.now, router.tell, Unreachable(peer))
            return
        if self.world.story is not None:
            for message in messages:
                self.world.tell(f"{router.name} -> {connection.line.host.name}", "", message)
        connection.carry(DOWN, messages)

    def freeze(self, host: Host, connections: Sequence[Connection]) -> None:
        """Who is frozen looks dead to ZeroMQ after a while."""
        for connection in connections:
            self.world.after(SILENCE_S + connection.line.chance.random(), _frozen_still, host, connection)

    def harm(self, messages: Sequence[Any], chance: Any) -> list[Any]:
        """The harsh mode: single messages that bear it are lost or doubled."""
        left: list[Any] = []
        for message in messages:
            kind = type(message)
            if kind in MAY_BE_LOST and chance.random() < self.weather.lose:
                self.count("messages lost alone", 1)
                continue
            left.append(message)
            if kind in MAY_COME_TWICE and chance.random() < self.weather.double:
                self.count("messages doubled", 1)
                left.append(message)
        return left


def _frozen_still(host: Host, connection: Connection) -> None:
    if host.frozen and not host.dead and not connection.torn:
        connection.line.tear(late_s=0.01)
