"""Where results go: what the conversation with the broker needs from whoever waits for a job.

Sink        one watcher of a job
 Inbox      keeps results as bytes until somebody asks (Job, map)
 Ticket     one future per task (calls.py)
Submission  the batches of one job that this process sends
Waiter      one question and its answer
"""

from __future__ import annotations

import os
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any

from pyfi_hpc.client.feed import START, Cursor, Feed, offsets_of
from pyfi_hpc.errors import BrokerUnreachable, LedgerUnavailable
from pyfi_hpc.model.messages import Range, Submit


class Sink:
    """One watcher of a job. All methods are called in the session's thread."""

    #: kept alive by the session until its job is complete; else only as long as its owner lives
    held = False
    #: bytes that wait here for a slow reader count against the session's window
    retains = False

    def __init__(self, total: int = -1) -> None:
        self.job = 0
        self.feed = Feed(total)
        #: seconds (monotonic) after which the broker is asked whether a push was lost
        self.probe_at = 0.0
        self.probe_wait_s = 0.0
        #: pages are being read; the next one starts at ``cursor``
        self.reading = False
        self.probing = False
        self.cursor: Cursor = START
        self.since = 0.0

    def accepted(self, job: int) -> None:
        """The job's id is known."""

    def take(self, ranges: Sequence[Range]) -> list[Range]:
        """Results arrived; those that are new are settled and returned."""
        pieces: list[Range] = []
        for piece in ranges:
            pieces += self.feed.admit(piece)
        if pieces:
            self.settle(pieces)
        return pieces

    def settle(self, pieces: Sequence[Range]) -> None:
        """Results that are new."""
        raise NotImplementedError

    def describe(self, total: int, shape: bytes, name: str) -> None:
        """A page told what the job is like."""

    def fail(self, error: BaseException, lost: bool) -> None:
        """No result will come: for ever, or (``lost``) until the broker is back."""
        raise NotImplementedError


class Submission:
    """The batches of one job, in order; the key makes sending twice harmless."""

    __slots__ = (
        "__weakref__",
        "error",
        "job",
        "key",
        "listeners",
        "next_index",
        "next_number",
        "sink",
        "unacked",
    )

    def __init__(self, sink: Sink) -> None:
        self.key = os.urandom(16)
        self.sink = sink
        self.job = 0
        self.error: BaseException | None = None
        self.next_number = 0
        self.next_index = 0
        #: by number, in order; each until Accepted or Refused
        self.unacked: dict[int, Pending] = {}
        #: told once the job's id or the error is known
        self.listeners: list[Callable[[Submission], None]] = []

    def settled(self) -> None:
        listeners, self.listeners = self.listeners, []
        for listener in listeners:
            listener(self)


class Pending:
    """A batch that is not acknowledged."""

    __slots__ = ("message", "refused_at", "sent", "since", "size", "submission")

    def __init__(self, submission: Submission, message: Submit, size: int = 0) -> None:
        self.submission = submission
        self.message = message
        #: what it takes of the session's room, bytes
        self.size = size or len(message.payload) + len(message.offsets) + len(message.edges) + 200
        self.sent = False
        self.since = 0.0
        self.refused_at = 0.0


class Waiter:
    """A caller waits for one answer."""

    __slots__ = ("_event", "error", "message", "repeat", "result", "sent", "since")

    def __init__(self, message: Any, repeat: bool) -> None:
        self.message = message
        #: asking twice does no harm: sent again on a new connection
        self.repeat = repeat
        self.sent = False
        self.since = 0.0
        self.result: Any = None
        self.error: BaseException | None = None
        self._event = threading.Event()

    def answer(self, result: Any = None, error: BaseException | None = None) -> None:
        self.result, self.error = result, error
        self._event.set()

    def wait(self, timeout: float | None) -> Any:
        if not self._event.wait(timeout):
            raise TimeoutError(f"no answer within {timeout} s")
        if self.error is not None:
            raise self.error
        return self.result


