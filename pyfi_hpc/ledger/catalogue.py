"""The catalogue: what a broker needs of the objects, in plain SQL.

A broker that was started again shall serve at once, and to import SQLAlchemy takes longer than all else that it does:
so its start, and ``pyfi info``, use nothing of the models. The desk does, see ``ledger/front_desk.py``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pyfi_hpc.ledger.connection import Cursor, one
from pyfi_hpc.ledger.queries import load
from pyfi_hpc.model import terms
from pyfi_hpc.model.events import SocketSpec
from pyfi_hpc.model.messages import Mount

_QUERIES = load("catalogue.sql")


def sockets(cursor: Cursor) -> list[SocketSpec]:
    """All sockets whose processor has code."""
    cursor.execute(_QUERIES["sockets"])
    return [
        SocketSpec(number, name, processor, function, Mount(*mount), concurrency, priority, enabled, terms_of(needs))
        for number, name, processor, function, concurrency, priority, enabled, needs, *mount in cursor.fetchall()
    ]


def terms_of(needs: str) -> bytes:
    """What a socket's text says; nothing if it cannot be read any more: it was checked when it was written."""
    try:
        return terms.encode(terms.read(needs))
    except ValueError:
        return b""


def mounts(cursor: Cursor, codes: Iterable[int]) -> list[Mount]:
    """Where the code of these versions lives."""
    cursor.execute(_QUERIES["mounts"], {"codes": list(codes)})
    return [Mount(*row) for row in cursor.fetchall()]


def weights(cursor: Cursor) -> dict[tuple[str, str], float]:
    """Of projects and submitters, where they are not 1."""
    cursor.execute(_QUERIES["shares"])
    return {(kind, name): weight for kind, name, weight in cursor.fetchall()}


def numbers(cursor: Cursor) -> dict[str, dict[str, Any]]:
    """About the ledger, and how many objects of some kinds there are."""
    return {name: _row(cursor, name) for name in ("ledger", "objects")}


def _row(cursor: Cursor, name: str) -> dict[str, Any]:
    cursor.execute(_QUERIES[name])
    return dict(zip((column.name for column in cursor.description or ()), one(cursor), strict=True))
