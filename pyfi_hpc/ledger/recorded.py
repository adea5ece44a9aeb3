"""All records of a ledger on Postgres, in the order of the group commits that wrote them.

A group commit is one transaction, and its row in ``ledger_commit`` was written by the same one as its records: so the
transaction ids that Postgres keeps with every row tell who belongs together, and ``ledger_commit`` tells the order.
Inside of a group, and where ``ledger_commit`` keeps nothing any more, jobs come first, then batches by number, then
outcomes and failed attempts by time. In a ledger that was restored from a dump all rows are of one transaction, and
only that second order is known. What tasks printed is not read."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import psycopg2

from pyfi_hpc.errors import NotFound
from pyfi_hpc.ledger.connection import QUERIES, Cursor, connect, shown, unavailable
from pyfi_hpc.ledger.reading import records_of
from pyfi_hpc.model.ids import BatchId
from pyfi_hpc.model.records import AttemptFailed, BatchAdmitted, BatchClosed, JobOpened, OutcomeSettled, Record
from pyfi_hpc.model.states import TaskState

#: reading one table takes at most so long, milliseconds
_READ_MS = 600_000


@dataclass(slots=True)
class Commit:
    """A row of ``ledger_commit``: one group commit, and how many rows of each kind it says that it wrote."""

    epoch: int
    seq: int
    place: int  #: of its transaction among all; grows
    jobs: int
    batches: int
    outcomes: int
    attempts: int


#: where a record was written: a commit, by its number in the list; or there is none of its transaction
BEFORE, FOREIGN = -1, -2


@dataclass(slots=True)
class Recorded:
    """A ledger as records; ``groups`` and ``epochs`` have an element for each."""

    records: list[Record] = field(default_factory=list)
    commits: list[Commit] = field(default_factory=list)
    #: the commit of each record; BEFORE: of one that is not kept any more; FOREIGN: of none
    groups: list[int] = field(default_factory=list)
    #: the epoch that wrote it; of outcomes and attempts that of their grant, which may be an earlier one
    epochs: list[int] = field(default_factory=list)
    #: False: one transaction wrote several commits, so it was a dump that was restored
    in_order: bool = True


@dataclass(slots=True)
class _Row:
    record: Any
    place: int
    epoch: int
    group: int = BEFORE
    #: the commit that it is sorted to
    sorted_to: int = BEFORE


def read_ledger(url: str) -> Recorded:
    """Cost: the whole ledger in memory, with what users passed and got.

    Raises
    ------
    LedgerUnavailable
    NotFound
        The database has no ledger, or an empty one.
    """
    try:
        with closing(connect(url)) as connection, connection.cursor() as cursor:
            # one moment for all tables; a live broker is not disturbed
            cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            cursor.execute("SET LOCAL idle_in_transaction_session_timeout = 0")  # we may be busy with a large table
            cursor.execute(f"SET LOCAL statement_timeout = {_READ_MS}")
            jobs = _rows(cursor, "recorded_jobs", JobOpened)
            batches = _rows(cursor, "recorded_batches", BatchAdmitted)
            ended = _rows(cursor, "recorded_outcomes", OutcomeSettled, started=b"", durations=b"")
            ended += _rows(cursor, "recorded_attempts", AttemptFailed)
            cursor.execute(QUERIES["recorded_commits"])
            commits = [Commit(*row) for row in cursor.fetchall()]
            cursor.execute(QUERIES["closed"])
            ranges = cursor.fetchall()
    except psycopg2.errors.UndefinedTable:
        fix = "look at its name; `pyfi up` makes one and `pyfi db upgrade` brings an old one up to date"
        raise NotFound("this database has no ledger", where=shown(url), fix=fix) from None
    except psycopg2.Error as error:
        raise unavailable(error, url) from error
    if not jobs:
        raise NotFound("this ledger is empty: nothing was ever submitted", where=shown(url), fix="replay another one")
    for row in ended:
        if isinstance(row.record, OutcomeSettled) and not row.record.offsets:  # all are empty
            row.record.offsets = bytes(4 * row.record.count + 4)
    ended.sort(key=_time)
    found = _in_order([jobs, batches, ended], commits)
    known = {row.record.batch for row in batches}
    closed = [BatchClosed(BatchId(n)) for lo, hi in ranges for n in range(lo, hi + 1) if n in known]
    found.records += closed
    found.groups += [BEFORE] * len(closed)  # ranges are merged, so who closed them is not known
    found.epochs += [0] * len(closed)
    return found


def _rows(cursor: Cursor, query: str, kind: Callable[..., Any], **rest: Any) -> list[_Row]:
    def row(place: int, written: int, **fields: Any) -> _Row:
        return _Row(kind(**fields), place, written)

    cursor.execute(QUERIES[query])
    return records_of(cursor, row, **rest)


def _in_order(tables: list[list[_Row]], commits: list[Commit]) -> Recorded:
    found = Recorded(commits=commits)
    places = [commit.place for commit in commits]
    found.in_order = len(set(places)) == len(places)
    if found.in_order and commits:
        jobs, batches, ended = tables
        by_place = dict(zip(places, range(len(places)), strict=True))
        _find_groups(jobs, commits, by_place, "job", {})
        _find_groups(batches, commits, by_place, "job", {row.record.job: row.sorted_to for row in jobs})
        _find_groups(ended, commits, by_place, "batch", {row.record.batch: row.sorted_to for row in batches})
    order: Iterable[tuple[int, _Row]] = ((kind, row) for kind, rows in enumerate(tables) for row in rows)
    # stable: in a group all is in the order of its table
    for _, row in sorted(order, key=lambda pair: (pair[1].sorted_to, pair[0])):
        found.records.append(row.record)
        found.groups.append(row.group)
        found.epochs.append(row.epoch)
    return found


def _find_groups(
    rows: list[_Row], commits: list[Commit], by_place: dict[int, int], parent: str, parents: dict[int, int]
) -> None:
    """Each row's commit; one of no commit is sorted beside the row before it, and after its parent."""
    sorted_places = sorted(by_place)
    before = BEFORE
    for row in rows:
        row.group = row.sorted_to = by_place.get(row.place, BEFORE)
        if row.group == BEFORE:
            at = bisect_right(sorted_places, row.place)
            if at and not _hole(commits, by_place[sorted_places[at - 1]]):
                row.group = FOREIGN
                row.sorted_to = max(before, parents.get(getattr(row.record, parent), BEFORE))
        before = row.sorted_to


def _hole(commits: list[Commit], at: int) -> bool:
    """Whether commits after this one were forgotten: the next epoch does not begin with its first."""
    after = commits[at + 1] if at + 1 < len(commits) else None
    return after is not None and after.epoch != commits[at].epoch and after.seq not in (1, commits[at].seq + 1)


def _time(row: _Row) -> tuple[float, int]:
    """Of one moment: what failed and is tried again, what completed, what did not, what ended because of others."""
    record = row.record
    if isinstance(record, AttemptFailed):
        return record.failed_at, 0
    if not record.grant:
        return record.settled_at, 3 + (record.states[0] != TaskState.CANCELLED)
    return record.settled_at, 1 + any(state != TaskState.COMPLETED for state in record.states)
