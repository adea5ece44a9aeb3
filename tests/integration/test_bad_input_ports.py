"""What comes to the ports from those who should not speak, or speak rubbish: dropped, counted, named; all goes on."""

from __future__ import annotations

import math
import os
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import Any

import msgspec
import psutil
import pytest
import zmq
from bad_peers import BAD_BATCHES, GARBAGE, Logged, address, answer, dealer, hello, nested, submit, unheard, welcome
from instance_fixture import Instance, until

from pyfi_hpc.adapters import access as access_file
from pyfi_hpc.adapters import node
from pyfi_hpc.model import messages as m
from pyfi_hpc.model.limits import Limits
from pyfi_hpc.model.packed import offsets_of
from pyfi_hpc.wire import codec


@pytest.fixture(autouse=True)
def _all_goes_on(healthy: Instance) -> Iterator[None]:
    """After each test the instance serves with the same processes, and the broker's memory is as it was."""
    broker = psutil.Process(healthy.pid("broker"))
    before = broker.memory_info().rss
    yield
    assert broker.memory_info().rss < before + (300 << 20)
    assert "this is a bug" not in healthy.log("broker")


# --- before any key ---------------------------------------------------------------------------------------


def test_random_bytes(box: Instance) -> None:
    """Rubbish of all lengths, HTTP, TLS: closed and counted; named by address if it stayed long enough to be seen."""
    logged = Logged(box)
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"CURVE".ljust(20, b"\0") + bytes(32)
    short = (b"\0", b"\xff" * 64, b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01" + bytes(500))
    for rubbish in (*short, os.urandom(100_000), greeting + os.urandom(5000)):
        with closing(socket.create_connection(address(box), 5)) as link:
            try:
                link.sendall(rubbish)
                link.shutdown(socket.SHUT_WR)
                link.settimeout(3)
                while link.recv(4096):
                    pass
            except OSError:
                pass
    logged.says("handshake failed address=")
    for pause in (0.2, 1.0, 3.0):
        with closing(socket.create_connection(address(box), 5)) as link:
            time.sleep(pause)  # for a loaded machine: the address is asked for while the connection is there
            link.sendall(b"GET / HTTP/1.1\r\n\r\n")
            time.sleep(0.2)
        if "address=127.0.0.1:" in logged.text:
            break
    logged.says("handshake failed address=127.0.0.1:")


def test_zmtp_without_curve(box: Instance) -> None:
    """NULL and PLAIN clients of plain ZeroMQ never get a message in."""
    for plain in (False, True):
        logged = Logged(box)
        with zmq.Context() as context, context.socket(zmq.DEALER) as link:
            link.linger = 0
            if plain:
                link.plain_username, link.plain_password = b"admin", b"admin"
            link.connect(access_file.read(box.settings).endpoint)
            unheard(link)
            logged.says("handshake failed address=")  # whichever end sees first that they do not match


def test_wrong_server_key(box: Instance) -> None:
    """A client that was told another broker's key cannot speak with this one."""
    logged = Logged(box)
    with dealer(box, server=zmq.curve_keypair()[0].decode()) as link:
        unheard(link)
    logged.says("handshake failed")


def test_unknown_client_key(box: Instance) -> None:
    """A key that nobody gave out: refused and named by address."""
    logged = Logged(box)
    public, secret = zmq.curve_keypair()
    with dealer(box, keys=(public.decode(), secret.decode())) as link:
        unheard(link)
    logged.says("unknown key", "address=127.0.0.1")


# --- with a good key --------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["client", "agent"])
def test_garbage_frames(box: Instance, role: str) -> None:
    """Each kind of rubbish in a frame: dropped, counted, named by peer and role; the connection is served after it."""
    for name, frame in GARBAGE.items():
        with dealer(box, role) as link:
            link.send(frame)
            link.send(codec.encode([m.Beat(1)]))
            assert isinstance(answer(link)[0], m.Unknown), name
    assert "dropped peer=" in box.log("broker")
    assert f"role={role}" in box.log("broker")


def test_several_frames(box: Instance) -> None:
    """A message of many frames, good ones among them: all of it is dropped."""
    with dealer(box) as link:
        link.send_multipart([codec.encode([hello()])] * 3)
        link.send_multipart([b"", codec.encode([hello()])])
        assert not link.poll(300)
        welcome(link, hello())


def test_messages_of_another_role(box: Instance) -> None:
    """A client that speaks as an agent, and the other way round: dropped, the rest of the frame counts."""
    with dealer(box) as link:
        welcome(link, hello())
        link.send(codec.encode([m.Capacity(1000, 1000), m.Finished([]), m.Goodbye(), m.Beat(7)]))
        assert answer(link) == [m.Beat(7)]
    with dealer(box, "agent") as link:
        link.send(codec.encode([m.Ask(1, "shutdown"), m.Cancel(1, 1, 0, -1), m.Beat(7)]))
        assert isinstance(answer(link)[0], m.Unknown)
    assert len(box.nodes()) == 1


def test_oversized_message(box: Instance) -> None:
    """Over 64 MB in one message: the connection is closed, nothing of it is kept; others are served."""
    with dealer(box) as link:
        welcome(link, hello())
        link.send(bytes(Limits().message_bytes_max + 1))
        link.send(codec.encode([m.Beat(1)]))
        with dealer(box) as other:
            welcome(other, hello())
        assert not any(isinstance(message, m.Beat) for message in answer(link, 1.0))


def test_batches_that_cannot_be(box: Instance) -> None:
    """Submissions with a hole in them: each is refused with a reason, or its frame is dropped; nothing is admitted."""
    before = len(box.ask("jobs")["rows"])
    with dealer(box) as link:
        welcome(link, hello())
        for name, changes in BAD_BATCHES.items():
            link.send(codec.encode([submit(**changes)]))
            got = answer(link)
            assert isinstance(got[0], m.Refused), (name, got)
            assert got[0].what
            assert got[0].retry_after_s < 0
        for changes in ({"priority": 1 << 40}, {"retries": 1 << 40}, {"retries": -1}, {"count": -1}, {"first": -5},
                        {"time_limit_s": math.nan}, {"time_limit_s": -1.0}, {"number": 1 << 33}):  # fmt: skip
            link.send(codec.encode([submit(**changes)]))
        link.send(codec.encode([m.Beat(5)]))
        assert answer(link) == [m.Beat(5)]
    assert len(box.ask("jobs")["rows"]) == before


def test_requests_that_cannot_be(box: Instance) -> None:
    """Watch, cancel and verbs with absurd numbers and rubbish in them: answered or dropped."""
    with dealer(box) as link:
        welcome(link, hello(name="odd \x00 name" * 10))
        big = (1 << 63) - 1
        cancels = [m.Cancel(1, big, big, -1), m.Cancel(2, 1, big, big)]
        link.send(codec.encode([m.Watch(big, (big, 1 << 30)), m.Consumed(big), *cancels]))
        maps: list[Any] = [{"id": [1]}, {"id": big}, {"kind": "socket", "limit": big, "offset": -5}, {}]
        bodies = [b"\xff", nested(100_000), b"\x81\x01\x02", *map(msgspec.msgpack.encode, maps)]
        verbs = ("call", "ls", "deploy", "output", "jobs", "nonsense", "a\0b")
        asks = [m.Ask(100 * i + k, verb, body) for i, verb in enumerate(verbs) for k, body in enumerate(bodies)]
        link.send(codec.encode(asks))
        got: list[Any] = []
        until(lambda: got.extend(answer(link, 0.5)) or len(got) >= len(asks) + 3, 15.0, "all are answered")
        assert sum(isinstance(message, m.Answer) for message in got) == len(asks)
        assert not [message.job for message in got if isinstance(message, m.Page) and message.known]


def test_a_client_with_a_name_that_postgres_does_not_take(box: Instance) -> None:
    """NUL in the job's name: the job runs, the name is stored without it."""
    with dealer(box) as link:
        welcome(link, hello())
        link.send(codec.encode([submit(name="a\0b\ud7ff")]))
        got: list[Any] = []
        until(lambda: got.extend(answer(link, 0.5)) or any(isinstance(x, m.Resolved) for x in got), 10.0, "its result")


def test_an_agent_that_lies(box: Instance) -> None:
    """A second agent with absurd grants, outcomes and numbers: it settles nothing, and is forgotten."""
    future = box.executor().submit("trouble.wait", 1.0, "mine")
    big = (1 << 63) - 1
    until(lambda: any(x["outstanding"] for x in box.nodes()), 5.0, "it runs")
    grants = [(1 << 39) * epoch + i for epoch in range(1, 4) for i in range(1, 60)]
    with dealer(box, "agent") as link:
        link.send(codec.encode([hello("agent", name="liar", held=[m.Held(1, 1, 0, 5, 1, b"\1")])]))
        assert isinstance(answer(link)[0], m.Denied)
        welcome(link, hello("agent", name="liar\0", held=[m.Held(g, 1, 0, 3, 1, b"\1\1\1") for g in grants]))
        error = offsets_of([b"x"])
        most = (1 << 31) - 1
        outcomes = [
            m.Outcome(g, 1, lo, count, 1, 0, b"\0", bytes(8), bytes(4), error, b"x")
            for g in [*grants, big]
            for lo, count in ((0, 1), (0, 5), (most, most))
        ]
        beat = m.Beat(1, [(g, 0) for g in grants], math.nan, big, 5)
        link.send(codec.encode([m.Finished(outcomes), beat, m.Capacity(0, 0)]))
        assert future.result(10) == "mine"
        link.send(codec.encode([m.Goodbye("anything")]))
        until(lambda: len(box.nodes()) == 1, 8.0, "it is forgotten")


# --- the agent's port and the rank's ----------------------------------------------------------------------


@contextmanager
def local(box: Instance) -> Iterator[socket.socket]:
    """A connection to the agent's unix socket, as a rank has it."""
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(5.0)
        link.connect(str(node.meeting_point(box.settings)))
        yield link


def framed(frame: bytes) -> bytes:
    return struct.pack("<I", len(frame)) + frame


def is_closed(link: socket.socket) -> bool:
    """The agent closes it, and says nothing before that."""
    try:
        return link.recv(1) == b""
    except ConnectionResetError:
        return True


def test_garbage_at_the_agent(box: Instance) -> None:
    """The same rubbish at the agent's unix socket: each line is closed and named with the process at its other end."""
    logged = Logged(box, "agent")
    for name, frame in GARBAGE.items():
        with local(box) as link:
            with suppress(BrokenPipeError):  # it is closed while a long one is still being sent
                link.sendall(framed(frame))
            assert is_closed(link), name
    logged.says(f"dropped peer={os.getpid()}.", "role=rank", "why=malformed message", "why=a frame of 2")
    point = node.meeting_point(box.settings)
    assert (point.parent.stat().st_mode | point.stat().st_mode) & 0o077 == 0


def test_half_a_message_at_the_agent(box: Instance) -> None:
    """A line that is closed in the middle of a message: named, as soon as there is room for it in the log."""
    logged = Logged(box, "agent")

    def torn() -> bool:
        with local(box) as link:
            link.sendall(b"\x09\0\0\0half")
        return "why=closed in the middle of a frame" in logged.text

    until(torn, 8.0, "it is named")


def test_a_rank_that_was_never_started(box: Instance) -> None:
    """It reports what nobody asked for, then a message that is too large: it is not heard, then its line is closed."""
    logged = Logged(box, "agent")
    outcome = m.Outcome(1, 1, 0, 5, 1, 0, b"\0", b"", b"\1", b"", b"")
    with local(box) as link:
        link.sendall(framed(codec.encode([m.Done(1, outcome), m.RankBeat(3)])))
        link.sendall(struct.pack("<I", Limits().message_bytes_max + 1))
        assert is_closed(link)
    logged.says(f"why=a frame of {Limits().message_bytes_max + 1} bytes")


# --- floods; last, because they use up what the log names ----------------------------------------------------


def test_port_scan(box: Instance) -> None:
    """Two hundred connections that are closed at once, some with a reset."""
    logged = Logged(box)
    for i in range(200):
        link = socket.create_connection(address(box), 5)
        if i % 2:
            link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        link.close()
    logged.says("handshake failed")


def test_half_open_connections(box: Instance) -> None:
    """800 connections that say nothing: the instance serves meanwhile, and they are closed by the broker."""
    broker = psutil.Process(box.pid("broker"))
    before, began = broker.num_fds(), time.monotonic()
    links = [socket.create_connection(address(box), 5) for _ in range(800)]
    try:
        with dealer(box) as link:
            welcome(link, hello())
        assert list(box.executor().map("trouble.same", range(10), timeout=10)) == list(range(10))
        until(lambda: broker.num_fds() < before + 50, 12.0, "idle connections are closed")
        assert time.monotonic() - began < 12
    finally:
        for one in links:
            one.close()


def test_silent_lines_at_the_agent(box: Instance) -> None:
    """Three hundred lines that say nothing, or half a message: a bounded number of them is kept, and all goes on."""
    agent = psutil.Process(box.pid("agent"))
    before, logged = agent.num_fds(), Logged(box, "agent")
    with ExitStack() as stack:
        links = [stack.enter_context(local(box)) for _ in range(300)]
        for link in links[::2]:
            with suppress(BrokenPipeError):
                link.sendall(b"\xff")
        assert list(box.executor().map("trouble.same", range(10), timeout=10)) == list(range(10))
        until(lambda: agent.num_fds() < before + 150, 8.0, "the oldest are closed")
        logged.says("it said nothing")
    until(lambda: agent.num_fds() <= before, 8.0, "all are closed")
