"""The link: one DEALER socket to the broker, and how its thread waits on it and on callers."""

from __future__ import annotations

import select
import socket
from contextlib import suppress
from typing import Any

import zmq

from pyfi_hpc.adapters.access import Access
from pyfi_hpc.adapters.zeromq import COPIED_BYTES_MAX, NOBLOCK, descriptor, readable
from pyfi_hpc.errors import Refused, SettingsError
from pyfi_hpc.model import messages as m
from pyfi_hpc.model.limits import Limits
from pyfi_hpc.wire.codec import encode

#: frames taken in one round, so that sending is never starved
_FRAMES_MAX = 64
#: payload bytes in one frame; more go in further frames
_FRAME_BYTES_MAX = 8 << 20


class Link:
    """Used by one thread only."""

    def __init__(self, wakened: socket.socket) -> None:
        self._context: zmq.Context[Any] = zmq.Context()
        self._wakened = wakened
        self._dealer: zmq.Socket[bytes] | None = None
        self._descriptor = -1
        self._epoll = select.epoll()
        self._epoll.register(wakened.fileno(), select.EPOLLIN)
        #: the dealer was used since it was seen to be empty
        self._stirred = False

    def connect(self, access: Access) -> None:
        """A fresh socket: what was queued in the old one is gone, its answers never come."""
        if access.is_for_agents:
            raise Refused(
                "this node was added over ssh: it has the keys of agents only", where=access.endpoint,
                fix="submit from a machine that sees the instance's home",
            )  # fmt: skip
        if self._dealer is not None:
            self._epoll.unregister(self._descriptor)
            self._dealer.close(0)
        dealer = self._context.socket(zmq.DEALER)
        # No high-water mark: what may be in flight is bounded by what may be unacknowledged.
        dealer.sndhwm = dealer.rcvhwm = 0
        dealer.linger = 0
        dealer.reconnect_ivl, dealer.reconnect_ivl_max = 50, 250
        dealer.maxmsgsize = Limits().message_bytes_max
        dealer.ipv6 = ":" in access.host
        try:
            dealer.curve_serverkey = access.broker_public.encode()
            dealer.curve_publickey = access.client_public.encode()
            dealer.curve_secretkey = access.client_secret.encode()
        except (zmq.ZMQError, ValueError) as error:
            dealer.close(0)
            raise SettingsError(
                f"the access file has a damaged key: {error}", where=access.endpoint,
                fix="restart the instance: `pyfi down`, `pyfi up`",
            ) from None
        dealer.connect(access.endpoint)
        self._dealer = dealer
        self._descriptor = descriptor(dealer)
        self._epoll.register(self._descriptor, select.EPOLLIN)
        self._stirred = True

    def send(self, out: list[m.Message]) -> None:
        """Everything in one frame, in several where it is too much for one."""
        if not out or self._dealer is None:
            return
        self._stirred = True
        start, size = 0, 0
        for i, message in enumerate(out):
            size += len(message.payload) if isinstance(message, m.Submit) else 64
            if size > _FRAME_BYTES_MAX and i > start:
                self._send(encode(out[start:i]))
                start, size = i, 0
        self._send(encode(out[start:]))
        out.clear()

    def _send(self, frame: bytes) -> None:
        assert self._dealer is not None
        self._dealer.send(frame, NOBLOCK, copy=len(frame) < COPIED_BYTES_MAX)

    def receive(self, wait_s: float) -> list[memoryview]:
        assert self._dealer is not None
        self._stirred = self._stirred and readable(self._dealer)
        ready = {fd for fd, _ in self._epoll.poll(0.0 if self._stirred else max(0.0, wait_s), 2)}
        if self._wakened.fileno() in ready:
            with suppress(BlockingIOError):
                self._wakened.recv(4096)
        frames: list[memoryview] = []
        if not self._stirred and self._descriptor not in ready:
            return frames
        self._stirred = True
        while len(frames) < _FRAMES_MAX:
            if not readable(self._dealer):
                self._stirred = False
                break
            frames.append(self._dealer.recv(NOBLOCK, copy=False).buffer)
        return frames

    def close(self) -> None:
        """Give what was sent a second to leave."""
        if self._dealer is not None:
            self._dealer.close(1000)
        self._epoll.close()
        self._context.term()
