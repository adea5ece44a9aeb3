"""Ends of tasks packed into Done messages: consecutive tasks of one bundle become one outcome."""

from __future__ import annotations

import struct
from array import array

import msgspec

from pyfi_hpc.model.effects import Effects
from pyfi_hpc.model.ids import Peer
from pyfi_hpc.model.messages import Bundle, Done, Outcome
from pyfi_hpc.model.packed import offsets_after
from pyfi_hpc.model.states import Cause
from pyfi_hpc.runner.payload import encode_failure

_encode = msgspec.msgpack.Encoder().encode
_F64, _F32 = struct.Struct("<d"), struct.Struct("<f")
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
        self._started = bytearray()
        self._durations = bytearray()
        self._lengths = array("I")
        self._results: list[bytes] = []
        self._outputs: list[tuple[int, bytes | None, bytes | None]] = []

    def add(
        self, bundle: Bundle, position: int, cause: int, started: float, duration: float, result: bytes,
        stdout: bytes | None = None, stderr: bytes | None = None,
    ) -> None:  # fmt: skip
        """Task ``position`` of the bundle ended; ``started`` is UTC, 0 where it never ran."""
        self._begin(bundle, position)
        self._causes.append(cause)
        self._started += _F64.pack(started)
        self._durations += _F32.pack(duration)
        self._lengths.append(len(result))
        self._results.append(result)
        self._bytes += len(result)
        if stdout or stderr:
            self._outputs.append((bundle.lo + position, stdout or b"", stderr or b""))
            self._bytes += len(stdout or b"") + len(stderr or b"")

    def add_returned(
        self, bundle: Bundle, position: int, count: int, started: bytes, durations: bytes, lengths: array[int],
        payload: bytes,
    ) -> None:  # fmt: skip
        """So many tasks from ``position`` returned; times as they travel. Costs next to nothing per task."""
        self._begin(bundle, position)
        self._causes += bytes(count)
        self._started += started
        self._durations += durations
        self._lengths += lengths
        self._results.append(payload)
        self._bytes += len(payload)

    def flush(self, out: Effects, peer: Peer) -> None:
        """Send what was gathered."""
        self._close()
        for done in self._ready:
            out.reply(peer, done)
        self._ready = []

    def _begin(self, bundle: Bundle, position: int) -> None:
        """Go on with the outcome that is being gathered, or begin another."""
        is_next = bundle is self._bundle and position == self._lo + len(self._causes)
        if not is_next or self._bytes > self._bytes_goal:
            self._close()
            self._bundle, self._lo = bundle, position

    def _close(self) -> None:
        bundle, count = self._bundle, len(self._causes)
        if bundle is None or not count:
            return
        outcome = Outcome(
            grant=bundle.grant, batch=bundle.batch, lo=bundle.lo + self._lo, count=count,
            attempt=bundle.attempt,
            rank=self._rank, causes=bytes(self._causes), started=bytes(self._started),
            durations=bytes(self._durations), offsets=offsets_after(self._lengths),
            payload=b"".join(self._results), outputs=_encode(self._outputs) if self._outputs else b"",
        )  # fmt: skip
        self._ready.append(Done(bundle=bundle.bundle, outcome=outcome))
        self._bundle = None
        self._clear()
