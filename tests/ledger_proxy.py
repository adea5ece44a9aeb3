"""A proxy in front of Postgres' unix socket that cuts, silences or delays a connection at a chosen statement."""

from __future__ import annotations

import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote


class Proxy:
    """Forwards connections; ``fault`` is armed for one statement and then gone.

    ``arm(b"COMMIT", "request")`` cuts when the statement arrives, before the server sees it; "reply" lets the
    server carry it out and cuts before the client hears of it; "mute" carries it out and then says nothing;
    "late" holds the statement back until ``let_go``, even if its sender has given up by then.

    Attributes
    ----------
    latency_s : float
        Added to each message to the server.
    answers : list of bytes
        What the server said to statements that were late.
    """

    def __init__(self, url: str, server_folder: Path) -> None:
        self.folder = tempfile.mkdtemp(prefix="px-")
        self.url = url.replace(f"host={quote(str(server_folder))}", f"host={quote(self.folder)}")
        assert self.url != url
        self._target = str(server_folder / ".s.PGSQL.5432")
        self._fault: tuple[bytes, str] | None = None
        self.refusing = False
        #: called when a fault strikes, before anything else happens
        self.struck: Callable[[], None] = lambda: None
        self.latency_s = 0.0
        self.answers: list[bytes] = []
        self._late = threading.Event()
        self._sockets: list[socket.socket] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(f"{self.folder}/.s.PGSQL.5432")
        self._listener.listen()
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def arm(self, statement: bytes, how: str) -> None:
        self._late.clear()
        self._fault = statement, how

    def let_go(self) -> None:
        """What was held back goes on to the server."""
        self._late.set()

    @property
    def fired(self) -> bool:
        return self._fault is None

    def cut(self, last_words: bytes = b"") -> None:
        """End every connection; before it, clients get these bytes."""
        ends, self._sockets = self._sockets, []
        for client, server in zip(ends[::2], ends[1::2], strict=True):
            if last_words:
                _send(client, last_words)
            _shut(client)
            _shut(server)

    def close(self) -> None:
        self.let_go()
        _shut(self._listener)
        self.cut()
        self._accepting.join()
        shutil.rmtree(self.folder)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.refusing:
                client.close()
                continue
            server = socket.socket(socket.AF_UNIX)
            try:
                server.connect(self._target)
            except OSError:
                client.close()
                continue
            self._sockets += [client, server]
            link = _Link(client, server)
            threading.Thread(target=self._up, args=(link,), daemon=True).start()
            threading.Thread(target=self._down, args=(link,), daemon=True).start()

    def _up(self, link: _Link) -> None:
        while data := _receive(link.client):
            fault = self._fault
            if fault and fault[0] in data:
                self._fault = None
                self.struck()
                if fault[1] == "request":
                    break
                link.fault = fault[1]
                if link.fault == "late":
                    self._late.wait()
            time.sleep(self.latency_s)
            _send(link.server, data)
            if link.fault == "late":
                link.answered.wait(10)  # its sender has gone: nothing else would wait for the answer
        _shut(link.server)
        _shut(link.client)

    def _down(self, link: _Link) -> None:
        while data := _receive(link.server):
            if link.fault == "mute":
                continue
            if link.fault == "late":
                self.answers.append(data)
                link.answered.set()
            if link.fault == "reply":
                break
            _send(link.client, data)
        _shut(link.client)
        _shut(link.server)


class _Link:
    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client, self.server = client, server
        self.fault = ""
        self.answered = threading.Event()


def _receive(end: socket.socket) -> bytes:
    try:
        return end.recv(1 << 16)
    except OSError:
        return b""


def _send(end: socket.socket, data: bytes) -> None:
    try:
        end.sendall(data)
    except OSError:
        pass


def _shut(end: socket.socket) -> None:
    try:
        end.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    end.close()
