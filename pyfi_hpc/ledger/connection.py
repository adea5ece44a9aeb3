"""Connections to Postgres: addresses, errors in our words, and a watchdog, because libpq can wait for ever.

Server-side timeouts and TCP options do not help when the peer's kernel or a proxy acknowledges what nobody
reads (RELIABILITY 3.8), so a thread shuts the socket of a call that takes too long.
"""

from __future__ import annotations

import io
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from struct import Struct
from typing import TYPE_CHECKING, Any

import psycopg2
import psycopg2.extensions

from pyfi_hpc.errors import LedgerUnavailable, SettingsError
from pyfi_hpc.ledger.queries import load

if TYPE_CHECKING:
    import sqlalchemy as sa

Connection = psycopg2.extensions.connection
Cursor = psycopg2.extensions.cursor

QUERIES = load()
_SCHEME = re.compile(r"^postgres(ql)?(\+\w+)?://")
#: SQLSTATE classes after which the same statement can succeed later: connection, rollback, resources,
#: intervention, system; and two single ones: lock_not_available, read_only_sql_transaction (a standby)
_TRANSIENT = ("08", "40", "53", "57", "58", "55P03", "25006")


def engine_url(url: str) -> str:
    """The URL for SQLAlchemy, with the driver's name: 2.1 reads a bare ``postgresql://`` as psycopg 3."""
    return _SCHEME.sub("postgresql+psycopg2://", _checked(url))


def libpq_url(url: str) -> str:
    """The URL for libpq, which knows no drivers."""
    return _SCHEME.sub("postgresql://", _checked(url))


def shown(url: str) -> str:
    """The URL for people: without a password."""
    return re.sub(r"(://[^:/@?]*):[^@]*@", r"\1:***@", re.sub(r"(password=)[^&]*", r"\1***", url))


def has_password(url: str) -> bool:
    return shown(url) != url


def _checked(url: str) -> str:
    if not _SCHEME.match(url):
        raise SettingsError(
            f"the ledger's URL {shown(url)!r} is not a Postgres URL", where="setting ledger",
            fix="write postgresql://USER@HOST/DATABASE",
        )  # fmt: skip
    return url


def make_engine(url: str) -> sa.Engine:
    """An engine for everything that is not the hot path; a broker can start and serve without it."""
    import sqlalchemy as sa

    # few connections and short-lived ones: a personal Postgres has room for some dozens
    return sa.create_engine(engine_url(url), pool_size=2, max_overflow=3, pool_pre_ping=True)


def connect(url: str, timeout_s: float = 5.0, name: str = "pyfi ledger") -> Connection:
    """Open a connection in autocommit mode: transactions are begun by name, in the statement that needs them.

    Raises
    ------
    LedgerUnavailable
    SettingsError
        The URL cannot be read by libpq.
    """
    try:
        connection = psycopg2.connect(
            libpq_url(url), connect_timeout=max(2, round(timeout_s)), application_name=name,
            client_encoding="UTF8",
        )  # fmt: skip
        connection.autocommit = True
        with Watchdog(connection).patience(timeout_s), connection.cursor() as cursor:
            cursor.execute(QUERIES["session"])
    except psycopg2.ProgrammingError as error:
        raise SettingsError(f"the ledger's URL cannot be read: {error}", where=shown(url)) from None
    except psycopg2.Error as error:
        raise unavailable(error, url) from error
    return connection


def transient(error: psycopg2.Error, connection: Connection) -> bool:
    """Whether the same statement can succeed later; a lost connection always can."""
    if connection.closed or isinstance(error, psycopg2.InterfaceError):
        return True
    if error.pgcode is None:
        # not from the server: the bare class is psycopg2's word for a server that was gone before the statement
        return isinstance(error, psycopg2.OperationalError) or type(error) is psycopg2.DatabaseError
    return error.pgcode.startswith(_TRANSIENT)


def unavailable(error: psycopg2.Error, url: str) -> LedgerUnavailable:
    """The error in our words; the text is Postgres' own first line."""
    text = " ".join(str(error).split()) or type(error).__name__
    if error.pgcode == "53100":
        fix = "free some space on the ledger's disk; nothing is lost, it goes on by itself"
    elif error.pgcode in ("28000", "28P01"):
        fix = "check the user and the password of the ledger's URL"
    else:
        fix = "see whether Postgres runs there, or `pyfi doctor`; nothing is lost, it goes on by itself"
    return LedgerUnavailable(f"the ledger does not take this now: {text}", where=shown(url), fix=fix)


