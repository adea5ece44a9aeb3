"""The loop's side of the ledger: one group is committed while the next one gathers; threads do what may block.

::

    loop --submit--> express lane -------+
         --submit--> committer --commit--+--> reader   payloads, values, pages, jobs
         <-receive-------<---------------+--> desk     verbs of people: lists, deploy, ...

A small group goes by the express lane, where the loop waits for the answer itself. What goes wrong there is the
committer's.

Reads of a group start after its commit and never hold up the next one. While the ledger does not answer, the
committer tries the same group again for ever: nothing in it was acknowledged, and nothing may be lost.

A fourth thread beats, so that a standby sees that this broker lives. It stops when the loop does not turn any more.
When it finds that the hold on the ledger was lost, a group of nothing is committed, which takes it again.
"""

from __future__ import annotations

import logging
import os
import queue
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol

from pyfi_hpc.errors import LedgerUnavailable, PyfiError
from pyfi_hpc.ledger.pulse import BEAT_S
from pyfi_hpc.model.effects import AskDesk, FindJob, Query, ReadPage, ReadPayloads, ReadValues
from pyfi_hpc.model.events import AskAnswered, JobFound, LedgerDown, LedgerUp, PageRead, PayloadsRead, ValuesRead
from pyfi_hpc.model.ids import Epoch
from pyfi_hpc.model.records import Record
from pyfi_hpc.ports import Ledger

log = logging.getLogger("pyfi_hpc.ledger")

#: waiting times between tries, seconds; each is drawn from the upper half of its range
RETRY_FIRST_S = 0.05
RETRY_MAX_S = 1.0
#: a loop that has not turned for so long hangs, and the broker beats no more, seconds
_HUNG_S = 10.0
#: every so many beats the loop is asked to turn
_TURN_BEATS = 4


class FencedLedger(Ledger, Protocol):
    @property
    def epoch(self) -> Epoch: ...

    def beat(self) -> bool: ...


Desk = Callable[[AskDesk], list[Any]]


