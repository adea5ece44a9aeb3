"""How a broker shows that it lives, and how a standby sees that it does not.

The live lock tells only that the holder's session lives: that of a frozen process lives on. So a broker also beats:
twice a second it asks a question on a session that bears its nonce. Nothing is written; Postgres itself notes the time,
in ``pg_stat_activity``, by its own clock. A standby looks as often::

    the lock is         beats are           then
    held                fresh               wait
    held                older than 2 s      end the holder's session, take over: it is frozen, or its host has gone
    held                none                wait: it is starting, or Postgres does not note the time (track_activities)
    free                fresh, or Postgres  give the broker 2 s to take it again: it lives and has lost its session
                        was away
    free                none                take over; 1.5 s later while the successor of a restart waits too

An old beat counts only if the standby itself has seen it unchanged for as long: after a machine was suspended the
clock has jumped and everything looks old. The fence is what makes this safe; this only decides when.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import suppress

import psycopg2

from pyfi_hpc.ledger.connection import QUERIES, Connection, Watchdog, connect, one, unavailable
from pyfi_hpc.ledger.fence import CLASS, Claim

#: between two beats, seconds
BEAT_S = 0.5
#: a holder that has not beaten for so long is frozen, seconds
FROZEN_S = 2.0
#: a broker that lives and has lost its session has so long to take the lock again, seconds
GRACE_S = 2.0
#: others leave a free lock to the successor of a restart for so long, seconds
YIELD_S = 1.5
#: between two looks of a standby, and of a successor, seconds
LOOK_S = 0.5
LOOK_SUCCESSOR_S = 0.05

_BEAT, _STANDBY, _SUCCESSOR = "pyfi beat ", "pyfi standby", "pyfi successor"
_NO_TABLE = "42P01"


class Pulse:
    """The session on which a broker beats; used by one thread."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._connection: Connection | None = None

    def beat(self, claim: Claim) -> bool:
        """Show that this broker lives; False: nobody holds the live lock, so its session was lost.

        Raises
        ------
        StaleEpoch
            Another broker has taken over.
        LedgerUnavailable
        """
        fresh = self._connection is None
        if self._connection is None:
            self._connection = connect(claim.url, self._timeout_s, _BEAT + claim.nonce)
        try:
            with Watchdog(self._connection).patience(self._timeout_s), self._connection.cursor() as cursor:
                if fresh:
                    # an idle instance does hardly anything else: to plan it took two thirds of each beat
                    values = {"class": CLASS, "lock": claim.live, "shard": claim.shard}
                    cursor.execute(f"PREPARE beat AS {QUERIES['beat']}", values)
                cursor.execute("EXECUTE beat")
                row = cursor.fetchone()
                if row is None or row[0] != claim.nonce:
                    raise claim.replaced(cursor)
                return bool(row[1])
        except psycopg2.Error as error:
            self.close()
            raise unavailable(error, claim.url) from error

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None


class Lookout:
    """A standby's eye on the broker that holds a ledger. It takes no lock and writes nothing.

    Parameters
    ----------
    url : str
    successor : bool
        It follows a broker that is being restarted: it looks more often, and others let it go first.
    clock : callable
        Monotonic seconds.

    Notes
    -----
    Cost of a look: one statement, 0.2 ms.
    """

    def __init__(
        self, url: str, shard: int = 0, successor: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._url = url
        self._values = {
            "class": CLASS, "shard": shard, "lock": Claim(url, "", shard).live, "beat": _BEAT, "successor": _SUCCESSOR,
            "frozen_s": FROZEN_S,
        }  # fmt: skip
        self._successor = successor
        self._clock = clock
        self._connection: Connection | None = None
        #: what the last looks saw, and since when
        self._seen: tuple[int | None, str | None] | None = None
        self._seen_since = 0.0
        self._free_since: float | None = None
        #: Postgres was away: whoever held the lock has lost it without having died
        self._shaken = False

    def pause(self) -> float:
        """Seconds until the next look; drawn, so that standbys do not come all at once."""
        return LOOK_SUCCESSOR_S if self._successor else LOOK_S * (0.75 + random.random() / 2)

    def vacant(self) -> bool:
        """Look once; True: the ledger is to be taken over now.

        Raises
        ------
        LedgerUnavailable
        """
        try:
            if self._connection is None:
                self._connection = connect(self._url, 2.0, _SUCCESSOR if self._successor else _STANDBY)
            with Watchdog(self._connection).patience(2.0), self._connection.cursor() as cursor:
                cursor.execute(QUERIES["look"], self._values)
                holder, beat, age_s, successor = one(cursor)
                if not self._judge(holder, beat, age_s, successor):
                    return False
                if holder is None:
                    return True
                cursor.execute(QUERIES["end_frozen"], self._values)
                return cursor.fetchone() is not None
        except psycopg2.Error as error:
            if error.pgcode == _NO_TABLE:
                return True  # nobody has ever held it
            self.close()
            raise unavailable(error, self._url) from error
        finally:
            self._shaken = self._shaken or self._connection is None

    def _judge(self, holder: int | None, beat: str | None, age_s: float | None, successor: bool) -> bool:
        now = self._clock()
        if (holder, beat) != self._seen:
            self._seen, self._seen_since = (holder, beat), now
        if holder is not None:
            self._free_since, self._shaken = None, False
            return age_s is not None and min(age_s, now - self._seen_since) > FROZEN_S
        if self._free_since is None:
            self._free_since = now
        patience_s = YIELD_S if successor and not self._successor else 0.0
        if self._shaken or (age_s is not None and age_s < FROZEN_S):
            patience_s = max(patience_s, GRACE_S)
        return now - self._free_since >= patience_s

    def close(self) -> None:
        if self._connection is not None:
            with suppress(psycopg2.Error):
                self._connection.close()
        self._connection = None
