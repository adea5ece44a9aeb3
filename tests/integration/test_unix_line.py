"""The line between agent and rank, both ends of it on a real socket in this process."""

from __future__ import annotations

import os
import resource
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyfi_hpc.adapters.unix_line import AGENT, AgentPort, RanksPort
from pyfi_hpc.model.events import Received, Unreachable
from pyfi_hpc.model.ids import Peer
from pyfi_hpc.model.messages import Beat, Done, Message, Outcome, RankBeat, RankReady, Stop
from pyfi_hpc.wire import codec

_BYTES_MAX = 4 << 20
_READY = RankReady(rank=0, world=1, pid=1, core=-1)


class Ends:
    """An agent's port, and whoever connects to it."""

    def __init__(self, folder: Path, owner: int | None = None) -> None:
        self.point = folder / "a.sock"
        self.agent = RanksPort(self.point, codec.FROM_RANK, _BYTES_MAX, owner)
        self.stack = ExitStack()
        #: what the agent has heard
        self.heard: list[Any] = []

    def rank(self) -> AgentPort:
        port = AgentPort(self.point, codec.TO_RANK, _BYTES_MAX)
        self.stack.callback(port.close)
        return port

    def raw(self) -> socket.socket:
        link = self.stack.enter_context(socket.socket(socket.AF_UNIX))
        link.settimeout(5.0)
        link.connect(str(self.point))
        return link

    def until(self, condition: Callable[[], Any], limit_s: float = 10.0) -> None:
        """The agent's port receives until then; nothing else wakes it."""
        deadline = time.monotonic() + limit_s
        while not condition():
            left_s = deadline - time.monotonic()
            assert left_s > 0, f"it did not happen; heard so far: {self.heard}"
            if select.select([self.agent.waitable], [], [], min(left_s, 0.05))[0]:
                self.heard += self.agent.receive()

    def introduced(self) -> tuple[AgentPort, Peer]:
        """A rank's port that the agent has heard, and its name there."""
        rank, before = self.rank(), len(self.heard)
        assert rank.send(AGENT, [_READY])
        self.until(lambda: len(self.heard) > before)
        return rank, self.heard[-1].peer

    def is_closed(self, link: socket.socket) -> bool:
        self.until(lambda: select.select([link], [], [], 0)[0])
        try:
            return link.recv(1) == b""
        except ConnectionResetError:
            return True


@pytest.fixture
def ends(tmp_path: Path) -> Iterator[Ends]:
    ends = Ends(tmp_path)
    with ends.stack:
        yield ends
    ends.agent.close()


def framed(frame: bytes) -> bytes:
    return struct.pack("<I", len(frame)) + frame


def take(rank: AgentPort, limit_s: float = 5.0) -> list[Any]:
    assert select.select([rank.waitable], [], [], limit_s)[0], "nothing came"
    return rank.receive()


def done(size: int) -> Done:
    return Done(1, Outcome(1, 1, 0, 1, 1, 0, b"\0", bytes(8), bytes(4), struct.pack("<2I", 0, size), bytes(size)))


def test_messages_go_both_ways(ends: Ends) -> None:
    """What is sent arrives whole and in order, small and large, with who said it."""
    rank, peer = ends.introduced()
    large = done(_BYTES_MAX - 1000)
    assert ends.agent.send(peer, [Beat(1), Stop(True)])
    assert [event.message for event in take(rank)] == [Beat(1), Stop(True)]
    assert rank.send(AGENT, [RankBeat(1), large])
    assert rank.send(AGENT, [RankBeat(2)])

    def both_turn() -> bool:
        rank.receive()
        return len(ends.heard) == 4

    ends.until(both_turn)
    assert [event.message for event in ends.heard] == [_READY, RankBeat(1), large, RankBeat(2)]
    assert {(event.peer, event.role) for event in ends.heard} == {(peer, "rank")}
    assert peer.startswith(b"%d." % os.getpid())


def test_nobody_there(ends: Ends) -> None:
    """A rank without an agent is told so at each send, until there is one; an agent without that rank, too."""
    early = AgentPort(ends.point.with_name("other.sock"), codec.TO_RANK, _BYTES_MAX)
    assert not early.send(AGENT, [_READY])
    assert not early.send(AGENT, [_READY])
    ends.point.rename(ends.point.with_name("other.sock"))
    assert early.send(AGENT, [_READY])
    ends.until(lambda: ends.heard)
    assert not ends.agent.send(Peer(b"1.99"), [Beat(1)])
    early.close()


