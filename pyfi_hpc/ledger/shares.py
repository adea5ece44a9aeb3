"""Weights of shares: what the desk changes, and the broker goes by. See ``core/shares.py``."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from pyfi_hpc.errors import UsageError
from pyfi_hpc.ledger.tables import share

KINDS = ("project", "user")
#: a weight beyond these is a mistake
_LEAST, _MOST = 1e-3, 1e6


def put(connection: sa.Connection, kind: str, name: str, weight: float) -> dict[str, Any]:
    """A project, or a submitter in all projects, has this weight from now on.

    Raises
    ------
    UsageError
        No such kind, or a weight that cannot be.
    """
    if kind not in KINDS:
        raise UsageError(f"there are no shares of a {kind!r}", where="share", fix="use " + " or ".join(KINDS))
    if not _LEAST <= weight <= _MOST:  # not a number, too
        raise UsageError(f"a weight cannot be {weight}", where="share", fix=f"use {_LEAST} to {_MOST:.0f}; 1 is usual")
    if "\0" in name or len(name) > 200:
        raise UsageError("this cannot be a name", where="share", fix="use at most 200 characters, and no NUL")
    row = insert(share).values(kind=kind, name=name, weight=weight)
    connection.execute(row.on_conflict_do_update(index_elements=["kind", "name"], set_={"weight": weight}))
    return {"kind": kind, "name": name, "weight": weight}
