"""Who may write: one live holder, one epoch; a commit of unknown outcome is looked up, never guessed.

Two advisory locks of the database, never the clock:

- ``LIVE`` is held by the broker's session as long as it lives; a second broker is refused, naming the holder.
- ``FENCE`` is taken shared by every group commit and exclusively by a takeover, which raises the epoch under
  it: after that no commit of an older epoch can come late.

A lost connection is a takeover of oneself: the same steps, the same code. A holder that has frozen keeps its session
and so its lock; how others see that, and what ends it, is in ``ledger/pulse.py``.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field

import psycopg2

from pyfi_hpc.errors import BrokerHeld, StaleEpoch
from pyfi_hpc.ledger.connection import QUERIES, Connection, Cursor, one, shown
from pyfi_hpc.model.ids import Epoch

#: first key of our advisory locks: "pyfi"
CLASS = 0x70796669
#: a takeover waits so long for commits that are under way before it ends their sessions
FENCE_WAIT_MS = 300
#: a broker that has just been killed is let go by Postgres within so long, seconds
HOLD_WAIT_S = 1.0


@dataclass(slots=True)
class Claim:
    """What this process knows of its right to write to one shard."""

    url: str
    holder: str
    shard: int = 0
    epoch: Epoch = Epoch(0)
    #: tells our own row in ledger_epoch from that of another broker, whatever became of our last takeover
    nonce: str = field(default_factory=lambda: uuid.uuid4().hex)
    #: sessions of ours that may still hold a lock
    sessions: set[int] = field(default_factory=set)

    @property
    def live(self) -> int:
        return 2 * self.shard

    @property
    def fence(self) -> int:
        return 2 * self.shard + 1

    def take(self, connection: Connection, unknown: tuple[Epoch, int] | None = None) -> bool:
        """Become the writer on this connection: hold the live lock and raise the epoch.

        Parameters
        ----------
        unknown
            (epoch, seq) of a commit of ours whose outcome is not known.

        Returns
        -------
        bool
            Whether the unknown commit is in the ledger.

        Raises
        ------
        BrokerHeld
            Another live broker holds the ledger, and this one never did.
        StaleEpoch
            Another broker has taken over since.
        """
        with connection.cursor() as cursor:
            if self.epoch:
                self._check_still_ours(cursor)
            # before: the lock may be given and the answer lost
            self.sessions.add(connection.get_backend_pid())
            self._hold(cursor)
            self._lock_fence(cursor)
            try:
                if self.epoch:
                    self._check_still_ours(cursor)
                known = False
                if unknown:
                    cursor.execute(QUERIES["committed"], {"shard": self.shard, "epoch": unknown[0], "seq": unknown[1]})
                    known = cursor.fetchone() is not None
                cursor.execute(
                    QUERIES["raise_epoch"], {"shard": self.shard, "holder": self.holder, "nonce": self.nonce}
                )
                epoch = Epoch(one(cursor)[0])
                cursor.execute(QUERIES["forget_commits"], {"shard": self.shard, "epoch": epoch})
                cursor.execute("COMMIT")
            except StaleEpoch:
                cursor.execute("ROLLBACK")
                raise
            self.epoch = epoch
            self.sessions = {connection.get_backend_pid()}
        return known

    def name_holder(self, cursor: Cursor) -> str:
        """Who wrote its name into ledger_epoch last, in words."""
        cursor.execute(QUERIES["holder"], {"shard": self.shard})
        row = cursor.fetchone()
        return f"{row[1]}, epoch {row[0]}, since {row[3][:19]}" if row else "nobody"

    def _hold(self, cursor: Cursor) -> None:
        """Take the live lock; end our own lost session if that still has it."""
        give_up = time.monotonic() + HOLD_WAIT_S
        while True:
            cursor.execute(QUERIES["hold"], {"class": CLASS, "lock": self.live})
            if one(cursor)[0]:
                return
            holders = self._holders(cursor, self.live)
            self._terminate(cursor, [pid for pid in holders if pid in self.sessions])
            if time.monotonic() > give_up and not set(holders) & self.sessions:
                name = self.name_holder(cursor)
                raise (StaleEpoch if self.epoch else BrokerHeld)(
                    f"another broker holds this ledger: {name}", where=shown(self.url),
                    fix="stop it first with `pyfi down`, or use its instance",
                )  # fmt: skip
            time.sleep(0.02)

    def _lock_fence(self, cursor: Cursor) -> None:
        """Begin a transaction that no group commit overlaps; sessions that do not end in time are ended."""
        while True:
            cursor.execute(f"BEGIN; SET LOCAL lock_timeout = {FENCE_WAIT_MS}")
            try:
                cursor.execute("SELECT pg_advisory_xact_lock(%s, %s)", (CLASS, self.fence))
                cursor.execute("SET LOCAL lock_timeout = 0")
                return
            except psycopg2.errors.LockNotAvailable:
                cursor.execute("ROLLBACK")
                self._terminate(cursor, self._holders(cursor, self.fence))

    def _check_still_ours(self, cursor: Cursor) -> None:
        cursor.execute(QUERIES["holder"], {"shard": self.shard})
        row = cursor.fetchone()
        if row is None or row[2] != self.nonce:
            raise self.replaced(cursor)

    def replaced(self, cursor: Cursor) -> StaleEpoch:
        """The error of a broker whose row in ledger_epoch is another's now."""
        return StaleEpoch(
            f"another broker has taken over this ledger: {self.name_holder(cursor)}", where=shown(self.url),
            fix="this one ends; start it again only if the other one is stopped",
        )  # fmt: skip

    def _holders(self, cursor: Cursor, lock: int) -> list[int]:
        cursor.execute(QUERIES["lock_holders"], {"class": CLASS, "lock": lock})
        return [pid for (pid,) in cursor.fetchall()]

    def _terminate(self, cursor: Cursor, pids: list[int]) -> None:
        if pids:
            cursor.execute(QUERIES["terminate"], {"pids": pids})
