"""Signals as events: a handler only writes a byte, the loop does the rest."""

from __future__ import annotations

import signal
import socket
from typing import Any

from pyfi_hpc.model.events import Signalled


class SignalPort:
    """USR1 means drain, TERM and INT mean stop. To be made in the main thread."""

    def __init__(self) -> None:
        self._ours, theirs = socket.socketpair()
        self._ours.setblocking(False)
        theirs.setblocking(False)
        self._theirs = theirs
        signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        for number in _MEANING:
            signal.signal(number, _ignore)
        self.waitable = self._ours.fileno()

    def receive(self) -> list[Any]:
        try:
            numbers = self._ours.recv(256)
        except BlockingIOError:
            return []
        return [Signalled(_MEANING[n]) for n in numbers if n in _MEANING]


_MEANING: dict[int, str] = {signal.SIGUSR1: "drain", signal.SIGTERM: "stop", signal.SIGINT: "stop"}


def _ignore(number: int, frame: object) -> None:
    """The byte in the wakeup descriptor is what counts."""
