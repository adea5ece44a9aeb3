"""A map: one job of many batches, its results streamed in order, without an object per task.

The iterables are read with bounded look-ahead: so many tasks may be submitted and not taken by the reader.
First batches are small, so that work starts while the rest is still being read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from pyfi_hpc.client.answers import encode_body
from pyfi_hpc.client.arguments import Slots, encode_arguments
from pyfi_hpc.client.feed import offsets_of, pack
from pyfi_hpc.client.options import Options
from pyfi_hpc.client.outcome import value_of
from pyfi_hpc.client.session import Session
from pyfi_hpc.errors import PyfiError, UsageError
from pyfi_hpc.model.ids import task_name
from pyfi_hpc.model.limits import Limits
from pyfi_hpc.model.messages import Range, Submit
from pyfi_hpc.model.states import TaskState
from pyfi_hpc.runner.payload import decode_values, encode_plain_call

#: tasks submitted and not taken by the reader
AHEAD_TASKS_MAX = 65_536
#: their arguments, bytes
AHEAD_BYTES_MAX = 64 << 20
BATCH_TASKS_FIRST, BATCH_TASKS_MAX = 32, 2048
#: a batch that fills slowly is sent after so long, seconds, unless its size was told
BATCH_WAIT_S = 0.005
#: results of one range that are decoded together, bytes; those of a larger one when each is asked for
_TOGETHER_MAX = 256 << 10


class MapStream:
    """Both ends of a map: reads calls, submits batches; holds results until they are taken."""

    def __init__(
        self, session: Session, socket: str, options: Options, calls: Iterator[tuple[Any, ...]],
        chunksize: int | None = None, kwargs: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        if chunksize is not None and not 1 <= chunksize <= Limits().batch_tasks_max:
            raise UsageError(
                f"chunksize cannot be {chunksize}",
                fix=f"it is a number of tasks from 1 to {Limits().batch_tasks_max}",
            )
        self.session = session
        self.socket = socket
        self.inbox = session.inbox(retains=True)
        self.submission = session.open(self.inbox)
        self.exhausted = False
        self._options = options
        self._calls = calls
        self._kwargs = kwargs or {}
        self._chunksize = chunksize
        self._batch_tasks = chunksize or BATCH_TASKS_FIRST
        #: encoded and not submitted: the last call waits here until it is known whether another follows
        self._payloads: list[bytes] = []
        self._edges: list[tuple[int, int, int, int]] = []
        self._size = 0
        self._ahead_bytes = 0
        self._batches: list[tuple[int, int]] = []

    @property
    def submitted(self) -> int:
        return self.submission.next_index

    def has_room(self, taken: int) -> bool:
        """More may be read: ``taken`` results have left."""
        while self._batches and self._batches[0][0] <= taken:
            self._ahead_bytes -= self._batches.pop(0)[1]
        return not self.exhausted and (
            self.submitted - taken < AHEAD_TASKS_MAX and self._ahead_bytes < AHEAD_BYTES_MAX
        )

    def fill(self, taken: int = 0) -> None:
        while self.has_room(taken):
            self.submit_batch()

    def submit_batch(self) -> None:
        """Read one batch from the iterables and submit it.

        Raises
        ------
        PyfiError
            An argument cannot be sent, or the submission was refused; the job is cancelled.
        """
        try:
            self._read_batch()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Read no more, and cancel what has not run.

        A job is closed by a last batch: what was read and not submitted, cancelled with the rest.
        """
        left, self.exhausted = not self.exhausted, True
        if not self.submitted or self.submission.error is not None:
            return
        if left:
            with suppress(PyfiError):  # refused meanwhile: there is nothing to close
                self._send(len(self._payloads), last=True)
        if not self.inbox.feed.complete:
            self.session.cancel_later(self.submission)

    def finish(self) -> None:
        """Submit the rest and wait until every task is final; results stay for the reader."""
        self.session.release(self.inbox)
        while not self.exhausted:
            self.submit_batch()
        if self.submitted:
            self.inbox.wait(lambda: self.inbox.feed.complete, None, f"the end of a map over {self.socket}")

    def _read_batch(self) -> None:
        now = time.monotonic
        deadline = now() + BATCH_WAIT_S if self._chunksize is None else float("inf")
        limit, bytes_goal = self._batch_tasks, Limits().batch_bytes_goal
        payloads, size = self._payloads, self._size
        for args in self._calls:
            payload = self._encode(args)
            payloads.append(payload)
            size += len(payload)
            if (len(payloads) > limit or size > bytes_goal or now() > deadline) and len(payloads) > 1:
                self._send(len(payloads) - 1, last=False)
                break
        else:
            self.exhausted = True
            if payloads:
                self._send(len(payloads), last=True)
        if self._chunksize is None:
            self._batch_tasks = min(2 * self._batch_tasks, BATCH_TASKS_MAX)

    def _encode(self, args: tuple[Any, ...]) -> bytes:
        """One call; what has other than plain values, futures among them, takes longer."""
        bytes_max = self.session.payload_bytes_max
        plain = encode_plain_call(args, self._kwargs)
        if plain is not None and len(plain) <= bytes_max:
            return plain
        slots, index = Slots(self.session), self.submitted + len(self._payloads)
        payload = encode_arguments(args, self._kwargs, slots, bytes_max, f"call {index} of a map over {self.socket}")
        for slot, producer in enumerate(slots.needs):
            self._edges.append((index, slot, producer.job, producer._index))
        return payload

    def _send(self, count: int, last: bool) -> None:
        submission, options = self.submission, self._options
        first = submission.next_index
        offsets, payload = pack(self._payloads[:count])
        edges = [(index - first, *rest) for index, *rest in self._edges if index < first + count]
        self._edges = self._edges[len(edges) :]
        del self._payloads[:count]
        self._size = sum(map(len, self._payloads))
        self._ahead_bytes += len(payload)
        self._batches.append((first + count, len(payload)))
        message = Submit(
            submission.key, submission.next_number, first, count, last, self.socket, offsets, payload,
            encode_body(edges) if edges else b"", options.priority, options.retries, options.time_limit_s,
            options.name, on_failure=int(options.on_failure), project=options.project, at_once=options.at_once,
            preemptible=options.preemptible, terms=options.terms, size=options.size, hold=options.hold,
        )  # fmt: skip
        submission.next_number += 1
        submission.next_index += count
        if last:
            self.inbox.sealed(submission.next_index)
        self.session.submit(submission, message)


