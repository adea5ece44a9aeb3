"""The line between an agent and its ranks: a Unix stream socket, each frame behind its length.

Not ZeroMQ: a message that passes its threads on both sides takes about a tenth of a millisecond, one that the loop
writes itself a tenth of that, and a rank needs neither the library nor its threads. Who may connect is said by the
folder, the socket's mode and the kernel, which names the process and user at the other end. Beats are the machines'.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from pyfi_hpc.adapters.tally import Tally
from pyfi_hpc.errors import RemoteProtocolError
from pyfi_hpc.model.events import Received, Unreachable
from pyfi_hpc.model.ids import Peer
from pyfi_hpc.model.messages import Message
from pyfi_hpc.wire import codec

#: a rank's name for its only peer
AGENT = Peer(b"agent")

#: for one read; malloc asks the kernel for anything larger, and gives it back, each time
_READ_BYTES = 64 << 10
#: bytes taken from one line in one round, so that one busy peer does not starve the rest; a longer frame takes rounds
_TURN_BYTES = 1 << 20
#: lines looked at in one round; the others come next
_LINES_MAX = 64
#: lines that have not sent a message yet; beyond it the oldest of them is closed
_SILENT_MAX = 128
#: the first message of a line is short: who sends only half of it holds no more memory
_FIRST_BYTES_MAX = 64 << 10
#: what waits for a peer that does not read, in largest messages; beyond it the line is closed. Credits keep it at two
_UNREAD_MESSAGES_MAX = 3
#: what still waits to be written when a line is closed gets so long, seconds
_LINGER_S = 0.5
_BACKLOG = 1024
#: the process or the system has no descriptor or memory left
_FULL = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_LENGTH = struct.Struct("<I")
_CREDENTIALS = struct.Struct("iII")


class Line:
    """One connection: messages in, frames out, both without blocking.

    Parameters
    ----------
    connection : socket.socket
    epoll : select.epoll
        Where it is registered, for writing only while something waits.
    decoder : msgspec.msgpack.Decoder
        Of what may come in.
    frame_bytes_max, first_bytes_max : int
        Limits of a frame that comes in, and of those up to the first message.
    """

    def __init__(
        self, connection: socket.socket, epoll: select.epoll, decoder: msgspec.msgpack.Decoder[Any],
        frame_bytes_max: int, first_bytes_max: int,
    ) -> None:  # fmt: skip
        connection.setblocking(False)
        self.fd = connection.fileno()
        #: why nothing more comes; empty: the other end closed it between two frames
        self.ended: str | None = None
        #: bytes that were not written yet
        self.unread = 0
        self._socket = connection
        self._epoll = epoll
        self._decoder = decoder
        self._frame_bytes_max = frame_bytes_max
        self._limit = first_bytes_max
        self._inbox = bytearray()
        #: length of the inbox at which its first frame is complete
        self._goal = _LENGTH.size
        self._outbox: deque[memoryview] = deque()
        epoll.register(self.fd, select.EPOLLIN)

    def read(self) -> list[Any]:
        """The messages that are there, about ``_TURN_BYTES`` of them; ``ended`` tells whether more may come."""
        messages: list[Any] = []
        taken = 0
        while self.ended is None and taken < _TURN_BYTES:
            size = min(max(_READ_BYTES, self._goal - len(self._inbox)), _TURN_BYTES)
            try:
                data = self._socket.recv(size)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            if not data:
                self.ended = "closed in the middle of a frame" if self._inbox else ""
                break
            taken += len(data)
            self._cut(data, messages)
            if len(data) < size:
                break  # there was no more: spare the read that says so
        return messages

    def _cut(self, data: bytes | bytearray, messages: list[Any]) -> None:
        if self._inbox:
            self._inbox += data
            if len(self._inbox) < self._goal:
                return
            data, self._inbox = self._inbox, bytearray()
        at, left = 0, len(data)
        view = memoryview(data)
        self._goal = _LENGTH.size
        while left >= _LENGTH.size:
            (size,) = _LENGTH.unpack_from(data, at)
            if size > self._limit:
                self.ended = f"a frame of {size} bytes"
                return
            if left < _LENGTH.size + size:
                self._goal = _LENGTH.size + size
                break
            at += _LENGTH.size
            try:
                messages += codec.decode(view[at : at + size], self._decoder)
            except RemoteProtocolError as error:
                self.ended = error.what
                return
            if messages:
                self._limit = self._frame_bytes_max
            at += size
            left = len(data) - at
        if left:
            self._inbox += view[at:]

    def write(self, frame: bytes) -> bool:
        """Write what the socket takes now, keep the rest; False: there is nobody to read it."""
        data = memoryview(_LENGTH.pack(len(frame)) + frame)
        if not self._outbox:
            sent = self._send(data)
            if sent is None or sent == len(data):
                return sent is not None
            self._epoll.modify(self.fd, select.EPOLLIN | select.EPOLLOUT)
            data = data[sent:]
        self._outbox.append(data)
        self.unread += len(data)
        return True

    def flush(self) -> None:
        """Go on writing what waits."""
        while self._outbox:
            head = self._outbox[0]
            sent = self._send(head)
            if sent is None:
                sent = len(head)  # nobody reads it: that it has ended is about to be read
            self.unread -= sent
            if sent < len(head):
                self._outbox[0] = head[sent:]
                return
            self._outbox.popleft()
            if not self._outbox:
                self._epoll.modify(self.fd, select.EPOLLIN)

    def _send(self, data: memoryview) -> int | None:
        """How many bytes the socket took; None: there is nobody to read them."""
        try:
            return self._socket.send(data, socket.MSG_NOSIGNAL)
        except OSError as error:
            return 0 if error.errno == errno.EAGAIN or error.errno in _FULL else None

    def close(self) -> None:
        self._epoll.unregister(self.fd)
        self._socket.close()


class RanksPort:
    """The agent's end: a Port and Sender for all ranks of this node.

    Parameters
    ----------
    point : Path
        Where to listen; what lies there is replaced.
    decoder : msgspec.msgpack.Decoder
    message_bytes_max : int
    owner : int, optional
        The user whose processes may connect; default: ours.

    Notes
    -----
    A line is closed, counted and named in the log when it says what is no message, or does not read. That it has ended
    is told by the next ``send``, which returns False: the agent watches the process, and hears from there how it died.
    """

    def __init__(
        self, point: Path, decoder: msgspec.msgpack.Decoder[Any], message_bytes_max: int, owner: int | None = None
    ) -> None:  # fmt: skip
        self._decoder = decoder
        self._message_bytes_max = message_bytes_max
        self._owner = os.getuid() if owner is None else owner
        point.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.setblocking(False)
        self._listener.bind(str(point))
        point.chmod(0o600)
        self._listener.listen(_BACKLOG)
        self._epoll = select.epoll()
        self._epoll.register(self._listener.fileno(), select.EPOLLIN)
        self.waitable = self._epoll.fileno()
        self._peers: dict[int, Peer] = {}
        self._lines: dict[Peer, Line] = {}
        #: those that have said nothing yet, oldest first
        self._silent: dict[Peer, Line] = {}
        #: given up for a moment to turn somebody away when there is no other descriptor left
        self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._count = 0
        #: lines that were closed or refused because of what they are, said, or did not read
        self.dropped = Tally()

    def receive(self) -> list[Any]:
        events: list[Any] = []
        for fd, what in self._epoll.poll(0, _LINES_MAX):
            peer = self._peers.get(fd)
            if peer is not None:
                if what & select.EPOLLOUT:
                    self._lines[peer].flush()
                if what != select.EPOLLOUT:
                    self._read(peer, self._lines[peer], events)
            elif fd == self._listener.fileno():
                self._accept(events)
        return events

    def send(self, peer: Peer, messages: Sequence[Message]) -> bool:
        line = self._lines.get(peer)
        if line is None:
            return False
        for frame in codec.frames(messages):
            if not line.write(frame):
                return True  # lost on the way; what it said before its end is still to be read
        if line.unread > _UNREAD_MESSAGES_MAX * self._message_bytes_max:
            self._drop(peer, line, f"{line.unread} bytes that it does not read")
            return False
        return True

    def close(self) -> None:
        """Give what was sent half a second to leave."""
        _linger(list(self._lines.values()))
        for peer, line in list(self._lines.items()):
            self._close(peer, line)
        self._listener.close()
        self._epoll.close()
        os.close(self._spare)

    def _accept(self, events: list[Any]) -> None:
        for _ in range(_LINES_MAX):
            try:
                connection = self._listener.accept()[0]
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno not in _FULL:
                    continue  # it has gone again
                self._turn_away(error)
                return
            pid, uid, _ = _CREDENTIALS.unpack(
                connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            )
            if uid != self._owner:
                connection.close()
                self.dropped.note("! refused pid=%d uid=%d role=rank why=another user dropped=%d", pid, uid)
                continue
            self._count += 1
            peer = Peer(b"%d.%d" % (pid, self._count))
            line = Line(connection, self._epoll, self._decoder, self._message_bytes_max, _FIRST_BYTES_MAX)
            self._peers[line.fd], self._lines[peer], self._silent[peer] = peer, line, line
            self._read(peer, line, events)  # a rank speaks first: it is not taken for a silent one
            if len(self._silent) > _SILENT_MAX:
                self._drop(*next(iter(self._silent.items())), "it said nothing, and many others came")

    def _turn_away(self, error: OSError) -> None:
        """Close the connection that waits: it would wake the loop for as long as it waits."""
        os.close(self._spare)
        with suppress(OSError):
            self._listener.accept()[0].close()
        self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self.dropped.note("! refused role=rank why=%s dropped=%d", error.strerror)

    def _read(self, peer: Peer, line: Line, events: list[Any]) -> None:
        messages = line.read()
        if messages:
            events += [Received(peer, "rank", "", message) for message in messages]
            self._silent.pop(peer, None)
        if line.ended:
            self._drop(peer, line, line.ended)
        elif line.ended is not None:
            self._close(peer, line)

    def _drop(self, peer: Peer, line: Line, why: str) -> None:
        self.dropped.note("! dropped peer=%s role=rank why=%s dropped=%d", peer.decode(), why[:200])
        self._close(peer, line)

    def _close(self, peer: Peer, line: Line) -> None:
        self._silent.pop(peer, None)
        del self._peers[line.fd], self._lines[peer]
        line.close()


class AgentPort:
    """A rank's end: a Port and a Sender for its agent.

    It connects when something is first sent, and again until the agent has answered; after that a line that ends stays
    closed, because a rank belongs to one agent. What waits to be written is bounded by the work that the agent gave.
    """

    def __init__(self, point: Path, decoder: msgspec.msgpack.Decoder[Any], message_bytes_max: int) -> None:
        self._point = str(point)
        self._decoder = decoder
        self._message_bytes_max = message_bytes_max
        self._epoll = select.epoll()
        self.waitable = self._epoll.fileno()
        self._line: Line | None = None
        self._heard = False
        self.dropped = Tally()

    def receive(self) -> list[Any]:
        line = self._line
        if line is None:
            return []
        line.flush()
        messages = line.read()
        events: list[Any] = [Received(AGENT, "agent", "", message) for message in messages]
        self._heard = self._heard or bool(messages)
        if line.ended is not None:
            if line.ended:
                self.dropped.note("! dropped peer=agent why=%s dropped=%d", line.ended[:200])
            self._line = None
            line.close()
            events.append(Unreachable(AGENT))
        return events

    def send(self, peer: Peer, messages: Sequence[Message]) -> bool:
        line = self._line
        if line is None and not self._heard:
            line = self._line = self._connect()
        return line is not None and all(line.write(frame) for frame in codec.frames(messages))

    def close(self) -> None:
        """Give what was sent half a second to leave."""
        if self._line is not None:
            _linger([self._line])
            self._line.close()
            self._line = None
        self._epoll.close()

    def _connect(self) -> Line | None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.setblocking(False)
        try:
            connection.connect(self._point)
        except OSError:  # the agent does not listen yet, or too many others are waiting
            connection.close()
            return None
        return Line(connection, self._epoll, self._decoder, self._message_bytes_max, self._message_bytes_max)


def _linger(lines: Sequence[Line]) -> None:
    until = time.monotonic() + _LINGER_S
    while (writing := [line for line in lines if line.unread]) and (left_s := until - time.monotonic()) > 0:
        poller = select.poll()
        for line in writing:
            poller.register(line.fd, select.POLLOUT)
        poller.poll(1000 * left_s)
        for line in writing:
            line.flush()
