"""The loop by itself: in which order messages leave, and that it overlooks nothing that has come."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import zmq

from pyfi_hpc.adapters.clock import SystemClock
from pyfi_hpc.adapters.dealer import BROKER, DealerPort
from pyfi_hpc.adapters.router import Gatekeeper, RouterPort, bind_tcp
from pyfi_hpc.loop import Loop
from pyfi_hpc.model.effects import Effects
from pyfi_hpc.model.events import Unreachable
from pyfi_hpc.model.ids import Peer
from pyfi_hpc.model.messages import Accepted, Beat, Kept, Message, Resolved, Stop
from pyfi_hpc.wire import codec

ONE, TWO = Peer(b"one"), Peer(b"two")


class Script:
    """A machine, a port and a sender in one: each round says what the script has next, and notes what was sent."""

    def __init__(self, rounds: list[list[tuple[Peer, Message]]], absent: frozenset[Peer] = frozenset()) -> None:
        self.waitable = os.eventfd(1)  # always readable
        self.stopped = False
        self.sent: list[tuple[Peer, list[Message]]] = []
        self.events: list[Any] = []
        self._rounds = rounds
        self._absent = absent

    def receive(self) -> list[Any]:
        return []

    def handle(self, event: Any, now: float, out: Effects) -> None:
        self.events.append(event)

    def advance(self, now: float, out: Effects) -> None:
        if self._rounds:
            out.messages += self._rounds.pop(0)
        else:
            self.stopped = True

    def wake_at(self) -> float:
        return float("inf")

    def send(self, peer: Peer, messages: Sequence[Message]) -> bool:
        self.sent.append((peer, list(messages)))
        return peer not in self._absent


def run(*rounds: list[tuple[Peer, Message]], absent: frozenset[Peer] = frozenset()) -> Script:
    script = Script(list(rounds), absent)
    Loop(script, SystemClock(), [script], script).run()
    os.close(script.waitable)
    return script


def accepted(number: int) -> Accepted:
    return Accepted(b"key", number, 1)


def test_acknowledgements_go_after_what_others_work_with() -> None:
    """Who gets acknowledgements only is served last; a peer that gets more gets all of it in order, in one frame."""
    result = Resolved(1, [])
    sent = run([(ONE, accepted(0)), (TWO, Kept([])), (TWO, Stop(True)), (ONE, accepted(1))]).sent
    assert sent == [(TWO, [Kept([]), Stop(True)]), (ONE, [accepted(0), accepted(1)])]
    sent = run([(ONE, Kept([])), (TWO, accepted(0)), (TWO, result)], [(ONE, Stop(True))]).sent
    assert sent == [(TWO, [accepted(0), result]), (ONE, [Kept([])]), (ONE, [Stop(True)])]


def test_who_cannot_be_reached_is_told_in_the_next_round() -> None:
    """Also where only an acknowledgement could not be sent."""
    script = run([(ONE, accepted(0)), (TWO, Stop(True))], [], absent=frozenset({ONE, TWO}))
    assert script.events == [Unreachable(TWO), Unreachable(ONE)]


@pytest.fixture
def ends() -> Iterator[tuple[RouterPort, DealerPort]]:
    """A broker's and an agent's port, connected."""
    context: zmq.Context[Any] = zmq.Context()
    ours, theirs = ([key.decode() for key in zmq.curve_keypair()] for _ in range(2))
    gatekeeper = Gatekeeper(context, {theirs[0]: "agent:owner"})
    socket, port = bind_tcp(context, "127.0.0.1", 0, ours[1], ours[0], 1 << 20)
    router = RouterPort(socket, codec.TO_BROKER)
    keys = (ours[0], theirs[0], theirs[1])
    dealer = DealerPort(context, f"tcp://127.0.0.1:{port}", BROKER, codec.TO_AGENT, 1 << 20, keys)
    deadline = time.monotonic() + 10
    while not dealer.send(BROKER, [Beat(0)]):
        gatekeeper.receive()
        assert time.monotonic() < deadline
    yield router, dealer
    router.close()
    dealer.close()
    gatekeeper.close()
    context.destroy(linger=0)


def test_what_zeromq_has_received_is_never_overlooked(ends: tuple[RouterPort, DealerPort]) -> None:
    """Sending takes note of what has come, and the descriptor falls silent: the port still knows, at either end."""
    router, dealer = ends
    (hello,) = taken(router, 1)
    silent = 0
    for i in range(200):
        for port, peer, other, back in ((router, hello.peer, dealer, BROKER), (dealer, BROKER, router, hello.peer)):
            assert other.send(back, [Beat(i)])
            if i % 2:
                select.select([port.waitable], [], [], 1.0)  # it has come; else it comes at any moment
            for _ in range(i % 5):
                assert port.send(peer, [Beat(i)])
            silent += not select.select([port.waitable], [], [], 0)[0]
            taken(port, 1)
            taken(other, i % 5)
    assert silent, "the descriptor never fell silent: this shows nothing"


def taken(port: RouterPort | DealerPort, count: int) -> list[Any]:
    """So many events, received as the loop does: where it would wait for ever, this fails."""
    events: list[Any] = []
    while len(events) < count:
        noticed = port.holds() or select.select([port.waitable], [], [], 5.0)[0]
        assert noticed, "a message was overlooked"
        events += port.receive()
    return events