def test_a_rank_that_has_gone(ends: Ends) -> None:
    """What it said last is heard though it was sent something meanwhile; then it cannot be reached."""
    rank, peer = ends.introduced()
    assert rank.send(AGENT, [RankBeat(7)])
    rank.close()
    assert ends.agent.send(peer, [Beat(1)])
    ends.until(lambda: len(ends.heard) == 2)
    assert ends.heard[1].message == RankBeat(7)
    ends.until(lambda: not ends.agent.send(peer, [Beat(1)]))
    assert ends.agent.dropped.count == 0


def test_an_agent_that_has_gone(ends: Ends, tmp_path: Path) -> None:
    """Its rank hears what was said last, then that it has gone, once; it does not go over to another agent."""
    rank, peer = ends.introduced()
    ends.agent.send(peer, [Stop(False)])
    ends.agent.close()
    ends.agent = RanksPort(ends.point, codec.FROM_RANK, _BYTES_MAX)
    events = take(rank) + take(rank)
    assert [type(event) for event in events] == [Received, Unreachable]
    assert events[0].message == Stop(False)
    assert not rank.send(AGENT, [RankBeat(1)])
    assert rank.receive() == []


def test_a_line_that_was_closed_before_a_word_is_made_again(ends: Ends) -> None:
    """The first agent closes it unheard: the rank is told, and reaches the next one with its next try."""
    rank = ends.rank()
    assert rank.send(AGENT, [_READY])
    ends.agent.close()
    ends.agent = RanksPort(ends.point, codec.FROM_RANK, _BYTES_MAX)
    assert [type(event) for event in take(rank)] == [Unreachable]
    assert rank.send(AGENT, [_READY])
    ends.until(lambda: ends.heard)


def test_a_rank_that_does_not_read(ends: Ends) -> None:
    """The agent is never held up and keeps a bounded part; the line is closed, counted, and others go on."""
    rank, peer = ends.introduced()
    _, other = ends.introduced()
    stop, sent = Beat(1, [(1, 1)] * 100_000), 0
    size = len(codec.encode([stop]))
    began = time.monotonic()
    while ends.agent.send(peer, [stop]):
        sent += size
        assert sent < 4 * _BYTES_MAX
    assert sent > 2 * _BYTES_MAX
    assert time.monotonic() - began < 5
    assert ends.agent.dropped.count == 1
    assert not ends.agent.send(peer, [Beat(1)])
    assert ends.agent.send(other, [Beat(1)])
    rank.receive()


def test_a_slow_reader_gets_all(ends: Ends) -> None:
    """What did not fit at once is written as the rank reads, in order, with nothing but the port's own descriptor."""
    rank, peer = ends.introduced()
    beats: list[Message] = [Beat(i, [(1, 1)] * 50_000) for i in range(20)]
    for beat in beats:
        assert ends.agent.send(peer, [beat])
    got: list[Any] = []

    def reads() -> bool:
        got.extend(event.message for event in rank.receive())
        return len(got) == len(beats)

    ends.until(reads)
    assert got == beats
    assert not select.select([ends.agent.waitable], [], [], 0)[0], "nothing waits: it must not wake the loop"


