"""A TCP proxy between an instance's broker and who talks to it: latency, stalls, cuts, one-way silence, a slow line.

CURVE runs through it untouched, so bytes are only ever delayed, held back or cut off with their connection: as on
a network, where TCP repairs everything else.
"""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress

#: of each connection so many bytes are kept for a replay
_TAP_BYTES = 1 << 16


class Wire:
    """Forwards connections to ``host:port``; faults are set on it while it runs.

    Attributes
    ----------
    port : int
        Where it listens, on loopback.
    latency_s : float
        Added to each chunk, both ways.
    bytes_s : float
        The most that passes in a second and direction; 0: all.
    refusing : bool
        New connections are reset.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self.latency_s = 0.0
        self.bytes_s = 0.0
        self.refusing = False
        #: what near ends have said, by connection; kept by nobody else
        self.heard: list[bytearray] = []
        #: set: passes; cleared: held back without a word
        self.up, self.down = threading.Event(), threading.Event()
        self.up.set()
        self.down.set()
        self._ends: list[socket.socket] = []
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, name="wire", daemon=True).start()

    def stall(self) -> None:
        """Nothing passes either way, and nobody is told: a link that is down."""
        self.up.clear()
        self.down.clear()

    def heal(self) -> None:
        self.refusing = False
        self.up.set()
        self.down.set()

    def cut(self) -> int:
        """Reset every connection; how many there were."""
        with self._lock:
            ends, self._ends = self._ends, []
        for end in ends:
            _shut(end)
        return len(ends) // 2

    def close(self) -> None:
        self.refusing = True
        self._listener.close()
        self.heal()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if self.refusing:
                near.close()
                continue
            try:
                far = socket.create_connection(self._target, timeout=5)
            except OSError:
                near.close()
                continue
            far.settimeout(None)
            with self._lock:
                self._ends += [near, far]
                self.heard.append(bytearray())
            for source, sink, passes, tap in ((near, far, self.up, self.heard[-1]), (far, near, self.down, None)):
                with suppress(OSError):  # it was cut in this moment
                    source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self._carry, args=(source, sink, passes, tap), daemon=True).start()

    def _carry(
        self, source: socket.socket, sink: socket.socket, passes: threading.Event, tap: bytearray | None
    ) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 14):
                if tap is not None and len(tap) < _TAP_BYTES:
                    tap += data
                passes.wait()
                if self.latency_s or self.bytes_s:
                    time.sleep(self.latency_s + (len(data) / self.bytes_s if self.bytes_s else 0.0))
                sink.sendall(data)
        # a line that is down does not carry the news of an end either
        passes.wait()
        _shut(source)
        _shut(sink)


def _shut(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()
