"""What all sockets of ZeroMQ share. Light to import: every command that asks the broker does."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from typing import Any

import zmq

#: Linux's TCP_THIN_LINEAR_TIMEOUTS, and TCP_RTO_MAX_MS where the kernel has it. What was lost is first sent again every
#: 0.2 s, not ever later, and then at least every second: after a link was down for two seconds the next beat comes in
#: time. The first holds only while little is under way, so a crowded link gets no more than before.
_STEADY = ((16, 1), (44, 1000))
#: flags as plain numbers: to combine pyzmq's enums costs more than to send
NOBLOCK = int(zmq.NOBLOCK)
#: a frame that is smaller is copied: to be told when ZeroMQ is done with it costs more
COPIED_BYTES_MAX = 64 << 10
_EVENTS, _POLLIN, _FD = int(zmq.EVENTS), int(zmq.POLLIN), int(zmq.FD)


def harden(socket: zmq.Socket[Any], message_bytes_max: int) -> None:
    """Limits and beats that every socket has (RELIABILITY 2.2): no high-water mark, credits count instead."""
    socket.setsockopt(zmq.SNDHWM, 0)
    socket.setsockopt(zmq.RCVHWM, 0)
    socket.setsockopt(zmq.MAXMSGSIZE, message_bytes_max)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.HANDSHAKE_IVL, 5000)
    socket.setsockopt(zmq.HEARTBEAT_IVL, 1000)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 5000)
    socket.setsockopt(zmq.RECONNECT_IVL, 50)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, 250)


def readable(socket: zmq.Socket[Any]) -> bool:
    """Whether there is a message; asked before each ``recv``, because its exception costs more."""
    return bool(int(socket.getsockopt(_EVENTS)) & _POLLIN)


def descriptor(socket: zmq.Socket[Any]) -> int:
    """What an epoll can wait for. ZeroMQ makes it readable once for what has come, and any use of the socket may take
    note of that: after it, and before a wait, it has to be asked whether it is ``readable``."""
    return int(socket.getsockopt(_FD))


def adopt(connection: int) -> str:
    """Make libzmq's new connection patient with a link that is down; who is at its other end.

    It may be closed already.
    """
    try:
        copy = socket.socket(fileno=os.dup(connection))
    except OSError:
        return "unknown"
    with copy:
        for option, value in _STEADY:
            with suppress(OSError):  # not TCP, or an older kernel
                copy.setsockopt(socket.IPPROTO_TCP, option, value)
        try:
            name = copy.getpeername()
        except OSError:
            return "unknown"
    return f"{name[0]}:{name[1]}" if isinstance(name, tuple) else str(name)
