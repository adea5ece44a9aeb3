"""Single calls: a future each, gathered into batches.

Calls that wait when the session's thread comes round, to the same socket with the same options, become one
job. A future among a call's arguments becomes an edge. Inside one batch the producer may be any earlier task;
one elsewhere must have been accepted, because the edge names its job: the batch is held back until then.

Held batches must not wait for each other: each has a level, and waits only for batches of lower levels::

    x = f(1); y = g(x); z = f(y)      f: level 0 [x]    g: level 1 [y]    f: level 2 [z]
"""

from __future__ import annotations

import concurrent.futures
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from pyfi_hpc.client.answers import encode_body
from pyfi_hpc.client.feed import offsets_of, pack
from pyfi_hpc.client.options import Options
from pyfi_hpc.client.outcome import Result, TaskCancelled, error_of, own, shape_of
from pyfi_hpc.client.sinks import Pending, Sink, Submission
from pyfi_hpc.errors import PyfiError
from pyfi_hpc.model.ids import task_name
from pyfi_hpc.model.limits import Limits
from pyfi_hpc.model.messages import Range, Submit
from pyfi_hpc.model.states import TaskState
from pyfi_hpc.runner.payload import decode_value

if TYPE_CHECKING:
    from pyfi_hpc.client.session import Session

#: a call that travels alone: the job's result is the call's value, not a list of one
_SHAPE_OF_ONE = shape_of(Result(0))
_BATCH_TASKS_MAX = Limits().batch_tasks_max
_BATCH_BYTES_GOAL = Limits().batch_bytes_goal
#: what a call takes of the session's room besides its arguments, bytes
CALL_BYTES = 64
_NOT_DECODED = object()
_cancelling = threading.RLock()
_StdFuture = concurrent.futures.Future


