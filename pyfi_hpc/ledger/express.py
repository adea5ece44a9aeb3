"""The ledger's express lane: one small group at a time, sent and awaited by the loop itself.

A lone call waits for two commits, and each hand-over between threads costs it about as much as the commit. So
the loop sends small groups on a connection of its own, which does not block, and waits for the answer where it waits
for everything else. Whatever goes wrong here is left to ``PostgresLedger.commit``, which may block.
"""

from __future__ import annotations

import select
import time
from contextlib import suppress

import psycopg2
from psycopg2.extensions import POLL_OK, POLL_READ, POLL_WRITE, TRANSACTION_STATUS_INERROR

from pyfi_hpc.ledger.connection import Connection, Cursor, Watchdog, libpq_url

#: the least that a socket's buffer takes at once
_SHORT_BYTES = 4096


class Express:
    """A connection to Postgres that does not block once it is open.

    Attributes
    ----------
    waitable : int
        Readable when ``poll`` has something to do; the same for as long as this object lives.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self.waitable = self._epoll.fileno()
        self._connection: Connection | None = None
        self._cursor: Cursor | None = None
        self._dog: Watchdog | None = None
        self._waits_to_send = False

    @property
    def is_open(self) -> bool:
        return self._connection is not None

    def open(self, url: str, timeout_s: float, *statements: str) -> None:
        """Connect and run the statements; this waits.

        Raises
        ------
        psycopg2.Error
        """
        self.close()
        deadline = time.monotonic() + timeout_s
        connection = psycopg2.connect(
            libpq_url(url), async_=True, application_name="pyfi ledger", client_encoding="UTF8"
        )
        try:
            _wait(connection, deadline)
            cursor = connection.cursor()
            for statement in statements:
                cursor.execute(statement)
                _wait(connection, deadline)
            self._epoll.register(connection.fileno(), select.EPOLLIN)
        except BaseException:
            connection.close()
            raise
        self._cursor, self._dog = cursor, Watchdog(connection)
        # last: another thread may look at it
        self._connection = connection

    @property
    def refused(self) -> bool:
        """Whether the server has answered that it will not commit; any other error may hide a commit."""
        connection = self._connection
        return connection is not None and connection.get_transaction_status() == TRANSACTION_STATUS_INERROR

    def send(self, text: bytes, patience_s: float) -> None:
        """Send statements; their answer comes within ``patience_s`` or the connection is shut.

        Raises
        ------
        psycopg2.Error
        """
        assert self._connection is not None
        assert self._cursor is not None
        assert self._dog is not None
        self._dog.arm(patience_s)
        self._cursor.execute(text)
        # what is short has left for certain: nothing else waits in this socket's buffer
        if len(text) > _SHORT_BYTES and self._connection.poll() != POLL_READ:
            # there is more to send, or all is answered already: either way the loop comes back at once
            self._wake_for(select.EPOLLOUT)

    def poll(self) -> bool:
        """Whether the answer is there; True also when nothing was sent.

        Raises
        ------
        psycopg2.Error
            The server's own, or the connection was lost.
        """
        assert self._connection is not None
        assert self._dog is not None
        state = self._connection.poll()
        if state == POLL_OK:
            self._dog.disarm()
        if state == POLL_WRITE or self._waits_to_send:
            self._wake_for(select.EPOLLOUT if state == POLL_WRITE else select.EPOLLIN)
        return bool(state == POLL_OK)

    def _wake_for(self, mask: int) -> None:
        assert self._connection is not None
        self._epoll.modify(self._connection.fileno(), mask)
        self._waits_to_send = mask == select.EPOLLOUT

    def close(self) -> None:
        """Give up the connection and what runs on it; ``open`` makes another."""
        if self._connection is not None:
            assert self._dog is not None
            self._dog.disarm()
            with suppress(OSError, psycopg2.Error):
                self._epoll.unregister(self._connection.fileno())
            self._connection.close()
        self._cursor = self._dog = None
        self._waits_to_send = False
        # last: another thread opens it again as soon as it looks closed
        self._connection = None


def _wait(connection: Connection, deadline: float) -> None:
    while (state := connection.poll()) != POLL_OK:
        poller = select.poll()
        poller.register(connection.fileno(), select.POLLOUT if state == POLL_WRITE else select.POLLIN)
        if not poller.poll(max(0.0, 1000 * (deadline - time.monotonic()))):
            raise psycopg2.OperationalError("the server did not answer in time")