class Inbox(Sink):
    """Results of a job as they came, undecoded; any number of threads may wait.

    Memory: the results' bytes plus about 300 bytes per range; ``pop`` lets go of them.
    """

    def __init__(self, may_wait: Callable[[str], None], retains: bool = False) -> None:
        super().__init__()
        self.changed = threading.Condition()
        self.retains = retains
        self.shape = b""
        self.name = ""
        #: the job can be described: its first page is here, or it was submitted by this process
        self.described = False
        self.error: BaseException | None = None
        self._lost: BaseException | None = None
        self._lost_count = 0
        self._may_wait = may_wait
        self._pieces: dict[int, Range] = {}
        #: bytes of results that nobody has taken
        self.size = 0
        self._order: list[int] | None = None

    def accepted(self, job: int) -> None:
        with self.changed:
            self.job = job
            self.changed.notify_all()

    def take(self, ranges: Sequence[Range]) -> list[Range]:
        with self.changed:  # what the feed knows is here: readers look at both
            return super().take(ranges)

    def settle(self, pieces: Sequence[Range]) -> None:
        for piece in pieces:
            self._pieces[piece.first] = piece
            self.size += len(piece.payload)
        self._order = None
        self.changed.notify_all()

    def describe(self, total: int, shape: bytes, name: str) -> None:
        with self.changed:
            self.shape, self.name, self.described = shape or self.shape, name or self.name, True
            self.changed.notify_all()

    def fail(self, error: BaseException, lost: bool) -> None:
        with self.changed:
            if lost:
                self._lost, self._lost_count = error, self._lost_count + 1
            else:
                self.error = error
            self.changed.notify_all()

    def sealed(self, total: int) -> None:
        """This process submitted the last batch."""
        with self.changed:
            self.feed.total = total
            self.described = True
            self.changed.notify_all()

    def pop(self, index: int) -> Range | None:
        """The range that starts at ``index``, which is then forgotten; for readers in order."""
        with self.changed:
            piece = self._pieces.pop(index, None)
            if piece is not None:
                self.size -= len(piece.payload)
            return piece

    def pop_any(self) -> Range | None:
        """The range that came first, which is then forgotten; for readers who take results as they come."""
        with self.changed:
            first = next(iter(self._pieces), None)
        return None if first is None else self.pop(first)

    def has_any(self) -> bool:
        return bool(self._pieces)

    def has(self, index: int) -> bool:
        """A range starts at ``index``."""
        return index in self._pieces

    def raw(self, index: int) -> tuple[int, bytes]:
        """State and bytes of one task that is here."""
        with self.changed:
            if self._order is None:
                self._order = sorted(self._pieces)
            piece = self._pieces[self._order[bisect_right(self._order, index) - 1]]
        at = index - piece.first
        lo, hi = offsets_of(piece.offsets[4 * at : 4 * at + 8])
        return piece.states[at], piece.payload[lo:hi]

    def wait(self, ready: Callable[[], bool], timeout: float | None, what: str) -> None:
        """Wait until ``ready``.

        Raises
        ------
        TimeoutError
            It took longer than ``timeout`` seconds.
        BrokerUnreachable
            The broker was silent for too long; the job goes on and can be attached later.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        with self.changed:
            lost = self._lost_count
            while not ready():
                if self.error is not None:
                    raise self.error
                if self._lost_count != lost and self._lost is not None:
                    raise self._lost
                self._may_wait(what)
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    raise TimeoutError(f"{what} is not there after {timeout} s")
                self.changed.wait(left)


def unreachable(where: str, silent_s: float, job: int = 0) -> BrokerUnreachable:
    """The error after the timeout; with a job's id it says that nothing is lost."""
    fix = "see `pyfi info`; start it again with `pyfi up`"
    if job:
        fix += f". The job is in the ledger: pyfi_hpc.attach({job}) gets its results later"
    return BrokerUnreachable(f"the broker has been silent for {silent_s:.0f} s", where=where, fix=fix)


def unkept(where: str, waited_s: float) -> LedgerUnavailable:
    """The error of a submission that the broker has taken and could not write down."""
    return LedgerUnavailable(
        f"the broker lives, but its ledger has kept nothing for {waited_s:.0f} s", where=where,
        fix="see `pyfi doctor`. It may be accepted when the ledger is back: look (`pyfi queue`) before trying again",
    )  # fmt: skip