class Writer:
    """Implements ``ports.Journal`` on a ledger that was taken over.

    Parameters
    ----------
    ledger : FencedLedger
        ``take_over`` was called; commits and reads may come from two threads at once.
    desk : callable
        Answers ``AskDesk`` with events; it runs in a thread of its own.
    revive : callable, optional
        Called when the ledger does not answer: starts its server again if that is ours and has died.
    """

    def __init__(self, ledger: FencedLedger, desk: Desk, revive: Callable[[], object] | None = None) -> None:
        self._ledger = ledger
        self._desk = desk
        self._revive = revive
        self._told_end, self._wake_end = os.pipe()
        self.waitables: Sequence[int] = [self._told_end] + ([ledger.waitable] if ledger.waitable >= 0 else [])
        os.set_blocking(self._told_end, False)
        os.set_blocking(self._wake_end, False)
        self._seq = 0
        self._busy = False
        #: questions to the desk whose answers were not received
        self._asked = 0
        self._done = False
        #: the group on the express lane
        self._started: tuple[list[Record], list[Query]] | None = None
        self._problem: BaseException | None = None
        #: something was written to the pipe; set after it, so that the pipe is read for certain
        self._told = False
        #: the hold on the ledger was lost while nothing was committed
        self._lost = False
        self._turned_at = time.monotonic()
        self._events: deque[Any] = deque()
        self._stopping = threading.Event()
        self._groups: queue.SimpleQueue[tuple[list[Record], list[Query]] | None] = queue.SimpleQueue()
        self._reads: queue.SimpleQueue[Query | None] = queue.SimpleQueue()
        self._asks: queue.SimpleQueue[AskDesk | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._guard, args=(work,), name=f"ledger {name}", daemon=True)
            for name, work in (
                ("committer", self._commits), ("reader", self._read), ("desk", self._ask), ("pulse", self._beat),
            )  # fmt: skip
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, records: list[Record], queries: list[Query]) -> None:
        assert not self._busy, "one group at a time"
        self._busy = True
        self._asked += sum(type(query) is AskDesk for query in queries)
        if not records:
            self._begin_reads(queries)
            self._committed()
            return
        self._seq += 1
        group = records, queries
        try:
            if self._ledger.start(records, self._seq):
                self._started = group
                return
        except LedgerUnavailable:
            pass  # the committer hears it again, and tells
        self._groups.put(group)

    @property
    def busy(self) -> bool:
        return self._busy

    @property
    def asked(self) -> bool:
        return self._asked > 0

    def receive(self) -> tuple[bool, list[Any]]:
        if self._told:
            self._told = False
            with suppress(BlockingIOError):
                os.read(self._told_end, 4096)
        if self._problem is not None:
            raise self._problem
        self._turned_at = time.monotonic()
        self._look_at_lane()
        if self._lost:
            self._lost = False
            if not self._busy:
                self._busy = True
                self._seq += 1
                self._groups.put(([], []))
        done = self._done
        if done:
            self._done = self._busy = False
        events = [self._events.popleft() for _ in range(len(self._events))]
        self._asked -= sum(type(event) is AskAnswered for event in events)
        return done, events

    def epoch(self) -> Epoch:
        return self._ledger.epoch

    def close(self, timeout_s: float = 5.0) -> None:
        """End the threads; a group that is being tried again is given up, so it must not have been needed."""
        self._stopping.set()
        for line in (self._groups, self._reads, self._asks):
            line.put(None)
        for thread in self._threads:
            thread.join(timeout_s)
        if not any(thread.is_alive() for thread in self._threads):
            os.close(self._told_end)
            os.close(self._wake_end)

    def _look_at_lane(self) -> None:
        group = self._started
        try:
            if not self._ledger.poll() or group is None:
                return
            self._begin_reads(group[1])
            self._done = True
        except LedgerUnavailable:
            self._groups.put(group)  # the committer hears it again, and tells
        self._started = None

    # --- the threads --------------------------------------------------------------------------------

    def _guard(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            # StaleEpoch, or a bug: the loop hears of it at its next receive and ends the broker
            self._problem = error
            self._wake()

    def _commits(self) -> None:
        while (group := self._groups.get()) is not None:
            records, queries = group
            epoch = self._ledger.epoch
            down = self._commit(records)
            if self._stopping.is_set() and down is None:
                return
            if down:
                log.warning("= the ledger is back, epoch=%d", self._ledger.epoch)
            if down or self._ledger.epoch != epoch:
                self._events.append(LedgerUp(self._ledger.epoch))
            self._begin_reads(queries)
            self._committed()

    def _commit(self, records: list[Record]) -> bool | None:
        """Commit, however long it takes; whether the ledger was down meanwhile, or None when told to stop."""
        tries = 0
        while True:
            try:
                self._ledger.commit(records, self._seq)
                return tries > 0
            except LedgerUnavailable as error:
                if not tries:
                    log.warning("! the ledger is away, %d records wait: %s", len(records), error)
                    self._tell(LedgerDown(error.what))
                if self._stopping.wait(pause(tries)):
                    return None
                tries += 1

    def _begin_reads(self, queries: list[Query]) -> None:
        for query in queries:
            if isinstance(query, AskDesk):
                self._asks.put(query)
            else:
                self._reads.put(query)

    def _committed(self) -> None:
        self._done = True
        self._wake()

    def _read(self) -> None:
        while (query := self._reads.get()) is not None:
            tries = 0
            while not self._stopping.is_set():
                try:
                    self._tell(_READERS[type(query)](self._ledger, query))
                    break
                except LedgerUnavailable:
                    self._stopping.wait(pause(tries))
                    tries += 1

    def _ask(self) -> None:
        while (query := self._asks.get()) is not None:
            self._tell(*self._desk(query))

    def _beat(self) -> None:
        beats = 0
        while not self._stopping.wait(BEAT_S):
            beats += 1
            if beats % _TURN_BEATS == 0:
                self._wake()
            if time.monotonic() - self._turned_at > _HUNG_S:
                continue
            try:
                self._lost = not self._ledger.beat()
                if self._lost:
                    self._wake()
            except LedgerUnavailable:
                self._try_to_revive()

    def _try_to_revive(self) -> None:
        if self._revive is not None:
            try:
                self._revive()
            except PyfiError as error:
                log.warning("! the ledger's server could not be started: %s", error)

    def _tell(self, *events: Any) -> None:
        self._events.extend(events)
        self._wake()

    def _wake(self) -> None:
        try:
            os.write(self._wake_end, b"!")
        except BlockingIOError:
            pass  # the pipe is full of wakes already
        self._told = True


def pause(tries: int) -> float:
    """Seconds to wait after so many failed tries; drawn, so that brokers do not come all at once."""
    return min(RETRY_MAX_S, RETRY_FIRST_S * 2.0 ** min(tries, 10)) * (0.5 + random.random() / 2)


def _find_job(ledger: Ledger, q: FindJob) -> JobFound:
    return JobFound(q.key, ledger.find_job(q.owner, q.key))


def _read_payloads(ledger: Ledger, q: ReadPayloads) -> PayloadsRead:
    return PayloadsRead(ledger.payloads(q.batches))


def _read_values(ledger: Ledger, q: ReadValues) -> ValuesRead:
    return ValuesRead(q.wanted, ledger.values(q.wanted))


def _read_page(ledger: Ledger, q: ReadPage) -> PageRead:
    page = ledger.page(q.job, q.cursor, q.bytes_max)
    if page is None:
        return PageRead(q.peer, q.job, False, "", [], q.cursor, False, -1, b"", "")
    return PageRead(
        q.peer, q.job, True, page.owner, page.ranges, page.cursor, page.more, page.total, page.shape,
        page.name,
    )  # fmt: skip


_READERS: dict[type, Callable[[Ledger, Any], Any]] = {
    FindJob: _find_job,
    ReadPayloads: _read_payloads,
    ReadValues: _read_values,
    ReadPage: _read_page,
}