class Watchdog:
    """Shuts the socket of a connection whose call takes longer than its patience.

    One thread for all. It sleeps to the first deadline that it knows of, whether that call has ended by then or not: a
    series of short calls wakes it once per patience, not once per call.
    """

    _lock = threading.Lock()
    _armed: dict[int, Watchdog] = {}
    #: when the thread looks again, monotonic seconds
    _look_at = float("inf")
    _sooner = threading.Event()
    _thread: threading.Thread | None = None

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._deadline = 0.0
        #: the last call was ended by the watchdog
        self.fired = False

    @contextmanager
    def patience(self, seconds: float) -> Iterator[None]:
        """Limit what is done inside to so many seconds."""
        self.arm(seconds)
        try:
            yield
        finally:
            self.disarm()

    def arm(self, seconds: float) -> None:
        self.fired = False
        with Watchdog._lock:
            self._deadline = time.monotonic() + seconds
            Watchdog._armed[id(self)] = self
            if Watchdog._thread is None or not Watchdog._thread.is_alive():
                Watchdog._thread = threading.Thread(target=_watch, name="ledger watchdog", daemon=True)
                Watchdog._thread.start()
            if self._deadline < Watchdog._look_at:
                Watchdog._look_at = self._deadline
                Watchdog._sooner.set()

    def disarm(self) -> None:
        with Watchdog._lock:
            Watchdog._armed.pop(id(self), None)

    def _bite(self) -> None:
        self.fired = True
        with suppress(OSError, psycopg2.Error):
            # a copy of the descriptor: shutdown acts on the connection, close only on the copy
            with socket.socket(fileno=os.dup(self._connection.fileno())) as copy:
                copy.shutdown(socket.SHUT_RDWR)


def _watch() -> None:
    while True:
        wait_s = Watchdog._look_at - time.monotonic()
        Watchdog._sooner.wait(max(0.0, wait_s) if wait_s < float("inf") else None)
        Watchdog._sooner.clear()
        now = time.monotonic()
        # the lock keeps the call from ending, and its descriptor from being used again, while we shut it
        with Watchdog._lock:
            for dog in Watchdog._armed.values():
                if dog._deadline <= now and not dog.fired:
                    dog._bite()
            waiting = [dog._deadline for dog in Watchdog._armed.values() if not dog.fired]
            Watchdog._look_at = min(waiting, default=float("inf"))


def one(cursor: Cursor) -> tuple[Any, ...]:
    """The row of a statement that always has one."""
    row = cursor.fetchone()
    assert row is not None
    return row


def columns(cursor: Cursor) -> list[tuple[Any, ...]]:
    """All rows, with ``memoryview`` (psycopg2's bytea) as ``bytes``."""
    return [tuple(bytes(v) if isinstance(v, memoryview) else v for v in row) for row in cursor.fetchall()]


_count = Struct(">h").unpack_from
_length = Struct(">i").unpack_from
#: signature, flags and no extension, before the first row of binary COPY
_COPY_HEAD_BYTES = 19


def large_rows(cursor: Cursor, query: str, values: dict[str, Any], kinds: str) -> list[tuple[Any, ...]]:
    """Rows of a query with large bytea columns, by binary COPY.

    As text each byte is two that both sides convert: 12 ms of processor time a MB instead of 2.

    Parameters
    ----------
    kinds : str
        A letter a column, none of which is NULL: ``i`` an integer of any size, ``b`` bytes.
    """
    told = io.BytesIO()
    cursor.copy_expert(cursor.mogrify(f"COPY ({query}\n) TO STDOUT (FORMAT binary)", values), told, size=1 << 20)
    data = told.getbuffer()
    rows: list[tuple[Any, ...]] = []
    at = _COPY_HEAD_BYTES
    while _count(data, at)[0] >= 0:
        at += 2
        row: list[Any] = []
        for kind in kinds:
            start = at + 4
            at = start + _length(data, at)[0]
            row.append(bytes(data[start:at]) if kind == "b" else int.from_bytes(data[start:at], "big", signed=True))
        rows.append(tuple(row))
    return rows
