"""When and where the tasks of a job ran: for reports, traces, and results with their durations.

A row is a range of tasks that one rank ran one after the other, as the ledger has it: times are packed as in
``model.records``, so a page of a hundred thousand tasks is about a megabyte.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from pyfi_hpc.errors import UsageError
from pyfi_hpc.ledger.calls import query

Row = dict[str, Any]

#: tasks, and ranges of tasks, in one page
PAGE_TASKS_MAX, PAGE_ROWS_MAX = 200_000, 5000
#: stretches of one question
RANGES_MAX = 10_000
#: failed attempts that are told of one job
ATTEMPTS_MAX = 100_000


def list_spans(connection: sa.Connection, job: int, ranges: Sequence[Sequence[int]]) -> Row:
    """Final tasks of a job among stretches ``(first, end)`` of its indexes, in their order.

    Returns
    -------
    dict
        ``rows``: first, count, attempt, node, rank, states, started, durations, socket; one that lies partly outside
        comes whole. ``next``: ask again from this index on; -1: nothing follows.

    Raises
    ------
    UsageError
        A stretch is not two numbers, or they are too many.
    """
    if len(ranges) > RANGES_MAX or not all(_is_stretch(one) for one in ranges):
        raise UsageError(f"ranges are at most {RANGES_MAX} pairs of indexes", where="spans")
    firsts, ends = [first for first, _ in ranges], [end for _, end in ranges]
    rows = query(
        connection, "spans", job=job, firsts=firsts, ends=ends, tasks=PAGE_TASKS_MAX, limit=PAGE_ROWS_MAX
    )  # fmt: skip
    last = rows[-1]["first"] + rows[-1]["count"] if rows else max(ends, default=0)
    found = [[row[name] for name in _COLUMNS] for row in rows]
    return {"rows": found, "next": last if last < max(ends, default=0) else -1}


def list_attempts(connection: sa.Connection, job: int) -> Row:
    """Attempts of a job that failed and were followed by another, or that came too late: the latest ones.

    Their starts are not in the ledger. ``rows``: index, attempt, cause, node, rank, failed_at, time_limit_s, socket.
    """
    rows = query(connection, "failed_attempts", job=job, limit=ATTEMPTS_MAX)
    total = query(connection, "failed_attempts_total", job=job)[0]["total"]
    return {"rows": [[row[name] for name in _ATTEMPT_COLUMNS] for row in reversed(rows)], "total": total}


def _is_stretch(one: Any) -> bool:
    return isinstance(one, list) and len(one) == 2 and all(type(n) is int and 0 <= n < 1 << 62 for n in one)


_COLUMNS = ("first", "count", "attempt", "node", "rank", "states", "started", "durations", "socket")
_ATTEMPT_COLUMNS = ("index", "attempt", "cause", "node", "rank", "failed_at", "time_limit_s", "socket")
