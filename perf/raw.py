"""A client that speaks the protocol itself: the library looks ahead only so far, and this fills queues of millions."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Iterator
from contextlib import contextmanager

import zmq

from pyfi_hpc.adapters import access as access_file
from pyfi_hpc.adapters.dealer import BROKER, DealerPort
from pyfi_hpc.model import messages as m
from pyfi_hpc.model.limits import PROTOCOL_VERSION, Limits
from pyfi_hpc.model.packed import offsets_of
from pyfi_hpc.runner.payload import encode_call
from pyfi_hpc.settings import Settings
from pyfi_hpc.wire import codec

#: arguments of each queued task
ARGUMENT = "x" * 60
_BATCH_TASKS = 1000
#: batches that were sent and are not acknowledged
_AHEAD = 200


class Filler:
    """Queues tasks that nobody waits for."""

    def __init__(self, line: DealerPort) -> None:
        self._line = line
        calls = [encode_call((ARGUMENT,), {})] * _BATCH_TASKS
        self._offsets, self._payload = offsets_of(calls), b"".join(calls)
        self._owed = 0
        self._send(m.Hello(PROTOCOL_VERSION, "client", "perf", "1"))
        self._hear(m.Welcome, 1)

    def queue(self, tasks: int) -> None:
        """One job of so many tasks (in thousands), accepted."""
        key, numbers = os.urandom(16), tasks // _BATCH_TASKS
        for number in range(numbers):
            last = number == numbers - 1
            self._send(
                m.Submit(
                    key, number, number * _BATCH_TASKS, _BATCH_TASKS, last, "noop.noop", self._offsets, self._payload,
                    watch=False,
                )
            )  # fmt: skip
            self._owed += 1
            if self._owed > _AHEAD:
                self._owed -= self._hear(m.Accepted, self._owed - _AHEAD // 2)
        while self._owed > 0:
            self._owed -= self._hear(m.Accepted, self._owed)

    def _send(self, message: m.Message) -> None:
        while not self._line.send(BROKER, [message]):
            time.sleep(0.001)

    def _hear(self, kind: type, count: int, limit_s: float = 120.0) -> int:
        """Wait until the broker has said so many messages of a kind, or a few more; how many it were."""
        deadline = time.monotonic() + limit_s
        heard = 0
        while heard < count:
            if not self._line.holds():
                select.select([self._line.waitable], [], [], 0.02)
            heard += sum(isinstance(event.message, kind) for event in self._line.receive())
            if time.monotonic() > deadline:
                raise TimeoutError(f"the broker owes {count - heard} {kind.__name__}")
        return heard


@contextmanager
def filler(settings: Settings) -> Iterator[Filler]:
    access = access_file.read(settings)
    keys = (access.broker_public, access.client_public, access.client_secret)
    context = zmq.Context()
    line = DealerPort(context, access.endpoint, BROKER, codec.TO_CLIENT, Limits().message_bytes_max, keys)
    try:
        yield Filler(line)
    finally:
        line.close(0)
        context.destroy(linger=0)