class Future(_StdFuture):  # type: ignore[type-arg]
    """The result of one call: a concurrent.futures.Future that has an id and outlives its process.

    It works with ``as_completed``, ``wait`` and ``asyncio.wrap_future``, and as an argument of another call.
    The value is decoded when it is first asked for, in the thread that asks.
    """

    def __init__(
        self, session: Session, socket: str, options: Options, payload: bytes, needs: list[Future] | None,
        crowd: set[Future] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self._session = session
        self._socket = socket
        self._options = options
        self._payload = payload
        self._needs = needs
        self._crowd = crowd
        self._ticket: Ticket | None = None
        self._index = 0
        self._final = 0
        self._data = b""
        self._value: Any = _NOT_DECODED
        if crowd is not None:
            crowd.add(self)

    @property
    def id(self) -> str:
        """The task's id, ``J.i``, good in any process; waits until the call is in the ledger.

        Raises
        ------
        PyfiError
            The call was not accepted.
        """
        return task_name(self.job, self._index)

    @property
    def job(self) -> int:
        """The job's id; waits as ``id`` does."""
        self._session.wait_accepted(self._known)
        ticket = self._ticket
        if ticket is None or not ticket.job:
            raise self.exception() or TaskCancelled()
        return ticket.job

    @property
    def status(self) -> str:
        """The task's state in Slurm's words; the broker is asked whether one that is not final runs."""
        name = self._name()
        return state_of(self._session, name) if name and not self.done() else self._word()

    def _word(self) -> str:
        if not self.done():
            return TaskState.PENDING.word
        if self.cancelled():
            return TaskState.CANCELLED.word
        if super().exception() is None:
            return TaskState.COMPLETED.word
        return TaskState(self._final or TaskState.FAILED).word

    def result(self, timeout: float | None = None) -> Any:
        """The value; raises what the call raised.

        Raises
        ------
        TimeoutError
            Not there after ``timeout`` seconds.
        TaskError
            The task did not complete; a builtin exception of the function is raised as itself.
        BrokerUnreachable
            The broker was silent for too long; the task's result can be attached later.
        """
        if self._value is not _NOT_DECODED:
            return self._value
        self._may_wait()
        try:
            super().result(timeout)
        except concurrent.futures.CancelledError:
            raise TaskCancelled(task=self._name()) from None
        self._value = decode_value(self._data)
        self._data = b""
        return self._value

    get = result

    def exception(self, timeout: float | None = None) -> BaseException | None:
        self._may_wait()
        try:
            return super().exception(timeout)
        except concurrent.futures.CancelledError:
            raise TaskCancelled(task=self._name()) from None

    def cancel(self) -> bool:
        """End the task, queued or running; one round trip. True if it ended CANCELLED."""
        if not self.done():
            try:
                job = self.job
            except Exception:  # it was refused, and so is done
                return self.cancelled()
            if self._session.cancel(job, self._index, 1):
                self._end_cancelled()
            else:
                concurrent.futures.wait([self], self._session.settings.timeout_s)
        return self.cancelled()

    def __repr__(self) -> str:
        return f"<pyfi_hpc Future {self._name() or 'not accepted'} {self._socket} {self._word()}>"

    # --- the session's side ---

    def placed(self, ticket: Ticket, index: int) -> None:
        self._ticket, self._index = ticket, index
        self._payload = b""
        self._needs = None

    def complete(self, data: bytes) -> None:
        self._data = data
        self._leave()
        try:
            super().set_result(None)
        except concurrent.futures.InvalidStateError:  # cancelled by this process a moment ago
            pass

    def fail(self, error: BaseException, state: int = 0) -> None:
        self._final = state
        self._leave()
        try:
            super().set_exception(error)
        except concurrent.futures.InvalidStateError:
            pass

    def ended(self, state: int, data: bytes) -> None:
        """Final, and not completed."""
        if state == TaskState.CANCELLED:
            self._end_cancelled()
        else:
            self.fail(error_of(state, data, self._name()), state)

    def _end_cancelled(self) -> None:
        with _cancelling:  # the caller and the session's thread may both learn of it
            if not super().cancel() or self._final == TaskState.CANCELLED:
                return
            self._final = TaskState.CANCELLED
            super().set_running_or_notify_cancel()  # tells as_completed and wait
        self._leave()

    def _leave(self) -> None:
        if self._crowd is not None:
            self._crowd.discard(self)

    def _known(self) -> bool:
        return (self._ticket is not None and self._ticket.job != 0) or self.done()

    def _name(self) -> str:
        ticket = self._ticket
        return task_name(ticket.job, self._index) if ticket is not None and ticket.job else ""

    def _may_wait(self) -> None:
        if not self.done():
            self._session.may_wait("a result")


def state_of(session: Session, task: str) -> str:
    """A task's state as the broker tells it; PENDING where it cannot be asked now."""
    try:
        return str(session.ask("call", {"id": task}, session.settings.timeout_s, repeat=True)["state"])
    except (PyfiError, TimeoutError, KeyError, TypeError):
        return TaskState.PENDING.word


class Ticket(Sink):
    """One gathered batch: its futures, and what it must wait for."""

    held = True

    def __init__(self, socket: str, options: Options, level: int) -> None:
        super().__init__()
        self.socket = socket
        self.options = options
        self.level = level
        self.futures: list[Future | None] = []
        self.payloads: list[bytes] = []
        self.size = 0
        #: (offset, slot, producer); resolved to jobs when all are known
        self.needs: list[tuple[int, int, Future]] = []
        #: batches whose job must be known first
        self.waits: set[Ticket] = set()
        self.error: BaseException | None = None
        self.submission = Submission(self)

    def add(self, call: Future) -> None:
        index = len(self.futures)
        for slot, producer in enumerate(call._needs or ()):
            self.needs.append((index, slot, producer))
        self.payloads.append(call._payload)
        self.size += len(call._payload) + CALL_BYTES
        self.futures.append(call)
        call.placed(self, index)

    def takes(self, call: Future) -> bool:
        return (
            len(self.futures) < _BATCH_TASKS_MAX
            and (self.size + len(call._payload) <= _BATCH_BYTES_GOAL or not self.futures)
        )  # fmt: skip

    def message(self) -> Submit:
        count = len(self.payloads)
        self.feed.total = count
        offsets, payload = pack(self.payloads)
        options = self.options
        edges = [(offset, slot, self._job_of(need), need._index) for offset, slot, need in self.needs]
        self.payloads, self.needs = [], []
        return Submit(
            self.submission.key, 0, 0, count, True, self.socket, offsets, payload,
            encode_body(edges) if edges else b"", options.priority, options.retries, options.time_limit_s,
            options.name, _SHAPE_OF_ONE if count == 1 else b"", int(options.on_failure),
            project=options.project, at_once=options.at_once, preemptible=options.preemptible, terms=options.terms,
            size=options.size, hold=options.hold,
        )  # fmt: skip

    def _job_of(self, producer: Future) -> int:
        """0: this very batch."""
        assert producer._ticket is not None, "whoever is needed was gathered before"
        return 0 if producer._ticket is self else producer._ticket.job

    def settle(self, pieces: Sequence[Range]) -> None:
        futures = self.futures
        for piece in pieces:
            offsets, payload, first = offsets_of(piece.offsets), piece.payload, piece.first
            for i, state in enumerate(piece.states):
                future, futures[first + i] = futures[first + i], None
                if future is None:
                    continue
                data = payload[offsets[i] : offsets[i + 1]]
                if state == TaskState.COMPLETED:
                    future.complete(data)
                else:
                    future.ended(state, data)

    def fail(self, error: BaseException, lost: bool) -> None:
        self.error = error
        futures, self.futures = self.futures, [None] * len(self.futures)
        for future in futures:
            if future is not None:
                future.fail(own(error))


class Gatherer:
    """Turns the calls of one round into as few submissions as their sockets and edges allow."""

    def __init__(self, submit: Callable[[Pending], None], freed: Callable[[int, int], None]) -> None:
        self._submit = submit
        self._freed = freed
        self._held_back: set[Ticket] = set()

    def __call__(self, calls: deque[Future]) -> None:
        groups: dict[tuple[str, Options, int], Ticket] = {}
        made: list[Ticket] = []
        while calls:
            call = calls.popleft()
            pending = _unaccepted(call)
            broken = _broken(call)
            if broken is not None:
                self._freed(1, len(call._payload) + CALL_BYTES)
                call.fail(own(broken))
                continue
            level, together = _level(call, pending, groups)
            ticket = together or groups.get((call._socket, call._options, level))
            if ticket is None or not ticket.takes(call):
                ticket = Ticket(call._socket, call._options, level)
                groups[call._socket, call._options, level] = ticket
                made.append(ticket)
            ticket.waits |= pending - {ticket}
            ticket.add(call)
        for ticket in made:
            self._send_or_hold(ticket)

    def end(self, error: BaseException) -> None:
        """The session ends."""
        for ticket in list(self._held_back):
            self._give_up(ticket, error)

    def _send_or_hold(self, ticket: Ticket) -> None:
        if ticket.waits:
            self._held_back.add(ticket)
            for producer in ticket.waits:
                producer.submission.listeners.append(lambda submission: self._known(ticket, submission))
        else:
            self._submit(Pending(ticket.submission, ticket.message(), ticket.size))

    def _known(self, ticket: Ticket, submission: Submission) -> None:
        """A producer was accepted, or was not."""
        if ticket not in self._held_back:
            return
        if submission.error is not None:
            self._give_up(ticket, submission.error)
            return
        ticket.waits = {producer for producer in ticket.waits if not producer.submission.job}
        if not ticket.waits:
            self._held_back.discard(ticket)
            self._submit(Pending(ticket.submission, ticket.message(), ticket.size))

    def _give_up(self, ticket: Ticket, error: BaseException) -> None:
        self._held_back.discard(ticket)
        count = len(ticket.futures)
        ticket.submission.error = error
        ticket.fail(error, lost=False)
        ticket.submission.settled()
        self._freed(count, ticket.size)


def _broken(call: Future) -> BaseException | None:
    """Why a producer of this call never got into the ledger."""
    for producer in call._needs or ():
        ticket = producer._ticket
        if ticket is None:
            return producer.exception() if producer.done() else None
        if ticket.error is not None and not ticket.job:
            return ticket.error
    return None


def _unaccepted(call: Future) -> set[Ticket]:
    """Batches that hold producers of this call and have no job id yet."""
    tickets = {producer._ticket for producer in call._needs or ()}
    return {ticket for ticket in tickets if ticket is not None and not ticket.job}


def _level(
    call: Future, pending: set[Ticket], groups: dict[tuple[str, Options, int], Ticket]
) -> tuple[int, Ticket | None]:
    """The level of a call, and the batch that holds all its highest producers if it can join that."""
    if not pending:
        return 0, None
    level = max(ticket.level for ticket in pending)
    own_group = groups.get((call._socket, call._options, level))
    if (
        own_group is not None
        and {t for t in pending if t.level == level} == {own_group}
        and own_group.takes(call)
    ):
        return level, own_group
    return level + 1, None
