"""All records of a ledger on Postgres, in an order in which they can have been committed.

The tables keep what was decided, not the order of commits: jobs and batches are numbered, outcomes and failed
attempts bear their time, and of closed batches only the ranges are kept. So jobs come first, then batches by number,
then outcomes and attempts by time, then what was closed. Arguments, results and outputs are not read."""

from __future__ import annotations

from contextlib import closing

import psycopg2

from pyfi_hpc.ledger.connection import QUERIES, connect, unavailable
from pyfi_hpc.ledger.reading import records_of
from pyfi_hpc.model.ids import BatchId
from pyfi_hpc.model.records import AttemptFailed, BatchAdmitted, BatchClosed, JobOpened, OutcomeSettled, Record

#: a ledger may be large: the reading of one table takes at most so long, seconds
_READ_S = 600.0


def read_records(url: str) -> list[Record]:
    """Cost: the whole ledger, without what users passed and got.

    Raises
    ------
    LedgerUnavailable
    """
    try:
        with closing(connect(url, _READ_S)) as connection, connection.cursor() as cursor:
            # one moment for all tables; a live broker is not disturbed
            cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            cursor.execute("SELECT id FROM job ORDER BY id")
            wanted = {"jobs": [job for (job,) in cursor.fetchall()]}
            cursor.execute(QUERIES["jobs"], wanted)
            found: list[Record] = list(records_of(cursor, JobOpened))
            cursor.execute(QUERIES["job_batches"], wanted)
            batches = records_of(cursor, BatchAdmitted, offsets=b"", payload=b"")
            for batch in batches:  # arguments of no bytes, one for each task
                batch.offsets = bytes(4 * batch.count + 4)
            cursor.execute(QUERIES["job_outcomes"], wanted)
            outcomes = records_of(cursor, OutcomeSettled, started=b"", durations=b"", offsets=b"", payload=b"")
            cursor.execute(QUERIES["job_attempts"], wanted)
            attempts = records_of(cursor, AttemptFailed)
            cursor.execute(QUERIES["closed"])
            ranges = cursor.fetchall()
    except psycopg2.Error as error:
        raise unavailable(error, url) from error
    ended: list[OutcomeSettled | AttemptFailed] = [*outcomes, *attempts]
    found += batches  # the query orders them by number
    ended.sort(key=_time)
    found += ended
    known = {record.batch for record in batches}
    found += [BatchClosed(BatchId(n)) for lo, hi in ranges for n in range(lo, hi + 1) if n in known]
    return found


def _time(record: OutcomeSettled | AttemptFailed) -> tuple[float, int, int]:
    """Of one task, failed attempts come before its outcome."""
    if isinstance(record, OutcomeSettled):
        return record.settled_at, 1, record.attempt
    return record.failed_at, 0, record.attempt
