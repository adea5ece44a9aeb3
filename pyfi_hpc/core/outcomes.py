"""Ends of tasks packed into Done messages: consecutive tasks of one bundle become one outcome."""

from __future__ import annotations

import struct

import msgspec

from pyfi_hpc.model.effects import Effects
from pyfi_hpc.model.ids import Peer
from pyfi_hpc.model.messages import Bundle, Done, Outcome
from pyfi_hpc.model.states import Cause
from pyfi_hpc.runner.payload import encode_failure

_encode = msgspec.msgpack.Encoder().encode
#: of the standard error of a process that died, what its error text shows
_STDERR_SHOWN = 8 << 10

#: which of our errors a death is for the client, by cause; others are TaskLost
_ERROR_NAMES = {
    Cause.TIME_LIMIT: "TaskTimeout",
    Cause.CANCELLED: "TaskCancelled",
    Cause.ENVIRONMENT: "EnvironmentFailed",
}


def death_error(cause: Cause, text: str, stderr: bytes = b"") -> bytes:
    """The error of a task that did not end by itself; its traceback is the end of its standard error."""
    shown = stderr[-_STDERR_SHOWN:].decode("utf-8", "backslashreplace")
    return encode_failure("pyfi_hpc.errors", _ERROR_NAMES.get(cause, "TaskLost"), text, shown)


class OutcomePacker:
    """Gathers ends of tasks in their order and makes messages of them.

    Parameters
    ----------
    bytes_goal : int
        Results and outputs of one message; a single larger one still goes, alone.
    """

    def __init__(self, rank: int, bytes_goal: int) -> None:
        self._rank = rank
        self._bytes_goal = bytes_goal
        self._ready: list[Done] = []
        self._bundle: Bundle | None = None
        self._clear()

    def _clear(self) -> None:
        self._lo = 0
        self._bytes = 0
        self._causes = bytearray()
        self._started: list[float] = []
        self._durations: list[float] = []
        self._results: list[bytes] = []
        self._outputs: list[tuple[int, bytes | None, bytes | None]] = []

    def add(
        self, bundle: Bundle, position: int, cause: int, started: float, duration: float, result: bytes,
        stdout: bytes | None = None, stderr: bytes | None = None,
    ) -> None:  # fmt: skip
        """Task ``position`` of the bundle ended; ``started`` is UTC, 0 where it never ran."""
        is_next = bundle is self._bundle and position == self._lo + len(self._causes)
        if not is_next or self._bytes > self._bytes_goal:
            self._close()
            self._bundle, self._lo = bundle, position
        self._causes.append(cause)
        self._started.append(started)
        self._durations.append(duration)
        self._results.append(result)
        self._bytes += len(result)
        if stdout or stderr:
            self._outputs.append((bundle.lo + position, stdout or b"", stderr or b""))
            self._bytes += len(stdout or b"") + len(stderr or b"")

    def flush(self, out: Effects, peer: Peer) -> None:
        """Send what was gathered."""
        self._close()
        for done in self._ready:
            out.reply(peer, done)
        self._ready = []

    def _close(self) -> None:
        bundle, count = self._bundle, len(self._causes)
        if bundle is None or not count:
            return
        offsets, end = [0], 0
        for result in self._results:
            end += len(result)
            offsets.append(end)
        outcome = Outcome(
            grant=bundle.grant, batch=bundle.batch, lo=bundle.lo + self._lo, count=count,
            attempt=bundle.attempt,
            rank=self._rank, causes=bytes(self._causes), started=struct.pack(f"<{count}d", *self._started),
            durations=struct.pack(f"<{count}f", *self._durations),
            offsets=struct.pack(f"<{count + 1}I", *offsets),
            payload=b"".join(self._results), outputs=_encode(self._outputs) if self._outputs else b"",
        )  # fmt: skip
        self._ready.append(Done(bundle=bundle.bundle, outcome=outcome))
        self._bundle = None
        self._clear()
