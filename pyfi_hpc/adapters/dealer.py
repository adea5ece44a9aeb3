"""A ZeroMQ DEALER to one peer: an agent's line to its broker."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

import msgspec
import zmq
from zmq.utils.monitor import recv_monitor_message

from pyfi_hpc.adapters.zeromq import COPIED_BYTES_MAX, NOBLOCK, adopt, descriptor, harden, readable
from pyfi_hpc.errors import RemoteProtocolError
from pyfi_hpc.model.events import Received
from pyfi_hpc.model.ids import Peer
from pyfi_hpc.model.messages import Message
from pyfi_hpc.wire import codec

log = logging.getLogger("pyfi_hpc.port")

#: the peer's name in events and effects: a DEALER has only one
BROKER = Peer(b"broker")


class DealerPort:
    """A DEALER as a Port and a Sender.

    With IMMEDIATE a message is not queued for a connection that does not exist yet: ``send`` returns
    False and the machine offers it again later.
    """

    def __init__(
        self,
        context: zmq.Context[Any],
        endpoint: str,
        peer: Peer,
        decoder: msgspec.msgpack.Decoder[Any],
        message_bytes_max: int,
        keys: tuple[str, str, str],
        steady: bool = False,
    ) -> None:
        """``keys``: the server's public key, own public and own secret key. ``steady``: see ``router.adopt``."""
        self._peer = peer
        self._role = peer.decode()
        self._decoder = decoder
        self._socket = context.socket(zmq.DEALER)
        harden(self._socket, message_bytes_max)
        self._socket.setsockopt(zmq.IMMEDIATE, 1)
        self._socket.curve_serverkey = keys[0].encode()
        self._socket.curve_publickey = keys[1].encode()
        self._socket.curve_secretkey = keys[2].encode()
        #: tells of new connections
        self._monitor = self._socket.get_monitor_socket(zmq.EVENT_CONNECTED) if steady else None
        self.endpoint = endpoint
        self._socket.connect(endpoint)
        self.waitable = descriptor(self._socket)
        #: the socket was used since it was seen to be empty
        self._stirred = True
        #: messages that were dropped because they were malformed
        self.dropped = 0
        #: when something was sent first after the peer was heard last, monotonic seconds; None: it has answered
        self.waits_since: float | None = None

    def move(self, endpoint: str) -> None:
        """The peer has a new address."""
        if endpoint != self.endpoint:
            self._stirred = True
            self._socket.disconnect(self.endpoint)
            self._socket.connect(endpoint)
            self.endpoint = endpoint
            self.waits_since = None

    def holds(self) -> bool:
        self._stirred = self._stirred and readable(self._socket)
        return self._stirred

    def receive(self) -> list[Any]:
        events: list[Any] = []
        self._stirred = True
        while self._monitor is not None and readable(self._monitor):
            adopt(int(recv_monitor_message(self._monitor, NOBLOCK)["value"]))
        for _ in range(512):
            if not readable(self._socket):
                self._stirred = False
                break
            frame = self._socket.recv(NOBLOCK, copy=False)
            self.waits_since = None
            try:
                batch = codec.decode(frame.buffer, self._decoder)
            except RemoteProtocolError as error:
                self.dropped += 1
                log.warning("! dropped peer=%s dropped=%d why=%s", self._role, self.dropped, error.what[:200])
                continue
            events += [Received(self._peer, self._role, "", message) for message in batch]
        return events

    def send(self, peer: Peer, messages: Sequence[Message]) -> bool:
        self._stirred = True
        try:
            for frame in codec.frames(messages):
                self._socket.send(frame, NOBLOCK, copy=len(frame) < COPIED_BYTES_MAX)
        except zmq.Again:
            return False
        if self.waits_since is None:
            self.waits_since = time.monotonic()
        return True

    def close(self, linger_ms: int = 500) -> None:
        if self._monitor is not None:
            self._socket.disable_monitor()
        self._socket.close(linger=linger_ms)
