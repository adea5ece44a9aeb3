"""The client's side of the protocol: what to say, when, and what an answer means. No socket, no thread, no clock.

    caller --Submit--> unsent --> unacked --Accepted--> watched --Resolved / Page--> sink
                                     | Refused, retry_after_s >= 0: paused, sent again
    connected -> Hello -> Welcome: everything unacknowledged again with ``resend``, everything watched again
    Unknown (the broker was restarted) -> Hello;   3 heartbeats of silence -> a new connection

Every method takes ``now`` in monotonic seconds; what is to be sent gathers in ``out``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any
from weakref import ref

from pyfi_hpc.client.answers import answered, denied, not_found, refused
from pyfi_hpc.client.sinks import Pending, Sink, Submission, Waiter, unreachable
from pyfi_hpc.errors import BrokerUnreachable, PyfiError, RemoteProtocolError
from pyfi_hpc.model import messages as m
from pyfi_hpc.model.limits import PROTOCOL_VERSION, Limits

logger = logging.getLogger("pyfi_hpc.client")

#: heartbeats of silence after which a new connection is tried
SILENT_BEATS_MAX = 3
#: pushes are hints: after so long without one the broker is asked, then more and more rarely, seconds
PROBE_S_MIN, PROBE_S_MAX = 10.0, 120.0
#: results waiting in this process for slow readers; beyond it the broker's window stays shut, bytes
RETAINED_BYTES_MAX = 64 << 20
#: tell what was consumed in steps of this, bytes
CONSUMED_STEP_BYTES = 1 << 20
#: what a range costs in the window besides its payload and states, bytes; as in core/clients.py
RANGE_BYTES = 64


class Conversation:
    """State of one client's talk with its broker."""

    def __init__(
        self, name: str, incarnation: str, timeout_s: float, freed: Callable[[int, int], None],
        limits: Limits | None = None,
    ) -> None:  # fmt: skip
        limits = limits or Limits()
        self.out: list[m.Message] = []
        self.where = ""
        self.reconnect = False
        self.payload_bytes_max = limits.payload_bytes_max
        self.heartbeat_s = limits.heartbeat_s
        self.timeout_s = timeout_s
        #: bytes that readers have not taken yet; changed by callers, read here
        self.retained_bytes = 0
        #: this client may not talk to this broker at all; the session ends with it
        self.fatal: PyfiError | None = None
        #: first words after a pause: the broker may have moved meanwhile
        self.awakened = False
        self._hello = m.Hello(PROTOCOL_VERSION, "client", name, incarnation)
        self._freed = freed
        self._open = False
        self._quiet = True
        self._heard_at = self._said_at = self._connected_at = self._gave_up_at = self._scanned_at = 0.0
        self._admitted_at = 0.0
        self._beats = 0
        self._unacked: dict[tuple[bytes, int], Pending] = {}
        self._unsent: list[Pending] = []
        self._paused: dict[Submission, float] = {}
        self._waiters: dict[int, Waiter] = {}
        self._watched: dict[int, list[Callable[[], Sink | None]]] = {}
        self._held: set[Sink] = set()
        self._received_bytes = self._reported_bytes = 0
        #: more pages are there, but their reader has too much to read already
        self._stalled: set[Sink] = set()

    # --- what callers want ---

    def submit(self, pending: Pending, now: float) -> None:
        if (error := pending.submission.error) is not None:
            self._freed(pending.message.count, pending.size)
            logger.debug("= batch %d of a job that failed: %s", pending.message.number, error)
            return
        pending.since = now
        self._unacked[pending.message.key, pending.message.number] = pending
        pending.submission.unacked[pending.message.number] = pending
        if pending.submission not in self._paused:
            self._unsent.append(pending)

    def ask(self, waiter: Waiter, now: float) -> None:
        waiter.since = now
        self._waiters[waiter.message.request] = waiter
        if self._open:
            waiter.sent = True
            self.out.append(waiter.message)

    def watch(self, job: int, sink: Sink, now: float) -> None:
        """Read the job from its start, then as it goes on."""
        sink.job = job
        self._add(sink, now)
        self._read_on(sink)

    def forget(self, waiter: Waiter) -> None:
        self._waiters.pop(waiter.message.request, None)

    @property
    def outstanding(self) -> bool:
        return bool(self._unacked or self._waiters or self._watched)

    @property
    def unacknowledged(self) -> bool:
        return bool(self._unacked)

    # --- the connection and the clock ---

    def connected(self, where: str, now: float) -> None:
        """A new connection; nothing of the old one is expected any more."""
        self.where, self._connected_at = where, now
        self.out.clear()
        self.reconnect = False
        self._greet(now)

    def advance(self, now: float) -> None:
        """Send what is ready, and do what the time asks for."""
        if not self.outstanding:
            self._quiet = True
            return
        if self._quiet:  # a silence counts from when somebody had something to say
            self._quiet, self.awakened, self._heard_at = False, True, max(self._heard_at, now)
            self._connected_at = max(self._connected_at, now - self.heartbeat_s)
        if self._open:
            self._send_ready(now)
            if self._stalled and self.retained_bytes <= RETAINED_BYTES_MAX // 2:
                stalled, self._stalled = self._stalled, set()
                for sink in stalled:
                    self._read_on(sink)
                self._report_consumed()
            if now - self._said_at >= self.heartbeat_s:
                self._beats += 1
                self._said_at = now
                self.out.append(m.Beat(self._beats))
        if now - self._scanned_at >= min(self.heartbeat_s, self.timeout_s / 4):
            self._scanned_at = now
            self._look_around(now)

    def wake_at(self, now: float) -> float:
        if not self.outstanding:
            return now + 3600.0
        at = now + min(self.heartbeat_s, self.timeout_s / 4)
        return min(at, *self._paused.values()) if self._paused else at

    def end(self, error: BaseException) -> None:
        """The session ends: nobody may wait any longer."""
        for pending in list(self._unacked.values()):
            self._drop(pending.submission, error)
        for waiter in self._waiters.values():
            waiter.answer(error=error)
        self._waiters.clear()
        for sink in list(self._sinks()):
            sink.fail(error, lost=not sink.held)
        self._watched.clear()
        self._held.clear()

    # --- what the broker says ---

    def handle(self, message: Any, now: float) -> None:
        """Take one message; raises RemoteProtocolError where it makes no sense."""
        self._heard_at = now
        self._gave_up_at = 0.0
        _HANDLERS[type(message)](self, message, now)

    def _welcome(self, message: m.Welcome, now: float) -> None:
        if message.version != PROTOCOL_VERSION:
            self.fatal = RemoteProtocolError(
                f"the broker speaks protocol {message.version}, this client {PROTOCOL_VERSION}", where=self.where,
                fix="install the same version of pyfi_hpc on both sides",
            )  # fmt: skip
            return
        self._open = True
        self.payload_bytes_max = message.payload_bytes_max
        self.heartbeat_s = message.heartbeat_s
        self._received_bytes = self._reported_bytes = 0
        self._unsent.clear()
        for pending in self._unacked.values():
            pending.message.resend = pending.message.resend or pending.sent
            pending.sent = False
            if pending.submission not in self._paused:
                self._unsent.append(pending)
        for waiter in list(self._waiters.values()):
            self._ask_again(waiter)
        self._stalled.clear()
        for sink in self._sinks():
            sink.cursor = sink.feed.safe_cursor()
            self._read_on(sink)

    def _unknown(self, _message: m.Unknown, now: float) -> None:
        if self._open or now - self._said_at >= self.heartbeat_s:
            self._greet(now)

    def _denied(self, message: m.Denied, _now: float) -> None:
        self.fatal = denied(message, self.where)

    def _accepted(self, message: m.Accepted, now: float) -> None:
        pending = self._acknowledged(message.key, message.number)
        if pending is None:
            return
        self._admitted_at = now
        submission = pending.submission
        self._paused.pop(submission, None) if not submission.unacked else None
        first = submission.job == 0
        if first:
            submission.job = submission.sink.job = message.job
            if not submission.sink.feed.complete:
                self._add(submission.sink, now)
            submission.sink.accepted(message.job)
            submission.settled()
        if first and pending.message.resend:
            # results that became final before the broker knew this connection were pushed nowhere
            submission.sink.cursor = submission.sink.feed.safe_cursor()
            self._read_on(submission.sink)
        self._freed(pending.message.count, pending.size)  # last: it wakes those who want the job's id

    def _refused(self, message: m.Refused, now: float) -> None:
        pending = self._unacked.get((message.key, message.number))
        if pending is None:
            return
        if min(pending.submission.unacked) < message.number:
            # it came before the batch that it follows, which waits to be sent again: so does this one
            pending.sent = False
            self._paused.setdefault(pending.submission, now + self.heartbeat_s / 4)
            return
        pending.refused_at = pending.refused_at or now
        # trying again makes sense while others get through, or for as long as a silence would be borne
        patient = now - max(pending.refused_at, self._admitted_at) < self.timeout_s
        if message.retry_after_s >= 0 and patient:
            pending.sent = False
            self._paused[pending.submission] = now + message.retry_after_s
            return
        self._drop(pending.submission, refused(message, pending.message.socket))

    def _resolved(self, message: m.Resolved, now: float) -> None:
        for piece in message.ranges:
            self._received_bytes += len(piece.payload) + len(piece.states) + RANGE_BYTES
        for sink in self._sinks_of(message.job):
            if message.ranges:
                self._take(sink, message.ranges, now)
            elif not sink.reading:  # the window was full: read what was not pushed
                sink.cursor = sink.feed.safe_cursor()
                self._read_on(sink)
        self._report_consumed()

    def _page(self, message: m.Page, now: float) -> None:
        for sink in self._sinks_of(message.job):
            if not message.known:
                self._remove(sink)
                sink.fail(not_found(message.job), lost=False)
                continue
            if message.total >= 0:
                sink.feed.total = message.total
            sink.describe(message.total, message.shape, message.name)
            new = self._take(sink, message.ranges, now)
            sink.feed.read(message.cursor, message.ranges)
            if sink.feed.complete:
                self._finish(sink)
            else:
                self._turn_page(sink, message, new)

    def _answer(self, message: m.Answer, _now: float) -> None:
        waiter = self._waiters.pop(message.request, None)
        if waiter is not None:
            try:
                waiter.answer(answered(message))
            except PyfiError as error:
                waiter.answer(error=error)

    def _cancelled(self, message: m.Cancelled, _now: float) -> None:
        waiter = self._waiters.pop(message.request, None)
        if waiter is not None:
            waiter.answer(message.count)

    def _beat(self, _message: m.Beat, _now: float) -> None:
        """It lives: that is all."""

    def _ask_again(self, waiter: Waiter) -> None:
        if waiter.sent and not waiter.repeat:
            self.forget(waiter)
            waiter.answer(error=BrokerUnreachable(
                "the connection was lost before the broker answered", where=self.where,
                fix="look whether it was done (`pyfi ls`), then try again",
            ))  # fmt: skip
            return
        waiter.sent = True
        self.out.append(waiter.message)

    # --- submissions ---

    def _send_ready(self, now: float) -> None:
        for submission in [s for s, due in self._paused.items() if due <= now]:
            del self._paused[submission]
            self._unsent += [p for p in submission.unacked.values() if not p.sent]
        if not self._unsent:
            return
        for pending in self._unsent:
            if pending.message.number in pending.submission.unacked and not pending.sent:
                if pending.submission in self._paused:
                    continue
                pending.sent = True
                self.out.append(pending.message)
        self._unsent = []
        self._said_at = now

    def _acknowledged(self, key: bytes, number: int) -> Pending | None:
        pending = self._unacked.pop((key, number), None)
        if pending is not None:
            del pending.submission.unacked[number]
        return pending

    def _drop(self, submission: Submission, error: BaseException) -> None:
        """The job, or the rest of it, was not accepted."""
        submission.error = error
        dropped = [self._acknowledged(submission.key, number) for number in list(submission.unacked)]
        self._paused.pop(submission, None)
        self._remove(submission.sink)
        submission.sink.fail(error, lost=False)
        submission.settled()
        for pending in dropped:
            if pending is not None:
                self._freed(pending.message.count, pending.size)

    # --- watched jobs ---

    def _add(self, sink: Sink, now: float) -> None:
        sink.since = now
        sink.probe_wait_s = PROBE_S_MIN
        sink.probe_at = now + PROBE_S_MIN
        if sink.held:
            self._held.add(sink)
        sinks = self._watched.setdefault(sink.job, [])
        if all(get() is not sink for get in sinks):
            sinks.append(ref(sink))

    def _remove(self, sink: Sink) -> None:
        self._held.discard(sink)
        self._stalled.discard(sink)
        left = [get for get in self._watched.get(sink.job, ()) if get() not in (sink, None)]
        if left:
            self._watched[sink.job] = left
        else:
            self._watched.pop(sink.job, None)

    def _sinks_of(self, job: int) -> list[Sink]:
        return [sink for get in self._watched.get(job, ()) if (sink := get()) is not None]

    def _sinks(self) -> Iterator[Sink]:
        for job in list(self._watched):
            yield from self._sinks_of(job)

    def _turn_page(self, sink: Sink, message: m.Page, new: bool) -> None:
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
        if self._open:
            self.out.append(m.Watch(sink.job, sink.cursor))

    def _take(self, sink: Sink, ranges: list[m.Range], now: float) -> bool:
        pieces = sink.take(ranges)
        if pieces:
            sink.probe_wait_s = PROBE_S_MIN
            sink.probe_at = now + PROBE_S_MIN
            if sink.retains:
                self.retained_bytes += sum(len(piece.payload) for piece in pieces)
            if sink.feed.complete:
                self._finish(sink)
        return bool(pieces)

    def _finish(self, sink: Sink) -> None:
        sink.reading = False
        self._remove(sink)

    def _report_consumed(self) -> None:
        withheld = max(0, self.retained_bytes - RETAINED_BYTES_MAX)
        consumed = self._received_bytes - withheld
        if self._open and consumed - self._reported_bytes >= CONSUMED_STEP_BYTES:
            self._reported_bytes = consumed
            self.out.append(m.Consumed(consumed))

    # --- time ---

    def _greet(self, now: float) -> None:
        self._open = False
        self._said_at = now
        self.out.append(self._hello)

    def _look_around(self, now: float) -> None:
        """Once per heartbeat: silence, things overdue, pushes that may be lost, sinks nobody holds."""
        silent_s = now - self._heard_at
        patience_s = SILENT_BEATS_MAX * self.heartbeat_s
        if silent_s > patience_s and now - self._connected_at > patience_s:
            self.reconnect = True
        if silent_s > self.timeout_s:
            self._give_up(now, silent_s)
        self._report_consumed()
        for job, sinks in list(self._watched.items()):
            if not any(get() is not None for get in sinks):
                del self._watched[job]
        if self._open:
            for sink in self._sinks():
                if now >= sink.probe_at:
                    self._probe(sink, now)

    def _probe(self, sink: Sink, now: float) -> None:
        """Read one page, more only if it brings news; goes round the job from probe to probe."""
        sink.probe_wait_s = min(2 * sink.probe_wait_s, PROBE_S_MAX)
        sink.probe_at = now + sink.probe_wait_s
        self._read_on(sink, probing=True)

    def _give_up(self, now: float, silent_s: float) -> None:
        """The broker was silent for too long: whoever waits gets the error now."""
        error = unreachable(self.where, silent_s)
        for pending in [p for p in self._unacked.values() if now - p.since > self.timeout_s]:
            self._drop(pending.submission, error)
        for waiter in [w for w in self._waiters.values() if now - w.since > self.timeout_s]:
            self.forget(waiter)
            waiter.answer(error=error)
        again = now - self._gave_up_at >= self.timeout_s
        if again:
            self._gave_up_at = now
        for sink in [s for s in self._sinks() if now - s.since > self.timeout_s]:
            if sink.held:
                self._remove(sink)
            if sink.held or again:
                sink.fail(unreachable(self.where, silent_s, sink.job), lost=True)


_HANDLERS: dict[type, Callable[[Conversation, Any, float], None]] = {
    m.Welcome: Conversation._welcome,
    m.Unknown: Conversation._unknown,
    m.Denied: Conversation._denied,
    m.Accepted: Conversation._accepted,
    m.Refused: Conversation._refused,
    m.Resolved: Conversation._resolved,
    m.Page: Conversation._page,
    m.Answer: Conversation._answer,
    m.Cancelled: Conversation._cancelled,
    m.Beat: Conversation._beat,
}
