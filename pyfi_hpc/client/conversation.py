"""The client's side of the protocol: what to say and when, what an answer means. No socket, thread or clock.

    caller --Submit--> unsent --> unacked --Accepted--> watched --Resolved / Page--> sink
                                     | Refused, retry_after_s >= 0: paused, sent again
    connected -> Hello -> Welcome: everything unacknowledged again with ``resend``, everything watched again
    Unknown (the broker was restarted) -> Hello;   3 heartbeats of silence -> a new connection

Every method takes ``now`` in monotonic seconds; what is to be sent gathers in ``out``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from pyfi_hpc.client.answers import answered, denied, refused
from pyfi_hpc.client.sinks import Pending, Sink, Submission, Waiter, unkept, unreachable
from pyfi_hpc.client.watching import Watching
from pyfi_hpc.errors import BrokerUnreachable, PyfiError, RemoteProtocolError
from pyfi_hpc.model import messages as m
from pyfi_hpc.model.limits import PROTOCOL_VERSION, Limits

logger = logging.getLogger("pyfi_hpc.client")

#: heartbeats of silence after which a new connection is tried
SILENT_BEATS_MAX = 3
#: of a beat within which its answer is due; then the access file is looked at so often, seconds
_ANSWER_BEATS = 1.25
_LOOK_S = 0.25


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
        #: this client may not talk to this broker at all; the session ends with it
        self.fatal: PyfiError | None = None
        #: first words after a pause, or no answer to a beat: the broker may have moved meanwhile
        self.awakened = False
        self._hello = m.Hello(PROTOCOL_VERSION, "client", name, incarnation)
        self._freed = freed
        self._open = False
        self._quiet = True
        self._heard_at = self._said_at = self._connected_at = self._gave_up_at = self._scanned_at = 0.0
        self._looked_at = 0.0
        self._admitted_at = 0.0
        self._beats = 0
        self._unacked: dict[tuple[bytes, int], Pending] = {}
        self._unsent: list[Pending] = []
        self._paused: dict[Submission, float] = {}
        self._waiters: dict[int, Waiter] = {}
        self.watching = Watching(self._say)

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
        self.watching.add(sink, now)
        self.watching.read(sink)

    def forget(self, waiter: Waiter) -> None:
        self._waiters.pop(waiter.message.request, None)

    @property
    def outstanding(self) -> bool:
        return bool(self._unacked or self._waiters or self.watching)

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
            self.awakened = now - self._heard_at > self.heartbeat_s
            self._quiet, self._heard_at = False, max(self._heard_at, now)
            self._connected_at = max(self._connected_at, now - self.heartbeat_s)
        if self._open:
            self._send_ready(now)
            self.watching.resume()
            if now - self._said_at >= self.heartbeat_s:
                self._beats += 1
                self._said_at = now
                self.out.append(m.Beat(self._beats))
        if self._overdue(now) and now - self._looked_at >= _LOOK_S:
            self.awakened, self._looked_at = True, now
        if now - self._scanned_at >= min(self.heartbeat_s, self.timeout_s / 4):
            self._scanned_at = now
            self._look_around(now)

    def wake_at(self, now: float) -> float:
        if not self.outstanding:
            return now + 3600.0
        at = now + min(self.heartbeat_s, self.timeout_s / 4)
        if self._overdue(at):
            at = min(at, max(now + _LOOK_S, self._heard_at + _ANSWER_BEATS * self.heartbeat_s))
        # while nobody has said welcome nothing is sent, however long ago it was due
        return min(at, *self._paused.values()) if self._paused and self._open else at

    def _overdue(self, now: float) -> bool:
        """A beat would have been answered: the broker is gone, frozen or far behind."""
        return now - self._heard_at > _ANSWER_BEATS * self.heartbeat_s

    def end(self, error: BaseException) -> None:
        """The session ends: nobody may wait any longer."""
        for pending in list(self._unacked.values()):
            self._drop(pending.submission, error)
        for waiter in self._waiters.values():
            waiter.answer(error=error)
        self._waiters.clear()
        for sink in self.watching.clear():
            sink.fail(error, lost=not sink.held)

    # --- what the broker says ---

    def handle(self, message: Any, now: float) -> None:
        """Take one message; raises RemoteProtocolError where it makes no sense."""
        self._heard_at = now
        self._gave_up_at = 0.0
        _HANDLERS[type(message)](self, message, now)

    def _welcome(self, message: m.Welcome, now: float) -> None:
        if message.version != PROTOCOL_VERSION:
            self.fatal = RemoteProtocolError(
                f"the broker speaks protocol {message.version}, this client {PROTOCOL_VERSION}",
                where=self.where, fix="install the same version of pyfi_hpc on both sides",
            )  # fmt: skip
            return
        self._open = True
        self.payload_bytes_max = message.payload_bytes_max
        self.heartbeat_s = message.heartbeat_s
        self._unsent.clear()
        for pending in self._unacked.values():
            pending.message.resend = pending.message.resend or pending.sent
            pending.sent = False
            if pending.submission not in self._paused:
                self._unsent.append(pending)
        for waiter in list(self._waiters.values()):
            self._ask_again(waiter)
        self.watching.welcomed()

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
                self.watching.add(submission.sink, now)
            submission.sink.accepted(message.job)
            submission.settled()
        if first and pending.message.resend:
            # results that became final before the broker knew this connection were pushed nowhere
            self.watching.read(submission.sink)
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
        self.watching.resolved(message, now)

    def _page(self, message: m.Page, now: float) -> None:
        self.watching.page(message, now)

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
        self.watching.remove(submission.sink)
        submission.sink.fail(error, lost=False)
        submission.settled()
        for pending in dropped:
            if pending is not None:
                self._freed(pending.message.count, pending.size)

    # --- time ---

    def _say(self, message: m.Message) -> None:
        if self._open:
            self.out.append(message)

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
        elif self._open:
            self._give_up_unkept(now)
        if self._open:
            self.watching.look_around(now)

    def _give_up_unkept(self, now: float) -> None:
        """The broker lives and acknowledges nothing: its ledger is away, and it knew that too late to refuse these."""
        if now - self._admitted_at <= self.timeout_s:
            return
        for pending in [p for p in self._unacked.values() if p.sent and now - p.since > self.timeout_s]:
            if not pending.refused_at and pending.submission not in self._paused:
                self._drop(pending.submission, unkept(self.where, now - pending.since))

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
        for sink in [s for s in self.watching.sinks() if now - s.since > self.timeout_s]:
            if sink.held:
                self.watching.remove(sink)
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