@pytest.mark.parametrize("frame", [
    framed(b""), framed(b"\xc1"), framed(codec.encode([Beat(1)])), framed(codec.encode([_READY])[:-1]),
    struct.pack("<I", _BYTES_MAX + 1), b"\xff\xff\xff\xff", b"GET / HTTP/1.1\r\n\r\n",
])  # fmt: skip
def test_what_is_no_message_closes_the_line(ends: Ends, frame: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """Counted and named; what came before it on the line counts, others do not notice."""
    _, other = ends.introduced()
    for first in (b"", framed(codec.encode([RankBeat(3)]))):
        link, before = ends.raw(), len(ends.heard)
        link.sendall(first + frame)
        assert ends.is_closed(link)
        assert len(ends.heard) == before + bool(first)
    assert ends.agent.dropped.count == 2
    assert f"dropped peer={os.getpid()}." in caplog.text
    assert ends.agent.send(other, [Beat(1)])


def test_half_a_frame(ends: Ends, caplog: pytest.LogCaptureFixture) -> None:
    """A line that is closed in the middle of a frame is counted; one that ends between two is not."""
    whole = framed(codec.encode([RankBeat(3)]))
    ends.raw().sendall(whole)
    ends.until(lambda: len(ends.heard) == 1)
    for cut in (1, 4, len(whole) - 1):
        link = ends.raw()
        link.sendall(whole[:cut])
        link.close()
    ends.until(lambda: ends.agent.dropped.count == 3)
    assert "closed in the middle of a frame" in caplog.text
    ends.stack.close()
    ends.until(lambda: not ends.agent.send(ends.heard[0].peer, [Beat(1)]))
    assert ends.agent.dropped.count == 3


def test_a_first_message_that_never_ends(ends: Ends) -> None:
    """Only who has said something may say something large: half of a first message holds little memory."""
    link = ends.raw()
    link.sendall(struct.pack("<I", _BYTES_MAX))
    assert ends.is_closed(link)
    link = ends.raw()
    link.sendall(framed(codec.encode([_READY])) + struct.pack("<I", _BYTES_MAX))
    ends.until(lambda: ends.heard)
    assert ends.agent.dropped.count == 1


def test_many_lines_that_say_nothing(ends: Ends) -> None:
    """The oldest of them are closed for the newest; those that speak stay, and idle ones never wake the agent."""
    _, speaker = ends.introduced()
    links = [ends.raw() for _ in range(200)]
    ends.until(lambda: ends.agent.dropped.count == 200 - 128)
    assert ends.is_closed(links[0])
    assert ends.agent.send(speaker, [Beat(1)])
    links[-1].sendall(framed(codec.encode([RankBeat(3)])))
    ends.until(lambda: len(ends.heard) == 2)
    assert not select.select([ends.agent.waitable], [], [], 0)[0]


def test_another_users_process(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The kernel says whose process it is: not ours, not heard, whatever the folder lets in."""
    ends = Ends(tmp_path, owner=os.getuid() + 1)
    with ends.stack:
        link = ends.raw()
        link.sendall(framed(codec.encode([_READY])))
        assert ends.is_closed(link)
        assert not ends.heard
    assert f"refused pid={os.getpid()} uid={os.getuid()} role=rank why=another user dropped=1" in caplog.text
    assert ends.point.stat().st_mode & 0o777 == 0o600
    ends.agent.close()


def test_no_descriptor_left(ends: Ends) -> None:
    """Who comes then is turned away at once, so that the loop is not woken for ever; later ones come in."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    waiting = ends.raw()
    free = os.open(os.devnull, os.O_RDONLY)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        assert ends.agent.receive() == []
        assert not select.select([ends.agent.waitable], [], [], 0)[0]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert ends.is_closed(waiting)
    assert ends.agent.dropped.count == 1
    ends.introduced()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(st.integers(0, 3), st.binary(max_size=12)), max_size=8), st.lists(st.integers(1, 40)))
def test_any_bytes_in_any_pieces(tmp_path_factory: pytest.TempPathFactory, parts: list[Any], cuts: list[int]) -> None:
    """Good messages up to the first bad one are heard, however the stream is cut; nothing raises or stays open."""
    ends = Ends(tmp_path_factory.mktemp("fuzz"))
    with ends.stack:
        before = len(os.listdir("/proc/self/fd"))
        link, good, bad = ends.raw(), 0, False
        stream = b""
        for part in parts:
            stream += part if isinstance(part, bytes) else framed(codec.encode([RankBeat(7)] * part))
            bad = bad or (isinstance(part, bytes) and bool(part))
            good += part if isinstance(part, int) and not bad else 0
        try:
            for cut in cuts:
                link.sendall(stream[:cut])
                stream = stream[cut:]
                ends.heard += ends.agent.receive()
            link.sendall(stream)
        except BrokenPipeError:
            assert bad
        link.close()
        ends.until(lambda: len(ends.heard) >= good and len(os.listdir("/proc/self/fd")) == before)
        assert [event.message for event in ends.heard[:good]] == [RankBeat(7)] * good
    ends.agent.close()
