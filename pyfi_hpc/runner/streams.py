"""Standard output and error of a runner: memory files that it shares with its rank."""

from __future__ import annotations

import ctypes
import io
import os
import sys
from os import lseek

from .pipes import copy_out_of_reach

_END = os.SEEK_END
_IOLBF = 1


def settle_streams() -> None:
    """Lines reach the file when they are complete, also those of C code, whatever the locale says."""
    for fd, name in ((1, "stdout"), (2, "stderr")):
        stream = io.TextIOWrapper(
            open(fd, "wb", closefd=False), encoding="utf-8", errors="backslashreplace", line_buffering=True
        )
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    libc = ctypes.CDLL(None)
    try:
        libc.setvbuf(ctypes.c_void_p.in_dll(libc, "stdout"), None, _IOLBF, ctypes.c_size_t(0))
    except ValueError:
        pass  # another libc keeps its stream under another name: C output then comes later


def flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BaseException:  # the function closed it or put something of its own there
            pass


class Output:
    """The memory file behind standard output or error, through a descriptor of our own: functions may move theirs."""

    def __init__(self, fd: int, limit: int) -> None:
        self.fd, self._limit = copy_out_of_reach(fd), limit

    def take(self) -> bytes | None:
        """What a task wrote, and an empty file for the next one; None: nothing."""
        size = lseek(self.fd, 0, _END)
        if not size:
            return None
        data = self._read(size)
        os.ftruncate(self.fd, 0)
        return data

    def _read(self, size: int) -> bytes:
        if size <= self._limit:
            return os.pread(self.fd, size, 0)
        half = self._limit // 2
        note = f"\n[... {size - 2 * half} bytes left out ...]\n".encode()
        return os.pread(self.fd, half, 0) + note + os.pread(self.fd, half, size - half)
