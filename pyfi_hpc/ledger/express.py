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
        except BaseException:
            connection.close()
            raise
        self._connection, self._cursor, self._dog = connection, cursor, Watchdog(connection)

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
        self._epoll.register(self._connection.fileno(), select.EPOLLIN)
        state = self._connection.poll()
        if state != POLL_READ:
            # there is more to send, or all is answered already: either way the loop comes back at once
            self._epoll.modify(self._connection.fileno(), select.EPOLLOUT)

    def poll(self) -> bool:
        """Whether the answer is there.

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
            # an idle connection that the server ends must not keep the loop awake
            self._epoll.unregister(self._connection.fileno())
            return True
        self._epoll.modify(self._connection.fileno(), select.EPOLLOUT if state == POLL_WRITE else select.EPOLLIN)
        return False

    def close(self) -> None:
        """Give up the connection and what runs on it; ``open`` makes another."""
        if self._connection is not None:
            assert self._dog is not None
            self._dog.disarm()
            with suppress(OSError, psycopg2.Error):
                self._epoll.unregister(self._connection.fileno())
            self._connection.close()
        self._connection = self._cursor = self._dog = None


def _wait(connection: Connection, deadline: float) -> None:
    while (state := connection.poll()) != POLL_OK:
        poller = select.poll()
        poller.register(connection.fileno(), select.POLLOUT if state == POLL_WRITE else select.POLLIN)
        if not poller.poll(max(0.0, 1000 * (deadline - time.monotonic()))):
            raise psycopg2.OperationalError("the server did not answer in time")
