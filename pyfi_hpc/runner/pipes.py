"""The pipes between a runner and its rank: frames of a little-endian length of 4 bytes and a msgpack list."""

from __future__ import annotations

import fcntl
import os
import resource
import select
import struct
from typing import Any, NoReturn

import msgspec

_U32 = struct.Struct("<I")
#: for one read; malloc asks the kernel for anything larger, and gives it back, each time
_READ_BYTES = 64 << 10
#: what a runner says of a descriptor that is not there any more
CLOSED = "the runner cannot go on: {}; did the function close file descriptors?"
_decode = msgspec.msgpack.Decoder().decode
_encode_into = msgspec.msgpack.Encoder().encode_into


class Inbox:
    """Frames from the rank."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)
        self._buffer = bytearray()

    def waits(self, seconds: float) -> bool:
        """Whether there is something to read, now or within so long."""
        return bool(self._poll.poll(1000 * seconds))

    def frames(self, block: bool) -> list[Any]:
        """The frames that are there, with ``block`` at least one; the last is None when the rank is gone."""
        found: list[Any] = []
        while self._poll.poll(None if block and not found else 0):
            try:
                data = os.read(self._fd, _READ_BYTES)
            except OSError as error:
                end(CLOSED.format(error))
            if not data:
                return [*found, None]
            self._buffer += data
            _cut(self._buffer, found)
        return found


def _cut(buffer: bytearray, found: list[Any]) -> None:
    at = 0
    with memoryview(buffer) as view:
        while len(view) - at >= 4:
            end = at + 4 + _U32.unpack_from(view, at)[0]
            if len(view) < end:
                break
            found.append(_decode(view[at + 4 : end]))
            at = end
    del buffer[:at]


class Outbox:
    """Frames to the rank, each with one write."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._buffer = bytearray(4096)

    def put(self, frame: list[Any]) -> None:
        buffer = self._buffer
        _encode_into(frame, buffer, 4)
        _U32.pack_into(buffer, 0, len(buffer) - 4)
        try:
            written = os.write(self._fd, buffer)
            while written < len(buffer):
                written += os.write(self._fd, memoryview(buffer)[written:])
        except OSError as error:
            end(CLOSED.format(error))
        if len(buffer) > 1 << 16:
            self._buffer = bytearray(4096)


def end(reason: str) -> NoReturn:
    try:
        os.write(2, reason.encode() + b"\n")
    finally:
        os._exit(70)


def out_of_reach(fd: int) -> int:
    moved = copy_out_of_reach(fd)
    os.close(fd)
    return moved


def copy_out_of_reach(fd: int) -> int:
    """A descriptor of a high number, not inherited by programs: code that guesses numbers does not hit it."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    high = min(4096, soft if soft > 0 else 1024) - 16
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, max(high, 3))