class MapResults(Iterator[Any]):
    """The results of a map, in order, as they become ready.

    ``id`` is the job's id. Leaving the loop early cancels what has not run, as with every Executor.
    """

    def __init__(self, stream: MapStream, timeout: float | None, ended: Callable[[MapStream], None]) -> None:
        self._stream = stream
        self._timeout = timeout
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._ended = ended
        #: the index behind the range that is being read
        self._end = 0
        self._started = self._finished = False
        #: what is left of that range, the next one last: values, or where not all of them are, state and bytes of each
        self._ready: list[Any] = []
        self._is_raw = False

    @property
    def id(self) -> int:
        """The job's id; waits until it is in the ledger. 0: there was nothing to do."""
        submission = self._stream.submission
        if not self._stream.submitted:
            return 0
        self._stream.session.wait_accepted(lambda: bool(submission.job or submission.error))
        if submission.error is not None:
            raise submission.error
        return submission.job

    def __iter__(self) -> MapResults:
        return self

    def __next__(self) -> Any:
        if not self._ready:
            self._fetch()
        value = self._ready.pop()
        if not self._is_raw:
            return value
        state, data = value
        return value_of(state, data, task_name(self._stream.submission.job, self._end - len(self._ready) - 1))

    def _fetch(self) -> None:
        """Wait for the next range, reading on from the iterables meanwhile."""
        stream, inbox = self._stream, self._stream.inbox
        self._started = True
        while True:
            if self._finished or (stream.exhausted and self._end >= stream.submitted):
                self._finish()
                raise StopIteration
            piece = inbox.pop(self._end)
            if piece is not None:
                break
            if stream.has_room(self._end):
                stream.submit_batch()
                continue
            self._wait()
        if stream.has_room(self._end - AHEAD_TASKS_MAX // 2):
            stream.submit_batch()
        self._end += piece.count
        values = _values(piece)
        self._is_raw = values is None
        self._ready = _raw(piece) if values is None else values
        self._ready.reverse()
        if inbox.retains:
            stream.session.taken(len(piece.payload))

    def _wait(self) -> None:
        inbox, index = self._stream.inbox, self._end
        left = None if self._deadline is None else self._deadline - time.monotonic()
        try:
            inbox.wait(
                lambda: inbox.has(index), None if left is None else max(left, 0), f"result {index} of the map"
            )
        except TimeoutError:
            self.close()
            raise TimeoutError(
                f"result {index} of the map over {self._stream.socket} is not there after {self._timeout} s"
            ) from None

    def close(self) -> None:
        """Want no more: what has not run is cancelled."""
        if not self._finished:
            self._stream.stop()
            self._finish()

    def _finish(self) -> None:
        self._finished = True
        self._ended(self._stream)

    def __del__(self) -> None:
        # A map that nobody has looked at runs to its end; a loop that was left cancels the rest.
        if getattr(self, "_started", False):
            self.close()


def _values(piece: Range) -> list[Any] | None:
    """The values of a range whose tasks all completed; None where each is to be looked at alone."""
    offsets = offsets_of(piece.offsets)
    lo, hi = offsets[0], offsets[-1]
    if piece.states.count(TaskState.COMPLETED) < piece.count or hi - lo > _TOGETHER_MAX:
        return None
    try:
        return decode_values(piece.payload[lo:hi], piece.count)
    except ValueError:
        return None  # the one that cannot be decoded says so


def _raw(piece: Range) -> list[tuple[int, bytes]]:
    offsets, payload = offsets_of(piece.offsets), piece.payload
    return [(state, payload[offsets[i] : offsets[i + 1]]) for i, state in enumerate(piece.states)]
