"""The broker's port: a ZeroMQ ROUTER over TCP with CURVE and ZAP.

ZeroMQ promises nothing end to end: MANDATORY and NOBLOCK tell us what it drops, and everything that matters is
acknowledged by the application. The principal of a message is the User-Id that our own ZAP handler gave to
the connection's key; a CURVE server without such a handler would let any key in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

import msgspec
import zmq
from zmq.utils import z85
from zmq.utils.monitor import recv_monitor_message

from pyfi_hpc.adapters.tally import Tally
from pyfi_hpc.adapters.zeromq import COPIED_BYTES_MAX, NOBLOCK, adopt, descriptor, harden, readable
from pyfi_hpc.errors import RemoteProtocolError
from pyfi_hpc.model import messages as m
from pyfi_hpc.model.events import Received
from pyfi_hpc.model.ids import Peer
from pyfi_hpc.model.messages import Message
from pyfi_hpc.wire import codec

#: frames taken in one round, so that one busy peer does not starve the rest
_ROUND_MAX = 512
#: bytes taken in one round; the rest waits in ZeroMQ
_ROUND_BYTES = 64 << 20

_NOBLOCK_MORE = int(zmq.NOBLOCK | zmq.SNDMORE)

#: what each role may send to the broker; all else is dropped and counted
_MAY_SEND: Mapping[str, frozenset[type]] = {
    "client": frozenset(get_args(m.FromClient)),
    "agent": frozenset(get_args(m.FromAgent)),
}


class RouterPort:
    """A ROUTER as a Port and a Sender.

    Parameters
    ----------
    socket : zmq.Socket
        Bound.
    decoder : msgspec.msgpack.Decoder
        Of what may come in.
    """

    def __init__(self, socket: zmq.Socket[bytes], decoder: msgspec.msgpack.Decoder[Any]) -> None:
        self.waitable = descriptor(socket)
        self._socket = socket
        self._decoder = decoder
        #: the socket was used since it was seen to be empty
        self._stirred = True
        #: messages that were dropped because they were malformed or not allowed
        self.dropped = Tally()

    def holds(self) -> bool:
        self._stirred = self._stirred and readable(self._socket)
        return self._stirred

    def receive(self) -> list[Any]:
        events: list[Any] = []
        taken = 0
        self._stirred = True
        for _ in range(_ROUND_MAX):
            if not readable(self._socket):
                self._stirred = False
                break
            frames = [self._socket.recv(NOBLOCK, copy=False)]
            while frames[-1].more:
                frames.append(self._socket.recv(NOBLOCK, copy=False))
            self._take(frames, events)
            taken += len(frames[-1])
            if taken > _ROUND_BYTES:
                break
        return events

    def _take(self, frames: list[zmq.Frame], events: list[Any]) -> None:
        peer = Peer(frames[0].bytes)
        role, _, user = str(frames[0].get("User-Id")).partition(":")
        if len(frames) != 2:
            self._drop(peer, role, f"{len(frames) - 1} frames instead of one")
            return
        try:
            batch = codec.decode(frames[1].buffer, self._decoder)
        except RemoteProtocolError as error:
            self._drop(peer, role, error.what)
            return
        allowed = _MAY_SEND.get(role)
        for message in batch:
            if allowed is not None and type(message) not in allowed:
                self._drop(peer, role, f"{type(message).__name__} is not for this role")
            else:
                events.append(Received(peer, role, user, message))

    def _drop(self, peer: Peer, role: str, why: str) -> None:
        self.dropped.note("! dropped peer=%s role=%s why=%s dropped=%d", peer.hex(), role, why[:200])

    def send(self, peer: Peer, messages: Sequence[Message]) -> bool:
        self._stirred = True
        try:
            for frame in codec.frames(messages):
                self._socket.send(peer, _NOBLOCK_MORE)
                self._socket.send(frame, NOBLOCK, copy=len(frame) < COPIED_BYTES_MAX)
        except zmq.ZMQError as error:
            if error.errno in (zmq.EHOSTUNREACH, zmq.EAGAIN):
                return False
            raise
        return True

    def close(self) -> None:
        self._socket.close(linger=500)


def bind_tcp(
    context: zmq.Context[Any], host: str, port: int, secret: str, public: str, message_bytes_max: int
) -> tuple[zmq.Socket[bytes], int]:
    """A CURVE ROUTER on ``host:port`` (0: any free port).

    Raises
    ------
    zmq.ZMQError
        The port is in use, or the address is not one of this machine.
    """
    socket = context.socket(zmq.ROUTER)
    harden(socket, message_bytes_max)
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    socket.setsockopt(zmq.CURVE_SERVER, 1)
    socket.setsockopt_string(zmq.ZAP_DOMAIN, "pyfi")
    socket.curve_secretkey = secret.encode()
    socket.curve_publickey = public.encode()
    try:
        socket.bind(f"tcp://{host}:{port or '*'}")
    except zmq.ZMQError:
        socket.close(linger=0)
        raise
    endpoint = socket.getsockopt_string(zmq.LAST_ENDPOINT)
    return socket, int(endpoint.rpartition(":")[2])


class Gatekeeper:
    """The ZAP handler: maps the key of a new connection to ``role:user``; unknown keys are refused.

    A Port without events. libzmq asks it once for each connection.
    """

    def __init__(self, context: zmq.Context[Any], keys: Mapping[str, str]) -> None:
        self._socket = context.socket(zmq.REP)
        self._socket.bind("inproc://zeromq.zap.01")
        self.waitable = descriptor(self._socket)
        #: public key (Z85 text) -> "role:user"
        self.keys = dict(keys)
        self.refused = Tally()

    def receive(self) -> list[Any]:
        while True:
            try:
                request = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return []
            self._answer(request)

    def _answer(self, request: list[bytes]) -> None:
        version, request_id, _domain, address, _identity, mechanism = request[:6]
        user = b""
        if mechanism == b"CURVE" and len(request) == 7:
            user = self.keys.get(z85.encode(request[6]).decode(), "").encode()
        if user:
            reply = [version, request_id, b"200", b"OK", user, b""]
        else:
            self.refused.note("! refused address=%s why=unknown key refused=%d", address.decode())
            reply = [version, request_id, b"400", b"unknown key", b"", b""]
        self._socket.send_multipart(reply)

    def close(self) -> None:
        self._socket.close(linger=0)


class Sentry:
    """Watches a socket for connections that end before their handshake. A Port without events.

    Port scans, other protocols, ZMTP without CURVE, a wrong server key: libzmq closes them after at most
    HANDSHAKE_IVL; here they are counted and named. libzmq does not tell whose handshake succeeded: it is taken to be
    that of the youngest connection, so under a flood a line of the log may name the wrong address.
    """

    def __init__(self, socket: zmq.Socket[Any]) -> None:
        self._watched = socket
        self._monitor = socket.get_monitor_socket(
            zmq.EVENT_ACCEPTED
            | zmq.EVENT_DISCONNECTED
            | zmq.EVENT_HANDSHAKE_SUCCEEDED
            | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
            | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
            | zmq.EVENT_HANDSHAKE_FAILED_AUTH
        )
        self.waitable = descriptor(self._monitor)
        self.failed = Tally()
        #: there was too much for one round; a socket that was never read from does not tell what comes
        self._more = True
        #: connections without a handshake: descriptor -> address of the other end, youngest last
        self._young: dict[int, str] = {}
        #: the handshake that failed last: the disconnection that follows tells whose it was
        self._failure = 0

    def holds(self) -> bool:
        return self._more

    def receive(self) -> list[Any]:
        self._more = True
        for _ in range(_ROUND_MAX):
            try:
                event = recv_monitor_message(self._monitor, zmq.NOBLOCK)
            except zmq.Again:
                self._more = False
                break
            self._note(int(event["event"]), int(event["value"]))
        return []

    def _note(self, kind: int, value: int) -> None:
        if kind == zmq.EVENT_ACCEPTED:
            self._young[value] = adopt(value)
        elif kind == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            if self._young:
                self._young.popitem()
        elif kind != zmq.EVENT_DISCONNECTED:
            self._failure = kind
        else:
            peer = self._young.pop(value, "")
            if peer or self._failure:
                why = _HANDSHAKES.get(self._failure, "no ZMTP")
                self.failed.note("! handshake failed address=%s why=%s failed=%d", peer, why)
            self._failure = 0

    def close(self) -> None:
        self._watched.disable_monitor()


_HANDSHAKES: dict[int, str] = {
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL: "closed in the middle",
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL: "no CURVE, or a wrong server key",
    zmq.EVENT_HANDSHAKE_FAILED_AUTH: "unknown key",
}
