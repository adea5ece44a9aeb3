"""The ledger on Postgres: group commits by binary COPY or on the express lane, fenced by epoch; reads apart."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import psycopg2

from pyfi_hpc.errors import SettingsError, StaleEpoch
from pyfi_hpc.ledger import catalogue, reading, small
from pyfi_hpc.ledger.blocks import PARTITION_JOBS, Blocks
from pyfi_hpc.ledger.connection import (
    QUERIES,
    Connection,
    Cursor,
    Watchdog,
    connect,
    libpq_url,
    one,
    shown,
    transient,
    unavailable,
)
from pyfi_hpc.ledger.copy import STATEMENTS, Group, pack
from pyfi_hpc.ledger.express import Express
from pyfi_hpc.ledger.fence import CLASS, HOLD_WAIT_S, Claim
from pyfi_hpc.ledger.pulse import Pulse
from pyfi_hpc.ledger.reading import OutcomePage
from pyfi_hpc.model.events import SocketSpec
from pyfi_hpc.model.ids import BatchId, CodeId, Epoch, JobId
from pyfi_hpc.model.messages import Mount
from pyfi_hpc.model.records import FoundJob, Record, Recovered

T = TypeVar("T")

#: bytes a second below which a disk counts as mute, so that a big group is not cut off while it is written
_SLOWEST_BYTES_S = 4 << 20
#: commits, or rows of closed_range, after which old ones go in passing, about 30 ms
_TIDY_ROWS = 20_000
#: commits that are kept for readers
_COMMITS_KEPT = 1_000_000
#: how often a lost express lane is opened again, seconds
_LANE_AGAIN_S = 1.0
_NO_TABLES = ("42P01", "42883")  # undefined_table, undefined_function


class PostgresLedger:
    """Implements ``ports.Ledger``; see there.

    Parameters
    ----------
    url : str
        ``postgresql://...``; the database has the tables already (``schema.upgrade``).
    commit_s : float
        A call of a group commit that takes longer is cut off and looked up, seconds.
    read_s : float
        The same for reads and for recovery, seconds.

    Notes
    -----
    One thread commits; another one may read at the same time, a third one beats. Cost of a commit: five round trips
    and an fsync, then about 2 us a row and what its payload takes to write. A small one that is ``start``-ed: one round
    trip and an fsync.
    """

    def __init__(self, url: str, *, shard: int = 0, commit_s: float = 5.0, read_s: float = 60.0) -> None:
        libpq_url(url)
        self._url = url
        self._shard = shard
        self._commit_s = commit_s
        self._read_s = read_s
        self._claim: Claim | None = None
        self._writer: Connection | None = None
        self._reader: Connection | None = None
        self._pulse = Pulse(commit_s)
        self._express = Express()
        self.waitable = self._express.waitable
        self._lane_busy = False
        self._lane_tried_at = float("-inf")
        self._reading = threading.Lock()
        #: the commit that was sent and not yet known to have ended
        self._unknown: tuple[Epoch, int] | None = None
        #: grows while the watchdog bites, so that a server that is only slow gets there in the end
        self._patience = 1.0
        self._partitions: set[int] = set()
        self._blocks = Blocks()
        self._closed_rows = 0

    @property
    def epoch(self) -> Epoch:
        """Of the last takeover; it also grows when a lost connection was replaced."""
        return self._claim.epoch if self._claim else Epoch(0)

    def take_over(self, holder: str) -> Recovered:
        self.close()
        claim = Claim(self._url, holder, self._shard)
        connection = connect(self._url, self._commit_s)
        try:
            with Watchdog(connection).patience(self._read_s), connection.cursor() as cursor:
                claim.take(connection)
                found = reading.recover(cursor, claim.epoch)
                self._closed_rows = 0
                cursor.execute(QUERIES["partitions"])
                self._partitions = {number for (number,) in cursor.fetchall()}
                self._partitions |= self._add_partitions(cursor, found.next_job)
                cursor.execute(QUERIES["highest_block"])
                self._blocks = Blocks(found.next_job, one(cursor)[0])
        except psycopg2.Error as error:
            problem = self._explain(error, connection)
            connection.close()
            raise problem from error
        except BaseException:
            connection.close()
            raise
        self._claim, self._writer, self._unknown = claim, connection, None
        self._open_lane()
        return found

    def commit(self, records: Sequence[Record], seq: int) -> None:
        if self._claim is None:
            raise AssertionError("take_over comes before commit")
        # twice: most often a lost connection can be replaced at once
        for last_try in (False, True):
            if self._writer is None and self._take_again(seq):
                return
            try:
                self._write(records, seq)
                if not self._express.is_open:
                    self._open_lane()
                return
            except psycopg2.Error as error:
                problem = self._after(error)
                if last_try or self._writer is not None:
                    raise problem from error

    def start(self, records: Sequence[Record], seq: int) -> bool:
        lane = self._express
        if not lane.is_open or self._writer is None or self._tidy_due(seq) or not small.is_small(records):
            return False
        assert self._claim is not None
        group = small.outline(records)
        if group.job_max // PARTITION_JOBS not in self._partitions:
            return False
        self._unknown, self._lane_busy = (self._claim.epoch, seq), True
        self._closed_rows += len(group.closed)
        try:
            lane.send(
                small.message(records, group, CLASS, self._shard, self._claim.epoch, seq),
                self._patience * self._commit_s,
            )
        except psycopg2.Error as error:
            raise self._leave_lane(error) from error
        return True

    def poll(self) -> bool:
        if not self._lane_busy:
            # the server has ended an idle connection: seen now, so that it does not keep the loop awake
            with suppress(psycopg2.Error):
                if not self._express.is_open or self._express.poll():
                    return False
            self._express.close()
            return False
        try:
            if not self._express.poll():
                return False
        except psycopg2.Error as error:
            raise self._leave_lane(error) from error
        self._unknown, self._lane_busy = None, False
        return True

    def beat(self) -> bool:
        """Show others that this broker lives; False: its hold on the ledger was lost, and a commit takes it again.

        Raises
        ------
        StaleEpoch
            Another broker has taken over.
        LedgerUnavailable
        """
        if self._claim is None:
            raise AssertionError("take_over comes before beat")
        return self._pulse.beat(self._claim)

    def find_job(self, owner: str, key: bytes) -> FoundJob | None:
        return self._read(lambda cursor: reading.find_job(cursor, owner, key))

    def payloads(self, batches: Sequence[BatchId]) -> list[tuple[BatchId, bytes, bytes]]:
        return self._read(lambda cursor: reading.payloads(cursor, batches))

    def values(self, wanted: Sequence[tuple[JobId, int]]) -> dict[tuple[JobId, int], tuple[int, bytes]]:
        return self._read(lambda cursor: reading.values(cursor, wanted))

    def page(self, job: JobId, cursor: tuple[int, int], bytes_max: int) -> OutcomePage | None:
        return self._read(lambda reader: reading.page(reader, job, cursor, bytes_max))

    def deployed(self, codes: set[CodeId]) -> tuple[list[SocketSpec], list[Mount]]:
        """All sockets, and where the code of these versions lives."""
        return self._read(lambda cursor: (catalogue.sockets(cursor), catalogue.mounts(cursor, codes)))

    def weights(self) -> dict[tuple[str, str], float]:
        """Of shares, where they are not 1."""
        return self._read(catalogue.weights)

    def numbers(self) -> dict[str, dict[str, Any]]:
        """About the ledger and its objects, see ``catalogue.numbers``."""
        return self._read(catalogue.numbers)

    def close(self) -> None:
        # the pulse first: a free lock and no beats mean that nobody comes back
        for connection in (self._pulse, self._writer, self._reader, self._express):
            if connection is not None:
                connection.close()
        self._writer = self._reader = None

    # --- commits ------------------------------------------------------------------------------------

    def _write(self, records: Sequence[Record], seq: int) -> None:
        assert self._writer is not None
        assert self._claim is not None
        self._unknown = (self._claim.epoch, seq)
        group = pack(records, self._claim.epoch, self._blocks)
        seconds = self._patience * self._commit_s + group.payload_bytes / _SLOWEST_BYTES_S
        dog = Watchdog(self._writer)
        try:
            with self._writer.cursor() as cursor, dog.patience(seconds):
                made = self._write_group(cursor, group, seq)
        except psycopg2.Error:
            self._patience = min(16.0, 2 * self._patience) if dog.fired else self._patience
            raise
        self._unknown = None
        self._patience = 1.0
        self._closed_rows += len(group.closed)
        self._partitions |= made
        self._blocks.committed()

    def _write_group(self, cursor: Cursor, group: Group, seq: int) -> set[int]:
        """A COPY per table; returns the partitions that were made."""
        cursor.execute(QUERIES["begin"], self._begin_values(group, seq))
        made = self._add_partitions(cursor, group.job_max)
        for table in group.parts:
            # bytes, not text: psycopg2 prints a chain of errors when the server ends the session
            cursor.copy_expert(STATEMENTS[table], io.BytesIO(group.buffer(table)), size=1 << 20)
        if self._tidy_due(seq):
            self._tidy(cursor, seq)
        cursor.execute("COMMIT")
        return made

    def _tidy_due(self, seq: int) -> bool:
        return self._closed_rows > _TIDY_ROWS or seq % _TIDY_ROWS == 0

    def _tidy(self, cursor: Cursor, seq: int) -> None:
        """Keep the tables small that get rows with every commit, or again and again."""
        assert self._claim is not None
        cursor.execute("SELECT ledger_merge_closed()")
        self._closed_rows = one(cursor)[0]
        old = {"shard": self._shard, "epoch": self._claim.epoch, "seq": seq - _COMMITS_KEPT}
        cursor.execute(QUERIES["forget_old_commits"], old)
        cursor.execute(QUERIES["forget_durations"])

    def _begin_values(self, group: Group, seq: int) -> dict[str, Any]:
        assert self._claim is not None
        return {
            "class": CLASS, "shard": self._shard, "epoch": self._claim.epoch, "seq": seq,
            "jobs": group.counts["job"], "batches": group.counts["task_batch"],
            "outcomes": group.counts["outcome_batch"], "attempts": group.counts["attempt_failed"],
            "lo": [lo for lo, _ in group.closed], "hi": [hi for _, hi in group.closed],
        }  # fmt: skip

    def _add_partitions(self, cursor: Cursor, job_max: int) -> set[int]:
        """Make the partitions up to this job; returns their numbers, which count once they are committed."""
        number = job_max // PARTITION_JOBS
        if number in self._partitions:
            return set()
        made = {n for n in range(number + 1) if n not in self._partitions and n >= number - 1}
        for n in sorted(made):
            cursor.execute("SELECT ledger_partition(%s, %s)", (n, PARTITION_JOBS))
        return made

    def _open_lane(self) -> None:
        """Small groups go without it too, only slower; so a server without room for it is no reason to stop."""
        now = time.monotonic()
        if now - self._lane_tried_at < _LANE_AGAIN_S:
            return
        self._lane_tried_at = now
        with suppress(psycopg2.Error):
            self._express.open(self._url, self._commit_s, QUERIES["session"], small.PREPARE)

    def _leave_lane(self, error: psycopg2.Error) -> Exception:
        """What went wrong there is looked up, or done again, by ``commit``."""
        refused = self._express.refused
        self._express.close()
        self._lane_busy = False
        if refused:
            self._unknown = None
        elif self._writer is not None:
            # whether the COMMIT arrived is not known: only a takeover can tell
            self._writer.close()
            self._writer = None
        return unavailable(error, self._url)

    def _take_again(self, seq: int) -> bool:
        """Replace a lost connection: a takeover of oneself. True: the commit ``seq`` was made before."""
        assert self._claim is not None
        assert self._unknown is None or self._unknown[1] == seq, "a commit of unknown outcome was left behind"
        connection = connect(self._url, self._commit_s)
        try:
            with Watchdog(connection).patience(self._patience * self._commit_s + 2 * HOLD_WAIT_S):
                committed = self._claim.take(connection, self._unknown)
        except psycopg2.Error as error:
            problem = self._explain(error, connection)
            connection.close()
            raise problem from error
        except BaseException:
            connection.close()
            raise
        self._writer, self._unknown = connection, None
        return committed

    def _after(self, error: psycopg2.Error) -> Exception:
        """Put the connection in order after an error, or give it up; returns what to raise."""
        assert self._writer is not None
        assert self._claim is not None
        with suppress(psycopg2.Error):
            # a second patience: the server may be mute
            with Watchdog(self._writer).patience(self._commit_s), self._writer.cursor() as cursor:
                cursor.execute("ROLLBACK")
                self._unknown = None
                if error.pgcode == "PF001":
                    name = self._claim.name_holder(cursor)
                    return StaleEpoch(f"another broker has taken over: {name}", where=shown(self._url))
        if self._unknown is not None:
            # whether the COMMIT arrived is not known: only the takeover can tell
            self._writer.close()
            self._writer = None
            return unavailable(error, self._url)
        return self._explain(error, self._writer)

    # --- reads --------------------------------------------------------------------------------------

    def _read(self, what: Callable[[Cursor], T]) -> T:
        with self._reading:
            # once more on a new connection: an idle one is lost without notice when the server restarts
            for again in (True, False):
                if self._reader is None or self._reader.closed:
                    self._reader = connect(self._url, self._commit_s, "pyfi ledger reader")
                    again = False
                try:
                    with Watchdog(self._reader).patience(self._read_s), self._reader.cursor() as cursor:
                        return what(cursor)
                except psycopg2.Error as error:
                    problem = self._explain(error, self._reader)
                    if error.pgcode is None:
                        self._reader.close()  # lost, though psycopg2 may not have noticed
                    if not (self._reader.closed and again):
                        raise problem from error
        raise AssertionError("unreachable")

    def _explain(self, error: psycopg2.Error, connection: Connection) -> Exception:
        """LedgerUnavailable where trying again can help, else the error itself: a bug, or no tables."""
        if error.pgcode in _NO_TABLES:
            return SettingsError(
                f"the ledger's tables are missing or old: {str(error).strip()}", where=shown(self._url),
                fix="run `pyfi db upgrade`",
            )  # fmt: skip
        return unavailable(error, self._url) if transient(error, connection) else error
