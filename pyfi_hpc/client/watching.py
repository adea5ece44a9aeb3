"""Watched jobs: pushes and pages of results on their way to who waits for them.

The broker pushes what becomes final as long as its window for this client is open. What was not pushed, or
was lost with a connection, is read in pages from the ledger; an empty push tells that there is some.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from weakref import ref

from pyfi_hpc.client.answers import not_found
from pyfi_hpc.client.sinks import Sink
from pyfi_hpc.model import messages as m

#: pushes are hints: after so long without one the broker is asked, then more and more rarely, seconds
PROBE_S_MIN, PROBE_S_MAX = 10.0, 120.0
#: results waiting in this process for slow readers; beyond it the broker's window stays shut, bytes
RETAINED_BYTES_MAX = 64 << 20
#: tell what was consumed in steps of this, bytes
CONSUMED_STEP_BYTES = 1 << 20
#: what a range costs in the window besides its payload and states, bytes; as in core/clients.py
RANGE_BYTES = 64


class Watching:
    """Sinks by job. ``say`` sends a message if there is a connection, else drops it."""

    def __init__(self, say: Callable[[m.Message], None]) -> None:
        #: bytes that came for slow readers, and that they took; each counted by one side only
        self.kept_bytes = self.taken_bytes = 0
        self._say = say
        self._watched: dict[int, list[ref[Sink]]] = {}
        self._held: set[Sink] = set()
        #: more pages are there, but their reader has too much to read already
        self._stalled: set[Sink] = set()
        self._received_bytes = self._reported_bytes = 0

    def __bool__(self) -> bool:
        return bool(self._watched)

    @property
    def retained_bytes(self) -> int:
        """Results that wait here for slow readers."""
        return self.kept_bytes - self.taken_bytes

    def add(self, sink: Sink, now: float) -> None:
        sink.since = now
        self._heard_of(sink, now)
        if sink.held:
            self._held.add(sink)
        sinks = self._watched.setdefault(sink.job, [])
        if all(get() is not sink for get in sinks):
            sinks.append(ref(sink))

    def remove(self, sink: Sink) -> None:
        sink.reading = False
        self._held.discard(sink)
        self._stalled.discard(sink)
        left = [get for get in self._watched.get(sink.job, ()) if get() not in (sink, None)]
        if left:
            self._watched[sink.job] = left
        else:
            self._watched.pop(sink.job, None)

    def clear(self) -> list[Sink]:
        """All sinks, which are watched no more."""
        sinks = list(self.sinks())
        self._watched.clear()
        self._held.clear()
        self._stalled.clear()
        return sinks

    def sinks(self) -> Iterator[Sink]:
        for job in list(self._watched):
            yield from self._of(job)

    def _of(self, job: int) -> list[Sink]:
        return [sink for get in self._watched.get(job, ()) if (sink := get()) is not None]

    # --- reading ---

    def read(self, sink: Sink) -> None:
        """Read pages from the first result that is missing."""
        sink.cursor = sink.feed.safe_cursor()
        self._read_on(sink)

    def welcomed(self) -> None:
        """A broker that knows nothing of this client's jobs: read what it pushed to nobody, and watch on."""
        self._received_bytes = self._reported_bytes = 0
        self._stalled.clear()
        for sink in self.sinks():
            self.read(sink)

    def resolved(self, message: m.Resolved, now: float) -> None:
        for piece in message.ranges:
            self._received_bytes += len(piece.payload) + len(piece.states) + RANGE_BYTES
        for sink in self._of(message.job):
            if message.ranges:
                self._take(sink, message.ranges, now)
            elif not sink.reading:  # the window was full: read what was not pushed
                self.read(sink)
        self.report()

    def page(self, message: m.Page, now: float) -> None:
        for sink in self._of(message.job):
            if not message.known:
                self.remove(sink)
                sink.fail(not_found(message.job), lost=False)
                continue
            if message.total >= 0:
                sink.feed.total = message.total
            sink.describe(message.total, message.shape, message.name)
            new = self._take(sink, message.ranges, now)
            sink.feed.read(message.cursor, message.ranges)
            if sink.feed.complete:
                self.remove(sink)
            else:
                self._turn(sink, message, new)

    def _take(self, sink: Sink, ranges: list[m.Range], now: float) -> bool:
        pieces = sink.take(ranges)
        if pieces:
            self._heard_of(sink, now)
            if sink.retains:
                self.kept_bytes += sum(len(piece.payload) for piece in pieces)
            if sink.feed.complete:
                self.remove(sink)
        return bool(pieces)

    def _turn(self, sink: Sink, message: m.Page, new: bool) -> None:
        further = tuple(message.cursor) > tuple(sink.cursor)
        sink.cursor = message.cursor if message.more else sink.feed.safe_cursor()
        sink.reading = False
        if message.more and further and (new or not sink.probing):
            if sink.retains and self.retained_bytes > RETAINED_BYTES_MAX:
                self._stalled.add(sink)
            else:
                self._read_on(sink, sink.probing)

    def _read_on(self, sink: Sink, probing: bool = False) -> None:
        sink.reading, sink.probing = True, probing
        self._say(m.Watch(sink.job, sink.cursor))

    # --- time ---

    def report(self) -> None:
        """Tell the broker how much was consumed; what waits for slow readers beyond a limit is not."""
        consumed = self._received_bytes - max(0, self.retained_bytes - RETAINED_BYTES_MAX)
        if consumed - self._reported_bytes >= CONSUMED_STEP_BYTES:
            self._reported_bytes = consumed
            self._say(m.Consumed(consumed))

    def resume(self) -> None:
        """Readers may have caught up: go on with the pages that they had no room for."""
        if self._stalled and self.retained_bytes <= RETAINED_BYTES_MAX // 2:
            stalled, self._stalled = self._stalled, set()
            for sink in stalled:
                self._read_on(sink)
            self.report()

    def look_around(self, now: float) -> None:
        """Ask for pushes that may have got lost; forget jobs whose reader has gone."""
        self.report()
        for job, sinks in list(self._watched.items()):
            if not any(get() is not None for get in sinks):
                del self._watched[job]
        for sink in self.sinks():
            if now >= sink.probe_at:
                # one page, more only if it brings news: from probe to probe it goes round the job
                sink.probe_wait_s = min(2 * sink.probe_wait_s, PROBE_S_MAX)
                sink.probe_at = now + sink.probe_wait_s
                self._read_on(sink, probing=True)

    def _heard_of(self, sink: Sink, now: float) -> None:
        sink.probe_wait_s = PROBE_S_MIN
        sink.probe_at = now + PROBE_S_MIN
